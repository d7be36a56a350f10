//! The loops of quantised products: one token as two streams from memory, many tokens as tiles in caches.

#![expect(clippy::needless_range_loop, reason = "indices say which token or row-block is meant")]

use std::ops::Range;

use super::panels::{PANEL, Panels, WORDS};
use super::quant::{Dot, Group, Quant, Token, Unpacked, Weights};

/// Most groups that are unpacked at once: with those of two row-blocks, L1 also holds the tokens of a tile.
pub(super) const CHUNK: usize = 16;
/// Most panels between two readings of the weights.
pub(super) const STRIP: usize = 10;

/// A chunk along K of up to two row-blocks: 16 rows, [`CHUNK`] groups each.
pub(super) type Chunk = [[Unpacked; CHUNK]; 2];

/// Of each token of a strip, the sums of up to two row-blocks.
pub(super) type Sums = [[[f32; 16]; 2]; STRIP * PANEL];

/// Two row-blocks, from two places in memory, times one token, in one loop. Unless `ahead` is 0, what lies so many bytes
/// further on is prefetched, evenly spread between the arithmetic.
#[inline(always)]
pub(super) fn pair<I: Dot, Q: Quant>(
    isa: I,
    row_blocks: [&[u8]; 2],
    x: &[i32],
    ahead: usize,
    out: &mut [[f32; 16]; 2],
) {
    let mut acc = [[isa.zero(); 4]; 2];
    let mut x = x.chunks_exact(2 * WORDS);
    let blocks = row_blocks[0].chunks_exact(Q::BYTES).zip(row_blocks[1].chunks_exact(Q::BYTES));
    for (v, w) in blocks {
        let (Some((v_head, v)), Some((w_head, w))) = (Q::pairs(v), Q::pairs(w)) else { return };
        // The loop over pairs stays one: unrolled over the whole block, hardware prefetchers lose the stream.
        for ((v, w), x) in v.iter().zip(w).zip(&mut x) {
            both::<I, Q>(isa, v_head, v, x, ahead, &mut acc[0]);
            both::<I, Q>(isa, w_head, w, x, ahead, &mut acc[1]);
        }
    }
    for (acc, out) in acc.iter().zip(out) {
        for (part, acc) in acc.iter().enumerate().take(I::PARTS) {
            isa.put(*acc, part, out);
        }
    }
}

/// All parts of a pair of groups, for one token.
#[inline(always)]
fn both<I: Dot, Q: Quant>(
    isa: I,
    head: &[u8; 64],
    pair: &Q::Pair,
    x: &[i32],
    ahead: usize,
    acc: &mut [I::Acc; 4],
) {
    if ahead != 0 {
        for line in pair.as_ref().as_chunks::<64>().0 {
            isa.prefetch(line.as_ptr().wrapping_add(ahead));
        }
    }
    for (part, acc) in acc.iter_mut().enumerate().take(I::PARTS) {
        for (g, x) in x.chunks_exact(WORDS).enumerate() {
            for x in Token::all(x, 1) {
                *acc = Q::group(isa, part, head, pair, g).link(isa, x, *acc);
            }
        }
    }
}

/// Cache lines of two places, to be asked for little by little. A tile takes it by value: behind a reference, it would be
/// loaded and stored with every group, 7 % of a prefill.
#[derive(Clone, Copy)]
pub(super) struct Coming {
    at: [*const u8; 2],
    /// Lines left of each place.
    left: usize,
    /// Lines of each place to ask for at a time.
    step: usize,
}

impl Coming {
    /// To be asked for in `times` times.
    pub(super) fn new(places: [&[u8]; 2], times: usize) -> Coming {
        let left = places[0].len().max(places[1].len()).div_ceil(64);
        Coming { at: places.map(<[u8]>::as_ptr), left, step: left.div_ceil(times.max(1)) }
    }

    #[inline(always)]
    fn ask<I: Dot>(&mut self, isa: I) {
        for _ in 0..self.step.min(self.left) {
            isa.prefetch(self.at[0]);
            isa.prefetch(self.at[1]);
            self.at = [self.at[0].wrapping_add(64), self.at[1].wrapping_add(64)];
            self.left -= 1;
        }
    }
}

/// Unpacks up to [`CHUNK`] groups and says how many there were.
#[inline(always)]
pub(super) fn unpack<I: Dot, Q: Quant>(isa: I, row_block: &[u8], to: &mut [Unpacked; CHUNK]) -> usize {
    let mut groups = 0;
    for block in row_block.chunks_exact(Q::BYTES).take(CHUNK / Q::GROUPS) {
        let Some((head, pairs)) = Q::pairs(block) else { break };
        for (pair, to) in pairs.iter().zip(to[groups..].as_chunks_mut::<2>().0) {
            for part in 0..I::PARTS {
                for g in 0..2 {
                    Q::group(isa, part, head, pair, g).keep(isa, part, &mut to[g]);
                }
            }
            groups += 2;
        }
    }
    groups
}

/// Advances the sums of the panels `panels` of x, [`STRIP`] at most, by the groups of `unpacked`, the first of which is
/// group `group` of the row-blocks. Meanwhile, `coming` is brought into caches.
#[inline(always)]
pub(super) fn strip<I: Dot, W: Weights<I>>(
    isa: I,
    unpacked: [&[Unpacked]; 2],
    group: usize,
    x: &Panels,
    panels: Range<usize>,
    mut coming: Coming,
    sums: &mut Sums,
) {
    let coming = &mut coming;
    let mut rest = &mut sums[..];
    for panel in panels.map(|p| x.panel(p)) {
        let Some((sums, others)) = rest.split_at_mut_checked(panel.tokens) else { return };
        rest = others;
        let words = panel.words.get(group * WORDS * panel.tokens..).unwrap_or_default();
        match panel.tokens {
            tokens if !I::TILES => {
                for (w, x) in unpacked[0].iter().zip(words.chunks_exact(WORDS * tokens)) {
                    coming.ask(isa);
                    for part in 0..I::PARTS {
                        let w = W::load(isa, w, part);
                        for (x, sums) in Token::all(x, tokens).zip(&mut *sums) {
                            isa.put(w.link(isa, x, isa.get(&sums[0], part)), part, &mut sums[0]);
                        }
                    }
                }
            }
            1 => tile::<I, W, 1>(isa, unpacked, words, coming, sums),
            2 => tile::<I, W, 2>(isa, unpacked, words, coming, sums),
            3 => tile::<I, W, 3>(isa, unpacked, words, coming, sums),
            4 => tile::<I, W, 4>(isa, unpacked, words, coming, sums),
            5 => tile::<I, W, 5>(isa, unpacked, words, coming, sums),
            PANEL => tile::<I, W, PANEL>(isa, unpacked, words, coming, sums),
            other => unreachable!("a panel of {other} tokens among others"),
        }
    }
}

/// Row-blocks that [`strip`] computes together.
pub(super) const fn together<I: Dot>() -> usize {
    if I::PARTS == 1 { 2 } else { 1 }
}

/// The row-block and the part in it of part `n` of all.
const fn place<I: Dot>(n: usize) -> (usize, usize) {
    (n / I::PARTS, n % I::PARTS)
}

/// A panel of N tokens, two parts at a time.
#[inline(always)]
fn tile<I: Dot, W: Weights<I>, const N: usize>(
    isa: I,
    unpacked: [&[Unpacked]; 2],
    words: &[i32],
    coming: &mut Coming,
    sums: &mut [[[f32; 16]; 2]],
) {
    let Some(sums) = sums.first_chunk_mut::<N>() else { return };
    for first in (0..I::PARTS.max(2)).step_by(2) {
        let ((rb0, part0), (rb1, part1)) = (place::<I>(first), place::<I>(first + 1));
        let mut acc = [[isa.zero(); N]; 2];
        for t in 0..N {
            acc[0][t] = isa.get(&sums[t][rb0], part0);
            acc[1][t] = isa.get(&sums[t][rb1], part1);
        }
        isa.enter(&mut acc[0]);
        isa.enter(&mut acc[1]);
        for ((v, w), x) in unpacked[rb0].iter().zip(unpacked[rb1]).zip(Group::<N>::all(words)) {
            if first == 0 {
                coming.ask(isa);
            }
            W::tile(isa, [(v, part0), (w, part1)], x, &mut acc);
        }
        isa.leave(&mut acc[0]);
        isa.leave(&mut acc[1]);
        for t in 0..N {
            isa.put(acc[0][t], part0, &mut sums[t][rb0]);
            isa.put(acc[1][t], part1, &mut sums[t][rb1]);
        }
    }
}
