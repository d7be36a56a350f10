//! Golden vectors: made by the exporter and checked on a device by the same run.

use lfm_graphs::bundle::{Golden, GoldenVector, LogitsDigest};

use crate::error::Result;
use crate::model::Model;
use crate::sample::{Sampler, Settings};
use crate::session::{Options, Session};

/// How a vector differs from what this machine computes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Another token was chosen.
    Token {
        /// Index of the vector.
        vector: usize,
        /// Index of the first token that differs.
        at: usize,
        /// The token that was computed.
        found: u32,
        /// The token in the bundle.
        expected: u32,
    },
    /// The tokens agree, but not the bits of their logits.
    Digest {
        /// Index of the vector.
        vector: usize,
        /// The digest that was computed.
        found: String,
        /// The digest in the bundle.
        expected: String,
    },
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Difference::Token { vector, at, found, expected } => {
                write!(f, "vector {vector}, token {at}: found id {found}, expected {expected}")
            }
            Difference::Digest { vector, found, expected } => {
                write!(f, "vector {vector}, logits: found digest {found}, expected {expected}")
            }
        }
    }
}

/// `n` tokens, at least one, that follow `prompt` greedily from an empty state, with the digest of the logits that
/// each was chosen from. Nothing ends it early.
///
/// # Errors
/// When the prompt is empty or has an id outside the vocabulary, or both together do not fit into the context.
pub fn vector(session: &mut Session, prompt: &[u32], n: usize) -> Result<GoldenVector> {
    session.clear();
    let mut sampler = Sampler::new(Settings::greedy(), session.model().vocab())?;
    let mut digest = LogitsDigest::new();
    let mut greedy = Vec::with_capacity(n);
    let mut logits = session.prefill(prompt)?;
    loop {
        digest.update(logits);
        let id = sampler.sample(logits, &[])?;
        greedy.push(id);
        if greedy.len() >= n {
            break;
        }
        logits = session.decode(id)?;
    }
    Ok(GoldenVector { prompt: prompt.to_vec(), greedy, digest: digest.finish() })
}

/// Makes the golden vectors of a model: `n` tokens after each prompt.
///
/// # Errors
/// As [`vector`], and when no session can be had.
pub fn run(model: &Model, options: &Options, prompts: &[Vec<u32>], n: usize) -> Result<Golden> {
    let mut session = model.session(options)?;
    let vectors = prompts.iter().map(|prompt| vector(&mut session, prompt, n)).collect::<Result<_>>()?;
    Ok(Golden { vectors })
}

/// Runs every vector again and gives all differences; none when the machine computes what the bundle says.
///
/// # Errors
/// As [`run`].
pub fn check(model: &Model, options: &Options, golden: &Golden) -> Result<Vec<Difference>> {
    let mut session = model.session(options)?;
    let mut differences = Vec::new();
    for (index, expected) in golden.vectors.iter().enumerate() {
        let found = vector(&mut session, &expected.prompt, expected.greedy.len())?;
        let mut pairs = found.greedy.iter().zip(&expected.greedy);
        if let Some(at) = pairs.position(|(found, expected)| found != expected) {
            let (found, expected) = (found.greedy[at], expected.greedy[at]);
            differences.push(Difference::Token { vector: index, at, found, expected });
        } else if found.digest != expected.digest {
            let expected = expected.digest.clone();
            differences.push(Difference::Digest { vector: index, found: found.digest, expected });
        }
    }
    Ok(differences)
}
