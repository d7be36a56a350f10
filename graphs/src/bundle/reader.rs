//! Checks a bundle's bytes and hands out its sections. Nothing is copied.

use blake3::{Hash, Hasher};

use super::error::BundleError;
use super::golden::Golden;
use super::header::{self, HEADER_LEN, Section};
use super::kind::Kind;
use super::manifest::Manifest;

/// Bytes hashed between two calls of a progress callback.
const HASH_STEP: usize = 4 << 20;

/// A bundle whose header, padding and sections other than the weights are verified.
///
/// The bytes are often a mapped file: whoever maps it answers for the file not changing meanwhile.
#[derive(Clone, Debug)]
pub struct Bundle<'a> {
    file: &'a [u8],
    sections: Vec<Section>,
    id: Hash,
}

impl<'a> Bundle<'a> {
    /// Checks `file`, a whole bundle and nothing else.
    ///
    /// Everything is checked but the hash of the weights, which is left to [`Bundle::verify_weights`]: the
    /// layout covers the file without holes or overlaps, padding is zero, hashes hold, text is UTF-8.
    pub fn parse(file: &'a [u8]) -> Result<Self, BundleError> {
        let header::Header { sections, id } = header::decode(file)?;
        let bundle = Self { file, sections, id };
        let mut end = HEADER_LEN as u64;
        for section in &bundle.sections {
            header::check_zero(file, end, section.offset, || format!("before section `{}`", section.kind))?;
            end = section.offset.saturating_add(section.length);
            let bytes = bundle.bytes(section)?;
            if section.kind != Kind::Weights {
                check_hash(section, blake3::hash(bytes))?;
            }
            if section.kind.is_text() {
                utf8(section, bytes)?;
            }
        }
        Ok(bundle)
    }

    /// BLAKE3 of the header, which names every section with its hash: equal for equal bundles only.
    pub fn id(&self) -> Hash {
        self.id
    }

    /// Bytes of the file.
    pub fn file_len(&self) -> u64 {
        self.file.len() as u64
    }

    /// The section table, in file order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The table's entry for `kind`.
    pub fn entry(&self, kind: Kind) -> Option<&Section> {
        self.sections.iter().find(|section| section.kind == kind)
    }

    /// The bytes of a section.
    pub fn section(&self, kind: Kind) -> Option<&'a [u8]> {
        self.file.get(self.entry(kind)?.range())
    }

    /// The text of a section.
    pub fn text(&self, kind: Kind) -> Result<&'a str, BundleError> {
        let section = self.entry(kind).ok_or(BundleError::Missing { section: kind })?;
        utf8(section, self.bytes(section)?)
    }

    /// The packed weights: a multiple of 4096 bytes from the start of the file, not yet verified.
    pub fn weights(&self) -> &'a [u8] {
        self.section(Kind::Weights).unwrap_or_default()
    }

    /// The parsed manifest.
    pub fn manifest(&self) -> Result<Manifest, BundleError> {
        Manifest::parse(self.text(Kind::Manifest)?, self.start(Kind::Manifest))
    }

    /// The parsed golden vectors, where there are any.
    pub fn golden(&self) -> Result<Option<Golden>, BundleError> {
        match self.entry(Kind::Golden) {
            None => Ok(None),
            Some(section) => Golden::parse(self.text(Kind::Golden)?, section.offset).map(Some),
        }
    }

    /// Hashes the weights: some seconds for several GB.
    pub fn verify_weights(&self) -> Result<(), BundleError> {
        self.verify_weights_with(|_, _| {})
    }

    /// [`Bundle::verify_weights`], which calls `progress` with the bytes done and the bytes in all.
    pub fn verify_weights_with(&self, mut progress: impl FnMut(u64, u64)) -> Result<(), BundleError> {
        let section = self.entry(Kind::Weights).ok_or(BundleError::Missing { section: Kind::Weights })?;
        let mut hasher = Hasher::new();
        for step in self.bytes(section)?.chunks(HASH_STEP) {
            hasher.update(step);
            progress(hasher.count(), section.length);
        }
        check_hash(section, hasher.finalize())
    }

    fn start(&self, kind: Kind) -> u64 {
        self.entry(kind).map_or(0, |section| section.offset)
    }

    fn bytes(&self, section: &Section) -> Result<&'a [u8], BundleError> {
        // The header check has shown that every section lies inside the file.
        self.file.get(section.range()).ok_or(BundleError::Missing { section: section.kind })
    }
}

fn check_hash(section: &Section, found: Hash) -> Result<(), BundleError> {
    if found == section.hash {
        return Ok(());
    }
    let (start, end) = (section.offset, section.offset.saturating_add(section.length));
    Err(BundleError::SectionHash { section: section.kind, start, end, found, expected: section.hash })
}

fn utf8<'a>(section: &Section, bytes: &'a [u8]) -> Result<&'a str, BundleError> {
    std::str::from_utf8(bytes).map_err(|error| BundleError::BadUtf8 {
        section: section.kind,
        byte: section.offset.saturating_add(error.valid_up_to() as u64),
        found: bytes.get(error.valid_up_to()).copied().unwrap_or_default(),
    })
}
