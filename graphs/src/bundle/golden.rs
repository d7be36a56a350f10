//! Golden vectors: what a bundle must answer, bit for bit, on every machine.

use blake3::Hasher;
use serde::{Deserialize, Serialize};

use super::error::BundleError;
use super::kind::Kind;
use super::manifest::{is_hex_hash, quoted};
use super::text;

/// The golden vectors of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Independent runs, each from an empty state.
    pub vectors: Vec<GoldenVector>,
}

/// One greedy run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenVector {
    /// Token ids of the prompt, at least one.
    pub prompt: Vec<u32>,
    /// Token ids that follow greedily, at least one; ties go to the lower id.
    pub greedy: Vec<u32>,
    /// [`LogitsDigest`] of the logits that each of `greedy` was chosen from, in order.
    pub digest: String,
}

impl Golden {
    /// The text of the section: one vector a line.
    pub fn to_ron(&self) -> String {
        text::print(self, 2)
    }

    /// Parses and checks the text of a section that starts at `byte` of the file.
    pub fn parse(text: &str, byte: u64) -> Result<Self, BundleError> {
        let golden: Self = text::parse(Kind::Golden, byte, text)?;
        golden.check(byte)?;
        Ok(golden)
    }

    fn check(&self, byte: u64) -> Result<(), BundleError> {
        let section = Kind::Golden;
        let empty = |field: String| {
            Err(BundleError::Field {
                section,
                byte,
                field,
                found: "empty".to_owned(),
                expected: "at least one",
            })
        };
        if self.vectors.is_empty() {
            return empty("vectors".to_owned());
        }
        for (i, vector) in self.vectors.iter().enumerate() {
            if vector.prompt.is_empty() {
                return empty(format!("vectors[{i}].prompt"));
            }
            if vector.greedy.is_empty() {
                return empty(format!("vectors[{i}].greedy"));
            }
            if !is_hex_hash(&vector.digest) {
                let field = format!("vectors[{i}].digest");
                let found = quoted(&vector.digest);
                return Err(BundleError::Field {
                    section,
                    byte,
                    field,
                    found,
                    expected: "64 lower-case hex digits",
                });
            }
        }
        Ok(())
    }
}

/// BLAKE3 of rows of logits, each f32 as 4 little-endian bytes, in hex.
#[derive(Clone, Debug, Default)]
pub struct LogitsDigest {
    hasher: Hasher,
}

impl LogitsDigest {
    /// The digest of no logits.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds logits, `[vocab]` or `[positions, vocab]`.
    pub fn update(&mut self, logits: &[f32]) {
        let mut bytes = [0_u8; 4096];
        for part in logits.chunks(bytes.len() / 4) {
            let (out, _) = bytes.as_chunks_mut::<4>();
            for (out, logit) in out.iter_mut().zip(part) {
                *out = logit.to_le_bytes();
            }
            self.hasher.update(out.as_flattened().get(..part.len() * 4).unwrap_or_default());
        }
    }

    /// The digest: 64 lower-case hex digits.
    pub fn finish(&self) -> String {
        self.hasher.finalize().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::golden;
    use super::*;

    #[test]
    fn text_is_canonical() {
        insta::assert_snapshot!(golden().to_ron(), @r#"
        (
            vectors: [
                (prompt: [1, 17, 4], greedy: [5, 6], digest: "05106e9687a256add93d30ad269c6a33b1549d4b5459b26af84358f91a6802ea"),
                (prompt: [1], greedy: [2], digest: "05106e9687a256add93d30ad269c6a33b1549d4b5459b26af84358f91a6802ea"),
            ],
        )
        "#);
        assert_eq!(Golden::parse(&golden().to_ron(), 0).unwrap(), golden());
    }

    #[test]
    fn every_rule_has_its_error() {
        type Break = fn(&mut Golden);
        let broken: [(&str, Break); 4] = [
            ("vectors", |g| g.vectors.clear()),
            ("vectors[1].prompt", |g| g.vectors[1].prompt.clear()),
            ("vectors[0].greedy", |g| g.vectors[0].greedy.clear()),
            ("vectors[1].digest", |g| g.vectors[1].digest.push('0')),
        ];
        for (name, break_it) in broken {
            let mut golden = golden();
            break_it(&mut golden);
            let message = Golden::parse(&golden.to_ron(), 64).unwrap_err().to_string();
            assert!(message.contains(&format!("field `{name}`")), "{message}");
        }
        let message = Golden::parse("(vectors: [(prompt: [-1])])", 64).unwrap_err().to_string();
        assert!(message.starts_with("section `golden`, byte 64, line 1, column"), "{message}");
    }

    #[test]
    fn digest_is_of_the_little_endian_bytes_however_they_are_split() {
        let logits: Vec<f32> = (0..5000_u16).map(|i| f32::from(i) * 0.37 - 900.0).collect();
        let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        for split in [0, 1, 1023, 1024, 1025, 5000] {
            let (a, b) = logits.split_at(split);
            let mut digest = LogitsDigest::new();
            digest.update(a);
            digest.update(b);
            assert_eq!(digest.finish(), blake3::hash(&bytes).to_string(), "split at {split}");
        }
    }
}
