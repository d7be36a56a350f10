//! `SwiGlu` and `LinearAdd`: a product and what follows it.
//!
//! ```text
//! x ─┬─ linear gate ─┬─ sigmoid ─ silu ─┐          x ──────── linear ─┐
//!    │               └──────────────┘   mul ─ y    residual ───────── add ─ y
//!    └─ linear up ──────────────────────┘
//! ```

use super::Fragment;
use crate::Op;
use crate::build::BuildError;
use crate::graph::Value;

pub(super) fn expand_swiglu(f: &mut Fragment, args: &[Value]) -> Result<Vec<Value>, BuildError> {
    let gate = f.node("gate", Op::Linear, &[args[0], args[1]])?;
    let sigmoid = f.node("sigmoid", Op::Sigmoid, &[gate])?;
    let silu = f.node("silu", Op::Mul, &[gate, sigmoid])?;
    let up = f.node("up", Op::Linear, &[args[0], args[2]])?;
    Ok(vec![f.node("mul", Op::Mul, &[silu, up])?])
}

pub(super) fn expand_add(f: &mut Fragment, args: &[Value]) -> Result<Vec<Value>, BuildError> {
    let (residual, product) = (args[args.len() - 1], &args[..args.len() - 1]);
    let linear = f.node("linear", Op::Linear, product)?;
    Ok(vec![f.node("add", Op::Add, &[residual, linear])?])
}
