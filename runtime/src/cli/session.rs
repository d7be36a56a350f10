//! `--session FILE`: the state of a session, kept from run to run.

use std::path::PathBuf;

use clap::Args;
use lfm_runtime::Session;

use super::error::Result;

/// Where a session is kept.
#[derive(Args, Debug)]
pub(crate) struct SessionOptions {
    /// Go on from the state in FILE, if that is there, and keep the new state in it: what a prompt shares with the last one
    /// is not computed again
    #[arg(long, value_name = "FILE")]
    session: Option<PathBuf>,
}

impl SessionOptions {
    /// Whether there is such a file.
    pub(crate) fn wanted(&self) -> bool {
        self.session.is_some()
    }

    /// Takes over the state in the file, if it is there, and gives its note.
    pub(crate) fn restore(&self, session: &mut Session) -> Result<Vec<u8>> {
        match &self.session {
            Some(path) if path.try_exists().unwrap_or(true) => Ok(session.restore(path)?),
            Some(_) | None => Ok(Vec::new()),
        }
    }

    /// Keeps the state in the file.
    pub(crate) fn save(&self, session: &mut Session, note: &[u8]) -> Result<()> {
        match &self.session {
            Some(path) => Ok(session.save(path, note)?),
            None => Ok(()),
        }
    }
}
