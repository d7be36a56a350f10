//! A bundle that is being written, under a temporary name: what goes wrong is said as an error of the writer's.

use std::path::{Path, PathBuf};

use super::error::WriteError;
use crate::replace::{ReplaceError, Replacement};

/// What the names of temporary files begin with. They end in two numbers: no bundle's name does.
const PREFIX: &str = ".lfmb.partial-";

/// A file being written. Dropping it removes the file.
#[derive(Debug)]
pub(super) struct Partial(Replacement);

impl Partial {
    /// Creates a new file in the folder of `destination`.
    pub(super) fn create(destination: &Path) -> Result<Self, WriteError> {
        Replacement::create(destination, PREFIX).map(Partial).map_err(|error| said(error, destination))
    }

    /// Where the file is until it is published.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes all of `bytes` at byte `at`. `what` says what they are in an error.
    pub(super) fn write_at(&mut self, at: u64, bytes: &[u8], what: &str) -> Result<(), WriteError> {
        self.0.write_at(at, bytes).map_err(|source| WriteError::Io {
            action: format!("write {what}, bytes {at}..{},", at.saturating_add(bytes.len() as u64)),
            path: self.0.path().to_owned(),
            source,
        })
    }

    /// Makes the file `length` bytes long.
    pub(super) fn set_len(&mut self, length: u64) -> Result<(), WriteError> {
        self.0.set_len(length).map_err(|source| WriteError::Io {
            action: format!("set the length to {length} bytes of"),
            path: self.0.path().to_owned(),
            source,
        })
    }

    /// Makes the file durable and gives it its final name, in place of a file that has it.
    pub(super) fn publish(self) -> Result<PathBuf, WriteError> {
        let path = self.path().to_owned();
        self.0.publish().map_err(|error| said(error, &path))
    }

    /// Replaces the open file, keeping the path: for tests of failing writes.
    #[cfg(test)]
    pub(super) fn replace_file(&mut self, file: std::fs::File) {
        self.0.replace_file(file);
    }
}

fn said(error: ReplaceError, destination: &Path) -> WriteError {
    match error {
        ReplaceError::Destination { found } => {
            WriteError::Destination { path: destination.to_owned(), found }
        }
        ReplaceError::Io { action, path, source } => {
            WriteError::Io { action: action.to_owned(), path, source }
        }
    }
}
