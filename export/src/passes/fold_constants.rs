//! Evaluates what depends on literals alone, and turns literal scalars into attributes.
//!
//! ```text
//! #a ─ sqrt ─ mul ─ y          #sqrt ─ mul ─ y
//! x ─────────┘                 x ──────┘
//!
//! x ─ add #one_number          x ─ add_scalar by: 0.5
//! x ─ mul_scalar by: 1         x
//! ```
//!
//! Does not fire on values that leave the graph, on large results, on a scalar that would stretch the other
//! operand, or on a division by a number whose reciprocal is not exact.
//! Right because literals are evaluated by the interpreter, and each scalar form computes the same sum, product
//! or quotient of the same two numbers.

use lfm_graphs::graph::{Node, Value};
use lfm_graphs::interp::{Interp, States};
use lfm_graphs::{BuildError, Builder, Graph, Op, Rebuild, Step, rewrite};

use super::pattern::View;
use super::{Outcome, Pass};

/// Most elements of a literal that is made here.
const MAX_ELEMENTS: u64 = 1 << 16;

/// See the file.
#[derive(Debug)]
pub struct FoldConstants;

impl Pass for FoldConstants {
    fn name(&self) -> &'static str {
        "fold-constants"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        let view = View::new(graph);
        let mut fired = 0;
        let new = rewrite::<BuildError>(graph, |new, id| {
            let node = &graph.nodes()[id];
            if view.leaves(Value::Node(id, 0)) || node.out.len() != 1 {
                return Ok(Step::Keep);
            }
            let args: Vec<Value> = node.args.iter().map(|arg| new.map(*arg)).collect();
            let folded = match evaluate(new.new_graph(), node, &args) {
                Some(data) => Some(new.constant(&node.name, node.out[0].clone(), data)),
                None => scalar_form(new, node, &args)?,
            };
            Ok(match folded {
                Some(value) => {
                    fired += 1;
                    Step::Replace(vec![value])
                }
                None => Step::Keep,
            })
        })?;
        Ok(Outcome { graph: new, fired, misses: Vec::new() })
    }
}

/// The elements of a node whose arguments are all literals.
fn evaluate(graph: &Graph, node: &Node, args: &[Value]) -> Option<Vec<f32>> {
    let pure = matches!(
        node.op,
        Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::AddScalar { .. }
            | Op::MulScalar { .. }
            | Op::Sqrt
            | Op::Sigmoid
            | Op::Sin
            | Op::Cos
            | Op::Reshape { .. }
            | Op::Permute { .. }
    );
    let ty = &node.out[0];
    if !pure || ty.fixed().is_none() || ty.elements(0, 0).is_none_or(|n| n == 0 || n > MAX_ELEMENTS) {
        return None;
    }
    let mut small = Builder::new("literal");
    let mut operands = Vec::new();
    for arg in args {
        let Value::Const(id) = arg else { return None };
        let literal = &graph.consts()[*id];
        operands.push(small.constant(literal.name.clone(), literal.ty.clone(), literal.data.clone()));
    }
    let result = small.node(&node.name, node.op.clone(), &operands).ok()?;
    small.output(result);
    let small = small.finish();
    let interp = Interp::new(&small, &|_| None).ok()?;
    let results = interp.run(&[], &mut States::new(&small)).ok()?;
    let data = results.first()?.as_f32()?.to_vec();
    data.iter().all(|x| x.is_finite()).then_some(data)
}

/// The number that a value holds everywhere, if it is a literal. One of several axes is a table that happens to
/// have one entry, such as the frequency of heads of width two.
fn scalar(graph: &Graph, value: Value) -> Option<f32> {
    match value {
        Value::Const(id) => match (graph.consts()[id].data.as_slice(), graph.consts()[id].ty.rank()) {
            ([number], 0 | 1) => Some(*number),
            _ => None,
        },
        Value::Node(id, _) => {
            let node = &graph.nodes()[id];
            let stretched = matches!(node.op, Op::Broadcast { .. } | Op::Reshape { .. });
            stretched.then(|| scalar(graph, *node.args.first()?))?
        }
        Value::Input(_) | Value::Weight(_) | Value::State(_) => None,
    }
}

/// The node with a literal operand as an attribute.
fn scalar_form(new: &mut Rebuild<'_>, node: &Node, args: &[Value]) -> Result<Option<Value>, BuildError> {
    let graph = new.new_graph();
    let number = |at: usize| args.get(at).and_then(|arg| scalar(graph, *arg)).filter(|x| x.is_finite());
    let same_type = |at: usize| args.get(at).is_some_and(|arg| graph.ty(*arg) == node.out.first());
    let found = match &node.op {
        Op::MulScalar { by } if *by == 1.0 => return Ok(args.first().copied()),
        Op::Add if same_type(0) => number(1).map(|by| (0, Op::AddScalar { by })),
        Op::Mul if same_type(0) => number(1).map(|by| (0, Op::MulScalar { by })),
        Op::Sub if same_type(0) => number(1).map(|by| (0, Op::AddScalar { by: -by })),
        Op::Div if same_type(0) => {
            number(1).filter(|by| exact_reciprocal(*by)).map(|by| (0, Op::MulScalar { by: 1.0 / by }))
        }
        _ => None,
    };
    let found = found.or_else(|| match &node.op {
        Op::Add if same_type(1) => number(0).map(|by| (1, Op::AddScalar { by })),
        Op::Mul if same_type(1) => number(0).map(|by| (1, Op::MulScalar { by })),
        _ => None,
    });
    match found {
        Some((at, op)) => Ok(Some(new.node(&node.name, op, &[args[at]])?)),
        None => Ok(None),
    }
}

/// Whether multiplying by `1 / x` is dividing by `x`: for powers of two whose reciprocal is a normal number.
fn exact_reciprocal(x: f32) -> bool {
    let mantissa = x.to_bits() & 0x007f_ffff;
    mantissa == 0 && x.is_normal() && (1.0 / x).is_normal()
}
