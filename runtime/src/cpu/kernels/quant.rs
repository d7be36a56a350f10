//! Products with quantised weights: what a tier supplies for one block, and the loops along K around it.

use lfm_graphs::weights::layout::{GROUP, q4_0, q4_k, q5_k, q6_k, q8_0};

use super::panels::{PANEL, WORDS};

/// Most parts of a row-block: 4 rows each.
pub(super) const MAX_PARTS: usize = 4;

/// Words of some tokens of a panel, from some group on.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    words: &'a [i32],
    /// Tokens of the panel.
    tokens: usize,
    /// The first of those meant.
    first: usize,
}

impl<'a> Words<'a> {
    /// Tokens `first..` of a panel of `tokens` tokens.
    #[inline(always)]
    pub(super) fn new(words: &'a [i32], tokens: usize, first: usize) -> Words<'a> {
        Words { words, tokens, first }
    }

    /// The next `groups` groups; the others stay.
    #[inline(always)]
    fn take(&mut self, groups: usize) -> Option<Words<'a>> {
        let (words, rest) = self.words.split_at_checked(groups * WORDS * self.tokens)?;
        self.words = rest;
        Some(Words { words, ..*self })
    }

    /// Group `g` of N tokens.
    #[inline(always)]
    pub(super) fn group<const N: usize>(&self, g: usize) -> Group<'a, N> {
        let words = &self.words[g * WORDS * self.tokens..][..WORDS * self.tokens];
        Group { words, tokens: self.tokens, first: self.first }
    }
}

/// Words of one group of N tokens of a panel.
#[derive(Clone, Copy)]
pub(super) struct Group<'a, const N: usize> {
    words: &'a [i32],
    tokens: usize,
    first: usize,
}

impl<'a, const N: usize> Group<'a, N> {
    /// Each token's 32 int8.
    #[inline(always)]
    pub(super) fn q(&self) -> &'a [[i32; 8]; N] {
        some(self.words.as_chunks().0, self.first)
    }

    /// The bits of each token's f32 scale.
    #[inline(always)]
    pub(super) fn scales(&self) -> &'a [i32; N] {
        some(self.words, 8 * self.tokens + self.first)
    }

    /// Each token's -8 * sum(q).
    #[inline(always)]
    pub(super) fn corrections(&self) -> &'a [i32; N] {
        some(self.words, 9 * self.tokens + self.first)
    }

    /// Each token's i16 sums of both halves.
    #[inline(always)]
    pub(super) fn half_sums(&self) -> &'a [i32; N] {
        some(self.words, 10 * self.tokens + self.first)
    }

    /// The bits of each token's f32 scale * sum(q).
    #[inline(always)]
    pub(super) fn scaled_sums(&self) -> &'a [i32; N] {
        some(self.words, 11 * self.tokens + self.first)
    }
}

/// The N elements from `at` on.
#[inline(always)]
fn some<T, const N: usize>(all: &[T], at: usize) -> &[T; N] {
    match all[at..].first_chunk() {
        Some(some) => some,
        None => panic!("tokens past their panel"),
    }
}

/// The integer dot products of a tier. `x` is always the words of the block's groups, N tokens.
///
/// Each method advances the chains of its lanes by the links of the contract, group by group.
pub(super) trait Dot: Copy {
    /// f32 accumulators of `16 / PARTS` rows of one token.
    type Acc: Copy;
    /// Into how many parts a row-block's 16 rows are cut, at most [`MAX_PARTS`].
    const PARTS: usize;
    /// Most tokens that a tile computes together: a whole panel, or half of one where registers hold less.
    const TOKENS: usize;

    fn zero(self) -> Self::Acc;
    /// The sums of part `part`, to their place among the 16 rows.
    fn put(self, acc: Self::Acc, part: usize, out: &mut [f32; 16]);
    /// Asks for the cache lines of as many bytes as `like` has, `distance` bytes further on.
    fn prefetch(self, like: &[u8], distance: usize);

    fn q4_0<const N: usize>(self, part: usize, w: &[u8; q4_0::BYTES], x: Words, acc: &mut [Self::Acc; N]);
    fn q8_0<const N: usize>(self, part: usize, w: &[u8; q8_0::BYTES], x: Words, acc: &mut [Self::Acc; N]);
    /// One pair of groups of a q6_k block; `d` is the head of the block.
    fn q6_k<const N: usize>(
        self,
        part: usize,
        d: &[u8; q6_k::PAIR_0],
        w: &[u8; q6_k::PAIR_BYTES],
        x: Words,
        acc: &mut [Self::Acc; N],
    );
    /// One pair of groups of a q4_k or q5_k block, which its size tells; `d` is the head of the block.
    fn k<const N: usize, const BYTES: usize>(
        self,
        part: usize,
        d: &[u8; q4_k::PAIR_0],
        w: &[u8; BYTES],
        x: Words,
        acc: &mut [Self::Acc; N],
    );
}

/// A quantised weight format.
pub(super) trait Quant {
    type Block;
    /// Groups of 32 in a block.
    const GROUPS: usize;
    fn blocks(row_block: &[u8]) -> &[Self::Block];
    /// Advances part `part` of N tokens by one block; unless `ahead` is 0, prefetches as much so many bytes further on.
    fn step<I: Dot, const N: usize>(
        isa: I,
        part: usize,
        w: &Self::Block,
        x: Words,
        acc: &mut [I::Acc; N],
        ahead: usize,
    );
}

pub(super) struct Q4_0;
pub(super) struct Q8_0;
pub(super) struct Q6K;
/// q4_k and q5_k.
pub(super) struct K<const PAIR: usize, const BLOCK: usize>;
pub(super) type Q4K = K<{ q4_k::PAIR_BYTES }, { q4_k::BYTES }>;
pub(super) type Q5K = K<{ q5_k::PAIR_BYTES }, { q5_k::BYTES }>;

#[inline(always)]
fn prefetch<I: Dot>(isa: I, like: &[u8], ahead: usize) {
    if ahead != 0 {
        isa.prefetch(like, ahead);
    }
}

impl Quant for Q4_0 {
    type Block = [u8; q4_0::BYTES];
    const GROUPS: usize = q4_0::GROUPS;

    #[inline(always)]
    fn blocks(row_block: &[u8]) -> &[Self::Block] {
        row_block.as_chunks().0
    }

    #[inline(always)]
    fn step<I: Dot, const N: usize>(
        isa: I,
        part: usize,
        w: &Self::Block,
        x: Words,
        acc: &mut [I::Acc; N],
        ahead: usize,
    ) {
        prefetch(isa, w, ahead);
        isa.q4_0(part, w, x, acc);
    }
}

impl Quant for Q8_0 {
    type Block = [u8; q8_0::BYTES];
    const GROUPS: usize = q8_0::GROUPS;

    #[inline(always)]
    fn blocks(row_block: &[u8]) -> &[Self::Block] {
        row_block.as_chunks().0
    }

    #[inline(always)]
    fn step<I: Dot, const N: usize>(
        isa: I,
        part: usize,
        w: &Self::Block,
        x: Words,
        acc: &mut [I::Acc; N],
        ahead: usize,
    ) {
        prefetch(isa, w, ahead);
        isa.q8_0(part, w, x, acc);
    }
}

/// Head and pairs of a block of a format that has them. The loop over pairs stays one: unrolled over the whole block,
/// hardware prefetchers lose the stream.
#[inline(always)]
fn pairs<const HEAD: usize, const PAIR: usize>(block: &[u8]) -> Option<(&[u8; HEAD], &[[u8; PAIR]])> {
    let (head, pairs) = block.split_first_chunk()?;
    Some((head, pairs.as_chunks().0))
}

impl Quant for Q6K {
    type Block = [u8; q6_k::BYTES];
    const GROUPS: usize = 2 * q6_k::PAIRS;

    #[inline(always)]
    fn blocks(row_block: &[u8]) -> &[Self::Block] {
        row_block.as_chunks().0
    }

    #[inline(always)]
    fn step<I: Dot, const N: usize>(
        isa: I,
        part: usize,
        w: &Self::Block,
        mut x: Words,
        acc: &mut [I::Acc; N],
        ahead: usize,
    ) {
        let Some((d, pairs)) = pairs(w) else { return };
        for w in pairs {
            let Some(x) = x.take(2) else { return };
            prefetch(isa, w, ahead);
            isa.q6_k(part, d, w, x, acc);
        }
    }
}

impl<const PAIR: usize, const BLOCK: usize> Quant for K<PAIR, BLOCK> {
    type Block = [u8; BLOCK];
    const GROUPS: usize = 2 * q4_k::PAIRS;

    #[inline(always)]
    fn blocks(row_block: &[u8]) -> &[Self::Block] {
        row_block.as_chunks().0
    }

    #[inline(always)]
    fn step<I: Dot, const N: usize>(
        isa: I,
        part: usize,
        w: &Self::Block,
        mut x: Words,
        acc: &mut [I::Acc; N],
        ahead: usize,
    ) {
        let Some((d, pairs)) = pairs::<{ q4_k::PAIR_0 }, PAIR>(w) else { return };
        for w in pairs {
            let Some(x) = x.take(2) else { return };
            prefetch(isa, w, ahead);
            isa.k(part, d, w, x, acc);
        }
    }
}

/// One row-block times N tokens of a panel; `out[t]`: the 16 rows of token t.
///
/// Unless `ahead` is 0, what lies so many bytes further on is prefetched, evenly spread between the arithmetic.
#[inline(always)]
pub(super) fn tile<I: Dot, Q: Quant, const N: usize>(
    isa: I,
    row_block: &[u8],
    x: Words,
    ahead: usize,
    out: &mut [[f32; 16]; N],
) {
    // Constants where the whole panel is computed at once.
    let whole = I::TOKENS == PANEL;
    let x = if whole { Words { tokens: N, first: 0, ..x } } else { x };
    for part in 0..I::PARTS {
        let mut acc = [isa.zero(); N];
        let mut x = x;
        for w in Q::blocks(row_block) {
            let Some(x) = x.take(Q::GROUPS) else { break };
            Q::step::<I, N>(isa, part, w, x, &mut acc, if part == 0 { ahead } else { 0 });
        }
        for (acc, out) in acc.iter().zip(out.iter_mut()) {
            isa.put(*acc, part, out);
        }
    }
}

/// Two row-blocks, from two places in memory, times one token, in one loop; `ahead` as for [`tile`].
#[inline(always)]
pub(super) fn pair<I: Dot, Q: Quant>(
    isa: I,
    row_blocks: [&[u8]; 2],
    x: &[i32],
    ahead: usize,
    out: &mut [[f32; 16]; 2],
) {
    let [mut first, mut second] = [[[isa.zero(); 1]; MAX_PARTS]; 2];
    let mut x = Words::new(x, 1, 0);
    for (v, w) in Q::blocks(row_blocks[0]).iter().zip(Q::blocks(row_blocks[1])) {
        let Some(x) = x.take(Q::GROUPS) else { break };
        whole::<I, Q>(isa, v, x, ahead, &mut first);
        whole::<I, Q>(isa, w, x, ahead, &mut second);
    }
    for (acc, out) in [first, second].iter().zip(out) {
        for (part, acc) in acc.iter().enumerate().take(I::PARTS) {
            isa.put(acc[0], part, out);
        }
    }
}

/// All parts of one block for one token.
#[inline(always)]
fn whole<I: Dot, Q: Quant>(isa: I, w: &Q::Block, x: Words, ahead: usize, acc: &mut [[I::Acc; 1]; MAX_PARTS]) {
    for (part, acc) in acc.iter_mut().enumerate().take(I::PARTS) {
        Q::step::<I, 1>(isa, part, w, x, acc, if part == 0 { ahead } else { 0 });
    }
}

const _: () = assert!(q4_0::K == q4_0::GROUPS * GROUP && q8_0::K == q8_0::GROUPS * GROUP);
const _: () = assert!(q4_k::PAIRS == q5_k::PAIRS && q4_k::PAIR_0 == q5_k::PAIR_0);
