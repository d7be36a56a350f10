//! The few facts of the checkpoint's configuration files that text needs at run time.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::TextError;

const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_MAP: &str = "special_tokens_map.json";
const GENERATION_CONFIG: &str = "generation_config.json";
/// Largest of these files that is read.
const MAX_FILE: usize = 16 << 20;

/// Special tokens and what is added around a text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextConfig {
    /// Beginning of a text, `<|startoftext|>` for LFM2.
    pub bos_token: Option<String>,
    /// End of an answer, `<|im_end|>` for LFM2.
    pub eos_token: Option<String>,
    /// Padding.
    pub pad_token: Option<String>,
    /// Unknown text.
    pub unk_token: Option<String>,
    /// Whether BOS and EOS go around a text; `None`: as the tokenizer's post-processor says.
    pub add_bos_eos: Option<(bool, bool)>,
    /// Ids that end a generation, from the generation defaults; empty: the id of `eos_token`.
    pub eos_ids: Vec<u32>,
}

impl TextConfig {
    /// Derives the configuration from the files of a Hugging Face folder.
    ///
    /// `tokenizer_config.json` wins over `special_tokens_map.json`. A token is a string or an
    /// object with `content`; `eos_token_id` is a number or a list.
    pub fn from_hf(
        tokenizer_config: &[u8],
        special_tokens_map: Option<&[u8]>,
        generation_config: Option<&[u8]>,
    ) -> Result<TextConfig, TextError> {
        let config = object(TOKENIZER_CONFIG, tokenizer_config)?;
        let map = match special_tokens_map {
            Some(bytes) => object(SPECIAL_TOKENS_MAP, bytes)?,
            None => Json::Null,
        };
        let token = |name: &str| -> Result<Option<String>, TextError> {
            match token_text(TOKENIZER_CONFIG, name, &config)? {
                Some(text) => Ok(Some(text)),
                None => token_text(SPECIAL_TOKENS_MAP, name, &map),
            }
        };
        let (add_bos, add_eos) = (flag(&config, "add_bos_token")?, flag(&config, "add_eos_token")?);
        let add_bos_eos = match (add_bos, add_eos) {
            (None, None) => None,
            (bos, eos) => Some((bos.unwrap_or(false), eos.unwrap_or(false))),
        };
        let eos_ids = match generation_config {
            Some(bytes) => {
                let generation = object(GENERATION_CONFIG, bytes)?;
                eos_ids(generation.get("eos_token_id").unwrap_or(&Json::Null))?
            }
            None => Vec::new(),
        };
        Ok(TextConfig {
            bos_token: token("bos_token")?,
            eos_token: token("eos_token")?,
            pad_token: token("pad_token")?,
            unk_token: token("unk_token")?,
            add_bos_eos,
            eos_ids,
        })
    }

    /// The chat templates in a `tokenizer_config.json`: one string, or a list of named ones. A
    /// `chat_template.jinja` beside it wins over them. Empty when there is none.
    pub fn templates_from_hf(tokenizer_config: &[u8]) -> Result<NamedTemplates, TextError> {
        let config = object(TOKENIZER_CONFIG, tokenizer_config)?;
        let mut templates = NamedTemplates::default();
        match config.get("chat_template") {
            None | Some(Json::Null) => {}
            Some(Json::String(text)) => templates.default = Some(text.clone()),
            Some(Json::Array(list)) => {
                for entry in list {
                    let field = |key| entry.get(key).and_then(Json::as_str);
                    match (field("name"), field("template")) {
                        (Some("default"), Some(text)) => templates.default = Some(text.to_owned()),
                        (Some("tool_use"), Some(text)) => {
                            templates.tool_use = Some(text.to_owned());
                        }
                        (Some(_), Some(_)) => {}
                        _ => {
                            return Err(wrong(
                                TOKENIZER_CONFIG,
                                "chat_template",
                                entry,
                                "a name and a template",
                            ));
                        }
                    }
                }
            }
            Some(other) => return Err(wrong(TOKENIZER_CONFIG, "chat_template", other, "a string or a list")),
        }
        Ok(templates)
    }
}

/// Chat templates by use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NamedTemplates {
    /// The template of every chat that has no better one.
    pub default: Option<String>,
    /// The template of chats with tools.
    pub tool_use: Option<String>,
}

fn object(file: &'static str, bytes: &[u8]) -> Result<Json, TextError> {
    TextError::check_size(file, bytes.len(), MAX_FILE)?;
    let json: Json = serde_json::from_slice(bytes).map_err(|e| TextError::malformed(file, e.to_string()))?;
    if !json.is_object() {
        return Err(TextError::malformed(file, "expected an object at the top"));
    }
    Ok(json)
}

fn wrong(file: &'static str, key: &str, found: &Json, expected: &str) -> TextError {
    let mut found = found.to_string();
    if found.len() > 64 {
        found.truncate(found.floor_char_boundary(60));
        found.push_str(" ...");
    }
    TextError::malformed(file, format!("{key}: found {found}, expected {expected}"))
}

fn token_text(file: &'static str, key: &str, json: &Json) -> Result<Option<String>, TextError> {
    match json.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone())),
        Some(other) => match other.get("content").and_then(Json::as_str) {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(wrong(file, key, other, "a string or an object with content")),
        },
    }
}

fn flag(config: &Json, key: &str) -> Result<Option<bool>, TextError> {
    match config.get(key) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Bool(value)) => Ok(Some(*value)),
        Some(other) => Err(wrong(TOKENIZER_CONFIG, key, other, "true or false")),
    }
}

fn eos_ids(json: &Json) -> Result<Vec<u32>, TextError> {
    let error = || wrong(GENERATION_CONFIG, "eos_token_id", json, "a token id or a list of them");
    let id = |json: &Json| json.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(error);
    match json {
        Json::Null => Ok(Vec::new()),
        Json::Array(list) => list.iter().map(id).collect(),
        Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Object(_) => Ok(vec![id(json)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_and_objects_are_tokens() {
        let config = br#"{"bos_token": {"content": "<s>", "special": true}, "pad_token": null,
            "add_bos_token": true}"#;
        let map = br#"{"bos_token": "other", "eos_token": {"content": "</s>"}, "pad_token": "<p>"}"#;
        let generation = br#"{"eos_token_id": [7, 2]}"#;
        let text = TextConfig::from_hf(config, Some(map), Some(generation)).unwrap();
        assert_eq!(text.bos_token.as_deref(), Some("<s>"));
        assert_eq!(text.eos_token.as_deref(), Some("</s>"));
        assert_eq!(text.pad_token.as_deref(), Some("<p>"));
        assert_eq!(text.add_bos_eos, Some((true, false)));
        assert_eq!(text.eos_ids, [7, 2]);
    }

    #[test]
    fn templates_in_the_config() {
        let one = TextConfig::templates_from_hf(br#"{"chat_template": "x"}"#).unwrap();
        assert_eq!(one.default.as_deref(), Some("x"));
        let named = br#"{"chat_template": [{"name": "default", "template": "d"},
            {"name": "tool_use", "template": "t"}, {"name": "rag", "template": "r"}]}"#;
        let named = TextConfig::templates_from_hf(named).unwrap();
        assert_eq!(named.default.as_deref(), Some("d"));
        assert_eq!(named.tool_use.as_deref(), Some("t"));
    }

    #[test]
    fn wrong_types_are_named() {
        let error = TextConfig::from_hf(br#"{"eos_token": 3}"#, None, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "reading tokenizer_config.json: eos_token: found 3, expected a string or an object with \
             content"
        );
        for bad in [&b"{}"[..1], b"[]", br#"{"add_bos_token": 1}"#, br#"{"chat_template": 1}"#] {
            assert!(
                TextConfig::from_hf(bad, None, None).is_err() || TextConfig::templates_from_hf(bad).is_err()
            );
        }
        let negative = br#"{"eos_token_id": -1}"#;
        assert!(TextConfig::from_hf(b"{}", None, Some(negative)).is_err());
    }
}
