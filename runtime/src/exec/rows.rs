//! Steps that treat rows one by one: embedding, norms, rotary embedding, sums, the choice of rows.

use std::ops::Range;

use super::{Call, Executor, MatrixAt, Rows, VectorAt, matrix, trig, vector};
use crate::cpu::pool::part;

/// Rows from which a step is divided between threads: below, a section costs more than it saves.
pub(super) const MANY_ROWS: usize = 16;

/// Parts for each thread where there is much to do: a thread that others slow down leaves some to the rest.
const PARTS: usize = 4;

/// Cuts a buffer of rows into parts, in order.
pub(super) struct Cut<'a> {
    rest: Option<&'a mut [f32]>,
    rows: usize,
    width: usize,
    next: usize,
    parts: usize,
}

impl<'a> Cut<'a> {
    pub(super) fn new(buffer: &'a mut [f32], rows: usize, width: usize, parts: usize) -> Cut<'a> {
        Cut { rest: Some(buffer), rows, width, next: 0, parts }
    }

    /// The rows of the next part and their floats.
    pub(super) fn next(&mut self) -> Option<(Range<usize>, &'a mut [f32])> {
        let rows = part(self.rows, self.next, self.parts)?;
        self.next += 1;
        let (mine, rest) = self.rest.take()?.split_at_mut(rows.len() * self.width);
        self.rest = Some(rest);
        Some((rows, mine))
    }
}

const OVERLAP: &str = "two values that are alive at once overlap";

impl Executor {
    /// Into how many parts something large is divided.
    pub(super) fn parts(&self) -> usize {
        match self.pool.threads() {
            1 => 1,
            threads => PARTS * threads,
        }
    }

    /// Into how many parts `rows` rows are divided.
    pub(super) fn row_parts(&self, rows: usize) -> usize {
        if rows < MANY_ROWS { 1 } else { self.parts() }
    }

    pub(super) fn embed(&mut self, call: Call<'_>, table: &MatrixAt, out: Rows) -> Result<(), &'static str> {
        let table = matrix(call.weights, table, 0)?;
        let rows = call.tokens.len();
        let parts = self.row_parts(rows);
        let ([out_rows], _) = self.arena.split([out.range(rows)]).ok_or(OVERLAP)?;
        let mut cut = Cut::new(out_rows, rows, out.width, parts);
        let kernels = self.kernels;
        self.pool.each(
            parts,
            || cut.next(),
            |(rows, mine)| {
                for (token, row) in call.tokens[rows].iter().zip(mine.chunks_exact_mut(out.width)) {
                    kernels.row(&table, *token as usize, row);
                }
            },
        );
        Ok(())
    }

    pub(super) fn norm(
        &mut self,
        call: Call<'_>,
        x: Rows,
        weight: &VectorAt,
        eps: f32,
        out: Rows,
        rows: usize,
    ) -> Result<(), &'static str> {
        let weight = vector(call.weights, weight)?;
        let width = weight.len();
        let parts = self.row_parts(rows);
        let ([out_rows], rest) = self.arena.split([out.range(rows)]).ok_or(OVERLAP)?;
        let x_rows = rest.get(x.range(rows)).ok_or(OVERLAP)?;
        let mut cut = Cut::new(out_rows, rows, out.width, parts);
        let kernels = self.kernels;
        self.pool.each(
            parts,
            || cut.next(),
            |(rows, out)| {
                let x = &x_rows[rows.start * x.width..rows.end * x.width];
                for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
                    kernels.rms_norm(x, weight, eps, out);
                }
            },
        );
        Ok(())
    }

    pub(super) fn rope_table(
        &mut self,
        call: Call<'_>,
        inv_freq: &[f32],
        cos: Rows,
        sin: Rows,
        rows: usize,
    ) -> Result<(), &'static str> {
        let ([cos_rows, sin_rows], _) =
            self.arena.split([cos.range(rows), sin.range(rows)]).ok_or(OVERLAP)?;
        let width = inv_freq.len();
        for (row, (cos, sin)) in
            cos_rows.chunks_exact_mut(width).zip(sin_rows.chunks_exact_mut(width)).enumerate()
        {
            let position = (call.past + row) as f32;
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(inv_freq) {
                (*sin, *cos) = trig::sin_cos(position * frequency);
            }
        }
        Ok(())
    }

    pub(super) fn rope(
        &mut self,
        x: Rows,
        cos: Rows,
        sin: Rows,
        out: Rows,
        rows: usize,
    ) -> Result<(), &'static str> {
        let parts = self.row_parts(rows);
        let ([out_rows], rest) = self.arena.split([out.range(rows)]).ok_or(OVERLAP)?;
        let read = |at: Rows| rest.get(at.range(rows)).ok_or(OVERLAP);
        let (x_rows, cos_rows, sin_rows) = (read(x)?, read(cos)?, read(sin)?);
        let mut cut = Cut::new(out_rows, rows, out.width, parts);
        let kernels = self.kernels;
        self.pool.each(
            parts,
            || cut.next(),
            |(rows, mine)| {
                mine.copy_from_slice(&x_rows[rows.start * x.width..rows.end * x.width]);
                for (row, out) in rows.zip(mine.chunks_exact_mut(out.width)) {
                    let cos = &cos_rows[row * cos.width..][..cos.width];
                    let sin = &sin_rows[row * sin.width..][..sin.width];
                    kernels.rope(out, cos, sin);
                }
            },
        );
        Ok(())
    }

    pub(super) fn add(&mut self, a: Rows, b: Rows, out: Rows, rows: usize) -> Result<(), &'static str> {
        let ([out], rest) = self.arena.split([out.range(rows)]).ok_or(OVERLAP)?;
        let read = |at: Rows| rest.get(at.range(rows)).ok_or(OVERLAP);
        self.kernels.add(read(a)?, read(b)?, out);
        Ok(())
    }

    pub(super) fn choose_rows(
        &mut self,
        x: Rows,
        out: Rows,
        chosen: Range<usize>,
    ) -> Result<(), &'static str> {
        let ([out], rest) = self.arena.split([out.range(chosen.len())]).ok_or(OVERLAP)?;
        let start = x.start + chosen.start * x.width;
        out.copy_from_slice(rest.get(start..start + chosen.len() * x.width).ok_or(OVERLAP)?);
        Ok(())
    }
}
