//! Bodies of what models are exported from: configurations, safetensors files and their index, GGUF files.

use std::fs;
use std::path::Path;

use lfm_export::gguf::Gguf;
use lfm_model::{Checkpoint, Config, TensorKind};

use super::{Room, Scratch, utf8};
use crate::fixture;

/// Headers become names, shapes and error messages; tables of the model's own tensors are on top.
const HEADER: Room = Room { per_byte: 20, on_top: 4 << 20 };
/// A configuration of 1024 layers has a table of some 20,000 tensors.
const CONFIG: Room = Room { per_byte: 40, on_top: 16 << 20 };

/// `config.json`.
pub(super) fn config(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    CONFIG.hold(bytes.len(), || {
        let Ok(config) = Config::from_json(text) else { return };
        let elements: u128 = config.tensors().iter().map(|spec| spec.elements() as u128).sum();
        assert!(elements > 0);
        assert_eq!(config.inv_freq().len() * 2, config.head_dim);
    });
}

fn config_of(name: &str) -> impl FnOnce(&Path) {
    let from = fixture(name).join("config.json");
    move |folder| {
        fs::copy(from, folder.join("config.json")).unwrap();
    }
}

/// A safetensors file, beside a configuration that it may fit.
pub(super) fn safetensors(bytes: &[u8]) {
    thread_local!(static SCRATCH: Scratch = const { Scratch::new() });
    SCRATCH.with(|scratch| {
        let folder = scratch.write("model.safetensors", bytes, config_of("all-conv"));
        let Ok(checkpoint) = HEADER.hold(bytes.len(), || Checkpoint::open(folder)) else { return };
        for tensor in checkpoint.tensors() {
            let read = checkpoint.read_f32(tensor.name).map(|values| values.len());
            assert_eq!(read.unwrap_or_else(|e| panic!("{e}")), tensor.elements(), "{}", tensor.name);
        }
    });
}

/// The index of a checkpoint in several files.
pub(super) fn shard_index(bytes: &[u8]) {
    thread_local!(static SCRATCH: Scratch = const { Scratch::new() });
    let shards = |folder: &Path| {
        for entry in fs::read_dir(fixture("tiny-moe-sharded")).unwrap().map(Result::unwrap) {
            let name = entry.file_name();
            if name.to_string_lossy().ends_with(".safetensors") || name == "config.json" {
                fs::copy(entry.path(), folder.join(name)).unwrap();
            }
        }
    };
    SCRATCH.with(|scratch| {
        let folder = scratch.write("model.safetensors.index.json", bytes, shards);
        let _ = HEADER.hold(bytes.len(), || Checkpoint::open(folder).is_ok());
    });
}

/// A GGUF file.
pub(super) fn gguf(bytes: &[u8]) {
    thread_local!(static SCRATCH: Scratch = const { Scratch::new() });
    SCRATCH.with(|scratch| {
        let path = scratch.write("model.gguf", bytes, |_| {}).join("model.gguf");
        let Ok(gguf) = HEADER.hold(bytes.len(), || Gguf::open(&path)) else { return };
        assert!(!gguf.fingerprint().finalize().to_hex().is_empty());
        for spec in gguf.config().tensors() {
            let kind = gguf.tensor_type(&spec.name).unwrap();
            let k = spec.shape.last().copied().unwrap_or(1);
            let stored = match spec.kind {
                TensorKind::ConvKernel => k * spec.shape[0],
                _ => k,
            };
            let mut row = vec![0; kind.format().row_bytes(stored).unwrap()];
            gguf.read_rows(&spec.name, stored, 0, &mut row).unwrap_or_else(|e| panic!("{}: {e}", spec.name));
            assert!(gguf.read_rows(&spec.name, stored, usize::MAX / 2, &mut row).is_err(), "{}", spec.name);
        }
    });
}
