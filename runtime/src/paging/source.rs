//! Reading pages of weights from the bundle's file, past the system's page cache where that can be done.
//!
//! A read of the file leaves a copy in the page cache, which counts as memory of whoever limits it and pushes out what
//! other programs need. So pages are read directly (`O_DIRECT`); where the file system refuses that, the system is told
//! to drop what was read.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::MmapMut;

use super::PAGE;

/// A file that is read in whole pages.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    direct: bool,
    /// Where the weights start, a multiple of the page size.
    base: u64,
}

impl Source {
    /// Opens `path` once more. `len` and `base` are the file's length and where its weights start.
    pub(super) fn open(path: &Path, same: &File, base: u64) -> io::Result<Source> {
        if let Some(file) = open_direct(path) {
            let source = Source { file, direct: true, base };
            // A file system may allow the flag and then refuse to read.
            let mut page = MmapMut::map_anon(PAGE)?;
            if source.read(0, &mut page, 1).is_ok() {
                return source.checked(same);
            }
        }
        let source = Source { file: File::open(path)?, direct: false, base };
        source.advise(0, 0, true);
        source.checked(same)
    }

    /// The file, if it is the one that was opened before.
    fn checked(self, same: &File) -> io::Result<Source> {
        let (found, expected) = (self.file.metadata()?, same.metadata()?);
        if identity(&found) == identity(&expected) {
            return Ok(self);
        }
        Err(io::Error::other("the file was replaced while it was being opened"))
    }

    /// Whether reads go past the page cache.
    pub(super) fn direct(&self) -> bool {
        self.direct
    }

    /// Fills `pages`, whole pages at a page's start in memory, from byte `at` of the weights, a page's start too. At least
    /// `needed` bytes must be there; what lies behind the end of the file stays as it is.
    pub(super) fn read(&self, at: u64, pages: &mut [u8], needed: usize) -> io::Result<()> {
        let start = self.base.checked_add(at).ok_or(io::ErrorKind::InvalidInput)?;
        let mut done = 0;
        while done < needed {
            let rest = pages.get_mut(done..).ok_or(io::ErrorKind::InvalidInput)?;
            match read_at(&self.file, rest, start + done as u64) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) if done + n >= needed => done += n,
                // A direct read must go on at a page.
                Ok(n) if n < PAGE => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n / PAGE * PAGE,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if !self.direct {
            self.advise(start, done as u64, false);
        }
        Ok(())
    }

    /// Tells the system not to keep bytes of the file, or (`random`) not to read ahead.
    #[cfg(target_os = "linux")]
    fn advise(&self, start: u64, len: u64, random: bool) {
        use nix::fcntl::{PosixFadviseAdvice as Advice, posix_fadvise};
        let advice = if random { Advice::POSIX_FADV_RANDOM } else { Advice::POSIX_FADV_DONTNEED };
        if let (Ok(start), Ok(len)) = (start.try_into(), len.try_into()) {
            // Advice that is not taken costs memory of the page cache, which the system takes back when it must.
            let _ = posix_fadvise(&self.file, start, len, advice);
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn advise(&self, _: u64, _: u64, _: bool) {}
}

#[cfg(target_os = "linux")]
fn open_direct(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).custom_flags(nix::fcntl::OFlag::O_DIRECT.bits()).open(path).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_direct(_: &Path) -> Option<File> {
    None
}

#[cfg(unix)]
fn identity(file: &std::fs::Metadata) -> (u64, u64, u64) {
    use std::os::unix::fs::MetadataExt;
    (file.dev(), file.ino(), file.len())
}

#[cfg(not(unix))]
fn identity(file: &std::fs::Metadata) -> u64 {
    file.len()
}

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, offset)
}

#[cfg(windows)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: usize) -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        let content: Vec<u8> = (0..bytes).map(|i| (i * 31 + i / 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        (folder, path, content)
    }

    #[test]
    fn pages_are_those_of_the_file() {
        let (_folder, path, content) = file(5 * PAGE + 100);
        for direct in [true, false] {
            let mut source = Source::open(&path, &File::open(&path).unwrap(), PAGE as u64).unwrap();
            if !direct {
                source = Source { file: File::open(&path).unwrap(), direct, ..source };
            }
            let mut pages = MmapMut::map_anon(3 * PAGE).unwrap();
            source.read(PAGE as u64, &mut pages, 2 * PAGE + 7).unwrap();
            assert!(pages[..] == content[2 * PAGE..5 * PAGE]);
            // The last page is cut by the end of the file.
            source.read(3 * PAGE as u64, &mut pages[..2 * PAGE], PAGE + 100).unwrap();
            assert!(pages[..PAGE + 100] == content[4 * PAGE..]);
            let error = source.read(3 * PAGE as u64, &mut pages[..2 * PAGE], PAGE + 101).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn another_file_of_the_same_name_is_noticed() {
        let (folder, path, content) = file(2 * PAGE);
        let first = File::open(&path).unwrap();
        std::fs::write(folder.path().join("new"), content).unwrap();
        std::fs::rename(folder.path().join("new"), &path).unwrap();
        let error = Source::open(&path, &first, 0).unwrap_err();
        assert_eq!(error.to_string(), "the file was replaced while it was being opened");
    }
}
