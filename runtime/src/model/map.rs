//! The mapping of a bundle's file.
#![allow(unsafe_code, reason = "a mapped file can only be made by unsafe code")]

use std::fs::File;
use std::path::Path;

use memmap2::Mmap;

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
