//! The header of a GGUF file: metadata and the table of tensors.
//!
//! ```text
//! "GGUF" u32 version=3 u64 tensors u64 keys
//! keys    x { string key, u32 type, value }              string = u64 bytes, UTF-8
//! tensors x { string name, u32 dims, u64 ne[dims], u32 type, u64 offset }
//! padding to the alignment, then the tensors, each padded to the alignment
//! ```
//!
//! All numbers are little-endian. Every count is compared with what is left of the file before anything is
//! allocated for it, and tensors must follow each other without holes, so that any two readers see the same file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::error::{GgufError, quoted};
use super::types::Type;
use super::value::{Array, Value};

/// The first bytes of the file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";
/// The version that is read.
const VERSION: u32 = 3;
/// Longest key or name of a tensor, in bytes.
const MAX_NAME: u64 = 256;
/// Largest header, in bytes.
const MAX_HEADER: u64 = 256 << 20;
/// Most dimensions of a tensor.
const MAX_DIMS: u32 = 4;
/// Largest alignment, in bytes.
const MAX_ALIGNMENT: u64 = 1 << 20;
/// Alignment where the metadata gives none, in bytes.
const DEFAULT_ALIGNMENT: u64 = 32;

/// A tensor as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Info {
    pub(super) name: String,
    /// Sizes, innermost dimension first, none of them zero.
    pub(super) ne: Vec<u64>,
    pub(super) kind: Type,
    /// Byte of the file where its elements begin.
    pub(super) start: u64,
    /// Bytes of its elements.
    pub(super) bytes: u64,
}

/// A checked header.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    /// In the order of the file.
    pub(super) tensors: Vec<Info>,
    /// Bytes up to the end of the table of tensors.
    pub(super) length: u64,
}

impl Header {
    /// Reads the header of `file`, whose path is for messages.
    pub(super) fn read(file: &File, path: &Path) -> Result<Header, GgufError> {
        let io = |source| GgufError::Read { path: path.to_path_buf(), byte: 0, source };
        let length = file.metadata().map_err(io)?.len();
        let end = length.min(MAX_HEADER);
        let mut cursor = Cursor { reader: BufReader::new(At { file, at: 0 }), path, at: 0, end };
        let magic: [u8; 4] = cursor.array()?;
        if magic != MAGIC {
            return Err(cursor.wrong(0, "the magic", format!("{magic:02x?}"), "\"GGUF\""));
        }
        let version = cursor.u32()?;
        if version.swap_bytes() == VERSION {
            return Err(cursor.wrong(4, "the byte order", "big-endian", "little-endian"));
        }
        if version != VERSION {
            return Err(cursor.wrong(4, "the version", version, "3"));
        }
        // Sizes of the shortest tensor and the shortest key: their counts cannot exceed what is left.
        let tensors = cursor.count("the number of tensors", 32)?;
        let keys = cursor.count("the number of metadata keys", 13)?;
        let metadata = cursor.metadata(keys)?;
        let alignment = alignment(&metadata)?;
        let table = cursor.tensors(tensors)?;
        let header = cursor.at;
        let mut at = align(header, alignment).unwrap_or(u64::MAX);
        let data = at;
        let mut tensors = Vec::with_capacity(table.len());
        for (byte, mut info, offset) in table {
            // The end of the tensor before, padded, is the only place that leaves no hole and no overlap.
            if data.checked_add(offset) != Some(at) {
                let what = format!("the offset of tensor {}", quoted(&info.name));
                return Err(cursor.wrong(byte, what, offset, at - data));
            }
            info.start = at;
            let end = at.checked_add(info.bytes).filter(|end| *end <= length);
            let Some(end) = end else {
                let what = format!("the size of tensor {}", quoted(&info.name));
                let expected = format!("at most {} left in the file", length.saturating_sub(at));
                return Err(cursor.wrong(byte, what, format!("{} bytes", info.bytes), expected));
            };
            at = align(end, alignment).unwrap_or(u64::MAX);
            tensors.push(info);
        }
        if length > at {
            return Err(cursor.wrong(
                at,
                "the rest of the file",
                format!("{} bytes", length - at),
                "the end after the last tensor",
            ));
        }
        Ok(Header { metadata, tensors, length: header })
    }
}

/// The alignment of the tensors.
fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    let key = "general.alignment";
    match metadata.get(key) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(n)) if n.is_power_of_two() && u64::from(*n) <= MAX_ALIGNMENT => Ok(u64::from(*n)),
        Some(other) => Err(GgufError::Key {
            key: key.into(),
            found: other.shown(),
            expected: format!("a power of two up to {MAX_ALIGNMENT}, as u32"),
        }),
    }
}

/// `at` rounded up to a multiple of a power of two.
fn align(at: u64, alignment: u64) -> Option<u64> {
    at.checked_next_multiple_of(alignment)
}

/// Positioned reads as a stream.
struct At<'a> {
    file: &'a File,
    at: u64,
}

impl Read for At<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(out, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// A place in the header.
struct Cursor<'a> {
    reader: BufReader<At<'a>>,
    path: &'a Path,
    /// The next byte.
    at: u64,
    /// Where the header must have ended.
    end: u64,
}

impl Cursor<'_> {
    fn wrong(
        &self,
        byte: u64,
        what: impl Into<String>,
        found: impl ToString,
        expected: impl ToString,
    ) -> GgufError {
        let (found, expected) = (found.to_string(), expected.to_string());
        GgufError::Header { path: self.path.to_path_buf(), byte, what: what.into(), found, expected }
    }

    fn left(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }

    fn fill(&mut self, out: &mut [u8]) -> Result<(), GgufError> {
        let byte = self.at;
        if out.len() as u64 > self.left() {
            let found = format!("{} bytes", self.left());
            return Err(self.wrong(
                byte,
                "what is left of the header",
                found,
                format!("{} bytes", out.len()),
            ));
        }
        let failed = |source| GgufError::Read { path: self.path.to_path_buf(), byte, source };
        self.reader.read_exact(out).map_err(failed)?;
        self.at += out.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], GgufError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of things that take at least `size` bytes of the header each.
    fn count(&mut self, what: &str, size: u64) -> Result<usize, GgufError> {
        let byte = self.at;
        let count = self.u64()?;
        let most = self.left() / size;
        match usize::try_from(count) {
            Ok(fits) if count <= most => Ok(fits),
            _ => Err(self.wrong(byte, what, count, format!("at most {most} in what is left of the header"))),
        }
    }

    fn string(&mut self, what: &str, most: u64) -> Result<String, GgufError> {
        let byte = self.at;
        let length = self.count(what, 1)?;
        if length as u64 > most {
            return Err(self.wrong(byte, what, format!("{length} bytes long"), format!("at most {most}")));
        }
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            self.wrong(byte, what, format!("not UTF-8 at its byte {at}"), "UTF-8")
        })
    }

    fn metadata(&mut self, keys: usize) -> Result<BTreeMap<String, Value>, GgufError> {
        let mut metadata = BTreeMap::new();
        for _ in 0..keys {
            let byte = self.at;
            let key = self.string("the length of a metadata key", MAX_NAME)?;
            let kind = self.u32()?;
            let value = self.value(&key, kind)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(self.wrong(
                    byte,
                    format!("metadata key {}", quoted(&key)),
                    "there twice",
                    "once",
                ));
            }
        }
        Ok(metadata)
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value, GgufError> {
        let byte = self.at - 4;
        Ok(match kind {
            0 => Value::U8(u8::from_le_bytes(self.array()?)),
            1 => Value::I8(i8::from_le_bytes(self.array()?)),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => Value::Bool(self.bool(key)?),
            8 => Value::String(self.string(&format!("the length of {}", quoted(key)), MAX_HEADER)?),
            9 => Value::Array(self.values(key)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            other => {
                return Err(self.wrong(byte, format!("the type of {}", quoted(key)), other, "0 to 12"));
            }
        })
    }

    fn bool(&mut self, key: &str) -> Result<bool, GgufError> {
        let byte = self.at;
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.wrong(byte, format!("the boolean {}", quoted(key)), other, "0 or 1")),
        }
    }

    fn values(&mut self, key: &str) -> Result<Array, GgufError> {
        let byte = self.at;
        let kind = self.u32()?;
        let what = format!("the length of {}", quoted(key));
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            other => {
                let what = format!("the type of elements of {}", quoted(key));
                return Err(self.wrong(byte, what, other, "a type of numbers, booleans or strings"));
            }
        };
        let count = self.count(&what, size)?;
        if kind == 8 {
            let strings = (0..count).map(|_| self.string(&what, MAX_HEADER)).collect::<Result<_, _>>()?;
            return Ok(Array::Strings(strings));
        }
        let integers = !matches!(kind, 6 | 7 | 12);
        if !integers {
            // No array of the model holds fractions or booleans: only its place is needed.
            let mut left = count as u64 * size;
            let mut skipped = [0; 4096];
            while left > 0 {
                let now = left.min(skipped.len() as u64);
                self.fill(&mut skipped[..now as usize])?;
                left -= now;
            }
            return Ok(Array::Others(count));
        }
        let mut numbers = Vec::with_capacity(count);
        for _ in 0..count {
            let value = self.value(key, kind)?;
            match value.integer() {
                Some(n) => numbers.push(n),
                None => return Err(self.wrong(byte, what, value.shown(), "integers up to 2^63")),
            }
        }
        Ok(Array::Integers(numbers))
    }

    /// The table of tensors, with the byte of each entry and its offset as written.
    fn tensors(&mut self, count: usize) -> Result<Vec<(u64, Info, u64)>, GgufError> {
        let mut names = BTreeSet::new();
        let mut table = Vec::with_capacity(count);
        for _ in 0..count {
            let byte = self.at;
            let (info, offset) = self.tensor()?;
            if !names.insert(info.name.clone()) {
                return Err(self.wrong(
                    byte,
                    format!("tensor {}", quoted(&info.name)),
                    "there twice",
                    "once",
                ));
            }
            table.push((byte, info, offset));
        }
        Ok(table)
    }

    fn tensor(&mut self) -> Result<(Info, u64), GgufError> {
        let byte = self.at;
        let name = self.string("the length of a tensor's name", MAX_NAME)?;
        if name.is_empty() || name.chars().any(|c| !c.is_ascii_graphic()) {
            return Err(self.wrong(byte, "a tensor's name", quoted(&name), "printable ASCII without spaces"));
        }
        let byte = self.at;
        let dims = self.u32()?;
        if !(1..=MAX_DIMS).contains(&dims) {
            return Err(self.wrong(byte, format!("the number of dimensions of {name}"), dims, "1 to 4"));
        }
        let ne = (0..dims).map(|_| self.u64()).collect::<Result<Vec<u64>, _>>()?;
        let number = self.u32()?;
        let kind =
            Type::from_number(number).map_err(|found| GgufError::Type { name: name.clone(), found })?;
        let offset = self.u64()?;
        let row = ne.first().copied().unwrap_or_default();
        if ne.contains(&0) || !row.is_multiple_of(kind.block()) {
            let expected =
                format!("no zero, and rows of {} a multiple of {} elements", kind.name(), kind.block());
            return Err(self.wrong(byte, format!("the shape of {name}"), format!("{ne:?}"), expected));
        }
        let elements = ne.iter().try_fold(1u64, |product, n| product.checked_mul(*n));
        let bytes = elements.and_then(|n| (n / kind.block()).checked_mul(kind.block_bytes()));
        let Some(bytes) = bytes else {
            let expected = "a size that a file can have";
            return Err(self.wrong(byte, format!("the shape of {name}"), format!("{ne:?}"), expected));
        };
        Ok((Info { name, ne, kind, start: 0, bytes }, offset))
    }
}
