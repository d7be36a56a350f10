//! The mapping of a bundle's file, and a copy of its weights in huge pages.
#![allow(unsafe_code, reason = "a mapped file can only be made by unsafe code")]

use std::fs::{File, Metadata};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::{Mmap, MmapMut};

#[cfg(target_os = "linux")]
use super::bus::Region;
use crate::error::{Error, Result};

/// A file that is mapped for reading, and compared with what was opened as often as somebody asks.
#[derive(Debug)]
pub(super) struct Mapped {
    /// Before the mapping, so that it is dropped before it.
    #[cfg(target_os = "linux")]
    region: Option<Region>,
    map: Mmap,
    file: File,
    path: PathBuf,
    modified: Option<SystemTime>,
}

impl Mapped {
    /// Maps a file.
    pub(super) fn open(path: &Path) -> Result<Mapped> {
        let failed = |source| Error::Read { path: path.to_path_buf(), source };
        let file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(failed(std::io::Error::other("expected a regular file")));
        }
        if meta.len() == 0 {
            return Err(failed(std::io::Error::other("the file is empty, expected a bundle")));
        }
        // SAFETY: the mapping is private and read only, and what is read from it is treated as untrusted bytes. A file
        // that is changed or cut while it is mapped is noticed by `check`, and a cut one read as zeros by `bus`.
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        #[cfg(target_os = "linux")]
        // A file system with large folios then reads and maps 2 MiB at a time. Others go on with small pages.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Mapped {
            #[cfg(target_os = "linux")]
            region: Region::new(map.as_ptr_range()),
            map,
            file,
            path: path.to_path_buf(),
            modified: modified(&meta),
        })
    }

    /// The file.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// An error if the file was cut or written to since it was opened: nothing read from it in between counts.
    pub(super) fn check(&self) -> Result<()> {
        let path = || self.path.clone();
        let meta = self.file.metadata().map_err(|source| Error::Read { path: path(), source })?;
        let (was, now) = (self.map.len() as u64, meta.len());
        if was != now || modified(&meta) != self.modified {
            return Err(Error::Changed { path: path(), was, now });
        }
        #[cfg(target_os = "linux")]
        if self.region.as_ref().is_some_and(Region::hit) {
            let source = std::io::Error::other("a page that is mapped could not be read");
            return Err(Error::Read { path: path(), source });
        }
        Ok(())
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// When the file was written to last, where the system knows.
fn modified(meta: &Metadata) -> Option<SystemTime> {
    meta.modified().ok()
}

/// Bytes that one thread copies at a time.
const PIECE: usize = 16 << 20;

/// A copy of the bytes `range` of the mapped file in memory of huge pages, where the system has them.
///
/// Reads the file, so that the mapping's pages do not become resident too, on `threads` threads.
pub(super) fn copy(map: &Mapped, range: Range<usize>, threads: usize) -> Result<Mmap> {
    let failed = |source| Error::Read { path: map.path.clone(), source };
    let no_room = |source| Error::System {
        attempt: format!("cannot get {} bytes for a copy of the weights", range.len()),
        source,
    };
    map.check()?;
    let mut copy = MmapMut::map_anon(range.len().max(1)).map_err(no_room)?;
    #[cfg(target_os = "linux")]
    // Without huge pages the copy is only as good as the mapping.
    let _ = copy.advise(memmap2::Advice::HugePage);
    let pieces = std::sync::Mutex::new(copy[..range.len()].chunks_mut(PIECE).enumerate());
    let work = || -> std::io::Result<()> {
        loop {
            let piece = pieces.lock().map_or(None, |mut pieces| pieces.next());
            let Some((index, piece)) = piece else { return Ok(()) };
            read_at(&map.file, map, range.start + index * PIECE, piece)?;
        }
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        helpers.into_iter().fold(own, |done, helper| {
            let result = helper.join().unwrap_or_else(|_| Err(std::io::Error::other("a thread panicked")));
            done.and(result)
        })
    })
    .map_err(failed)?;
    map.check()?;
    copy.make_read_only().map_err(no_room)
}

#[cfg(unix)]
fn read_at(file: &File, _: &Mapped, offset: usize, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset as u64)
}

#[cfg(not(unix))]
fn read_at(_: &File, map: &Mapped, offset: usize, out: &mut [u8]) -> std::io::Result<()> {
    out.copy_from_slice(&map[offset..offset + out.len()]);
    Ok(())
}
