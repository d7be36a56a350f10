//! What can be wrong with a bundle, and what can go wrong while one is written.

use std::path::PathBuf;
use std::{fmt, io};

use blake3::Hash;

use super::kind::Kind;

// The message says everything that the fields do, at a fraction of the code.
impl fmt::Debug for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why some bytes are not a bundle that this reader accepts. Bytes count from the start of the file.
#[derive(thiserror::Error)]
pub enum BundleError {
    /// The first bytes are something else.
    #[error("header, byte 0: the file starts with \"{}\", a bundle starts with \"{}\"", .found.escape_ascii(), super::header::MAGIC.escape_ascii())]
    BadMagic {
        /// The file's first bytes, at most 8.
        found: Vec<u8>,
    },
    /// The file was written, or copied word by word, in the other byte order.
    #[error(
        "header, byte {byte}: the {field} is in the wrong byte order, \"{}\"; bundles are little-endian on every machine",
        .found.escape_ascii()
    )]
    WrongEndian {
        /// Where the field starts.
        byte: u64,
        /// The field: magic or format version.
        field: &'static str,
        /// The field's bytes.
        found: Vec<u8>,
    },
    /// The file ends inside the header.
    #[error("header: it needs bytes 0..{needed}, the file has {actual}")]
    HeaderTruncated {
        /// Bytes of the header.
        needed: u64,
        /// Bytes of the file.
        actual: u64,
    },
    /// A format version that this reader does not know.
    #[error("header, byte 8: bundle format version {found}, this build reads version {supported}{}", if .found > .supported { "; use a newer build, or export the bundle again" } else { "" })]
    Version {
        /// The file's version.
        found: u32,
        /// The reader's version.
        supported: u32,
    },
    /// The file is shorter than its header says.
    #[error("header, byte 16: the bundle is {stated} bytes long, the file has {actual}: it was truncated")]
    FileTruncated {
        /// Length in the header.
        stated: u64,
        /// Bytes of the file.
        actual: u64,
    },
    /// The file is longer than its header says.
    #[error(
        "header, byte 16: the bundle is {stated} bytes long, the file has {actual}: bytes {stated}..{actual} do not belong to it"
    )]
    FileTooLong {
        /// Length in the header.
        stated: u64,
        /// Bytes of the file.
        actual: u64,
    },
    /// A count of sections that no header can hold.
    #[error("header, byte 12: {found} sections, expected 1 to {max}")]
    SectionCount {
        /// The file's count.
        found: u32,
        /// The cap.
        max: u32,
    },
    /// The header does not hash to what it says.
    #[error("header: bytes 0..{end} hash to {found}, byte {end} says {expected}")]
    HeaderHash {
        /// Where the hashed bytes end and the stored hash starts.
        end: u64,
        /// BLAKE3 of the bytes.
        found: Hash,
        /// BLAKE3 in the header.
        expected: Hash,
    },
    /// A byte that must be zero is not.
    #[error("{place}, byte {byte}: padding is {found:#04x}, expected 0")]
    Padding {
        /// Whose padding: the header's, or that before a section.
        place: String,
        /// The byte.
        byte: u64,
        /// Its value.
        found: u8,
    },
    /// A section name that this version does not have.
    #[error("section table, byte {byte}: unknown section \"{}\"", .name.escape_ascii())]
    UnknownSection {
        /// Where the name starts.
        byte: u64,
        /// The name, without its zero padding.
        name: Vec<u8>,
    },
    /// The same section twice.
    #[error("section table, byte {byte}: section `{section}` occurs twice")]
    Duplicate {
        /// The section.
        section: Kind,
        /// Where the second name starts.
        byte: u64,
    },
    /// Sections out of their canonical order.
    #[error("section table, byte {byte}: section `{section}` comes after `{previous}`, expected before it")]
    Order {
        /// The section.
        section: Kind,
        /// The section listed before it.
        previous: Kind,
        /// Where the name starts.
        byte: u64,
    },
    /// A section of no bytes. An absent section is left out of the table instead.
    #[error("section `{section}`, byte {byte}: length 0, expected at least 1")]
    Empty {
        /// The section.
        section: Kind,
        /// Where the length starts.
        byte: u64,
    },
    /// A section above its cap.
    #[error("section `{section}`, byte {byte}: {found} bytes long, at most {cap} are allowed")]
    TooLarge {
        /// The section.
        section: Kind,
        /// Where the length starts.
        byte: u64,
        /// The length.
        found: u64,
        /// The cap.
        cap: u64,
    },
    /// Offset and length do not add up in 64 bits.
    #[error("section `{section}`, byte {byte}: offset {offset} plus length {length} is above 2^64 - 1")]
    Overflow {
        /// The section.
        section: Kind,
        /// Where the offset starts.
        byte: u64,
        /// The offset.
        offset: u64,
        /// The length.
        length: u64,
    },
    /// A section that ends behind the file.
    #[error("section `{section}`, byte {byte}: it needs bytes {offset}..{end}, the file has {file}")]
    PastEnd {
        /// The section.
        section: Kind,
        /// Where the offset starts.
        byte: u64,
        /// First byte of the section.
        offset: u64,
        /// One past its last byte.
        end: u64,
        /// Bytes of the file.
        file: u64,
    },
    /// An offset that is no multiple of the section's alignment.
    #[error("section `{section}`, byte {byte}: offset {offset} is not a multiple of {alignment}")]
    Unaligned {
        /// The section.
        section: Kind,
        /// Where the offset starts.
        byte: u64,
        /// The offset.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// A section that starts inside what is before it.
    #[error(
        "section `{section}`, byte {byte}: offset {offset} overlaps {}, which ends at {expected}",
        name_or_header(.previous)
    )]
    Overlap {
        /// The section.
        section: Kind,
        /// Where the offset starts.
        byte: u64,
        /// The offset.
        offset: u64,
        /// The previous section; `None` is the header.
        previous: Option<Kind>,
        /// Where that ends.
        expected: u64,
    },
    /// Bytes that belong to no section.
    #[error("section `{section}`, byte {byte}: offset {offset} leaves a hole, expected {expected}")]
    Hole {
        /// The section.
        section: Kind,
        /// Where the offset starts.
        byte: u64,
        /// The offset.
        offset: u64,
        /// The only offset allowed.
        expected: u64,
    },
    /// Bytes after the last section.
    #[error("section `{section}` is the last and ends at byte {end}, the file has {file}")]
    Unclaimed {
        /// The last section.
        section: Kind,
        /// One past its last byte.
        end: u64,
        /// Bytes of the file.
        file: u64,
    },
    /// A required section that the table does not list, or an optional one that was asked for.
    #[error(
        "section table, bytes {}..{}: section `{section}` is missing",
        super::header::TABLE_AT,
        super::header::HASH_AT
    )]
    Missing {
        /// The section.
        section: Kind,
    },
    /// A section that does not hash to what the table says.
    #[error("section `{section}`: bytes {start}..{end} hash to {found}, the section table says {expected}")]
    SectionHash {
        /// The section.
        section: Kind,
        /// First byte of the section.
        start: u64,
        /// One past its last byte.
        end: u64,
        /// BLAKE3 of the bytes.
        found: Hash,
        /// BLAKE3 in the table.
        expected: Hash,
    },
    /// A text section that is not text.
    #[error("section `{section}`, byte {byte}: {found:#04x} does not continue UTF-8 text")]
    BadUtf8 {
        /// The section.
        section: Kind,
        /// The first byte that is not UTF-8, or the end of the section where a character is cut.
        byte: u64,
        /// The byte there.
        found: u8,
    },
    /// A text section that does not parse.
    #[error("section `{section}`, byte {byte}, line {line}, column {column}: {message}")]
    Syntax {
        /// The section.
        section: Kind,
        /// Where the section starts.
        byte: u64,
        /// Line in the section, from 1.
        line: usize,
        /// Column in the line, from 1.
        column: usize,
        /// What the parser says.
        message: String,
    },
    /// A field with a value that is not allowed.
    #[error("section `{section}`, byte {byte}: field `{field}` is {found}, expected {expected}")]
    Field {
        /// The section.
        section: Kind,
        /// Where the section starts.
        byte: u64,
        /// The field, with its index where it is one of a list.
        field: String,
        /// Its value.
        found: String,
        /// The rule.
        expected: &'static str,
    },
}

fn name_or_header(section: &Option<Kind>) -> String {
    section.map_or_else(|| "the header".to_owned(), |kind| format!("`{kind}`"))
}

/// Why a bundle could not be written. What the system said is the [source](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was attempted.
        action: String,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The destination can not become a bundle.
    #[error("cannot write a bundle to {}: it is {found}, expected a new or a regular file", .path.display())]
    Destination {
        /// The destination.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// A section given twice.
    #[error("section `{section}` is given twice")]
    Duplicate {
        /// The section.
        section: Kind,
    },
    /// A section that has its own way in.
    #[error("section `{section}` can not be added here, expected a section that comes before the weights")]
    Misplaced {
        /// The section.
        section: Kind,
    },
    /// A required section that was never given.
    #[error("section `{section}` is missing")]
    Missing {
        /// The section.
        section: Kind,
    },
    /// A section of no bytes; leave it out instead.
    #[error("section `{section}` is empty, expected at least 1 byte")]
    Empty {
        /// The section.
        section: Kind,
    },
    /// A section above its cap.
    #[error("section `{section}` has {found} bytes, at most {cap} are allowed")]
    TooLarge {
        /// The section.
        section: Kind,
        /// Its length.
        found: u64,
        /// The cap.
        cap: u64,
    },
    /// A text section that is not text.
    #[error("section `{section}`, byte {byte} of it: not UTF-8 text")]
    BadUtf8 {
        /// The section.
        section: Kind,
        /// Where the text stops to be UTF-8, from the start of the section.
        byte: u64,
    },
    /// A weight that starts before the end of the one written last.
    #[error(
        "weights, byte {offset} of the section: bytes up to {position} are already written, expected ascending offsets"
    )]
    Backwards {
        /// The offset asked for.
        offset: u64,
        /// The next offset that is free.
        position: u64,
    },
    /// More weights than announced.
    #[error("weights, bytes {offset}..{end} of the section: it was announced with {length}")]
    WeightsTooLong {
        /// The offset asked for.
        offset: u64,
        /// Where the write would end, or 2^64 - 1.
        end: u64,
        /// The announced length.
        length: u64,
    },
    /// Fewer weights than announced.
    #[error("weights: {written} bytes were written, expected the announced {length}")]
    WeightsTooShort {
        /// Bytes written.
        written: u64,
        /// The announced length.
        length: u64,
    },
}
