//! Quantised products in registers of 4 rows, a quarter of a row-block: what all tiers share.
#![expect(clippy::needless_range_loop, reason = "indices say which quad, token or half is meant")]

use std::arch::aarch64::*;

use lfm_graphs::weights::layout::{q4_0, q4_k, q5_k, q6_k, q8_0};

use super::Neon;
use crate::quant::{Dot, Group, Token, Unpacked, Weights};

/// How a tier multiplies bytes. Implemented by tier tokens, whose existence proves CPU support.
///
/// Of weights that are kept for many tokens, a tier may choose the order of bytes, and of the sums of a tile, which
/// lane is which row and token: [`Bytes::order`], [`Bytes::half`], [`Bytes::enter`] and what follows them agree.
pub(crate) trait Bytes: Copy {
    fn neon(self) -> Neon;

    /// `sum` and, for 4 rows, the products of 16 weights, four quads, with 16 activations. The weights are in -32..32
    /// unless they are LARGE.
    fn products<const LARGE: bool>(self, sum: int32x4_t, w: [int8x16_t; 4], x: int8x16_t) -> int32x4_t;

    /// Two neighbouring quads as they are kept.
    #[inline(always)]
    fn order(self, quads: [int8x16_t; 2]) -> [int8x16_t; 2] {
        quads
    }

    /// Adds to the sums the products of half `h` of a group of weights that were kept with that of N tokens.
    #[inline(always)]
    fn half<const LARGE: bool, const N: usize>(
        self,
        kept: (&Unpacked, usize),
        h: usize,
        x: Group<N>,
        sums: &mut [int32x4_t; N],
    ) {
        let w = load_quads(self.neon(), kept, h);
        for t in 0..N {
            sums[t] = self.products::<LARGE>(sums[t], w, load_half(self.neon(), x, t, h));
        }
    }

    /// The sums of a tile, from rows in lanes.
    #[inline(always)]
    fn enter<const N: usize>(self, _: &mut [float32x4_t; N]) {}

    /// The sums of a tile, to rows in lanes.
    #[inline(always)]
    fn leave<const N: usize>(self, _: &mut [float32x4_t; N]) {}

    /// What belongs to 4 rows, in the lanes of sum `t` of N.
    #[inline(always)]
    fn rows<const N: usize>(self, rows: int32x4_t, _t: usize) -> int32x4_t {
        rows
    }

    /// A field of the group's tokens, in the lanes of sum `t` of N.
    #[inline(always)]
    fn tokens<const N: usize>(self, field: &[i32; N], t: usize) -> float32x4_t {
        self.neon().splat4(f32::from_bits(field[t].cast_unsigned()))
    }
}

/// Four quads, half `h` of a group.
#[inline(always)]
pub(super) fn load_quads(neon: Neon, (kept, part): (&Unpacked, usize), h: usize) -> [int8x16_t; 4] {
    let mut w = [neon.splat_byte(0); 4];
    for j in 0..4 {
        w[j] = neon.as_codes(quarter(neon, &kept.quads[4 * h + j], part));
    }
    w
}

/// Half `h` of the activations of token `t`.
#[inline(always)]
pub(super) fn load_half<const N: usize>(neon: Neon, x: Group<N>, t: usize, h: usize) -> int8x16_t {
    neon.as_bytes(neon.load_words(x.half(t, h)))
}

/// Quarter `part` of a vector.
#[inline(always)]
fn quarter(neon: Neon, vector: &[u8; 64], part: usize) -> uint8x16_t {
    neon.load16(&vector.as_chunks().0[part & 3])
}

/// Quarter `part` of 16 bytes.
#[inline(always)]
fn four_bytes(bytes: &[u8; 16], part: usize) -> u32 {
    u32::from_le_bytes(bytes.as_chunks().0[part & 3])
}

/// Quarter `part` of 16 f16, widened.
#[inline(always)]
fn halves(neon: Neon, halves: &[u8; 32], part: usize) -> float32x4_t {
    neon.load_halves(&halves.as_chunks().0[part & 3])
}

/// The low nibbles of quarter `part` of four vectors, then their high ones.
#[inline(always)]
fn nibbles(neon: Neon, vectors: &[[u8; 64]], part: usize) -> [uint8x16_t; 8] {
    let mask = neon.splat_mask(15);
    let mut w = [mask; 8];
    for j in 0..4 {
        let v = quarter(neon, &vectors[j], part);
        w[j] = neon.and(v, mask);
        w[j + 4] = neon.shift_right_4(v);
    }
    w
}

#[inline(always)]
fn signed(neon: Neon, w: [uint8x16_t; 8]) -> [int8x16_t; 8] {
    let mut codes = [neon.splat_byte(0); 8];
    for j in 0..8 {
        codes[j] = neon.as_codes(w[j]);
    }
    codes
}

/// Scale and minimum of q4_k and q5_k: `scales` is `[group][scale, minimum]`, a byte each for 16 rows.
#[inline(always)]
fn scale_and_minimum(
    neon: Neon,
    part: usize,
    head: &[u8; 64],
    scales: &[u8; 64],
    g: usize,
) -> [float32x4_t; 2] {
    let (factors, scales) = (head.as_chunks().0, scales.as_chunks().0);
    let scale = neon.unsigned_to_f32(neon.unsigned_words(four_bytes(&scales[2 * g], part)));
    let minimum = neon.unsigned_to_f32(neon.unsigned_words(four_bytes(&scales[2 * g + 1], part)));
    let (d, dmin) = (halves(neon, &factors[0], part), halves(neon, &factors[1], part));
    [neon.mul4(d, scale), neon.mul4(dmin, minimum)]
}

/// Keeps one group: the codes as the tier orders them, then what belongs to rows.
#[inline(always)]
fn keep<B: Bytes>(isa: B, w: [int8x16_t; 8], rows: &[int32x4_t], part: usize, to: &mut Unpacked) {
    let neon = isa.neon();
    for j in [0, 2, 4, 6] {
        let quads = isa.order([w[j], w[j + 1]]);
        neon.store16(quads[0], &mut to.quads[j].as_chunks_mut().0[part & 3]);
        neon.store16(quads[1], &mut to.quads[j + 1].as_chunks_mut().0[part & 3]);
    }
    for (words, to) in rows.iter().zip(&mut to.rows) {
        neon.store16(neon.as_bytes(*words), &mut to.as_chunks_mut().0[part & 3]);
    }
}

/// What belongs to 4 rows of a group that was kept.
#[inline(always)]
fn kept_rows(neon: Neon, (kept, part): (&Unpacked, usize), field: usize) -> int32x4_t {
    neon.as_quads(neon.as_codes(quarter(neon, &kept.rows[field], part)))
}

/// One group of weights, quad j in `w[j]`. BITS 4: nibbles 8 too large; when kept, they are not. BITS 8: the integers
/// that they are. BITS 5: codes of at most 5 bits; what stands for a weight is its code times its scale, less its
/// minimum.
#[derive(Clone, Copy)]
pub(crate) struct Codes<const BITS: u8> {
    w: [int8x16_t; 8],
    scale: float32x4_t,
    /// Where BITS is 5.
    minimum: float32x4_t,
}

impl<const BITS: u8> Codes<BITS> {
    /// The links of one sum; `x` are the scale and the scaled sum of the activations.
    #[inline(always)]
    fn links(
        neon: Neon,
        isum: int32x4_t,
        [scale, minimum]: [float32x4_t; 2],
        x: [float32x4_t; 2],
        acc: float32x4_t,
    ) -> float32x4_t {
        let acc = neon.fma4(acc, neon.to_f32(isum), neon.mul4(scale, x[0]));
        match BITS {
            5 => neon.fnma4(acc, minimum, x[1]),
            _ => acc,
        }
    }

    #[inline(always)]
    fn half<B: Bytes, const N: usize>(
        isa: B,
        kept: (&Unpacked, usize),
        h: usize,
        x: Group<N>,
        sums: &mut [int32x4_t; N],
    ) {
        match BITS {
            8 => isa.half::<true, N>(kept, h, x, sums),
            _ => isa.half::<false, N>(kept, h, x, sums),
        }
    }
}

impl<B: Bytes, const BITS: u8> Weights<B> for Codes<BITS> {
    #[inline(always)]
    fn link(&self, isa: B, x: Token, acc: float32x4_t) -> float32x4_t {
        let neon = isa.neon();
        let [w0, w1, w2, w3, w4, w5, w6, w7] = self.w;
        let mut isum = neon.splat_word(if BITS == 4 { x.correction } else { 0 });
        let halves = x.q.as_chunks().0;
        for (w, x) in [[w0, w1, w2, w3], [w4, w5, w6, w7]].into_iter().zip(halves) {
            let x = neon.as_bytes(neon.load_words(x));
            isum = match BITS {
                8 => isa.products::<true>(isum, w, x),
                _ => isa.products::<false>(isum, w, x),
            };
        }
        let x = [x.scale, x.scaled_sum].map(|bits| neon.splat4(f32::from_bits(bits.cast_unsigned())));
        Self::links(neon, isum, [self.scale, self.minimum], x, acc)
    }

    #[inline(always)]
    fn keep(&self, isa: B, part: usize, to: &mut Unpacked) {
        let neon = isa.neon();
        let mut w = self.w;
        if BITS == 4 {
            let offset = neon.splat_byte(8);
            for j in 0..8 {
                w[j] = neon.sub_bytes(w[j], offset);
            }
        }
        keep(isa, w, &[neon.as_words(self.scale), neon.as_words(self.minimum)], part, to);
    }

    #[inline(always)]
    fn tile<const N: usize>(
        isa: B,
        kept: [(&Unpacked, usize); 2],
        x: Group<N>,
        acc: &mut [[float32x4_t; N]; 2],
    ) {
        let neon = isa.neon();
        for v in 0..2 {
            let mut isum = [neon.splat_word(0); N];
            Self::half(isa, kept[v], 0, x, &mut isum);
            Self::half(isa, kept[v], 1, x, &mut isum);
            let (scale, minimum) = (kept_rows(neon, kept[v], 0), kept_rows(neon, kept[v], 1));
            for t in 0..N {
                let rows =
                    [neon.as_floats(isa.rows::<N>(scale, t)), neon.as_floats(isa.rows::<N>(minimum, t))];
                let x = [isa.tokens(x.scales(), t), isa.tokens(x.scaled_sums(), t)];
                acc[v][t] = Self::links(neon, isum[t], rows, x, acc[v][t]);
            }
        }
    }
}

/// One group of q6_k weights, quad j in `w[j]`: the integers that they are.
#[derive(Clone, Copy)]
pub(crate) struct Codes6 {
    w: [int8x16_t; 8],
    d: float32x4_t,
    /// Sub-scales of both halves of the group.
    subs: [int32x4_t; 2],
}

impl Codes6 {
    /// The link of one sum, of whose products with both halves `dots` are the integers.
    #[inline(always)]
    fn links(
        neon: Neon,
        dots: [int32x4_t; 2],
        subs: [int32x4_t; 2],
        d: float32x4_t,
        x_scale: float32x4_t,
        acc: float32x4_t,
    ) -> float32x4_t {
        let isum = neon.mul_add_words(neon.mul_words(dots[0], subs[0]), dots[1], subs[1]);
        neon.fma4(acc, neon.to_f32(isum), neon.mul4(d, x_scale))
    }
}

impl<B: Bytes> Weights<B> for Codes6 {
    #[inline(always)]
    fn link(&self, isa: B, x: Token, acc: float32x4_t) -> float32x4_t {
        let neon = isa.neon();
        let [w0, w1, w2, w3, w4, w5, w6, w7] = self.w;
        let mut dots = [neon.splat_word(0); 2];
        let halves = x.q.as_chunks().0;
        for h in 0..2 {
            let w = [[w0, w1, w2, w3], [w4, w5, w6, w7]][h];
            dots[h] = isa.products::<false>(dots[h], w, neon.as_bytes(neon.load_words(&halves[h])));
        }
        let x_scale = neon.splat4(f32::from_bits(x.scale.cast_unsigned()));
        Codes6::links(neon, dots, self.subs, self.d, x_scale, acc)
    }

    #[inline(always)]
    fn keep(&self, isa: B, part: usize, to: &mut Unpacked) {
        let [s0, s1] = self.subs;
        keep(isa, self.w, &[isa.neon().as_words(self.d), s0, s1], part, to);
    }

    #[inline(always)]
    fn tile<const N: usize>(
        isa: B,
        kept: [(&Unpacked, usize); 2],
        x: Group<N>,
        acc: &mut [[float32x4_t; N]; 2],
    ) {
        let neon = isa.neon();
        for v in 0..2 {
            let mut dots = [[neon.splat_word(0); N]; 2];
            isa.half::<false, N>(kept[v], 0, x, &mut dots[0]);
            isa.half::<false, N>(kept[v], 1, x, &mut dots[1]);
            let d = kept_rows(neon, kept[v], 0);
            let subs = [kept_rows(neon, kept[v], 1), kept_rows(neon, kept[v], 2)];
            for t in 0..N {
                let subs = [isa.rows::<N>(subs[0], t), isa.rows::<N>(subs[1], t)];
                let d = neon.as_floats(isa.rows::<N>(d, t));
                let x_scale = isa.tokens(x.scales(), t);
                acc[v][t] = Codes6::links(neon, [dots[0][t], dots[1][t]], subs, d, x_scale, acc[v][t]);
            }
        }
    }
}

impl<B: Bytes> Dot for B {
    type Acc = float32x4_t;
    const PARTS: usize = 4;
    const TILES: bool = true;
    type Q4_0 = Codes<4>;
    type Q8_0 = Codes<8>;
    type Q6K = Codes6;
    type Q4K = Codes<5>;
    type Q5K = Codes<5>;

    #[inline(always)]
    fn zero(self) -> float32x4_t {
        self.neon().splat4(0.0)
    }

    #[inline(always)]
    fn get(self, sums: &[f32; 16], part: usize) -> float32x4_t {
        self.neon().load4(&sums.as_chunks().0[part & 3])
    }

    #[inline(always)]
    fn put(self, acc: float32x4_t, part: usize, out: &mut [f32; 16]) {
        self.neon().store4(acc, &mut out.as_chunks_mut().0[part & 3]);
    }

    #[inline(always)]
    fn enter<const N: usize>(self, acc: &mut [float32x4_t; N]) {
        Bytes::enter(self, acc);
    }

    #[inline(always)]
    fn leave<const N: usize>(self, acc: &mut [float32x4_t; N]) {
        Bytes::leave(self, acc);
    }

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        self.neon().prefetch(line);
    }

    #[inline(always)]
    fn q4_0(self, part: usize, pair: &[u8; q4_0::BYTES], g: usize) -> Codes<4> {
        let (neon, vectors) = (self.neon(), pair.as_chunks::<64>().0);
        let scale = halves(neon, &vectors[0].as_chunks().0[g], part);
        let w = signed(neon, nibbles(neon, &vectors[1 + 4 * g..][..4], part));
        Codes { w, scale, minimum: scale }
    }

    #[inline(always)]
    fn q8_0(self, part: usize, pair: &[u8; q8_0::BYTES], g: usize) -> Codes<8> {
        let (neon, vectors) = (self.neon(), pair.as_chunks::<64>().0);
        let mut w = [neon.splat_byte(0); 8];
        for j in 0..8 {
            w[j] = neon.as_codes(quarter(neon, &vectors[1 + 8 * g + j], part));
        }
        let scale = halves(neon, &vectors[0].as_chunks().0[g], part);
        Codes { w, scale, minimum: scale }
    }

    #[inline(always)]
    fn q6_k(self, part: usize, head: &[u8; 64], pair: &[u8; q6_k::PAIR_BYTES], g: usize) -> Codes6 {
        let (neon, vectors) = (self.neon(), pair.as_chunks::<64>().0);
        let group = &vectors[1 + 6 * g..][..6];
        let mut w = nibbles(neon, &group[2..], part);
        let high = neon.splat_mask(0x30);
        for h in 0..2 {
            // Quad 4 h + j has its bits 4 and 5 in field j.
            let hi = quarter(neon, &group[h], part);
            let hi = [neon.shift_left_4(hi), neon.shift_left_2(hi), hi, neon.shift_right_2(hi)];
            for j in 0..4 {
                w[4 * h + j] = neon.or(w[4 * h + j], neon.and(hi[j], high));
            }
        }
        let mut w = signed(neon, w);
        let offset = neon.splat_byte(32);
        for j in 0..8 {
            w[j] = neon.sub_bytes(w[j], offset);
        }
        let subs = vectors[0].as_chunks().0;
        Codes6 {
            w,
            d: neon.load4_bytes(&head.as_chunks().0[part & 3]),
            subs: [
                neon.signed_words(four_bytes(&subs[2 * g], part)),
                neon.signed_words(four_bytes(&subs[2 * g + 1], part)),
            ],
        }
    }

    #[inline(always)]
    fn q4_k(self, part: usize, head: &[u8; 64], pair: &[u8; q4_k::PAIR_BYTES], g: usize) -> Codes<5> {
        let (neon, vectors) = (self.neon(), pair.as_chunks::<64>().0);
        let [scale, minimum] = scale_and_minimum(neon, part, head, &vectors[0], g);
        let w = signed(neon, nibbles(neon, &vectors[1 + 4 * g..][..4], part));
        Codes { w, scale, minimum }
    }

    #[inline(always)]
    fn q5_k(self, part: usize, head: &[u8; 64], pair: &[u8; q5_k::PAIR_BYTES], g: usize) -> Codes<5> {
        let (neon, vectors) = (self.neon(), pair.as_chunks::<64>().0);
        let group = &vectors[1 + 5 * g..][..5];
        let mut w = nibbles(neon, &group[1..], part);
        // Bit j belongs to quad j, and goes to bit 4.
        let high = neon.splat_mask(0x10);
        let hi = quarter(neon, &group[0], part);
        let (mut left, mut right) = (hi, hi);
        for j in 0..4 {
            w[4 + j] = neon.or(w[4 + j], neon.and(right, high));
            left = neon.shift_left_1(left);
            w[3 - j] = neon.or(w[3 - j], neon.and(left, high));
            right = neon.shift_right_1(right);
        }
        let [scale, minimum] = scale_and_minimum(neon, part, head, &vectors[0], g);
        Codes { w: signed(neon, w), scale, minimum }
    }
}
