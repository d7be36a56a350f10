//! Hostile checkpoints: configurations, headers and indices that lie, and weights that are no numbers. Each is an
//! error that names what is wrong, or a checkpoint that still makes a bundle; none is a panic or a hang.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use lfm_export::bundle::{ExportError, Options, Source, compile, export};
use lfm_graphs::target::{ByteSize, Target};
use lfm_graphs::testing::Rng;
use lfm_tests::heap::{Heap, peak};
use lfm_tests::{damage, fixture};
use tempfile::TempDir;

#[global_allocator]
static HEAP: Heap = Heap;

/// Memory is measured, so tests run one after another.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes of memory that opening may take for each byte of the folder, and on top.
const PER_BYTE: usize = 20;
const ON_TOP: usize = 4 << 20;

/// A copy of a fixture to be damaged.
fn copy(name: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        if !entry.file_name().to_str().unwrap().starts_with("golden") {
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
    }
    folder
}

fn options() -> Options {
    let mut options = Options::new(Target::builtin("portable").unwrap());
    options.recipe = Some("q4_0".parse().unwrap());
    options.context = Some(32);
    options.chunk = Some(8);
    options.ram = Some(ByteSize(256 << 20));
    options
}

fn size(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len() as usize).sum()
}

/// Opens and exports a folder; `None` if that works.
fn exercise(folder: &Path, what: &str) -> Option<ExportError> {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let (source, held) = peak(|| Source::folder(folder));
        let most = PER_BYTE * size(folder) + ON_TOP;
        assert!(held <= most, "opening took {held} bytes of memory, expected at most {most}");
        let bundle = TempDir::new().unwrap();
        export(&source?, &options(), &bundle.path().join("x.lfmb"), |_| {}).map(|_| ())
    }));
    let error = outcome.unwrap_or_else(|_| panic!("a panic: {what}")).err()?;
    // A fault in what was written would be one of the exporter.
    assert!(!matches!(error, ExportError::ReadBack(_)), "{what}: {error}");
    Some(error)
}

#[test]
fn configurations_that_lie() {
    let _alone = ALONE.lock();
    let folder = copy("odd-moe");
    let path = folder.path().join("config.json");
    let good = fs::read_to_string(&path).unwrap();
    let mut rng = Rng::new(1);
    let mut refused = 0;
    for _ in 0..600 {
        let (bad, what) = damage::text(&good, &mut rng);
        fs::write(&path, &bad).unwrap();
        refused += exercise(folder.path(), &what).is_some() as u32;
        // A configuration alone can ask for any size: only the graph is made.
        let compiled =
            catch_unwind(AssertUnwindSafe(|| compile(&Source::random(&path, 0)?, &options()).map(|_| ())));
        assert!(compiled.is_ok(), "a panic in compiling: {what}");
    }
    assert!(refused > 300, "{refused} of 600");
}

#[test]
fn headers_that_lie() {
    let _alone = ALONE.lock();
    let folder = copy("odd-moe");
    let path = folder.path().join("model.safetensors");
    let good = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&good[8..header]).unwrap();
    let mut rng = Rng::new(2);
    let mut refused = 0;
    for n in 0..600 {
        let (bad, what) = if n % 2 == 0 {
            let (bad, what) = damage::text(text, &mut rng);
            // The length fits in most cases, so that the text is what is wrong.
            let length = if rng.once_in(8) { header as u64 - 8 } else { bad.len() as u64 };
            ([&length.to_le_bytes(), bad.as_bytes(), &good[header..]].concat(), what)
        } else {
            damage::bytes(&good, &mut rng)
        };
        fs::write(&path, &bad).unwrap();
        refused += exercise(folder.path(), &what).is_some() as u32;
    }
    assert!(refused > 400, "{refused} of 600");
}

#[test]
fn indices_that_lie() {
    let _alone = ALONE.lock();
    let folder = copy("tiny-moe-sharded");
    let path = folder.path().join("model.safetensors.index.json");
    let good = fs::read_to_string(&path).unwrap();
    let mut rng = Rng::new(3);
    for _ in 0..60 {
        let (bad, what) = damage::text(&good, &mut rng);
        fs::write(&path, &bad).unwrap();
        exercise(folder.path(), &what);
    }
    for outside in ["../model.safetensors", "/etc/hostname", "model-00009-of-00004.safetensors", "", "."] {
        let bad = good.replacen("model-00002-of-00004.safetensors", outside, 1);
        fs::write(&path, bad).unwrap();
        let error = exercise(folder.path(), outside).expect(outside);
        assert!(matches!(error, ExportError::Checkpoint(_)), "{outside}: {error}");
    }
}

/// Text files that lie may fail or not; the weights are as they were.
#[test]
fn text_files_that_lie() {
    let _alone = ALONE.lock();
    let folder = copy("tiny-dense");
    let mut rng = Rng::new(4);
    for name in
        ["tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "chat_template.jinja"]
    {
        let path = folder.path().join(name);
        let Ok(good) = fs::read_to_string(&path) else { continue };
        for _ in 0..25 {
            let (bad, what) = damage::text(&good, &mut rng);
            fs::write(&path, &bad).unwrap();
            exercise(folder.path(), &format!("{name}: {what}"));
        }
        fs::write(&path, good).unwrap();
    }
}

/// The chain of an error's messages.
fn message(error: &ExportError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let _alone = ALONE.lock();
    for name in ["odd-moe", "odd-moe-2"] {
        let bytes = fs::read(fixture(name).join("model.safetensors")).unwrap();
        let (length, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        let mut tensors: Vec<_> = header.tensors().into_iter().collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        // Every second one: matrices, vectors, experts, kernels.
        for (at, (tensor, info)) in tensors.iter().enumerate().step_by(2) {
            let folder = copy(name);
            let mut bad = bytes.clone();
            let (start, end) = info.data_offsets;
            let width = if info.dtype == safetensors::Dtype::F32 { 4 } else { 2 };
            let middle = 8 + length + start + (end - start) / width / 2 * width;
            // The upper half of an f32 is a bf16.
            let bits: u16 = if at % 4 == 0 { 0x7fc0 } else { 0xff80 };
            bad[middle + width - 2..middle + width].copy_from_slice(&bits.to_le_bytes());
            bad[middle..middle + width - 2].fill(0);
            fs::write(folder.path().join("model.safetensors"), bad).unwrap();
            let error =
                exercise(folder.path(), tensor).unwrap_or_else(|| panic!("{name}: {tensor} was exported"));
            let message = message(&error);
            // Experts are read as one stack, under its name.
            let stem = tensor.split(".experts.").next().unwrap().trim_start_matches("model.");
            assert!(message.contains(stem.trim_end_matches(".weight")), "{name}: {tensor}: {message}");
            let value = if at % 4 == 0 { "NaN" } else { "-inf" };
            assert!(message.contains(value), "{name}: {tensor}: {message}");
        }
    }
}
