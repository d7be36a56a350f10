//! The request: what an export was asked for beside source and target, so that it can be done again for another target.
//!
//! Only what was asked for is written; the rest followed from the device profile and the model.

use serde::{Deserialize, Serialize};

use super::error::BundleError;
use super::kind::Kind;
use super::manifest::KvType;
use super::text;
use crate::plan::{MAX_CHUNK, MAX_CONTEXT};
use crate::target::ByteSize;

/// What an export was asked for. The weight recipe is not among it: the weights are what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Positions that the model was made for: no context is larger.
    pub positions: u32,
    /// Most positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<u32>,
    /// Most tokens of a call, before it is cut to the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<u32>,
    /// Memory budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<ByteSize>,
    /// Storage of the KV cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv: Option<KvType>,
}

impl Request {
    /// The text of the section: one field a line.
    pub fn to_ron(&self) -> String {
        text::print(self, 1)
    }

    /// Parses and checks the text of a section that starts at `byte` of the file.
    pub fn parse(text: &str, byte: u64) -> Result<Self, BundleError> {
        let request: Self = text::parse(Kind::Request, byte, text)?;
        request.check(byte)?;
        Ok(request)
    }

    fn check(&self, byte: u64) -> Result<(), BundleError> {
        let field = |field: &str, found: String, expected| {
            let section = Kind::Request;
            Err(BundleError::Field { section, byte, field: field.to_owned(), found, expected })
        };
        if self.positions == 0 {
            return field("positions", "0".into(), "at least 1");
        }
        if let Some(context) = self.context.filter(|n| *n == 0 || *n > self.positions.min(MAX_CONTEXT)) {
            return field("context", context.to_string(), "1 to positions, at most 1048576");
        }
        if let Some(chunk) = self.chunk.filter(|n| *n == 0 || *n > MAX_CHUNK) {
            return field("chunk", chunk.to_string(), "1 to 1024");
        }
        if self.ram == Some(ByteSize(0)) {
            return field("ram", "0".into(), "at least 1 byte");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::request;
    use super::*;

    #[test]
    fn text_is_canonical() {
        insta::assert_snapshot!(request().to_ron(), @r#"
        (
            positions: 128000,
            context: Some(256),
            chunk: Some(64),
            ram: Some("3GiB"),
            kv: Some(F32),
        )
        "#);
        let least = Request { positions: 1, ..Request::default() };
        for request in [request(), least] {
            assert_eq!(Request::parse(&request.to_ron(), 0).unwrap(), request);
        }
        assert_eq!(least.to_ron(), "(\n    positions: 1,\n)\n");
        assert_eq!((MAX_CONTEXT, MAX_CHUNK), (1_048_576, 1024), "as the messages say");
    }

    #[test]
    fn every_rule_has_its_error() {
        type Break = fn(&mut Request);
        let broken: [(&str, Break); 6] = [
            ("positions", |r| r.positions = 0),
            ("context", |r| r.context = Some(0)),
            ("context", |r| r.context = Some(128_001)),
            ("chunk", |r| r.chunk = Some(0)),
            ("chunk", |r| r.chunk = Some(1025)),
            ("ram", |r| r.ram = Some(ByteSize(0))),
        ];
        for (name, break_it) in broken {
            let mut request = request();
            break_it(&mut request);
            let message = Request::parse(&request.to_ron(), 64).unwrap_err().to_string();
            assert!(message.contains(&format!("field `{name}`")), "{message}");
        }
        let message = Request::parse("(positions: 9, time: 3)", 64).unwrap_err().to_string();
        assert!(message.starts_with("section `request`, byte 64, line 1, column"), "{message}");
    }
}
