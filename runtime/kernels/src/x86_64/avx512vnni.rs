//! `x86-64-avx512vnni`: sixteen lanes are one register, `vpdpbusd` with broadcast activation quads.

use std::arch::x86_64::*;

use super::vnni::{Load, Registers};
use crate::body::dense::{self, Dense};
use crate::body::{attention, conv, quantize, vector};
use crate::driver;
use crate::lanes::Lanes;
use crate::quant::{Quant, Unpacked, Weights};
use crate::tier::{implement_floats, implement_kernels, implement_products, intrinsics};
use crate::tile::{self, CHUNK, Coming, Sums};
use crate::{Attention, Cols, ConvGate, Input, Kernels, Matrix, Panels, PanelsMut};

/// Kernels for CPUs with AVX-512 F, BW, DQ, VL and VNNI. Having one proves that this CPU does.
#[derive(Clone, Copy, Debug)]
pub struct Avx512Vnni(());

impl Avx512Vnni {
    /// The tier, if this CPU has its features.
    pub fn detect() -> Option<&'static Avx512Vnni> {
        static TIER: Avx512Vnni = Avx512Vnni(());
        let found = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(&TIER)
    }
}

implement_products!(
    Avx512Vnni,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c",
    Avx512Vnni,
    isa => isa
);
implement_floats!(Avx512Vnni, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");
implement_kernels!(
    Avx512Vnni,
    "x86-64-avx512vnni",
    forward("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
);

intrinsics! { Avx512Vnni;
    splat16(x: f32) -> __m512 = _mm512_set1_ps;
    fma16(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps;
    add16(a: __m512, b: __m512) -> __m512 = _mm512_add_ps;
    sub16(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps;
    mul16(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps;
    div16(a: __m512, b: __m512) -> __m512 = _mm512_div_ps;
    max16(a: __m512, b: __m512) -> __m512 = _mm512_max_ps;
    min16(a: __m512, b: __m512) -> __m512 = _mm512_min_ps;
    abs16(a: __m512) -> __m512 = _mm512_abs_ps;
    at_least(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_GE_OQ>;
    keep(mask: __mmask16, a: __m512) -> __m512 = _mm512_maskz_mov_ps;
    as_words(a: __m512) -> __m512i = _mm512_castps_si512;
    as_floats(a: __m512i) -> __m512 = _mm512_castsi512_ps;
    widen16(a: __m256i) -> __m512 = _mm512_cvtph_ps;
    narrow16(a: __m512) -> __m256i = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>;
    truncate_words(a: __m512i) -> __m128i = _mm512_cvtepi32_epi8;
    add_all_words(a: __m512i) -> i32 = _mm512_reduce_add_epi32;
    highest16(a: __m512) -> f32 = _mm512_reduce_max_ps;

    low8(a: __m512) -> __m256 = _mm512_castps512_ps256;
    high8(a: __m512) -> __m256 = _mm512_extractf32x8_ps::<1>;
    add8(a: __m256, b: __m256) -> __m256 = _mm256_add_ps;
    low4(a: __m256) -> __m128 = _mm256_castps256_ps128;
    high4(a: __m256) -> __m128 = _mm256_extractf128_ps::<1>;
    add4(a: __m128, b: __m128) -> __m128 = _mm_add_ps;
    swap_pairs4(a: __m128) -> __m128 = _mm_permute_ps::<0b01_00_11_10>;
    swap_lanes4(a: __m128) -> __m128 = _mm_permute_ps::<0b10_11_00_01>;
    first(a: __m128) -> f32 = _mm_cvtss_f32;

    shift_words_left_23(a: __m512i) -> __m512i = _mm512_slli_epi32::<23>;
    signed_words(a: __m128i) -> __m512i = _mm512_cvtepi8_epi32;
    unsigned_words(a: __m128i) -> __m512i = _mm512_cvtepu8_epi32;
}

intrinsics! { Registers for Avx512Vnni;
    zero_words() -> __m512i = _mm512_setzero_si512;
    splat_byte(x: i8) -> __m512i = _mm512_set1_epi8;
    splat_word(x: i32) -> __m512i = _mm512_set1_epi32;
    splat_float(x: f32) -> __m512 = _mm512_set1_ps;
    and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512;
    or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512;
    xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512;
    shift_left_1(a: __m512i) -> __m512i = _mm512_slli_epi16::<1>;
    shift_left_2(a: __m512i) -> __m512i = _mm512_slli_epi16::<2>;
    shift_right_1(a: __m512i) -> __m512i = _mm512_srli_epi16::<1>;
    shift_right_2(a: __m512i) -> __m512i = _mm512_srli_epi16::<2>;
    shift_right_4(a: __m512i) -> __m512i = _mm512_srli_epi16::<4>;
    shift_words_left_4(a: __m512i) -> __m512i = _mm512_slli_epi32::<4>;
    shift_words_left_16(a: __m512i) -> __m512i = _mm512_slli_epi32::<16>;
    dot(sum: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i = _mm512_dpbusd_epi32;
    add_words(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32;
    mul_shorts(a: __m512i, b: __m512i) -> __m512i = _mm512_madd_epi16;
    mul_each_short(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi16;
    bits(a: __m512) -> __m512i = _mm512_castps_si512;
    to_f32(a: __m512i) -> __m512 = _mm512_cvtepi32_ps;
    mul_floats(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps;
    mul_add(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps;
    sub_mul(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fnmadd_ps;
}

impl Load for Avx512Vnni {
    type Int = __m512i;
    type Float = __m512;
    const PARTS: usize = 1;

    #[inline(always)]
    fn quads(self, vector: &[u8; 64], _part: usize) -> __m512i {
        self.load64(vector)
    }

    #[inline(always)]
    fn unsigned(self, bytes: &[u8; 16], _part: usize) -> __m512i {
        self.unsigned_words(self.load16(bytes))
    }

    #[inline(always)]
    fn signed(self, bytes: &[u8; 16], _part: usize) -> __m512i {
        self.signed_words(self.load16(bytes))
    }

    #[inline(always)]
    fn halves(self, halves: &[u8; 32], _part: usize) -> __m512 {
        self.widen16(self.load32(halves))
    }

    #[inline(always)]
    fn floats(self, floats: &[u8; 64], _part: usize) -> __m512 {
        self.as_floats(self.load64(floats))
    }

    #[inline(always)]
    fn load_floats(self, floats: &[f32; 16], _part: usize) -> __m512 {
        self.load(floats)
    }

    #[inline(always)]
    fn store_floats(self, floats: __m512, _part: usize, out: &mut [f32; 16]) {
        self.store(floats, out);
    }

    #[inline(always)]
    fn store_words(self, words: __m512i, _part: usize, out: &mut [u8; 64]) {
        // SAFETY: AVX-512 F, as the token says; 64 writable bytes, no alignment needed.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), words) }
    }
}

/// The CPU has AVX-512 where these are called: they take a token.
impl Avx512Vnni {
    #[inline(always)]
    fn load64(self, x: &[u8; 64]) -> __m512i {
        // SAFETY: AVX-512 F, as the token says; 64 readable bytes, no alignment needed.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load32(self, x: &[u8; 32]) -> __m256i {
        // SAFETY: AVX, as the token says; 32 readable bytes, no alignment needed.
        unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load16(self, x: &[u8; 16]) -> __m128i {
        // SAFETY: SSE2, part of x86-64; 16 readable bytes, no alignment needed.
        unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
    }
}

impl Lanes for Avx512Vnni {
    type V = __m512;

    const DENSE_TOKENS: usize = 8;
    const QUERIES: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        self.splat16(x)
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> __m512 {
        // SAFETY: AVX-512 F, as the token says; 64 readable bytes, no alignment needed.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> __m512 {
        self.as_floats(self.load64(x))
    }

    #[inline(always)]
    fn store(self, v: __m512, out: &mut [f32; 16]) {
        // SAFETY: AVX-512 F, as the token says; 64 writable bytes, no alignment needed.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn widen(self, half: &[u16; 16]) -> __m512 {
        // SAFETY: AVX, as the token says; 32 readable bytes, no alignment needed.
        self.widen16(unsafe { _mm256_loadu_si256(half.as_ptr().cast()) })
    }

    #[inline(always)]
    fn widen_bytes(self, half: &[u8; 32]) -> __m512 {
        self.widen16(self.load32(half))
    }

    #[inline(always)]
    fn narrow(self, v: __m512) -> [u16; 16] {
        let mut half = [0u16; 16];
        // SAFETY: AVX, as the token says; 32 writable bytes, no alignment needed.
        unsafe { _mm256_storeu_si256(half.as_mut_ptr().cast(), self.narrow16(v)) };
        half
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        self.fma16(a, b, c)
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        self.add16(a, b)
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        self.sub16(a, b)
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        self.mul16(a, b)
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        self.div16(a, b)
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        self.max16(a, b)
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        self.min16(a, b)
    }

    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        self.abs16(a)
    }

    #[inline(always)]
    fn exponent(self, v: __m512, t: __m512) -> __m512 {
        self.as_floats(self.add_words(self.as_words(v), self.shift_words_left_23(self.as_words(t))))
    }

    #[inline(always)]
    fn zero_below(self, v: __m512, x: __m512, bound: __m512) -> __m512 {
        self.keep(self.at_least(x, bound), v)
    }

    #[inline(always)]
    fn low_bytes(self, v: __m512) -> [u8; 16] {
        let mut bytes = [0u8; 16];
        // SAFETY: SSE2, part of x86-64; 16 writable bytes, no alignment needed.
        unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), self.truncate_words(self.as_words(v))) };
        bytes
    }

    #[inline(always)]
    fn bit_sum(self, v: __m512) -> i32 {
        self.add_all_words(self.as_words(v))
    }

    #[inline(always)]
    fn highest(self, v: __m512) -> f32 {
        self.highest16(v)
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        let v = self.add8(self.low8(v), self.high8(v));
        let v = self.add4(self.low4(v), self.high4(v));
        let v = self.add4(v, self.swap_pairs4(v));
        self.first(self.add4(v, self.swap_lanes4(v)))
    }
}
