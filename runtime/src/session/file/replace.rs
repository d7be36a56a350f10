//! A file under a temporary name in the folder of its final one: renamed onto that when it is complete and on the disk,
//! removed otherwise.
//!
//! Temporary files that a killed program left behind are removed by the next one that replaces a file in the same
//! folder: those in use are locked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How temporary names begin.
const PREFIX: &str = ".lfm-session.partial-";
/// How many names are tried.
const ATTEMPTS: u64 = 1000;

/// Makes names within a process unique.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A file that is to replace another.
#[derive(Debug)]
pub(super) struct Replacement {
    file: File,
    path: PathBuf,
    destination: PathBuf,
    published: bool,
}

/// The folder of a file.
fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

impl Replacement {
    /// Creates the file beside `destination`.
    pub(super) fn create(destination: &Path) -> io::Result<Replacement> {
        let folder = folder(destination);
        remove_abandoned(folder);
        let mut failed = ErrorKind::AlreadyExists.into();
        for _ in 0..ATTEMPTS {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{PREFIX}{}-{number}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    // Where files cannot be locked, abandoned ones stay.
                    let _ = file.lock();
                    // Before it was locked, it may have been taken for abandoned.
                    if path.exists() {
                        let destination = destination.to_path_buf();
                        return Ok(Replacement { file, path, destination, published: false });
                    }
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => failed = error,
                Err(error) => return Err(error),
            }
        }
        Err(failed)
    }

    /// Gives the file its final name, in place of one that has it, once it is on the disk.
    pub(super) fn publish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.destination)?;
        self.published = true;
        // Makes the rename durable. Where folders cannot be synced, the file is there all the same.
        if let Ok(folder) = File::open(folder(&self.destination)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.published {
            // Nothing can be done about a file that does not go away, and the error that led here matters more.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes temporary files that nobody writes any more.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let abandoned = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && OpenOptions::new().write(true).open(entry.path()).is_ok_and(|file| file.try_lock().is_ok());
        if abandoned {
            let _ = fs::remove_file(entry.path());
        }
    }
}
