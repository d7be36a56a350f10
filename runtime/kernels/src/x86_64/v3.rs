//! `x86-64-v3`: AVX2, FMA and F16C; sixteen lanes are two registers, a row-block is two halves of 8 rows.

use std::arch::x86_64::*;

use crate::body::dense::{self, Dense};
use crate::body::{attention, conv, quantize, vector};
use crate::driver;
use crate::lanes::Lanes;
use crate::quant::{Quant, Unpacked, Weights};
use crate::tier::{implement_floats, implement_kernels, implement_products, intrinsics};
use crate::tile::{self, CHUNK, Coming, Sums};
use crate::{Attention, Cols, ConvGate, Input, Kernels, Matrix, Panels, PanelsMut};

/// Kernels for CPUs with AVX2, FMA and F16C. Having one proves that this CPU does.
#[derive(Clone, Copy, Debug)]
pub struct X86V3(());

impl X86V3 {
    /// The tier, if this CPU has its features.
    pub fn detect() -> Option<&'static X86V3> {
        static TIER: X86V3 = X86V3(());
        let found = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        found.then_some(&TIER)
    }
}

implement_products!(X86V3, "avx2,fma,f16c", X86V3, isa => isa);
implement_floats!(X86V3, "avx2,fma,f16c");
implement_kernels!(X86V3, "x86-64-v3", forward("avx2,fma,f16c"));

intrinsics! { X86V3;
    splat8(x: f32) -> __m256 = _mm256_set1_ps;
    fma8(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps;
    fnma8(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fnmadd_ps;
    add8(a: __m256, b: __m256) -> __m256 = _mm256_add_ps;
    sub8(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps;
    mul8(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps;
    div8(a: __m256, b: __m256) -> __m256 = _mm256_div_ps;
    max8(a: __m256, b: __m256) -> __m256 = _mm256_max_ps;
    min8(a: __m256, b: __m256) -> __m256 = _mm256_min_ps;
    and8(a: __m256, b: __m256) -> __m256 = _mm256_and_ps;
    at_least(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_GE_OQ>;
    as_words(a: __m256) -> __m256i = _mm256_castps_si256;
    as_floats(a: __m256i) -> __m256 = _mm256_castsi256_ps;
    widen8(a: __m128i) -> __m256 = _mm256_cvtph_ps;
    narrow8(a: __m256) -> __m128i = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>;
    to_f32(a: __m256i) -> __m256 = _mm256_cvtepi32_ps;

    low4(a: __m256) -> __m128 = _mm256_castps256_ps128;
    high4(a: __m256) -> __m128 = _mm256_extractf128_ps::<1>;
    add4(a: __m128, b: __m128) -> __m128 = _mm_add_ps;
    max4(a: __m128, b: __m128) -> __m128 = _mm_max_ps;
    swap_pairs4(a: __m128) -> __m128 = _mm_permute_ps::<0b01_00_11_10>;
    swap_lanes4(a: __m128) -> __m128 = _mm_permute_ps::<0b10_11_00_01>;
    first(a: __m128) -> f32 = _mm_cvtss_f32;

    zero32() -> __m256i = _mm256_setzero_si256;
    splat_byte(x: i8) -> __m256i = _mm256_set1_epi8;
    splat_short(x: i16) -> __m256i = _mm256_set1_epi16;
    splat_word(x: i32) -> __m256i = _mm256_set1_epi32;
    and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256;
    or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256;
    abs_bytes(a: __m256i) -> __m256i = _mm256_abs_epi8;
    sign_bytes(a: __m256i, b: __m256i) -> __m256i = _mm256_sign_epi8;
    mul_bytes(unsigned: __m256i, signed: __m256i) -> __m256i = _mm256_maddubs_epi16;
    mul_shorts(a: __m256i, b: __m256i) -> __m256i = _mm256_madd_epi16;
    mul_each_short(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi16;
    add_shorts(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi16;
    add_words(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32;
    shift_words_left_23(a: __m256i) -> __m256i = _mm256_slli_epi32::<23>;
    shift_words_left_16(a: __m256i) -> __m256i = _mm256_slli_epi32::<16>;
    shift_left_4(a: __m256i) -> __m256i = _mm256_slli_epi16::<4>;
    shift_left_2(a: __m256i) -> __m256i = _mm256_slli_epi16::<2>;
    shift_right_4(a: __m256i) -> __m256i = _mm256_srli_epi16::<4>;
    shift_right_2(a: __m256i) -> __m256i = _mm256_srli_epi16::<2>;
    shift_right_1(a: __m256i) -> __m256i = _mm256_srli_epi16::<1>;
    odd_shorts_of_second(a: __m256i, b: __m256i) -> __m256i = _mm256_blend_epi16::<0xaa>;
    signed_words(a: __m128i) -> __m256i = _mm256_cvtepi8_epi32;
    unsigned_words(a: __m128i) -> __m256i = _mm256_cvtepu8_epi32;
    pick_bytes(a: __m256i, order: __m256i) -> __m256i = _mm256_shuffle_epi8;
    low_half(a: __m256i) -> __m128i = _mm256_castsi256_si128;
    high_half(a: __m256i) -> __m128i = _mm256_extracti128_si256::<1>;
    low_words(a: __m128i, b: __m128i) -> __m128i = _mm_unpacklo_epi32;
    add_words4(a: __m128i, b: __m128i) -> __m128i = _mm_add_epi32;
    swap_pairs(a: __m128i) -> __m128i = _mm_shuffle_epi32::<0b01_00_11_10>;
    swap_words(a: __m128i) -> __m128i = _mm_shuffle_epi32::<0b10_11_00_01>;
    first_word(a: __m128i) -> i32 = _mm_cvtsi128_si32;
}

/// The CPU has AVX where these are called: they take a token.
impl X86V3 {
    #[inline(always)]
    pub(super) fn load8(self, x: &[f32; 8]) -> __m256 {
        // SAFETY: AVX, as the token says; 32 readable bytes, no alignment needed.
        unsafe { _mm256_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    pub(super) fn load8_bytes(self, x: &[u8; 32]) -> __m256 {
        // SAFETY: AVX, as the token says; 32 readable bytes, no alignment needed.
        unsafe { _mm256_loadu_ps(x.as_ptr().cast()) }
    }

    #[inline(always)]
    pub(super) fn load32(self, x: &[u8; 32]) -> __m256i {
        // SAFETY: AVX, as the token says; 32 readable bytes, no alignment needed.
        unsafe { _mm256_loadu_si256(x.as_ptr().cast()) }
    }

    #[inline(always)]
    pub(super) fn load16(self, x: &[u8; 16]) -> __m128i {
        // SAFETY: SSE2, part of x86-64; 16 readable bytes, no alignment needed.
        unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load16_shorts(self, x: &[u16; 8]) -> __m128i {
        // SAFETY: SSE2, part of x86-64; 16 readable bytes, no alignment needed.
        unsafe { _mm_loadu_si128(x.as_ptr().cast()) }
    }

    /// 8 bytes, then zeros.
    #[inline(always)]
    pub(super) fn load_low(self, x: &[u8; 8]) -> __m128i {
        // SAFETY: SSE2, part of x86-64; 8 readable bytes, no alignment needed.
        unsafe { _mm_loadl_epi64(x.as_ptr().cast()) }
    }

    #[inline(always)]
    pub(super) fn store8(self, v: __m256, out: &mut [f32; 8]) {
        // SAFETY: AVX, as the token says; 32 writable bytes, no alignment needed.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn store16(self, v: __m128i, out: &mut [u8; 16]) {
        // SAFETY: SSE2, part of x86-64; 16 writable bytes, no alignment needed.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), v) }
    }

    #[inline(always)]
    pub(super) fn store32(self, v: __m256i, out: &mut [u8; 32]) {
        // SAFETY: AVX, as the token says; 32 writable bytes, no alignment needed.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), v) }
    }

    #[inline(always)]
    fn store16_shorts(self, v: __m128i, out: &mut [u16; 8]) {
        // SAFETY: SSE2, part of x86-64; 16 writable bytes, no alignment needed.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), v) }
    }

    /// Lanes i + i + 4, then + 2, + 1.
    #[inline(always)]
    fn sum8(self, v: __m256) -> f32 {
        let v = self.add4(self.low4(v), self.high4(v));
        let v = self.add4(v, self.swap_pairs4(v));
        self.first(self.add4(v, self.swap_lanes4(v)))
    }
}

impl Lanes for X86V3 {
    type V = [__m256; 2];

    const DENSE_TOKENS: usize = 6;
    const QUERIES: usize = 3;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [self.splat8(x); 2]
    }

    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::V {
        let x = x.as_chunks().0;
        [self.load8(&x[0]), self.load8(&x[1])]
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> Self::V {
        let x = x.as_chunks().0;
        [self.load8_bytes(&x[0]), self.load8_bytes(&x[1])]
    }

    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; 16]) {
        let out = out.as_chunks_mut().0;
        self.store8(v[0], &mut out[0]);
        self.store8(v[1], &mut out[1]);
    }

    #[inline(always)]
    fn widen(self, half: &[u16; 16]) -> Self::V {
        let half = half.as_chunks().0;
        [self.widen8(self.load16_shorts(&half[0])), self.widen8(self.load16_shorts(&half[1]))]
    }

    #[inline(always)]
    fn widen_bytes(self, half: &[u8; 32]) -> Self::V {
        let half = half.as_chunks().0;
        [self.widen8(self.load16(&half[0])), self.widen8(self.load16(&half[1]))]
    }

    #[inline(always)]
    fn narrow(self, v: Self::V) -> [u16; 16] {
        let mut half = [0; 16];
        let out = half.as_chunks_mut().0;
        self.store16_shorts(self.narrow8(v[0]), &mut out[0]);
        self.store16_shorts(self.narrow8(v[1]), &mut out[1]);
        half
    }

    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        [self.fma8(a[0], b[0], c[0]), self.fma8(a[1], b[1], c[1])]
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        [self.add8(a[0], b[0]), self.add8(a[1], b[1])]
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        [self.sub8(a[0], b[0]), self.sub8(a[1], b[1])]
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        [self.mul8(a[0], b[0]), self.mul8(a[1], b[1])]
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        [self.div8(a[0], b[0]), self.div8(a[1], b[1])]
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        [self.max8(a[0], b[0]), self.max8(a[1], b[1])]
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        [self.min8(a[0], b[0]), self.min8(a[1], b[1])]
    }

    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        let mask = self.splat8(f32::from_bits(0x7fff_ffff));
        [self.and8(a[0], mask), self.and8(a[1], mask)]
    }

    #[inline(always)]
    fn exponent(self, v: Self::V, t: Self::V) -> Self::V {
        let mut out = v;
        for i in 0..2 {
            let n = self.shift_words_left_23(self.as_words(t[i]));
            out[i] = self.as_floats(self.add_words(self.as_words(v[i]), n));
        }
        out
    }

    #[inline(always)]
    fn zero_below(self, v: Self::V, x: Self::V, bound: Self::V) -> Self::V {
        [self.and8(v[0], self.at_least(x[0], bound[0])), self.and8(v[1], self.at_least(x[1], bound[1]))]
    }

    #[inline(always)]
    fn low_bytes(self, v: Self::V) -> [u8; 16] {
        // In each 128-bit half, the low bytes of its four lanes to the front.
        let order = self.splat_word(0x0c08_0400);
        let mut bytes = [0; 16];
        let a = self.pick_bytes(self.as_words(v[0]), order);
        let b = self.pick_bytes(self.as_words(v[1]), order);
        let a = self.low_words(self.low_half(a), self.high_half(a));
        let b = self.low_words(self.low_half(b), self.high_half(b));
        let (mut low, mut high) = ([0; 16], [0; 16]);
        self.store16(a, &mut low);
        self.store16(b, &mut high);
        bytes[..8].copy_from_slice(&low[..8]);
        bytes[8..].copy_from_slice(&high[..8]);
        bytes
    }

    #[inline(always)]
    fn bit_sum(self, v: Self::V) -> i32 {
        let v = self.add_words(self.as_words(v[0]), self.as_words(v[1]));
        let v = self.add_words4(self.low_half(v), self.high_half(v));
        let v = self.add_words4(v, self.swap_pairs(v));
        self.first_word(self.add_words4(v, self.swap_words(v)))
    }

    #[inline(always)]
    fn highest(self, v: Self::V) -> f32 {
        let v = self.max8(v[0], v[1]);
        let v = self.max4(self.low4(v), self.high4(v));
        let v = self.max4(v, self.swap_pairs4(v));
        self.first(self.max4(v, self.swap_lanes4(v)))
    }

    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        self.sum8(self.add8(v[0], v[1]))
    }
}
