//! What can go wrong between text and tokens.

/// An error of the tokenizer, the chat template or their configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file is larger than the reader accepts.
    #[error("reading {file}: found {bytes} bytes, expected at most {limit}")]
    TooLarge {
        /// The file's usual name.
        file: &'static str,
        /// Its size.
        bytes: usize,
        /// The cap.
        limit: usize,
    },
    /// A file does not say what it must, or says something that is not supported.
    #[error("reading {file}: {problem}")]
    Malformed {
        /// The file's usual name.
        file: &'static str,
        /// What was found and what was expected.
        problem: String,
    },
    /// A text could not be split into tokens.
    #[error("tokenizing {bytes} bytes of text: {problem}")]
    Encode {
        /// Size of the text.
        bytes: usize,
        /// The tokenizer's complaint.
        problem: String,
    },
    /// The chat template does not compile, or stopped with an error.
    #[error("chat template: {0}")]
    Template(String),
    /// There is no chat template.
    #[error("rendering a chat: the model has no chat template, expected chat_template.jinja")]
    NoTemplate,
    /// The conversation is not one that a template can take.
    #[error("reading a chat: {0}")]
    Chat(String),
}

impl TextError {
    /// A [`TextError::Malformed`].
    pub(crate) fn malformed(file: &'static str, problem: impl Into<String>) -> TextError {
        TextError::Malformed { file, problem: problem.into() }
    }

    /// Checks a file's size against its cap.
    pub(crate) fn check_size(file: &'static str, bytes: usize, limit: usize) -> Result<(), TextError> {
        if bytes > limit {
            return Err(TextError::TooLarge { file, bytes, limit });
        }
        Ok(())
    }
}
