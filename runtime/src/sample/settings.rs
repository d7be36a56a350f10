//! What a caller can set, and its ranges.

/// How the next token is chosen.
///
/// The steps in order, each left out at its neutral value: repetition penalty, temperature, top-k,
/// top-p, min-p, then a draw in proportion to what is left. A temperature of 0 is greedy: the
/// largest penalised logit, the lower id of equal ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Logits are divided by it; 1 is neutral, 0 is greedy.
    pub temperature: f32,
    /// Only the k most likely tokens; 0 is neutral.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability; 1 is neutral.
    pub top_p: f32,
    /// Only tokens with at least this share of the most likely one's probability; 0 is neutral.
    pub min_p: f32,
    /// Logits of tokens in the history are divided by it when positive, else multiplied; 1 is
    /// neutral.
    pub repetition_penalty: f32,
    /// The seed of the draws.
    pub seed: u64,
}

impl Default for Settings {
    /// Plain sampling: every step neutral, seed 0.
    fn default() -> Settings {
        Settings { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 }
    }
}

impl Settings {
    /// Always the most likely token.
    pub fn greedy() -> Settings {
        Settings { temperature: 0.0, ..Settings::default() }
    }

    /// Checks every range.
    pub fn check(&self) -> Result<(), SampleError> {
        let range = |option: &'static str, value: f32, valid: bool, expected: &'static str| {
            if valid { Ok(()) } else { Err(SampleError::Range { option, value, expected }) }
        };
        let t = self.temperature;
        range("--temperature", t, t.is_finite() && t >= 0.0, "a number t >= 0")?;
        let p = self.top_p;
        range("--top-p", p, p > 0.0 && p <= 1.0, "0 < p <= 1")?;
        let p = self.min_p;
        range("--min-p", p, (0.0..=1.0).contains(&p), "0 <= p <= 1")?;
        let r = self.repetition_penalty;
        range("--repetition-penalty", r, r.is_finite() && r > 0.0, "a number r > 0")
    }
}

/// Why no token can be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// A setting is out of its range.
    #[error("{option} {value}: expected {expected}")]
    Range {
        /// The command line's name of the setting.
        option: &'static str,
        /// What was given.
        value: f32,
        /// What is accepted.
        expected: &'static str,
    },
    /// The number of logits is not the vocabulary's.
    #[error("sampling: found {found} logits, expected {expected}")]
    Length {
        /// Logits given.
        found: usize,
        /// Size of the vocabulary.
        expected: usize,
    },
    /// A logit is not a number, or infinite without being a mask.
    #[error("sampling: the logit of token {id} is {value}, expected a number")]
    NotANumber {
        /// The token.
        id: u32,
        /// Its logit.
        value: f32,
    },
    /// Every token is masked.
    #[error("sampling: every logit is -inf, expected at least one token that can follow")]
    NothingLeft,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(Settings::default().check(), Ok(()));
        assert_eq!(Settings::greedy().check(), Ok(()));
        let message = |settings: Settings| settings.check().unwrap_err().to_string();
        let neutral = Settings::default;
        assert_eq!(message(Settings { top_p: 1.5, ..neutral() }), "--top-p 1.5: expected 0 < p <= 1");
        assert_eq!(message(Settings { top_p: 0.0, ..neutral() }), "--top-p 0: expected 0 < p <= 1");
        assert_eq!(message(Settings { min_p: -0.1, ..neutral() }), "--min-p -0.1: expected 0 <= p <= 1");
        assert_eq!(
            message(Settings { temperature: f32::NAN, ..neutral() }),
            "--temperature NaN: expected a number t >= 0"
        );
        assert_eq!(
            message(Settings { repetition_penalty: 0.0, ..neutral() }),
            "--repetition-penalty 0: expected a number r > 0"
        );
    }
}
