//! Text on both ends of the model: tokenizer, chat template, and tokens back to text as they come.
//!
//! ```text
//! ChatRequest ─ChatTemplate→ text ─Tokenizer→ ids ─(the model)→ ids ─Detokenizer→ text
//! ```
//!
//! Everything is made from bytes, which may be hostile: what a file says is checked before it is
//! used, and every limit is a named constant.

mod byte_level;
mod chat;
mod config;
mod error;
mod json;
mod stream;
mod template;
mod tokenizer;
mod tokenizer_file;

pub use chat::{ChatRequest, ChatTemplate};
pub use config::{NamedTemplates, TextConfig};
pub use error::TextError;
pub use json::Json;
pub use stream::Detokenizer;
pub use tokenizer::Tokenizer;

/// A model's tokenizer, chat template and special tokens.
#[derive(Debug)]
pub struct Text {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Conversation to text, where the checkpoint has a template.
    pub template: Option<ChatTemplate>,
    config: TextConfig,
    bos: Option<u32>,
    eos: Vec<u32>,
}

impl Text {
    /// Puts together what a bundle holds: `tokenizer.json`, the chat template and the facts that
    /// [`TextConfig::from_hf`] took from the checkpoint.
    pub fn from_bytes(
        tokenizer_json: &[u8],
        chat_template: Option<&[u8]>,
        config: TextConfig,
    ) -> Result<Text, TextError> {
        let mut tokenizer = Tokenizer::from_bytes(tokenizer_json)?;
        let id = |name: &str, token: &Option<String>| -> Result<Option<u32>, TextError> {
            let Some(token) = token else { return Ok(None) };
            match tokenizer.token_to_id(token) {
                Some(id) => Ok(Some(id)),
                None => Err(TextError::malformed(
                    "tokenizer.json",
                    format!("{name} {token:?} is not in the vocabulary"),
                )),
            }
        };
        let bos = id("bos_token", &config.bos_token)?;
        let eos_token = id("eos_token", &config.eos_token)?;
        let eos = match config.eos_ids.as_slice() {
            [] => eos_token.into_iter().collect(),
            ids => ids.to_vec(),
        };
        if let Some((add_bos, add_eos)) = config.add_bos_eos {
            tokenizer.set_around(bos.filter(|_| add_bos), eos_token.filter(|_| add_eos));
        }
        let template = chat_template
            .map(|bytes| {
                let source = std::str::from_utf8(bytes).map_err(|e| {
                    TextError::malformed(
                        "chat_template.jinja",
                        format!("byte {} is not UTF-8", e.valid_up_to()),
                    )
                })?;
                ChatTemplate::new(source)
            })
            .transpose()?;
        Ok(Text { tokenizer, template, config, bos, eos })
    }

    /// The text of a chat.
    pub fn render(&self, request: &ChatRequest) -> Result<String, TextError> {
        let template = self.template.as_ref().ok_or(TextError::NoTemplate)?;
        let tokens: Vec<(&str, &str)> = [
            ("bos_token", &self.config.bos_token),
            ("eos_token", &self.config.eos_token),
            ("pad_token", &self.config.pad_token),
            ("unk_token", &self.config.unk_token),
        ]
        .into_iter()
        .filter_map(|(name, token)| Some((name, token.as_deref()?)))
        .collect();
        template.render(request, &tokens)
    }

    /// The ids of a chat; what stands around it (BOS) is the template's to write.
    pub fn encode_chat(&self, request: &ChatRequest) -> Result<Vec<u32>, TextError> {
        self.tokenizer.encode(&self.render(request)?, false, true)
    }

    /// The id that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The ids that end a generation.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }
}
