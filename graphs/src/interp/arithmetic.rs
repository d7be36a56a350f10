//! Elementwise operations and reductions.

use super::error::Fault;
use super::eval::floats;
use super::tensor::{Tensor, ravel, ravel_stretched, unravel};

/// `f(x)` of each element.
pub(super) fn each(args: &[&Tensor], f: impl Fn(f32) -> f32) -> Result<Tensor, Fault> {
    let data = floats(args, 0)?.iter().map(|x| f(*x)).collect();
    Ok(Tensor::f32(args[0].shape.clone(), data))
}

/// `f(a, b)` of each pair of elements, axes of size one stretched to `shape`.
pub(super) fn pair(
    args: &[&Tensor],
    shape: Vec<usize>,
    f: impl Fn(f32, f32) -> f32,
) -> Result<Tensor, Fault> {
    let (a, b) = (floats(args, 0)?, floats(args, 1)?);
    let data = (0..shape.iter().product())
        .map(|flat| {
            let index = unravel(flat, &shape);
            f(a[ravel_stretched(&index, &args[0].shape)], b[ravel_stretched(&index, &args[1].shape)])
        })
        .collect();
    Ok(Tensor::f32(shape, data))
}

/// `f(sum, size)` along an axis; `shape` has size one there.
pub(super) fn along(
    args: &[&Tensor],
    shape: Vec<usize>,
    axis: usize,
    f: impl Fn(f32, usize) -> f32,
) -> Result<Tensor, Fault> {
    let (x, from) = (floats(args, 0)?, &args[0].shape);
    let size = from[axis];
    let data = (0..shape.iter().product())
        .map(|flat| {
            let mut index = unravel(flat, &shape);
            let mut sum = 0.0;
            for i in 0..size {
                index[axis] = i;
                sum += x[ravel(&index, from)];
            }
            f(sum, size)
        })
        .collect();
    Ok(Tensor::f32(shape, data))
}

/// `exp(x - max) / sum` over the last axis.
pub(super) fn softmax(args: &[&Tensor]) -> Result<Tensor, Fault> {
    let (x, shape) = (floats(args, 0)?, args[0].shape.clone());
    let width = shape[shape.len() - 1].max(1);
    let mut data = Vec::with_capacity(x.len());
    for row in x.chunks(width) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f32> = row.iter().map(|x| (x - max).exp()).collect();
        let sum: f32 = exps.iter().sum();
        data.extend(exps.iter().map(|e| e / sum));
    }
    Ok(Tensor::f32(shape, data))
}
