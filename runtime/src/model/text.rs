//! The text side of a bundle.

use lfm_graphs::bundle::Kind;

use super::Model;
use crate::error::{Error, Result};
use crate::text::{Text, TextConfig, TextError};

impl Model {
    /// Tokenizer, chat template and special tokens, from sections `tokenizer`, `chat_template` and `text_config`
    /// (JSON of [`TextConfig`]).
    ///
    /// # Errors
    /// When the bundle has no tokenizer, or one of the sections is malformed.
    pub fn text(&self) -> Result<Text> {
        let Some(tokenizer) = self.section(Kind::Tokenizer) else {
            return Err(Error::Missing {
                path: self.path().to_path_buf(),
                what: "tokenizer",
                hint: ": give token ids with --tokens, or export it from a checkpoint that has one",
            });
        };
        let config = match self.section(Kind::TextConfig) {
            Some(json) => serde_json::from_slice(json)
                .map_err(|e| TextError::Malformed { file: "text_config", problem: e.to_string() })?,
            None => TextConfig::default(),
        };
        Ok(Text::from_bytes(tokenizer, self.section(Kind::ChatTemplate), config)?)
    }
}
