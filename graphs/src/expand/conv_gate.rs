//! `ConvGate`: the gated short convolution and its window.
//!
//! ```text
//! bcx [seq, 3h] ─┬─ b ─┐
//!                ├─ x ─ mul [seq, h] ─ columns [h, seq] ─┐
//!                │                     window [h, taps-1] ─ concat [h, seq+taps-1] ─┬─ conv [h, seq] ─ rows ─┐
//!                └─ c ──────────────────────────────────────────────────────────────┼────────────────────── gate ─ y
//!                                                                                   └─ the last taps-1 ─ window'
//! ```

use super::Fragment;
use crate::build::BuildError;
use crate::graph::Value;
use crate::{Dim, Op};

pub(super) fn expand(f: &mut Fragment, args: &[Value], taps: u32) -> Result<Vec<Value>, BuildError> {
    let (bcx, window) = (args[0], args[args.len() - 1]);
    // [kernel] or [kernel, bias]
    let filter = &args[1..args.len() - 1];
    let h = f.shape(filter[0])[0];
    let third = |f: &mut Fragment, role: &str, at: u32| {
        let (from, to) = (f.times(h, at)?, f.times(h, at + 1)?);
        f.node(role, Op::Slice { axis: 1, from, to }, &[bcx])
    };
    let b = third(f, "b", 0)?;
    let c = third(f, "c", 1)?;
    let x = third(f, "x", 2)?;
    let z = f.node("mul", Op::Mul, &[b, x])?;
    let columns = f.node("columns", Op::Permute { order: vec![1, 0] }, &[z])?;
    let all = f.node("concat", Op::Concat { axis: 1 }, &[window, columns])?;
    let mut conv_args = vec![all];
    conv_args.extend_from_slice(filter);
    let conv = f.node("conv", Op::DepthwiseConv { taps }, &conv_args)?;
    let rows = f.node("rows", Op::Permute { order: vec![1, 0] }, &[conv])?;
    let y = f.node("gate", Op::Mul, &[c, rows])?;
    let next = f.node("next", Op::Slice { axis: 1, from: Dim::SEQ, to: f.shape(all)[1] }, &[all])?;
    Ok(vec![y, next])
}
