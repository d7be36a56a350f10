//! Why a GGUF file was refused.

use std::io;
use std::path::PathBuf;

use lfm_model::ConfigError;
use lfm_runtime::text::TextError;

/// Why a GGUF file could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file could not be read.
    #[error("reading {}, byte {byte}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Where in it.
        byte: u64,
        /// What the system said.
        source: io::Error,
    },
    /// A field of the header is wrong.
    #[error("{}, byte {byte}: {what} is {found}, expected {expected}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// Where in it.
        byte: u64,
        /// Which field.
        what: String,
        /// Its value.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// The model needs a metadata key that is not there.
    #[error("the GGUF file lacks the metadata key `{0}`")]
    MissingKey(String),
    /// A metadata key has a value that no model can have, or that is not supported.
    #[error("GGUF metadata key `{key}` is {found}, expected {expected}")]
    Key {
        /// The key.
        key: String,
        /// Its value.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// The metadata is not that of an LFM2 model; the cause names keys as in a `config.json`.
    #[error("the metadata of the GGUF file, read as a config.json, is refused")]
    Config(#[from] ConfigError),
    /// The tokenizer in the metadata is not sound.
    #[error("the tokenizer in the GGUF file is refused")]
    Text(#[from] TextError),
    /// A tensor has a type that is not read.
    #[error(
        "tensor {name} has type {found}, which is not supported yet; supported are F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K and Q6_K"
    )]
    Type {
        /// The tensor, as the file calls it.
        name: String,
        /// Its type.
        found: String,
    },
    /// A tensor is not as the model needs it.
    #[error("tensor {name}: {what} is {found}, expected {expected}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong about it.
        what: &'static str,
        /// As the file has it.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// Tensors that the metadata asks for are not there.
    #[error("the GGUF file lacks the tensors {0}, which its metadata asks for")]
    MissingTensors(String),
    /// There are tensors that the metadata does not ask for.
    #[error("the GGUF file has the tensors {0}, for which its metadata has no use")]
    UnexpectedTensors(String),
}

/// A string of the file, quoted, cut and safe to print.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 64;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?} ...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

/// The first names of a list.
pub(super) fn first_names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 4;
    let mut shown = Vec::new();
    let mut more = 0;
    for name in names {
        if shown.len() < SHOWN {
            shown.push(name);
        } else {
            more += 1;
        }
    }
    let list = shown.join(", ");
    if more == 0 { list } else { format!("{list} and {more} more") }
}
