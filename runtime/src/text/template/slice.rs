//! Python's `value[start:stop:step]` of strings and sequences.

use minijinja::Error;
use minijinja::value::{Tuple, Value, ValueKind};

use super::guard::error;

/// The slice of a value; a part that is `none` is left out.
pub(super) fn slice(value: &Value, parts: &[Value]) -> Result<Value, Error> {
    let part = |i: usize| -> Result<Option<i64>, Error> {
        match parts.get(i) {
            None => Ok(None),
            Some(part) if part.is_none() => Ok(None),
            Some(part) if part.kind() == ValueKind::Bool => Ok(Some(i64::from(part.is_true()))),
            Some(part) => match part.as_i64() {
                Some(n) if part.is_integer() => Ok(Some(n)),
                _ => Err(error(format!(
                    "slicing: found a bound of type {}, expected an integer or none",
                    part.kind()
                ))),
            },
        }
    };
    let (start, stop, step) = (part(0)?, part(1)?, part(2)?.unwrap_or(1));
    if step == 0 {
        return Err(error("slicing: the step is 0"));
    }
    match value.kind() {
        ValueKind::String => {
            let chars: Vec<char> = value.as_str().unwrap_or_default().chars().collect();
            Ok(Value::from(pick(&chars, start, stop, step).collect::<String>()))
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.checked().collect::<Result<Vec<_>, _>>()?;
            let picked: Vec<Value> = pick(&items, start, stop, step).collect();
            Ok(if value.is_tuple() { Value::from(Tuple::from(picked)) } else { Value::from(picked) })
        }
        kind => Err(error(format!("slicing: a value of type {kind} has no slices"))),
    }
}

fn pick<T: Clone>(
    items: &[T],
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> impl Iterator<Item = T> + '_ {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    // A position: from the end when negative, then clamped to what the direction can reach.
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let place = |position: i64| {
        let position = if position < 0 { position.saturating_add(length) } else { position };
        position.clamp(low, high.max(low))
    };
    let start = start.map_or(if step > 0 { low } else { high }, place);
    let stop = stop.map_or(if step > 0 { high } else { low }, place);
    let mut at = start;
    std::iter::from_fn(move || {
        if (step > 0 && at >= stop) || (step < 0 && at <= stop) {
            return None;
        }
        let item = usize::try_from(at).ok().and_then(|at| items.get(at)).cloned();
        at = at.saturating_add(step);
        item
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_small_slice_is_pythons() {
        // Positions by definition: i, i + step, ... while before the stop.
        fn reference(n: i64, start: Option<i64>, stop: Option<i64>, step: i64) -> Vec<i64> {
            let adjust = |x: i64| if x < 0 { x + n } else { x };
            let (first, last) = if step > 0 { (0, n) } else { (n - 1, -1) };
            let mut at = start.map_or(first, |s| {
                let s = adjust(s);
                if step > 0 { s.max(0) } else { s.min(n - 1) }
            });
            let stop = stop.map_or(last, |s| adjust(s).max(-1));
            let mut out = Vec::new();
            while if step > 0 { at < stop } else { at > stop } {
                if (0..n).contains(&at) {
                    out.push(at);
                }
                at += step;
            }
            out
        }
        let bounds: Vec<Option<i64>> = (-6..=6).map(Some).chain([None]).collect();
        for n in 0..5i64 {
            let items: Vec<i64> = (0..n).collect();
            for &start in &bounds {
                for &stop in &bounds {
                    for step in [-3, -2, -1, 1, 2, 3] {
                        let picked: Vec<i64> = pick(&items, start, stop, step).collect();
                        assert_eq!(
                            picked,
                            reference(n, start, stop, step),
                            "{n} [{start:?}:{stop:?}:{step}]"
                        );
                    }
                }
            }
        }
        assert_eq!(pick(&[1, 2], Some(i64::MIN), Some(i64::MAX), i64::MAX).count(), 1);
        assert_eq!(pick(&[1, 2], Some(i64::MAX), Some(i64::MIN), i64::MIN).count(), 1);
    }
}
