//! `x86-64-avxvnni`: `vpdpbusd` in two registers of 8 rows; all but quantised products are those of `x86-64-v3`.

use std::arch::x86_64::*;
use std::sync::OnceLock;

use super::X86V3;
use super::vnni::{Load, Registers};
use crate::driver;
use crate::quant::{Dot, Quant, Unpacked, Weights};
use crate::tier::{implement_kernels, implement_products, intrinsics};
use crate::tile::{self, CHUNK, Coming, Sums};
use crate::{Attention, Cols, ConvGate, Input, Kernels, Matrix, Panels, PanelsMut};

/// Kernels for CPUs with AVX-VNNI besides AVX2, FMA and F16C. Having one proves that this CPU does.
#[derive(Clone, Copy, Debug)]
pub struct AvxVnni(X86V3);

impl AvxVnni {
    /// The tier, if this CPU has its features.
    pub fn detect() -> Option<&'static AvxVnni> {
        static TIER: OnceLock<AvxVnni> = OnceLock::new();
        let v3 = X86V3::detect().filter(|_| is_x86_feature_detected!("avxvnni"))?;
        Some(TIER.get_or_init(|| AvxVnni(*v3)))
    }
}

implement_products!(AvxVnni, "avxvnni,avx2,fma,f16c", X86V3, isa => isa.0);
implement_kernels!(AvxVnni, "x86-64-avxvnni", pass_on());

intrinsics! { Registers for AvxVnni;
    zero_words() -> __m256i = _mm256_setzero_si256;
    splat_byte(x: i8) -> __m256i = _mm256_set1_epi8;
    splat_word(x: i32) -> __m256i = _mm256_set1_epi32;
    splat_float(x: f32) -> __m256 = _mm256_set1_ps;
    and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256;
    or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256;
    xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256;
    shift_left_1(a: __m256i) -> __m256i = _mm256_slli_epi16::<1>;
    shift_left_2(a: __m256i) -> __m256i = _mm256_slli_epi16::<2>;
    shift_right_1(a: __m256i) -> __m256i = _mm256_srli_epi16::<1>;
    shift_right_2(a: __m256i) -> __m256i = _mm256_srli_epi16::<2>;
    shift_right_4(a: __m256i) -> __m256i = _mm256_srli_epi16::<4>;
    shift_words_left_4(a: __m256i) -> __m256i = _mm256_slli_epi32::<4>;
    shift_words_left_16(a: __m256i) -> __m256i = _mm256_slli_epi32::<16>;
    dot(sum: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i = _mm256_dpbusd_avx_epi32;
    add_words(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32;
    mul_shorts(a: __m256i, b: __m256i) -> __m256i = _mm256_madd_epi16;
    mul_each_short(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi16;
    bits(a: __m256) -> __m256i = _mm256_castps_si256;
    to_f32(a: __m256i) -> __m256 = _mm256_cvtepi32_ps;
    mul_floats(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps;
    mul_add(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps;
    sub_mul(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fnmadd_ps;
}

impl Load for AvxVnni {
    type Int = __m256i;
    type Float = __m256;
    const PARTS: usize = 2;

    #[inline(always)]
    fn quads(self, vector: &[u8; 64], part: usize) -> __m256i {
        self.0.half(vector, part)
    }

    #[inline(always)]
    fn unsigned(self, bytes: &[u8; 16], part: usize) -> __m256i {
        self.0.unsigned(bytes, part)
    }

    #[inline(always)]
    fn signed(self, bytes: &[u8; 16], part: usize) -> __m256i {
        self.0.signed(bytes, part)
    }

    #[inline(always)]
    fn halves(self, halves: &[u8; 32], part: usize) -> __m256 {
        self.0.halves(halves, part)
    }

    #[inline(always)]
    fn floats(self, floats: &[u8; 64], part: usize) -> __m256 {
        self.0.floats(floats, part)
    }

    #[inline(always)]
    fn load_floats(self, floats: &[f32; 16], part: usize) -> __m256 {
        self.0.get(floats, part)
    }

    #[inline(always)]
    fn store_floats(self, floats: __m256, part: usize, out: &mut [f32; 16]) {
        self.0.put(floats, part, out);
    }

    #[inline(always)]
    fn store_words(self, words: __m256i, part: usize, out: &mut [u8; 64]) {
        self.0.store_half(words, part, out);
    }
}
