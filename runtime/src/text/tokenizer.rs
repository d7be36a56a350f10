//! Text to tokens and back: byte-level BPE as `tokenizer.json` describes it.
//!
//! Splitting and merging is the `tokenizers` crate's; the way back is a table of each token's
//! bytes, so that decoding needs no strings and streams.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::models::bpe::{BPE, BpeTrainer, Vocab};
use tokenizers::{
    AddedToken, Decoder, Encoding, Model, NormalizerWrapper, PostProcessor, PreTokenizerWrapper, Token,
    TokenizerImpl,
};

use super::TextError;
use super::byte_level::append_bytes;
use super::tokenizer_file::{Around, FILE, TokenizerFile};

/// A byte-level BPE tokenizer.
pub struct Tokenizer {
    /// Recognises special tokens in the text.
    parsing: Pipeline,
    /// Takes special tokens in the text as plain text; shares the model.
    literal: Pipeline,
    /// Ids that the file's post-processor puts around a text.
    around: Around,
    /// The bytes of all tokens, one after another.
    bytes: Vec<u8>,
    /// Token `id` is `bytes[ends[id]..ends[id + 1]]`.
    ends: Vec<u32>,
    /// Whether token `id` is special.
    special: Vec<bool>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

type Pipeline = TokenizerImpl<SharedBpe, NormalizerWrapper, PreTokenizerWrapper, Never, Never>;

impl Tokenizer {
    /// Reads a `tokenizer.json`.
    pub fn from_bytes(json: &[u8]) -> Result<Tokenizer, TextError> {
        let file = TokenizerFile::read(json)?;
        let around = file.around()?;
        let part = |e: serde_json::Error| TextError::malformed(FILE, e.to_string());
        let normalizer: Option<NormalizerWrapper> = serde_json::from_value(file.normalizer).map_err(part)?;
        let pre_tokenizer: PreTokenizerWrapper = serde_json::from_value(file.pre_tokenizer).map_err(part)?;

        let mut largest = 0;
        let vocab: Vocab =
            file.model.vocab.0.into_iter().inspect(|(_, id)| largest = largest.max(*id)).collect();
        let merges = file.model.merges.into_iter().map(|merge| (merge.0, merge.1)).collect();
        let mut builder = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .fuse_unk(file.model.fuse_unk)
            .ignore_merges(file.model.ignore_merges);
        if let Some(unk) = file.model.unk_token {
            builder = builder.unk_token(unk);
        }
        let crate_error =
            |e: Box<dyn std::error::Error + Send + Sync>| TextError::malformed(FILE, e.to_string());
        let model = SharedBpe(Arc::new(builder.build().map_err(crate_error)?));

        let pipeline = |literal: bool| -> Result<Pipeline, TextError> {
            let mut pipeline = Pipeline::new(model.clone());
            pipeline.with_normalizer(normalizer.clone()).map_err(crate_error)?;
            pipeline.with_pre_tokenizer(Some(pre_tokenizer.clone()));
            let added = file.added_tokens.iter().map(|token| {
                AddedToken::from(token.content.clone(), token.special)
                    .single_word(token.single_word)
                    .lstrip(token.lstrip)
                    .rstrip(token.rstrip)
                    .normalized(token.normalized)
            });
            pipeline.add_tokens(added).map_err(crate_error)?;
            pipeline.set_encode_special_tokens(literal);
            Ok(pipeline)
        };
        let (parsing, literal) = (pipeline(false)?, pipeline(true)?);

        for token in &file.added_tokens {
            let id = parsing.token_to_id(&token.content);
            if id != Some(token.id) {
                return Err(TextError::malformed(
                    FILE,
                    format!(
                        "added token {:?} gets id {id:?} from the vocabulary, expected {}",
                        token.content, token.id
                    ),
                ));
            }
            largest = largest.max(token.id);
        }
        for id in around.before.iter().chain(&around.after) {
            if parsing.id_to_token(*id).is_none() {
                return Err(TextError::malformed(
                    FILE,
                    format!("the post-processor adds id {id}, which has no token"),
                ));
            }
        }

        let (mut bytes, mut ends, mut special) = (Vec::new(), vec![0], Vec::new());
        for id in 0..=largest {
            let token = parsing.id_to_token(id).unwrap_or_default();
            append_bytes(&token, &mut bytes);
            ends.push(
                u32::try_from(bytes.len())
                    .map_err(|_| TextError::malformed(FILE, "the tokens have more than 4 GiB of text"))?,
            );
            special.push(parsing.get_added_vocabulary().is_special_token(&token));
        }
        Ok(Tokenizer { parsing, literal, around, bytes, ends, special })
    }

    /// The ids of a text.
    ///
    /// `add_bos`: with what the file's post-processor adds around a text (BOS, for LFM2).
    /// `parse_special`: special tokens in the text become their ids; else they are plain text.
    pub fn encode(&self, text: &str, add_bos: bool, parse_special: bool) -> Result<Vec<u32>, TextError> {
        let pipeline = if parse_special { &self.parsing } else { &self.literal };
        let encoding = pipeline
            .encode_fast(text, false)
            .map_err(|e| TextError::Encode { bytes: text.len(), problem: e.to_string() })?;
        let ids = encoding.get_ids();
        if !add_bos {
            return Ok(ids.to_vec());
        }
        Ok([&self.around.before, ids, &self.around.after].concat())
    }

    /// The text of the ids; ids without a token add nothing, and bytes that are no UTF-8 become
    /// U+FFFD. Special tokens are left out when `skip_special`.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut bytes = Vec::new();
        for &id in ids {
            if !(skip_special && self.is_special(id)) {
                bytes.extend_from_slice(self.token_bytes(id));
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The token of an id as the vocabulary spells it (`Ġ` for a space).
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.parsing.id_to_token(id)
    }

    /// The id of a token as the vocabulary spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.parsing.token_to_id(token)
    }

    /// The bytes that a token stands for, empty for an id without a token.
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        let bounds = usize::try_from(id)
            .ok()
            .and_then(|id| Some((*self.ends.get(id)?, *self.ends.get(id.checked_add(1)?)?)));
        match bounds {
            Some((start, end)) => self.bytes.get(start as usize..end as usize).unwrap_or_default(),
            None => &[],
        }
    }

    /// Whether the id is a special token.
    pub fn is_special(&self, id: u32) -> bool {
        usize::try_from(id).ok().and_then(|id| self.special.get(id)).copied().unwrap_or(false)
    }

    /// The special tokens, in ascending id.
    pub fn special_ids(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.special).filter(|&(_, &special)| special).map(|(id, _)| id)
    }

    /// One more than the largest id that has a token; a model's head may be larger.
    pub fn vocab_size(&self) -> usize {
        self.special.len()
    }

    /// Replaces what goes around a text: one BOS before, one EOS after.
    pub(super) fn set_around(&mut self, bos: Option<u32>, eos: Option<u32>) {
        self.around = Around { before: bos.into_iter().collect(), after: eos.into_iter().collect() };
    }
}

/// One BPE model for both pipelines.
#[derive(Clone)]
struct SharedBpe(Arc<BPE>);

impl Model for SharedBpe {
    type Trainer = BpeTrainer;

    fn tokenize(&self, sequence: &str) -> tokenizers::Result<Vec<Token>> {
        self.0.tokenize(sequence)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.0.token_to_id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.0.id_to_token(id)
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        self.0.get_vocab()
    }

    fn get_vocab_size(&self) -> usize {
        self.0.get_vocab_size()
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> tokenizers::Result<Vec<PathBuf>> {
        self.0.save(folder, prefix)
    }

    fn get_trainer(&self) -> BpeTrainer {
        BpeTrainer::default()
    }
}

/// The crate's post-processors and decoders, which are not used.
#[derive(Clone, Copy)]
enum Never {}

impl PostProcessor for Never {
    fn added_tokens(&self, _is_pair: bool) -> usize {
        match *self {}
    }

    fn process_encodings(
        &self,
        _encodings: Vec<Encoding>,
        _add_special_tokens: bool,
    ) -> tokenizers::Result<Vec<Encoding>> {
        match *self {}
    }
}

impl Decoder for Never {
    fn decode_chain(&self, _tokens: Vec<String>) -> tokenizers::Result<Vec<String>> {
        match *self {}
    }
}
