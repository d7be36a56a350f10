//! The first page of a bundle: its layout, written and checked.
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | [`MAGIC`] |
//! | 8..12 | format version, u32 |
//! | 12..16 | number of sections, u32 |
//! | 16..24 | length of the file, u64 |
//! | 24..32 | zero |
//! | 32..4064 | 63 entries of 64 bytes: name (16, zero padded), offset u64, length u64, BLAKE3 (32); unused ones zero |
//! | 4064..4096 | BLAKE3 of bytes 0..4064 |

use std::ops::Range;

use blake3::Hash;

use super::error::BundleError;
use super::kind::Kind;

/// First 8 bytes of every bundle. The high bit, CR LF and ^Z make a copy in text mode visible.
pub const MAGIC: [u8; 8] = *b"\x89LFMB\r\n\x1a";
/// Version of the format that this module reads and writes.
pub const VERSION: u32 = 1;
/// Bytes of the header; the first section starts here.
pub const HEADER_LEN: usize = 4096;
/// Most sections that a header has room for.
pub const MAX_SECTIONS: usize = 63;

/// Bytes of a name in the table.
pub(super) const NAME_LEN: usize = 16;
/// Where the table starts.
pub(super) const TABLE_AT: usize = 32;
/// Bytes of an entry.
pub(super) const ENTRY_LEN: usize = 64;
/// Where the hash of the header starts, and the bytes that it covers end.
pub(super) const HASH_AT: usize = HEADER_LEN - 32;

/// The entry's fields, from the start of the entry.
const ENTRY_OFFSET: usize = NAME_LEN;
const ENTRY_LENGTH: usize = NAME_LEN + 8;
const ENTRY_HASH: usize = NAME_LEN + 16;

const _: () = assert!(TABLE_AT + MAX_SECTIONS * ENTRY_LEN == HASH_AT);

/// One section's place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub(super) kind: Kind,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) hash: Hash,
}

impl Section {
    /// What the section holds.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// First byte of the section in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the section.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// BLAKE3 of the section's bytes.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The section's bytes within the file.
    ///
    /// A range that this machine can not address (possible only before the file itself is checked to fit into
    /// memory) saturates, so that `get` answers `None`.
    pub fn range(&self) -> Range<usize> {
        let at = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
        at(self.offset)..at(self.offset.saturating_add(self.length))
    }
}

/// A checked header.
pub(super) struct Header {
    /// Ascending by kind and by offset.
    pub(super) sections: Vec<Section>,
    /// Hash of the header: identity of the bundle.
    pub(super) id: Hash,
}

/// The smallest multiple of `alignment`, a power of two, that is not below `at`.
pub(super) fn align_up(at: u64, alignment: u64) -> Option<u64> {
    at.checked_next_multiple_of(alignment)
}

/// The header page for these sections, and its hash. `sections` are in canonical order.
pub(super) fn encode(sections: &[Section]) -> (Vec<u8>, Hash) {
    debug_assert!(sections.len() <= MAX_SECTIONS);
    let file_len = sections.last().map_or(HEADER_LEN as u64, |last| last.offset + last.length);
    let mut page = Vec::with_capacity(HEADER_LEN);
    page.extend_from_slice(&MAGIC);
    page.extend_from_slice(&VERSION.to_le_bytes());
    page.extend_from_slice(&(sections.len() as u32).to_le_bytes());
    page.extend_from_slice(&file_len.to_le_bytes());
    page.resize(TABLE_AT, 0);
    for section in sections {
        let start = page.len();
        page.extend_from_slice(section.kind.name().as_bytes());
        page.resize(start + NAME_LEN, 0);
        page.extend_from_slice(&section.offset.to_le_bytes());
        page.extend_from_slice(&section.length.to_le_bytes());
        page.extend_from_slice(section.hash.as_bytes());
    }
    page.resize(HASH_AT, 0);
    let id = blake3::hash(&page);
    page.extend_from_slice(id.as_bytes());
    (page, id)
}

/// Checks the header of `file`: everything but the bytes of the sections and the padding between them.
pub(super) fn decode(file: &[u8]) -> Result<Header, BundleError> {
    check_magic(file)?;
    let actual = file.len() as u64;
    let truncated = || BundleError::HeaderTruncated { needed: HEADER_LEN as u64, actual };
    check_version(u32::from_le_bytes(field(file, 8).ok_or_else(truncated)?))?;
    let stated = u64::from_le_bytes(field(file, 16).ok_or_else(truncated)?);
    let page = file.get(..HEADER_LEN).ok_or_else(truncated)?;

    let count = u32::from_le_bytes(field(page, 12).ok_or_else(truncated)?);
    if count == 0 || count as usize > MAX_SECTIONS {
        return Err(BundleError::SectionCount { found: count, max: MAX_SECTIONS as u32 });
    }
    if actual < stated {
        return Err(BundleError::FileTruncated { stated, actual });
    }
    if actual > stated {
        return Err(BundleError::FileTooLong { stated, actual });
    }

    let id = blake3::hash(page.get(..HASH_AT).ok_or_else(truncated)?);
    let expected = Hash::from_bytes(field(page, HASH_AT).ok_or_else(truncated)?);
    if id != expected {
        return Err(BundleError::HeaderHash { end: HASH_AT as u64, found: id, expected });
    }
    let table_end = TABLE_AT + count as usize * ENTRY_LEN;
    check_zero(file, 24, TABLE_AT as u64, || "header".to_owned())?;
    check_zero(file, table_end as u64, HASH_AT as u64, || "header".to_owned())?;

    let table = page.get(TABLE_AT..table_end).ok_or_else(truncated)?;
    Ok(Header { sections: decode_table(table, actual)?, id })
}

/// Checks every entry, and that the sections cover the file from the header to its end.
fn decode_table(table: &[u8], file_len: u64) -> Result<Vec<Section>, BundleError> {
    let mut sections: Vec<Section> = Vec::with_capacity(Kind::ALL.len());
    let (mut end, mut previous) = (HEADER_LEN as u64, None);
    for (i, entry) in table.as_chunks::<ENTRY_LEN>().0.iter().enumerate() {
        let at = (TABLE_AT + i * ENTRY_LEN) as u64;
        let kind = decode_kind(entry, at, &sections)?;
        let offset = u64::from_le_bytes(read(entry, ENTRY_OFFSET));
        let length = u64::from_le_bytes(read(entry, ENTRY_LENGTH));
        let section = Section { kind, offset, length, hash: Hash::from_bytes(read(entry, ENTRY_HASH)) };
        end = check_place(&section, at, end, previous, file_len)?;
        previous = Some(kind);
        sections.push(section);
    }
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_required()) {
        if !sections.iter().any(|section| section.kind == kind) {
            return Err(BundleError::Missing { section: kind });
        }
    }
    match sections.last() {
        Some(last) if end != file_len => {
            Err(BundleError::Unclaimed { section: last.kind, end, file: file_len })
        }
        Some(_) | None => Ok(sections),
    }
}

/// The kind of an entry, which must come after all of `before`.
fn decode_kind(entry: &[u8; ENTRY_LEN], at: u64, before: &[Section]) -> Result<Kind, BundleError> {
    let padded: [u8; NAME_LEN] = read(entry, 0);
    let name = padded.split(|&b| b == 0).next().unwrap_or_default();
    let clean = padded.iter().skip(name.len()).all(|&b| b == 0);
    let kind = std::str::from_utf8(name).ok().filter(|_| clean).and_then(Kind::from_name);
    let Some(section) = kind else {
        let name = if clean { name } else { &padded[..] };
        return Err(BundleError::UnknownSection { byte: at, name: name.to_vec() });
    };
    if before.iter().any(|other| other.kind == section) {
        return Err(BundleError::Duplicate { section, byte: at });
    }
    match before.last() {
        Some(last) if last.kind > section => {
            Err(BundleError::Order { section, previous: last.kind, byte: at })
        }
        Some(_) | None => Ok(section),
    }
}

/// Checks one section against the end of `previous`; answers the section's own end.
fn check_place(
    place: &Section,
    at: u64,
    previous_end: u64,
    previous: Option<Kind>,
    file_len: u64,
) -> Result<u64, BundleError> {
    let &Section { kind: section, offset, length, hash: _ } = place;
    let offset_at = at + ENTRY_OFFSET as u64;
    let length_at = at + ENTRY_LENGTH as u64;
    if length == 0 && section != Kind::Weights {
        return Err(BundleError::Empty { section, byte: length_at });
    }
    if length > section.cap() {
        return Err(BundleError::TooLarge { section, byte: length_at, found: length, cap: section.cap() });
    }
    let Some(end) = offset.checked_add(length) else {
        return Err(BundleError::Overflow { section, byte: offset_at, offset, length });
    };
    if end > file_len {
        return Err(BundleError::PastEnd { section, byte: offset_at, offset, end, file: file_len });
    }
    if offset < previous_end {
        return Err(BundleError::Overlap {
            section,
            byte: offset_at,
            offset,
            previous,
            expected: previous_end,
        });
    }
    let alignment = section.alignment();
    if !offset.is_multiple_of(alignment) {
        return Err(BundleError::Unaligned { section, byte: offset_at, offset, alignment });
    }
    match align_up(previous_end, alignment) {
        Some(expected) if expected == offset => Ok(end),
        // `previous_end` is at most `offset`, which is aligned, so aligning it can not overflow.
        Some(expected) => Err(BundleError::Hole { section, byte: offset_at, offset, expected }),
        None => Err(BundleError::Overflow { section, byte: offset_at, offset, length }),
    }
}

/// Checks that bytes `start..end` of `file` are zero.
pub(super) fn check_zero(
    file: &[u8],
    start: u64,
    end: u64,
    place: impl FnOnce() -> String,
) -> Result<(), BundleError> {
    let range = usize::try_from(start).unwrap_or(usize::MAX)..usize::try_from(end).unwrap_or(usize::MAX);
    let padding = file.get(range).unwrap_or_default();
    match padding.iter().zip(start..).find(|&(&found, _)| found != 0) {
        Some((&found, byte)) => Err(BundleError::Padding { place: place(), byte, found }),
        None => Ok(()),
    }
}

/// Refuses files that are something else, and bundles with swapped bytes.
fn check_magic(file: &[u8]) -> Result<(), BundleError> {
    let Some(found) = field::<8>(file, 0) else {
        return if MAGIC.starts_with(file) {
            Err(BundleError::HeaderTruncated { needed: HEADER_LEN as u64, actual: file.len() as u64 })
        } else {
            Err(BundleError::BadMagic { found: file.to_vec() })
        };
    };
    if found == MAGIC {
        return Ok(());
    }
    let swapped = [2, 4, 8].into_iter().any(|word| {
        let mut turned = found;
        turned.chunks_mut(word).for_each(<[u8]>::reverse);
        turned == MAGIC
    });
    if swapped {
        return Err(BundleError::WrongEndian { byte: 0, field: "magic", found: found.to_vec() });
    }
    Err(BundleError::BadMagic { found: found.to_vec() })
}

/// Refuses every version but [`VERSION`]. Versions stay below 2^16, so a swapped one can be told.
fn check_version(found: u32) -> Result<(), BundleError> {
    if found == VERSION {
        return Ok(());
    }
    if found > 0xFFFF && found.swap_bytes() <= 0xFFFF {
        return Err(BundleError::WrongEndian {
            byte: 8,
            field: "format version",
            found: found.to_le_bytes().to_vec(),
        });
    }
    Err(BundleError::Version { found, supported: VERSION })
}

/// `N` bytes of `bytes` at `at`, where there are so many.
fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// `N` bytes of an entry. The fields above lie inside of it; were one not to, it would read as zero.
fn read<const N: usize>(entry: &[u8; ENTRY_LEN], at: usize) -> [u8; N] {
    field(entry, at).unwrap_or([0; N])
}
