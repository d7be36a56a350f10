//! `Moe`: the router, the chosen experts, and their weighted sum.
//!
//! ```text
//! x [n, h] ─ router [n, e] ─ sigmoid s ─┬─ (biased) ─ topk ─ ids [n, k] ─┐
//!                                       └────────────────────────────── gather p [n, k] ─ (norm) ─ scale
//!
//! ids [n * k] ─ select gate, up [n * k, i, h], down [n * k, h, i]
//! x, k times [n * k, h, 1] ─┬─ gate · x ─ silu ─┐
//!                           └─ up · x ───────── mul [n * k, i, 1] ─ down · ─ [n, k, h]
//! y = Σ_k scale · that (+ residual)
//! ```

use super::Fragment;
use crate::build::BuildError;
use crate::graph::Value;
use crate::{Dim, Op};

/// How experts are chosen and weighted.
pub(super) struct Routing {
    pub(super) top_k: u32,
    pub(super) renorm: Option<f32>,
    pub(super) scale: f32,
}

pub(super) fn expand(
    f: &mut Fragment,
    args: &[Value],
    routing: &Routing,
    bias: bool,
    residual: bool,
) -> Result<Vec<Value>, BuildError> {
    let x = args[0];
    let shape = f.shape(x);
    let (n, h) = (shape[0], shape[1]);
    let (k, rows) = (Dim::fixed(routing.top_k), f.times(n, routing.top_k)?);
    let at = 2 + bias as usize;
    let (ids, p) = route(f, x, args[1], bias.then(|| args[2]), routing)?;

    let flat = f.node("ids", Op::Reshape { to: vec![rows] }, &[ids])?;
    let gate = f.node("gate", Op::Select, &[args[at], flat])?;
    let up = f.node("up", Op::Select, &[args[at + 1], flat])?;
    let down = f.node("down", Op::Select, &[args[at + 2], flat])?;

    let one = f.node("one", Op::Reshape { to: vec![n, Dim::ONE, h] }, &[x])?;
    let each = f.node("each", Op::Broadcast { to: vec![n, k, h] }, &[one])?;
    let column = f.node("column", Op::Reshape { to: vec![rows, h, Dim::ONE] }, &[each])?;
    let gate = f.node("gate.dot", Op::MatMul, &[gate, column])?;
    let sigmoid = f.node("gate.sigmoid", Op::Sigmoid, &[gate])?;
    let silu = f.node("gate.silu", Op::Mul, &[gate, sigmoid])?;
    let up = f.node("up.dot", Op::MatMul, &[up, column])?;
    let inner = f.node("mul", Op::Mul, &[silu, up])?;
    let down = f.node("down.dot", Op::MatMul, &[down, inner])?;

    let experts = f.node("experts", Op::Reshape { to: vec![n, k, h] }, &[down])?;
    let p = f.node("weights", Op::Reshape { to: vec![n, k, Dim::ONE] }, &[p])?;
    let weighted = f.node("weighted", Op::Mul, &[experts, p])?;
    let sum = f.node("sum", Op::Sum { axis: 1 }, &[weighted])?;
    let y = f.node("rows", Op::Reshape { to: vec![n, h] }, &[sum])?;
    if !residual {
        return Ok(vec![y]);
    }
    Ok(vec![f.node("add", Op::Add, &[args[args.len() - 1], y])?])
}

/// The chosen experts `i32[n, k]` and their weights `[n, k]`.
fn route(
    f: &mut Fragment,
    x: Value,
    router: Value,
    bias: Option<Value>,
    routing: &Routing,
) -> Result<(Value, Value), BuildError> {
    let logits = f.node("router", Op::Linear, &[x, router])?;
    let s = f.node("sigmoid", Op::Sigmoid, &[logits])?;
    let ranked = match bias {
        Some(bias) => f.node("biased", Op::Add, &[s, bias])?,
        None => s,
    };
    let top = f.graph.push("topk", Op::TopK { k: routing.top_k }, &[ranked])?;
    let ids = Value::Node(top, 1);
    let mut p = f.node("gather", Op::Gather, &[s, ids])?;
    if let Some(eps) = routing.renorm {
        let sum = f.node("norm.sum", Op::Sum { axis: 1 }, &[p])?;
        let sum = f.node("norm.eps", Op::AddScalar { by: eps }, &[sum])?;
        p = f.node("norm", Op::Div, &[p, sum])?;
    }
    let p = f.node("scale", Op::MulScalar { by: routing.scale }, &[p])?;
    Ok((ids, p))
}
