//! Data to standard output; the rest to standard error, where a failure to write is ignored.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::error::{CliError, Result};

/// Writes text to standard output, now.
pub(crate) fn write(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Writes one JSON value and a newline to standard output.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let written = serde_json::to_writer(&mut out, value).map_err(io::Error::from);
    written.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Writes a line to standard error.
pub(crate) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes an error and what caused it to standard error.
pub(crate) fn report(error: &dyn std::error::Error) {
    note(&format!("error: {error}"));
    let mut source = error.source();
    while let Some(cause) = source {
        note(&format!("cause: {cause}"));
        source = cause.source();
    }
}

/// A percentage on standard error, if that is a terminal; the line is cleared when this is dropped.
#[derive(Debug)]
pub(crate) struct Progress {
    label: &'static str,
    shown: Option<u64>,
    on: bool,
}

impl Progress {
    /// Progress of what `label` says.
    pub(crate) fn new(label: &'static str) -> Progress {
        Progress { label, shown: None, on: io::stderr().is_terminal() }
    }

    /// Shows that `done` of `all` is done.
    pub(crate) fn show(&mut self, done: u64, all: u64) {
        let percent = (u128::from(done) * 100 / u128::from(all.max(1))) as u64;
        if self.on && self.shown != Some(percent) {
            self.shown = Some(percent);
            let mut err = io::stderr().lock();
            let _ = write!(err, "\r{} {percent} %", self.label).and_then(|()| err.flush());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}
