//! What fuzzers and tests do with hostile bytes: one function for each parser.
//!
//! A body takes any bytes and returns. Bytes that are refused are a success, and so are bytes that are accepted and of
//! use; a panic, a hang, or memory beyond what the bytes justify is a fault. `tests/fuzz` calls the bodies from
//! libFuzzer, `tests/fuzz_replay.rs` with the seeds and the files of `tests/corpus`, on any toolchain.

mod bundles;
mod graphs;
pub mod seeds;
mod sessions;
mod sources;
mod text;

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

pub use bundles::{RUN, reseal, use_model};

use crate::heap::peak;

/// What is done with hostile bytes.
pub type Body = fn(&[u8]);

/// Every target by name, in the order in which data flows.
pub const TARGETS: [(&str, Body); 17] = [
    ("config", sources::config),
    ("safetensors", sources::safetensors),
    ("shard_index", sources::shard_index),
    ("gguf", sources::gguf),
    // The same with a tokenizer, which takes a hundred times as long.
    ("gguf_text", sources::gguf),
    ("graph", graphs::graph),
    ("plan", graphs::plan),
    ("target", graphs::target),
    ("manifest", bundles::manifest),
    ("golden", bundles::golden),
    ("bundle", bundles::bundle),
    ("model", bundles::model),
    ("session", sessions::session),
    ("tokenizer", text::tokenizer),
    ("text_config", text::text_config),
    ("chat_template", text::chat_template),
    ("chat_request", text::chat_request),
];

/// The body of a target.
pub fn body(name: &str) -> Body {
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("there is no target {name}")).1
}

/// The folder of a target's checked-in files.
pub fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Most memory that reading some bytes may take.
struct Room {
    /// For each byte.
    per_byte: usize,
    /// Whatever their number.
    on_top: usize,
}

impl Room {
    /// Runs `work` on that many bytes and holds it to this.
    fn hold<T>(&self, bytes: usize, work: impl FnOnce() -> T) -> T {
        let (result, held) = peak(work);
        let most = self.per_byte * bytes + self.on_top;
        assert!(held <= most, "{bytes} bytes took {held} bytes of memory, expected at most {most}");
        result
    }
}

/// The text, where it is one.
fn utf8(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// A folder for files that can only be read from a path, one for each thread and kind of file. `fill` puts in what stays.
struct Scratch(OnceCell<TempDir>);

impl Scratch {
    const fn new() -> Scratch {
        Scratch(OnceCell::new())
    }

    /// Writes the file, and gives the path of the folder.
    fn write(&self, file: &str, bytes: &[u8], fill: impl FnOnce(&Path)) -> &Path {
        let folder = self.0.get_or_init(|| {
            let folder = TempDir::new().unwrap();
            fill(folder.path());
            folder
        });
        fs::write(folder.path().join(file), bytes).unwrap();
        folder.path()
    }
}
