//! Values as Python prints them: `str`, `repr` and `json.dumps`.

use minijinja::Error;
use minijinja::value::{Value, ValueKind};

use super::BigInt;
use super::guard::{check_string, error};

/// Deepest nesting that is printed.
const MAX_DEPTH: usize = 200;

/// A float as `repr` prints it: the shortest digits that read back, with an exponent below 1e-4
/// and from 1e16.
pub(super) fn python_float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let mut scientific = format!("{value:e}");
    // Where two shortest texts are equally near, Python takes the even one, as rounding to that
    // many digits does.
    let decimals = scientific
        .split_once('e')
        .map_or(0, |(digits, _)| digits.split_once('.').map_or(0, |(_, decimals)| decimals.len()));
    let even = format!("{value:.decimals$e}");
    if even.parse() == Ok(value) {
        scientific = even;
    }
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let decimals = usize::try_from(decimals as i64 - i64::from(exponent)).unwrap_or(0).max(1);
        return format!("{value:.decimals$}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// A number in Python's spelling; `None` for other values.
fn number(value: &Value) -> Option<String> {
    if value.downcast_object_ref::<BigInt>().is_some() {
        return Some(value.to_string());
    }
    match value.kind() {
        ValueKind::Number if value.is_integer() => Some(value.to_string()),
        ValueKind::Number => f64::try_from(value.clone()).ok().map(python_float),
        _ => None,
    }
}

/// `str(value)`, with nothing for an undefined one.
pub(super) fn python_str(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(String::new()),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        _ => {
            let mut out = String::new();
            repr(value, &mut out, 0)?;
            Ok(out)
        }
    }
}

fn repr(value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(error(format!("printing a value that is nested more than {MAX_DEPTH} deep")));
    }
    if let Some(text) = number(value) {
        out.push_str(&text);
        return Ok(());
    }
    match value.kind() {
        ValueKind::String => repr_str(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.is_tuple();
            out.push(if tuple { '(' } else { '[' });
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                if count > 0 {
                    out.push_str(", ");
                }
                repr(&item?, out, depth + 1)?;
                count += 1;
                check_string(Some(out.len()))?;
            }
            out.push_str(match (tuple, count) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                if i > 0 {
                    out.push_str(", ");
                }
                repr(&key, out, depth + 1)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, out, depth + 1)?;
                check_string(Some(out.len()))?;
            }
            out.push('}');
        }
        ValueKind::Undefined => out.push_str("Undefined"),
        _ => out.push_str(&value.to_string()),
    }
    check_string(Some(out.len()))
}

/// A string as `repr` prints it, in single quotes unless it has some and no double ones.
fn repr_str(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if c == quote => out.extend(['\\', c]),
            _ if is_printable(c) => out.push(c),
            _ => match u32::from(c) {
                code @ 0..=0xff => out.push_str(&format!("\\x{code:02x}")),
                code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
                code => out.push_str(&format!("\\U{code:08x}")),
            },
        }
    }
    out.push(quote);
}

/// Whether Python prints the character itself: no control, no format character, no white space
/// but the space. Unassigned code points count as printable.
fn is_printable(c: char) -> bool {
    c == ' '
        || !(c.is_control()
            || c.is_whitespace()
            || matches!(u32::from(c),
                0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e
                | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f
                | 0xe000..=0xf8ff | 0xfeff | 0xfff0..=0xfffb | 0xfffe..=0xffff
                | 0xe0000..=0xe0fff | 0xf0000..))
}

/// The options of `json.dumps` that templates use.
#[derive(Debug, Clone)]
pub(super) struct Dumps {
    /// Non-ASCII as `\u` escapes.
    pub(super) ascii: bool,
    /// What a level is indented by; `None`: everything on one line.
    pub(super) indent: Option<String>,
    /// Between items.
    pub(super) comma: String,
    /// Between a key and its value.
    pub(super) colon: String,
    /// Keys in ascending order.
    pub(super) sort_keys: bool,
}

impl Dumps {
    /// `json.dumps(value)`.
    pub(super) fn dumps(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.value(value, &mut out, 0)?;
        Ok(out)
    }

    fn value(&self, value: &Value, out: &mut String, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(error(format!("tojson: nested more than {MAX_DEPTH} deep")));
        }
        if let Some(text) = json_number(value) {
            out.push_str(&text);
            return Ok(());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                out.push('[');
                let mut count = 0;
                for item in value.try_iter()?.checked() {
                    self.item(count, depth, out);
                    self.value(&item?, out, depth + 1)?;
                    count += 1;
                    check_string(Some(out.len()))?;
                }
                self.close(count, depth, out);
                out.push(']');
            }
            ValueKind::Map => {
                let mut keys = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
                if self.sort_keys {
                    keys.sort();
                }
                out.push('{');
                for (i, key) in keys.iter().enumerate() {
                    self.item(i, depth, out);
                    self.key(key, out)?;
                    out.push_str(&self.colon);
                    self.value(&value.get_item(key)?, out, depth + 1)?;
                    check_string(Some(out.len()))?;
                }
                self.close(keys.len(), depth, out);
                out.push('}');
            }
            kind => return Err(error(format!("tojson: a value of type {kind} is no JSON"))),
        }
        check_string(Some(out.len()))
    }

    fn key(&self, key: &Value, out: &mut String) -> Result<(), Error> {
        match (key.kind(), json_number(key)) {
            (ValueKind::String, _) => self.string(key.as_str().unwrap_or_default(), out),
            (_, Some(text)) => self.string(&text, out),
            (ValueKind::Bool, _) => out.push_str(if key.is_true() { "\"true\"" } else { "\"false\"" }),
            (ValueKind::None, _) => out.push_str("\"null\""),
            (kind, _) => return Err(error(format!("tojson: a key of type {kind} is no JSON"))),
        }
        Ok(())
    }

    fn item(&self, before: usize, depth: usize, out: &mut String) {
        if before > 0 {
            out.push_str(&self.comma);
        }
        self.new_line(depth + 1, out);
    }

    fn close(&self, items: usize, depth: usize, out: &mut String) {
        if items > 0 {
            self.new_line(depth, out);
        }
    }

    fn new_line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                '\u{7f}'.. if self.ascii => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => out.push(c),
            }
        }
        out.push('"');
    }
}

fn json_number(value: &Value) -> Option<String> {
    let text = number(value)?;
    Some(match text.as_str() {
        "nan" => "NaN".to_owned(),
        "inf" => "Infinity".to_owned(),
        "-inf" => "-Infinity".to_owned(),
        _ => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::excessive_precision, reason = "halfway cases in full")]
    fn floats_print_as_in_python() {
        for (value, expected) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (100.0, "100.0"),
            (0.1 + 0.2, "0.30000000000000004"),
            (1e22, "1e+22"),
            (-3.5e-7, "-3.5e-07"),
            (1e-4, "0.0001"),
            (9.999e-5, "9.999e-05"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (9999999999999998.0, "9999999999999998.0"),
            (1.5e300, "1.5e+300"),
            (5e-324, "5e-324"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (2.5, "2.5"),
            (1e100, "1e+100"),
            (2f64.powi(-25), "2.9802322387695312e-08"),
            (111659285584252.125, "111659285584252.12"),
            (-1113178120592002.25, "-1113178120592002.2"),
            (f64::NAN, "nan"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(python_float(value), expected);
        }
    }

    #[test]
    fn strings_print_as_in_python() {
        for (text, expected) in [
            ("a", "'a'"),
            ("it's", "\"it's\""),
            ("'\"", "'\\'\"'"),
            ("\n\t\\\u{0}\u{7f}\u{a0}", "'\\n\\t\\\\\\x00\\x7f\\xa0'"),
            ("é😀\u{200b}\u{3000}\u{e0041}", "'é😀\\u200b\\u3000\\U000e0041'"),
        ] {
            let mut out = String::new();
            repr_str(text, &mut out);
            assert_eq!(out, expected);
        }
    }
}
