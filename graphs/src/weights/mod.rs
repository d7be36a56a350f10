//! How weights are stored: formats, packed layouts, and the way between them.
//!
//! A weight matrix has two byte forms. The *canonical* form is row-major, one row after another, in the blocks of the
//! GGUF file format; quantisers and importers produce it. The *packed* form interleaves 16 rows so that CPU kernels
//! read one contiguous stream; bundles hold it. Packing is lossless and reversible.

pub mod dequant;
pub mod format;
pub mod k_quant;
pub mod layout;
pub mod pack;
pub mod q6_k;

pub use format::{Format, UnknownFormat};
