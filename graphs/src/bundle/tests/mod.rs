//! Tests of the bundle file: round trips, hostile bytes, failing writes.

mod hostile;
mod mutations;
mod round_trip;
mod writing;

use std::fs;
use std::path::Path;

use super::header::{ENTRY_LEN, HASH_AT, TABLE_AT};
use super::*;

/// A manifest with every field set.
pub(super) fn manifest() -> Manifest {
    Manifest {
        format: VERSION,
        lfmc: "0.1.0".to_owned(),
        model: "tiny-moe".to_owned(),
        arch: "lfm2_moe".to_owned(),
        source: Source::Random { seed: 7 },
        fingerprint: blake3::hash(b"config and tensors").to_string(),
        recipe: "q4_0".to_owned(),
        parameters: Parameters { total: 1000, active: 400 },
        context: 256,
        chunk: 64,
        kv: KvType::F16,
    }
}

/// A request with every field set.
pub(super) fn request() -> Request {
    Request {
        positions: 128_000,
        context: Some(256),
        chunk: Some(64),
        ram: Some(crate::target::ByteSize(3 << 30)),
        kv: Some(KvType::F32),
    }
}

/// Two short vectors.
pub(super) fn golden() -> Golden {
    let vector = |prompt: &[u32], greedy: &[u32]| GoldenVector {
        prompt: prompt.to_vec(),
        greedy: greedy.to_vec(),
        digest: blake3::hash(b"logits").to_string(),
    };
    Golden { vectors: vec![vector(&[1, 17, 4], &[5, 6]), vector(&[1], &[2])] }
}

/// Weights that no padding could be taken for: 1..=255, repeated.
fn weights(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i % 255) as u8 + 1).collect()
}

/// The contents of a small bundle with every section, in file order.
fn contents() -> Vec<(Kind, Vec<u8>)> {
    let content = |kind| match kind {
        Kind::Manifest => manifest().to_ron().into_bytes(),
        Kind::Tokenizer => b"{\"\xff\": 1}".to_vec(),
        Kind::ChatTemplate => "{{ bos }}é".as_bytes().to_vec(),
        Kind::Weights => weights(100),
        Kind::Golden => golden().to_ron().into_bytes(),
        Kind::Request => request().to_ron().into_bytes(),
        Kind::Graph | Kind::Plan | Kind::Target | Kind::TextConfig | Kind::Generation | Kind::Licence => {
            format!("(this: {kind})\n").into_bytes()
        }
    };
    Kind::ALL.into_iter().map(|kind| (kind, content(kind))).collect()
}

/// A writer at `path` with every section before the weights.
fn writer(path: &Path) -> BundleWriter {
    let mut writer = BundleWriter::create(path).unwrap();
    for (kind, bytes) in contents() {
        if kind < Kind::Weights {
            writer.section(kind, bytes).unwrap();
        }
    }
    writer
}

/// The small bundle, as the writer makes it.
fn bundle() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.lfmb");
    let weights = weights(100);
    let mut writer = writer(&path).weights_writer(weights.len() as u64).unwrap();
    writer.append(&weights).unwrap();
    let sealed = writer.seal_without_golden().unwrap().add_golden(golden().to_ron()).unwrap();
    let published = sealed.publish().unwrap();
    assert_eq!(published.path, path);
    let bytes = fs::read(&path).unwrap();
    assert_eq!(published.length, bytes.len() as u64);
    assert_eq!(published.id, Bundle::parse(&bytes).unwrap().id());
    bytes
}

/// The error of bytes that are not a bundle.
fn error_of(bytes: &[u8]) -> BundleError {
    Bundle::parse(bytes).expect_err("these bytes are not a bundle")
}

/// Makes the header's hash right again after a change, as an attacker would.
fn reseal(bytes: &mut [u8]) {
    let hash = blake3::hash(&bytes[..HASH_AT]);
    bytes[HASH_AT..HEADER_LEN].copy_from_slice(hash.as_bytes());
}

/// Where the entry of `kind` starts.
fn entry_at(bytes: &[u8], kind: Kind) -> usize {
    (TABLE_AT..HASH_AT)
        .step_by(ENTRY_LEN)
        .find(|&at| bytes[at..].starts_with(kind.name().as_bytes()))
        .expect("the bundle has the section")
}

/// Sets offset and length of `kind` and reseals.
fn set_place(bytes: &mut [u8], kind: Kind, offset: u64, length: u64) {
    let at = entry_at(bytes, kind) + 16;
    bytes[at..at + 8].copy_from_slice(&offset.to_le_bytes());
    bytes[at + 8..at + 16].copy_from_slice(&length.to_le_bytes());
    reseal(bytes);
}

/// Offset and length of `kind`.
fn place(bytes: &[u8], kind: Kind) -> (u64, u64) {
    let at = entry_at(bytes, kind) + 16;
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    (word(at), word(at + 8))
}

/// Makes the stated length of the file the real one, and reseals.
fn set_file_len(bytes: &mut [u8]) {
    let length = bytes.len() as u64;
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
    reseal(bytes);
}
