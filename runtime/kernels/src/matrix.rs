//! A checked view of one packed weight matrix.

use lfm_graphs::weights::Format;
use lfm_graphs::weights::layout::{self, ROWS};
use thiserror::Error;

/// A packed matrix of `rows` output rows by `k` input elements, in the layout of [`layout`].
///
/// Only a view whose bytes hold every row-block can be made, so kernels need no further checks.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    format: Format,
    rows: usize,
    k: usize,
    row_block_bytes: usize,
    bytes: &'a [u8],
}

/// Bytes that cannot be the matrix they are said to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error(
    "a packed {format} matrix of {rows} x {k}: found {found} bytes, expected at least {expected} and k > 0"
)]
pub struct MatrixError {
    /// Format asked for.
    pub format: Format,
    /// Output rows asked for.
    pub rows: usize,
    /// Input elements asked for.
    pub k: usize,
    /// Bytes given.
    pub found: usize,
    /// Bytes of all row-blocks; `u64::MAX` if there is no such number.
    pub expected: u64,
}

impl<'a> Matrix<'a> {
    /// The matrix at the start of `bytes`; padding behind its last row-block may be missing or longer.
    pub fn new(format: Format, rows: usize, k: usize, bytes: &'a [u8]) -> Result<Matrix<'a>, MatrixError> {
        let row_block_bytes = layout::row_block_bytes(format, k).unwrap_or(usize::MAX);
        let needed = row_block_bytes.checked_mul(layout::row_blocks(rows));
        match needed.and_then(|needed| bytes.get(..needed)) {
            Some(bytes) if k > 0 && row_block_bytes < usize::MAX => {
                Ok(Matrix { format, rows, k, row_block_bytes, bytes })
            }
            _ => {
                let expected = needed.map_or(u64::MAX, |needed| needed as u64);
                Err(MatrixError { format, rows, k, found: bytes.len(), expected })
            }
        }
    }

    /// How the weights are stored.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Output rows, without padding.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input elements, without padding.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Row-blocks of 16 rows, the last one possibly padded.
    pub fn row_blocks(&self) -> usize {
        layout::row_blocks(self.rows)
    }

    /// Real rows in the row-blocks `range`: the width of what [`super::Kernels::matmul`] writes.
    pub fn rows_in(&self, range: &std::ops::Range<usize>) -> usize {
        let row = |block: usize| block.saturating_mul(ROWS).min(self.rows);
        row(range.end).saturating_sub(row(range.start))
    }

    /// The bytes of row-block `n`: its blocks along K.
    ///
    /// # Panics
    /// If there is no row-block `n`.
    pub fn row_block(&self, n: usize) -> &'a [u8] {
        assert!(n < self.row_blocks(), "row-block {n} of {}", self.row_blocks());
        &self.bytes[n * self.row_block_bytes..][..self.row_block_bytes]
    }
}
