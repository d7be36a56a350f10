//! Finding and opening the safetensors files of a folder: `model.safetensors`, or the shards that
//! `model.safetensors.index.json` names.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};

use super::DataFile;
use super::error::{CheckpointError, NameList};
use super::header::{self, Entry};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Bytes of an index that are accepted at most.
const MAX_INDEX_BYTES: u64 = 16 << 20;

/// Shards of a checkpoint at most.
const MAX_SHARDS: usize = 1024;

/// A tensor and the file that holds it.
#[derive(Debug)]
pub(super) struct Found {
    /// Index of the file.
    pub(super) file: usize,
    /// Its header entry.
    pub(super) entry: Entry,
}

/// Opens all files of the folder and collects their tensors by name.
pub(super) fn open(folder: &Path) -> Result<(Vec<DataFile>, BTreeMap<String, Found>), CheckpointError> {
    let single = folder.join(SINGLE);
    if single.exists() {
        let file = open_regular(&single)?;
        let entries = header::read(&single, &file)?;
        let found = entries.into_iter().map(|entry| (entry.name.clone(), Found { file: 0, entry })).collect();
        return Ok((vec![DataFile { path: single, file }], found));
    }
    let path = folder.join(INDEX);
    if !path.exists() {
        let source = std::io::Error::new(
            std::io::ErrorKind::NotFound,
            format!("the folder has neither {SINGLE} nor {INDEX}"),
        );
        return Err(CheckpointError::Io { path: folder.to_path_buf(), source });
    }
    open_shards(folder, &path)
}

/// Opens the shards that the index at `path` names; index and shards must list the same tensors.
fn open_shards(
    folder: &Path,
    path: &Path,
) -> Result<(Vec<DataFile>, BTreeMap<String, Found>), CheckpointError> {
    let wrong = |message: String| CheckpointError::Index { path: path.to_path_buf(), message };
    let mut unseen = read_index(path)?;
    let mut names: Vec<String> = unseen.values().cloned().collect();
    names.sort();
    names.dedup();
    if names.len() > MAX_SHARDS {
        return Err(wrong(format!("it names {} files, expected at most {MAX_SHARDS}", names.len())));
    }
    let (mut files, mut found) = (Vec::with_capacity(names.len()), BTreeMap::new());
    for shard in names {
        if !is_plain_name(&shard) {
            return Err(wrong(format!(
                "it names the file {shard:?}, expected a plain name ending in .safetensors"
            )));
        }
        let shard_path = folder.join(&shard);
        let file = open_regular(&shard_path)?;
        for entry in header::read(&shard_path, &file)? {
            if unseen.remove(&entry.name).as_ref() != Some(&shard) {
                return Err(wrong(format!(
                    "it does not place tensor `{}` in {shard}, which has it",
                    entry.name
                )));
            }
            found.insert(entry.name.clone(), Found { file: files.len(), entry });
        }
        files.push(DataFile { path: shard_path, file });
    }
    if !unseen.is_empty() {
        let mut list = NameList::default();
        unseen.keys().for_each(|name| list.push(name));
        return Err(wrong(format!("it places {list} in files that lack them")));
    }
    Ok((files, found))
}

/// The index's map from tensor to file.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_path_buf(), source };
    let wrong = |message: String| CheckpointError::Index { path: path.to_path_buf(), message };
    let len = open_regular(path)?.metadata().map_err(io)?.len();
    if len > MAX_INDEX_BYTES {
        return Err(wrong(format!("it has {len} bytes, expected at most {MAX_INDEX_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(io)?;
    let RawIndex { weight_map: WeightMap(map) } =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    Ok(map)
}

/// Whether `name` can only mean a safetensors file in the folder itself.
fn is_plain_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.ends_with(".safetensors") && !name.starts_with('.') && name.chars().all(plain)
}

/// Opens a regular file, or a link to one; anything else could block.
fn open_regular(path: &Path) -> Result<File, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_path_buf(), source };
    if !std::fs::metadata(path).map_err(io)?.is_file() {
        return Err(io(std::io::Error::other("expected a regular file")));
    }
    File::open(path).map_err(io)
}

/// An index as it stands in the file.
#[derive(Deserialize)]
struct RawIndex {
    weight_map: WeightMap,
}

/// Tensor to file; a tensor that comes twice is an error.
struct WeightMap(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for WeightMap {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = WeightMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tensor to file name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WeightMap, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((tensor, file)) = map.next_entry::<String, String>()? {
                    if let Some(_earlier) = entries.insert(tensor.clone(), file) {
                        return Err(serde::de::Error::custom(format!("tensor `{tensor}` comes twice")));
                    }
                }
                Ok(WeightMap(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
