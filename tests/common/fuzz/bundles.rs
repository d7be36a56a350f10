//! Bodies of the bundle file: the header and its sections, and all the way to logits.

use std::path::Path;

use lfm_graphs::bundle::{Bundle, Golden, HEADER_LEN, Kind, Manifest};
use lfm_runtime::text::ChatRequest;
use lfm_runtime::{Error, Model, Options, golden as vectors};

use super::{Room, Scratch, utf8};

/// Checked in place: what is taken is the table, and the message of an error.
const HEADER: Room = Room { per_byte: 1, on_top: 64 << 10 };
/// Parsed text is larger than text.
const TEXT: Room = Room { per_byte: 40, on_top: 1 << 20 };

/// Bytes of memory that a bundle may ask for to run: larger ones are opened only.
pub const RUN: u64 = 64 << 20;

/// Bytes of an entry of the section table, and of the header before them.
const ENTRY: usize = 64;
const TABLE: usize = 32;

/// Makes the length, the hash of every section and that of the header right, so that what they protect is reached.
pub fn reseal(file: &mut [u8]) {
    if file.len() < HEADER_LEN {
        return;
    }
    let length = file.len() as u64;
    file[16..24].copy_from_slice(&length.to_le_bytes());
    let count = u32::from_le_bytes([file[12], file[13], file[14], file[15]]).min(63) as usize;
    for at in (0..count).map(|i| TABLE + i * ENTRY) {
        let word = |at: usize| file[at..at + 8].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        let (offset, length) = (word(at + 16), word(at + 24));
        let bytes = offset.checked_add(length).and_then(|end| file.get(offset..end));
        if let Some(hash) = bytes.map(blake3::hash) {
            file[at + 32..at + ENTRY].copy_from_slice(hash.as_bytes());
        }
    }
    let hash = blake3::hash(&file[..HEADER_LEN - 32]);
    file[HEADER_LEN - 32..HEADER_LEN].copy_from_slice(hash.as_bytes());
}

/// The reader of the file: the bytes as they are, and with the right hashes.
pub(super) fn bundle(bytes: &[u8]) {
    let read = |bytes: &[u8], sealed: bool| {
        let Ok(bundle) = HEADER.hold(bytes.len(), || Bundle::parse(bytes)) else { return };
        let covered: u64 = bundle.sections().iter().map(|section| section.length()).sum();
        assert!(covered <= bytes.len() as u64, "{covered} bytes of sections in {} of the file", bytes.len());
        for kind in Kind::ALL {
            let section = bundle.section(kind);
            assert_eq!(section.is_some(), bundle.entry(kind).is_some(), "{kind}");
            assert!(section.is_none() || !kind.is_text() || bundle.text(kind).is_ok(), "{kind}");
        }
        assert!(!sealed || bundle.verify_weights().is_ok());
        let _ = TEXT.hold(bytes.len(), || (bundle.manifest().is_ok(), bundle.golden().is_ok()));
    };
    read(bytes, false);
    let mut sealed = bytes.to_vec();
    reseal(&mut sealed);
    read(&sealed, true);
}

/// Opening a bundle and running it, after its hashes are made right.
pub(super) fn model(bytes: &[u8]) {
    thread_local!(static SCRATCH: Scratch = const { Scratch::new() });
    let mut sealed = bytes.to_vec();
    reseal(&mut sealed);
    SCRATCH.with(|scratch| {
        let path = scratch.write("model.lfmb", &sealed, |_| {}).join("model.lfmb");
        let _ = open_and_use(&path, sealed.len());
    });
}

fn open_and_use(path: &Path, bytes: usize) -> Result<(), Error> {
    use_model(&TEXT.hold(bytes, || Model::open(path))?)
}

/// Everything that a bundle can be used for. Its golden vectors may differ; that is what they are for.
///
/// # Errors
/// Those of the bundle.
///
/// # Panics
/// When a bundle that was opened does not run.
pub fn use_model(model: &Model) -> Result<(), Error> {
    let memory = model.plan().memory;
    if memory.states.saturating_add(memory.arena) > RUN {
        return Ok(());
    }
    let options = Options { threads: Some(1), ..Options::default() };
    let mut session = model.session(&options)?;
    // Ids outside of the vocabulary or a full context are errors; nothing inside may fail.
    for tokens in [&[1, 2, 3][..], &[0], &[4]] {
        match session.prefill(tokens) {
            Err(error @ Error::Internal { .. }) => panic!("a verified bundle does not run: {error}"),
            other => other.map(|_| ())?,
        }
    }
    if let Some(mut golden) = model.golden()? {
        golden.vectors.truncate(1);
        vectors::check(model, &options, &golden)?;
    }
    model.generation_defaults()?;
    if model.section(Kind::Tokenizer).is_some() {
        let text = model.text()?;
        let ids = text.tokenizer.encode("What is `Vec`?\n 12 \u{1F980}", true, true)?;
        text.tokenizer.decode(&ids, false);
        text.encode_chat(&ChatRequest::new().message("user", "Hi"))?;
    }
    Ok(())
}

/// The manifest's text.
pub(super) fn manifest(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    if let Ok(manifest) = TEXT.hold(bytes.len(), || Manifest::parse(text, 0)) {
        assert_eq!(Manifest::parse(&manifest.to_ron(), 0).unwrap_or_else(|e| panic!("{e}")), manifest);
    }
}

/// The golden vectors' text.
pub(super) fn golden(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    if let Ok(golden) = TEXT.hold(bytes.len(), || Golden::parse(text, 0)) {
        assert_eq!(Golden::parse(&golden.to_ron(), 0).unwrap_or_else(|e| panic!("{e}")), golden);
    }
}
