//! Products with quantised weights: what a tier supplies for one block, and the loops along K around it.

use lfm_graphs::weights::layout::{GROUP, q4_0, q6_k, q8_0};

use super::panels::WORDS;

/// Most parts of a row-block: 4 rows each.
pub(super) const MAX_PARTS: usize = 4;

/// The integer dot products of a tier. `x` is always the panel words of the block's groups, T tokens.
///
/// Each method advances the chains of its lanes by one link per group of 32:
/// `acc = fma(f32(isum), w_scale * x_scale, acc)`.
pub(super) trait Dot: Copy {
    /// f32 accumulators of `16 / PARTS` rows of one token.
    type Acc: Copy;
    /// Into how many parts a row-block's 16 rows are cut, at most [`MAX_PARTS`].
    const PARTS: usize;

    fn zero(self) -> Self::Acc;
    /// The sums of part `part`, to their place among the 16 rows.
    fn put(self, acc: Self::Acc, part: usize, out: &mut [f32; 16]);
    /// Asks for the cache lines of as many bytes as `like` has, `distance` bytes further on.
    fn prefetch(self, like: &[u8], distance: usize);

    fn q4_0<const T: usize>(self, part: usize, w: &[u8; q4_0::BYTES], x: &[i32], acc: &mut [Self::Acc; T]);
    fn q8_0<const T: usize>(self, part: usize, w: &[u8; q8_0::BYTES], x: &[i32], acc: &mut [Self::Acc; T]);
    /// One pair of groups of a q6_k block; `d` is the head of the block.
    fn q6_k<const T: usize>(
        self,
        part: usize,
        d: &[u8; q6_k::PAIR_0],
        w: &[u8; q6_k::PAIR_BYTES],
        x: &[i32],
        acc: &mut [Self::Acc; T],
    );
}

/// A quantised weight format.
pub(super) trait Quant {
    type Block;
    /// Groups of 32 in a block.
    const GROUPS: usize;
    fn blocks(row_block: &[u8]) -> &[Self::Block];
    /// Advances part `part` of every token by one block; with `AHEAD`, prefetches as much `ahead` bytes further on.
    fn step<I: Dot, const T: usize, const AHEAD: bool>(
        isa: I,
        part: usize,
        w: &Self::Block,
        x: &[i32],
        acc: &mut [I::Acc; T],
        ahead: usize,
    );
}

pub(super) struct Q4_0;
pub(super) struct Q8_0;
pub(super) struct Q6K;

impl Quant for Q4_0 {
    type Block = [u8; q4_0::BYTES];
    const GROUPS: usize = q4_0::GROUPS;

    #[inline(always)]
    fn blocks(row_block: &[u8]) -> &[Self::Block] {
        row_block.as_chunks().0
    }

    #[inline(always)]
    fn step<I: Dot, const T: usize, const AHEAD: bool>(
        isa: I,
        part: usize,
        w: &Self::Block,
        x: &[i32],
        acc: &mut [I::Acc; T],
        ahead: usize,
    ) {
        if AHEAD {
            isa.prefetch(w, ahead);
        }
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
    fn step<I: Dot, const T: usize, const AHEAD: bool>(
        isa: I,
        part: usize,
        w: &Self::Block,
        x: &[i32],
        acc: &mut [I::Acc; T],
        ahead: usize,
    ) {
        if AHEAD {
            isa.prefetch(w, ahead);
        }
        isa.q8_0(part, w, x, acc);
    }
}

impl Quant for Q6K {
    type Block = [u8; q6_k::BYTES];
    const GROUPS: usize = 2 * q6_k::PAIRS;

    #[inline(always)]
    fn blocks(row_block: &[u8]) -> &[Self::Block] {
        row_block.as_chunks().0
    }

    /// A loop over pairs: unrolled over the whole block, hardware prefetchers lose the stream.
    #[inline(always)]
    fn step<I: Dot, const T: usize, const AHEAD: bool>(
        isa: I,
        part: usize,
        w: &Self::Block,
        x: &[i32],
        acc: &mut [I::Acc; T],
        ahead: usize,
    ) {
        let Some((d, pairs)) = w.split_first_chunk() else { return };
        for (w, x) in pairs.as_chunks().0.iter().zip(x.chunks_exact(2 * WORDS * T)) {
            if AHEAD {
                isa.prefetch(w, ahead);
            }
            isa.q6_k(part, d, w, x, acc);
        }
    }
}

/// One row-block times one panel of T tokens; `out[t]`: the 16 rows of token t.
///
/// With `AHEAD`, what lies `ahead` bytes further on is prefetched, evenly spread between the arithmetic.
#[inline(always)]
pub(super) fn tile<I: Dot, Q: Quant, const T: usize, const AHEAD: bool>(
    isa: I,
    row_block: &[u8],
    x: &[i32],
    ahead: usize,
    out: &mut [[f32; 16]; T],
) {
    for part in 0..I::PARTS {
        let mut acc = [isa.zero(); T];
        for (w, x) in Q::blocks(row_block).iter().zip(x.chunks_exact(Q::GROUPS * WORDS * T)) {
            Q::step::<I, T, AHEAD>(isa, part, w, x, &mut acc, ahead);
        }
        for (acc, out) in acc.iter().zip(out.iter_mut()) {
            isa.put(*acc, part, out);
        }
    }
}

/// Two row-blocks, from two places in memory, times one token, in one loop; `AHEAD` as for [`tile`].
#[inline(always)]
pub(super) fn pair<I: Dot, Q: Quant, const AHEAD: bool>(
    isa: I,
    row_blocks: [&[u8]; 2],
    x: &[i32],
    ahead: usize,
    out: &mut [[f32; 16]; 2],
) {
    let [mut first, mut second] = [[[isa.zero(); 1]; MAX_PARTS]; 2];
    let blocks = Q::blocks(row_blocks[0]).iter().zip(Q::blocks(row_blocks[1]));
    for ((v, w), x) in blocks.zip(x.chunks_exact(Q::GROUPS * WORDS)) {
        whole::<I, Q, AHEAD>(isa, v, x, ahead, &mut first);
        whole::<I, Q, AHEAD>(isa, w, x, ahead, &mut second);
    }
    for (acc, out) in [first, second].iter().zip(out) {
        for (part, acc) in acc.iter().enumerate().take(I::PARTS) {
            isa.put(acc[0], part, out);
        }
    }
}

/// All parts of one block for one token.
#[inline(always)]
fn whole<I: Dot, Q: Quant, const AHEAD: bool>(
    isa: I,
    w: &Q::Block,
    x: &[i32],
    ahead: usize,
    acc: &mut [[I::Acc; 1]; MAX_PARTS],
) {
    for (part, acc) in acc.iter_mut().enumerate().take(I::PARTS) {
        if part == 0 {
            Q::step::<I, 1, AHEAD>(isa, part, w, x, acc, ahead);
        } else {
            Q::step::<I, 1, false>(isa, part, w, x, acc, 0);
        }
    }
}

const _: () = assert!(q4_0::K == q4_0::GROUPS * GROUP && q8_0::K == q8_0::GROUPS * GROUP);
