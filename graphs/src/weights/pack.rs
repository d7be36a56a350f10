//! Packing: canonical rows to the layouts of [`super::layout`], and exactly back.
//!
//! The unit of work is the row-block (16 rows), so a tensor can be packed as a stream and row-blocks can be handed to
//! threads; [`pack`] and [`unpack`] are loops over it. Packing moves bytes only (q6_k, q4_k and q5_k also
//! regroup bits, q6_k widens `d`), so `unpack(pack(rows)) == rows`, bit for bit, for every input that `pack` accepts: the scales of quantised
//! units and the elements of float rows must be finite.

mod k_units;
mod units;

use thiserror::Error;

use super::format::Format;
use super::layout::{self, ROWS};
use k_units::{Q4K, Q5K};
use units::{F16, F32, Q4, Q6, Q8, Units};

/// Why rows could not be packed or unpacked.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum PackError {
    /// The size of a matrix overflows.
    #[error("a {format} matrix of {rows} x {k} is too large to address")]
    TooLarge {
        /// Format of the matrix.
        format: Format,
        /// Its rows.
        rows: usize,
        /// Its elements per row.
        k: usize,
    },
    /// A buffer has another length than its shape says.
    #[error("{what} of {rows} x {k} in {format}: found {found} bytes, expected {expected}")]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Format of the matrix.
        format: Format,
        /// Its rows.
        rows: usize,
        /// Its elements per row.
        k: usize,
        /// Length of the buffer.
        found: u64,
        /// Length that the shape implies.
        expected: u64,
    },
    /// More rows than a row-block has.
    #[error("packing a row-block: found {found} rows, expected at most 16")]
    Rows {
        /// Rows given.
        found: usize,
    },
    /// A row that the matrix does not have.
    #[error("row {row} of a matrix of {rows} rows")]
    NoSuchRow {
        /// Row asked for.
        row: usize,
        /// Rows of the matrix.
        rows: usize,
    },
    /// An infinite or NaN scale or element.
    #[error(
        "row {row}, element {k}: found a {format} value or scale that is infinite or NaN, expected a finite one"
    )]
    NotFinite {
        /// Format of the matrix.
        format: Format,
        /// Row within the slice given.
        row: usize,
        /// First element of the unit.
        k: usize,
    },
    /// A packed scale that no canonical unit has: in q6_k no finite f16, in q4_k and q5_k longer than six bits.
    #[error("row {row}, element {k}: found a packed {format} scale that no {format} block of a file has")]
    NotCanonical {
        /// Format of the matrix.
        format: Format,
        /// Row within the matrix or row-block.
        row: usize,
        /// First element of the unit.
        k: usize,
    },
}

/// Packs up to 16 canonical rows into one row-block; missing rows are padding.
///
/// `canonical` is `rows` rows of [`Format::row_bytes`]`(k)`, `out` is [`layout::row_block_bytes`]`(format, k)` long and is
/// overwritten completely.
pub fn pack_row_block(
    format: Format,
    rows: usize,
    k: usize,
    canonical: &[u8],
    out: &mut [u8],
) -> Result<(), PackError> {
    match format {
        Format::F32 => pack_blocks::<F32, 4, 64>(rows, k, canonical, out),
        Format::F16 => pack_blocks::<F16, 2, 32>(rows, k, canonical, out),
        Format::Q8_0 => pack_blocks::<Q8, 34, { layout::q8_0::BYTES }>(rows, k, canonical, out),
        Format::Q4_0 => pack_blocks::<Q4, 18, { layout::q4_0::BYTES }>(rows, k, canonical, out),
        Format::Q6K => pack_blocks::<Q6, 210, { layout::q6_k::BYTES }>(rows, k, canonical, out),
        Format::Q4K => pack_blocks::<Q4K, 144, { layout::q4_k::BYTES }>(rows, k, canonical, out),
        Format::Q5K => pack_blocks::<Q5K, 176, { layout::q5_k::BYTES }>(rows, k, canonical, out),
    }
}

/// The first `rows` rows of one row-block in canonical form: the inverse of [`pack_row_block`].
pub fn unpack_row_block(
    format: Format,
    rows: usize,
    k: usize,
    block: &[u8],
    out: &mut [u8],
) -> Result<(), PackError> {
    if rows > ROWS {
        return Err(PackError::Rows { found: rows });
    }
    let shape = Shape::new(format, rows, k)?;
    shape.check("canonical rows", out.len(), shape.canonical)?;
    shape.check("packed row-block", block.len(), shape.row_block as u64)?;
    for row in 0..rows {
        take_row(format, k, block, row, &mut out[row * shape.row_bytes..][..shape.row_bytes])?;
    }
    Ok(())
}

/// Packs a whole matrix. `canonical` is `rows` rows of [`Format::row_bytes`]`(k)`, `out` is
/// [`layout::packed_bytes`]`(format, rows, k)` long and is overwritten completely.
pub fn pack(
    format: Format,
    rows: usize,
    k: usize,
    canonical: &[u8],
    out: &mut [u8],
) -> Result<(), PackError> {
    let shape = Shape::new(format, rows, k)?;
    shape.check("canonical matrix", canonical.len(), shape.canonical)?;
    shape.check("packed matrix", out.len(), shape.packed)?;
    let mut rest = out;
    for first in (0..rows).step_by(ROWS) {
        let count = ROWS.min(rows - first);
        let (block, next) = rest.split_at_mut(shape.row_block);
        let source = &canonical[first * shape.row_bytes..][..count * shape.row_bytes];
        pack_row_block(format, count, k, source, block).map_err(|error| error.below(first))?;
        rest = next;
    }
    rest.fill(0);
    Ok(())
}

/// A whole matrix in canonical form: the inverse of [`pack`].
pub fn unpack(format: Format, rows: usize, k: usize, packed: &[u8], out: &mut [u8]) -> Result<(), PackError> {
    let shape = Shape::new(format, rows, k)?;
    shape.check("packed matrix", packed.len(), shape.packed)?;
    shape.check("canonical matrix", out.len(), shape.canonical)?;
    for first in (0..rows).step_by(ROWS) {
        let count = ROWS.min(rows - first);
        let block = &packed[first / ROWS * shape.row_block..][..shape.row_block];
        let target = &mut out[first * shape.row_bytes..][..count * shape.row_bytes];
        unpack_row_block(format, count, k, block, target).map_err(|error| error.below(first))?;
    }
    Ok(())
}

/// One row of a packed matrix in canonical form, into `out` of [`Format::row_bytes`]`(k)`.
pub fn unpack_row(
    format: Format,
    rows: usize,
    k: usize,
    packed: &[u8],
    row: usize,
    out: &mut [u8],
) -> Result<(), PackError> {
    let (shape, block) = row_block_of(format, rows, k, packed, row)?;
    if out.len() != shape.row_bytes {
        return Err(shape.length("canonical row", out.len(), shape.row_bytes as u64));
    }
    take_row(format, k, block, row % ROWS, out).map_err(|error| error.below(row - row % ROWS))
}

/// [`unpack_row`] into a new buffer, which is allocated only once `packed` is known to be that large.
pub(super) fn unpacked_row(
    format: Format,
    rows: usize,
    k: usize,
    packed: &[u8],
    row: usize,
) -> Result<Vec<u8>, PackError> {
    let (shape, block) = row_block_of(format, rows, k, packed, row)?;
    let mut out = vec![0; shape.row_bytes];
    take_row(format, k, block, row % ROWS, &mut out).map_err(|error| error.below(row - row % ROWS))?;
    Ok(out)
}

/// The row-block of a packed matrix that holds a row.
fn row_block_of(
    format: Format,
    rows: usize,
    k: usize,
    packed: &[u8],
    row: usize,
) -> Result<(Shape, &[u8]), PackError> {
    let shape = Shape::new(format, rows, k)?;
    shape.check("packed matrix", packed.len(), shape.packed)?;
    if row >= rows {
        return Err(PackError::NoSuchRow { row, rows });
    }
    let block = &packed[row / ROWS * shape.row_block..][..shape.row_block];
    Ok((shape, block))
}

impl PackError {
    /// The same error with its row counted from `first` rows further up.
    fn below(self, first: usize) -> PackError {
        match self {
            PackError::NotFinite { format, row, k } => PackError::NotFinite { format, row: first + row, k },
            PackError::NotCanonical { format, row, k } => {
                PackError::NotCanonical { format, row: first + row, k }
            }
            other @ (PackError::TooLarge { .. }
            | PackError::Length { .. }
            | PackError::Rows { .. }
            | PackError::NoSuchRow { .. }) => other,
        }
    }
}

/// Byte counts of one matrix, all known not to overflow.
struct Shape {
    format: Format,
    rows: usize,
    k: usize,
    row_bytes: usize,
    canonical: u64,
    row_block: usize,
    packed: u64,
}

impl Shape {
    fn new(format: Format, rows: usize, k: usize) -> Result<Shape, PackError> {
        let shape = || {
            let row_bytes = format.row_bytes(k)?;
            let canonical = u64::try_from(row_bytes.checked_mul(rows)?).ok()?;
            let row_block = layout::row_block_bytes(format, k)?;
            let packed = layout::packed_bytes(format, rows, k)?;
            Some(Shape { format, rows, k, row_bytes, canonical, row_block, packed })
        };
        shape().ok_or(PackError::TooLarge { format, rows, k })
    }

    fn check(&self, what: &'static str, found: usize, expected: u64) -> Result<(), PackError> {
        if found as u64 == expected { Ok(()) } else { Err(self.length(what, found, expected)) }
    }

    fn length(&self, what: &'static str, found: usize, expected: u64) -> PackError {
        let Shape { format, rows, k, .. } = *self;
        PackError::Length { what, format, rows, k, found: found as u64, expected }
    }
}

/// [`pack_row_block`] for one format: every missing unit, below the last row or beyond the last element, is `ZERO`.
fn pack_blocks<U: Units<UNIT, BLOCK>, const UNIT: usize, const BLOCK: usize>(
    rows: usize,
    k: usize,
    canonical: &[u8],
    out: &mut [u8],
) -> Result<(), PackError> {
    if rows > ROWS {
        return Err(PackError::Rows { found: rows });
    }
    let shape = Shape::new(U::FORMAT, rows, k)?;
    shape.check("canonical rows", canonical.len(), shape.canonical)?;
    shape.check("packed row-block", out.len(), shape.row_block as u64)?;
    let mut sources: [&[[u8; UNIT]]; ROWS] = [&[]; ROWS];
    for (row, source) in sources.iter_mut().enumerate().take(rows) {
        *source = canonical[row * shape.row_bytes..][..shape.row_bytes].as_chunks().0;
        if let Some(unit) = source.iter().position(|unit| !U::is_finite(unit)) {
            return Err(PackError::NotFinite { format: U::FORMAT, row, k: unit * U::FORMAT.unit_k() });
        }
    }
    for (n, block) in out.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        for (row, source) in sources.iter().enumerate() {
            for u in 0..U::PER_BLOCK {
                U::put(block, u, row, source.get(n * U::PER_BLOCK + u).unwrap_or(&U::ZERO));
            }
        }
    }
    Ok(())
}

/// Row `row` (0..16) of a row-block, whose lengths have been checked.
fn take_row(format: Format, k: usize, block: &[u8], row: usize, out: &mut [u8]) -> Result<(), PackError> {
    match format {
        Format::F32 => take_units::<F32, 4, 64>(block, row, out),
        Format::F16 => take_units::<F16, 2, 32>(block, row, out),
        Format::Q8_0 => take_units::<Q8, 34, { layout::q8_0::BYTES }>(block, row, out),
        Format::Q4_0 => take_units::<Q4, 18, { layout::q4_0::BYTES }>(block, row, out),
        Format::Q6K => take_units::<Q6, 210, { layout::q6_k::BYTES }>(block, row, out),
        Format::Q4K => take_units::<Q4K, 144, { layout::q4_k::BYTES }>(block, row, out),
        Format::Q5K => take_units::<Q5K, 176, { layout::q5_k::BYTES }>(block, row, out),
    }
    .map_err(|unit| PackError::NotCanonical { format, row, k: (unit * format.unit_k()).min(k) })
}

/// [`take_row`] for one format; the error is the unit that has no canonical form.
fn take_units<U: Units<UNIT, BLOCK>, const UNIT: usize, const BLOCK: usize>(
    row_block: &[u8],
    row: usize,
    out: &mut [u8],
) -> Result<(), usize> {
    let blocks = row_block.as_chunks::<BLOCK>().0;
    for (n, (block, units)) in
        blocks.iter().zip(out.as_chunks_mut::<UNIT>().0.chunks_mut(U::PER_BLOCK)).enumerate()
    {
        for (u, unit) in units.iter_mut().enumerate() {
            *unit = U::take(block, u, row).ok_or(n * U::PER_BLOCK + u)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
