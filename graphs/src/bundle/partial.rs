//! A file under a temporary name: renamed onto its final path when complete, removed otherwise.
//!
//! A process that is killed cannot remove its file. On Unix the file is locked for as long as it is written, and the system
//! ends the lock with the process, so the next one that writes to the folder can tell such files and removes them.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::WriteError;

/// Tells apart the temporary files of one process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What the names of temporary files begin with. They end in two numbers: no bundle's name does.
const PREFIX: &str = ".lfmb.partial-";

/// How often a name that another process left behind is passed over.
const MAX_ATTEMPTS: u32 = 1000;

/// A file being written. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    destination: PathBuf,
    /// `None` once published: then there is nothing to remove.
    file: Option<File>,
}

impl Partial {
    /// Creates a new file in the folder of `destination`, where a rename can not cross file systems.
    pub(super) fn create(destination: &Path) -> Result<Self, WriteError> {
        let refuse = |found| Err(WriteError::Destination { path: destination.to_owned(), found });
        if destination.file_name().is_none() {
            return refuse("not a file name");
        }
        match fs::metadata(destination) {
            Ok(found) if found.is_dir() => return refuse("a folder"),
            Ok(found) if !found.is_file() => return refuse("a device or a pipe"),
            // Any other trouble with the path shows when the file beside it is created.
            Ok(_) | Err(_) => {}
        }
        let folder = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        sweep(folder);
        let mut attempts = 0;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!("{PREFIX}{}-{number}", process::id()));
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) if is_held(&file, &path) => {
                    return Ok(Self { path, destination: destination.to_owned(), file: Some(file) });
                }
                Ok(_) if attempts < MAX_ATTEMPTS => attempts += 1,
                Ok(_) => return Self::refused(folder, ErrorKind::WouldBlock.into()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempts < MAX_ATTEMPTS => {
                    attempts += 1;
                }
                Err(source) => return Self::refused(folder, source),
            }
        }
    }

    fn refused(folder: &Path, source: io::Error) -> Result<Self, WriteError> {
        let action = "create a temporary file in".to_owned();
        Err(WriteError::Io { action, path: folder.to_owned(), source })
    }

    /// Where the file is until it is published.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of `bytes` at byte `at`. `what` says what they are in an error.
    pub(super) fn write_at(&mut self, at: u64, bytes: &[u8], what: &str) -> Result<(), WriteError> {
        let write = |file: &mut File| {
            file.seek(SeekFrom::Start(at))?;
            file.write_all(bytes)
        };
        write(self.file()?).map_err(|source| WriteError::Io {
            action: format!("write {what}, bytes {at}..{},", at.saturating_add(bytes.len() as u64)),
            path: self.path.clone(),
            source,
        })
    }

    /// Makes the file `length` bytes long.
    pub(super) fn set_len(&mut self, length: u64) -> Result<(), WriteError> {
        self.file()?.set_len(length).map_err(|source| WriteError::Io {
            action: format!("set the length to {length} bytes of"),
            path: self.path.clone(),
            source,
        })
    }

    /// Makes the file durable and gives it its final name, in place of a file that has it.
    pub(super) fn publish(mut self) -> Result<PathBuf, WriteError> {
        let io = |action: &str, path: &Path, source| {
            Err(WriteError::Io { action: action.to_owned(), path: path.to_owned(), source })
        };
        if let Err(source) = self.file()?.sync_all() {
            return io("flush to disk", &self.path, source);
        }
        if let Err(source) = fs::rename(&self.path, &self.destination) {
            return io("move the finished bundle to", &self.destination, source);
        }
        self.file = None;
        sync_folder(&self.destination);
        Ok(std::mem::take(&mut self.destination))
    }

    fn file(&mut self) -> Result<&mut File, WriteError> {
        self.file.as_mut().ok_or_else(|| WriteError::Io {
            action: "write to".to_owned(),
            path: self.path.clone(),
            source: io::Error::from(ErrorKind::NotFound),
        })
    }

    /// Replaces the open file, keeping the path: for tests of failing writes.
    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: File) {
        self.file = Some(file);
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            drop(file);
            // Nothing can be done about a file that does not go away, and the error that led here matters more.
            let _ = fs::remove_file(&self.path);
        }
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
fn sweep(folder: &Path) {
    if cfg!(not(unix)) {
        return;
    }
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).is_some_and(|numbers| {
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

/// Makes a rename durable. File systems that can not sync a folder are no reason to fail: the bundle is there.
fn sync_folder(file: &Path) {
    let folder = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    if cfg!(unix)
        && let Ok(folder) = File::open(folder)
    {
        let _ = folder.sync_all();
    }
}
