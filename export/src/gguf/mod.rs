//! GGUF files as a source: configuration, weights and tokenizer of an LFM2 model out of one file.
//!
//! Weights are taken over block by block: the rows of a quantised tensor are the canonical rows of a bundle's
//! format, so that nothing is quantised again and nothing is lost. The file is read with positioned reads, never
//! mapped, and held open; nothing in it is believed before it has been compared with the file's size.

mod config;
mod error;
mod header;
mod read;
mod tensors;
mod text;
mod types;
mod value;

pub use error::GgufError;
pub use read::Gguf;
pub use tensors::gguf_name;
pub use types::Type;
