//! Products and experts add to the residual stream themselves.
//!
//! ```text
//! x ─ linear %w, (%b) ─ add residual ─ y          x ─ linear_add %w, (%b), residual ─ y
//! x ─ moe .. ────────── add residual ─ y          x ─ moe .., residual ─ y
//! ```
//!
//! Does not fire when the product has another reader or the sum stretches one of its terms.
//! Right because both fused operations are defined as `residual + what they were`.

use lfm_graphs::graph::{Node, Value};
use lfm_graphs::{BuildError, Graph, Op};

use super::pattern::{Fused, Matcher, fuse};
use super::{Miss, Outcome, Pass};

/// See the file.
#[derive(Debug)]
pub struct FuseResidual;

struct Found {
    name: String,
    op: Op,
    args: Vec<Value>,
}

impl Pass for FuseResidual {
    fn name(&self) -> &'static str {
        "fuse-residual"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        fuse(graph, find, |new, _, found| {
            let args: Vec<Value> = found.args.iter().map(|arg| new.map(*arg)).collect();
            Ok(Fused::from(new.node(&found.name, found.op.clone(), &args)?))
        })
    }
}

/// The operation that adds the residual itself.
fn adding(node: &Node) -> Option<Op> {
    match &node.op {
        Op::Linear => Some(Op::LinearAdd),
        Op::Moe { top_k, renorm, scale, bias, residual: false } => {
            Some(Op::Moe { top_k: *top_k, renorm: *renorm, scale: *scale, bias: *bias, residual: true })
        }
        _ => None,
    }
}

fn find(m: &mut Matcher<'_, '_>) -> Result<Option<Found>, Miss> {
    let node = m.node();
    let (Op::Add, [a, b]) = (&node.op, node.args.as_slice()) else { return Ok(None) };
    // The later term first: where both are products, the earlier one is the stream.
    let found = m.either([*b, *a], |m, product, residual| {
        let taken = m.take(product, |op| matches!(op, Op::Linear | Op::Moe { residual: false, .. }))?;
        Some((taken, product, residual))
    });
    let Some((product, value, residual)) = found else { return Ok(None) };
    let Some(op) = adding(product) else { return Ok(None) };
    if !matches!(residual, Value::Node(..)) || m.ty(value) != m.ty(residual) {
        return m.miss("the other term is no result of the same type");
    }
    m.closed(&[])?;
    let args = product.args.iter().copied().chain([residual]).collect();
    Ok(Some(Found { name: product.name.clone(), op, args }))
}
