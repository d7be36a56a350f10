//! Fuses `RmsNorm`.
//!
//! ```text
//! x ─┬─ mul x ─ mean ─ add_scalar eps ─ sqrt ─┐          x ─ rms_norm %w ─ y
//!    └──────────────────────────────────────── div ─ mul %w ─ y
//! ```
//!
//! Does not fire when the mean is not over the last axis, when the scale is no weight of that axis alone, or when
//! a value in between has another reader.
//! Right because `RmsNorm` expands to the left side.

use lfm_graphs::graph::Value;
use lfm_graphs::{BuildError, Graph, Op};

use super::pattern::{Fused, Matcher, fuse, is_weight, weight_stem};
use super::{Miss, Outcome, Pass};

/// See the file.
#[derive(Debug)]
pub struct FuseRmsNorm;

struct Norm {
    x: Value,
    weight: Value,
    eps: f32,
}

impl Pass for FuseRmsNorm {
    fn name(&self) -> &'static str {
        "fuse-rms-norm"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        fuse(graph, find, |new, _, found| {
            let stem = weight_stem(graph, found.weight);
            let name = match stem.strip_suffix("_layernorm") {
                Some(stem) => format!("{stem}_norm"),
                None => stem,
            };
            let args = [found.x, found.weight].map(|arg| new.map(arg));
            Ok(Fused::from(new.node(&name, Op::RmsNorm { eps: found.eps }, &args)?))
        })
    }
}

fn find(m: &mut Matcher<'_, '_>) -> Result<Option<Norm>, Miss> {
    let node = m.node();
    let (Op::Mul, [a, b]) = (&node.op, node.args.as_slice()) else { return Ok(None) };
    let found = m.either([*a, *b], |m, normed, weight| {
        let [x, rms] = m.binary(normed, |op| matches!(op, Op::Div))?;
        let sum = m.unary(rms, |op| matches!(op, Op::Sqrt))?;
        let eps_node = m.take(sum, |op| matches!(op, Op::AddScalar { .. }))?;
        let Op::AddScalar { by: eps } = eps_node.op else { return None };
        let mean = m.take(*eps_node.args.first()?, |op| matches!(op, Op::Mean { .. }))?;
        let Op::Mean { axis } = mean.op else { return None };
        let square = m.binary(*mean.args.first()?, |op| matches!(op, Op::Mul))?;
        (square == [x, x]).then_some((Norm { x, weight, eps }, axis))
    });
    let Some((norm, axis)) = found else { return Ok(None) };
    let shape = m.shape(norm.x);
    if axis as usize + 1 != shape.len() {
        return m.miss(format!("the mean is over axis {axis} of {}, expected the last one", shape.len()));
    }
    let fits = is_weight(m.view.graph, norm.weight, 1) && m.shape(norm.weight).last() == shape.last();
    if !fits {
        return m.miss("the scale is no weight of the last axis alone");
    }
    if !(norm.eps.is_finite() && norm.eps > 0.0) {
        return m.miss(format!("eps is {}, expected a positive number", norm.eps));
    }
    m.closed(&[])?;
    Ok(Some(norm))
}
