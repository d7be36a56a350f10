//! JSON as Python reads it: key order kept, integers of any size, floats apart from integers.
//!
//! A chat template sees the conversation through this, and prints it as `json.dumps` does, so `1`
//! and `1.0` must stay different and 2^70 must stay exact.

use std::collections::BTreeMap;

use super::TextError;

/// Deepest nesting; Python's own limit is about 1000.
const MAX_DEPTH: usize = 128;
/// Most digits of an integer, as in Python 3.11 and later.
const MAX_DIGITS: usize = 4300;

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer that fits.
    Int(i64),
    /// An integer that does not fit an `i64`, as its digits.
    BigInt(String),
    /// A number with a point or an exponent; `NaN`, `Infinity` and `-Infinity`.
    Float(f64),
    /// A string
    Str(String),
    /// A list
    List(Vec<Json>),
    /// A map in the order of its first appearance of every key; of a repeated key the last value
    /// counts.
    Map(Vec<(String, Json)>),
}

impl Json {
    /// Parses a text that is one JSON value.
    pub fn parse(text: &str) -> Result<Json, TextError> {
        let mut parser = Parser { text, at: 0 };
        let value = parser.value(0)?;
        parser.space();
        if parser.at < text.len() {
            return Err(parser.error("expected the end after the value"));
        }
        Ok(value)
    }

    /// The value of a key, `None` when there is none or this is no map.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Json::Str(text) => Some(text),
            _ => None,
        }
    }

    /// What the value is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "a boolean",
            Json::Int(_) | Json::BigInt(_) | Json::Float(_) => "a number",
            Json::Str(_) => "a string",
            Json::List(_) => "a list",
            Json::Map(_) => "a map",
        }
    }
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::Str(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Json {
        Json::Str(text)
    }
}

impl From<bool> for Json {
    fn from(value: bool) -> Json {
        Json::Bool(value)
    }
}

struct Parser<'t> {
    text: &'t str,
    /// Byte offset, always at a character boundary.
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn error(&self, problem: &str) -> TextError {
        let before = self.text.get(..self.at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|&c| c != '\n').count() + 1;
        TextError::Chat(format!("JSON line {line} column {column}: {problem}"))
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: usize) -> Result<Json, TextError> {
        if depth > MAX_DEPTH {
            return Err(self.error("nested too deeply"));
        }
        self.space();
        match self.peek() {
            Some(b'"') => self.string().map(Json::Str),
            Some(b'[') => self.list(depth),
            Some(b'{') => self.map(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => {
                for (word, value) in [
                    ("null", Json::Null),
                    ("true", Json::Bool(true)),
                    ("false", Json::Bool(false)),
                    ("NaN", Json::Float(f64::NAN)),
                    ("Infinity", Json::Float(f64::INFINITY)),
                ] {
                    if self.rest().starts_with(word) {
                        self.at += word.len();
                        return Ok(value);
                    }
                }
                Err(self.error("expected a value"))
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json, TextError> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.eat(b']') {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.eat(b']') {
                return Ok(Json::List(items));
            }
            if !self.eat(b',') {
                return Err(self.error("expected , or ] in a list"));
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Json, TextError> {
        self.at += 1;
        let mut entries: Vec<(String, Json)> = Vec::new();
        let mut places: BTreeMap<String, usize> = BTreeMap::new();
        self.space();
        if self.eat(b'}') {
            return Ok(Json::Map(entries));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a key in quotes"));
            }
            let key = self.string()?;
            self.space();
            if !self.eat(b':') {
                return Err(self.error("expected : after a key"));
            }
            let value = self.value(depth + 1)?;
            match places.get(&key).and_then(|&place| entries.get_mut(place)) {
                Some(entry) => entry.1 = value,
                None => {
                    places.insert(key.clone(), entries.len());
                    entries.push((key, value));
                }
            }
            self.space();
            if self.eat(b'}') {
                return Ok(Json::Map(entries));
            }
            if !self.eat(b',') {
                return Err(self.error("expected , or } in a map"));
            }
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Json, TextError> {
        let start = self.at;
        if self.eat(b'-') && self.rest().starts_with("Infinity") {
            self.at += "Infinity".len();
            return Ok(Json::Float(f64::NEG_INFINITY));
        }
        let leading_zero = self.peek() == Some(b'0');
        let whole = self.digits();
        if whole == 0 || (leading_zero && whole > 1) {
            return Err(self.error("expected a number without leading zeros"));
        }
        let mut float = false;
        if self.eat(b'.') {
            float = true;
            if self.digits() == 0 {
                return Err(self.error("expected digits after the point"));
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            float = true;
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(self.error("expected digits in the exponent"));
            }
        }
        let text = self.text.get(start..self.at).unwrap_or_default();
        if float {
            return match text.parse() {
                Ok(value) => Ok(Json::Float(value)),
                Err(_) => Err(self.error("expected a number")),
            };
        }
        if whole > MAX_DIGITS {
            return Err(self.error("an integer has more than 4300 digits"));
        }
        Ok(text.parse().map_or_else(|_| Json::BigInt(text.to_owned()), Json::Int))
    }

    fn string(&mut self) -> Result<String, TextError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = self.rest();
            let plain = rest.bytes().take_while(|&b| b != b'"' && b != b'\\' && b >= 0x20).count();
            out.push_str(rest.get(..plain).unwrap_or_default());
            self.at += plain;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => {
                    self.at += 1;
                    out.push(self.escape()?);
                }
                Some(_) => return Err(self.error("a control character in a string")),
                None => return Err(self.error("a string without an end")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, TextError> {
        let Some(byte) = self.peek() else {
            return Err(self.error("a string without an end"));
        };
        let plain = match byte {
            b'"' | b'\\' | b'/' => char::from(byte),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.error("an unknown escape")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn hex4(&mut self) -> Result<u32, TextError> {
        let hex = self.text.get(self.at..self.at + 4).unwrap_or_default();
        if hex.len() != 4 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(self.error("expected four hexadecimal digits"));
        }
        self.at += 4;
        u32::from_str_radix(hex, 16).map_err(|_| self.error("expected hexadecimal digits"))
    }

    fn unicode(&mut self) -> Result<char, TextError> {
        let mut code = self.hex4()?;
        if (0xd800..0xdc00).contains(&code) && self.rest().starts_with("\\u") {
            self.at += 2;
            let low = self.hex4()?;
            if (0xdc00..0xe000).contains(&low) {
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            }
        }
        char::from_u32(code).ok_or_else(|| self.error("half of a surrogate pair"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_kind() {
        let list = Json::parse("[1, -0, 1.0, 1e2, 18446744073709551616, -1E-7, NaN, -Infinity]");
        let Json::List(items) = list.unwrap() else { panic!("a list") };
        assert_eq!(items[..4], [Json::Int(1), Json::Int(0), Json::Float(1.0), Json::Float(100.0)]);
        assert_eq!(items[4], Json::BigInt("18446744073709551616".to_owned()));
        assert_eq!(items[5], Json::Float(-1e-7));
        assert!(matches!(items[6], Json::Float(x) if x.is_nan()));
        assert_eq!(items[7], Json::Float(f64::NEG_INFINITY));
    }

    #[test]
    fn order_and_repeated_keys_are_pythons() {
        let map = Json::parse(r#"{"b": 1, "a": 2, "b": 3}"#).unwrap();
        let expected = vec![("b".to_owned(), Json::Int(3)), ("a".to_owned(), Json::Int(2))];
        assert_eq!(map, Json::Map(expected));
    }

    #[test]
    fn escapes() {
        let text = Json::parse(r#""a\n\u00e9\ud83d\ude00\/ é""#).unwrap();
        assert_eq!(text.as_str(), Some("a\né😀/ é"));
    }

    #[test]
    fn errors_say_where() {
        let error = Json::parse("{\"a\": 1,\n \"é\" 2}").unwrap_err();
        assert_eq!(error.to_string(), "reading a chat: JSON line 2 column 6: expected : after a key");
    }

    #[test]
    fn broken_texts_are_refused() {
        let deep = "[".repeat(100_000);
        for bad in [
            "",
            " ",
            "[1,]",
            "{\"a\":}",
            "01",
            "1.",
            "+1",
            ".5",
            "1e",
            "\"",
            "\"\\",
            "\"\\u12",
            "\"\\ud800\"",
            "\"\\ud800\\u0041\"",
            "\"\\ué\"",
            "\"\u{1}\"",
            "nul",
            "1 2",
            "'a'",
            "[1",
            "{1:2}",
            deep.as_str(),
        ] {
            assert!(Json::parse(bad).is_err(), "{bad:.20}");
        }
    }
}
