//! Operations that move elements.

use super::error::Fault;
use super::tensor::{Data, Tensor, ravel, ravel_stretched, unravel};

/// A tensor each of whose elements is one of `parts`: `from` says, for the index of an element, which part and
/// which of its elements.
pub(super) fn moved(
    parts: &[&Tensor],
    shape: Vec<usize>,
    from: impl Fn(&[usize]) -> (usize, usize),
) -> Result<Tensor, Fault> {
    let count = shape.iter().product();
    let mixed = || Fault::Type {
        what: "an argument",
        found: "numbers beside indices".into(),
        expected: "one element type".into(),
    };
    let source = |flat: usize| from(&unravel(flat, &shape));
    let data = match parts.first().map(|part| &part.data) {
        Some(Data::F32(_)) => {
            let parts = parts.iter().map(|p| p.as_f32()).collect::<Option<Vec<_>>>().ok_or_else(mixed)?;
            Data::F32((0..count).map(source).map(|(part, at)| parts[part][at]).collect())
        }
        Some(Data::I32(_)) => {
            let parts = parts.iter().map(|p| p.as_i32()).collect::<Option<Vec<_>>>().ok_or_else(mixed)?;
            Data::I32((0..count).map(source).map(|(part, at)| parts[part][at]).collect())
        }
        None => return Err(mixed()),
    };
    Ok(Tensor { shape, data })
}

/// Axis `i` of the result is axis `order[i]` of `x`.
pub(super) fn permute(x: &Tensor, shape: Vec<usize>, order: &[u8]) -> Result<Tensor, Fault> {
    moved(&[x], shape, |index| {
        let mut at = vec![0; index.len()];
        for (i, axis) in order.iter().enumerate() {
            at[*axis as usize] = index[i];
        }
        (0, ravel(&at, &x.shape))
    })
}

/// Elements from `first` along an axis.
pub(super) fn slice(x: &Tensor, shape: Vec<usize>, axis: usize, first: usize) -> Result<Tensor, Fault> {
    moved(&[x], shape, |index| {
        let mut at = index.to_vec();
        at[axis] += first;
        (0, ravel(&at, &x.shape))
    })
}

/// The arguments one after another along an axis.
pub(super) fn concat(args: &[&Tensor], shape: Vec<usize>, axis: usize) -> Result<Tensor, Fault> {
    moved(args, shape, |index| {
        let mut at = index.to_vec();
        let mut part = 0;
        while at[axis] >= args[part].shape[axis] {
            at[axis] -= args[part].shape[axis];
            part += 1;
        }
        (part, ravel(&at, &args[part].shape))
    })
}

/// Axes of size one stretched.
pub(super) fn broadcast(x: &Tensor, shape: Vec<usize>) -> Result<Tensor, Fault> {
    moved(&[x], shape, |index| (0, ravel_stretched(index, &x.shape)))
}
