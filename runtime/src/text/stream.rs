//! Tokens to text, one token at a time, never half a character.

use super::Tokenizer;

/// Turns token ids into text as they arrive.
///
/// A character may be split over several tokens; [`push`](Detokenizer::push) gives back the text
/// that is complete, and the concatenation of all pieces is [`Tokenizer::decode`] of all ids.
/// Each token costs the length of its own bytes, and nothing is allocated once the two small
/// buffers have grown.
#[derive(Debug, Clone, Default)]
pub struct Detokenizer {
    skip_special: bool,
    /// Bytes of a character whose end has not arrived: at most 3 between calls.
    pending: Vec<u8>,
    /// The piece that was given back last.
    piece: String,
}

impl Detokenizer {
    /// A stream that starts at a character boundary. Special tokens are left out when
    /// `skip_special`.
    pub fn new(skip_special: bool) -> Detokenizer {
        Detokenizer { skip_special, pending: Vec::with_capacity(64), piece: String::with_capacity(64) }
    }

    /// Takes the next token and gives back the text that it completes, often "" inside a
    /// multi-byte character. An id without a token adds nothing.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> &str {
        self.piece.clear();
        if !(self.skip_special && tokenizer.is_special(id)) {
            self.pending.extend_from_slice(tokenizer.token_bytes(id));
            self.take_complete();
        }
        &self.piece
    }

    /// Ends the stream: an incomplete character becomes U+FFFD. The stream can be used again.
    pub fn finish(&mut self) -> &str {
        self.piece.clear();
        if !self.pending.is_empty() {
            self.piece.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
        &self.piece
    }

    /// Moves complete characters from `pending` to `piece`, with U+FFFD for each sequence that no
    /// continuation can mend: the rule of `String::from_utf8_lossy`.
    fn take_complete(&mut self) {
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(text) => {
                    self.piece.push_str(text);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    self.piece.push_str(std::str::from_utf8(valid).unwrap_or_default());
                    rest = after;
                    let Some(broken) = error.error_len() else { break };
                    self.piece.push(char::REPLACEMENT_CHARACTER);
                    rest = rest.get(broken..).unwrap_or_default();
                }
            }
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
    }
}
