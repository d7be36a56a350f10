//! What a running model takes beside weights, states and arena: estimates from above, from which the stated memory
//! follows. They depend on the bundle and its profile alone, so that the same export states the same everywhere.
//!
//! Measured were release builds of `lfm-run` (glibc and musl) on models from 0.1 M to 8.3 B parameters; the constants
//! leave a margin of some percent of the smallest model that people use.

use lfm_graphs::bundle::Kind;
use lfm_graphs::target::Target;
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Pages of the program and of the mapped graph and plan that are touched, and what is parsed from them.
const PROGRAM: u64 = 11 << 20;
/// Touched pages of one thread's stack, and what the system keeps for it.
const THREAD: u64 = 192 << 10;
/// Bytes that an entry of the vocabulary, or a merge of two, takes in the tokenizer's tables while they are made.
const VOCAB_ENTRY: u64 = 250;
const MERGE: u64 = 150;
/// What a tokenizer and a template take however small they are.
const TEXT: u64 = 1 << 20;

/// What is no weight, state or buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Overhead {
    /// Program, threads, mapped sections.
    pub(super) program: u64,
    /// Tokenizer and template, once they are opened.
    pub(super) text: u64,
}

impl Overhead {
    /// For a bundle with these sections of the text side, and a profile.
    pub(super) fn of(text: &[(Kind, Vec<u8>)], target: &Target) -> Overhead {
        let mapped: u64 = text.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let json = text.iter().find(|(kind, _)| *kind == Kind::Tokenizer);
        Overhead {
            program: PROGRAM + u64::from(target.cores) * THREAD + mapped,
            text: json.map_or(0, |(_, json)| tokenizer(json)),
        }
    }
}

/// The parts of a `tokenizer.json` that count.
#[derive(Deserialize)]
struct Counted {
    model: CountedModel,
}

#[derive(Deserialize)]
struct CountedModel {
    #[serde(default)]
    vocab: std::collections::BTreeMap<String, IgnoredAny>,
    #[serde(default)]
    merges: Vec<IgnoredAny>,
}

/// What the tables of a `tokenizer.json` take. A file that is none is refused elsewhere.
fn tokenizer(json: &[u8]) -> u64 {
    let Ok(Counted { model }) = serde_json::from_slice::<Counted>(json) else { return 0 };
    TEXT + model.vocab.len() as u64 * VOCAB_ENTRY + model.merges.len() as u64 * MERGE
}
