//! Products with f32 and f16 weights: activations stay f32, one fma chain per output element, k ascending.

use crate::lanes::Lanes;

/// A float weight format: one block is 16 rows of one k.
pub(crate) trait Dense {
    /// The bytes of one block.
    type Block;
    fn blocks(row_block: &[u8]) -> &[Self::Block];
    fn load<I: Lanes>(isa: I, block: &Self::Block) -> I::V;
}

pub(crate) struct F32;
pub(crate) struct F16;

impl Dense for F32 {
    type Block = [u8; 64];

    #[inline(always)]
    fn blocks(row_block: &[u8]) -> &[[u8; 64]] {
        row_block.as_chunks().0
    }

    #[inline(always)]
    fn load<I: Lanes>(isa: I, block: &[u8; 64]) -> I::V {
        isa.load_bytes(block)
    }
}

impl Dense for F16 {
    type Block = [u8; 32];

    #[inline(always)]
    fn blocks(row_block: &[u8]) -> &[[u8; 32]] {
        row_block.as_chunks().0
    }

    #[inline(always)]
    fn load<I: Lanes>(isa: I, block: &[u8; 32]) -> I::V {
        isa.widen_bytes(block)
    }
}

/// R row-blocks times T tokens of k elements, `x` row-major; `out[r][t]`: the 16 rows of row-block r for token t.
#[inline(always)]
pub(crate) fn tile<I: Lanes, W: Dense, const R: usize, const T: usize>(
    isa: I,
    row_blocks: [&[u8]; R],
    x: &[f32],
    k: usize,
    out: &mut [[[f32; 16]; T]; R],
) {
    let mut w = [W::blocks(row_blocks[0]); R];
    for r in 0..R {
        w[r] = &W::blocks(row_blocks[r])[..k];
    }
    let mut rows = [x; T];
    for t in 0..T {
        rows[t] = &x[t * k..][..k];
    }
    let mut acc = [[isa.splat(0.0); T]; R];
    for i in 0..k {
        for r in 0..R {
            let w = W::load(isa, &w[r][i]);
            for t in 0..T {
                acc[r][t] = isa.fma(w, isa.splat(rows[t][i]), acc[r][t]);
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            isa.store(acc[r][t], &mut out[r][t]);
        }
    }
}
