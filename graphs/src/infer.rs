//! Type inference: (operation, argument types) → result types. It is also the type half of the verifier.

use crate::op::OpName;
use crate::types::MAX_RANK;
use crate::{DType, Dim, Op, TensorType};

/// Why an operation cannot take its arguments.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InferError {
    /// Wrong number of arguments.
    #[error("{op} takes {least} to {most} arguments, got {found}")]
    Arity {
        /// The operation.
        op: OpName,
        /// Least number of arguments.
        least: usize,
        /// Most arguments.
        most: usize,
        /// Number of arguments found.
        found: usize,
    },
    /// An argument has an unsuitable type.
    #[error("{op}: argument {arg} is {found}, expected {expected}")]
    Argument {
        /// The operation.
        op: OpName,
        /// Position of the argument.
        arg: usize,
        /// Its type.
        found: TensorType,
        /// What would fit.
        expected: String,
    },
    /// An attribute is out of range.
    #[error("{op}: {what}")]
    Attribute {
        /// The operation.
        op: OpName,
        /// What is wrong with it.
        what: String,
    },
}

struct Args<'a> {
    op: &'a Op,
    types: &'a [&'a TensorType],
}

impl<'a> Args<'a> {
    fn wrong(&self, arg: usize, expected: impl Into<String>) -> InferError {
        InferError::Argument {
            op: self.op.name(),
            arg,
            found: self.types[arg].clone(),
            expected: expected.into(),
        }
    }

    fn attribute(&self, what: impl Into<String>) -> InferError {
        InferError::Attribute { op: self.op.name(), what: what.into() }
    }

    /// Argument `arg`, which must be `f32` of at least `rank` axes.
    fn float(&self, arg: usize, rank: usize) -> Result<&'a [Dim], InferError> {
        let ty = self.types[arg];
        if ty.dtype != DType::F32 || ty.rank() < rank {
            return Err(self.wrong(arg, format!("f32 of at least {rank} axes")));
        }
        Ok(&ty.shape)
    }

    /// Argument `arg`, which must be `f32` of exactly `rank` axes.
    fn float_of<const N: usize>(&self, arg: usize) -> Result<[Dim; N], InferError> {
        let ty = self.types[arg];
        match (ty.dtype, <[Dim; N]>::try_from(ty.shape.as_slice())) {
            (DType::F32, Ok(shape)) => Ok(shape),
            _ => Err(self.wrong(arg, format!("f32 of {N} axes"))),
        }
    }

    /// Argument `arg`, which must be exactly this type.
    fn exact(&self, arg: usize, dtype: DType, shape: &[Dim]) -> Result<(), InferError> {
        let expected = TensorType { dtype, shape: shape.to_vec() };
        if *self.types[arg] != expected { Err(self.wrong(arg, expected.to_string())) } else { Ok(()) }
    }

    fn axis(&self, axis: u8, rank: usize) -> Result<usize, InferError> {
        if (axis as usize) < rank {
            Ok(axis as usize)
        } else {
            Err(self.attribute(format!("axis {axis} of a tensor of {rank} axes")))
        }
    }

    fn fixed(&self, arg: usize, dim: Dim, what: &str) -> Result<u32, InferError> {
        dim.as_fixed().ok_or_else(|| self.wrong(arg, format!("a fixed number of {what}")))
    }

    fn finite(&self, name: &str, value: f32) -> Result<(), InferError> {
        if value.is_finite() {
            Ok(())
        } else {
            Err(self.attribute(format!("{name} is {value}, expected a finite number")))
        }
    }

    fn positive(&self, name: &str, value: f32) -> Result<(), InferError> {
        if value.is_finite() && value > 0.0 {
            Ok(())
        } else {
            Err(self.attribute(format!("{name} is {value}, expected a positive finite number")))
        }
    }
}

/// The shape of `a op b` with axes of size one stretched, axes aligned at the end.
fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let at = |s: &[Dim], i: usize| (i + s.len()).checked_sub(rank).map_or(Dim::ONE, |i| s[i]);
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (x, y) if x == y => Some(x),
            (x, Dim::ONE) => Some(x),
            (Dim::ONE, y) => Some(y),
            _ => None,
        })
        .collect()
}

fn with_last(shape: &[Dim], last: Dim) -> TensorType {
    let mut shape = shape.to_vec();
    if let Some(dim) = shape.last_mut() {
        *dim = last;
    }
    TensorType::f32(shape)
}

/// The result types of `op` on arguments of the given types.
pub fn infer(op: &Op, types: &[&TensorType]) -> Result<Vec<TensorType>, InferError> {
    let (least, most) = op.arity();
    if types.len() < least || types.len() > most {
        return Err(InferError::Arity { op: op.name(), least, most, found: types.len() });
    }
    let args = Args { op, types };
    let one = |ty: TensorType| Ok(vec![ty]);
    match op {
        Op::Add | Op::Sub | Op::Mul | Op::Div => {
            let (a, b) = (args.float(0, 0)?, args.float(1, 0)?);
            let shape = broadcast(a, b)
                .ok_or_else(|| args.wrong(1, format!("a shape that stretches to {}", types[0])))?;
            one(TensorType::f32(shape))
        }
        Op::AddScalar { by } | Op::MulScalar { by } => {
            args.float(0, 0)?;
            args.finite("by", *by)?;
            one(types[0].clone())
        }
        Op::Sqrt | Op::Sigmoid | Op::Sin | Op::Cos => {
            args.float(0, 0)?;
            one(types[0].clone())
        }
        Op::Cast { to } => one(TensorType { dtype: *to, shape: types[0].shape.clone() }),
        Op::Mean { axis } | Op::Sum { axis } => {
            let mut shape = args.float(0, 1)?.to_vec();
            let axis = args.axis(*axis, shape.len())?;
            shape[axis] = Dim::ONE;
            one(TensorType::f32(shape))
        }
        Op::Softmax => {
            args.float(0, 1)?;
            one(types[0].clone())
        }
        Op::Linear => {
            let (x, [o, k]) = (args.float(0, 1)?, args.float_of(1)?);
            if x.last() != Some(&k) {
                return Err(args.wrong(0, format!("f32 with {k} columns")));
            }
            if types.len() == 3 {
                args.exact(2, DType::F32, &[o])?;
            }
            one(with_last(x, o))
        }
        Op::LinearAdd => {
            let (x, [o, k]) = (args.float(0, 1)?, args.float_of(1)?);
            if x.last() != Some(&k) {
                return Err(args.wrong(0, format!("f32 with {k} columns")));
            }
            if types.len() == 4 {
                args.exact(2, DType::F32, &[o])?;
            }
            let out = with_last(x, o);
            args.exact(types.len() - 1, DType::F32, &out.shape)?;
            one(out)
        }
        Op::SwiGlu => {
            let (x, [i, k]) = (args.float(0, 1)?, args.float_of(1)?);
            if x.last() != Some(&k) {
                return Err(args.wrong(0, format!("f32 with {k} columns")));
            }
            args.exact(2, DType::F32, &[i, k])?;
            one(with_last(x, i))
        }
        Op::MatMul => {
            let (a, b) = (args.float(0, 2)?, args.float(1, 2)?);
            let n = a.len() - 2;
            if b.len() != a.len() || a[..n] != b[..n] || a[n + 1] != b[n] {
                return Err(args.wrong(1, format!("f32 whose leading axes and rows fit {}", types[0])));
            }
            one(with_last(a, b[n + 1]))
        }
        Op::DepthwiseConv { taps } => {
            let ([c, l], [wc, wt]) = (args.float_of(0)?, args.float_of(1)?);
            if *taps == 0 {
                return Err(args.attribute("taps is 0, expected at least 1"));
            }
            if wc != c || wt != Dim::fixed(*taps) {
                return Err(args.wrong(1, format!("f32[{c}, {taps}]")));
            }
            if types.len() == 3 {
                args.exact(2, DType::F32, &[c])?;
            }
            let out = l
                .checked_sub(Dim::fixed(taps - 1))
                .ok_or_else(|| args.wrong(0, format!("at least {taps} positions, whatever seq and past")))?;
            one(TensorType::f32([c, out]))
        }
        Op::Reshape { to } => {
            let out = TensorType { dtype: types[0].dtype, shape: to.clone() };
            if to.len() > MAX_RANK || out.count().is_none() || out.count() != types[0].count() {
                return Err(args.attribute(format!("{} has not as many elements as {out}", types[0])));
            }
            one(out)
        }
        Op::Permute { order } => {
            let shape = &types[0].shape;
            let mut seen = vec![false; shape.len()];
            for axis in order {
                match seen.get_mut(*axis as usize) {
                    Some(seen @ false) => *seen = true,
                    _ => {
                        return Err(
                            args.attribute(format!("order {order:?} is not a permutation of the axes"))
                        );
                    }
                }
            }
            if order.len() != shape.len() {
                return Err(args.attribute(format!("order {order:?} for a tensor of {} axes", shape.len())));
            }
            let shape = order.iter().map(|axis| shape[*axis as usize]).collect();
            one(TensorType { dtype: types[0].dtype, shape })
        }
        Op::Slice { axis, from, to } => {
            let mut shape = types[0].shape.clone();
            let axis = args.axis(*axis, shape.len())?;
            let size = to
                .checked_sub(*from)
                .filter(|_| shape[axis].checked_sub(*to).is_some())
                .ok_or_else(|| args.attribute(format!("slice {from}..{to} of an axis of {}", shape[axis])))?;
            shape[axis] = size;
            one(TensorType { dtype: types[0].dtype, shape })
        }
        Op::Concat { axis } => {
            let mut shape = types[0].shape.clone();
            let axis = args.axis(*axis, shape.len())?;
            for (arg, ty) in types.iter().enumerate().skip(1) {
                let fits = ty.dtype == types[0].dtype
                    && ty.rank() == shape.len()
                    && (0..shape.len()).all(|i| i == axis || ty.shape[i] == shape[i]);
                if !fits {
                    return Err(args.wrong(arg, format!("a type like {} but for axis {axis}", types[0])));
                }
                shape[axis] = shape[axis]
                    .checked_add(ty.shape[axis])
                    .ok_or_else(|| args.attribute("the sum of the sizes overflows"))?;
            }
            one(TensorType { dtype: types[0].dtype, shape })
        }
        Op::Broadcast { to } => {
            let fits =
                to.len() <= MAX_RANK && broadcast(&types[0].shape, to).is_some_and(|shape| shape == *to);
            if !fits {
                return Err(args.attribute(format!("{} does not stretch to the new shape", types[0])));
            }
            one(TensorType { dtype: types[0].dtype, shape: to.clone() })
        }
        Op::Select => {
            let table = &types[0].shape;
            let indices = types[1];
            if table.is_empty() {
                return Err(args.wrong(0, "a table of at least one axis"));
            }
            if indices.dtype != DType::I32 || indices.rank() != 1 {
                return Err(args.wrong(1, "i32 of one axis"));
            }
            let mut shape = table.clone();
            shape[0] = indices.shape[0];
            one(TensorType { dtype: types[0].dtype, shape })
        }
        Op::Gather => {
            let (x, indices) = (args.float(0, 1)?, types[1]);
            let n = x.len() - 1;
            if indices.dtype != DType::I32 || indices.rank() != x.len() || indices.shape[..n] != x[..n] {
                return Err(args.wrong(1, format!("i32 with the leading axes of {}", types[0])));
            }
            one(TensorType::f32(indices.shape.iter().copied()))
        }
        Op::TopK { k } => {
            let x = args.float(0, 1)?;
            let e = args.fixed(0, x[x.len() - 1], "candidates")?;
            if *k == 0 || *k > e {
                return Err(args.attribute(format!("k is {k}, expected 1 to {e}")));
            }
            let values = with_last(x, Dim::fixed(*k));
            let indices = TensorType { dtype: DType::I32, shape: values.shape.clone() };
            Ok(vec![values, indices])
        }
        Op::CausalMask { window } => {
            let x = args.float(0, 2)?;
            if x[x.len() - 2..] != [Dim::SEQ, Dim::TOTAL] {
                return Err(args.wrong(0, "f32[.., seq, past+seq]"));
            }
            if *window == Some(0) {
                return Err(args.attribute("window is 0, expected at least 1"));
            }
            one(types[0].clone())
        }
        Op::LastRow => {
            let x = args.float(0, 1)?;
            if x[0] != Dim::SEQ {
                return Err(args.wrong(0, "f32[seq, ..]"));
            }
            let mut shape = x.to_vec();
            shape[0] = Dim::ONE;
            one(TensorType::f32(shape))
        }
        Op::RmsNorm { eps } => {
            let x = args.float(0, 1)?;
            args.positive("eps", *eps)?;
            args.fixed(0, x[x.len() - 1], "columns")?;
            args.exact(1, DType::F32, &x[x.len() - 1..])?;
            one(types[0].clone())
        }
        Op::RopeTable => {
            let [d] = args.float_of(1)?;
            args.fixed(1, d, "frequencies")?;
            args.exact(0, DType::I32, &[Dim::SEQ])?;
            let table = TensorType::f32([Dim::SEQ, d]);
            Ok(vec![table.clone(), table])
        }
        Op::Rope => {
            let [n, _, width] = args.float_of(0)?;
            let [_, d] = args.float_of(1)?;
            args.fixed(1, d, "frequencies")?;
            if d.checked_mul(2) != Some(width) {
                return Err(args.wrong(1, format!("half as many columns as {}", types[0])));
            }
            args.exact(1, DType::F32, &[n, d])?;
            args.exact(2, DType::F32, &[n, d])?;
            one(types[0].clone())
        }
        Op::Attention { scale, window } => {
            let ([n, heads, d], [_, kv, _]) = (args.float_of(0)?, args.float_of(1)?);
            args.positive("scale", *scale)?;
            if *window == Some(0) {
                return Err(args.attribute("window is 0, expected at least 1"));
            }
            if n != Dim::SEQ {
                return Err(args.wrong(0, "f32[seq, heads, d]"));
            }
            let (h, g) = (args.fixed(0, heads, "heads")?, args.fixed(1, kv, "key heads")?);
            let d = args.fixed(0, d, "columns a head")?;
            if g == 0 || d == 0 || h == 0 || h % g != 0 {
                return Err(args.wrong(1, format!("a number of key heads that divides {h}")));
            }
            let d = Dim::fixed(d);
            args.exact(1, DType::F32, &[n, kv, d])?;
            args.exact(2, DType::F32, &[n, kv, d])?;
            let dtype = types[3].dtype;
            if dtype == DType::I32 {
                return Err(args.wrong(3, "f32 or f16 keys"));
            }
            args.exact(3, dtype, &[kv, Dim::PAST, d])?;
            args.exact(4, dtype, &[kv, Dim::PAST, d])?;
            let width = heads.checked_mul(d.base).ok_or_else(|| args.attribute("heads * d overflows"))?;
            let next = TensorType { dtype, shape: vec![kv, Dim::TOTAL, d] };
            Ok(vec![TensorType::f32([n, width]), next.clone(), next])
        }
        Op::ConvGate { taps } => {
            let ([n, three], [h, _]) = (args.float_of(0)?, args.float_of(1)?);
            args.fixed(1, h, "channels")?;
            if *taps == 0 {
                return Err(args.attribute("taps is 0, expected at least 1"));
            }
            if n != Dim::SEQ || h.checked_mul(3) != Some(three) {
                return Err(args.wrong(0, format!("f32[seq, 3 * {h}]")));
            }
            args.exact(1, DType::F32, &[h, Dim::fixed(*taps)])?;
            if types.len() == 4 {
                args.exact(2, DType::F32, &[h])?;
            }
            let window = [h, Dim::fixed(taps - 1)];
            args.exact(types.len() - 1, DType::F32, &window)?;
            Ok(vec![TensorType::f32([n, h]), TensorType::f32(window)])
        }
        Op::Moe { top_k, renorm, scale, bias, residual } => {
            let ([n, h], [e, i, _]) = (args.float_of(0)?, args.float_of(2 + *bias as usize)?);
            args.finite("scale", *scale)?;
            if let Some(eps) = renorm
                && !(eps.is_finite() && *eps >= 0.0)
            {
                return Err(args.attribute(format!("renorm is {eps}, expected a finite number from 0")));
            }
            let experts = args.fixed(2 + *bias as usize, e, "experts")?;
            if *top_k == 0 || *top_k > experts {
                return Err(args.attribute(format!("top_k is {top_k}, expected 1 to {experts}")));
            }
            args.exact(1, DType::F32, &[e, h])?;
            let mut at = 2;
            if *bias {
                args.exact(at, DType::F32, &[e])?;
                at += 1;
            }
            args.exact(at, DType::F32, &[e, i, h])?;
            args.exact(at + 1, DType::F32, &[e, i, h])?;
            args.exact(at + 2, DType::F32, &[e, h, i])?;
            if *residual {
                args.exact(at + 3, DType::F32, &[n, h])?;
            }
            one(TensorType::f32([n, h]))
        }
    }
}
