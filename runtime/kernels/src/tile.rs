//! The loops of quantised products: one token as two streams from memory, many tokens as tiles in caches.

#![expect(clippy::needless_range_loop, reason = "indices say which token or part is meant")]

use std::ops::Range;

use super::panels::{PANEL, Panel, Panels, WORDS};
use super::quant::{Dot, Group, Quant, Unpacked, Weights};

/// Most groups that are unpacked at once: with those of two row-blocks, L1 also holds the tokens of a tile.
const CHUNK: usize = 16;
/// Most panels between two readings of the weights.
pub(super) const STRIP: usize = 10;

/// Room for [`strip`].
pub(super) struct Strip {
    /// Of each token, the sums of two row-blocks.
    sums: [[[f32; 16]; 2]; STRIP * PANEL],
    unpacked: [[Unpacked; CHUNK]; 2],
}

impl Strip {
    pub(super) const fn new() -> Strip {
        Strip { sums: [[[0.0; 16]; 2]; STRIP * PANEL], unpacked: [[Unpacked::ZERO; CHUNK]; 2] }
    }

    /// Of each token, the sums of two row-blocks.
    pub(super) fn sums(&self) -> &[[[f32; 16]; 2]] {
        &self.sums
    }
}

/// Row-blocks that [`strip`] computes together.
pub(super) const fn at_once<I: Dot>() -> usize {
    2 / I::PARTS
}

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
    let mut acc = [[[isa.zero(); 1]; 2]; 2];
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
            isa.put(acc[0], part, out);
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
    acc: &mut [[I::Acc; 1]; 2],
) {
    if ahead != 0 {
        for line in pair.as_ref().as_chunks::<64>().0 {
            isa.prefetch(line.as_ptr().wrapping_add(ahead));
        }
    }
    for (part, acc) in acc.iter_mut().enumerate().take(I::PARTS) {
        for (g, x) in Group::all(x).enumerate() {
            Q::group(isa, part, head, pair, g).advance(isa, x, acc);
        }
    }
}

/// Cache lines to be asked for little by little, from two places.
struct Coming {
    at: [*const u8; 2],
    /// Lines left of each place.
    left: usize,
    /// Lines of each place to ask for at a time.
    step: usize,
}

impl Coming {
    fn new(places: [&[u8]; 2], times: usize) -> Coming {
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

/// One or two row-blocks ([`at_once`]), each chunk along K unpacked once, times up to [`STRIP`] panels of x. Meanwhile,
/// `next` is brought into caches.
#[inline(always)]
pub(super) fn strip<I: Dot, Q: Quant>(
    isa: I,
    row_blocks: [&[u8]; 2],
    next: [&[u8]; 2],
    x: &Panels,
    panels: Range<usize>,
    strip: &mut Strip,
) {
    let bytes = CHUNK / Q::GROUPS * Q::BYTES;
    for (chunk, at) in (0..row_blocks[0].len()).step_by(bytes).enumerate() {
        let mut groups = 0;
        for (row_block, unpacked) in row_blocks.iter().zip(&mut strip.unpacked).take(at_once::<I>()) {
            groups = unpack::<I, Q>(isa, row_block.get(at..).unwrap_or_default(), unpacked);
        }
        let unpacked = [&strip.unpacked[0][..groups], &strip.unpacked[2 / I::PARTS - 1][..groups]];
        let coming = |rb: usize| match row_blocks[rb].get(at + bytes..) {
            Some(rest) if !rest.is_empty() => &rest[..rest.len().min(bytes)],
            _ => &next[rb][..next[rb].len().min(bytes)],
        };
        let mut coming = Coming::new([coming(0), coming(2 / I::PARTS - 1)], groups * panels.len());
        let mut rest = &mut strip.sums[..];
        for panel in panels.clone().map(|p| x.panel(p)) {
            let Some((sums, others)) = rest.split_at_mut_checked(panel.tokens) else { return };
            rest = others;
            match panel.tokens {
                1 => unreachable!("one token goes through `pair`, and more are cut evenly"),
                2 => tile::<I, Q, 2>(isa, unpacked, &panel, chunk, &mut coming, sums),
                3 => tile::<I, Q, 3>(isa, unpacked, &panel, chunk, &mut coming, sums),
                4 => tile::<I, Q, 4>(isa, unpacked, &panel, chunk, &mut coming, sums),
                5 => tile::<I, Q, 5>(isa, unpacked, &panel, chunk, &mut coming, sums),
                _ => tile::<I, Q, PANEL>(isa, unpacked, &panel, chunk, &mut coming, sums),
            }
        }
    }
}

/// Unpacks up to [`CHUNK`] groups and says how many there were.
#[inline(always)]
fn unpack<I: Dot, Q: Quant>(isa: I, row_block: &[u8], unpacked: &mut [Unpacked; CHUNK]) -> usize {
    let mut groups = 0;
    for block in row_block.chunks_exact(Q::BYTES).take(CHUNK / Q::GROUPS) {
        let Some((head, pairs)) = Q::pairs(block) else { break };
        for (pair, to) in pairs.iter().zip(unpacked[groups..].as_chunks_mut::<2>().0) {
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

/// A panel of N tokens times the unpacked groups of chunk `chunk`.
#[inline(always)]
fn tile<I: Dot, Q: Quant, const N: usize>(
    isa: I,
    unpacked: [&[Unpacked]; 2],
    panel: &Panel,
    chunk: usize,
    coming: &mut Coming,
    sums: &mut [[[f32; 16]; 2]],
) {
    let Some(sums) = sums.first_chunk_mut::<N>() else { return };
    let mut acc = [[isa.zero(); N]; 2];
    if chunk > 0 {
        for v in 0..2 {
            for t in 0..N {
                acc[v][t] = isa.get(&sums[t][v / I::PARTS], v % I::PARTS);
            }
        }
    }
    let words = panel.words.get(chunk * CHUNK * WORDS * N..).unwrap_or_default();
    for ((v, w), x) in unpacked[0].iter().zip(unpacked[1]).zip(Group::<N>::all(words)) {
        coming.ask(isa);
        Q::Weights::<I>::tile(isa, [(v, 0), (w, I::PARTS - 1)], x, &mut acc);
    }
    for v in 0..2 {
        for t in 0..N {
            isa.put(acc[v][t], v % I::PARTS, &mut sums[t][v / I::PARTS]);
        }
    }
}
