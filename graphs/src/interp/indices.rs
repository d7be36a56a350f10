//! Operations that read or give positions.

use super::error::Fault;
use super::eval::{Place, floats, ints};
use super::layout::moved;
use super::tensor::{Tensor, ravel, unravel};

/// Each index as a position among `size` things.
fn positions(indices: &[i32], size: usize) -> Result<Vec<usize>, Fault> {
    let position = |(at, index): (usize, &i32)| {
        let found = usize::try_from(*index).ok().filter(|i| *i < size);
        found.ok_or(Fault::Index { index: *index, at, size })
    };
    indices.iter().enumerate().map(position).collect()
}

/// `table [r, n], indices [m] -> [m, n]`.
pub(super) fn select(args: &[&Tensor], shape: Vec<usize>) -> Result<Tensor, Fault> {
    let table = args[0];
    let rows = positions(ints(args, 1)?, table.shape[0])?;
    moved(&[table], shape, |index| {
        let mut at = index.to_vec();
        at[0] = rows[index[0]];
        (0, ravel(&at, &table.shape))
    })
}

/// `x [n, e], indices [n, k] -> [n, k]`.
pub(super) fn gather(args: &[&Tensor], shape: Vec<usize>) -> Result<Tensor, Fault> {
    let (x, last) = (args[0], shape.len() - 1);
    let columns = positions(ints(args, 1)?, x.shape[last])?;
    let from = shape.clone();
    moved(&[x], shape, |index| {
        let mut at = index.to_vec();
        at[last] = columns[ravel(index, &from)];
        (0, ravel(&at, &x.shape))
    })
}

/// `x [n, e] -> values [n, k], indices [n, k]`: the largest first, of equals the lower index. What is not a number
/// comes after all numbers.
pub(super) fn top_k(args: &[&Tensor], shape: Vec<usize>, k: usize) -> Result<Vec<Tensor>, Fault> {
    let (x, e) = (floats(args, 0)?, args[0].shape[shape.len() - 1].max(1));
    let (mut values, mut indices) = (Vec::new(), Vec::new());
    for row in x.chunks(e) {
        let mut left: Vec<usize> = (0..row.len()).collect();
        for _ in 0..k.min(row.len()) {
            let mut best = 0;
            for at in 1..left.len() {
                let (found, most) = (row[left[at]], row[left[best]]);
                if found > most || (most.is_nan() && !found.is_nan()) {
                    best = at;
                }
            }
            let index = left.remove(best);
            values.push(row[index]);
            indices.push(index as i32);
        }
    }
    Ok(vec![Tensor::f32(shape.clone(), values), Tensor::i32(shape, indices)])
}

/// `scores [n, seq, past+seq]` with minus infinity where a query does not see a key.
pub(super) fn causal_mask(args: &[&Tensor], place: Place, window: Option<usize>) -> Result<Tensor, Fault> {
    let (x, shape) = (floats(args, 0)?, args[0].shape.clone());
    let rank = shape.len();
    let mask = |(flat, score): (usize, &f32)| {
        let index = unravel(flat, &shape);
        let (query, key) = (place.past as usize + index[rank - 2], index[rank - 1]);
        let seen = key <= query && window.is_none_or(|window| query - key < window);
        if seen { *score } else { f32::NEG_INFINITY }
    };
    let data = x.iter().enumerate().map(mask).collect();
    Ok(Tensor::f32(shape, data))
}
