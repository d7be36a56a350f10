//! Several recordings of one module → one with symbolic sizes.
//!
//! Three probes determine `base + a·seq + b·past`; a fourth, with a single token, must agree. Everything that is
//! no size has to be the same in all of them.

use lfm_graphs::Dim;

use super::CaptureError;
use super::ops::{Captured, CapturedOp, CapturedValue};

/// `(seq, past)` of the recordings. The second differs from the first in `seq` alone, the third in `past` alone,
/// the fourth checks.
pub const PROBES: [(u32, u32); 4] = [(7, 13), (11, 13), (7, 29), (1, 40)];

/// Solves the sizes of recordings made at [`PROBES`], in order.
pub fn solve(probes: &[Captured<u64>]) -> Result<Captured<Dim>, CaptureError> {
    let Some(first) = probes.first() else {
        return Err(CaptureError::Trace {
            model: String::new(),
            message: "there are no recordings".to_owned(),
        });
    };
    for (other, at) in probes.iter().zip(PROBES).skip(1) {
        same_structure(first, other, at)?;
    }
    let values = (0..first.values.len())
        .map(|id| {
            let shape = (0..first.values[id].shape.len())
                .map(|axis| {
                    let found = probes.iter().map(|p| p.values[id].shape[axis]).collect();
                    number(first, found, || place(first, id, axis))
                })
                .collect::<Result<Vec<Dim>, CaptureError>>()?;
            Ok(CapturedValue { element: first.values[id].element, shape })
        })
        .collect::<Result<Vec<_>, CaptureError>>()?;
    let ops = (0..first.ops.len())
        .map(|index| {
            let numbers: Vec<Vec<u64>> = probes.iter().map(|p| numbers(&p.ops[index])).collect();
            let mut solved = (0..numbers[0].len())
                .map(|i| {
                    let found = numbers.iter().map(|list| list[i]).collect();
                    number(first, found, || format!("attribute {i} of {}", describe(first, index)))
                })
                .collect::<Result<Vec<Dim>, CaptureError>>()?
                .into_iter();
            let op = &first.ops[index];
            let kind = op.kind.map(|_| solved.next().unwrap_or_default());
            Ok(CapturedOp { kind, inputs: op.inputs.clone(), outputs: op.outputs.clone() })
        })
        .collect::<Result<Vec<_>, CaptureError>>()?;
    Ok(Captured {
        model: first.model.clone(),
        values,
        ops,
        inputs: first.inputs.clone(),
        params: first.params.clone(),
        literals: first.literals.clone(),
        states: first.states.clone(),
        outputs: first.outputs.clone(),
    })
}

/// The numbers of an operation, in the order of [`Kind::map`](super::Kind::map).
fn numbers(op: &CapturedOp<u64>) -> Vec<u64> {
    let mut numbers = Vec::new();
    op.kind.map(|n| numbers.push(n));
    numbers
}

fn number(
    first: &Captured<u64>,
    found: Vec<u64>,
    place: impl FnOnce() -> String,
) -> Result<Dim, CaptureError> {
    let mut at = PROBES.iter().zip(&found).map(|((seq, past), n)| (*seq, *past, *n));
    let solved = match (at.next(), at.next(), at.next()) {
        (Some(a), Some(b), Some(c)) => Dim::solve([a, b, c]),
        _ => None,
    };
    let agrees = |dim: &Dim| PROBES.iter().zip(&found).all(|((seq, past), n)| dim.at(*seq, *past) == *n);
    match solved {
        Some(dim) if agrees(&dim) => Ok(dim),
        _ => Err(CaptureError::Size {
            model: first.model.clone(),
            place: place(),
            probes: PROBES[..found.len()].to_vec(),
            found,
        }),
    }
}

/// `operation 12 (Matmul)`
fn describe(captured: &Captured<u64>, index: usize) -> String {
    match captured.ops.get(index) {
        Some(op) => format!("operation {index} ({})", op.kind.name()),
        None => format!("operation {index}"),
    }
}

/// The operation that gives a value, for messages.
fn place(captured: &Captured<u64>, value: usize, axis: usize) -> String {
    match captured.ops.iter().position(|op| op.outputs.contains(&value)) {
        Some(index) => format!("axis {axis} of the result of {}", describe(captured, index)),
        None => format!("axis {axis} of value {value}"),
    }
}

fn same_structure(first: &Captured<u64>, other: &Captured<u64>, at: (u32, u32)) -> Result<(), CaptureError> {
    let differs = |place: String, found: String, other: String| {
        let model = first.model.clone();
        Err(CaptureError::Structure { model, place, first: PROBES[0], second: at, found, other })
    };
    for (index, (a, b)) in first.ops.iter().zip(&other.ops).enumerate() {
        if a.kind.map(|_| ()) != b.kind.map(|_| ()) || a.inputs != b.inputs || a.outputs != b.outputs {
            return differs(describe(first, index), format!("{a:?}"), format!("{b:?}"));
        }
    }
    if first.ops.len() != other.ops.len() {
        let count = |c: &Captured<u64>| c.ops.len().to_string();
        return differs("the number of operations".to_owned(), count(first), count(other));
    }
    let shapes = |c: &Captured<u64>| c.values.iter().map(|v| (v.element, v.shape.len())).collect::<Vec<_>>();
    if shapes(first) != shapes(other) {
        let place = "the number of axes of a value".to_owned();
        return differs(place, "one".to_owned(), "another".to_owned());
    }
    for (a, b) in first.literals.iter().zip(&other.literals) {
        if a != b {
            let message = "the same numbers".to_owned();
            return differs(format!("the literal value {}", a.value), message, "others".to_owned());
        }
    }
    let declared = |c: &Captured<u64>| {
        (c.inputs.clone(), c.params.clone(), c.states.clone(), c.outputs.clone(), c.literals.len())
    };
    if declared(first) != declared(other) {
        return differs("what is declared".to_owned(), "one list".to_owned(), "another".to_owned());
    }
    Ok(())
}
