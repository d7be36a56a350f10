//! Why a command could not run.

use std::io;

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The runtime says so.
    #[error(transparent)]
    Runtime(#[from] lfm_runtime::Error),
    /// Standard output cannot be written.
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    /// Standard input cannot be read.
    #[cfg(feature = "text")]
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    /// The build has no text side.
    #[cfg(not(feature = "text"))]
    #[error(
        "{what} needs a tokenizer, which this build of lfm-run does not have: give token ids with `generate` or \
         `logits --tokens`, or use a build with feature `text`"
    )]
    NoText {
        /// What was asked for.
        what: &'static str,
    },
}

/// A result of a command.
pub(crate) type Result<T> = std::result::Result<T, CliError>;

impl CliError {
    /// An argument that cannot be used.
    pub(crate) fn argument(message: impl Into<String>) -> CliError {
        CliError::Runtime(lfm_runtime::Error::Argument(message.into()))
    }

    /// Whether whoever reads standard output has had enough.
    pub(crate) fn is_closed_output(&self) -> bool {
        matches!(self, CliError::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

#[cfg(feature = "text")]
impl From<lfm_runtime::text::TextError> for CliError {
    fn from(error: lfm_runtime::text::TextError) -> CliError {
        CliError::Runtime(error.into())
    }
}
