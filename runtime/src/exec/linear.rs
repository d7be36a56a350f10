//! Steps that are products with weight matrices: columns are divided between threads by row-blocks of the matrix.

use std::ops::Range;

use lfm_graphs::plan::MAX_CHUNK;

use super::arena::Rest;
use super::state::Content;
use super::{Call, Executor, MatrixAt, Operand, Rows, VectorAt, matrix, vector};
use crate::cpu::kernels::{Cols, ConvGate, Input, Kernels, Matrix, Panels, PanelsMut, words_needed};
use crate::cpu::pool::{Pool, part};

const OVERLAP: &str = "two values that are alive at once overlap";

/// Multiply-adds from which a product is divided between threads.
const MANY_PRODUCTS: usize = 1 << 15;

/// Cuts output columns into parts, at row-blocks of a matrix, in order.
pub(super) struct ColsCut<'m, 'a> {
    matrix: &'m Matrix<'m>,
    rest: Option<Cols<'a>>,
    next: usize,
    parts: usize,
}

impl<'m, 'a> ColsCut<'m, 'a> {
    pub(super) fn new(matrix: &'m Matrix<'m>, cols: Cols<'a>, parts: usize) -> ColsCut<'m, 'a> {
        ColsCut { matrix, rest: Some(cols), next: 0, parts }
    }

    /// The row-blocks of the next part and their columns.
    pub(super) fn next(&mut self) -> Option<(Range<usize>, Cols<'a>)> {
        let blocks = part(self.matrix.row_blocks(), self.next, self.parts)?;
        self.next += 1;
        let (mine, rest) = self.rest.take()?.split_at(self.matrix.rows_in(&blocks));
        self.rest = Some(rest);
        Some((blocks, mine))
    }
}

/// What a matrix is multiplied with, out of the arena.
pub(super) fn input<'a, const N: usize>(rest: &Rest<'a, N>, x: Operand, rows: usize) -> Option<Input<'a>> {
    Some(match x.panels {
        None => Input::Rows(rest.get(x.rows.range(rows))?),
        Some(panels) => {
            let words = rest.get(panels.start..panels.start + words_needed(rows, x.rows.width))?;
            Input::Panels(Panels::new(bytemuck::cast_slice(words), rows, x.rows.width))
        }
    })
}

/// Quantises rows, panels divided into `parts`.
pub(super) fn quantize_rows(
    pool: &mut Pool,
    kernels: &dyn Kernels,
    parts: usize,
    x: &[f32],
    rows: usize,
    width: usize,
    words: &mut [i32],
) {
    let panels = PanelsMut::new(words, rows, width);
    let count = panels.panel_count();
    let parts = parts.min(count);
    let mut rest = Some(panels);
    let mut index = 0;
    pool.each(
        parts,
        || {
            let (mine, others) = rest.take()?.split_at(part(count, index, parts)?.len());
            rest = Some(others);
            index += 1;
            Some(mine)
        },
        |mut panels| {
            let tokens = panels.tokens();
            kernels.quantize(&x[tokens.start * width..tokens.end * width], &mut panels);
        },
    );
}

impl Executor {
    /// Into how many parts a product is divided.
    pub(super) fn product_parts(&self, matrix: &Matrix<'_>, rows: usize) -> usize {
        let products = rows.saturating_mul(matrix.rows()).saturating_mul(matrix.k());
        let parts = match rows {
            _ if products < MANY_PRODUCTS => 1,
            // One stream of weights for each thread, as long as can be.
            1 => self.pool.threads(),
            _ => self.parts(),
        };
        parts.min(matrix.row_blocks())
    }

    /// Makes the int8 form of an operand, if this step is the first that reads it.
    pub(super) fn prepare(&mut self, x: Operand, rows: usize) -> Result<(), &'static str> {
        let Some(panels) = x.panels.filter(|panels| panels.make) else { return Ok(()) };
        let words = panels.start..panels.start + words_needed(rows, x.rows.width);
        let parts = self.row_parts(rows);
        let ([words], rest) = self.arena.split([words]).ok_or(OVERLAP)?;
        let floats = rest.get(x.rows.range(rows)).ok_or(OVERLAP)?;
        quantize_rows(
            &mut self.pool,
            self.kernels,
            parts,
            floats,
            rows,
            x.rows.width,
            bytemuck::cast_slice_mut(words),
        );
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the operands of one operation")]
    pub(super) fn linear(
        &mut self,
        call: Call<'_>,
        x: Operand,
        w: &MatrixAt,
        bias: Option<&VectorAt>,
        residual: Option<Rows>,
        out: Rows,
        rows: usize,
    ) -> Result<(), &'static str> {
        self.prepare(x, rows)?;
        let w = matrix(call.weights, w, 0)?;
        let bias = bias.map(|bias| vector(call.weights, bias)).transpose()?;
        let parts = self.product_parts(&w, rows);
        let ([out_rows], rest) = self.arena.split([out.range(rows)]).ok_or(OVERLAP)?;
        let input = input(&rest, x, rows).ok_or(OVERLAP)?;
        let residual = residual.map(|at| rest.get(at.range(rows)).ok_or(OVERLAP)).transpose()?;
        let kernels = self.kernels;
        let mut cut = ColsCut::new(&w, Cols::new(out_rows, rows, out.width), parts);
        self.pool.each(
            parts,
            || cut.next(),
            |(blocks, mut cols)| {
                let first = blocks.start * 16;
                kernels.matmul(&w, blocks, input, &mut cols);
                for row in 0..rows {
                    let y = cols.row_mut(row);
                    if let Some(bias) = bias {
                        kernels.axpy(1.0, &bias[first..first + y.len()], y);
                    }
                    if let Some(residual) = residual {
                        kernels.axpy(1.0, &residual[row * out.width + first..][..y.len()], y);
                    }
                }
            },
        );
        Ok(())
    }

    pub(super) fn swiglu(
        &mut self,
        call: Call<'_>,
        x: Operand,
        gate: &MatrixAt,
        up: &MatrixAt,
        out: Rows,
        rows: usize,
    ) -> Result<(), &'static str> {
        self.prepare(x, rows)?;
        let (gate, up) = (matrix(call.weights, gate, 0)?, matrix(call.weights, up, 0)?);
        let parts = self.product_parts(&gate, rows);
        let ([out_rows], rest) = self.arena.split([out.range(rows)]).ok_or(OVERLAP)?;
        let input = input(&rest, x, rows).ok_or(OVERLAP)?;
        let kernels = self.kernels;
        let mut cut = ColsCut::new(&gate, Cols::new(out_rows, rows, out.width), parts);
        self.pool.each(
            parts,
            || cut.next(),
            |(blocks, mut cols)| gated(kernels, [&gate, &up], blocks, input, &mut cols),
        );
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "the operands of one operation")]
    pub(super) fn conv_gate(
        &mut self,
        call: Call<'_>,
        bcx: Rows,
        kernel: &MatrixAt,
        bias: Option<&VectorAt>,
        window: &mut Content,
        out: Rows,
        rows: usize,
    ) -> Result<(), &'static str> {
        let kernel = matrix(call.weights, kernel, 0)?;
        let bias = bias.map(|bias| vector(call.weights, bias)).transpose()?;
        let Content::Single(window) = window else { return Err("a window in half precision") };
        let parts = self.row_parts(rows).min(kernel.row_blocks());
        let ([out_rows], rest) = self.arena.split([out.range(rows)]).ok_or(OVERLAP)?;
        let bcx = rest.get(bcx.range(rows)).ok_or(OVERLAP)?;
        let kernels = self.kernels;
        let mut cut = ColsCut::new(&kernel, Cols::new(out_rows, rows, out.width), parts);
        let mut windows = ColsCut::new(&kernel, Cols::new(window, kernel.k() - 1, out.width), parts);
        self.pool.each(
            parts,
            || Some((cut.next()?, windows.next()?.1)),
            |((blocks, mut out), mut window)| {
                let channels = blocks.start * 16..blocks.start * 16 + out.width();
                let conv = ConvGate { bcx, kernel, bias, channels };
                kernels.conv_gate(&conv, &mut window, &mut out);
            },
        );
        Ok(())
    }
}

/// `silu(x · gateᵀ) * (x · upᵀ)` for the row-blocks `blocks` of both matrices, all rows of `x`.
pub(super) fn gated(
    kernels: &dyn Kernels,
    pair: [&Matrix<'_>; 2],
    blocks: Range<usize>,
    x: Input<'_>,
    out: &mut Cols<'_>,
) {
    // A few columns at a time, so that both products stay in the cache: 16 columns of all rows, or for one row as
    // many as make long streams.
    match out.tokens() {
        0 => {}
        1 => gated_by::<256>(kernels, pair, blocks, x, out),
        2..=256 => gated_by::<4096>(kernels, pair, blocks, x, out),
        _ => gated_by::<{ 16 * MAX_CHUNK as usize }>(kernels, pair, blocks, x, out),
    }
}

fn gated_by<const N: usize>(
    kernels: &dyn Kernels,
    pair: [&Matrix<'_>; 2],
    blocks: Range<usize>,
    x: Input<'_>,
    out: &mut Cols<'_>,
) {
    let rows = out.tokens();
    let step = (N / (16 * rows)).max(1);
    let (mut gate, mut up) = ([0.0f32; N], [0.0f32; N]);
    let mut done = 0;
    let mut next = blocks.start;
    while next < blocks.end {
        let some = next..blocks.end.min(next + step);
        let width = pair[0].rows_in(&some);
        let (gate, up) = (&mut gate[..rows * width], &mut up[..rows * width]);
        let [mut gates, mut ups] = [Cols::new(gate, rows, width), Cols::new(up, rows, width)];
        kernels.matmul2(pair, some.clone(), x, [&mut gates, &mut ups]);
        for (row, (gate, up)) in gate.chunks_exact(width).zip(up.chunks_exact(width)).enumerate() {
            kernels.silu_mul(gate, up, &mut out.row_mut(row)[done..done + width]);
        }
        (done, next) = (done + width, some.end);
    }
}
