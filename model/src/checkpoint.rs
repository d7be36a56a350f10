//! A checkpoint folder as published on the Hugging Face hub, opened without holding its weights.
//!
//! Opening reads `config.json` and the headers of the safetensors files and checks that exactly the tensors of
//! the configuration are there, in the right shapes. Values are then read on demand, by tensor or by range,
//! converted to f32. Whatever the layout on disk (one file or shards, experts apart or fused), the names are
//! those of [`Config::tensors`]. Reads take `&self` and may come from several threads.

mod error;
mod header;
mod layout;
mod shards;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub use error::CheckpointError;
pub use header::Dtype;

use crate::config::Config;
use crate::tensors::{TensorKind, TensorSpec};

/// Bytes read from a file at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// An opened checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    config: Config,
    files: Vec<DataFile>,
    /// In the order of [`Config::tensors`].
    tensors: Vec<Stored>,
}

/// What is known of a tensor without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorInfo<'a> {
    /// Canonical name.
    pub name: &'a str,
    /// Shape, outermost dimension first.
    pub shape: &'a [usize],
    /// Type on disk.
    pub dtype: Dtype,
    /// Role.
    pub kind: TensorKind,
}

impl TensorInfo<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// One safetensors file, its header checked.
#[derive(Debug)]
struct DataFile {
    path: PathBuf,
    file: File,
}

/// A canonical tensor and where its elements are.
#[derive(Debug)]
struct Stored {
    spec: TensorSpec,
    dtype: Dtype,
    /// Equally long ranges that hold the elements one after the other.
    pieces: Vec<Piece>,
}

/// A contiguous range of elements in a file.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// Index into [`Checkpoint::files`].
    file: usize,
    /// Byte of the first element.
    start: u64,
}

impl Checkpoint {
    /// Opens the folder `path`.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let config = Config::from_file(&path.join("config.json"))?;
        Self::with_config(path, config)
    }

    /// Opens the tensors in the folder `path` as those of `config`.
    pub fn with_config(path: &Path, config: Config) -> Result<Self, CheckpointError> {
        let (files, found) = shards::open(path)?;
        let (tensors, unused_head) = layout::resolve(&config, found)?;
        let mut checkpoint = Self { path: path.to_path_buf(), config, files, tensors };
        if let Some(head) = unused_head {
            checkpoint.check_unused_head(head)?;
        }
        Ok(checkpoint)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Canonical names of all tensors, in the order of [`Config::tensors`].
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|stored| stored.spec.name.as_str())
    }

    /// All tensors, in the order of [`Config::tensors`].
    pub fn tensors(&self) -> impl Iterator<Item = TensorInfo<'_>> {
        self.tensors.iter().map(Stored::info)
    }

    /// The tensor `name`, if the model has it.
    pub fn tensor(&self, name: &str) -> Option<TensorInfo<'_>> {
        self.stored(name).ok().map(Stored::info)
    }

    /// Reads the whole tensor `name`, row-major.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let mut values = vec![0.0; self.stored(name)?.spec.elements()];
        self.read_f32_range(name, 0, &mut values)?;
        Ok(values)
    }

    /// Reads `out.len()` elements of the tensor `name`, row-major, from element `first` on.
    pub fn read_f32_range(&self, name: &str, first: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let stored = self.stored(name)?;
        let elements = stored.spec.elements();
        if first.checked_add(out.len()).is_none_or(|end| end > elements) {
            return Err(CheckpointError::Range { name: name.to_owned(), first, len: out.len(), elements });
        }
        let piece_len = elements / stored.pieces.len();
        let (mut at, mut out) = (first, out);
        while !out.is_empty() {
            let skipped = at % piece_len;
            let len = out.len().min(piece_len - skipped);
            let (now, rest) = out.split_at_mut(len);
            let piece = stored.pieces[at / piece_len];
            self.read_elements(name, piece, stored.dtype, skipped, now)?;
            (at, out) = (at + len, rest);
        }
        Ok(())
    }

    /// Reads elements of one piece, from its element `first` on.
    fn read_elements(
        &self,
        name: &str,
        piece: Piece,
        dtype: Dtype,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let DataFile { path, file } = &self.files[piece.file];
        let size = dtype.bytes();
        let mut buffer = vec![0; CHUNK_BYTES.min(out.len() * size)];
        let mut offset = piece.start + first as u64 * size as u64;
        for chunk in out.chunks_mut(CHUNK_BYTES / size) {
            let bytes = &mut buffer[..chunk.len() * size];
            file.read_exact_at(bytes, offset).map_err(|source| CheckpointError::Read {
                name: name.to_owned(),
                path: path.clone(),
                offset,
                source,
            })?;
            dtype.decode(bytes, chunk);
            offset += bytes.len() as u64;
        }
        Ok(())
    }

    fn stored(&self, name: &str) -> Result<&Stored, CheckpointError> {
        let found = self.tensors.iter().find(|stored| stored.spec.name == name);
        found.ok_or_else(|| CheckpointError::Unknown { name: name.to_owned() })
    }

    /// A tied checkpoint may carry a copy of its embedding as a head; anything else contradicts the
    /// configuration.
    fn check_unused_head(&mut self, head: Stored) -> Result<(), CheckpointError> {
        let (name, tied) = (head.spec.name.clone(), "model.embed_tokens.weight");
        let [rows, width] = [self.config.vocab_size, self.config.hidden_size];
        self.tensors.push(head);
        let (mut a, mut b) = (vec![0.0; width], vec![0.0; width]);
        for row in 0..rows {
            self.read_f32_range(&name, row * width, &mut a)?;
            self.read_f32_range(tied, row * width, &mut b)?;
            if a.iter().zip(&b).any(|(a, b)| a.to_bits() != b.to_bits()) {
                return Err(CheckpointError::HeadDiffers { row });
            }
        }
        self.tensors.pop();
        Ok(())
    }
}

impl Stored {
    fn info(&self) -> TensorInfo<'_> {
        TensorInfo { name: &self.spec.name, shape: &self.spec.shape, dtype: self.dtype, kind: self.spec.kind }
    }
}
