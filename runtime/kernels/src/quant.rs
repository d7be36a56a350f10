//! Quantised weights in registers: what a tier supplies for one group of 32, and where the formats keep it.

use lfm_graphs::weights::layout::{q4_0, q4_k, q5_k, q6_k, q8_0};

use super::panels::WORDS;

/// Words of one group of one token of a panel.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    /// The 32 int8.
    pub(super) q: &'a [i32; 8],
    /// The bits of the f32 scale.
    pub(super) scale: i32,
    /// -8 * sum(q)
    pub(super) correction: i32,
    /// The i16 sums of both halves.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "for codes that are unsigned"))]
    pub(super) half_sums: i32,
    /// The bits of the f32 scale * sum(q).
    pub(super) scaled_sum: i32,
}

impl<'a> Token<'a> {
    /// The tokens of one group of a panel of `tokens` tokens.
    #[inline(always)]
    pub(super) fn all(group: &'a [i32], tokens: usize) -> impl Iterator<Item = Token<'a>> {
        let (q, rest) = group.split_at(8 * tokens);
        let (scale, rest) = rest.split_at(tokens);
        let (correction, rest) = rest.split_at(tokens);
        let (half_sums, scaled_sum) = rest.split_at(tokens);
        let fields = scale.iter().zip(correction).zip(half_sums.iter().zip(scaled_sum));
        q.as_chunks().0.iter().zip(fields).map(|(q, ((scale, correction), (half_sums, scaled_sum)))| Token {
            q,
            scale: *scale,
            correction: *correction,
            half_sums: *half_sums,
            scaled_sum: *scaled_sum,
        })
    }
}

/// Words of one group of a panel of N tokens.
#[derive(Clone, Copy)]
pub(super) struct Group<'a, const N: usize>(&'a [i32]);

impl<'a, const N: usize> Group<'a, N> {
    /// The groups of a panel.
    #[inline(always)]
    pub(super) fn all(panel: &'a [i32]) -> impl Iterator<Item = Group<'a, N>> {
        panel.chunks_exact(WORDS * N).map(Group)
    }

    /// Token `t` but for its int8.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn token(self, t: usize) -> Token<'a> {
        Token {
            q: &[0; 8],
            scale: self.0[8 * N + t],
            correction: self.0[9 * N + t],
            half_sums: self.0[10 * N + t],
            scaled_sum: self.0[11 * N + t],
        }
    }

    /// Word `j` of the int8 of token `t`.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(super) fn q(self, t: usize, j: usize) -> i32 {
        self.0[8 * t + j]
    }

    /// Half `h` of the int8 of token `t`.
    #[inline(always)]
    #[cfg(target_arch = "aarch64")]
    pub(super) fn half(self, t: usize, h: usize) -> &'a [i32; 4] {
        &self.0.as_chunks().0[2 * t + h]
    }

    /// The bits of the f32 scales of all tokens.
    #[inline(always)]
    #[cfg(target_arch = "aarch64")]
    pub(super) fn scales(self) -> &'a [i32; N] {
        &self.0.as_chunks().0[8]
    }

    /// The bits of the f32 scale * sum(q) of all tokens.
    #[inline(always)]
    #[cfg(target_arch = "aarch64")]
    pub(super) fn scaled_sums(self) -> &'a [i32; N] {
        &self.0.as_chunks().0[11]
    }
}

/// One group of 16 rows, unpacked: a byte for each code, quad by quad as in the layouts, then what belongs to rows.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Unpacked {
    pub(super) quads: [[u8; 64]; 8],
    pub(super) rows: [[u8; 64]; 4],
}

impl Unpacked {
    pub(super) const ZERO: Unpacked = Unpacked { quads: [[0; 64]; 8], rows: [[0; 64]; 4] };
}

/// One group of weights of a part of 16 rows, in registers.
pub(super) trait Weights<I: Dot>: Copy {
    /// Advances the chains of one token by the links of this group.
    fn link(&self, isa: I, x: Token, acc: I::Acc) -> I::Acc;
    /// Stores it.
    fn keep(&self, isa: I, part: usize, to: &mut Unpacked);
    /// Loads what was stored: for a tier without [`Dot::TILES`].
    fn load(_: I, _: &Unpacked, _: usize) -> Self {
        unreachable!("a tier with tiles")
    }
    /// [`Weights::link`] of N tokens with two groups that were stored, each with its part: for a tier with [`Dot::TILES`].
    fn tile<const N: usize>(_: I, _: [(&Unpacked, usize); 2], _: Group<N>, _: &mut [[I::Acc; N]; 2]) {
        unreachable!("a tier without tiles")
    }
}

/// The integer dot products of a tier.
pub(super) trait Dot: Copy {
    /// f32 accumulators of `16 / PARTS` rows of one token.
    type Acc: Copy;
    /// Into how many parts a row-block's 16 rows are cut: 1, 2 or 4.
    const PARTS: usize;
    /// Whether many tokens are computed in tiles of a panel and two parts, or else one by one with weights that were
    /// stored: less code.
    const TILES: bool;
    type Q4_0: Weights<Self>;
    type Q8_0: Weights<Self>;
    type Q6K: Weights<Self>;
    type Q4K: Weights<Self>;
    type Q5K: Weights<Self>;

    fn zero(self) -> Self::Acc;
    /// Part `part` of 16 rows' sums.
    fn get(self, sums: &[f32; 16], part: usize) -> Self::Acc;
    /// The sums of part `part`, to their place among the 16 rows.
    fn put(self, acc: Self::Acc, part: usize, out: &mut [f32; 16]);
    /// Sums of a tile: what follows [`Dot::get`] and precedes [`Dot::put`], for a tier that holds the rows of some tokens
    /// in another order between the two.
    #[inline(always)]
    fn enter<const N: usize>(self, _: &mut [Self::Acc; N]) {}
    #[inline(always)]
    fn leave<const N: usize>(self, _: &mut [Self::Acc; N]) {}
    /// Asks for a cache line, which need not exist.
    fn prefetch(self, line: *const u8);

    // Group g of a pair of groups; `head` is what the block begins with.
    fn q4_0(self, part: usize, pair: &[u8; q4_0::BYTES], g: usize) -> Self::Q4_0;
    fn q8_0(self, part: usize, pair: &[u8; q8_0::BYTES], g: usize) -> Self::Q8_0;
    fn q6_k(self, part: usize, head: &[u8; 64], pair: &[u8; q6_k::PAIR_BYTES], g: usize) -> Self::Q6K;
    fn q4_k(self, part: usize, head: &[u8; 64], pair: &[u8; q4_k::PAIR_BYTES], g: usize) -> Self::Q4K;
    fn q5_k(self, part: usize, head: &[u8; 64], pair: &[u8; q5_k::PAIR_BYTES], g: usize) -> Self::Q5K;
}

/// A quantised weight format: blocks of pairs of groups.
pub(super) trait Quant {
    type Pair: AsRef<[u8]>;
    type Weights<I: Dot>: Weights<I>;
    /// Bytes of a block.
    const BYTES: usize;
    /// Groups of 32 in a block.
    const GROUPS: usize;
    /// The first 64 bytes of a block, and its pairs.
    fn pairs(block: &[u8]) -> Option<(&[u8; 64], &[Self::Pair])>;
    /// Group g of a pair.
    fn group<I: Dot>(isa: I, part: usize, head: &[u8; 64], pair: &Self::Pair, g: usize) -> Self::Weights<I>;
}

pub(super) struct Q4_0;
pub(super) struct Q8_0;
pub(super) struct Q6K;
pub(super) struct Q4K;
pub(super) struct Q5K;

impl Quant for Q4_0 {
    type Pair = [u8; q4_0::BYTES];
    type Weights<I: Dot> = I::Q4_0;
    const BYTES: usize = q4_0::BYTES;
    const GROUPS: usize = q4_0::GROUPS;

    #[inline(always)]
    fn pairs(block: &[u8]) -> Option<(&[u8; 64], &[Self::Pair])> {
        Some((block.first_chunk()?, block.as_chunks().0))
    }

    #[inline(always)]
    fn group<I: Dot>(isa: I, part: usize, _head: &[u8; 64], pair: &Self::Pair, g: usize) -> I::Q4_0 {
        isa.q4_0(part, pair, g)
    }
}

impl Quant for Q8_0 {
    type Pair = [u8; q8_0::BYTES];
    type Weights<I: Dot> = I::Q8_0;
    const BYTES: usize = q8_0::BYTES;
    const GROUPS: usize = q8_0::GROUPS;

    #[inline(always)]
    fn pairs(block: &[u8]) -> Option<(&[u8; 64], &[Self::Pair])> {
        Some((block.first_chunk()?, block.as_chunks().0))
    }

    #[inline(always)]
    fn group<I: Dot>(isa: I, part: usize, _head: &[u8; 64], pair: &Self::Pair, g: usize) -> I::Q8_0 {
        isa.q8_0(part, pair, g)
    }
}

impl Quant for Q6K {
    type Pair = [u8; q6_k::PAIR_BYTES];
    type Weights<I: Dot> = I::Q6K;
    const BYTES: usize = q6_k::BYTES;
    const GROUPS: usize = 2 * q6_k::PAIRS;

    #[inline(always)]
    fn pairs(block: &[u8]) -> Option<(&[u8; 64], &[Self::Pair])> {
        block.split_first_chunk().map(|(head, pairs)| (head, pairs.as_chunks().0))
    }

    #[inline(always)]
    fn group<I: Dot>(isa: I, part: usize, head: &[u8; 64], pair: &Self::Pair, g: usize) -> I::Q6K {
        isa.q6_k(part, head, pair, g)
    }
}

impl Quant for Q4K {
    type Pair = [u8; q4_k::PAIR_BYTES];
    type Weights<I: Dot> = I::Q4K;
    const BYTES: usize = q4_k::BYTES;
    const GROUPS: usize = 2 * q4_k::PAIRS;

    #[inline(always)]
    fn pairs(block: &[u8]) -> Option<(&[u8; 64], &[Self::Pair])> {
        block.split_first_chunk().map(|(head, pairs)| (head, pairs.as_chunks().0))
    }

    #[inline(always)]
    fn group<I: Dot>(isa: I, part: usize, head: &[u8; 64], pair: &Self::Pair, g: usize) -> I::Q4K {
        isa.q4_k(part, head, pair, g)
    }
}

impl Quant for Q5K {
    type Pair = [u8; q5_k::PAIR_BYTES];
    type Weights<I: Dot> = I::Q5K;
    const BYTES: usize = q5_k::BYTES;
    const GROUPS: usize = 2 * q5_k::PAIRS;

    #[inline(always)]
    fn pairs(block: &[u8]) -> Option<(&[u8; 64], &[Self::Pair])> {
        block.split_first_chunk().map(|(head, pairs)| (head, pairs.as_chunks().0))
    }

    #[inline(always)]
    fn group<I: Dot>(isa: I, part: usize, head: &[u8; 64], pair: &Self::Pair, g: usize) -> I::Q5K {
        isa.q5_k(part, head, pair, g)
    }
}

const _: () = assert!(q6_k::PAIR_0 == 64 && q4_k::PAIR_0 == 64 && q5_k::PAIR_0 == 64);
