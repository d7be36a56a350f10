//! An opened GGUF file: what an export needs of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use lfm_graphs::weights::Format;
use lfm_model::{Config, TensorKind};

use super::config::{Present, config};
use super::error::GgufError;
use super::header::{Header, Info, MAGIC};
use super::tensors::resolve;
use super::text::{notes, text};
use super::types::Type;
use super::value::Metadata;
use crate::bundle::TextFiles;

/// Bytes read at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// A GGUF file, its header checked.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    config: Config,
    text: TextFiles,
    /// By canonical name.
    tensors: BTreeMap<String, Info>,
    fingerprint: blake3::Hasher,
    notes: Vec<String>,
}

impl Gguf {
    /// Whether `path` is a file that begins as a GGUF file does.
    pub fn is(path: &Path) -> bool {
        let mut magic = [0; 4];
        path.is_file()
            && File::open(path).and_then(|mut f| f.read_exact(&mut magic)).is_ok()
            && magic == MAGIC
    }

    /// Opens a file and checks all but the values of its weights.
    ///
    /// # Errors
    /// When header, metadata, tensors and tokenizer are not those of one LFM2 model.
    pub fn open(path: &Path) -> Result<Gguf, GgufError> {
        let failed = |source| GgufError::Read { path: path.to_path_buf(), byte: 0, source };
        let file = File::open(path).map_err(failed)?;
        let header = Header::read(&file, path)?;
        let metadata = Metadata(&header.metadata);
        let present = Present {
            head: header.tensors.iter().any(|info| info.name == "output.weight"),
            expert_bias: header.tensors.iter().any(|info| info.name.ends_with(".exp_probs_b.bias")),
        };
        let config = config(&metadata, present)?;
        let tensors = resolve(&config, &header.tensors)?;
        let text = text(&metadata, config.vocab_size)?;
        let mut gguf = Gguf {
            path: path.to_path_buf(),
            file,
            config,
            text,
            tensors,
            fingerprint: blake3::Hasher::new(),
            notes: notes(&metadata),
        };
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut at = 0;
        while at < header.length {
            let now = (header.length - at).min(CHUNK_BYTES as u64) as usize;
            let bytes = &mut buffer[..now];
            gguf.read_at(at, bytes)?;
            gguf.fingerprint.update(bytes);
            at += now as u64;
        }
        Ok(gguf)
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The tokenizer and the chat template as the files of a checkpoint folder.
    pub fn text(&self) -> &TextFiles {
        &self.text
    }

    /// Hash of metadata and table of tensors.
    pub fn fingerprint(&self) -> &blake3::Hasher {
        &self.fingerprint
    }

    /// What the file holds and a bundle does not, a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Type of a tensor, by its canonical name.
    pub fn tensor_type(&self, name: &str) -> Option<Type> {
        Some(self.tensors.get(name)?.kind)
    }

    /// The format that most elements of the matrices have, embedding and head aside.
    pub fn dominating(&self) -> Format {
        let mut elements = BTreeMap::new();
        let is_matrix = |kind| matches!(kind, TensorKind::Linear | TensorKind::Experts);
        for spec in self.config.tensors().iter().filter(|spec| is_matrix(spec.kind)) {
            let format = self.tensor_type(&spec.name).map_or(Format::F32, Type::format);
            *elements.entry(format).or_insert(0) += spec.elements();
        }
        elements.into_iter().max_by_key(|(_, n)| *n).map_or(Format::F32, |(format, _)| format)
    }

    /// Reads canonical rows of a matrix in the format that its type gives, from `row` on (counted through all
    /// matrices of a stack); `out` holds whole rows of `k` elements.
    pub fn read_rows(&self, name: &str, k: usize, row: usize, out: &mut [u8]) -> Result<(), GgufError> {
        let info = self.info(name)?;
        if info.kind == Type::Bf16 {
            let mut values = vec![0.0; out.len() / size_of::<f32>()];
            self.read_f32(name, row.saturating_mul(k), &mut values)?;
            let chunks = out.as_chunks_mut::<4>().0;
            chunks.iter_mut().zip(values).for_each(|(out, x)| *out = x.to_le_bytes());
            return Ok(());
        }
        let row_bytes = info.kind.format().row_bytes(k).unwrap_or(usize::MAX);
        self.read_bytes(info, (row as u64).saturating_mul(row_bytes as u64), out)
    }

    /// Reads elements of a tensor of floats, row-major, from element `first` on.
    pub fn read_f32(&self, name: &str, first: usize, out: &mut [f32]) -> Result<(), GgufError> {
        let info = self.info(name)?;
        let size = match info.kind {
            Type::F32 => 4,
            Type::F16 | Type::Bf16 => 2,
            Type::Q8_0 | Type::Q4_0 | Type::Q4K | Type::Q5K | Type::Q6K => {
                return Err(GgufError::Tensor {
                    name: info.name.clone(),
                    what: "the type",
                    found: info.kind.name().into(),
                    expected: "F32, F16 or BF16".into(),
                });
            }
        };
        let mut buffer = vec![0; CHUNK_BYTES.min(out.len() * size)];
        let mut offset = (first as u64).saturating_mul(size as u64);
        for out in out.chunks_mut(CHUNK_BYTES / size) {
            let bytes = &mut buffer[..out.len() * size];
            self.read_bytes(info, offset, bytes)?;
            let pairs = bytes.as_chunks::<2>().0.iter().copied();
            match info.kind {
                Type::F16 => {
                    out.iter_mut().zip(pairs).for_each(|(out, b)| *out = f16::from_le_bytes(b).to_f32())
                }
                Type::Bf16 => {
                    out.iter_mut().zip(pairs).for_each(|(out, b)| *out = bf16::from_le_bytes(b).to_f32());
                }
                Type::F32 | Type::Q8_0 | Type::Q4_0 | Type::Q4K | Type::Q5K | Type::Q6K => {
                    let values = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
                    out.iter_mut().zip(values).for_each(|(out, x)| *out = x);
                }
            }
            offset += bytes.len() as u64;
        }
        Ok(())
    }

    fn info(&self, name: &str) -> Result<&Info, GgufError> {
        self.tensors.get(name).ok_or_else(|| GgufError::MissingTensors(name.to_owned()))
    }

    /// Reads bytes of a tensor, never beyond its end.
    fn read_bytes(&self, info: &Info, offset: u64, out: &mut [u8]) -> Result<(), GgufError> {
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > info.bytes) {
            return Err(GgufError::Tensor {
                name: info.name.clone(),
                what: "its size",
                found: format!("{} bytes", info.bytes),
                expected: format!("{} from byte {offset} on", out.len()),
            });
        }
        self.read_at(info.start + offset, out)
    }

    fn read_at(&self, byte: u64, out: &mut [u8]) -> Result<(), GgufError> {
        let failed = |source: io::Error| GgufError::Read { path: self.path.clone(), byte, source };
        self.file.read_exact_at(out, byte).map_err(failed)
    }
}
