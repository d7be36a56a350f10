//! Quantisation: f32 rows to the canonical bytes of a weight format.
//!
//! ```text
//! f32 [rows, k] ─┬─ f32   copied
//!                ├─ f16   rounded to nearest even
//!                ├─ q8_0  scale from the largest magnitude of a group of 32
//!                ├─ q4_0  scale of least squared error per group of 32
//!                └─ q6_k  sub-scales of least squared error per 16, under one scale per 256
//! ```
//!
//! Every unit (see [`lfm_graphs::weights::format`]) depends on its own elements only, so the bytes are the same for any
//! number of threads and any cut of a tensor into rows. Arithmetic is plain f32 in a fixed order: the bytes are also
//! the same on every machine. What a format cannot hold (NaN, infinities, values whose scale exceeds f16) is an error,
//! never a silent infinity. q4_k and q5_k are taken over from GGUF files and never made.

pub mod random;
pub mod recipe;

mod f16;
mod group;
mod q4_0;
mod q6_k;
mod q8_0;

use lfm_graphs::weights::Format;
use rayon::prelude::*;
use thiserror::Error;

pub use random::RandomWeights;
pub use recipe::{Recipe, RecipeError, WeightRole};

use group::{Fault, FaultKind};

/// Why rows could not be quantised. Rows are counted from the first one given, see [`QuantiseError::below`].
#[derive(Clone, PartialEq, Debug, Error)]
pub enum QuantiseError {
    /// A buffer has another length than the shape says.
    #[error("quantising rows of {k} elements to {format}: {what} has length {found}, expected {expected}")]
    Length {
        /// Target format.
        format: Format,
        /// Elements per row.
        k: usize,
        /// Which buffer.
        what: &'static str,
        /// Its length, in its own elements.
        found: usize,
        /// The length that the shape implies.
        expected: usize,
    },
    /// No quantiser makes this format: it comes in blocks, out of a GGUF file.
    #[error("there is no quantiser to {format}, only to f32, f16, q8_0, q4_0 and q6_k")]
    NoQuantiser {
        /// Target format.
        format: Format,
    },
    /// A weight is NaN or infinite.
    #[error("quantising to {format}: row {row}, element {element} is {value}, expected a finite weight")]
    NotFinite {
        /// Target format.
        format: Format,
        /// Row.
        row: usize,
        /// Element along K.
        element: usize,
        /// The weight.
        value: f32,
    },
    /// A weight is so large that the format's f16 would be infinite.
    #[error(
        "quantising to {format}: row {row}, element {element} is {value}, too large for an f16 scale or value"
    )]
    Overflow {
        /// Target format.
        format: Format,
        /// Row.
        row: usize,
        /// Element along K.
        element: usize,
        /// The weight.
        value: f32,
    },
}

impl QuantiseError {
    /// The same error with its row counted from `first` rows further up: for callers that stream a tensor.
    #[must_use]
    pub fn below(self, first: usize) -> QuantiseError {
        match self {
            QuantiseError::Length { .. } | QuantiseError::NoQuantiser { .. } => self,
            QuantiseError::NotFinite { format, row, element, value } => {
                QuantiseError::NotFinite { format, row: first.saturating_add(row), element, value }
            }
            QuantiseError::Overflow { format, row, element, value } => {
                QuantiseError::Overflow { format, row: first.saturating_add(row), element, value }
            }
        }
    }
}

/// Rows are handed to threads in pieces of at least this many elements.
const PIECE: usize = 1 << 14;

/// Quantises `values` (`[rows, k]`, row-major) to canonical rows, `rows x format.row_bytes(k)` bytes of `out`.
///
/// Runs on the current rayon pool. Of several faults the first one, in order of elements, is reported.
pub fn quantise_rows(format: Format, values: &[f32], k: usize, out: &mut [u8]) -> Result<(), QuantiseError> {
    let length = |what, found, expected| QuantiseError::Length { format, k, what, found, expected };
    let encode = encoder(format).ok_or(QuantiseError::NoQuantiser { format })?;
    let rows = values.len().checked_div(k).unwrap_or(0);
    if rows.checked_mul(k) != Some(values.len()) {
        return Err(length("the source", values.len(), rows.saturating_mul(k)));
    }
    let row_bytes = format.row_bytes(k).unwrap_or(usize::MAX);
    let expected = rows.saturating_mul(row_bytes);
    if out.len() != expected {
        return Err(length("the target", out.len(), expected));
    }
    if rows == 0 {
        return Ok(());
    }
    let fault = values
        .par_chunks_exact(k)
        .zip(out.par_chunks_exact_mut(row_bytes))
        .enumerate()
        .with_min_len((PIECE / k).max(1))
        .filter_map(|(row, (values, out))| encode(values, out).err().map(|fault| (row, fault)))
        .min_by_key(|(row, _)| *row);
    let Some((row, Fault { element, kind })) = fault else { return Ok(()) };
    let value = values.get(row * k + element).copied().unwrap_or_default();
    Err(match kind {
        FaultKind::NotFinite => QuantiseError::NotFinite { format, row, element, value },
        FaultKind::Overflow => QuantiseError::Overflow { format, row, element, value },
    })
}

/// Quantises one row, whose lengths have been checked.
type Encoder = fn(&[f32], &mut [u8]) -> Result<(), Fault>;

/// Whether weights can be quantised to a format.
pub(crate) fn is_made(format: Format) -> bool {
    encoder(format).is_some()
}

/// The quantiser to a format; `None` for a format that is only taken over from files.
fn encoder(format: Format) -> Option<Encoder> {
    Some(match format {
        Format::F32 => |values, out| group::each(values, out, f16::encode_f32),
        Format::F16 => f16::encode_row,
        Format::Q8_0 => |values, out| group::each(values, out, q8_0::encode),
        Format::Q4_0 => |values, out| group::each(values, out, q4_0::encode),
        Format::Q6K => |values, out| group::each(values, out, q6_k::encode),
        Format::Q4K | Format::Q5K => return None,
    })
}

#[cfg(test)]
mod tests;
