//! What can go wrong between a bundle and its logits.

use std::path::PathBuf;

use lfm_graphs::bundle::BundleError;

/// An error of the runtime. The message says what was attempted, where, what was found and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be read or mapped.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what was opened.
    #[error(
        "{} was {} while it was in use: it had {was} bytes when it was opened and has {now} now; nothing computed since \
         counts, open it again",
        path.display(),
        if now < was { "cut" } else { "changed" }
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Bytes when it was opened.
        was: u64,
        /// Bytes now.
        now: u64,
    },
    /// The file is no sound bundle.
    #[error("{} is not a sound bundle", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Section, byte, found and expected.
        source: BundleError,
    },
    /// The bundle is not signed as demanded.
    #[cfg(feature = "sign")]
    #[error("cannot trust {}", path.display())]
    Untrusted {
        /// The bundle.
        path: PathBuf,
        /// What is wrong with its signature.
        source: crate::signature::Fault,
    },
    /// The graph or the plan in the bundle breaks rules.
    #[error("{}: section {section}: {}", path.display(), faults.join("; "))]
    Unsound {
        /// The file.
        path: PathBuf,
        /// The section.
        section: &'static str,
        /// Each broken rule, where, found and expected; the first few.
        faults: Vec<String>,
    },
    /// The file is no session of the bundle.
    #[error("{} is not a session of this bundle", path.display())]
    Session {
        /// The file.
        path: PathBuf,
        /// What was found and expected.
        source: crate::session::file::FileError,
    },
    /// An argument is out of range.
    #[error("{0}")]
    Argument(String),
    /// The machine has not the means.
    #[error("{attempt}")]
    System {
        /// What was attempted.
        attempt: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The context is full.
    #[error(
        "the context is full: {past} positions are taken, {wanted} more do not fit into the {context} of this session"
    )]
    ContextFull {
        /// Positions taken.
        past: usize,
        /// Positions wanted.
        wanted: usize,
        /// Positions there are.
        context: usize,
    },
    /// An earlier pass ended halfway, and its session could not go back: after a panic, or when a GPU was lost.
    #[error("an earlier pass of this session failed halfway, expected the session to be cleared first")]
    Torn,
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocab}")]
    Token {
        /// The id.
        id: u32,
        /// The size of the vocabulary.
        vocab: usize,
    },
    /// The bundle has no such section.
    #[error("{}: the bundle has no {what}{hint}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What was wanted.
        what: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// The text side failed.
    #[cfg(feature = "text")]
    #[error(transparent)]
    Text(#[from] crate::text::TextError),
    /// Sampling failed.
    #[error(transparent)]
    Sample(#[from] crate::sample::SampleError),
    /// There is no such GPU.
    #[cfg(feature = "wgpu")]
    #[error("no GPU {wanted}: found {}; {hint}", if found.is_empty() { "none".to_owned() } else { found.join(", ") })]
    NoAdapter {
        /// What was asked for.
        wanted: String,
        /// The adapters that there are, by index.
        found: Vec<String>,
        /// What to do about it.
        hint: &'static str,
    },
    /// The GPU cannot run the bundle.
    #[cfg(feature = "wgpu")]
    #[error("{at} cannot run on {adapter}: {what}")]
    Device {
        /// The node, weight or state.
        at: String,
        /// The adapter.
        adapter: String,
        /// What was found and expected.
        what: String,
    },
    /// The GPU has too little memory.
    #[cfg(feature = "wgpu")]
    #[error(
        "{adapter} is out of memory at {at}: {needed} bytes are needed for weights, states and arena, {had} of them \
         were there; {}keeps layers on the CPU, --context N makes states smaller",
        fits.map_or("--gpu-layers N ".to_owned(), |n| format!("--gpu-layers {n} would have had room; it "))
    )]
    DeviceMemory {
        /// The adapter.
        adapter: String,
        /// What had no room.
        at: String,
        /// Bytes of everything that is kept on the device.
        needed: u64,
        /// Bytes that were allocated before.
        had: u64,
        /// How many layers these have room for, if any.
        fits: Option<usize>,
    },
    /// The GPU stopped working.
    #[cfg(feature = "wgpu")]
    #[error("{adapter} stopped working: {what}")]
    DeviceLost {
        /// The adapter.
        adapter: String,
        /// What its driver said.
        what: String,
    },
    /// Something that a verified bundle rules out: a fault of this program.
    #[error("internal fault at {at}: {what}; please report it")]
    Internal {
        /// The node.
        at: String,
        /// What did not hold.
        what: &'static str,
    },
}

/// A result of the runtime.
pub type Result<T, E = Error> = std::result::Result<T, E>;
