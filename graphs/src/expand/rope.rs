//! `RopeTable` and `Rope`: rotary position embedding over halves.
//!
//! ```text
//! positions [seq] ─ float ─ column [seq, 1] ─┐
//! inv_freq [d] ───────────────────────────── angle [seq, d] ─┬─ cos
//!                                                            └─ sin
//!
//! x [n, heads, 2d] ─┬─ low  = x[.., ..d]      low · cos - high · sin ─┐
//!                   └─ high = x[.., d..]      high · cos + low · sin ─ concat ─ y
//! ```

use super::Fragment;
use crate::build::BuildError;
use crate::graph::Value;
use crate::{DType, Dim, Op};

pub(super) fn expand_table(f: &mut Fragment, args: &[Value]) -> Result<Vec<Value>, BuildError> {
    let float = f.node("float", Op::Cast { to: DType::F32 }, &[args[0]])?;
    let column = f.node("column", Op::Reshape { to: vec![Dim::SEQ, Dim::ONE] }, &[float])?;
    let angle = f.node("angle", Op::Mul, &[column, args[1]])?;
    Ok(vec![f.node("cos", Op::Cos, &[angle])?, f.node("sin", Op::Sin, &[angle])?])
}

pub(super) fn expand(f: &mut Fragment, args: &[Value]) -> Result<Vec<Value>, BuildError> {
    let x = args[0];
    let table = f.shape(args[1]);
    let (n, d, width) = (table[0], table[1], f.shape(x)[2]);
    let cos = f.node("cos", Op::Reshape { to: vec![n, Dim::ONE, d] }, &[args[1]])?;
    let sin = f.node("sin", Op::Reshape { to: vec![n, Dim::ONE, d] }, &[args[2]])?;
    let low = f.node("low", Op::Slice { axis: 2, from: Dim::fixed(0), to: d }, &[x])?;
    let high = f.node("high", Op::Slice { axis: 2, from: d, to: width }, &[x])?;
    let low_cos = f.node("low.cos", Op::Mul, &[low, cos])?;
    let high_sin = f.node("high.sin", Op::Mul, &[high, sin])?;
    let high_cos = f.node("high.cos", Op::Mul, &[high, cos])?;
    let low_sin = f.node("low.sin", Op::Mul, &[low, sin])?;
    let turned_low = f.node("sub", Op::Sub, &[low_cos, high_sin])?;
    let turned_high = f.node("add", Op::Add, &[high_cos, low_sin])?;
    Ok(vec![f.node("concat", Op::Concat { axis: 2 }, &[turned_low, turned_high])?])
}
