//! Perplexity of a text, and how far one bundle is from another on it.
//!
//! A text is cut without overlap into pieces of `window - 1` ids. Each piece runs by itself from position 0 behind
//! the id that begins a text, and every token after that is scored.

use serde::Serialize;

use crate::error::{Error, Result};
use crate::session::Session;

/// Most bytes of logits that are kept to compare two models.
const KEPT: usize = 64 << 20;

/// What a text costs a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    /// Scored tokens.
    pub tokens: usize,
    /// Mean negative log likelihood of a token, in nats.
    pub nll: f64,
    /// `exp(nll)`.
    pub perplexity: f64,
    /// The comparison with a reference model.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Comparison>,
}

/// How a model differs from a reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Perplexity of the reference; `reference_perplexity` in JSON.
    #[serde(rename = "reference_perplexity")]
    pub perplexity: f64,
    /// Mean over tokens of KL(reference || model), in nats.
    pub kl: f64,
    /// Share of tokens for which both hold the same one for the most likely.
    pub top1: f64,
}

/// Sums over tokens.
#[derive(Default)]
struct Sums {
    tokens: usize,
    nll: f64,
    reference_nll: f64,
    kl: f64,
    same: usize,
}

/// A row of logits with what turns them into log probabilities.
struct Row<'a> {
    logits: &'a [f32],
    /// ln of the sum of e^logit.
    log_sum: f64,
    best: usize,
}

impl<'a> Row<'a> {
    fn new(logits: &'a [f32]) -> Row<'a> {
        let mut best = 0;
        for (id, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = id;
            }
        }
        let most = f64::from(logits[best]);
        let sum: f64 = logits.iter().map(|logit| (f64::from(*logit) - most).exp()).sum();
        Row { logits, log_sum: most + sum.ln(), best }
    }

    fn log_p(&self, id: usize) -> f64 {
        self.logits.get(id).map_or(f64::NEG_INFINITY, |logit| f64::from(*logit) - self.log_sum)
    }

    /// KL(self || other).
    fn kl(&self, other: &Row<'_>) -> f64 {
        let terms = (0..self.logits.len()).map(|id| {
            let log_p = self.log_p(id);
            let p = log_p.exp();
            if p > 0.0 { p * (log_p - other.log_p(id)) } else { 0.0 }
        });
        terms.sum()
    }
}

/// Scores the ids of a text. `bos` begins every piece, `window` is the length of a piece with it. `progress` gets
/// tokens scored and tokens in all.
///
/// # Errors
/// When there are no ids, the window is outside of 2 to the context, or the models differ in their vocabulary.
pub fn score(
    session: &mut Session,
    mut reference: Option<&mut Session>,
    bos: u32,
    ids: &[u32],
    window: usize,
    mut progress: impl FnMut(usize, usize),
) -> Result<Score> {
    let context = reference.as_ref().map_or(session.context(), |r| r.context().min(session.context()));
    if !(2..=context).contains(&window) {
        return Err(Error::Argument(format!("window is {window}, expected 2 to {context}")));
    }
    if ids.is_empty() {
        return Err(Error::Argument("the text has no tokens, expected at least one".into()));
    }
    let vocab = session.model().vocab();
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocab) {
        return Err(Error::Token { id: *id, vocab });
    }
    if let Some(other) = reference.as_ref().map(|r| r.model().vocab()).filter(|other| *other != vocab) {
        return Err(Error::Argument(format!(
            "the reference has a vocabulary of {other} tokens, expected {vocab} as in the bundle"
        )));
    }
    let group = (KEPT / (4 * vocab)).clamp(1, window);
    let mut kept = vec![0.0f32; if reference.is_some() { group * vocab } else { 0 }];
    let mut sums = Sums::default();
    let mut input = Vec::with_capacity(window);
    for piece in ids.chunks(window - 1) {
        session.clear();
        if let Some(reference) = &mut reference {
            reference.clear();
        }
        // The last token is only scored.
        input.clear();
        input.push(bos);
        input.extend_from_slice(&piece[..piece.len() - 1]);
        for (input, targets) in input.chunks(group).zip(piece.chunks(group)) {
            if let Some(reference) = &mut reference {
                reference.prefill_all(input, |first, rows| {
                    kept[first * vocab..][..rows.len()].copy_from_slice(rows);
                    Ok(())
                })?;
            }
            session.prefill_all(input, |first, rows| {
                for (at, logits) in rows.chunks_exact(vocab).enumerate() {
                    let at = first + at;
                    let expected = kept.get(at * vocab..(at + 1) * vocab);
                    sums.add(logits, expected, targets[at] as usize);
                }
                Ok(())
            })?;
            progress(sums.tokens, ids.len());
        }
    }
    Ok(sums.score(reference.is_some()))
}

impl Sums {
    fn add(&mut self, logits: &[f32], reference: Option<&[f32]>, target: usize) {
        let row = Row::new(logits);
        self.tokens += 1;
        self.nll -= row.log_p(target);
        if let Some(reference) = reference {
            let reference = Row::new(reference);
            self.reference_nll -= reference.log_p(target);
            self.kl += reference.kl(&row);
            self.same += usize::from(reference.best == row.best);
        }
    }

    fn score(&self, compared: bool) -> Score {
        let n = self.tokens as f64;
        let nll = self.nll / n;
        let reference = compared.then(|| Comparison {
            perplexity: (self.reference_nll / n).exp(),
            kl: self.kl / n,
            top1: self.same as f64 / n,
        });
        Score { tokens: self.tokens, nll, perplexity: nll.exp(), reference }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_definition() {
        let p = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln);
        let q = [0.25f32, 0.25, 0.25, 0.25].map(|x| x.ln() + 3.0);
        let mut sums = Sums::default();
        sums.add(&q, Some(&p), 0);
        sums.add(&q, Some(&p), 2);
        let score = sums.score(true);
        assert_eq!(score.tokens, 2);
        assert!((score.perplexity - 4.0).abs() < 1e-6);
        let reference = score.reference.unwrap();
        assert!((reference.perplexity - 4.0).abs() < 1e-6);
        let kl: f64 = [0.5f64, 0.25, 0.125, 0.125].iter().map(|p| p * (p / 0.25).ln()).sum();
        assert!((reference.kl - kl).abs() < 1e-6);
        assert_eq!(reference.top1, 1.0);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let mut sums = Sums::default();
        sums.add(&[1e30, -1e30, f32::NEG_INFINITY], Some(&[1e30, 0.0, 0.0]), 0);
        let score = sums.score(true);
        assert_eq!((score.perplexity, score.reference.map(|r| r.kl)), (1.0, Some(0.0)));
    }
}
