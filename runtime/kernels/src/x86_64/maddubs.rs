//! Quantised products with `vpmaddubsw`, which sums pairs of products in saturating i16: each kind of weights says why it
//! cannot saturate.
#![expect(clippy::needless_range_loop, reason = "indices say which quad, token or half is meant")]

use std::arch::x86_64::{__m256, __m256i, _MM_HINT_T0, _mm_prefetch};

use lfm_graphs::weights::layout::{q4_0, q4_k, q5_k, q6_k, q8_0};

use super::X86V3;
use crate::quant::{Dot, Token, Unpacked, Weights};

impl X86V3 {
    /// `acc` and the link `isum * (scale * x_scale)`.
    #[inline(always)]
    fn scaled(self, isum: __m256i, scale: __m256, x: Token, acc: __m256) -> __m256 {
        let scale = self.mul8(scale, self.splat_bits(x.scale));
        self.fma8(self.to_f32(isum), scale, acc)
    }

    #[inline(always)]
    fn splat_bits(self, bits: i32) -> __m256 {
        self.splat8(f32::from_bits(bits.cast_unsigned()))
    }

    /// Half `part` of a 64-byte vector.
    #[inline(always)]
    pub(super) fn half(self, vector: &[u8; 64], part: usize) -> __m256i {
        self.load32(&vector.as_chunks().0[part & 1])
    }

    #[inline(always)]
    pub(super) fn store_half(self, half: __m256i, part: usize, vector: &mut [u8; 64]) {
        self.store32(half, &mut vector.as_chunks_mut().0[part & 1]);
    }

    /// Half `part` of 16 f32.
    #[inline(always)]
    pub(super) fn floats(self, floats: &[u8; 64], part: usize) -> __m256 {
        self.load8_bytes(&floats.as_chunks().0[part & 1])
    }

    /// Half `part` of 16 bytes, as words.
    #[inline(always)]
    pub(super) fn signed(self, bytes: &[u8; 16], part: usize) -> __m256i {
        self.signed_words(self.load_low(&bytes.as_chunks().0[part & 1]))
    }

    /// Half `part` of 16 bytes, as words.
    #[inline(always)]
    pub(super) fn unsigned(self, bytes: &[u8; 16], part: usize) -> __m256i {
        self.unsigned_words(self.load_low(&bytes.as_chunks().0[part & 1]))
    }

    /// Half `part` of 16 f16, widened.
    #[inline(always)]
    pub(super) fn halves(self, scales: &[u8; 32], part: usize) -> __m256 {
        self.widen8(self.load16(&scales.as_chunks().0[part & 1]))
    }

    /// Half `part` of the low nibbles of four vectors, then of their high ones.
    #[inline(always)]
    fn nibbles(self, vectors: &[[u8; 64]], part: usize) -> [__m256i; 8] {
        let mask = self.splat_byte(15);
        let mut w = [self.zero32(); 8];
        for j in 0..4 {
            let v = self.half(&vectors[j], part);
            w[j] = self.and(v, mask);
            w[j + 4] = self.and(self.shift_right_4(v), mask);
        }
        w
    }

    /// The quads of a group.
    #[inline(always)]
    fn load_quads(self, kept: &Unpacked, part: usize) -> [__m256i; 8] {
        let mut w = [self.zero32(); 8];
        for j in 0..8 {
            w[j] = self.half(&kept.quads[j], part);
        }
        w
    }

    #[inline(always)]
    fn keep(self, quads: &[__m256i; 8], rows: &[__m256], part: usize, to: &mut Unpacked) {
        for j in 0..8 {
            self.store_half(quads[j], part, &mut to.quads[j]);
        }
        for (floats, to) in rows.iter().zip(&mut to.rows) {
            self.store_half(self.as_words(*floats), part, to);
        }
    }

    /// Scale and minimum of q4_k and q5_k: `scales` is `[group][scale, minimum]`, a byte each for 16 rows.
    #[inline(always)]
    fn scale_and_minimum(self, part: usize, head: &[u8; 64], scales: &[u8; 64], g: usize) -> [__m256; 2] {
        let (factors, scales) = (head.as_chunks().0, scales.as_chunks().0);
        let scale = self.to_f32(self.unsigned(&scales[2 * g], part));
        let minimum = self.to_f32(self.unsigned(&scales[2 * g + 1], part));
        let (d, dmin) = (self.halves(&factors[0], part), self.halves(&factors[1], part));
        [self.mul8(d, scale), self.mul8(dmin, minimum)]
    }
}

/// Unsigned codes of BITS bits: in one i16 lane, the products of the group (16 of them) or of half of it (8) sum to at
/// most 16 * 15 * 127 = 30480 and 8 * 31 * 127 = 31496. Nibbles are 8 too large if OFFSET is 8; if it is 0, what stands
/// for a weight is its code times its scale, less its minimum.
#[derive(Clone, Copy)]
pub(crate) struct Codes<const BITS: u8, const OFFSET: u8> {
    w: [__m256i; 8],
    scale: __m256,
    /// Where OFFSET is 0.
    minimum: __m256,
}

impl<const BITS: u8, const OFFSET: u8> Weights<X86V3> for Codes<BITS, OFFSET> {
    #[inline(always)]
    fn link(&self, isa: X86V3, x: Token, acc: __m256) -> __m256 {
        let ones = isa.splat_short(1);
        let mut a = isa.mul_bytes(self.w[0], isa.splat_word(x.q[0]));
        let mut b = isa.mul_bytes(self.w[1], isa.splat_word(x.q[1]));
        for j in [2, 4, 6] {
            a = isa.add_shorts(a, isa.mul_bytes(self.w[j], isa.splat_word(x.q[j])));
            b = isa.add_shorts(b, isa.mul_bytes(self.w[j + 1], isa.splat_word(x.q[j + 1])));
        }
        let isum = match BITS {
            4 => isa.mul_shorts(isa.add_shorts(a, b), ones),
            _ => isa.add_words(isa.mul_shorts(a, ones), isa.mul_shorts(b, ones)),
        };
        match OFFSET {
            8 => {
                let isum = isa.add_words(isum, isa.splat_word(x.correction));
                isa.scaled(isum, self.scale, x, acc)
            }
            _ => {
                let acc = isa.scaled(isum, self.scale, x, acc);
                isa.fnma8(self.minimum, isa.splat_bits(x.scaled_sum), acc)
            }
        }
    }

    #[inline(always)]
    fn keep(&self, isa: X86V3, part: usize, to: &mut Unpacked) {
        isa.keep(&self.w, &[self.scale, self.minimum], part, to);
    }

    #[inline(always)]
    fn load(isa: X86V3, kept: &Unpacked, part: usize) -> Self {
        let (scale, minimum) = (isa.floats(&kept.rows[0], part), isa.floats(&kept.rows[1], part));
        Codes { w: isa.load_quads(kept, part), scale, minimum }
    }
}

/// Signed bytes: |w| <= 128 times x with w's sign, |x| <= 127: a pair is at most 32512, and every pair is widened at
/// once. x is never -128, so changing its sign is exact.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    w: [__m256i; 8],
    scale: __m256,
}

impl Weights<X86V3> for Bytes {
    #[inline(always)]
    fn link(&self, isa: X86V3, x: Token, acc: __m256) -> __m256 {
        let ones = isa.splat_short(1);
        let mut isum = isa.zero32();
        for j in 0..8 {
            let q = isa.sign_bytes(isa.splat_word(x.q[j]), self.w[j]);
            let products = isa.mul_bytes(isa.abs_bytes(self.w[j]), q);
            isum = isa.add_words(isum, isa.mul_shorts(products, ones));
        }
        isa.scaled(isum, self.scale, x, acc)
    }

    #[inline(always)]
    fn keep(&self, isa: X86V3, part: usize, to: &mut Unpacked) {
        isa.keep(&self.w, &[self.scale], part, to);
    }

    #[inline(always)]
    fn load(isa: X86V3, kept: &Unpacked, part: usize) -> Self {
        Bytes { w: isa.load_quads(kept, part), scale: isa.floats(&kept.rows[0], part) }
    }
}

/// Six-bit codes, 32 too large: one i16 lane sums 4 products (two quads), at most 4 * 63 * 127 = 32004; `vpmaddwd` then
/// multiplies by the sub-scale while it widens.
#[derive(Clone, Copy)]
pub(crate) struct Codes6 {
    w: [__m256i; 8],
    d: __m256,
    /// Sub-scales of both halves of the group, i16, each twice in its lane.
    subs: [__m256i; 2],
    /// -32 times the pair of sub-scales, i16.
    offsets: __m256i,
}

impl Weights<X86V3> for Codes6 {
    #[inline(always)]
    fn link(&self, isa: X86V3, x: Token, acc: __m256) -> __m256 {
        let mut isum = isa.mul_shorts(self.offsets, isa.splat_word(x.half_sums));
        for j in 0..4 {
            let a = isa.mul_bytes(self.w[2 * j], isa.splat_word(x.q[2 * j]));
            let b = isa.mul_bytes(self.w[2 * j + 1], isa.splat_word(x.q[2 * j + 1]));
            isum = isa.add_words(isum, isa.mul_shorts(isa.add_shorts(a, b), self.subs[j / 2]));
        }
        isa.scaled(isum, self.d, x, acc)
    }

    #[inline(always)]
    fn keep(&self, isa: X86V3, part: usize, to: &mut Unpacked) {
        let [a, b] = self.subs;
        let rows = [self.d, isa.as_floats(a), isa.as_floats(b), isa.as_floats(self.offsets)];
        isa.keep(&self.w, &rows, part, to);
    }

    #[inline(always)]
    fn load(isa: X86V3, kept: &Unpacked, part: usize) -> Self {
        let subs = [isa.half(&kept.rows[1], part), isa.half(&kept.rows[2], part)];
        let (d, offsets) = (isa.floats(&kept.rows[0], part), isa.half(&kept.rows[3], part));
        Codes6 { w: isa.load_quads(kept, part), d, subs, offsets }
    }
}

impl Dot for X86V3 {
    type Acc = __m256;
    const PARTS: usize = 2;
    const TILES: bool = false;
    type Q4_0 = Codes<4, 8>;
    type Q8_0 = Bytes;
    type Q6K = Codes6;
    type Q4K = Codes<4, 0>;
    type Q5K = Codes<5, 0>;

    #[inline(always)]
    fn zero(self) -> __m256 {
        self.splat8(0.0)
    }

    #[inline(always)]
    fn get(self, sums: &[f32; 16], part: usize) -> __m256 {
        self.load8(&sums.as_chunks().0[part & 1])
    }

    #[inline(always)]
    fn put(self, acc: __m256, part: usize, out: &mut [f32; 16]) {
        self.store8(acc, &mut out.as_chunks_mut().0[part & 1]);
    }

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        // SAFETY: a prefetch does not fault, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }

    #[inline(always)]
    fn q4_0(self, part: usize, pair: &[u8; q4_0::BYTES], g: usize) -> Codes<4, 8> {
        let vectors = pair.as_chunks::<64>().0;
        let scale = self.halves(&vectors[0].as_chunks().0[g], part);
        Codes { w: self.nibbles(&vectors[1 + 4 * g..][..4], part), scale, minimum: scale }
    }

    #[inline(always)]
    fn q8_0(self, part: usize, pair: &[u8; q8_0::BYTES], g: usize) -> Bytes {
        let vectors = pair.as_chunks::<64>().0;
        let mut w = [self.zero32(); 8];
        for j in 0..8 {
            w[j] = self.half(&vectors[1 + 8 * g + j], part);
        }
        Bytes { w, scale: self.halves(&vectors[0].as_chunks().0[g], part) }
    }

    #[inline(always)]
    fn q6_k(self, part: usize, head: &[u8; 64], pair: &[u8; q6_k::PAIR_BYTES], g: usize) -> Codes6 {
        let vectors = pair.as_chunks::<64>().0;
        let group = &vectors[1 + 6 * g..][..6];
        let mut w = self.nibbles(&group[2..], part);
        let high = self.splat_byte(0x30);
        for h in 0..2 {
            // Quad 4 h + j has its bits 4 and 5 in field j.
            let hi = self.half(&group[h], part);
            let hi = [self.shift_left_4(hi), self.shift_left_2(hi), hi, self.shift_right_2(hi)];
            for j in 0..4 {
                w[4 * h + j] = self.or(w[4 * h + j], self.and(hi[j], high));
            }
        }
        let subs = vectors[0].as_chunks().0;
        let (s0, s1) = (self.signed(&subs[2 * g], part), self.signed(&subs[2 * g + 1], part));
        let (u0, u1) = (self.shift_words_left_16(s0), self.shift_words_left_16(s1));
        Codes6 {
            w,
            d: self.floats(head, part),
            subs: [self.odd_shorts_of_second(s0, u0), self.odd_shorts_of_second(s1, u1)],
            offsets: self.mul_each_short(self.odd_shorts_of_second(s0, u1), self.splat_short(-32)),
        }
    }

    #[inline(always)]
    fn q4_k(self, part: usize, head: &[u8; 64], pair: &[u8; q4_k::PAIR_BYTES], g: usize) -> Codes<4, 0> {
        let vectors = pair.as_chunks::<64>().0;
        let [scale, minimum] = self.scale_and_minimum(part, head, &vectors[0], g);
        Codes { w: self.nibbles(&vectors[1 + 4 * g..][..4], part), scale, minimum }
    }

    #[inline(always)]
    fn q5_k(self, part: usize, head: &[u8; 64], pair: &[u8; q5_k::PAIR_BYTES], g: usize) -> Codes<5, 0> {
        let vectors = pair.as_chunks::<64>().0;
        let group = &vectors[1 + 5 * g..][..5];
        let mut w = self.nibbles(&group[1..], part);
        // Bit j belongs to quad j, and goes to bit 4.
        let high = self.splat_byte(0x10);
        let hi = self.half(&group[0], part);
        let (mut left, mut right) = (hi, hi);
        for j in 0..4 {
            w[4 + j] = self.or(w[4 + j], self.and(right, high));
            left = self.add_shorts(left, left);
            w[3 - j] = self.or(w[3 - j], self.and(left, high));
            right = self.shift_right_1(right);
        }
        let [scale, minimum] = self.scale_and_minimum(part, head, &vectors[0], g);
        Codes { w, scale, minimum }
    }
}
