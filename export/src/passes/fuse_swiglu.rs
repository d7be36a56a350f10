//! Fuses the gated half of a feed-forward.
//!
//! ```text
//! x ─┬─ linear %gate ─┬─ sigmoid ─ mul ─┐          x ─ swiglu %gate, %up ─ y
//!    │                └─────────────┘   mul ─ y
//!    └─ linear %up ─────────────────────┘
//! ```
//!
//! Does not fire when the matrices read different values, when one has a bias, or when a value in between has
//! another reader.
//! Right because `SwiGlu` expands to the left side.

use lfm_graphs::graph::Value;
use lfm_graphs::{BuildError, Graph, Op};

use super::pattern::{Fused, Matcher, fuse, scoped};
use super::{Miss, Outcome, Pass};

/// See the file.
#[derive(Debug)]
pub struct FuseSwiGlu;

impl Pass for FuseSwiGlu {
    fn name(&self) -> &'static str {
        "fuse-swiglu"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        fuse(graph, find, |new, _, [x, gate, up]| {
            let name = scoped(graph, &[*gate, *up], "swiglu");
            let args = [*x, *gate, *up].map(|arg| new.map(arg));
            Ok(Fused::from(new.node(&name, Op::SwiGlu, &args)?))
        })
    }
}

/// `silu(value)`: the value.
pub(super) fn silu(m: &mut Matcher<'_, '_>, value: Value) -> Option<Value> {
    let factors = m.binary(value, |op| matches!(op, Op::Mul))?;
    m.either(factors, |m, x, sigmoid| (m.unary(sigmoid, |op| matches!(op, Op::Sigmoid))? == x).then_some(x))
}

fn find(m: &mut Matcher<'_, '_>) -> Result<Option<[Value; 3]>, Miss> {
    let node = m.node();
    let (Op::Mul, [a, b]) = (&node.op, node.args.as_slice()) else { return Ok(None) };
    let found = m.either([*a, *b], |m, gated, up| {
        let gate = silu(m, gated)?;
        let gate = m.take(gate, |op| matches!(op, Op::Linear))?;
        Some((gate, m.take(up, |op| matches!(op, Op::Linear))?))
    });
    let Some((gate, up)) = found else { return Ok(None) };
    let ([x, gate], [same, up]) = (gate.args.as_slice(), up.args.as_slice()) else {
        return m.miss("a matrix has a bias, which the fused operation has no place for");
    };
    if x != same {
        return m.miss("the two matrices read different values");
    }
    if m.ty(*gate) != m.ty(*up) {
        return m.miss("the two matrices have different shapes");
    }
    m.closed(&[])?;
    Ok(Some([*x, *gate, *up]))
}
