//! Metadata values, and typed access to them.

use std::collections::BTreeMap;

use super::error::{GgufError, quoted};

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    Array(Array),
}

/// An array of metadata.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Array {
    Integers(Vec<i64>),
    Strings(Vec<String>),
    /// That many numbers or booleans that the model has no use for.
    Others(usize),
}

impl Value {
    /// The value of any integer type.
    pub(super) fn integer(&self) -> Option<i64> {
        match *self {
            Value::U8(n) => Some(n.into()),
            Value::I8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::I16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::I32(n) => Some(n.into()),
            Value::U64(n) => i64::try_from(n).ok(),
            Value::I64(n) => Some(n),
            Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
        }
    }

    /// The value for a message.
    pub(super) fn shown(&self) -> String {
        match self {
            Value::F32(x) => x.to_string(),
            Value::F64(x) => x.to_string(),
            Value::Bool(b) => b.to_string(),
            Value::String(text) => quoted(text),
            Value::Array(Array::Integers(list)) => format!("an array of {} integers", list.len()),
            Value::Array(Array::Strings(list)) => format!("an array of {} strings", list.len()),
            Value::Array(Array::Others(n)) => format!("an array of {n} numbers or booleans"),
            Value::U64(n) => n.to_string(),
            integer => integer.integer().map_or_else(String::new, |n| n.to_string()),
        }
    }
}

/// The metadata with typed access.
pub(super) struct Metadata<'a>(pub(super) &'a BTreeMap<String, Value>);

impl<'a> Metadata<'a> {
    pub(super) fn wrong(&self, key: &str, expected: impl Into<String>) -> GgufError {
        let found = self.0.get(key).map_or_else(|| "missing".to_owned(), Value::shown);
        GgufError::Key { key: key.to_owned(), found, expected: expected.into() }
    }

    /// The value of a key as one type; an error if it has another.
    fn get<T>(
        &self,
        key: &str,
        expected: &str,
        take: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(value) => take(value).map(Some).ok_or_else(|| self.wrong(key, expected)),
        }
    }

    pub(super) fn size(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.get(key, "an integer of 0 to 2^32", |value| u32::try_from(value.integer()?).ok())
    }

    /// A size, or an array that repeats one.
    pub(super) fn one_size(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.get(key, "one integer for all layers", |value| {
            let Value::Array(Array::Integers(list)) = value else {
                return u32::try_from(value.integer()?).ok();
            };
            let first = list.first()?;
            list.iter().all(|n| n == first).then(|| u32::try_from(*first).ok())?
        })
    }

    /// The shortest decimal that gives the number, so that 1e-5 of an `f32` is 1e-5.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.get(key, "a finite number", |value| {
            let number = match value {
                Value::F32(x) => x.to_string().parse().ok()?,
                Value::F64(x) => *x,
                _ => return None,
            };
            number.is_finite().then_some(number)
        })
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.get(key, "a boolean", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.get(key, "a string", |value| match value {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    pub(super) fn strings(&self, key: &str) -> Result<Option<&'a [String]>, GgufError> {
        self.get(key, "an array of strings", |value| match value {
            Value::Array(Array::Strings(list)) => Some(list.as_slice()),
            _ => None,
        })
    }

    pub(super) fn integers(&self, key: &str) -> Result<Option<&'a [i64]>, GgufError> {
        self.get(key, "an array of integers", |value| match value {
            Value::Array(Array::Integers(list)) => Some(list.as_slice()),
            _ => None,
        })
    }
}

/// The value of a key that must be there.
pub(super) fn required<T>(key: &str, found: Option<T>) -> Result<T, GgufError> {
    found.ok_or_else(|| GgufError::MissingKey(key.to_owned()))
}
