//! The manifest: what a bundle was made from and for. Everything in it follows from the source and the flags.

use serde::{Deserialize, Serialize};

use super::error::BundleError;
use super::header::VERSION;
use super::kind::Kind;
use super::text;

/// Most bytes of a string in the manifest.
const MAX_STRING: usize = 256;

/// What a bundle was made from and for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the bundle format, equal to the header's.
    pub format: u32,
    /// Version of `lfmc` that wrote the bundle.
    pub lfmc: String,
    /// Name of the model, such as `LFM2-8B-A1B`.
    pub model: String,
    /// Architecture as the checkpoint names it, such as `lfm2_moe`.
    pub arch: String,
    /// Where the weights come from.
    pub source: Source,
    /// BLAKE3, in hex, of the source's config and table of tensors (names, types, shapes).
    pub fingerprint: String,
    /// Weight recipe, such as `q4_0`.
    pub recipe: String,
    /// Number of weights, shared ones counted once.
    pub parameters: Parameters,
    /// Most positions that the states have room for.
    pub context: u32,
    /// Most tokens of one call.
    pub chunk: u32,
    /// Storage of the KV cache.
    pub kv: KvType,
}

/// Where the weights come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Source {
    /// A Hugging Face folder.
    Hf,
    /// A GGUF file.
    Gguf,
    /// Seeded random numbers in the shapes of a config.
    Random {
        /// The seed.
        seed: u64,
    },
}

impl Source {
    /// The kind of source, as shown to people and in JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hf => "hf",
            Self::Gguf => "gguf",
            Self::Random { seed: _ } => "random",
        }
    }
}

/// Number of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// All of them.
    pub total: u64,
    /// Those that one token reads.
    pub active: u64,
}

/// Storage of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvType {
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

impl KvType {
    /// Lower-case name, as on the command line and in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        }
    }
}

impl Manifest {
    /// The text of the section: one field a line.
    pub fn to_ron(&self) -> String {
        text::print(self, 1)
    }

    /// Parses and checks the text of a section that starts at `byte` of the file.
    pub fn parse(text: &str, byte: u64) -> Result<Self, BundleError> {
        let manifest: Self = text::parse(Kind::Manifest, byte, text)?;
        manifest.check(byte)?;
        Ok(manifest)
    }

    fn check(&self, byte: u64) -> Result<(), BundleError> {
        let field = |field: &str, found: String, expected| {
            let section = Kind::Manifest;
            Err(BundleError::Field { section, byte, field: field.to_owned(), found, expected })
        };
        if self.format != VERSION {
            return field("format", self.format.to_string(), "the version in the header");
        }
        let strings =
            [("lfmc", &self.lfmc), ("model", &self.model), ("arch", &self.arch), ("recipe", &self.recipe)];
        for (name, value) in strings {
            // Names are printed to terminals, which act on control characters.
            if value.is_empty() || value.len() > MAX_STRING || value.chars().any(char::is_control) {
                return field(name, quoted(value), "1 to 256 bytes without control characters");
            }
        }
        if !is_hex_hash(&self.fingerprint) {
            return field("fingerprint", quoted(&self.fingerprint), "64 lower-case hex digits");
        }
        if self.parameters.active > self.parameters.total {
            let active = self.parameters.active.to_string();
            return field("parameters.active", active, "at most parameters.total");
        }
        if self.chunk == 0 || self.chunk > self.context {
            return field("chunk", self.chunk.to_string(), "1 to context");
        }
        Ok(())
    }
}

/// Whether `text` is a BLAKE3 hash as this crate prints it.
pub(super) fn is_hex_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// `text` in quotes, safe to print.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text::printable(text))
}

#[cfg(test)]
mod tests {
    use super::super::tests::manifest;
    use super::*;

    #[test]
    fn text_is_canonical() {
        insta::assert_snapshot!(manifest().to_ron(), @r#"
        (
            format: 1,
            lfmc: "0.1.0",
            model: "tiny-moe",
            arch: "lfm2_moe",
            source: Random(seed: 7),
            fingerprint: "04fe53f81b6e5f7c8423b7e15c68f4d62636d59d53195c236236035c7f0df412",
            recipe: "q4_0",
            parameters: (total: 1000, active: 400),
            context: 256,
            chunk: 64,
            kv: F16,
        )
        "#);
    }

    #[test]
    fn round_trip() {
        let mut other = manifest();
        other.source = Source::Hf;
        other.kv = KvType::F32;
        let mut gguf = manifest();
        gguf.source = Source::Gguf;
        for manifest in [manifest(), other, gguf] {
            let text = manifest.to_ron();
            assert_eq!(Manifest::parse(&text, 0).unwrap(), manifest);
            assert_eq!(Manifest::parse(&text, 0).unwrap().to_ron(), text);
        }
    }

    #[test]
    fn unknown_field_is_refused_at_its_line() {
        let text = manifest().to_ron().replace("    lfmc:", "    time: 3,\n    lfmc:");
        let error = Manifest::parse(&text, 4096).unwrap_err().to_string();
        insta::assert_snapshot!(error, @"section `manifest`, byte 4096, line 3, column 5: Unexpected field named `time` in `Manifest`, expected one of `format`, `lfmc`, `model`, `arch`, `source`, `fingerprint`, `recipe`, `parameters`, `context`, `chunk`, or `kv` instead");
    }

    #[test]
    fn every_rule_has_its_error() {
        type Break = fn(&mut Manifest);
        let broken: [(&str, Break); 8] = [
            ("format", |m| m.format = 2),
            ("lfmc", |m| m.lfmc.clear()),
            ("model", |m| m.model = "\x1b[2Jhello".to_owned()),
            ("arch", |m| m.arch = "a".repeat(257)),
            ("fingerprint", |m| m.fingerprint = "ABC".to_owned()),
            ("parameters.active", |m| m.parameters.active = m.parameters.total + 1),
            ("chunk", |m| m.chunk = 0),
            ("chunk", |m| m.chunk = m.context + 1),
        ];
        for (name, break_it) in broken {
            let mut manifest = manifest();
            break_it(&mut manifest);
            match Manifest::parse(&manifest.to_ron(), 64) {
                Err(error @ BundleError::Field { .. }) => {
                    let message = error.to_string();
                    assert!(message.contains(&format!("field `{name}`")), "{message}");
                    assert!(!message.contains('\x1b'), "{message:?}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}
