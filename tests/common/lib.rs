//! What the tests share: fixtures with their goldens, and bundles made from them.

pub mod damage;
pub mod fuzz;
#[path = "../../export/tests/common/gguf.rs"]
#[allow(
    dead_code,
    missing_docs,
    missing_debug_implementations,
    reason = "shared with the exporter's own tests"
)]
pub mod gguf;
pub mod heap;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lfm_export::bundle::{Options, Source, export};
use lfm_graphs::bundle::{Bundle as Sections, BundleWriter, Kind};
use lfm_graphs::target::Target;
use lfm_runtime::Model;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

/// The folder of a fixture.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// A file or folder of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The demo checkpoint.
pub fn demo() -> PathBuf {
    repository("model/demo")
}

/// Checkpoints of every layout and shape, with goldens.
pub const FIXTURES: [&str; 13] = [
    "tiny-moe",
    "tiny-moe-fused",
    "tiny-moe-sharded",
    "tiny-moe-bf16",
    "tiny-dense",
    "tiny-dense-legacy",
    "tiny-dense-bf16",
    "tiny-dense-f16",
    "odd-dense",
    "odd-moe",
    "odd-moe-2",
    "all-conv",
    "all-attention",
];

/// A golden tensor.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Sizes.
    pub shape: Vec<usize>,
    /// Row-major; integers as f32.
    pub data: Vec<f32>,
}

/// The goldens of a fixture.
#[derive(Debug)]
pub struct Golden {
    /// `golden.json`.
    pub json: Value,
    /// `golden.safetensors`.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Golden {
    /// Reads the goldens of a fixture; those of another folder where it says so.
    pub fn read(name: &str) -> Golden {
        let folder = fixture(name);
        let json: Value =
            serde_json::from_slice(&std::fs::read(folder.join("golden.json")).unwrap()).unwrap();
        if let Some(other) = json.get("same_as").and_then(Value::as_str) {
            return Golden::read(other.trim_start_matches("../"));
        }
        let bytes = std::fs::read(folder.join("golden.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let tensors = tensors
            .iter()
            .map(|(name, view)| {
                let data = match view.dtype() {
                    Dtype::F32 => view
                        .data()
                        .chunks_exact(4)
                        .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                        .collect(),
                    Dtype::I64 => view
                        .data()
                        .chunks_exact(8)
                        .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32)
                        .collect(),
                    other => panic!("{name}: golden of type {other:?}"),
                };
                (name.to_string(), Tensor { shape: view.shape().to_vec(), data })
            })
            .collect();
        Golden { json, tensors }
    }

    /// The prompts: name and ids.
    pub fn prompts(&self) -> Vec<(String, Vec<u32>)> {
        let prompts = self.json["prompts"].as_array().unwrap();
        prompts.iter().map(|p| (p["name"].as_str().unwrap().to_string(), ids(&p["ids"]))).collect()
    }
}

/// A JSON array of ids.
pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// A bundle in a temporary folder.
#[derive(Debug)]
pub struct Bundle {
    /// The folder, removed with this.
    pub folder: TempDir,
    /// The file.
    pub path: PathBuf,
}

impl Bundle {
    /// Exports a checkpoint folder with a recipe.
    pub fn export(source: &Path, recipe: &str) -> Bundle {
        Bundle::export_with(source, recipe, |_| {})
    }

    /// Exports a checkpoint folder with a recipe and changed options.
    pub fn export_with(source: &Path, recipe: &str, change: impl FnOnce(&mut Options)) -> Bundle {
        Bundle::export_from(&Source::folder(source).unwrap(), recipe, change)
    }

    fn export_from(source: &Source, recipe: &str, change: impl FnOnce(&mut Options)) -> Bundle {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("model.lfmb");
        let mut options = Options::new(Target::builtin("portable").unwrap());
        options.recipe = Some(recipe.parse().unwrap());
        options.context = Some(512);
        change(&mut options);
        export(source, &options, &path, |_| {}).unwrap_or_else(|e| panic!("export: {e}"));
        Bundle { folder, path }
    }

    /// Exports random weights for a configuration, with a context.
    pub fn random(config: &Path, recipe: &str, context: u32) -> Bundle {
        Bundle::export_from(&Source::random(config, 1).unwrap(), recipe, |options| {
            options.context = Some(context);
            options.chunk = Some(context.min(16));
        })
    }

    /// Opens it.
    pub fn open(&self) -> Model {
        Model::open(&self.path).unwrap()
    }
}

/// Writes the sections of the bundle `good` with some replaced, and the right hashes, to `path`. `weights` in place of those
/// of `good`, an empty text in place of an optional section. False where the writer refuses what is to be written.
pub fn rewrite(good: &[u8], replaced: &[(Kind, &str)], weights: Option<&[u8]>, path: &Path) -> bool {
    let sections = Sections::parse(good).unwrap();
    let weights = weights.unwrap_or(sections.weights());
    let mut writer = BundleWriter::create(path).unwrap();
    let content = |kind: Kind| {
        let new = replaced.iter().find(|(replaced, _)| *replaced == kind).map(|(_, text)| text.as_bytes());
        new.or(sections.section(kind)).filter(|bytes| !bytes.is_empty())
    };
    for kind in Kind::ALL.into_iter().filter(|kind| *kind < Kind::Weights) {
        if let Some(bytes) = content(kind) {
            // The writer refuses what is too large or not text.
            if writer.section(kind, bytes).is_err() {
                return false;
            }
        }
    }
    let Ok(mut writer) = writer.weights_writer(weights.len() as u64) else { return false };
    writer.append(weights).unwrap();
    let mut sealed = writer.seal_without_golden().unwrap();
    if let Some(bytes) = content(Kind::Golden) {
        let Ok(with_golden) = sealed.add_golden(bytes) else { return false };
        sealed = with_golden;
    }
    sealed.publish().unwrap();
    true
}

/// The largest absolute difference.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "numbers compared");
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Normalised mean squared error: Σ(a - b)² / Σb².
pub fn nmse(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "numbers compared");
    let error: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    error / b.iter().map(|b| f64::from(*b).powi(2)).sum::<f64>()
}

/// A pool on which an export runs.
pub fn threads(n: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()
}
