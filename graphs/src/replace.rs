//! A file under a temporary name beside its destination: renamed onto that when it is complete and on the disk, removed
//! otherwise. So at the destination is the old file or the new one, whole, whatever happens.
//!
//! A process that is killed cannot remove its file. On Unix the file is locked for as long as it is written, and the system
//! ends the lock with the process, so the next one that writes to the folder can tell such files and removes them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tells apart the temporary files of one process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// How often a name that another process left behind is passed over.
const MAX_ATTEMPTS: u32 = 1000;

/// Why a file could not be replaced.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// The destination is nothing that can be replaced by a file.
    #[error("it is {found}, expected a new or a regular file")]
    Destination {
        /// What is there.
        found: &'static str,
    },
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A file being written. Dropping it removes the file.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    destination: PathBuf,
    /// `None` once published: then there is nothing to remove.
    file: Option<File>,
}

impl Replacement {
    /// Creates a new file in the folder of `destination`, where a rename can not cross file systems. Its name is `prefix`
    /// and two numbers; others of that form that nobody writes any more are removed.
    ///
    /// # Errors
    /// When the destination is no regular file, or the system refuses.
    pub fn create(destination: &Path, prefix: &'static str) -> Result<Replacement, ReplaceError> {
        let refuse = |found| Err(ReplaceError::Destination { found });
        if destination.file_name().is_none() {
            return refuse("not a file name");
        }
        match fs::metadata(destination) {
            Ok(found) if found.is_dir() => return refuse("a folder"),
            Ok(found) if !found.is_file() => return refuse("a device or a pipe"),
            // Any other trouble with the path shows when the file beside it is created.
            Ok(_) | Err(_) => {}
        }
        let folder = folder(destination);
        let refused = |source| {
            Err(ReplaceError::Io { action: "create a temporary file in", path: folder.to_owned(), source })
        };
        sweep(folder, prefix);
        for _ in 0..MAX_ATTEMPTS {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{prefix}{}-{number}", process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) if is_held(&file, &path) => {
                    return Ok(Replacement { path, destination: destination.to_owned(), file: Some(file) });
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => return refused(source),
            }
        }
        refused(ErrorKind::AlreadyExists.into())
    }

    /// Where the file is until it is published.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of `bytes` at byte `at`.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let file = self.file()?;
        file.seek(SeekFrom::Start(at))?;
        file.write_all(bytes)
    }

    /// Makes the file `length` bytes long.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn set_len(&mut self, length: u64) -> io::Result<()> {
        self.file()?.set_len(length)
    }

    /// Makes the file durable and gives it its final name, in place of a file that has it.
    ///
    /// # Errors
    /// When the system refuses; then the destination is as it was.
    pub fn publish(mut self) -> Result<PathBuf, ReplaceError> {
        let path = self.path.clone();
        let flushed = self.file().and_then(|file| file.sync_all());
        flushed.map_err(|source| ReplaceError::Io { action: "flush to disk", path, source })?;
        if let Err(source) = fs::rename(&self.path, &self.destination) {
            let path = self.destination.clone();
            return Err(ReplaceError::Io { action: "move the finished file to", path, source });
        }
        self.file = None;
        // Makes the rename durable. File systems that can not sync a folder are no reason to fail: the file is there.
        if cfg!(unix)
            && let Ok(folder) = File::open(folder(&self.destination))
        {
            let _ = folder.sync_all();
        }
        Ok(std::mem::take(&mut self.destination))
    }

    fn file(&mut self) -> io::Result<&mut File> {
        self.file.as_mut().ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Replaces the open file, keeping the path: for tests of failing writes.
    #[cfg(test)]
    pub(crate) fn replace_file(&mut self, file: File) {
        self.file = Some(file);
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file()?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file()?.flush()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            drop(file);
            // Nothing can be done about a file that does not go away, and the error that led here matters more.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The folder of a file.
fn folder(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

/// Locks a file that was just created; false where another process took it for one that was left behind and removed it.
fn is_held(file: &File, path: &Path) -> bool {
    if cfg!(not(unix)) {
        // There a lock would keep readers out too.
        return true;
    }
    match file.try_lock() {
        Ok(()) => path.exists(),
        Err(TryLockError::WouldBlock) => false,
        // A file system without locks: nobody can take it for one that was left behind.
        Err(TryLockError::Error(_)) => true,
    }
}

/// Removes the temporary files in `folder` whose processes are gone. It is no matter if some stay.
fn sweep(folder: &Path, prefix: &str) {
    if cfg!(not(unix)) {
        return;
    }
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.to_str().and_then(|name| name.strip_prefix(prefix)).is_some_and(|numbers| {
            numbers.split_once('-').is_some_and(|(process, number)| is_number(process) && is_number(number))
        });
        // A link or a pipe of that name is not ours, and opening one can take for ever.
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        if let Ok(file) = OpenOptions::new().write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
