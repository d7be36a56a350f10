//! RON of the bundle's own records: printed the same way on every host, parsed with the place of an error.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::BundleError;
use super::kind::Kind;

/// Prints a record with `depth` levels of one item a line, and a final newline.
pub(super) fn print<T: Serialize>(value: &T, depth: usize) -> String {
    let config = ron::ser::PrettyConfig::new()
        .depth_limit(depth)
        .new_line("\n")
        .indentor("    ")
        .separator(" ")
        .struct_names(false);
    let mut text = ron::ser::to_string_pretty(value, config)
        .expect("records of strings, integers and lists of them always print");
    text.push('\n');
    text
}

/// Parses a record out of section `section`, which starts at `byte` of the file.
pub(super) fn parse<T: DeserializeOwned>(section: Kind, byte: u64, text: &str) -> Result<T, BundleError> {
    ron::from_str(text).map_err(|error| BundleError::Syntax {
        section,
        byte,
        line: error.span.start.line,
        column: error.span.start.col,
        message: printable(&error.code.to_string()),
    })
}

/// `text` with control characters escaped, cut to a length that a terminal can take.
pub(super) fn printable(text: &str) -> String {
    const MOST: usize = 200;
    let mut out: String = text.chars().take(MOST).flat_map(escape_control).collect();
    if text.chars().nth(MOST).is_some() {
        out.push_str("...");
    }
    out
}

fn escape_control(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}
