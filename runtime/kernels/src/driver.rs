//! Matrix products: the loops over row-blocks and tokens around a tier's tiles.

use std::ops::Range;

use lfm_graphs::weights::Format;
use lfm_graphs::weights::layout::ROWS;

use super::body::dense::{self, Dense};
use super::cols::Cols;
use super::lanes::Lanes;
use super::matrix::Matrix;
use super::ops::Input;
use super::panels::{PANEL, Panels};
use super::quant::{self, Dot, Quant, Unpacked, Weights};
use super::tile::{self, CHUNK, Chunk, Coming, STRIP, Sums};

/// The entry points for quantised weights that a tier compiles with its CPU features.
pub(super) trait Products: Dot {
    /// What computes products with float weights.
    type Floats: Floats;
    fn floats(self) -> Self::Floats;
    /// How far, in bytes, to prefetch the two streams of one token's product on this CPU; 0: not at all.
    fn stream_ahead(self) -> usize;
    /// [`tile::unpack`]
    fn quant_unpack<Q: Quant>(self, row_block: &[u8], to: &mut [Unpacked; CHUNK]) -> usize;
    /// [`tile::strip`]
    fn quant_strip<W: Weights<Self>>(
        self,
        unpacked: [&[Unpacked]; 2],
        group: usize,
        x: &Panels,
        panels: Range<usize>,
        coming: Coming,
        sums: &mut Sums,
    );
    /// [`tile::pair`]
    fn quant_pair<Q: Quant>(self, row_blocks: [&[u8]; 2], x: &[i32], ahead: usize, out: &mut [[f32; 16]; 2]);
}

/// The entry points for float weights.
pub(super) trait Floats: Lanes {
    /// [`dense::tile`]
    fn dense_tile<W: Dense, const R: usize, const T: usize>(
        self,
        row_blocks: [&[u8]; R],
        x: &[f32],
        k: usize,
        out: &mut [[[f32; 16]; T]; R],
    );
}

/// Panics unless the operands of a product fit together.
pub(super) fn check(w: &Matrix, row_blocks: &Range<usize>, x: &Input, out: &Cols) {
    let (tokens, k) = match x {
        Input::Panels(panels) if w.format().is_quantised() => (panels.tokens(), panels.k()),
        Input::Rows(rows) if !w.format().is_quantised() => {
            (rows.len() / w.k(), rows.len() / out.tokens().max(1))
        }
        Input::Panels(_) | Input::Rows(_) => panic!("{} weights with the other kind of input", w.format()),
    };
    assert_eq!(tokens, out.tokens(), "tokens of a product's input and output");
    assert!(k == w.k() || tokens == 0, "a product of {} inputs with {k}", w.k());
    assert!(
        row_blocks.start <= row_blocks.end && row_blocks.end <= w.row_blocks(),
        "row-blocks {row_blocks:?}"
    );
    assert_eq!(w.rows_in(row_blocks), out.width(), "rows of a product and columns of its output");
}

pub(super) fn matmul<I: Products>(isa: I, w: &Matrix, row_blocks: Range<usize>, x: Input, out: &mut Cols) {
    check(w, &row_blocks, &x, out);
    match (w.format(), x) {
        (Format::Q4_0, Input::Panels(x)) => quantised::<I, quant::Q4_0>(isa, w, row_blocks, &x, out),
        (Format::Q8_0, Input::Panels(x)) => quantised::<I, quant::Q8_0>(isa, w, row_blocks, &x, out),
        (Format::Q6K, Input::Panels(x)) => quantised::<I, quant::Q6K>(isa, w, row_blocks, &x, out),
        (Format::Q4K, Input::Panels(x)) => quantised::<I, quant::Q4K>(isa, w, row_blocks, &x, out),
        (Format::Q5K, Input::Panels(x)) => quantised::<I, quant::Q5K>(isa, w, row_blocks, &x, out),
        (Format::F16, Input::Rows(x)) => float::<_, dense::F16>(isa.floats(), w, row_blocks, x, out),
        (Format::F32, Input::Rows(x)) => float::<_, dense::F32>(isa.floats(), w, row_blocks, x, out),
        (Format::F32 | Format::F16, Input::Panels(_))
        | (Format::Q8_0 | Format::Q4_0 | Format::Q6K | Format::Q4K | Format::Q5K, Input::Rows(_)) => {}
    }
}

pub(super) fn matmul2<I: Products>(
    isa: I,
    w: [&Matrix; 2],
    row_blocks: Range<usize>,
    x: Input,
    out: [&mut Cols; 2],
) {
    let [first, second] = out;
    match (x, w[0].format()) {
        (Input::Panels(x), format) if x.tokens() == 1 && w[1].format() == format => {
            check(w[0], &row_blocks, &Input::Panels(x), first);
            check(w[1], &row_blocks, &Input::Panels(x), second);
            match format {
                Format::Q4_0 => both::<I, quant::Q4_0>(isa, w, row_blocks, &x, [first, second]),
                Format::Q8_0 => both::<I, quant::Q8_0>(isa, w, row_blocks, &x, [first, second]),
                Format::Q6K => both::<I, quant::Q6K>(isa, w, row_blocks, &x, [first, second]),
                Format::Q4K => both::<I, quant::Q4K>(isa, w, row_blocks, &x, [first, second]),
                Format::Q5K => both::<I, quant::Q5K>(isa, w, row_blocks, &x, [first, second]),
                Format::F32 | Format::F16 => {}
            }
        }
        _ => {
            matmul(isa, w[0], row_blocks.clone(), x, first);
            matmul(isa, w[1], row_blocks, x, second);
        }
    }
}

/// Writes the rows of row-block `n` of the range for tokens `first..`, as many as `out` has columns for.
#[inline(never)]
fn write(tile: &[[f32; 16]], n: usize, first: usize, out: &mut Cols) {
    let columns = n * ROWS..out.width().min((n + 1) * ROWS);
    for (t, rows) in tile.iter().enumerate() {
        let out = &mut out.row_mut(first + t)[columns.clone()];
        match out.as_mut_array() {
            Some(out) => *out = *rows,
            None => out.copy_from_slice(&rows[..out.len()]),
        }
    }
}

/// Strips whose panels stay in L2 while all weights pass.
const BATCH: usize = 4;

fn quantised<I: Products, Q: Quant>(
    isa: I,
    w: &Matrix,
    row_blocks: Range<usize>,
    x: &Panels,
    out: &mut Cols,
) {
    if x.tokens() == 1 {
        let words = x.panel(0).words;
        let (start, count) = (row_blocks.start, row_blocks.len());
        let half = count / 2;
        for n in 0..half {
            let pair = [w.row_block(start + n), w.row_block(start + half + n)];
            let y = streams::<I, Q>(isa, pair, words);
            write(&[y[0]], n, 0, out);
            write(&[y[1]], half + n, 0, out);
        }
        if count % 2 > 0 {
            let last = w.row_block(start + count - 1);
            let y = streams::<I, Q>(isa, [last; 2], words);
            write(&[y[0]], count - 1, 0, out);
        }
        return;
    }
    let mut room = Room { unpacked: [[Unpacked::ZERO; CHUNK]; 2], sums: [[[0.0; 16]; 2]; STRIP * PANEL] };
    let together = tile::together::<I>();
    let at = |n: usize| w.row_block(row_blocks.start + n.min(row_blocks.len() - 1));
    let strips = x.panel_count().div_ceil(STRIP);
    let batches = strips.div_ceil(BATCH);
    for batch in (0..batches).map(|n| part_of(strips, n, batches)) {
        for n in (0..row_blocks.len()).step_by(together) {
            let now = [at(n), at(n + together - 1)];
            for strip in batch.clone() {
                let panels = part_of(x.panel_count(), strip, strips);
                let first = x.panel(panels.start).first;
                let then =
                    if strip + 1 < batch.end { now } else { [at(n + together), at(n + 2 * together - 1)] };
                let tokens = one_strip::<I, Q>(isa, now, then, x, panels, &mut room);
                for (t, sums) in room.sums[..tokens].iter().enumerate() {
                    for (rb, sums) in sums.iter().enumerate().take(together.min(row_blocks.len() - n)) {
                        write(std::slice::from_ref(sums), n + rb, first + t, out);
                    }
                }
            }
        }
    }
}

/// Part `n` of `parts` of `all` things.
fn part_of(all: usize, n: usize, parts: usize) -> Range<usize> {
    all * n / parts..all * (n + 1) / parts
}

/// What [`one_strip`] works with.
struct Room {
    unpacked: Chunk,
    sums: Sums,
}

/// The row-blocks `now` times some panels, into the sums of the room; `then` is what comes next. Says how many tokens
/// these were.
#[inline(never)]
fn one_strip<I: Products, Q: Quant>(
    isa: I,
    now: [&[u8]; 2],
    then: [&[u8]; 2],
    x: &Panels,
    panels: Range<usize>,
    room: &mut Room,
) -> usize {
    let tokens: usize = panels.clone().map(|p| x.panel(p).tokens).sum();
    room.sums[..tokens].fill([[0.0; 16]; 2]);
    let bytes = CHUNK / Q::GROUPS * Q::BYTES;
    let mut rest = now;
    let mut group = 0;
    while !rest[0].is_empty() {
        let mut groups = 0;
        for (bytes, unpacked) in rest.iter().zip(&mut room.unpacked).take(tile::together::<I>()) {
            groups = isa.quant_unpack::<Q>(bytes, unpacked);
        }
        rest = rest.map(|rest| rest.get(bytes..).unwrap_or_default());
        let coming = if rest[0].is_empty() { then } else { rest };
        let coming = coming.map(|coming| &coming[..coming.len().min(bytes)]);
        let coming = Coming::new(coming, groups * panels.len());
        let unpacked = room.unpacked.each_ref().map(|unpacked| &unpacked[..groups]);
        isa.quant_strip::<Q::Weights<I>>(unpacked, group, x, panels.clone(), coming, &mut room.sums);
        group += CHUNK;
    }
    tokens
}

/// One token, row-block n of both matrices together.
fn both<I: Products, Q: Quant>(
    isa: I,
    w: [&Matrix; 2],
    row_blocks: Range<usize>,
    x: &Panels,
    out: [&mut Cols; 2],
) {
    let words = x.panel(0).words;
    let [first, second] = out;
    for (n, row_block) in row_blocks.enumerate() {
        let y = streams::<I, Q>(isa, w.map(|w| w.row_block(row_block)), words);
        write(&[y[0]], n, 0, first);
        write(&[y[1]], n, 0, second);
    }
}

/// Two row-blocks of one token as two streams from memory.
///
/// With one stream, hardware prefetchers do not run far enough ahead of kernels that spend so many instructions per
/// byte; with more than two they lose them. Software prefetch on top: [`Products::stream_ahead`].
#[inline]
fn streams<I: Products, Q: Quant>(isa: I, row_blocks: [&[u8]; 2], words: &[i32]) -> [[f32; 16]; 2] {
    let mut y = [[0.0; 16]; 2];
    isa.quant_pair::<Q>(row_blocks, words, isa.stream_ahead(), &mut y);
    y
}

fn float<I: Floats, W: Dense>(isa: I, w: &Matrix, row_blocks: Range<usize>, x: &[f32], out: &mut Cols) {
    let (tokens, k) = (out.tokens(), w.k());
    let mut first = 0;
    while first < tokens {
        let left = &x[first * k..];
        // Few tokens: several row-blocks, so that a chain's latency is spent on other chains.
        first += match (tokens - first, I::DENSE_TOKENS) {
            (8.., 8) => float_tokens::<I, W, 1, 8>(isa, w, row_blocks.clone(), left, first, out),
            (6.., 6) => float_tokens::<I, W, 1, 6>(isa, w, row_blocks.clone(), left, first, out),
            (4.., _) => float_tokens::<I, W, 1, 4>(isa, w, row_blocks.clone(), left, first, out),
            _ => float_tokens::<I, W, 4, 1>(isa, w, row_blocks.clone(), left, first, out),
        };
    }
}

/// All row-blocks, R at a time, for the first T tokens of `x`, which are token `first` and on of the output; gives T.
fn float_tokens<I: Floats, W: Dense, const R: usize, const T: usize>(
    isa: I,
    w: &Matrix,
    row_blocks: Range<usize>,
    x: &[f32],
    first: usize,
    out: &mut Cols,
) -> usize {
    let x = &x[..T * w.k()];
    let (start, count) = (row_blocks.start, row_blocks.len());
    let mut n = 0;
    while n + R <= count {
        let mut y = [[[0.0; 16]; T]; R];
        isa.dense_tile::<W, R, T>(std::array::from_fn(|r| w.row_block(start + n + r)), x, w.k(), &mut y);
        for (r, y) in y.iter().enumerate() {
            write(y, n + r, first, out);
        }
        n += R;
    }
    for n in n..count {
        let mut y = [[[0.0; 16]; T]; 1];
        isa.dense_tile::<W, 1, T>([w.row_block(start + n)], x, w.k(), &mut y);
        write(&y[0], n, first, out);
    }
    T
}
