//! The header of one safetensors file: `u64` length, JSON, then the data.
//!
//! The checks are those of the format: the data of all tensors follow each other without holes or overlaps and
//! end with the file, every length is shape × element size, no name comes twice.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use half::{bf16, f16};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::error::CheckpointError;

/// Bytes of a header that are accepted at most; 24 B parameters in 7,300 expert tensors need about 1 MB.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Dimensions of a tensor at most.
const MAX_DIMS: usize = 8;

/// The element types of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of a single.
    Bf16,
}

impl Dtype {
    /// Size of an element.
    pub fn bytes(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::Bf16 => 2,
        }
    }

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }

    /// Converts little-endian elements to f32, exactly. `bytes` holds one element for each of `out`.
    pub(super) fn decode(self, bytes: &[u8], out: &mut [f32]) {
        let pairs = || bytes.as_chunks::<2>().0.iter().copied();
        match self {
            Dtype::F32 => {
                let values = bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b));
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value);
            }
            Dtype::F16 => {
                out.iter_mut().zip(pairs()).for_each(|(out, b)| *out = f16::from_le_bytes(b).to_f32());
            }
            Dtype::Bf16 => {
                out.iter_mut().zip(pairs()).for_each(|(out, b)| *out = bf16::from_le_bytes(b).to_f32());
            }
        }
    }
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Name in the file.
    pub(super) name: String,
    /// Element type.
    pub(super) dtype: Dtype,
    /// Shape; its product times the element size is the length of the data.
    pub(super) shape: Vec<u64>,
    /// First byte of the data in the file.
    pub(super) start: u64,
}

/// Reads and checks the header of `file`. The entries come in the order of their data.
pub(super) fn read(path: &Path, file: &File) -> Result<Vec<Entry>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_path_buf(), source };
    let header = |message: String| CheckpointError::Header { path: path.to_path_buf(), message };
    let file_len = file.metadata().map_err(io)?.len();
    if file_len < 8 {
        return Err(header(format!("the file has {file_len} bytes, expected at least 8")));
    }
    let mut len = [0; 8];
    file.read_exact_at(&mut len, 0).map_err(io)?;
    let len = u64::from_le_bytes(len);
    if len > MAX_HEADER_BYTES || len > file_len - 8 {
        return Err(header(format!(
            "its length is {len} bytes, expected at most {} ({file_len} bytes of file)",
            MAX_HEADER_BYTES.min(file_len - 8)
        )));
    }
    let mut text = vec![0; len as usize];
    file.read_exact_at(&mut text, 8).map_err(io)?;
    // What is skipped below would not be looked at, and other readers refuse it.
    let text = std::str::from_utf8(&text)
        .map_err(|error| header(format!("byte {} of the file is not UTF-8", 8 + error.valid_up_to())))?;
    let RawHeader(raw) = serde_json::from_str(text).map_err(|error| header(error.to_string()))?;
    check(path, raw, 8 + len, file_len)
}

/// Checks each entry on its own, then that their data fill the rest of the file one after the other.
fn check(
    path: &Path,
    raw: Vec<(String, RawEntry)>,
    data_start: u64,
    file_len: u64,
) -> Result<Vec<Entry>, CheckpointError> {
    let data_len = file_len - data_start;
    let wrong =
        |name: String, message: String| CheckpointError::Entry { path: path.to_path_buf(), name, message };
    let mut ranges = Vec::with_capacity(raw.len());
    for (name, entry) in raw {
        match check_entry(&entry, data_len) {
            Ok(dtype) => {
                let (begin, end) = entry.data_offsets;
                ranges.push((end, Entry { name, dtype, shape: entry.shape, start: data_start + begin }));
            }
            Err(message) => return Err(wrong(name, message)),
        }
    }
    // Empty tensors share their offset with the next one and come first.
    ranges.sort_by(|(a_end, a), (b_end, b)| (a.start, a_end, &a.name).cmp(&(b.start, b_end, &b.name)));
    let mut end_of_last = 0;
    let mut entries = Vec::with_capacity(ranges.len());
    for (end, entry) in ranges {
        let begin = entry.start - data_start;
        if begin != end_of_last {
            let what = if begin < end_of_last { "overlap those before" } else { "leave a hole" };
            let message = format!("its data {what}: they begin at {begin}, expected {end_of_last}");
            return Err(wrong(entry.name, message));
        }
        end_of_last = end;
        entries.push(entry);
    }
    if end_of_last != data_len {
        return Err(CheckpointError::Header {
            path: path.to_path_buf(),
            message: format!(
                "the data of all tensors are {end_of_last} bytes, but the file has {data_len} bytes of data"
            ),
        });
    }
    Ok(entries)
}

/// Checks that the data of an entry are as long as its shape says and lie in the file.
fn check_entry(entry: &RawEntry, data_len: u64) -> Result<Dtype, String> {
    let RawEntry { dtype, shape, data_offsets: (begin, end) } = entry;
    let dtype = match dtype.as_str() {
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::Bf16,
        other => return Err(format!("its type is {other}, expected F32, F16 or BF16")),
    };
    if shape.len() > MAX_DIMS {
        return Err(format!("it has {} dimensions, expected at most {MAX_DIMS}", shape.len()));
    }
    let bytes = shape.iter().try_fold(dtype.bytes() as u64, |bytes, &dim| bytes.checked_mul(dim));
    let Some(bytes) = bytes else {
        return Err(format!("the size of shape {shape:?} overflows"));
    };
    if end.checked_sub(*begin) != Some(bytes) {
        let found = format!("its data are bytes {begin} to {end}");
        return Err(format!("{found}, but shape {shape:?} in {} is {bytes} bytes", dtype.name()));
    }
    if *end > data_len {
        return Err(format!("its data end at byte {end}, but the file has {data_len} bytes of data"));
    }
    Ok(dtype)
}

/// A header entry as it stands in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// A header in file order, without its `__metadata__`; a name that comes twice is an error.
struct RawHeader(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let (mut seen, mut entries) = (std::collections::BTreeSet::new(), Vec::new());
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(serde::de::Error::custom(format!("`{name}` comes twice")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        let entry = map.next_value();
                        let entry =
                            entry.map_err(|e| serde::de::Error::custom(format!("tensor `{name}`: {e}")))?;
                        entries.push((name, entry));
                    }
                }
                Ok(RawHeader(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
