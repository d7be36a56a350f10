//! The methods of Python's `str`, `list` and `dict` that templates call.
//!
//! Those that change a value are missing: `transformers` renders in an immutable sandbox.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};

use super::guard::{check_string, error};
use super::prepare::SLICE;
use super::print::python_str;
use super::slice::slice;

/// Calls a method; an unknown one is the error that makes minijinja look further.
pub(super) fn call(
    _state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if method == SLICE {
        return slice(value, args);
    }
    match value.kind() {
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            string_method(text, method, &Args { method, args })
        }
        ValueKind::Map => map_method(value, method, &Args { method, args }),
        ValueKind::Seq | ValueKind::Iterable => list_method(value, method, &Args { method, args }),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// A call's arguments, with Python's complaints.
struct Args<'a> {
    method: &'a str,
    args: &'a [Value],
}

impl<'a> Args<'a> {
    /// Checks the number of arguments.
    fn count(&self, least: usize, most: usize) -> Result<(), Error> {
        if (least..=most).contains(&self.args.len()) {
            return Ok(());
        }
        Err(error(format!(
            "{}: found {} arguments, expected {least} to {most}",
            self.method,
            self.args.len()
        )))
    }

    fn text(&self, i: usize) -> Result<&'a str, Error> {
        self.args
            .get(i)
            .and_then(Value::as_str)
            .ok_or_else(|| error(format!("{}: argument {} is not a string", self.method, i + 1)))
    }

    /// An optional string, `none` counts as missing.
    fn maybe_text(&self, i: usize) -> Result<Option<&'a str>, Error> {
        match self.args.get(i) {
            None => Ok(None),
            Some(arg) if arg.is_none() => Ok(None),
            Some(_) => self.text(i).map(Some),
        }
    }

    fn integer(&self, i: usize, default: i64) -> Result<i64, Error> {
        match self.args.get(i) {
            None => Ok(default),
            Some(arg) => arg
                .as_i64()
                .ok_or_else(|| error(format!("{}: argument {} is not an integer", self.method, i + 1))),
        }
    }

    /// One string or a tuple of them.
    fn texts(&self, i: usize) -> Result<Vec<String>, Error> {
        let wrong = || error(format!("{}: argument {} is not a string", self.method, i + 1));
        match self.args.get(i) {
            Some(arg) if arg.as_str().is_some() => Ok(vec![self.text(i)?.to_owned()]),
            Some(arg) if arg.kind() == ValueKind::Seq => {
                arg.try_iter()?.map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
            _ => Err(wrong()),
        }
    }
}

fn string_method(text: &str, method: &str, args: &Args<'_>) -> Result<Value, Error> {
    Ok(match method {
        "strip" | "lstrip" | "rstrip" => {
            args.count(0, 1)?;
            let set = args.maybe_text(0)?;
            let outer = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
            Value::from(match method {
                "strip" => text.trim_matches(outer),
                "lstrip" => text.trim_start_matches(outer),
                _ => text.trim_end_matches(outer),
            })
        }
        "startswith" => {
            args.count(1, 1)?;
            Value::from(args.texts(0)?.iter().any(|prefix| text.starts_with(prefix.as_str())))
        }
        "endswith" => {
            args.count(1, 1)?;
            Value::from(args.texts(0)?.iter().any(|suffix| text.ends_with(suffix.as_str())))
        }
        "removeprefix" => {
            args.count(1, 1)?;
            Value::from(text.strip_prefix(args.text(0)?).unwrap_or(text))
        }
        "removesuffix" => {
            args.count(1, 1)?;
            Value::from(text.strip_suffix(args.text(0)?).unwrap_or(text))
        }
        "split" | "rsplit" => split(text, method == "rsplit", args)?,
        "splitlines" => {
            args.count(0, 1)?;
            split_lines(text, args.args.first().is_some_and(Value::is_true))
        }
        "partition" | "rpartition" => {
            args.count(1, 1)?;
            let separator = args.text(0)?;
            if separator.is_empty() {
                return Err(error(format!("{method}: the separator is empty")));
            }
            let parts = if method == "partition" {
                text.split_once(separator).map_or([text, "", ""], |(a, b)| [a, separator, b])
            } else {
                text.rsplit_once(separator).map_or(["", "", text], |(a, b)| [a, separator, b])
            };
            Value::from(Tuple::from(parts.map(Value::from).to_vec()))
        }
        "replace" => {
            args.count(2, 3)?;
            Value::from(replace(text, args.text(0)?, args.text(1)?, args.integer(2, -1)?)?)
        }
        "find" | "rfind" | "index" => {
            args.count(1, 1)?;
            let needle = args.text(0)?;
            let at = if method == "rfind" { text.rfind(needle) } else { text.find(needle) };
            match at.and_then(|at| text.get(..at)) {
                Some(before) => Value::from(before.chars().count()),
                None if method == "index" => return Err(error("index: substring not found")),
                None => Value::from(-1),
            }
        }
        "count" => {
            args.count(1, 1)?;
            let needle = args.text(0)?;
            Value::from(match needle {
                "" => text.chars().count() + 1,
                _ => text.matches(needle).count(),
            })
        }
        "join" => {
            args.count(1, 1)?;
            let mut out = String::new();
            let list = args.args.first().cloned().unwrap_or_default();
            for (i, item) in list.try_iter()?.checked().enumerate() {
                let item = item?;
                let Some(item) = item.as_str() else {
                    return Err(error(format!("join: item {i} is not a string")));
                };
                check_string(out.len().checked_add(text.len() + item.len()))?;
                if i > 0 {
                    out.push_str(text);
                }
                out.push_str(item);
            }
            Value::from(out)
        }
        "upper" => Value::from(text.to_uppercase()),
        "lower" | "casefold" => Value::from(text.to_lowercase()),
        "capitalize" => Value::from(capitalize(text)),
        "title" => Value::from(title(text)),
        "swapcase" => Value::from(
            text.chars()
                .flat_map(|c| -> Vec<char> {
                    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
                })
                .collect::<String>(),
        ),
        "isdigit" | "isnumeric" | "isdecimal" => every(text, char::is_numeric),
        "isalpha" => every(text, char::is_alphabetic),
        "isalnum" => every(text, char::is_alphanumeric),
        "isspace" => every(text, is_space),
        "isascii" => Value::from(text.is_ascii()),
        "isupper" => {
            Value::from(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase))
        }
        "islower" => {
            Value::from(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase))
        }
        "ljust" | "rjust" | "center" | "zfill" => pad(text, method, args)?,
        "format" => {
            if has_long_number(text) {
                return Err(error("format: a width of more than four digits"));
            }
            Value::from(format(FormatStyle::StrFormat, text, args.args)?)
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

/// Python's white space: Unicode's and the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

fn every(text: &str, is: impl Fn(char) -> bool) -> Value {
    Value::from(!text.is_empty() && text.chars().all(is))
}

/// Whether a format string has a number of more than four digits.
pub(super) fn has_long_number(text: &str) -> bool {
    let mut run = 0;
    text.bytes().any(|b| {
        run = if b.is_ascii_digit() { run + 1 } else { 0 };
        run > 4
    })
}

/// Replaces the first `count` occurrences, all when negative.
pub(super) fn replace(text: &str, from: &str, to: &str, count: i64) -> Result<String, Error> {
    let found = if from.is_empty() { text.chars().count() + 1 } else { text.matches(from).count() };
    let limit = usize::try_from(count).unwrap_or(usize::MAX);
    let times = found.min(limit);
    check_string(times.checked_mul(to.len()).and_then(|more| more.checked_add(text.len())))?;
    Ok(text.replacen(from, to, times))
}

fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().into_iter().flat_map(char::to_uppercase).collect();
    first + &chars.as_str().to_lowercase()
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

fn split(text: &str, from_right: bool, args: &Args<'_>) -> Result<Value, Error> {
    args.count(0, 2)?;
    let most = usize::try_from(args.integer(1, -1)?).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = Vec::new();
    match args.maybe_text(0)? {
        Some("") => return Err(error("split: the separator is empty")),
        Some(separator) if from_right => {
            parts.extend(text.rsplitn(most.saturating_add(1), separator));
            parts.reverse();
        }
        Some(separator) => parts.extend(text.splitn(most.saturating_add(1), separator)),
        None if from_right => {
            let mut rest = text.trim_end_matches(is_space);
            while !rest.is_empty() {
                let cut = if parts.len() < most {
                    rest.char_indices().rev().find(|&(_, c)| is_space(c)).map(|(at, c)| at + c.len_utf8())
                } else {
                    None
                };
                let (before, part) = rest.split_at_checked(cut.unwrap_or(0)).unwrap_or(("", rest));
                parts.push(part);
                rest = before.trim_end_matches(is_space);
            }
            parts.reverse();
        }
        None => {
            let mut rest = text.trim_start_matches(is_space);
            while !rest.is_empty() {
                let cut = if parts.len() < most { rest.find(is_space) } else { None };
                let (part, after) = rest.split_at_checked(cut.unwrap_or(rest.len())).unwrap_or((rest, ""));
                parts.push(part);
                rest = after.trim_start_matches(is_space);
            }
        }
    }
    Ok(Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>()))
}

fn split_lines(text: &str, keep_ends: bool) -> Value {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(is_end).unwrap_or(rest.len());
        let (line, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let mark = if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        let kept = if keep_ends { rest.get(..end + mark).unwrap_or(rest) } else { line };
        lines.push(Value::from(kept));
        rest = after.get(mark..).unwrap_or_default();
    }
    Value::from(lines)
}

fn pad(text: &str, method: &str, args: &Args<'_>) -> Result<Value, Error> {
    args.count(1, 2)?;
    let width = usize::try_from(args.integer(0, 0)?).unwrap_or(0);
    check_string(width.checked_mul(4))?;
    let fill = args.maybe_text(1)?.and_then(|fill| fill.chars().next()).unwrap_or(' ');
    let length = text.chars().count();
    let missing = width.saturating_sub(length);
    let run = |c: char, n: usize| std::iter::repeat_n(c, n);
    let out: String = match method {
        "ljust" => text.chars().chain(run(fill, missing)).collect(),
        "rjust" => run(fill, missing).chain(text.chars()).collect(),
        "center" => {
            let left = missing / 2 + (missing & width & 1);
            run(fill, left).chain(text.chars()).chain(run(fill, missing - left)).collect()
        }
        _ => {
            let sign = usize::from(text.starts_with(['+', '-']));
            let (sign, digits) = text.split_at_checked(sign).unwrap_or(("", text));
            sign.chars().chain(run('0', missing)).chain(digits.chars()).collect()
        }
    };
    Ok(Value::from(out))
}

fn map_method(map: &Value, method: &str, args: &Args<'_>) -> Result<Value, Error> {
    let keys = || map.try_iter()?.checked().collect::<Result<Vec<_>, Error>>();
    Ok(match method {
        "get" => {
            args.count(1, 2)?;
            let key = args.args.first().cloned().unwrap_or_default();
            let value = map.get_item(&key)?;
            match value.is_undefined() {
                true => args.args.get(1).cloned().unwrap_or(Value::from(())),
                false => value,
            }
        }
        "keys" => Value::from(keys()?),
        "values" => {
            let values = keys()?.iter().map(|key| map.get_item(key)).collect::<Result<Vec<_>, _>>();
            Value::from(values?)
        }
        "items" => {
            let pairs = keys()?.into_iter().map(|key| -> Result<Value, Error> {
                let value = map.get_item(&key)?;
                Ok(Value::from(Tuple::from([key, value])))
            });
            Value::from(pairs.collect::<Result<Vec<_>, _>>()?)
        }
        "copy" => map.clone(),
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}

fn list_method(list: &Value, method: &str, args: &Args<'_>) -> Result<Value, Error> {
    Ok(match method {
        "count" | "index" => {
            args.count(1, 1)?;
            let wanted = args.args.first().cloned().unwrap_or_default();
            let mut found = 0usize;
            for (i, item) in list.try_iter()?.checked().enumerate() {
                if item? == wanted {
                    if method == "index" {
                        return Ok(Value::from(i));
                    }
                    found += 1;
                }
            }
            if method == "index" {
                return Err(error(format!("index: {} is not in the list", python_str(&wanted)?)));
            }
            Value::from(found)
        }
        "copy" => list.clone(),
        "append" | "extend" | "insert" | "pop" | "remove" | "clear" | "sort" | "reverse" => {
            return Err(error(format!("{method}: a template cannot change a list")));
        }
        _ => return Err(Error::from(ErrorKind::UnknownMethod)),
    })
}
