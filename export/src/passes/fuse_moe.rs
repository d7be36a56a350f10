//! Fuses the router and its experts.
//!
//! ```text
//! x ─ linear %router ─ sigmoid ─┬─ (add %bias) ─ topk ─ ids ─ reshape [seq * k] ─ select %gate, %up, %down
//!                               └─ gather ids ─ (div sum + eps) ─ (mul_scalar) ─ p
//! x ─ k times, as columns ─┬─ matmul gate ─ silu ─┐
//!                          └─ matmul up ───────── mul ─ matmul down ─ mul p ─ sum over k ─ reshape ─ y
//!
//! x ─ moe %router, (%bias), %gate, %up, %down ─ y
//! ```
//!
//! Without the division there is no `renorm`; without the factor `scale` is 1.
//!
//! Does not fire when experts and router read different values, when the experts' weights are those of the biased
//! scores, or when a value in between has another reader.
//! Right because `Moe` expands to the left side.

use lfm_graphs::graph::Value;
use lfm_graphs::{BuildError, Dim, Graph, Op};

use super::fuse_swiglu::silu;
use super::pattern::{Fused, Matcher, fuse, is_weight, scoped};
use super::{Miss, Outcome, Pass};

/// See the file.
#[derive(Debug)]
pub struct FuseMoe;

struct Found {
    x: Value,
    router: Value,
    bias: Option<Value>,
    /// Gate, up, down.
    experts: [Value; 3],
    top_k: u32,
    renorm: Option<f32>,
    scale: f32,
}

impl Pass for FuseMoe {
    fn name(&self) -> &'static str {
        "fuse-moe"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        fuse(graph, find, |new, _, found| {
            let mut args = vec![found.x, found.router];
            args.extend(found.bias);
            args.extend(found.experts);
            let name = scoped(graph, &args[1..], "moe");
            let args: Vec<Value> = args.into_iter().map(|arg| new.map(arg)).collect();
            let op = Op::Moe {
                top_k: found.top_k,
                renorm: found.renorm,
                scale: found.scale,
                bias: found.bias.is_some(),
                residual: false,
            };
            Ok(Fused::from(new.node(&name, op, &args)?))
        })
    }
}

fn find(m: &mut Matcher<'_, '_>) -> Result<Option<Found>, Miss> {
    let node = m.node();
    let (Op::Reshape { to }, [sum]) = (&node.op, node.args.as_slice()) else { return Ok(None) };
    // From y back to the selected down matrices: nothing else looks like that.
    let Some((down, inner, weights)) = m.attempt(|m| {
        let weighted = m.unary(*sum, |op| matches!(op, Op::Sum { axis: 1 }))?;
        let factors = m.binary(weighted, |op| matches!(op, Op::Mul))?;
        m.either(factors, |m, experts, weights| {
            let product = m.unary(experts, |op| matches!(op, Op::Reshape { .. }))?;
            let [down, inner] = m.binary(product, |op| matches!(op, Op::MatMul))?;
            Some((m.binary(down, |op| matches!(op, Op::Select))?, inner, weights))
        })
    }) else {
        return Ok(None);
    };
    let Some((gate, up, column)) = m.attempt(|m| {
        let factors = m.binary(inner, |op| matches!(op, Op::Mul))?;
        m.either(factors, |m, gated, up| {
            let gate = silu(m, gated)?;
            let [gate, column] = m.binary(gate, |op| matches!(op, Op::MatMul))?;
            let [up, same] = m.binary(up, |op| matches!(op, Op::MatMul))?;
            let select = |op: &Op| matches!(op, Op::Select);
            (column == same).then_some((m.binary(gate, select)?, m.binary(up, select)?, column))
        })
    }) else {
        return m.miss("the down matrices do not read silu(gate · x) * (up · x)");
    };
    let [experts, indices] = [[gate[0], up[0], down[0]], [gate[1], up[1], down[1]]];
    if indices[0] != indices[1] || indices[1] != indices[2] {
        return m.miss("gate, up and down are selected by different indices");
    }
    let Some(ids) = m.unary(indices[0], |op| matches!(op, Op::Reshape { .. })) else {
        return m.miss("the indices are no [seq, k] laid out as [seq * k]");
    };
    let Some(top) = m.take_output(ids, 1, |op| matches!(op, Op::TopK { .. })) else {
        return m.miss("the indices are not those of a top k");
    };
    let (Op::TopK { k }, ranked) = (&top.op, top.args[0]) else { return Ok(None) };
    let Some(routing) = weighting(m, weights, ids) else {
        return m.miss("the weights of the experts are not gathered by the same indices");
    };
    let bias = match ranked == routing.scores {
        true => None,
        false => {
            let bias = m.attempt(|m| {
                let terms = m.binary(ranked, |op| matches!(op, Op::Add))?;
                m.either(terms, |_, scores, bias| (scores == routing.scores).then_some(bias))
            });
            match bias.filter(|bias| is_weight(m.view.graph, *bias, 1)) {
                Some(bias) => Some(bias),
                None => return m.miss("what is ranked is neither the gathered scores nor those and a bias"),
            }
        }
    };
    let Some([x, router]) = m.attempt(|m| {
        let logits = m.unary(routing.scores, |op| matches!(op, Op::Sigmoid))?;
        m.binary(logits, |op| matches!(op, Op::Linear))
    }) else {
        return m.miss("the scores are no sigmoid of a product without bias");
    };
    if columns(m, column, *k) != Some(x) {
        return m.miss("the experts do not read what the router reads, once for each of its experts");
    }
    let weights =
        experts.iter().all(|e| is_weight(m.view.graph, *e, 3)) && is_weight(m.view.graph, router, 2);
    if !weights || m.shape(x) != to.as_slice() {
        return m.miss("the experts or the router are no weights, or the result has not the shape of x");
    }
    m.closed(&[])?;
    let (renorm, scale) = (routing.renorm, routing.scale);
    Ok(Some(Found { x, router, bias, experts, top_k: *k, renorm, scale }))
}

/// How the gathered scores become weights.
struct Weighting {
    scores: Value,
    renorm: Option<f32>,
    scale: f32,
}

fn weighting(m: &mut Matcher<'_, '_>, weights: Value, ids: Value) -> Option<Weighting> {
    let mut p = m.unary(weights, |op| matches!(op, Op::Reshape { .. }))?;
    let mut scale = 1.0;
    if let Some(scaled) = m.take(p, |op| matches!(op, Op::MulScalar { .. }))
        && let Op::MulScalar { by } = scaled.op
    {
        (p, scale) = (scaled.args[0], by);
    }
    let mut renorm = None;
    let normed = m.attempt(|m| {
        let [p, sum] = m.binary(p, |op| matches!(op, Op::Div))?;
        let added = m.take(sum, |op| matches!(op, Op::AddScalar { .. }))?;
        let Op::AddScalar { by } = added.op else { return None };
        let summed = m.unary(added.args[0], |op| matches!(op, Op::Sum { axis: 1 }))?;
        (summed == p).then_some((p, by))
    });
    if let Some((inner, by)) = normed {
        (p, renorm) = (inner, Some(by));
    }
    let [scores, same] = m.binary(p, |op| matches!(op, Op::Gather))?;
    (same == ids).then_some(Weighting { scores, renorm, scale })
}

/// `x` from its `k` copies as columns: `[n, h] → [n, 1, h] → [n, k, h] → [n * k, h, 1]`.
fn columns(m: &mut Matcher<'_, '_>, column: Value, k: u32) -> Option<Value> {
    let each = m.unary(column, |op| matches!(op, Op::Reshape { .. }))?;
    let one = match m.attempt(|m| m.unary(each, |op| matches!(op, Op::Broadcast { .. }))) {
        Some(one) => one,
        None if k == 1 => each,
        None => return None,
    };
    let x = match m.attempt(|m| m.unary(one, |op| matches!(op, Op::Reshape { .. }))) {
        Some(x) => x,
        None if k == 1 => one,
        None => return None,
    };
    let [n, h] = m.shape(x) else { return None };
    let stretched = m.shape(one) == [*n, Dim::ONE, *h] && m.shape(each) == [*n, Dim::fixed(k), *h];
    let direct = k == 1 && each == x;
    ((stretched || direct) && m.shape(column) == [n.checked_mul(k)?, *h, Dim::ONE]).then_some(x)
}
