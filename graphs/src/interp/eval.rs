//! One core operation on concrete tensors.

use super::error::Fault;
use super::tensor::{Data, MAX_ELEMENTS, Tensor, round_f16};
use super::{arithmetic, indices, layout, products};
use crate::{DType, Dim, Op, TensorType};

/// Where an operation is evaluated.
#[derive(Copy, Clone)]
pub(super) struct Place {
    pub(super) seq: u32,
    pub(super) past: u32,
    /// The row that `LastRow` gives.
    pub(super) row: usize,
}

impl Place {
    /// The value of a dimension. Symbols are small, so that it fits.
    pub(super) fn dim(self, dim: Dim) -> usize {
        dim.at(self.seq, self.past) as usize
    }
}

/// The numbers of an argument.
pub(super) fn floats<'a>(args: &[&'a Tensor], at: usize) -> Result<&'a [f32], Fault> {
    let found = args.get(at).ok_or_else(|| wrong("an argument", "absent"))?;
    found.as_f32().ok_or_else(|| wrong("an argument", &found.describe()))
}

/// The indices of an argument.
pub(super) fn ints<'a>(args: &[&'a Tensor], at: usize) -> Result<&'a [i32], Fault> {
    let found = args.get(at).ok_or_else(|| wrong("an argument", "absent"))?;
    found.as_i32().ok_or_else(|| wrong("an argument", &found.describe()))
}

fn wrong(what: &'static str, found: &str) -> Fault {
    Fault::Type { what, found: found.into(), expected: "what inference says".into() }
}

/// The results of a core operation. Arguments are values of the types from which `out` was inferred.
pub(super) fn eval(
    op: &Op,
    args: &[&Tensor],
    out: &[TensorType],
    place: Place,
) -> Result<Vec<Tensor>, Fault> {
    for ty in out {
        if ty.elements(place.seq, place.past).is_none_or(|n| n > MAX_ELEMENTS as u64) {
            return Err(Fault::TooLarge { found: ty.to_string(), most: MAX_ELEMENTS });
        }
    }
    let Some(ty) = out.first() else { return Err(wrong("a result", "absent")) };
    let Some(first) = args.first() else { return Err(wrong("an argument", "absent")) };
    let shape = ty.at(place.seq, place.past);
    let results = match op {
        Op::Add => vec![arithmetic::pair(args, shape, |a, b| a + b)?],
        Op::Sub => vec![arithmetic::pair(args, shape, |a, b| a - b)?],
        Op::Mul => vec![arithmetic::pair(args, shape, |a, b| a * b)?],
        Op::Div => vec![arithmetic::pair(args, shape, |a, b| a / b)?],
        Op::AddScalar { by } => vec![arithmetic::each(args, |x| x + by)?],
        Op::MulScalar { by } => vec![arithmetic::each(args, |x| x * by)?],
        Op::Sqrt => vec![arithmetic::each(args, f32::sqrt)?],
        Op::Sigmoid => vec![arithmetic::each(args, |x| 1.0 / (1.0 + (-x).exp()))?],
        Op::Sin => vec![arithmetic::each(args, f32::sin)?],
        Op::Cos => vec![arithmetic::each(args, f32::cos)?],
        Op::Cast { to } => vec![cast(first, *to)],
        Op::Mean { axis } => vec![arithmetic::along(args, shape, *axis as usize, |sum, n| sum / n as f32)?],
        Op::Sum { axis } => vec![arithmetic::along(args, shape, *axis as usize, |sum, _| sum)?],
        Op::Softmax => vec![arithmetic::softmax(args)?],
        Op::Linear => vec![products::linear(args, shape)?],
        Op::MatMul => vec![products::matmul(args, shape)?],
        Op::DepthwiseConv { taps } => vec![products::depthwise_conv(args, shape, *taps as usize)?],
        Op::Reshape { .. } => vec![Tensor { shape, data: first.data.clone() }],
        Op::Permute { order } => vec![layout::permute(first, shape, order)?],
        Op::Slice { axis, from, .. } => vec![layout::slice(first, shape, *axis as usize, place.dim(*from))?],
        Op::Concat { axis } => vec![layout::concat(args, shape, *axis as usize)?],
        Op::Broadcast { .. } => vec![layout::broadcast(first, shape)?],
        Op::LastRow => vec![layout::slice(first, shape, 0, place.row)?],
        Op::Select => vec![indices::select(args, shape)?],
        Op::Gather => vec![indices::gather(args, shape)?],
        Op::TopK { k } => indices::top_k(args, shape, *k as usize)?,
        Op::CausalMask { window } => vec![indices::causal_mask(args, place, window.map(|w| w as usize))?],
        Op::RmsNorm { .. }
        | Op::RopeTable
        | Op::Rope
        | Op::Attention { .. }
        | Op::ConvGate { .. }
        | Op::SwiGlu
        | Op::LinearAdd
        | Op::Moe { .. } => return Err(wrong("the operation", "fused")),
    };
    for (result, ty) in results.iter().zip(out) {
        if !result.is(ty, place.seq, place.past) {
            return Err(Fault::Type {
                what: "the result",
                found: result.describe(),
                expected: ty.to_string(),
            });
        }
    }
    Ok(results)
}

/// Indices become numbers, numbers lose what the element type cannot hold: `f16` rounds to nearest even, `i32`
/// rounds towards zero and saturates.
fn cast(x: &Tensor, to: DType) -> Tensor {
    let data = match (&x.data, to) {
        (Data::F32(data), DType::F32) => Data::F32(data.clone()),
        (Data::F32(data), DType::F16) => Data::F32(data.iter().map(|x| round_f16(*x)).collect()),
        (Data::F32(data), DType::I32) => Data::I32(data.iter().map(|x| *x as i32).collect()),
        (Data::I32(data), DType::F32) => Data::F32(data.iter().map(|x| *x as f32).collect()),
        (Data::I32(data), DType::F16) => Data::F32(data.iter().map(|x| round_f16(*x as f32)).collect()),
        (Data::I32(data), DType::I32) => Data::I32(data.clone()),
    };
    Tensor { shape: x.shape.clone(), data }
}
