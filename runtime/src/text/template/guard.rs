//! What a rendering may make: text in all, and the size and depth of what it keeps.

use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::{Tuple, Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Most bytes that one rendering may write, those of macros and captured blocks included.
const MAX_WRITTEN: u64 = 8 << 20;
/// Longest string that a variable, a filter or a method may hold.
pub(super) const MAX_STRING: usize = 2 << 20;
/// Deepest nesting of a kept value.
const MAX_DEPTH: usize = 160;
/// Values that all checks of one rendering may visit.
const MAX_WALKED: u64 = 20_000_000;

pub(super) fn error(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

/// Counts written bytes.
pub(super) fn spend(written: &AtomicU64, bytes: usize) -> Result<(), Error> {
    let bytes = bytes as u64;
    let before = written.fetch_add(bytes, Ordering::Relaxed);
    if before.saturating_add(bytes) > MAX_WRITTEN {
        return Err(error(format!("the template writes more than {MAX_WRITTEN} bytes")));
    }
    Ok(())
}

/// Checks that a string of this many bytes may be made.
pub(super) fn check_string(bytes: Option<usize>) -> Result<(), Error> {
    match bytes {
        Some(bytes) if bytes <= MAX_STRING => Ok(()),
        _ => Err(error(format!("the template makes a string of more than {MAX_STRING} bytes"))),
    }
}

/// Checks the value of an assignment; several values are those of `{% set a, b = 1, 2 %}`.
///
/// A namespace is the only value that changes, so only in one of them could a cycle be made:
/// `shared` is false where the value goes into a namespace.
pub(super) fn keep(walked: &AtomicU64, mut values: Vec<Value>, shared: bool) -> Result<Value, Error> {
    for value in &mut values {
        // Lazy sequences hold on to what they are made from, one level deeper with each turn.
        if value.kind() == ValueKind::Iterable {
            *value = Value::from(value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?);
        }
        let depth = if shared && is_namespace(value) { 0 } else { 1 };
        check(walked, value, depth)?;
    }
    match values.len() {
        1 => Ok(values.pop().unwrap_or_default()),
        _ => Ok(Value::from(Tuple::from(values))),
    }
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

fn check(walked: &AtomicU64, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(error(format!("the template nests values more than {MAX_DEPTH} deep")));
    }
    if depth > 0 && is_namespace(value) {
        return Err(error("the template puts a namespace into another value"));
    }
    if walked.fetch_add(1, Ordering::Relaxed) > MAX_WALKED {
        return Err(error("the template assigns large values too often"));
    }
    match value.kind() {
        ValueKind::String => check_string(value.as_str().map(str::len)),
        ValueKind::Seq | ValueKind::Iterable => {
            for item in value.try_iter()?.checked() {
                check(walked, &item?, depth + 1)?;
            }
            Ok(())
        }
        ValueKind::Map => {
            for key in value.try_iter()?.checked() {
                check(walked, &value.get_item(&key?)?, depth + 1)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
