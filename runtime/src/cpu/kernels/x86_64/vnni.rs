//! Quantised products with `vpdpbusd`, for registers of any width: unsigned weights times signed activations.
#![expect(clippy::needless_range_loop, reason = "indices say which quad, token or half is meant")]

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};

use lfm_graphs::weights::layout::{q4_0, q4_k, q5_k, q6_k, q8_0};

use crate::cpu::kernels::quant::{Dot, Group, Words};

/// A tier whose registers hold 16 / PARTS words. Implemented by tier tokens, whose existence proves CPU support.
pub(in crate::cpu::kernels) trait Registers: Load {
    fn zero_words(self) -> Self::Int;
    fn splat_byte(self, x: i8) -> Self::Int;
    fn splat_word(self, x: i32) -> Self::Int;
    fn splat_float(self, x: f32) -> Self::Float;
    fn and(self, a: Self::Int, b: Self::Int) -> Self::Int;
    fn or(self, a: Self::Int, b: Self::Int) -> Self::Int;
    fn xor(self, a: Self::Int, b: Self::Int) -> Self::Int;
    // Shifts of 16 bits, where the name does not say words.
    fn shift_left_1(self, a: Self::Int) -> Self::Int;
    fn shift_left_2(self, a: Self::Int) -> Self::Int;
    fn shift_right_1(self, a: Self::Int) -> Self::Int;
    fn shift_right_2(self, a: Self::Int) -> Self::Int;
    fn shift_right_4(self, a: Self::Int) -> Self::Int;
    fn shift_words_left_4(self, a: Self::Int) -> Self::Int;
    fn shift_words_left_16(self, a: Self::Int) -> Self::Int;
    /// `sum` and the four products of bytes of each word.
    fn dot(self, sum: Self::Int, unsigned: Self::Int, signed: Self::Int) -> Self::Int;
    /// The two products of shorts of each word, added.
    fn mul_shorts(self, a: Self::Int, b: Self::Int) -> Self::Int;
    /// Products of shorts, their low 16 bits.
    fn mul_each_short(self, a: Self::Int, b: Self::Int) -> Self::Int;
    fn to_f32(self, a: Self::Int) -> Self::Float;
    fn mul_floats(self, a: Self::Float, b: Self::Float) -> Self::Float;
    /// a * b + c
    fn mul_add(self, a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// c - a * b
    fn sub_mul(self, a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
}

/// What [`Registers`] hold, and how it gets there. `part` is which of the PARTS of 16 rows.
pub(in crate::cpu::kernels) trait Load: Copy {
    type Int: Copy;
    type Float: Copy;
    const PARTS: usize;
    const TOKENS: usize;

    /// Quads of a vector.
    fn quads(self, vector: &[u8; 64], part: usize) -> Self::Int;
    /// Bytes, as words.
    fn unsigned(self, bytes: &[u8; 16], part: usize) -> Self::Int;
    /// Bytes, as words.
    fn signed(self, bytes: &[u8; 16], part: usize) -> Self::Int;
    /// f16, widened.
    fn halves(self, halves: &[u8; 32], part: usize) -> Self::Float;
    fn floats(self, floats: &[u8; 64], part: usize) -> Self::Float;
    fn store(self, floats: Self::Float, part: usize, out: &mut [f32; 16]);
}

/// What the codes of a group of weights are more than the integers they stand for.
#[derive(Clone, Copy)]
enum Offset<Float> {
    Eight,
    OneHundredTwentyEight,
    /// Nothing, but weights are so much less than their scale times their code.
    Minimum(Float),
}

/// One group of weights, quad j in `w[j]`, unsigned.
struct Codes<R: Registers> {
    w: [R::Int; 8],
    scale: R::Float,
    offset: Offset<R::Float>,
}

/// One group of q6_k weights, quad j in `w[j]`, 32 too large.
struct Codes6<R: Registers> {
    w: [R::Int; 8],
    /// Sub-scales of both halves of the group.
    subs: [R::Float; 2],
    /// -32 times the two sub-scales, i16, to meet the pair of sums in one `vpmaddwd`.
    offsets: R::Int,
    d: R::Float,
}

trait Weights<R: Registers> {
    /// Advances tokens `first..first + M` of N in lockstep: one chain of `vpdpbusd` would wait for itself.
    fn some<const N: usize, const M: usize>(
        &self,
        isa: R,
        first: usize,
        x: &Group<N>,
        acc: &mut [R::Float; N],
    );

    /// Advances all N tokens, four at a time.
    #[inline(always)]
    fn all<const N: usize>(&self, isa: R, x: &Group<N>, acc: &mut [R::Float; N]) {
        if N >= 4 {
            self.some::<N, 4>(isa, 0, x, acc);
        }
        if N >= 8 {
            self.some::<N, 4>(isa, 4, x, acc);
        }
        match N % 4 {
            1 => self.some::<N, 1>(isa, N - 1, x, acc),
            2 => self.some::<N, 2>(isa, N - 2, x, acc),
            3 => self.some::<N, 3>(isa, N - 3, x, acc),
            _ => {}
        }
    }
}

impl<R: Registers> Weights<R> for Codes<R> {
    #[inline(always)]
    fn some<const N: usize, const M: usize>(
        &self,
        isa: R,
        first: usize,
        x: &Group<N>,
        acc: &mut [R::Float; N],
    ) {
        let mut isum = [isa.zero_words(); M];
        for i in 0..M {
            isum[i] = match self.offset {
                Offset::Eight => isa.splat_word(x.corrections()[first + i]),
                Offset::OneHundredTwentyEight => {
                    isa.shift_words_left_4(isa.splat_word(x.corrections()[first + i]))
                }
                Offset::Minimum(_) => isa.zero_words(),
            };
        }
        for j in 0..8 {
            for i in 0..M {
                isum[i] = isa.dot(isum[i], self.w[j], isa.splat_word(x.q()[first + i][j]));
            }
        }
        for i in 0..M {
            let t = first + i;
            let scale = isa.mul_floats(self.scale, splat_bits(isa, x.scales()[t]));
            acc[t] = isa.mul_add(isa.to_f32(isum[i]), scale, acc[t]);
            if let Offset::Minimum(minimum) = self.offset {
                acc[t] = isa.sub_mul(minimum, splat_bits(isa, x.scaled_sums()[t]), acc[t]);
            }
        }
    }
}

impl<R: Registers> Weights<R> for Codes6<R> {
    /// With dots a, b of the two halves and s, t the sums of their activations, the integer of the link is
    /// `sub0 * (a - 32 s) + sub1 * (b - 32 t)`. Each bracket is at most 16 * 32 * 127 in magnitude, so the f32 sums
    /// below, `sub1 * b - 32 (sub0 s + sub1 t)` first, are integers of at most 16646144 < 2^24: exact.
    #[inline(always)]
    fn some<const N: usize, const M: usize>(
        &self,
        isa: R,
        first: usize,
        x: &Group<N>,
        acc: &mut [R::Float; N],
    ) {
        let mut halves = [[isa.zero_words(); 2]; M];
        for j in 0..4 {
            for i in 0..M {
                let q = &x.q()[first + i];
                halves[i][0] = isa.dot(halves[i][0], self.w[j], isa.splat_word(q[j]));
                halves[i][1] = isa.dot(halves[i][1], self.w[j + 4], isa.splat_word(q[j + 4]));
            }
        }
        for i in 0..M {
            let t = first + i;
            let excess = isa.to_f32(isa.mul_shorts(self.offsets, isa.splat_word(x.half_sums()[t])));
            let isum = isa.mul_add(isa.to_f32(halves[i][1]), self.subs[1], excess);
            let isum = isa.mul_add(isa.to_f32(halves[i][0]), self.subs[0], isum);
            let scale = isa.mul_floats(self.d, splat_bits(isa, x.scales()[t]));
            acc[t] = isa.mul_add(isum, scale, acc[t]);
        }
    }
}

#[inline(always)]
fn splat_bits<R: Registers>(isa: R, bits: i32) -> R::Float {
    isa.splat_float(f32::from_bits(bits.cast_unsigned()))
}

/// Low nibbles of four vectors, then their high ones.
#[inline(always)]
fn nibbles<R: Registers>(isa: R, vectors: &[[u8; 64]], part: usize) -> [R::Int; 8] {
    let mask = isa.splat_byte(15);
    let mut w = [isa.zero_words(); 8];
    for j in 0..4 {
        let v = isa.quads(&vectors[j], part);
        w[j] = isa.and(v, mask);
        w[j + 4] = isa.and(isa.shift_right_4(v), mask);
    }
    w
}

impl<R: Registers> Dot for R {
    type Acc = R::Float;
    const PARTS: usize = <R as Load>::PARTS;
    const TOKENS: usize = <R as Load>::TOKENS;

    #[inline(always)]
    fn zero(self) -> R::Float {
        self.splat_float(0.0)
    }

    #[inline(always)]
    fn put(self, acc: R::Float, part: usize, out: &mut [f32; 16]) {
        self.store(acc, part, out);
    }

    #[inline(always)]
    fn prefetch(self, like: &[u8], distance: usize) {
        for line in like.as_chunks::<64>().0 {
            // SAFETY: a prefetch does not fault, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().wrapping_add(distance).cast()) };
        }
    }

    #[inline(always)]
    fn q4_0<const N: usize>(self, part: usize, w: &[u8; q4_0::BYTES], x: Words, acc: &mut [R::Float; N]) {
        let vectors = w.as_chunks::<64>().0;
        let scales = vectors[0].as_chunks().0;
        for g in 0..q4_0::GROUPS {
            let w = nibbles(self, &vectors[1 + 4 * g..][..4], part);
            let scale = self.halves(&scales[g], part);
            Codes { w, scale, offset: Offset::Eight }.all(self, &x.group::<N>(g), acc);
        }
    }

    #[inline(always)]
    fn q8_0<const N: usize>(self, part: usize, w: &[u8; q8_0::BYTES], x: Words, acc: &mut [R::Float; N]) {
        let flip = self.splat_byte(-128); // signed to unsigned + 128
        let vectors = w.as_chunks::<64>().0;
        let scales = vectors[0].as_chunks().0;
        for g in 0..q8_0::GROUPS {
            let mut w = [self.zero_words(); 8];
            for j in 0..8 {
                w[j] = self.xor(self.quads(&vectors[1 + 8 * g + j], part), flip);
            }
            let scale = self.halves(&scales[g], part);
            Codes { w, scale, offset: Offset::OneHundredTwentyEight }.all(self, &x.group::<N>(g), acc);
        }
    }

    #[inline(always)]
    fn q6_k<const N: usize>(
        self,
        part: usize,
        d: &[u8; q6_k::PAIR_0],
        w: &[u8; q6_k::PAIR_BYTES],
        x: Words,
        acc: &mut [R::Float; N],
    ) {
        let high = self.splat_byte(0x30);
        let d = self.floats(d, part);
        let vectors = w.as_chunks::<64>().0;
        let subs = vectors[0].as_chunks::<16>().0;
        for g in 0..2 {
            let group = &vectors[1 + 6 * g..][..6];
            let mut w = nibbles(self, &group[2..], part);
            for h in 0..2 {
                // Quad 4 h + j has its bits 4 and 5 in field j.
                let hi = self.quads(&group[h], part);
                let hi = [
                    self.shift_left_2(self.shift_left_2(hi)),
                    self.shift_left_2(hi),
                    hi,
                    self.shift_right_2(hi),
                ];
                for j in 0..4 {
                    w[4 * h + j] = self.or(w[4 * h + j], self.and(hi[j], high));
                }
            }
            let subs = [self.signed(&subs[2 * g], part), self.signed(&subs[2 * g + 1], part)];
            let pair = self.or(self.and(subs[0], self.splat_word(0xffff)), self.shift_words_left_16(subs[1]));
            let offsets = self.mul_each_short(pair, self.splat_word(-32 & 0xffff | -32 << 16));
            let subs = [self.to_f32(subs[0]), self.to_f32(subs[1])];
            Codes6 { w, subs, offsets, d }.all(self, &x.group::<N>(g), acc);
        }
    }

    #[inline(always)]
    fn k<const N: usize, const BYTES: usize>(
        self,
        part: usize,
        d: &[u8; q4_k::PAIR_0],
        w: &[u8; BYTES],
        x: Words,
        acc: &mut [R::Float; N],
    ) {
        let d = d.as_chunks().0;
        let (d, dmin) = (self.halves(&d[0], part), self.halves(&d[1], part));
        let vectors = w.as_chunks::<64>().0;
        let scales = vectors[0].as_chunks::<16>().0;
        for g in 0..2 {
            let w = if BYTES == q5_k::PAIR_BYTES {
                let group = &vectors[1 + 5 * g..][..5];
                let mut w = nibbles(self, &group[1..], part);
                // Bit j belongs to quad j, and goes to bit 4.
                let high = self.splat_byte(0x10);
                let hi = self.quads(&group[0], part);
                let (mut left, mut right) = (hi, hi);
                for j in 0..4 {
                    w[4 + j] = self.or(w[4 + j], self.and(right, high));
                    left = self.shift_left_1(left);
                    w[3 - j] = self.or(w[3 - j], self.and(left, high));
                    right = self.shift_right_1(right);
                }
                w
            } else {
                nibbles(self, &vectors[1 + 4 * g..][..4], part)
            };
            let scale = self.mul_floats(d, self.to_f32(self.unsigned(&scales[2 * g], part)));
            let minimum = self.mul_floats(dmin, self.to_f32(self.unsigned(&scales[2 * g + 1], part)));
            Codes { w, scale, offset: Offset::Minimum(minimum) }.all(self, &x.group::<N>(g), acc);
        }
    }
}
