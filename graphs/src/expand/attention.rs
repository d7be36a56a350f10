//! `Attention`: causal attention over the keys and values of all tokens so far.
//!
//! ```text
//! k [seq, kv, d] ─ (round) ─ columns ─┐
//! @k [kv, past, d] ────────────────── concat [kv, past+seq, d] ─┬─ k'
//!                                                               └─ (f32) ─ kᵀ [kv, d, past+seq] ─┐
//! q [seq, heads, d] ─ columns ─ group [kv, heads/kv * seq, d] ────────────────────────────────── dot
//!                                                                                                 │
//!            weights ─ softmax ─ mask ─ scale ─ scores [heads, seq, past+seq] ─────────────────────┘
//!               └── mix with v as k above ─ heads [heads, seq, d] ─ rows [seq, heads, d] ─ y [seq, heads * d]
//! ```
//!
//! Heads `kv * g .. kv * (g + 1)` share a key head, so that the queries of a group are more rows of one product.
//! Rounding stands only where the states are `f16`.

use super::Fragment;
use crate::build::BuildError;
use crate::graph::Value;
use crate::{DType, Dim, Op};

pub(super) fn expand(
    f: &mut Fragment,
    args: &[Value],
    scale: f32,
    window: Option<u32>,
) -> Result<Vec<Value>, BuildError> {
    let q_shape = f.shape(args[0]);
    let (seq, heads, d, kv) = (q_shape[0], q_shape[1], q_shape[2], f.shape(args[1])[1]);
    let grouped = f.times(seq, heads.base / kv.base.max(1))?;

    let q = f.node("q", Op::Permute { order: vec![1, 0, 2] }, &[args[0]])?;
    let q = f.node("q.group", Op::Reshape { to: vec![kv, grouped, d] }, &[q])?;
    let (k_next, k) = append(f, "k", args[1], args[3])?;
    let (v_next, v) = append(f, "v", args[2], args[4])?;

    let k = f.node("k.t", Op::Permute { order: vec![0, 2, 1] }, &[k])?;
    let dot = f.node("dot", Op::MatMul, &[q, k])?;
    let scores = f.node("scores", Op::Reshape { to: vec![heads, seq, Dim::TOTAL] }, &[dot])?;
    let scaled = f.node("scale", Op::MulScalar { by: scale }, &[scores])?;
    let masked = f.node("mask", Op::CausalMask { window }, &[scaled])?;
    let softmax = f.node("softmax", Op::Softmax, &[masked])?;
    let weights = f.node("weights", Op::Reshape { to: vec![kv, grouped, Dim::TOTAL] }, &[softmax])?;
    let mix = f.node("mix", Op::MatMul, &[weights, v])?;
    let mix = f.node("heads", Op::Reshape { to: vec![heads, seq, d] }, &[mix])?;
    let rows = f.node("rows", Op::Permute { order: vec![1, 0, 2] }, &[mix])?;
    let width = f.times(heads, d.base)?;
    let y = f.node("join", Op::Reshape { to: vec![seq, width] }, &[rows])?;
    Ok(vec![y, k_next, v_next])
}

/// The state with `new [seq, kv, d]` after it, `[kv, past+seq, d]`: as it is kept, and in `f32`.
fn append(f: &mut Fragment, role: &str, new: Value, state: Value) -> Result<(Value, Value), BuildError> {
    let dtype = f.graph.ty(state).dtype;
    let mut new = f.node(role, Op::Permute { order: vec![1, 0, 2] }, &[new])?;
    if dtype != DType::F32 {
        new = f.node(&format!("{role}.round"), Op::Cast { to: dtype }, &[new])?;
    }
    let next = f.node(&format!("{role}.concat"), Op::Concat { axis: 1 }, &[state, new])?;
    if dtype == DType::F32 {
        return Ok((next, next));
    }
    let float = f.node(&format!("{role}.f32"), Op::Cast { to: DType::F32 }, &[next])?;
    Ok((next, float))
}
