//! Filters and tests where `transformers` or Jinja2 differ from minijinja, and those that could
//! make strings of any length.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error};

use super::guard::{check_string, error};
use super::methods::{has_long_number, replace};
use super::print::{Dumps, python_str};

pub(super) fn add(env: &mut Environment<'_>) {
    env.add_filter("tojson", to_json);
    env.add_filter("string", |value: &Value| python_str(value));
    env.add_filter("join", join);
    env.add_filter("replace", replace_filter);
    env.add_filter("indent", indent);
    env.add_filter("format", format);
    for name in ["default", "d"] {
        env.add_filter(name, default);
    }
    for name in ["length", "count"] {
        env.add_filter(name, length);
    }
    env.add_filter("int", int);
    env.add_filter("float", float);
    env.remove_filter("pprint");

    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    env.add_test("integer", |value: &Value| value.kind() == ValueKind::Number && value.is_integer());
    env.add_test("callable", |value: &Value| value.as_object().is_some() && value.kind() == ValueKind::Plain);
}

/// `tojson` of `transformers`: `json.dumps` with `ensure_ascii=False` and no HTML escapes.
fn to_json(value: &Value, positional: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if positional.len() > names.len() {
        return Err(error("tojson: found more than four options"));
    }
    let option = |i: usize| -> Result<Option<Value>, Error> {
        let name = names.get(i).copied().unwrap_or_default();
        let value = match positional.get(i) {
            Some(value) => Some(value.clone()),
            None => options.get::<Option<Value>>(name)?,
        };
        Ok(value.filter(|value| !value.is_none()))
    };
    let (ascii, indent, separators, sort_keys) = (option(0)?, option(1)?, option(2)?, option(3)?);
    options.assert_all_used()?;

    let indent = match indent {
        None => None,
        Some(indent) if indent.as_str().is_some() => indent.as_str().map(str::to_owned),
        Some(indent) => {
            let width = match indent.kind() {
                ValueKind::Bool => i64::from(indent.is_true()),
                _ => indent.as_i64().ok_or_else(|| error("tojson: indent is not an integer"))?,
            };
            Some(" ".repeat(usize::try_from(width).unwrap_or(0).min(1 << 10)))
        }
    };
    let (mut comma, mut colon) = (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(separators) = separators {
        let pair: Vec<Value> = separators.try_iter()?.take(3).collect();
        match pair.as_slice() {
            [a, b] if a.as_str().is_some() && b.as_str().is_some() => {
                comma = python_str(a)?;
                colon = python_str(b)?;
            }
            _ => return Err(error("tojson: separators are not two strings")),
        }
    }
    let is_true = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let dumps = Dumps { ascii: is_true(ascii), indent, comma, colon, sort_keys: is_true(sort_keys) };
    dumps.dumps(value)
}

/// `join(separator, attribute)`, items printed as Python does.
fn join(
    value: &Value,
    separator: Option<&str>,
    attribute: Option<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    let separator = match separator {
        Some(separator) => separator.to_owned(),
        None => options.get::<Option<String>>("d")?.unwrap_or_default(),
    };
    let attribute = match attribute {
        Some(attribute) => Some(attribute),
        None => options.get::<Option<Value>>("attribute")?,
    };
    options.assert_all_used()?;
    let mut out = String::new();
    for (i, item) in value.try_iter()?.checked().enumerate() {
        let mut item = item?;
        if let Some(attribute) = attribute.as_ref().filter(|attribute| !attribute.is_none()) {
            item = item.get_item(attribute)?;
        }
        let item = python_str(&item)?;
        check_string(out.len().checked_add(separator.len() + item.len()))?;
        if i > 0 {
            out.push_str(&separator);
        }
        out.push_str(&item);
    }
    Ok(out)
}

fn replace_filter(value: &Value, from: &Value, to: &Value, count: Option<i64>) -> Result<String, Error> {
    replace(&python_str(value)?, &python_str(from)?, &python_str(to)?, count.unwrap_or(-1))
}

/// `indent(width=4, first=false, blank=false)`; the width may be a string.
fn indent(
    value: &Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let width = match width {
        Some(width) => Some(width),
        None => options.get::<Option<Value>>("width")?,
    };
    let flag = |positional: Option<bool>, name: &str| -> Result<bool, Error> {
        Ok(match positional {
            Some(flag) => flag,
            None => options.get::<Option<bool>>(name)?.unwrap_or(false),
        })
    };
    let (first, blank) = (flag(first, "first")?, flag(blank, "blank")?);
    options.assert_all_used()?;
    let margin = match width {
        None => " ".repeat(4),
        Some(width) => match (width.as_str(), width.as_usize()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(n)) => " ".repeat(n.min(1 << 10)),
            (None, None) => return Err(error("indent: width is neither a number nor a string")),
        },
    };
    let text = python_str(value)?;
    let lines = text.matches('\n').count() + 1;
    check_string(lines.checked_mul(margin.len()).and_then(|more| more.checked_add(text.len())))?;
    let mut out = String::new();
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// `default(default_value='', boolean=false)`.
fn default(
    value: &Value,
    other: Option<Value>,
    boolean: Option<bool>,
    options: Kwargs,
) -> Result<Value, Error> {
    let other = match other {
        Some(other) => other,
        None => options.get::<Option<Value>>("default_value")?.unwrap_or_else(|| Value::from("")),
    };
    let boolean = match boolean {
        Some(boolean) => boolean,
        None => options.get::<Option<bool>>("boolean")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let missing = value.is_undefined() || (boolean && !value.is_true());
    Ok(if missing { other } else { value.clone() })
}

/// The length, 0 of an undefined value.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    let kind = value.kind();
    value.len().ok_or_else(|| error(format!("length: a value of type {kind} has none")))
}

/// `int(default=0)`: what is no number is the default.
fn int(value: &Value, other: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let other = fallback(other, &options, Value::from(0))?;
    Ok(match value.kind() {
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number => f64::try_from(value.clone()).ok().and_then(truncated).unwrap_or(other),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default().trim();
            match text.parse::<i128>() {
                Ok(number) => Value::from(number),
                Err(_) => text.parse().ok().and_then(truncated).unwrap_or(other),
            }
        }
        _ => other,
    })
}

/// A float without its fraction.
fn truncated(value: f64) -> Option<Value> {
    (value.abs() < 1e38).then(|| Value::from(value as i128))
}

/// `float(default=0.0)`.
fn float(value: &Value, other: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let other = fallback(other, &options, Value::from(0.0))?;
    Ok(match value.kind() {
        ValueKind::Bool => Value::from(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).map_or(other, Value::from),
        ValueKind::String => {
            value.as_str().unwrap_or_default().trim().parse::<f64>().map_or(other, Value::from)
        }
        _ => other,
    })
}

fn fallback(given: Option<Value>, options: &Kwargs, neutral: Value) -> Result<Value, Error> {
    let other = match given {
        Some(other) => other,
        None => options.get::<Option<Value>>("default")?.unwrap_or(neutral),
    };
    options.assert_all_used()?;
    Ok(other)
}

/// `"%s"|format(value)`.
fn format(text: &str, args: Rest<Value>) -> Result<String, Error> {
    if has_long_number(text) || text.contains('*') {
        return Err(error("format: a width of more than four digits"));
    }
    minijinja::formatting::format(minijinja::formatting::FormatStyle::Printf, text, &args)
}
