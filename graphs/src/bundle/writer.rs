//! Writes a bundle front to back in one pass, whatever its size.
//!
//! ```text
//! BundleWriter ──weights_writer──> WeightsWriter ──seal──> Sealed ──add_golden──> Sealed ──publish──> FILE.lfmb
//!   sections                         streamed                readable under its temporary path
//! ```
//!
//! Dropping any of the three removes the temporary file and leaves what is at the final path as it was.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use blake3::{Hash, Hasher};

use super::error::WriteError;
use super::header::{self, HEADER_LEN, Section};
use super::kind::Kind;
use super::partial::Partial;

/// Weights are gathered, hashed and written in pieces that end at multiples of this in the file. It is the size of a huge
/// page: a file system with large folios then caches the file in these, and a mapping of it takes few page faults.
const PIECE: usize = 2 << 20;

/// Collects the sections that come before the weights.
#[derive(Debug)]
pub struct BundleWriter {
    partial: Partial,
    /// In canonical order, whatever the order in which they were given.
    sections: BTreeMap<Kind, Vec<u8>>,
}

impl BundleWriter {
    /// Starts a bundle that will be published at `path`, in a temporary file beside it.
    pub fn create(path: &Path) -> Result<Self, WriteError> {
        Ok(Self { partial: Partial::create(path)?, sections: BTreeMap::new() })
    }

    /// Adds a section other than the weights and the golden vectors, in any order.
    pub fn section(&mut self, kind: Kind, bytes: impl Into<Vec<u8>>) -> Result<(), WriteError> {
        if kind >= Kind::Weights {
            return Err(WriteError::Misplaced { section: kind });
        }
        let bytes = bytes.into();
        check_content(kind, &bytes)?;
        if self.sections.contains_key(&kind) {
            return Err(WriteError::Duplicate { section: kind });
        }
        self.sections.insert(kind, bytes);
        Ok(())
    }

    /// Writes the sections and starts the weights, `length` bytes in all.
    pub fn weights_writer(self, length: u64) -> Result<WeightsWriter, WriteError> {
        let Self { mut partial, sections } = self;
        for kind in Kind::ALL {
            if kind.is_required() && kind != Kind::Weights && !sections.contains_key(&kind) {
                return Err(WriteError::Missing { section: kind });
            }
        }
        let mut table = Vec::with_capacity(Kind::ALL.len());
        let mut end = HEADER_LEN as u64;
        for (&kind, bytes) in &sections {
            let section = place(kind, end, bytes)?;
            partial.write_at(section.offset, bytes, &format!("section `{kind}`"))?;
            end = section.offset + section.length;
            table.push(section);
        }
        let start = header::align_up(end, Kind::Weights.alignment());
        let Some(start) = start.filter(|start| start.checked_add(length).is_some()) else {
            let cap = u64::MAX - end;
            return Err(WriteError::TooLarge { section: Kind::Weights, found: length, cap });
        };
        let buffer = Vec::with_capacity(PIECE);
        Ok(WeightsWriter { partial, table, start, length, flushed: 0, buffer, hasher: Hasher::new() })
    }
}

/// Streams the weights. Offsets count from the start of the section and only ascend.
#[derive(Debug)]
pub struct WeightsWriter {
    partial: Partial,
    table: Vec<Section>,
    /// Where the section starts in the file.
    start: u64,
    /// Announced bytes of the section.
    length: u64,
    /// Bytes of the section that are on disk and hashed; those in `buffer` follow.
    flushed: u64,
    buffer: Vec<u8>,
    hasher: Hasher,
}

impl WeightsWriter {
    /// The next free offset.
    pub fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// Announced bytes of the section.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Writes `bytes` at `offset`; the bytes between [`position`](Self::position) and `offset` become zero.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        self.check_room(offset, bytes.len() as u64)?;
        self.pad_to(offset)?;
        self.append(bytes)
    }

    /// Writes `bytes` at the next free offset.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.check_room(self.position(), bytes.len() as u64)?;
        let mut rest = bytes;
        while !rest.is_empty() {
            let end = (self.start + self.position()) % PIECE as u64;
            let (piece, others) = rest.split_at(rest.len().min(PIECE - end as usize));
            self.buffer.extend_from_slice(piece);
            rest = others;
            if end as usize + piece.len() == PIECE {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes zeros up to `offset`.
    pub fn pad_to(&mut self, offset: u64) -> Result<(), WriteError> {
        const ZEROS: &[u8] = &[0; 4096];
        self.check_room(offset, 0)?;
        while let missing @ 1.. = offset - self.position() {
            let part = missing.min(ZEROS.len() as u64) as usize;
            self.append(ZEROS.get(..part).unwrap_or(ZEROS))?;
        }
        Ok(())
    }

    /// Ends the weights, all of which must be written, and makes the temporary file a complete bundle.
    pub fn seal_without_golden(mut self) -> Result<Sealed, WriteError> {
        let (written, length) = (self.position(), self.length);
        if written != length {
            return Err(WriteError::WeightsTooShort { written, length });
        }
        self.flush()?;
        let Self { mut partial, mut table, start, hasher, length: _, flushed: _, buffer: _ } = self;
        table.push(Section { kind: Kind::Weights, offset: start, length, hash: hasher.finalize() });
        // Without weights nothing has been written behind the padding before them.
        partial.set_len(start + length)?;
        let (page, id) = header::encode(&table);
        partial.write_at(0, &page, "the header")?;
        Ok(Sealed { partial, table, id })
    }

    /// Writes and hashes the buffer; what could not be written is not hashed and stays in the buffer.
    fn flush(&mut self) -> Result<(), WriteError> {
        self.partial.write_at(self.start + self.flushed, &self.buffer, "section `weights`")?;
        self.hasher.update(&self.buffer);
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn check_room(&self, offset: u64, bytes: u64) -> Result<(), WriteError> {
        let (position, length) = (self.position(), self.length);
        if offset < position {
            return Err(WriteError::Backwards { offset, position });
        }
        match offset.checked_add(bytes) {
            Some(end) if end <= length => Ok(()),
            end => Err(WriteError::WeightsTooLong { offset, end: end.unwrap_or(u64::MAX), length }),
        }
    }
}

/// A complete bundle under a temporary path, where it can be opened and run.
#[derive(Debug)]
pub struct Sealed {
    partial: Partial,
    table: Vec<Section>,
    id: Hash,
}

impl Sealed {
    /// Where the bundle is until it is published.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Identity of the bundle as it is now; golden vectors change it.
    pub fn id(&self) -> Hash {
        self.id
    }

    /// Hash of the bytes of a section.
    pub fn hash(&self, kind: Kind) -> Option<Hash> {
        self.table.iter().find(|section| section.kind == kind).map(|section| section.hash)
    }

    /// Appends the golden vectors, text of [`Golden`](super::Golden). The file must not be in use: its header
    /// is written again.
    pub fn add_golden(self, bytes: impl Into<Vec<u8>>) -> Result<Self, WriteError> {
        let Self { mut partial, mut table, id: _ } = self;
        let bytes = bytes.into();
        check_content(Kind::Golden, &bytes)?;
        let last = match table.last() {
            Some(last) if last.kind == Kind::Golden => {
                return Err(WriteError::Duplicate { section: Kind::Golden });
            }
            Some(last) => last.offset + last.length,
            None => HEADER_LEN as u64,
        };
        let section = place(Kind::Golden, last, &bytes)?;
        partial.write_at(section.offset, &bytes, "section `golden`")?;
        table.push(section);
        let (page, id) = header::encode(&table);
        partial.write_at(0, &page, "the header")?;
        Ok(Self { partial, table, id })
    }

    /// Makes the bundle durable and renames it onto the path that it was created for, replacing what is there
    /// in one step.
    pub fn publish(self) -> Result<Published, WriteError> {
        let length = self.table.last().map_or(HEADER_LEN as u64, |last| last.offset + last.length);
        Ok(Published { path: self.partial.publish()?, length, id: self.id })
    }
}

/// A bundle at its final path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of the file.
    pub length: u64,
    /// Identity of the bundle, as [`Bundle::id`](super::Bundle::id) answers it.
    pub id: Hash,
}

/// The place of a section of `bytes` after byte `end` of the file.
fn place(kind: Kind, end: u64, bytes: &[u8]) -> Result<Section, WriteError> {
    let length = bytes.len() as u64;
    let offset = header::align_up(end, kind.alignment()).filter(|at| at.checked_add(length).is_some());
    match offset {
        Some(offset) => Ok(Section { kind, offset, length, hash: blake3::hash(bytes) }),
        None => Err(WriteError::TooLarge { section: kind, found: length, cap: u64::MAX - end }),
    }
}

/// Refuses what the reader would refuse.
fn check_content(section: Kind, bytes: &[u8]) -> Result<(), WriteError> {
    let (found, cap) = (bytes.len() as u64, section.cap());
    if found == 0 {
        return Err(WriteError::Empty { section });
    }
    if found > cap {
        return Err(WriteError::TooLarge { section, found, cap });
    }
    if section.is_text()
        && let Err(error) = std::str::from_utf8(bytes)
    {
        return Err(WriteError::BadUtf8 { section, byte: error.valid_up_to() as u64 });
    }
    Ok(())
}

#[cfg(test)]
impl WeightsWriter {
    /// Lets every later write go to `file`.
    pub(super) fn replace_file(&mut self, file: std::fs::File) {
        self.partial.replace_file(file);
    }
}
