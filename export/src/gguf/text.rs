//! The tokenizer and the chat template in the metadata, as the files of a checkpoint folder.

use lfm_runtime::text::{Text, TextConfig, TextError};
use serde::{Serialize, Serializer};
use serde_json::{Value as Json, json};

use super::error::{GgufError, quoted};
use super::value::{Metadata, required};
use crate::bundle::TextFiles;

/// How LLaMA 3, and LFM2 after it, cut a text into words.
const SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Values of `tokenizer.ggml.token_type`.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const LAST_TYPE: i64 = 6;

/// A `tokenizer.json`.
#[derive(Serialize)]
struct TokenizerFile<'a> {
    version: &'static str,
    added_tokens: Vec<Added<'a>>,
    pre_tokenizer: PreTokenizers,
    post_processor: Option<Json>,
    decoder: ByteLevel,
    model: Bpe<'a>,
}

#[derive(Serialize)]
struct Added<'a> {
    id: u32,
    content: &'a str,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

#[derive(Serialize)]
struct PreTokenizers {
    r#type: &'static str,
    pretokenizers: (Split, ByteLevel),
}

#[derive(Serialize)]
struct Split {
    r#type: &'static str,
    pattern: Pattern,
    behavior: &'static str,
    invert: bool,
}

#[derive(Serialize)]
enum Pattern {
    Regex(&'static str),
}

#[derive(Serialize)]
struct ByteLevel {
    r#type: &'static str,
    add_prefix_space: bool,
    trim_offsets: bool,
    use_regex: bool,
}

#[derive(Serialize)]
struct Bpe<'a> {
    r#type: &'static str,
    ignore_merges: bool,
    #[serde(serialize_with = "as_map")]
    vocab: Vec<(&'a str, u32)>,
    merges: Vec<(&'a str, &'a str)>,
}

const BYTE_LEVEL: ByteLevel =
    ByteLevel { r#type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false };

/// Entries in ascending id, whatever order a map would have.
fn as_map<S: Serializer>(entries: &[(&str, u32)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(entries.iter().copied())
}

/// The text side of the file; none where it has no tokenizer. `vocab` is the number of embeddings.
pub(super) fn text(metadata: &Metadata<'_>, vocab: usize) -> Result<TextFiles, GgufError> {
    match metadata.string("tokenizer.ggml.model")? {
        None | Some("no_vocab" | "none") => return Ok(TextFiles::default()),
        Some("gpt2") => {}
        Some(_) => return Err(metadata.wrong("tokenizer.ggml.model", "gpt2, byte-level BPE")),
    }
    let pre = "tokenizer.ggml.pre";
    if !matches!(required(pre, metadata.string(pre)?)?, "lfm2" | "llama-bpe" | "llama3" | "llama-v3") {
        return Err(metadata.wrong(pre, "lfm2 or llama-bpe"));
    }
    let tokens = tokens(metadata, vocab)?;
    let named = |key: &str| -> Result<Option<&str>, GgufError> {
        let Some(id) = metadata.size(key)? else { return Ok(None) };
        Ok(tokens.iter().find(|token| token.id == id).map(|token| token.text))
    };
    let bos = named("tokenizer.ggml.bos_token_id")?;
    let add_bos = metadata.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(true) && bos.is_some();
    let file = TokenizerFile {
        version: "1.0",
        added_tokens: tokens.iter().filter_map(Token::added).collect(),
        pre_tokenizer: PreTokenizers {
            r#type: "Sequence",
            pretokenizers: (
                Split { r#type: "Split", pattern: Pattern::Regex(SPLIT), behavior: "Isolated", invert: false },
                BYTE_LEVEL,
            ),
        },
        post_processor: bos.filter(|_| add_bos).map(|bos| {
            let id = metadata.size("tokenizer.ggml.bos_token_id").ok().flatten();
            // Keys in alphabetical order: the bytes are the same whether maps are sorted or keep their order.
            json!({
                "pair": [
                    {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                    {"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                ],
                "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
                "type": "TemplateProcessing",
            })
        }),
        decoder: BYTE_LEVEL,
        model: Bpe {
            r#type: "BPE",
            ignore_merges: true,
            vocab: tokens.iter().map(|token| (token.text, token.id)).collect(),
            merges: merges(metadata)?,
        },
    };
    let settings = json!({
        "add_bos_token": add_bos,
        "add_eos_token": metadata.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false),
        "bos_token": bos,
        "eos_token": named("tokenizer.ggml.eos_token_id")?,
        "pad_token": named("tokenizer.ggml.padding_token_id")?,
        "unk_token": named("tokenizer.ggml.unknown_token_id")?,
    });
    let malformed =
        |e: serde_json::Error| TextError::Malformed { file: "tokenizer.json", problem: e.to_string() };
    let tokenizer = serde_json::to_vec(&file).map_err(malformed)?;
    let settings = settings.to_string().into_bytes();
    let template = metadata.string("tokenizer.chat_template")?.map(|text| text.as_bytes().to_vec());
    // What a bundle holds must work on the device: better no bundle than one that cannot speak.
    let facts = TextConfig::from_hf(&settings, None, None)?;
    Text::from_bytes(&tokenizer, template.as_deref(), facts)?;
    Ok(TextFiles {
        tokenizer: Some(tokenizer),
        tokenizer_config: Some(settings),
        chat_template: template,
        ..TextFiles::default()
    })
}

/// What of the text side stays behind: chat templates beside the default one.
pub(super) fn notes(metadata: &Metadata<'_>) -> Vec<String> {
    let named = metadata.0.keys().filter_map(|key| key.strip_prefix("tokenizer.chat_template."));
    let note =
        |name| format!("the chat template {} is left out: a bundle holds the default one", quoted(name));
    named.map(note).collect()
}

/// A token that has a text of its own.
struct Token<'a> {
    id: u32,
    text: &'a str,
    kind: i64,
}

impl<'a> Token<'a> {
    fn added(&self) -> Option<Added<'a>> {
        matches!(self.kind, CONTROL | USER_DEFINED).then_some(Added {
            id: self.id,
            content: self.text,
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: self.kind == CONTROL,
        })
    }
}

/// The vocabulary without the names that only fill it up.
fn tokens<'a>(metadata: &Metadata<'a>, vocab: usize) -> Result<Vec<Token<'a>>, GgufError> {
    let (key, types) = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type");
    let texts = required(key, metadata.strings(key)?)?;
    if texts.len() > vocab {
        return Err(metadata.wrong(key, format!("at most the {vocab} embeddings")));
    }
    let kinds = metadata.integers(types)?;
    if let Some(kinds) = kinds
        && (kinds.len() != texts.len() || kinds.iter().any(|kind| !(1..=LAST_TYPE).contains(kind)))
    {
        return Err(metadata.wrong(types, format!("1 to 6 for each of {} tokens", texts.len())));
    }
    let tokens = (0u32..).zip(texts).map(|(id, text)| {
        let kind = kinds.and_then(|kinds| kinds.get(id as usize)).copied().unwrap_or(1);
        Token { id, text, kind }
    });
    Ok(tokens.filter(|token| token.kind != UNUSED || token.text != format!("[PAD{}]", token.id)).collect())
}

fn merges<'a>(metadata: &Metadata<'a>) -> Result<Vec<(&'a str, &'a str)>, GgufError> {
    let key = "tokenizer.ggml.merges";
    let merges = required(key, metadata.strings(key)?)?;
    let pairs = merges.iter().map(|merge| {
        merge.split_once(' ').ok_or_else(|| GgufError::Key {
            key: key.into(),
            found: format!("an array with {}", quoted(merge)),
            expected: "two tokens and a space between them in each entry".into(),
        })
    });
    pairs.collect()
}
