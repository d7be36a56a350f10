//! `aarch64-neon`: sixteen lanes are four registers; products of bytes are summed in 16 bits before they are widened.

use std::arch::aarch64::*;
use std::arch::asm;

use super::codes::Bytes;
use crate::body::dense::{self, Dense};
use crate::body::{attention, conv, quantize, vector};
use crate::driver;
use crate::lanes::Lanes;
use crate::quant::{Quant, Unpacked, Weights};
use crate::tier::{implement_floats, implement_kernels, implement_products, intrinsics};
use crate::tile::{self, CHUNK, Coming, Sums};
use crate::{Attention, Cols, ConvGate, Input, Kernels, Matrix, Panels, PanelsMut};

/// Kernels for CPUs with Advanced SIMD. Having one proves that this CPU does.
#[derive(Clone, Copy, Debug)]
pub struct Neon(());

impl Neon {
    /// The tier, if this CPU has its features.
    pub fn detect() -> Option<&'static Neon> {
        static TIER: Neon = Neon(());
        std::arch::is_aarch64_feature_detected!("neon").then_some(&TIER)
    }
}

implement_products!(Neon, "neon", Neon, isa => isa);
implement_floats!(Neon, "neon");
implement_kernels!(Neon, "aarch64-neon", forward("neon"));

intrinsics! { Neon;
    splat4(x: f32) -> float32x4_t = vdupq_n_f32;
    // a * b + c
    fma4(c: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t = vfmaq_f32;
    fnma4(c: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t = vfmsq_f32;
    add4(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32;
    sub4(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32;
    mul4(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32;
    div4(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32;
    abs4(a: float32x4_t) -> float32x4_t = vabsq_f32;
    above(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vcgtq_f32;
    at_least(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vcgeq_f32;
    select(mask: uint32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32;
    to_f32(a: int32x4_t) -> float32x4_t = vcvtq_f32_s32;
    unsigned_to_f32(a: uint32x4_t) -> float32x4_t = vcvtq_f32_u32;
    as_words(a: float32x4_t) -> int32x4_t = vreinterpretq_s32_f32;
    as_floats(a: int32x4_t) -> float32x4_t = vreinterpretq_f32_s32;
    shift_words_left_23(a: int32x4_t) -> int32x4_t = vshlq_n_s32::<23>;
    swap_pairs(a: float32x4_t) -> float32x4_t = swapped_pairs;
    swap_lanes(a: float32x4_t) -> float32x4_t = vrev64q_f32;
    first(a: float32x4_t) -> f32 = vgetq_lane_f32::<0>;
    add_all_words(a: int32x4_t) -> i32 = vaddvq_s32;
    low_bytes_of(a: [float32x4_t; 4]) -> uint8x16_t = low_bytes;

    splat_word(x: i32) -> int32x4_t = vdupq_n_s32;
    splat_byte(x: i8) -> int8x16_t = vdupq_n_s8;
    splat_mask(x: u8) -> uint8x16_t = vdupq_n_u8;
    and(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t = vandq_u8;
    or(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t = vorrq_u8;
    shift_left_1(a: uint8x16_t) -> uint8x16_t = vshlq_n_u8::<1>;
    shift_left_2(a: uint8x16_t) -> uint8x16_t = vshlq_n_u8::<2>;
    shift_left_4(a: uint8x16_t) -> uint8x16_t = vshlq_n_u8::<4>;
    shift_right_1(a: uint8x16_t) -> uint8x16_t = vshrq_n_u8::<1>;
    shift_right_2(a: uint8x16_t) -> uint8x16_t = vshrq_n_u8::<2>;
    shift_right_4(a: uint8x16_t) -> uint8x16_t = vshrq_n_u8::<4>;
    as_codes(a: uint8x16_t) -> int8x16_t = vreinterpretq_s8_u8;
    sub_bytes(a: int8x16_t, b: int8x16_t) -> int8x16_t = vsubq_s8;
    as_quads(a: int8x16_t) -> int32x4_t = vreinterpretq_s32_s8;
    as_bytes(a: int32x4_t) -> int8x16_t = vreinterpretq_s8_s32;
    add_words(a: int32x4_t, b: int32x4_t) -> int32x4_t = vaddq_s32;
    mul_words(a: int32x4_t, b: int32x4_t) -> int32x4_t = vmulq_s32;
    // a * b + c
    mul_add_words(c: int32x4_t, a: int32x4_t, b: int32x4_t) -> int32x4_t = vmlaq_s32;
    low_zip(a: int32x4_t, b: int32x4_t) -> int32x4_t = vzip1q_s32;
    high_zip(a: int32x4_t, b: int32x4_t) -> int32x4_t = vzip2q_s32;
    evens(a: int32x4_t, b: int32x4_t) -> int32x4_t = vuzp1q_s32;
    odds(a: int32x4_t, b: int32x4_t) -> int32x4_t = vuzp2q_s32;
    low_octets(a: int8x16_t, b: int8x16_t) -> int8x16_t = low_halves;
    high_octets(a: int8x16_t, b: int8x16_t) -> int8x16_t = high_halves;
    splat_pair(a: i32, b: i32) -> int32x4_t = pairs;
    unsigned_words(a: u32) -> uint32x4_t = words_of_unsigned;
    signed_words(a: u32) -> int32x4_t = words_of_signed;
    sixteen_products(w: [int8x16_t; 4], x: int8x16_t) -> int32x4_t = small_products;
    sixteen_large_products(w: [int8x16_t; 4], x: int8x16_t) -> int32x4_t = large_products;
}

#[inline]
#[target_feature(enable = "neon")]
fn swapped_pairs(a: float32x4_t) -> float32x4_t {
    vextq_f32::<2>(a, a)
}

/// The low byte of each lane.
#[inline]
#[target_feature(enable = "neon")]
fn low_bytes(a: [float32x4_t; 4]) -> uint8x16_t {
    let low = vuzp1q_u16(vreinterpretq_u16_f32(a[0]), vreinterpretq_u16_f32(a[1]));
    let high = vuzp1q_u16(vreinterpretq_u16_f32(a[2]), vreinterpretq_u16_f32(a[3]));
    vuzp1q_u8(vreinterpretq_u8_u16(low), vreinterpretq_u8_u16(high))
}

#[inline]
#[target_feature(enable = "neon")]
fn low_halves(a: int8x16_t, b: int8x16_t) -> int8x16_t {
    vreinterpretq_s8_s64(vzip1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)))
}

#[inline]
#[target_feature(enable = "neon")]
fn high_halves(a: int8x16_t, b: int8x16_t) -> int8x16_t {
    vreinterpretq_s8_s64(vzip2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)))
}

/// `[a, b, a, b]`
#[inline]
#[target_feature(enable = "neon")]
fn pairs(a: i32, b: i32) -> int32x4_t {
    let pair = u64::from(a.cast_unsigned()) | u64::from(b.cast_unsigned()) << 32;
    vreinterpretq_s32_u64(vdupq_n_u64(pair))
}

#[inline]
#[target_feature(enable = "neon")]
fn words_of_unsigned(bytes: u32) -> uint32x4_t {
    vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(bytes)))))
}

#[inline]
#[target_feature(enable = "neon")]
fn words_of_signed(bytes: u32) -> int32x4_t {
    vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(bytes)))))
}

/// Quad J of 16 activations, for each of 4 rows.
#[inline]
#[target_feature(enable = "neon")]
fn quad<const J: i32>(x: int8x16_t) -> int8x16_t {
    vreinterpretq_s8_s32(vdupq_laneq_s32::<J>(vreinterpretq_s32_s8(x)))
}

/// For 4 rows, the products of 16 weights in -32..32: four and then eight of them, of at most 8 * 32 * 127 = 32512, fit
/// 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn small_products(w: [int8x16_t; 4], x: int8x16_t) -> int32x4_t {
    let q = [quad::<0>(x), quad::<1>(x), quad::<2>(x), quad::<3>(x)];
    let mut low = vmull_s8(vget_low_s8(w[0]), vget_low_s8(q[0]));
    let mut high = vmull_high_s8(w[0], q[0]);
    for j in 1..4 {
        low = vmlal_s8(low, vget_low_s8(w[j]), vget_low_s8(q[j]));
        high = vmlal_high_s8(high, w[j], q[j]);
    }
    vpaddlq_s16(vpaddq_s16(low, high))
}

/// For 4 rows, the products of 16 weights: only two of them, of at most 2 * 128 * 127 = 32512, fit 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn large_products(w: [int8x16_t; 4], x: int8x16_t) -> int32x4_t {
    let q = [quad::<0>(x), quad::<1>(x), quad::<2>(x), quad::<3>(x)];
    let mut sums = [vdupq_n_s32(0); 2];
    for j in [0, 2] {
        let low = vmull_s8(vget_low_s8(w[j]), vget_low_s8(q[j]));
        let high = vmull_high_s8(w[j], q[j]);
        let low = vmlal_s8(low, vget_low_s8(w[j + 1]), vget_low_s8(q[j + 1]));
        let high = vmlal_high_s8(high, w[j + 1], q[j + 1]);
        sums = [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)];
    }
    vpaddq_s32(sums[0], sums[1])
}

/// The CPU has Advanced SIMD where these are called: they take a token.
impl Neon {
    #[inline(always)]
    pub(super) fn load4(self, x: &[f32; 4]) -> float32x4_t {
        // SAFETY: Advanced SIMD, as the token says; 16 readable bytes, no alignment needed.
        unsafe { vld1q_f32(x.as_ptr()) }
    }

    #[inline(always)]
    pub(super) fn load16(self, x: &[u8; 16]) -> uint8x16_t {
        // SAFETY: Advanced SIMD, as the token says; 16 readable bytes, no alignment needed.
        unsafe { vld1q_u8(x.as_ptr()) }
    }

    #[inline(always)]
    pub(super) fn load_words(self, x: &[i32; 4]) -> int32x4_t {
        // SAFETY: Advanced SIMD, as the token says; 16 readable bytes, no alignment needed.
        unsafe { vld1q_s32(x.as_ptr()) }
    }

    /// Little-endian f32.
    #[inline(always)]
    pub(super) fn load4_bytes(self, x: &[u8; 16]) -> float32x4_t {
        self.as_floats(self.as_quads(self.as_codes(self.load16(x))))
    }

    /// Little-endian f16, widened.
    #[inline(always)]
    pub(super) fn load_halves(self, x: &[u8; 8]) -> float32x4_t {
        // SAFETY: Advanced SIMD, as the token says; 8 readable bytes, no alignment needed.
        unsafe { vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(x.as_ptr()))) }
    }

    /// f16 bits, widened.
    #[inline(always)]
    fn load_half_bits(self, x: &[u16; 4]) -> float32x4_t {
        // SAFETY: Advanced SIMD, as the token says; 8 readable bytes, no alignment needed.
        unsafe { vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x.as_ptr()))) }
    }

    #[inline(always)]
    fn store_half_bits(self, v: float32x4_t, out: &mut [u16; 4]) {
        // SAFETY: Advanced SIMD, as the token says; 8 writable bytes, no alignment needed.
        unsafe { vst1_u16(out.as_mut_ptr(), vreinterpret_u16_f16(vcvt_f16_f32(v))) }
    }

    #[inline(always)]
    pub(super) fn store4(self, v: float32x4_t, out: &mut [f32; 4]) {
        // SAFETY: Advanced SIMD, as the token says; 16 writable bytes, no alignment needed.
        unsafe { vst1q_f32(out.as_mut_ptr(), v) }
    }

    #[inline(always)]
    pub(super) fn store16(self, v: int8x16_t, out: &mut [u8; 16]) {
        // SAFETY: Advanced SIMD, as the token says; 16 writable bytes, no alignment needed.
        unsafe { vst1q_s8(out.as_mut_ptr().cast(), v) }
    }

    /// Asks for a cache line.
    #[inline(always)]
    pub(super) fn prefetch(self, line: *const u8) {
        // SAFETY: a prefetch does not fault, wherever it points, and changes no memory or register.
        unsafe {
            asm!("prfm pldl1keep, [{0}]", in(reg) line, options(readonly, nostack, preserves_flags));
        }
    }

    /// a > b ? a : b
    #[inline(always)]
    fn max4(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        self.select(self.above(a, b), a, b)
    }
}

/// A value for each of four registers.
macro_rules! four {
    ($i:ident => $value:expr) => {
        [
            {
                let $i = 0;
                $value
            },
            {
                let $i = 1;
                $value
            },
            {
                let $i = 2;
                $value
            },
            {
                let $i = 3;
                $value
            },
        ]
    };
}

impl Lanes for Neon {
    type V = [float32x4_t; 4];

    const DENSE_TOKENS: usize = 6;
    const QUERIES: usize = 4;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [self.splat4(x); 4]
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::V {
        let x = x.as_chunks().0;
        four!(i => self.load4(&x[i]))
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> Self::V {
        let x = x.as_chunks().0;
        four!(i => self.load4_bytes(&x[i]))
    }

    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; 16]) {
        for (v, out) in v.iter().zip(out.as_chunks_mut().0) {
            self.store4(*v, out);
        }
    }

    #[inline(always)]
    fn widen(self, half: &[u16; 16]) -> Self::V {
        let half = half.as_chunks().0;
        four!(i => self.load_half_bits(&half[i]))
    }

    #[inline(always)]
    fn widen_bytes(self, half: &[u8; 32]) -> Self::V {
        let half = half.as_chunks().0;
        four!(i => self.load_halves(&half[i]))
    }

    #[inline(always)]
    fn narrow(self, v: Self::V) -> [u16; 16] {
        let mut half = [0; 16];
        for (v, out) in v.iter().zip(half.as_chunks_mut().0) {
            self.store_half_bits(*v, out);
        }
        half
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        four!(i => self.fma4(c[i], a[i], b[i]))
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        four!(i => self.add4(a[i], b[i]))
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        four!(i => self.sub4(a[i], b[i]))
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        four!(i => self.mul4(a[i], b[i]))
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        four!(i => self.div4(a[i], b[i]))
    }

    // Not `fmax` and `fmin`: these prefer a NaN, and +0 to -0.
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        four!(i => self.max4(a[i], b[i]))
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        four!(i => self.select(self.above(b[i], a[i]), a[i], b[i]))
    }

    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        four!(i => self.abs4(a[i]))
    }

    #[inline(always)]
    fn exponent(self, v: Self::V, t: Self::V) -> Self::V {
        four!(i => {
            let n = self.shift_words_left_23(self.as_words(t[i]));
            self.as_floats(self.add_words(self.as_words(v[i]), n))
        })
    }

    #[inline(always)]
    fn zero_below(self, v: Self::V, x: Self::V, bound: Self::V) -> Self::V {
        let zero = self.splat4(0.0);
        four!(i => self.select(self.at_least(x[i], bound[i]), v[i], zero))
    }

    #[inline(always)]
    fn low_bytes(self, v: Self::V) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.store16(self.as_codes(self.low_bytes_of(v)), &mut bytes);
        bytes
    }

    #[inline(always)]
    fn bit_sum(self, v: Self::V) -> i32 {
        let v = four!(i => self.as_words(v[i]));
        let v = [self.add_words(v[0], v[1]), self.add_words(v[2], v[3])];
        self.add_all_words(self.add_words(v[0], v[1]))
    }

    #[inline(always)]
    fn highest(self, v: Self::V) -> f32 {
        let v = [self.max4(v[0], v[2]), self.max4(v[1], v[3])];
        let v = self.max4(v[0], v[1]);
        let v = self.max4(v, self.swap_pairs(v));
        self.first(self.max4(v, self.swap_lanes(v)))
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        let v = [self.add4(v[0], v[2]), self.add4(v[1], v[3])];
        let v = self.add4(v[0], v[1]);
        let v = self.add4(v, self.swap_pairs(v));
        self.first(self.add4(v, self.swap_lanes(v)))
    }
}

impl Bytes for Neon {
    #[inline(always)]
    fn neon(self) -> Neon {
        self
    }

    #[inline(always)]
    fn products<const LARGE: bool>(self, sum: int32x4_t, w: [int8x16_t; 4], x: int8x16_t) -> int32x4_t {
        let products = if LARGE { self.sixteen_large_products(w, x) } else { self.sixteen_products(w, x) };
        self.add_words(sum, products)
    }
}
