//! `RmsNorm`: `x / sqrt(mean(x²) + eps) * w`.
//!
//! ```text
//! x ─┬─ square ─ mean ─ eps ─ rms ─┐
//!    └──────────────────────────── div ─ mul ─ y
//! w ──────────────────────────────────────┘
//! ```

use super::{Fragment, last_axis};
use crate::Op;
use crate::build::BuildError;
use crate::graph::Value;

pub(super) fn expand(f: &mut Fragment, args: &[Value], eps: f32) -> Result<Vec<Value>, BuildError> {
    let (x, w) = (args[0], args[1]);
    let square = f.node("square", Op::Mul, &[x, x])?;
    let mean = f.node("mean", Op::Mean { axis: last_axis(&f.shape(x)) }, &[square])?;
    let eps = f.node("eps", Op::AddScalar { by: eps }, &[mean])?;
    let rms = f.node("rms", Op::Sqrt, &[eps])?;
    let div = f.node("div", Op::Div, &[x, rms])?;
    Ok(vec![f.node("mul", Op::Mul, &[div, w])?])
}
