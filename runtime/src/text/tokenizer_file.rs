//! `tokenizer.json` as data: read once, checked before any of it reaches the tokenizer's code.
//!
//! Accepted is what LFM2 checkpoints use: byte-level BPE, with `ignore_merges` or without, with
//! added tokens, split patterns and Unicode normal forms.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::TextError;

pub(super) const FILE: &str = "tokenizer.json";
/// Largest file that is read; the published ones have 4 to 17 MB.
const MAX_FILE: usize = 128 << 20;
/// Most entries of the vocabulary.
const MAX_VOCAB: usize = 1 << 21;
/// Longest split pattern.
const MAX_PATTERN: usize = 8 << 10;
/// Deepest nesting of groups in a split pattern.
const MAX_GROUPS: usize = 64;
/// Deepest nesting of sequences of pre-tokenizers.
const MAX_SEQUENCE: usize = 4;

/// The file's top level. What only matters to training and batching (truncation, padding) is
/// ignored, as `transformers` does.
#[derive(Deserialize)]
pub(super) struct TokenizerFile {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedEntry>,
    #[serde(default)]
    pub(super) normalizer: Json,
    #[serde(default)]
    pub(super) pre_tokenizer: Json,
    #[serde(default)]
    pub(super) post_processor: Json,
    #[serde(default)]
    pub(super) decoder: Json,
    pub(super) model: ModelEntry,
}

/// One added token.
#[derive(Deserialize)]
pub(super) struct AddedEntry {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) normalized: bool,
    #[serde(default)]
    pub(super) special: bool,
}

/// The BPE model.
#[derive(Deserialize)]
pub(super) struct ModelEntry {
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    pub(super) unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(super) fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    pub(super) vocab: Vocab,
    pub(super) merges: Vec<Merge>,
}

/// Tokens and ids in file order.
pub(super) struct Vocab(pub(super) Vec<(String, u32)>);

/// A merge of two tokens: `"a b"` in older files, `["a", "b"]` in newer ones.
pub(super) struct Merge(pub(super) String, pub(super) String);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vocab, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from token to id")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Vocab(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Merge, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge, \"a b\" or [\"a\", \"b\"]")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Merge, E> {
                match text.split_once(' ') {
                    Some((a, b)) if !b.contains(' ') => Ok(Merge(a.to_owned(), b.to_owned())),
                    _ => Err(E::custom(format!("found merge {text:?}, expected two tokens"))),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let wrong = || A::Error::custom("found a merge of other than two tokens");
                let a = seq.next_element()?.ok_or_else(wrong)?;
                let b = seq.next_element()?.ok_or_else(wrong)?;
                match seq.next_element::<String>()? {
                    None => Ok(Merge(a, b)),
                    Some(_) => Err(wrong()),
                }
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

/// Ids that the file's post-processor puts around a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Around {
    pub(super) before: Vec<u32>,
    pub(super) after: Vec<u32>,
}

fn malformed(problem: impl Into<String>) -> TextError {
    TextError::malformed(FILE, problem)
}

impl TokenizerFile {
    /// Reads and checks a `tokenizer.json`.
    pub(super) fn read(bytes: &[u8]) -> Result<TokenizerFile, TextError> {
        TextError::check_size(FILE, bytes.len(), MAX_FILE)?;
        let file: TokenizerFile = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        file.check_model()?;
        file.check_added()?;
        check_normalizer(&file.normalizer, 0)?;
        if !check_pre_tokenizer(&file.pre_tokenizer, 0)? {
            return Err(malformed("found no ByteLevel pre-tokenizer, expected byte-level BPE"));
        }
        check_decoder(&file.decoder)?;
        Ok(file)
    }

    fn check_model(&self) -> Result<(), TextError> {
        let model = &self.model;
        if let Some(kind) = model.kind.as_deref().filter(|&kind| kind != "BPE") {
            return Err(malformed(format!("found a model of type {kind:?}, expected \"BPE\"")));
        }
        if model.dropout.is_some_and(|p| p != 0.0) {
            return Err(malformed("found a BPE dropout, expected none"));
        }
        if model.byte_fallback {
            return Err(malformed("found byte_fallback, expected a byte-level vocabulary"));
        }
        for (name, affix) in [
            ("continuing_subword_prefix", &model.continuing_subword_prefix),
            ("end_of_word_suffix", &model.end_of_word_suffix),
        ] {
            if affix.as_deref().is_some_and(|text| !text.is_empty()) {
                return Err(malformed(format!("found a {name}, expected none")));
            }
        }
        let vocab = &model.vocab.0;
        if vocab.is_empty() || vocab.len() > MAX_VOCAB {
            return Err(malformed(format!(
                "found a vocabulary of {} tokens, expected 1 to {MAX_VOCAB}",
                vocab.len()
            )));
        }
        let mut tokens = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for (token, id) in vocab {
            self.check_id(token, *id)?;
            if !tokens.insert(token.as_str()) {
                return Err(malformed(format!("token {token:?} is in the vocabulary twice")));
            }
            if !ids.insert(*id) {
                return Err(malformed(format!("id {id} has two tokens in the vocabulary")));
            }
        }
        if let Some(unk) = &model.unk_token
            && !tokens.contains(unk.as_str())
        {
            return Err(malformed(format!("unk_token {unk:?} is not in the vocabulary")));
        }
        let mut joined = String::new();
        for Merge(a, b) in &model.merges {
            joined.clear();
            joined.push_str(a);
            joined.push_str(b);
            for part in [a, b, &joined] {
                if !tokens.contains(part.as_str()) {
                    return Err(malformed(format!(
                        "merge of {a:?} and {b:?}: {part:?} is not in the vocabulary"
                    )));
                }
            }
        }
        Ok(())
    }

    fn check_added(&self) -> Result<(), TextError> {
        let mut contents = BTreeSet::new();
        for token in &self.added_tokens {
            self.check_id(&token.content, token.id)?;
            if token.content.is_empty() {
                return Err(malformed(format!("added token {} is empty", token.id)));
            }
            if !contents.insert(token.content.as_str()) {
                return Err(malformed(format!("token {:?} is added twice", token.content)));
            }
        }
        Ok(())
    }

    /// Ids index a table, so they must not be much larger than the number of tokens.
    fn check_id(&self, token: &str, id: u32) -> Result<(), TextError> {
        let tokens = self.model.vocab.0.len() + self.added_tokens.len();
        let limit = tokens.saturating_mul(2).saturating_add(1024);
        if usize::try_from(id).is_ok_and(|id| id < limit) {
            return Ok(());
        }
        Err(malformed(format!("token {token:?} has id {id}, expected less than {limit} for {tokens} tokens")))
    }

    /// The ids around a single text according to the post-processor.
    pub(super) fn around(&self) -> Result<Around, TextError> {
        let mut around = Around::default();
        collect_around(&self.post_processor, &mut around, 0)?;
        Ok(around)
    }
}

/// The `type` of a component, `None` for `null`.
fn kind_of<'j>(what: &str, json: &'j Json) -> Result<Option<&'j str>, TextError> {
    if json.is_null() {
        return Ok(None);
    }
    match json.get("type").and_then(Json::as_str) {
        Some(kind) => Ok(Some(kind)),
        None => Err(malformed(format!("found a {what} without a type"))),
    }
}

fn members<'j>(what: &str, json: &'j Json, key: &str, depth: usize) -> Result<&'j [Json], TextError> {
    if depth >= MAX_SEQUENCE {
        return Err(malformed(format!("found more than {MAX_SEQUENCE} nested {what} sequences")));
    }
    match json.get(key).and_then(Json::as_array) {
        Some(list) => Ok(list),
        None => Err(malformed(format!("found a {what} sequence without {key}"))),
    }
}

fn check_normalizer(json: &Json, depth: usize) -> Result<(), TextError> {
    match kind_of("normalizer", json)? {
        None | Some("NFC" | "NFD" | "NFKC" | "NFKD") => Ok(()),
        Some("Sequence") => members("normalizer", json, "normalizers", depth)?
            .iter()
            .try_for_each(|member| check_normalizer(member, depth + 1)),
        Some(kind) => Err(malformed(format!(
            "found normalizer {kind:?}, expected none, NFC, NFD, NFKC, NFKD or a Sequence of them"
        ))),
    }
}

/// Whether there is a `ByteLevel` in it.
fn check_pre_tokenizer(json: &Json, depth: usize) -> Result<bool, TextError> {
    match kind_of("pre-tokenizer", json)? {
        None => Ok(false),
        Some("ByteLevel") => Ok(true),
        Some("Digits") => Ok(false),
        Some("Split") => {
            if let Some(pattern) = json.pointer("/pattern/Regex").and_then(Json::as_str) {
                check_pattern(pattern)?;
            }
            Ok(false)
        }
        Some("Sequence") => {
            let mut byte_level = false;
            for member in members("pre-tokenizer", json, "pretokenizers", depth)? {
                byte_level |= check_pre_tokenizer(member, depth + 1)?;
            }
            Ok(byte_level)
        }
        Some(kind) => Err(malformed(format!(
            "found pre-tokenizer {kind:?}, expected ByteLevel, Split, Digits or a Sequence of them"
        ))),
    }
}

fn check_pattern(pattern: &str) -> Result<(), TextError> {
    let groups = pattern.bytes().filter(|&b| b == b'(' || b == b'[').count();
    if pattern.len() > MAX_PATTERN || groups > MAX_GROUPS {
        return Err(malformed(format!(
            "found a split pattern of {} bytes with {groups} groups, expected at most {MAX_PATTERN} \
             and {MAX_GROUPS}",
            pattern.len()
        )));
    }
    Ok(())
}

fn check_decoder(json: &Json) -> Result<(), TextError> {
    match kind_of("decoder", json)? {
        Some("ByteLevel") => Ok(()),
        Some("Sequence")
            if json.get("decoders").and_then(Json::as_array).is_some_and(|decoders| {
                decoders.len() == 1 && decoders.iter().all(|d| check_decoder(d).is_ok())
            }) =>
        {
            Ok(())
        }
        kind => Err(malformed(format!(
            "found decoder {}, expected ByteLevel",
            kind.map_or("null".to_owned(), |kind| format!("{kind:?}"))
        ))),
    }
}

fn collect_around(json: &Json, around: &mut Around, depth: usize) -> Result<(), TextError> {
    match kind_of("post-processor", json)? {
        None | Some("ByteLevel") => Ok(()),
        Some("Sequence") => members("post-processor", json, "processors", depth)?
            .iter()
            .try_for_each(|member| collect_around(member, around, depth + 1)),
        Some("TemplateProcessing") => {
            let pieces = members("post-processor", json, "single", 0)?;
            let (mut before, mut after, mut seen) = (Vec::new(), Vec::new(), false);
            for piece in pieces {
                if piece.pointer("/Sequence/id").and_then(Json::as_str) == Some("A") && !seen {
                    seen = true;
                } else if let Some(name) = piece.pointer("/SpecialToken/id").and_then(Json::as_str) {
                    let ids = json
                        .get("special_tokens")
                        .and_then(|map| map.get(name))
                        .and_then(|entry| entry.get("ids"))
                        .and_then(|ids| Vec::<u32>::deserialize(ids).ok())
                        .ok_or_else(|| {
                            malformed(format!("special token {name:?} of the template has no ids"))
                        })?;
                    if seen { &mut after } else { &mut before }.extend(ids);
                } else {
                    return Err(malformed(format!(
                        "found {piece} in the single template, expected special tokens around A"
                    )));
                }
            }
            if !seen {
                return Err(malformed("the single template leaves the text out"));
            }
            // Processors in a sequence wrap what the ones before them made.
            before.append(&mut around.before);
            around.before = before;
            around.after.append(&mut after);
            Ok(())
        }
        Some(kind) => Err(malformed(format!(
            "found post-processor {kind:?}, expected ByteLevel, TemplateProcessing or a Sequence of \
             them"
        ))),
    }
}
