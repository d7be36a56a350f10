//! Quantised products with `vpdpbusd`, for registers of any width: unsigned weights times signed activations.
#![expect(clippy::needless_range_loop, reason = "indices say which quad, token or half is meant")]

use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::hint::black_box;

use lfm_graphs::weights::layout::{q4_0, q4_k, q5_k, q6_k, q8_0};

use crate::quant::{Dot, Group, Token, Unpacked, Weights};

/// A tier whose registers hold 16 / PARTS words. Implemented by tier tokens, whose existence proves CPU support.
pub(crate) trait Registers: Load {
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
    fn add_words(self, a: Self::Int, b: Self::Int) -> Self::Int;
    /// The two products of shorts of each word, added.
    fn mul_shorts(self, a: Self::Int, b: Self::Int) -> Self::Int;
    /// Products of shorts, their low 16 bits.
    fn mul_each_short(self, a: Self::Int, b: Self::Int) -> Self::Int;
    fn bits(self, a: Self::Float) -> Self::Int;
    fn to_f32(self, a: Self::Int) -> Self::Float;
    fn mul_floats(self, a: Self::Float, b: Self::Float) -> Self::Float;
    /// a * b + c
    fn mul_add(self, a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
    /// c - a * b
    fn sub_mul(self, a: Self::Float, b: Self::Float, c: Self::Float) -> Self::Float;
}

/// What [`Registers`] hold, and how it gets there. `part` is which of the PARTS of 16 rows.
pub(crate) trait Load: Copy {
    type Int: Copy;
    type Float: Copy;
    const PARTS: usize;

    /// Quads of a vector.
    fn quads(self, vector: &[u8; 64], part: usize) -> Self::Int;
    /// Bytes, as words.
    fn unsigned(self, bytes: &[u8; 16], part: usize) -> Self::Int;
    /// Bytes, as words.
    fn signed(self, bytes: &[u8; 16], part: usize) -> Self::Int;
    /// f16, widened.
    fn halves(self, halves: &[u8; 32], part: usize) -> Self::Float;
    fn floats(self, floats: &[u8; 64], part: usize) -> Self::Float;
    fn load_floats(self, floats: &[f32; 16], part: usize) -> Self::Float;
    fn store_floats(self, floats: Self::Float, part: usize, out: &mut [f32; 16]);
    fn store_words(self, words: Self::Int, part: usize, out: &mut [u8; 64]);
}

/// One group of weights, quad j in `w[j]`, as unsigned bytes that are OFFSET (8 or 128) more than the integers they stand
/// for; 0: what stands for a weight is its code times its scale, less its minimum.
#[derive(Clone, Copy)]
pub(crate) struct Codes<R: Registers, const OFFSET: u8> {
    w: [R::Int; 8],
    scale: R::Float,
    /// Where OFFSET is 0.
    minimum: R::Float,
}

impl<R: Registers, const OFFSET: u8> Codes<R, OFFSET> {
    /// What the sum of a token's products begins with.
    #[inline(always)]
    fn start(isa: R, x: Token) -> R::Int {
        match OFFSET {
            8 => isa.splat_word(x.correction),
            128 => isa.shift_words_left_4(isa.splat_word(x.correction)),
            _ => isa.zero_words(),
        }
    }

    /// The links of one token.
    #[inline(always)]
    fn end(isa: R, rows: [R::Float; 2], isum: R::Int, x: Token, acc: R::Float) -> R::Float {
        let [scale, minimum] = rows;
        let scale = isa.mul_floats(scale, splat_bits(isa, x.scale));
        let acc = isa.mul_add(isa.to_f32(isum), scale, acc);
        match OFFSET {
            0 => isa.sub_mul(minimum, splat_bits(isa, x.scaled_sum), acc),
            _ => acc,
        }
    }
}

impl<R: Registers, const OFFSET: u8> Weights<R> for Codes<R, OFFSET> {
    #[inline(always)]
    fn link(&self, isa: R, x: Token, acc: R::Float) -> R::Float {
        // Two chains, because one would wait for itself.
        let (mut a, mut b) = (Self::start(isa, x), isa.zero_words());
        for j in [0, 2, 4, 6] {
            a = isa.dot(a, self.w[j], isa.splat_word(x.q[j]));
            b = isa.dot(b, self.w[j + 1], isa.splat_word(x.q[j + 1]));
        }
        Self::end(isa, [self.scale, self.minimum], isa.add_words(a, b), x, acc)
    }

    #[inline(always)]
    fn keep(&self, isa: R, part: usize, to: &mut Unpacked) {
        for j in 0..8 {
            isa.store_words(self.w[j], part, &mut to.quads[j]);
        }
        isa.store_words(isa.bits(self.scale), part, &mut to.rows[0]);
        if OFFSET == 0 {
            isa.store_words(isa.bits(self.minimum), part, &mut to.rows[1]);
        }
    }

    #[inline(always)]
    fn load(isa: R, kept: &Unpacked, part: usize) -> Self {
        let mut w = [isa.zero_words(); 8];
        for j in 0..8 {
            w[j] = isa.quads(&kept.quads[j], part);
        }
        Codes { w, scale: isa.floats(&kept.rows[0], part), minimum: isa.floats(&kept.rows[1], part) }
    }

    #[inline(always)]
    fn tile<const N: usize>(
        isa: R,
        kept: [(&Unpacked, usize); 2],
        x: Group<N>,
        acc: &mut [[R::Float; N]; 2],
    ) {
        // Registers hold all rows where there are tiles.
        let kept = [kept[0].0, kept[1].0];
        let mut isum = [[isa.zero_words(); N]; 2];
        for t in 0..N {
            let start = Self::start(isa, x.token(t));
            isum[0][t] = start;
            isum[1][t] = start;
        }
        for j in 0..8 {
            let w = [isa.quads(&kept[0].quads[j], 0), isa.quads(&kept[1].quads[j], 0)];
            for t in 0..N {
                let q = isa.splat_word(x.q(t, j));
                isum[0][t] = isa.dot(isum[0][t], w[0], q);
                isum[1][t] = isa.dot(isum[1][t], w[1], q);
            }
        }
        for v in 0..2 {
            let rows = [isa.floats(&kept[v].rows[0], 0), isa.floats(&kept[v].rows[1], 0)];
            for t in 0..N {
                acc[v][t] = Self::end(isa, rows, isum[v][t], x.token(t), acc[v][t]);
            }
        }
    }
}

/// One group of q6_k weights, quad j in `w[j]`, 32 too large.
#[derive(Clone, Copy)]
pub(crate) struct Codes6<R: Registers> {
    w: [R::Int; 8],
    rows: Rows6<R>,
}

#[derive(Clone, Copy)]
struct Rows6<R: Registers> {
    /// Sub-scales of both halves of the group.
    subs: [R::Float; 2],
    /// -32 times the two sub-scales, i16, to meet the pair of sums in one `vpmaddwd`.
    offsets: R::Int,
    d: R::Float,
}

impl<R: Registers> Rows6<R> {
    #[inline(always)]
    fn load(isa: R, kept: &Unpacked, part: usize) -> Rows6<R> {
        Rows6 {
            subs: [isa.floats(&kept.rows[1], part), isa.floats(&kept.rows[2], part)],
            offsets: isa.quads(&kept.rows[3], part),
            d: isa.floats(&kept.rows[0], part),
        }
    }

    /// The link of one token, of whose products with both halves `dots` are the sums.
    ///
    /// With s, t the sums of the activations of both halves, the integer of the link is
    /// `sub0 * (dots[0] - 32 s) + sub1 * (dots[1] - 32 t)`. Each bracket is at most 16 * 32 * 127 in magnitude, so the
    /// f32 sums below, `sub1 * dots[1] - 32 (sub0 s + sub1 t)` first, are integers of at most 16646144 < 2^24: exact.
    #[inline(always)]
    fn end(&self, isa: R, dots: [R::Int; 2], x: Token, acc: R::Float) -> R::Float {
        let excess = isa.to_f32(isa.mul_shorts(self.offsets, isa.splat_word(x.half_sums)));
        let isum = isa.mul_add(isa.to_f32(dots[1]), self.subs[1], excess);
        let isum = isa.mul_add(isa.to_f32(dots[0]), self.subs[0], isum);
        let scale = isa.mul_floats(self.d, splat_bits(isa, x.scale));
        isa.mul_add(isum, scale, acc)
    }
}

impl<R: Registers> Codes6<R> {
    /// M tokens of a tile from token `first` on.
    #[inline(always)]
    fn some<const N: usize, const M: usize>(
        isa: R,
        kept: [&Unpacked; 2],
        x: Group<N>,
        first: usize,
        acc: &mut [[R::Float; N]; 2],
    ) {
        let mut dots = [[[isa.zero_words(); 2]; M]; 2];
        for j in 0..4 {
            let v = [isa.quads(&kept[0].quads[j], 0), isa.quads(&kept[0].quads[j + 4], 0)];
            let w = [isa.quads(&kept[1].quads[j], 0), isa.quads(&kept[1].quads[j + 4], 0)];
            for i in 0..M {
                for h in 0..2 {
                    let q = isa.splat_word(x.q(first + i, 4 * h + j));
                    dots[0][i][h] = isa.dot(dots[0][i][h], v[h], q);
                    dots[1][i][h] = isa.dot(dots[1][i][h], w[h], q);
                }
            }
        }
        for v in 0..2 {
            let rows = Rows6::load(isa, kept[v], 0);
            for i in 0..M {
                let t = first + i;
                acc[v][t] = rows.end(isa, dots[v][i], x.token(t), acc[v][t]);
            }
        }
    }
}

impl<R: Registers> Weights<R> for Codes6<R> {
    #[inline(always)]
    fn link(&self, isa: R, x: Token, acc: R::Float) -> R::Float {
        let mut dots = [isa.zero_words(); 2];
        for j in 0..4 {
            dots[0] = isa.dot(dots[0], self.w[j], isa.splat_word(x.q[j]));
            dots[1] = isa.dot(dots[1], self.w[j + 4], isa.splat_word(x.q[j + 4]));
        }
        self.rows.end(isa, dots, x, acc)
    }

    #[inline(always)]
    fn keep(&self, isa: R, part: usize, to: &mut Unpacked) {
        for j in 0..8 {
            isa.store_words(self.w[j], part, &mut to.quads[j]);
        }
        let Rows6 { subs, offsets, d } = self.rows;
        for (words, to) in
            [isa.bits(d), isa.bits(subs[0]), isa.bits(subs[1]), offsets].iter().zip(&mut to.rows)
        {
            isa.store_words(*words, part, to);
        }
    }

    #[inline(always)]
    fn load(isa: R, kept: &Unpacked, part: usize) -> Self {
        let mut w = [isa.zero_words(); 8];
        for j in 0..8 {
            w[j] = isa.quads(&kept.quads[j], part);
        }
        Codes6 { w, rows: Rows6::load(isa, kept, part) }
    }

    #[inline(always)]
    fn tile<const N: usize>(
        isa: R,
        kept: [(&Unpacked, usize); 2],
        x: Group<N>,
        acc: &mut [[R::Float; N]; 2],
    ) {
        // Registers hold all rows where there are tiles.
        let kept = [kept[0].0, kept[1].0];
        // Three tokens at a time: each has four sums. Then the weights are loaded again, which the compiler must not
        // know: it would spill what registers cannot hold.
        match N {
            2 => Self::some::<N, 2>(isa, kept, x, 0, acc),
            _ => Self::some::<N, 3>(isa, kept, x, 0, acc),
        }
        match N {
            4 => Self::some::<N, 1>(isa, black_box(kept), x, 3, acc),
            5 => Self::some::<N, 2>(isa, black_box(kept), x, 3, acc),
            6 => Self::some::<N, 3>(isa, black_box(kept), x, 3, acc),
            _ => {}
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

/// Scale and minimum of q4_k and q5_k: `scales` is `[group][scale, minimum]`, a byte each for 16 rows.
#[inline(always)]
fn scale_and_minimum<R: Registers>(
    isa: R,
    part: usize,
    head: &[u8; 64],
    scales: &[u8; 64],
    g: usize,
) -> [R::Float; 2] {
    let (factors, scales) = (head.as_chunks().0, scales.as_chunks().0);
    let scale = isa.to_f32(isa.unsigned(&scales[2 * g], part));
    let minimum = isa.to_f32(isa.unsigned(&scales[2 * g + 1], part));
    let (d, dmin) = (isa.halves(&factors[0], part), isa.halves(&factors[1], part));
    [isa.mul_floats(d, scale), isa.mul_floats(dmin, minimum)]
}

impl<R: Registers> Dot for R {
    type Acc = R::Float;
    const PARTS: usize = <R as Load>::PARTS;
    const TILES: bool = <R as Load>::PARTS == 1;
    type Q4_0 = Codes<R, 8>;
    type Q8_0 = Codes<R, 128>;
    type Q6K = Codes6<R>;
    type Q4K = Codes<R, 0>;
    type Q5K = Codes<R, 0>;

    #[inline(always)]
    fn zero(self) -> R::Float {
        self.splat_float(0.0)
    }

    #[inline(always)]
    fn get(self, sums: &[f32; 16], part: usize) -> R::Float {
        self.load_floats(sums, part)
    }

    #[inline(always)]
    fn put(self, acc: R::Float, part: usize, out: &mut [f32; 16]) {
        self.store_floats(acc, part, out);
    }

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        // SAFETY: a prefetch does not fault, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }

    #[inline(always)]
    fn q4_0(self, part: usize, pair: &[u8; q4_0::BYTES], g: usize) -> Codes<R, 8> {
        let vectors = pair.as_chunks::<64>().0;
        let scale = self.halves(&vectors[0].as_chunks().0[g], part);
        Codes { w: nibbles(self, &vectors[1 + 4 * g..][..4], part), scale, minimum: scale }
    }

    #[inline(always)]
    fn q8_0(self, part: usize, pair: &[u8; q8_0::BYTES], g: usize) -> Codes<R, 128> {
        let flip = self.splat_byte(-128); // signed to unsigned + 128
        let vectors = pair.as_chunks::<64>().0;
        let mut w = [self.zero_words(); 8];
        for j in 0..8 {
            w[j] = self.xor(self.quads(&vectors[1 + 8 * g + j], part), flip);
        }
        let scale = self.halves(&vectors[0].as_chunks().0[g], part);
        Codes { w, scale, minimum: scale }
    }

    #[inline(always)]
    fn q6_k(self, part: usize, head: &[u8; 64], pair: &[u8; q6_k::PAIR_BYTES], g: usize) -> Codes6<R> {
        let vectors = pair.as_chunks::<64>().0;
        let group = &vectors[1 + 6 * g..][..6];
        let mut w = nibbles(self, &group[2..], part);
        let high = self.splat_byte(0x30);
        for h in 0..2 {
            // Quad 4 h + j has its bits 4 and 5 in field j.
            let hi = self.quads(&group[h], part);
            let left_2 = self.shift_left_2(hi);
            let hi = [self.shift_left_2(left_2), left_2, hi, self.shift_right_2(hi)];
            for j in 0..4 {
                w[4 * h + j] = self.or(w[4 * h + j], self.and(hi[j], high));
            }
        }
        let subs = vectors[0].as_chunks::<16>().0;
        let subs = [self.signed(&subs[2 * g], part), self.signed(&subs[2 * g + 1], part)];
        let low = self.and(subs[0], self.splat_word(0xffff));
        let pair = self.or(low, self.shift_words_left_16(subs[1]));
        let rows = Rows6 {
            subs: [self.to_f32(subs[0]), self.to_f32(subs[1])],
            offsets: self.mul_each_short(pair, self.splat_word(-32 & 0xffff | -32 << 16)),
            d: self.floats(head, part),
        };
        Codes6 { w, rows }
    }

    #[inline(always)]
    fn q4_k(self, part: usize, head: &[u8; 64], pair: &[u8; q4_k::PAIR_BYTES], g: usize) -> Codes<R, 0> {
        let vectors = pair.as_chunks::<64>().0;
        let [scale, minimum] = scale_and_minimum(self, part, head, &vectors[0], g);
        Codes { w: nibbles(self, &vectors[1 + 4 * g..][..4], part), scale, minimum }
    }

    #[inline(always)]
    fn q5_k(self, part: usize, head: &[u8; 64], pair: &[u8; q5_k::PAIR_BYTES], g: usize) -> Codes<R, 0> {
        let vectors = pair.as_chunks::<64>().0;
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
        let [scale, minimum] = scale_and_minimum(self, part, head, &vectors[0], g);
        Codes { w, scale, minimum }
    }
}
