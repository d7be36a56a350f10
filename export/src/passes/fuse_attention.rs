//! Fuses causal attention, which takes over the states of keys and values.
//!
//! ```text
//! k ─ permute [1, 0, 2] ─ concat @k ─┬─ @k'
//!                                    └─ (one key head for each query head) ─ permute [0, 2, 1] ─┐
//! q ─ permute [1, 0, 2] ─────────────────────────────────────────────────────────────────────── matmul ─ scale ┐
//!                                              y ─ reshape ─ permute ─ matmul ─ softmax ─ causal_mask ───────┘
//! v ─ permute [1, 0, 2] ─ concat @v ─┬─ (as above) ───────────────────┘
//!                                    └─ @v'
//!
//! q, k, v, @k, @v ─ attention ─ y, @k', @v'
//! ```
//!
//! Key heads are given to query heads by stretching (reshape, broadcast, reshape) or by grouping the queries of a
//! key head into the rows of one product. Keys and values may be rounded to the type of the states.
//!
//! Does not fire without the causal mask, or when keys or values are not appended to a state of their own.
//! Right because query head `h` reads key head `h / (heads / kv)` in both forms, rows being in order, and because
//! `Attention` expands to the grouped one.

use lfm_graphs::graph::{Update, Value};
use lfm_graphs::{BuildError, DType, Dim, Graph, Op};

use super::pattern::{Fused, Matcher, fuse};
use super::{Miss, Outcome, Pass};
use crate::lower::name;

/// See the file.
#[derive(Debug)]
pub struct FuseAttention;

struct Found {
    q: Value,
    k: Value,
    v: Value,
    k_state: Value,
    v_state: Value,
    scale: f32,
    window: Option<u32>,
}

impl Pass for FuseAttention {
    fn name(&self) -> &'static str {
        "fuse-attention"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        fuse(graph, find, |new, _, found| {
            let scope = match found.k_state {
                Value::State(id) => name::parent(&graph.states()[id].name).to_owned(),
                Value::Input(_) | Value::Const(_) | Value::Weight(_) | Value::Node(..) => String::new(),
            };
            let args = [found.q, found.k, found.v, found.k_state, found.v_state].map(|arg| new.map(arg));
            let op = Op::Attention { scale: found.scale, window: found.window };
            let id = new.push(&name::join(&scope, "attend"), op, &args)?;
            Ok(Fused {
                results: vec![Value::Node(id, 0)],
                next: vec![(found.k_state, Value::Node(id, 1)), (found.v_state, Value::Node(id, 2))],
            })
        })
    }
}

/// Keys or values of all tokens.
struct Appended {
    new: Value,
    state: Value,
    next: Value,
}

fn find(m: &mut Matcher<'_, '_>) -> Result<Option<Found>, Miss> {
    let node = m.node();
    let (Op::Reshape { to }, [rows]) = (&node.op, node.args.as_slice()) else { return Ok(None) };
    // From y back to the softmax: only attention has a softmax between two products.
    let Some((weights, values)) = m.attempt(|m| {
        let mix = unheads(m, *rows)?;
        let mix = through_reshape(m, mix);
        let [weights, values] = m.binary(mix, |op| matches!(op, Op::MatMul))?;
        let weights = through_reshape(m, weights);
        Some((m.unary(weights, |op| matches!(op, Op::Softmax))?, values))
    }) else {
        return Ok(None);
    };
    let Some(mask) = m.take(weights, |op| matches!(op, Op::CausalMask { .. })) else {
        return m.miss("the softmax does not read a causal mask");
    };
    let Op::CausalMask { window } = mask.op else { return Ok(None) };
    let scores = mask.args[0];
    let Some(scaled) = m.take(scores, |op| matches!(op, Op::MulScalar { .. })) else {
        return m.miss("the scores are not scaled");
    };
    let Op::MulScalar { by: scale } = scaled.op else { return Ok(None) };
    let Some((q, keys)) = m.attempt(|m| {
        let dot = through_reshape(m, scaled.args[0]);
        let [q, keys] = m.binary(dot, |op| matches!(op, Op::MatMul))?;
        let keys = m.unary(keys, |op| matches!(op, Op::Permute { order } if *order == [0, 2, 1]))?;
        let q = through_reshape(m, q);
        Some((unheads(m, q)?, keys))
    }) else {
        return m.miss("the scores are no product of queries [seq, heads, d] and turned keys");
    };
    let (Some(keys), Some(values)) = (appended(m, keys), appended(m, values)) else {
        return m.miss("keys or values are not what a state of their own is appended to");
    };
    let shape = m.shape(q);
    let joined = match (shape, to.as_slice()) {
        ([Dim::SEQ, heads, d], [Dim::SEQ, width]) => {
            d.as_fixed().and_then(|d| heads.checked_mul(d)) == Some(*width)
                && m.shape(scores) == [*heads, Dim::SEQ, Dim::TOTAL]
        }
        _ => false,
    };
    if !joined {
        return m.miss("the heads are not [seq, heads, d] joined to [seq, heads * d]");
    }
    m.closed(&[keys.next, values.next])?;
    let (k_state, v_state) = (keys.state, values.state);
    Ok(Some(Found { q, k: keys.new, v: values.new, k_state, v_state, scale, window }))
}

/// The argument of the exchange of tokens and heads.
fn unheads(m: &mut Matcher<'_, '_>, value: Value) -> Option<Value> {
    m.unary(value, |op| matches!(op, Op::Permute { order } if *order == [1, 0, 2]))
}

/// The argument of a reshape that keeps the last axis, or the value itself.
fn through_reshape(m: &mut Matcher<'_, '_>, value: Value) -> Value {
    let inner = m.attempt(|m| {
        let inner = m.unary(value, |op| matches!(op, Op::Reshape { .. }))?;
        (m.shape(inner).last() == m.shape(value).last()).then_some(inner)
    });
    inner.unwrap_or(value)
}

/// What is appended to a state, seen from the keys or values of every query head.
fn appended(m: &mut Matcher<'_, '_>, value: Value) -> Option<Appended> {
    let stretched = m.attempt(|m| {
        let wide = m.unary(value, |op| matches!(op, Op::Reshape { .. }))?;
        let narrow = m.unary(wide, |op| matches!(op, Op::Broadcast { .. }))?;
        let kept = m.unary(narrow, |op| matches!(op, Op::Reshape { .. }))?;
        // [kv, t, d] → [kv, 1, t, d] → [kv, n, t, d] → [kv * n, t, d]
        let ([kv, t, d], [a, Dim::ONE, b, c]) = (m.shape(kept), m.shape(narrow)) else { return None };
        let ([kv_wide, _, ..], [_, t_wide, d_wide]) = (m.shape(wide), m.shape(value)) else { return None };
        ((a, b, c) == (kv, t, d) && kv_wide == kv && (t_wide, d_wide) == (t, d)).then_some(kept)
    });
    let value = stretched.unwrap_or(value);
    let is_cast = |to: DType| move |op: &Op| matches!(op, Op::Cast { to: found } if *found == to);
    let next = m.attempt(|m| m.unary(value, is_cast(DType::F32))).unwrap_or(value);
    let [state, new] = m.binary(next, |op| matches!(op, Op::Concat { axis: 1 }))?;
    let new = m.attempt(|m| m.unary(new, is_cast(DType::F16))).unwrap_or(new);
    let new = unheads(m, new)?;
    let Value::State(id) = state else { return None };
    let declared = &m.view.graph.states()[id];
    let own = declared.next == next && declared.update == Update::Append { axis: 1 };
    own.then_some(Appended { new, state, next })
}
