//! Why a checkpoint was refused.

use std::path::PathBuf;

use crate::config::ConfigError;

/// Why a checkpoint could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The configuration was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file could not be opened or read.
    #[error("reading {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The header of a safetensors file is wrong as a whole.
    #[error("{path}: header: {message}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// The header's entry of one tensor is wrong.
    #[error("{path}: tensor `{name}`: {message}")]
    Entry {
        /// The file.
        path: PathBuf,
        /// The tensor, as the file calls it.
        name: String,
        /// What was found and what was expected.
        message: String,
    },
    /// The index of the shards is wrong.
    #[error("{path}: {message}")]
    Index {
        /// The index.
        path: PathBuf,
        /// What was found and what was expected.
        message: String,
    },
    /// Tensors that the configuration asks for are not there.
    #[error("the checkpoint lacks {names}, which its config.json asks for")]
    Missing {
        /// The first of them.
        names: String,
    },
    /// There are tensors that the configuration does not ask for.
    #[error("the checkpoint has {names}, for which its config.json has no use")]
    Unexpected {
        /// The first of them.
        names: String,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` is {found:?}, its config.json makes it {expected:?}")]
    Shape {
        /// The tensor, as the file calls it.
        name: String,
        /// Its shape.
        found: Vec<u64>,
        /// The shape that it should have.
        expected: Vec<usize>,
    },
    /// Experts of one layer are stored in different types.
    #[error("tensor `{name}` is {found}, others of the same layer are {expected}")]
    MixedTypes {
        /// The tensor, as the file calls it.
        name: String,
        /// Its type.
        found: &'static str,
        /// The type of the others.
        expected: &'static str,
    },
    /// A tied checkpoint has a head that is not the embedding.
    #[error("config.json ties the head to the embedding, but row {row} of `lm_head.weight` differs from it")]
    HeadDiffers {
        /// The first row that differs.
        row: usize,
    },
    /// There is no tensor of this name.
    #[error("the model has no tensor `{name}`")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// A range goes past the end of its tensor.
    #[error("elements {first} to {first} + {len} of tensor `{name}` were asked for, it has {elements}")]
    Range {
        /// The tensor.
        name: String,
        /// First element asked for.
        first: usize,
        /// Number asked for.
        len: usize,
        /// Number there is.
        elements: usize,
    },
    /// Elements could not be read.
    #[error("reading tensor `{name}` at byte {offset} of {path}: {source}")]
    Read {
        /// The tensor.
        name: String,
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What the system said.
        source: std::io::Error,
    },
}

/// At most this many names are listed in an error.
const LISTED: usize = 5;

/// The first of some tensor names, for an error message.
#[derive(Debug, Default)]
pub(super) struct NameList {
    names: Vec<String>,
    total: usize,
}

impl NameList {
    pub(super) fn push(&mut self, name: &str) {
        self.total += 1;
        if self.names.len() < LISTED {
            self.names.push(format!("`{name}`"));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }
}

impl std::fmt::Display for NameList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.names.join(", "))?;
        match self.total - self.names.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
