//! `x86-64-avx512vnni`: sixteen lanes are one register, `vpdpbusd` with broadcast activation quads.
#![expect(clippy::needless_range_loop, reason = "indices say which quad, token or lane is meant")]

use std::arch::x86_64::*;

use lfm_graphs::weights::layout::{q4_0, q6_k, q8_0};

use crate::cpu::kernels::lanes::Lanes;
use crate::cpu::kernels::panels::WORDS;
use crate::cpu::kernels::quant::Dot;
use crate::cpu::kernels::tier::{implement_tier, intrinsics};

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

implement_tier!(
    Avx512Vnni,
    "x86-64-avx512vnni",
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"
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
    to_f32(a: __m512i) -> __m512 = _mm512_cvtepi32_ps;
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
    low_halves(a: __m512, b: __m512) -> __m512 = _mm512_shuffle_f32x4::<0b01_00_01_00>;
    high_halves(a: __m512, b: __m512) -> __m512 = _mm512_shuffle_f32x4::<0b11_10_11_10>;
    even_quarters(a: __m512, b: __m512) -> __m512 = _mm512_shuffle_f32x4::<0b10_00_10_00>;
    odd_quarters(a: __m512, b: __m512) -> __m512 = _mm512_shuffle_f32x4::<0b11_01_11_01>;
    low_pairs(a: __m512, b: __m512) -> __m512 = _mm512_shuffle_ps::<0b01_00_01_00>;
    high_pairs(a: __m512, b: __m512) -> __m512 = _mm512_shuffle_ps::<0b11_10_11_10>;
    even(a: __m512, b: __m512) -> __m512 = _mm512_shuffle_ps::<0b10_00_10_00>;
    odd(a: __m512, b: __m512) -> __m512 = _mm512_shuffle_ps::<0b11_01_11_01>;

    zero64() -> __m512i = _mm512_setzero_si512;
    splat_byte(x: i8) -> __m512i = _mm512_set1_epi8;
    splat_word(x: i32) -> __m512i = _mm512_set1_epi32;
    and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512;
    or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512;
    xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512;
    dot(sum: __m512i, unsigned: __m512i, signed: __m512i) -> __m512i = _mm512_dpbusd_epi32;
    mul_shorts(a: __m512i, b: __m512i) -> __m512i = _mm512_madd_epi16;
    mul_words(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32;
    add_words(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32;
    sub_words(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32;
    shift_words_left_23(a: __m512i) -> __m512i = _mm512_slli_epi32::<23>;
    shift_words_left_16(a: __m512i) -> __m512i = _mm512_slli_epi32::<16>;
    shift_words_left_5(a: __m512i) -> __m512i = _mm512_slli_epi32::<5>;
    shift_words_left_4(a: __m512i) -> __m512i = _mm512_slli_epi32::<4>;
    shift_left_4(a: __m512i) -> __m512i = _mm512_slli_epi16::<4>;
    shift_left_2(a: __m512i) -> __m512i = _mm512_slli_epi16::<2>;
    shift_right_4(a: __m512i) -> __m512i = _mm512_srli_epi16::<4>;
    shift_right_2(a: __m512i) -> __m512i = _mm512_srli_epi16::<2>;
    blend_shorts(mask: __mmask32, a: __m512i, b: __m512i) -> __m512i = _mm512_mask_blend_epi16;
    signed_words(a: __m128i) -> __m512i = _mm512_cvtepi8_epi32;
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
    const ACCUMULATORS: usize = 16;
    const HEADS: usize = 4;

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

    #[inline(always)]
    fn sums(self, v: &[__m512; 16]) -> __m512 {
        // Each step adds the halves of what is left of two vectors: 8 + 8, 4 + 4, 2 + 2, 1 + 1. Row i of `order` says
        // which vectors end in lanes i, i + 4, i + 8, i + 12, so the sums come out in order.
        let mut two = [v[0]; 2];
        for i in 0..2 {
            let mut four = [v[0]; 2];
            for j in 0..2 {
                let n = 2 * i + j;
                let [a, b, c, d] = [v[n], v[n + 4], v[n + 8], v[n + 12]];
                let ab = self.add16(self.low_halves(a, b), self.high_halves(a, b));
                let cd = self.add16(self.low_halves(c, d), self.high_halves(c, d));
                four[j] = self.add16(self.even_quarters(ab, cd), self.odd_quarters(ab, cd));
            }
            two[i] = self.add16(self.low_pairs(four[0], four[1]), self.high_pairs(four[0], four[1]));
        }
        self.add16(self.even(two[0], two[1]), self.odd(two[0], two[1]))
    }
}

impl Avx512Vnni {
    /// One link of the chain of token t.
    #[inline(always)]
    fn link<const T: usize>(self, isum: __m512i, scale: __m512, x: &[i32], t: usize, acc: &mut __m512) {
        let x_scale = self.splat16(f32::from_bits(x[8 * T + t].cast_unsigned()));
        *acc = self.fma16(self.to_f32(isum), self.mul16(scale, x_scale), *acc);
    }

    /// One group of unsigned weights, quad j of 16 rows in `w[j]`, for tokens `first..first + N` in lockstep: one
    /// chain of eight `vpdpbusd` would wait for itself. `WIDE`: weights are 128 too large, else 8.
    #[inline(always)]
    fn links_of<const T: usize, const N: usize, const WIDE: bool>(
        self,
        first: usize,
        w: &[__m512i; 8],
        scale: __m512,
        x: &[i32],
        acc: &mut [__m512; T],
    ) {
        let mut isum = [self.zero64(); N];
        for i in 0..N {
            let correction = self.splat_word(x[9 * T + first + i]);
            isum[i] = if WIDE { self.shift_words_left_4(correction) } else { correction };
        }
        for j in 0..8 {
            for i in 0..N {
                isum[i] = self.dot(isum[i], w[j], self.splat_word(x[8 * (first + i) + j]));
            }
        }
        for i in 0..N {
            self.link::<T>(isum[i], scale, x, first + i, &mut acc[first + i]);
        }
    }

    /// All T tokens, four at a time.
    #[inline(always)]
    fn links<const T: usize, const WIDE: bool>(
        self,
        w: &[__m512i; 8],
        scale: __m512,
        x: &[i32],
        acc: &mut [__m512; T],
    ) {
        if T >= 4 {
            self.links_of::<T, 4, WIDE>(0, w, scale, x, acc);
        }
        if T >= 8 {
            self.links_of::<T, 4, WIDE>(4, w, scale, x, acc);
        }
        match T % 4 {
            1 => self.links_of::<T, 1, WIDE>(T - 1, w, scale, x, acc),
            2 => self.links_of::<T, 2, WIDE>(T - 2, w, scale, x, acc),
            3 => self.links_of::<T, 3, WIDE>(T - 3, w, scale, x, acc),
            _ => {}
        }
    }

    /// [`Avx512Vnni::links_of`] for q6_k.
    #[inline(always)]
    fn links6_of<const T: usize, const N: usize>(
        self,
        first: usize,
        group: &Group6,
        x: &[i32],
        acc: &mut [__m512; T],
    ) {
        let mut halves = [[self.zero64(); 2]; N];
        for j in 0..4 {
            for i in 0..N {
                let q = &x[8 * (first + i)..][..8];
                halves[i][0] = self.dot(halves[i][0], group.w[j], self.splat_word(q[j]));
                halves[i][1] = self.dot(halves[i][1], group.w[j + 4], self.splat_word(q[j + 4]));
            }
        }
        for i in 0..N {
            let t = first + i;
            let [a, b] = halves[i];
            let excess = self.mul_shorts(group.pair, self.splat_word(x[10 * T + t]));
            let isum = self.add_words(self.mul_words(a, group.subs[0]), self.mul_words(b, group.subs[1]));
            let isum = self.sub_words(isum, self.shift_words_left_5(excess));
            self.link::<T>(isum, group.d, x, t, &mut acc[t]);
        }
    }

    /// f16 scales of group g out of `[2 groups][16 rows]`.
    #[inline(always)]
    fn scales(self, scales: &[u8; 64], g: usize) -> __m512 {
        self.widen16(self.load32(&scales.as_chunks().0[g]))
    }
}

/// One group of q6_k weights of 16 rows.
struct Group6 {
    /// Codes, 32 too large, quad by quad.
    w: [__m512i; 8],
    /// Sub-scales of both halves of the group, as i32.
    subs: [__m512i; 2],
    /// The two sub-scales as an i16 pair, to meet the pair of sums in one `vpmaddwd`.
    pair: __m512i,
    d: __m512,
}

impl Dot for Avx512Vnni {
    type Acc = __m512;
    const PARTS: usize = 1;

    #[inline(always)]
    fn zero(self) -> __m512 {
        self.splat16(0.0)
    }

    #[inline(always)]
    fn put(self, acc: __m512, _part: usize, out: &mut [f32; 16]) {
        self.store(acc, out);
    }

    #[inline(always)]
    fn prefetch(self, like: &[u8], distance: usize) {
        for line in like.as_chunks::<64>().0 {
            // SAFETY: a prefetch does not fault, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(distance).cast()) };
        }
    }

    #[inline(always)]
    fn q4_0<const T: usize>(self, _part: usize, w: &[u8; q4_0::BYTES], x: &[i32], acc: &mut [__m512; T]) {
        let mask = self.splat_byte(15);
        let vectors = w.as_chunks::<64>().0;
        for g in 0..q4_0::GROUPS {
            let mut w = [self.zero64(); 8];
            for j in 0..4 {
                let v = self.load64(&vectors[1 + 4 * g + j]);
                w[j] = self.and(v, mask);
                w[j + 4] = self.and(self.shift_right_4(v), mask);
            }
            let x = &x[g * WORDS * T..][..WORDS * T];
            self.links::<T, false>(&w, self.scales(&vectors[0], g), x, acc);
        }
    }

    #[inline(always)]
    fn q8_0<const T: usize>(self, _part: usize, w: &[u8; q8_0::BYTES], x: &[i32], acc: &mut [__m512; T]) {
        let flip = self.splat_byte(-128); // signed to unsigned + 128
        let vectors = w.as_chunks::<64>().0;
        for g in 0..q8_0::GROUPS {
            let mut w = [self.zero64(); 8];
            for j in 0..8 {
                w[j] = self.xor(self.load64(&vectors[1 + 8 * g + j]), flip);
            }
            let x = &x[g * WORDS * T..][..WORDS * T];
            self.links::<T, true>(&w, self.scales(&vectors[0], g), x, acc);
        }
    }

    #[inline(always)]
    fn q6_k<const T: usize>(
        self,
        _part: usize,
        d: &[u8; q6_k::PAIR_0],
        w: &[u8; q6_k::PAIR_BYTES],
        x: &[i32],
        acc: &mut [__m512; T],
    ) {
        let (low, high) = (self.splat_byte(15), self.splat_byte(0x30));
        let d = self.load_bytes(d);
        let vectors = w.as_chunks::<64>().0;
        let subs = vectors[0].as_chunks::<16>().0;
        for g in 0..2 {
            let group = &vectors[1 + 6 * g..][..6];
            let hi = [self.load64(&group[0]), self.load64(&group[1])];
            let mut w = [self.zero64(); 8];
            for j in 0..4 {
                let v = self.load64(&group[2 + j]);
                // Quad j is field j of hi[0], quad j + 4 field j of hi[1].
                let (a, b) = match j {
                    0 => (self.shift_left_4(hi[0]), self.shift_left_4(hi[1])),
                    1 => (self.shift_left_2(hi[0]), self.shift_left_2(hi[1])),
                    2 => (hi[0], hi[1]),
                    _ => (self.shift_right_2(hi[0]), self.shift_right_2(hi[1])),
                };
                w[j] = self.or(self.and(v, low), self.and(a, high));
                w[j + 4] = self.or(self.and(self.shift_right_4(v), low), self.and(b, high));
            }
            let s0 = self.signed_words(self.load16(&subs[2 * g]));
            let s1 = self.signed_words(self.load16(&subs[2 * g + 1]));
            let pair = self.blend_shorts(0xaaaa_aaaa, s0, self.shift_words_left_16(s1));
            let x = &x[g * WORDS * T..][..WORDS * T];
            let group = Group6 { w, subs: [s0, s1], pair, d };
            if T >= 4 {
                self.links6_of::<T, 4>(0, &group, x, acc);
            }
            if T >= 8 {
                self.links6_of::<T, 4>(4, &group, x, acc);
            }
            match T % 4 {
                1 => self.links6_of::<T, 1>(T - 1, &group, x, acc),
                2 => self.links6_of::<T, 2>(T - 2, &group, x, acc),
                3 => self.links6_of::<T, 3>(T - 3, &group, x, acc),
                _ => {}
            }
        }
    }
}
