//! Where weights come from: a checkpoint folder, a GGUF file, or seeded random numbers in the shapes of a
//! configuration.

use std::fs;
use std::path::{Path, PathBuf};

use lfm_graphs::bundle;
use lfm_graphs::weights::Format;
use lfm_model::{Checkpoint, Config, canonical_name};

use super::ExportError;
use crate::gguf::{Gguf, Type};
use crate::quantize::random::{Distribution, RandomWeights};
use crate::quantize::recipe::WeightRole;

/// Largest side file (tokenizer, template, licence) that is read.
const MAX_FILE: u64 = 64 << 20;

/// A model to be exported.
#[derive(Debug)]
pub struct Source {
    config: Config,
    weights: Weights,
    fingerprint: blake3::Hasher,
}

#[derive(Debug)]
enum Weights {
    Folder(Box<Checkpoint>),
    Gguf(Box<Gguf>),
    Random(u64, RandomWeights),
}

/// The text side of a checkpoint, byte for byte.
#[derive(Clone, Debug, Default)]
pub struct TextFiles {
    /// `tokenizer.json`.
    pub tokenizer: Option<Vec<u8>>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<Vec<u8>>,
    /// `special_tokens_map.json`.
    pub special_tokens: Option<Vec<u8>>,
    /// `generation_config.json`.
    pub generation: Option<Vec<u8>>,
    /// `chat_template.jinja`.
    pub chat_template: Option<Vec<u8>>,
    /// `LICENSE` or `LICENSE.txt` or `LICENSE.md`.
    pub licence: Option<Vec<u8>>,
}

/// The configuration file of a source: `path` itself, or the `config.json` in it.
pub fn config_path(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("config.json") } else { path.to_path_buf() }
}

impl Source {
    /// Opens a checkpoint folder or a GGUF file.
    ///
    /// # Errors
    /// When the path is neither, or what is there is not one LFM2 model.
    pub fn open(path: &Path) -> Result<Source, ExportError> {
        if Gguf::is(path) { Source::gguf(path) } else { Source::folder(path) }
    }

    /// Opens a GGUF file.
    ///
    /// # Errors
    /// When what it holds is not one LFM2 model in types that are read.
    pub fn gguf(path: &Path) -> Result<Source, ExportError> {
        let gguf = Gguf::open(path)?;
        Ok(Source {
            config: gguf.config().clone(),
            fingerprint: gguf.fingerprint().clone(),
            weights: Weights::Gguf(Box::new(gguf)),
        })
    }

    /// Opens a checkpoint folder.
    ///
    /// # Errors
    /// When configuration and tensors are not those of one LFM2 model.
    pub fn folder(path: &Path) -> Result<Source, ExportError> {
        if !path.is_dir() {
            return Err(ExportError::Source {
                path: path.to_path_buf(),
                expected: "a folder with config.json and *.safetensors, a GGUF file, or with --random-weights a \
                           config.json",
            });
        }
        let checkpoint = Checkpoint::open(path)?;
        let mut fingerprint = fingerprint(&config_path(path))?;
        for tensor in checkpoint.tensors() {
            fingerprint.update(format!("{} {:?} {:?}\n", tensor.name, tensor.shape, tensor.dtype).as_bytes());
        }
        Ok(Source {
            config: checkpoint.config().clone(),
            weights: Weights::Folder(Box::new(checkpoint)),
            fingerprint,
        })
    }

    /// Random weights in the shapes of a `config.json` (or of the one in a folder).
    ///
    /// # Errors
    /// When the configuration is not that of an LFM2 model.
    pub fn random(path: &Path, seed: u64) -> Result<Source, ExportError> {
        let path = config_path(path);
        let config = Config::from_file(&path)?;
        let mut fingerprint = fingerprint(&path)?;
        fingerprint.update(format!("random {seed}\n").as_bytes());
        Ok(Source { config, weights: Weights::Random(seed, RandomWeights::new(seed)), fingerprint })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The kind of source, for the manifest.
    pub fn kind(&self) -> bundle::Source {
        match self.weights {
            Weights::Folder(_) => bundle::Source::Hf,
            Weights::Gguf(_) => bundle::Source::Gguf,
            Weights::Random(seed, _) => bundle::Source::Random { seed },
        }
    }

    /// Hash of the configuration and the table of tensors, in hex. It does not depend on where the source lies.
    pub fn fingerprint(&self) -> String {
        self.fingerprint.finalize().to_hex().to_string()
    }

    /// What the source holds and a bundle does not, a line each.
    pub fn notes(&self) -> &[String] {
        match &self.weights {
            Weights::Gguf(gguf) => gguf.notes(),
            Weights::Folder(_) | Weights::Random(..) => &[],
        }
    }

    /// The format of most matrices, where the source decides on the formats.
    pub fn dominating(&self) -> Option<Format> {
        match &self.weights {
            Weights::Gguf(gguf) => Some(gguf.dominating()),
            Weights::Folder(_) | Weights::Random(..) => None,
        }
    }

    /// The format in which the source holds a weight of this use, where the source decides. Only what a recipe
    /// may quantise keeps its format.
    pub(super) fn stored_format(&self, param: &str, role: WeightRole) -> Option<Format> {
        let Weights::Gguf(gguf) = &self.weights else { return None };
        match role {
            WeightRole::Embedding | WeightRole::Matrix | WeightRole::Expert => {
                gguf.tensor_type(&canonical_name(param)).map(Type::format)
            }
            WeightRole::Router | WeightRole::ConvKernel | WeightRole::Vector => Some(Format::F32),
        }
    }

    /// Reads whole canonical rows of a parameter in its stored format, from `row` on (counted through a stack); false
    /// where the source has none and they are to be made from elements.
    pub(super) fn read_rows(
        &self,
        param: &str,
        role: WeightRole,
        k: usize,
        row: usize,
        out: &mut [u8],
    ) -> Result<bool, ExportError> {
        let Weights::Gguf(gguf) = &self.weights else { return Ok(false) };
        match role {
            WeightRole::Embedding | WeightRole::Matrix | WeightRole::Expert => {
                gguf.read_rows(&canonical_name(param), k, row, out)?;
                Ok(true)
            }
            WeightRole::Router | WeightRole::ConvKernel | WeightRole::Vector => Ok(false),
        }
    }

    /// Reads elements of a parameter of the traced module, in the checkpoint's order, from element `first` on.
    /// `k` is the number of elements in a row of its matrix.
    pub fn read(
        &self,
        param: &str,
        role: WeightRole,
        k: usize,
        first: usize,
        out: &mut [f32],
    ) -> Result<(), ExportError> {
        let name = canonical_name(param);
        match &self.weights {
            Weights::Folder(checkpoint) => Ok(checkpoint.read_f32_range(&name, first, out)?),
            Weights::Gguf(gguf) => Ok(gguf.read_f32(&name, first, out)?),
            Weights::Random(_, random) => {
                random.fill(&name, Distribution::of(role, &name, k), first as u64, out);
                Ok(())
            }
        }
    }

    /// The files of the text side; none for random weights.
    pub fn text(&self) -> Result<TextFiles, ExportError> {
        let checkpoint = match &self.weights {
            Weights::Folder(checkpoint) => checkpoint,
            Weights::Gguf(gguf) => return Ok(gguf.text().clone()),
            Weights::Random(..) => return Ok(TextFiles::default()),
        };
        let folder = checkpoint.path();
        let optional = |names: &[&str]| {
            let found = names.iter().map(|name| folder.join(name)).find(|path| path.exists());
            found.map(|path| read_file(&path)).transpose()
        };
        Ok(TextFiles {
            tokenizer: optional(&["tokenizer.json"])?,
            tokenizer_config: optional(&["tokenizer_config.json"])?,
            special_tokens: optional(&["special_tokens_map.json"])?,
            generation: optional(&["generation_config.json"])?,
            chat_template: optional(&["chat_template.jinja"])?,
            licence: optional(&["LICENSE", "LICENSE.txt", "LICENSE.md"])?,
        })
    }
}

fn fingerprint(config: &Path) -> Result<blake3::Hasher, ExportError> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&read_file(config)?);
    hasher.update(b"\n");
    Ok(hasher)
}

fn read_file(path: &Path) -> Result<Vec<u8>, ExportError> {
    let failed = |source| ExportError::Read { path: path.to_path_buf(), source };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MAX_FILE {
        let message = format!("found {length} bytes, expected at most {MAX_FILE}");
        return Err(failed(std::io::Error::other(message)));
    }
    fs::read(path).map_err(failed)
}
