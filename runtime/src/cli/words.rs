//! The text side of a command. A build without feature `text` has none, and says so where it is wanted.

use lfm_graphs::bundle::Kind;
use lfm_runtime::Model;

use super::error::Result;

#[cfg(feature = "text")]
pub(crate) use with_text::Words;
#[cfg(not(feature = "text"))]
pub(crate) use without_text::Words;

impl Words {
    /// The text side, if the bundle and this build have one.
    pub(crate) fn optional(model: &Model) -> Result<Option<Words>> {
        let wanted = cfg!(feature = "text") && model.section(Kind::Tokenizer).is_some();
        wanted.then(|| Words::open(model, "text")).transpose()
    }
}

#[cfg(feature = "text")]
mod with_text {
    use lfm_runtime::Model;
    use lfm_runtime::text::{ChatRequest, Detokenizer, Text};

    use crate::cli::error::{CliError, Result};

    /// Tokenizer, chat template and the stream of the text that is generated.
    #[derive(Debug)]
    pub(crate) struct Words {
        pub(crate) text: Text,
        stream: Detokenizer,
    }

    impl Words {
        /// The text side of a bundle. `_what` needs it.
        pub(crate) fn open(model: &Model, _what: &'static str) -> Result<Words> {
            Ok(Words { text: model.text()?, stream: Detokenizer::new(true) })
        }

        /// The ids of a user's message, with what the chat template puts around it.
        pub(crate) fn message(&self, text: &str) -> Result<Vec<u32>> {
            if self.text.template.is_none() {
                return Err(CliError::argument(
                    "the bundle has no chat template, expected --raw or --tokens",
                ));
            }
            Ok(self.text.encode_chat(&ChatRequest::new().message("user", text))?)
        }

        /// The ids of a text with what begins it; special tokens in it count as such.
        pub(crate) fn raw(&self, text: &str) -> Result<Vec<u32>> {
            Ok(self.text.tokenizer.encode(text, true, true)?)
        }

        /// The ids of a text alone, in which no text is a special token.
        pub(crate) fn plain(&self, text: &str) -> Result<Vec<u32>> {
            Ok(self.text.tokenizer.encode(text, false, false)?)
        }

        /// The id that begins a text.
        pub(crate) fn bos(&self) -> Option<u32> {
            self.text.bos()
        }

        /// Ids that end an answer.
        pub(crate) fn stop(&self) -> &[u32] {
            self.text.eos()
        }

        /// The text that the next id completes.
        pub(crate) fn push(&mut self, id: u32) -> &str {
            self.stream.push(&self.text.tokenizer, id)
        }

        /// What is left at the end of a text.
        pub(crate) fn finish(&mut self) -> &str {
            self.stream.finish()
        }
    }
}

#[cfg(not(feature = "text"))]
mod without_text {
    use lfm_runtime::Model;

    use crate::cli::error::{CliError, Result};

    /// There is none in this build.
    #[derive(Debug)]
    pub(crate) enum Words {}

    impl Words {
        /// An error: this build has no text side, and `what` needs it.
        pub(crate) fn open(_: &Model, what: &'static str) -> Result<Words> {
            Err(CliError::NoText { what })
        }

        pub(crate) fn message(&self, _: &str) -> Result<Vec<u32>> {
            match *self {}
        }

        pub(crate) fn raw(&self, _: &str) -> Result<Vec<u32>> {
            match *self {}
        }

        pub(crate) fn plain(&self, _: &str) -> Result<Vec<u32>> {
            match *self {}
        }

        pub(crate) fn bos(&self) -> Option<u32> {
            match *self {}
        }

        pub(crate) fn stop(&self) -> &[u32] {
            match *self {}
        }

        pub(crate) fn push(&mut self, _: u32) -> &str {
            match *self {}
        }

        pub(crate) fn finish(&mut self) -> &str {
            match *self {}
        }
    }
}
