//! The mapping of a bundle's file, and a copy of its weights in huge pages.
#![allow(unsafe_code, reason = "a mapped file can only be made by unsafe code")]

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use memmap2::{Mmap, MmapMut};

use crate::error::{Error, Result};

/// Maps a file for reading.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let failed = |source| Error::Read { path: path.to_path_buf(), source };
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(failed(std::io::Error::other("expected a regular file")));
    }
    if meta.len() == 0 {
        return Err(failed(std::io::Error::other("the file is empty, expected a bundle")));
    }
    // SAFETY: the mapping is private and read only, and what is read from it is treated as untrusted bytes. That
    // the file is not changed or cut while it is mapped is asked of the user, as by every reader that maps.
    unsafe { Mmap::map(&file) }.map_err(failed)
}

/// Bytes that one thread copies at a time.
const PIECE: usize = 16 << 20;

/// A copy of the bytes `range` of the mapped file `path` in memory of huge pages, where the system has them.
///
/// Reads the file, so that the mapping's pages do not become resident too, on `threads` threads.
pub(super) fn copy(path: &Path, map: &Mmap, range: Range<usize>, threads: usize) -> Result<Mmap> {
    let failed = |source| Error::Read { path: path.to_path_buf(), source };
    let no_room = |source| Error::System {
        attempt: format!("cannot get {} bytes for a copy of the weights", range.len()),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.len() != map.len() as u64 {
        return Err(failed(std::io::Error::other("the file has changed since it was opened")));
    }
    let mut copy = MmapMut::map_anon(range.len().max(1)).map_err(no_room)?;
    #[cfg(target_os = "linux")]
    // Without huge pages the copy is only as good as the mapping.
    let _ = copy.advise(memmap2::Advice::HugePage);
    let pieces = std::sync::Mutex::new(copy[..range.len()].chunks_mut(PIECE).enumerate());
    let work = || -> std::io::Result<()> {
        loop {
            let piece = pieces.lock().map_or(None, |mut pieces| pieces.next());
            let Some((index, piece)) = piece else { return Ok(()) };
            read_at(&file, map, range.start + index * PIECE, piece)?;
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
    copy.make_read_only().map_err(no_room)
}

#[cfg(unix)]
fn read_at(file: &File, _: &Mmap, offset: usize, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset as u64)
}

#[cfg(not(unix))]
fn read_at(_: &File, map: &Mmap, offset: usize, out: &mut [u8]) -> std::io::Result<()> {
    out.copy_from_slice(&map[offset..offset + out.len()]);
    Ok(())
}
