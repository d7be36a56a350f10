//! Cancels operations that move nothing.
//!
//! ```text
//! x ─ reshape ─ reshape ─ y            x ─ reshape ─ y
//! x ─ permute [1, 0] ─ permute [1, 0]  x
//! %w [h, 1, k] ─ reshape [h, k]        %w [h, k]
//! x ─ mul (%w [h] ─ reshape [1, h])    x ─ mul %w [h]
//! ```
//!
//! Also: a reshape, stretch or slice to the type that is there already, a concatenation of one.
//!
//! Does not fire when a value would leave the graph twice, or would leave it without being the result of a node;
//! leaves a weight as declared when it has another reader.
//! Right because elements keep their row-major order in all of these, and because elementwise operations align
//! axes at the end, so that leading axes of size one change nothing as long as the result has its shape.

use lfm_graphs::graph::{Node, Value, Weight};
use lfm_graphs::id::NodeId;
use lfm_graphs::{BuildError, Dim, Graph, Op, Rebuild, Step, TensorType, infer, rewrite};

use super::pattern::View;
use super::{Outcome, Pass};

/// See the file.
#[derive(Debug)]
pub struct FoldLayout;

impl Pass for FoldLayout {
    fn name(&self) -> &'static str {
        "fold-layout"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        let mut done = Outcome { graph: graph.clone(), fired: 0, misses: Vec::new() };
        loop {
            let mut fired = 0;
            let view = View::new(&done.graph);
            let new = rewrite(&done.graph, |new, id| visit(&view, new, id, &mut fired))?;
            if fired == 0 {
                return Ok(done);
            }
            done.graph = new;
            done.fired += fired;
        }
    }
}

fn visit(view: &View<'_>, new: &mut Rebuild<'_>, id: NodeId, fired: &mut u32) -> Result<Step, BuildError> {
    let node = &view.graph.nodes()[id];
    let args: Vec<Value> = node.args.iter().map(|arg| new.map(*arg)).collect();
    if let Some(step) = elementwise(new, node, &args)? {
        *fired += 1;
        return Ok(step);
    }
    let Some(x) = args.first().copied() else { return Ok(Step::Keep) };
    let leaves = view.leaves(Value::Node(id, 0));
    let moves = matches!(
        node.op,
        Op::Reshape { .. } | Op::Permute { .. } | Op::Broadcast { .. } | Op::Slice { .. } | Op::Concat { .. }
    );
    if !moves {
        return Ok(Step::Keep);
    }
    if args.len() == 1 && *new.ty(x) == node.out[0] && keeps_order(&node.op) && may_be(view, new, id, x) {
        *fired += 1;
        return Ok(Step::Replace(vec![x]));
    }
    let folded = match &node.op {
        Op::Reshape { to } => match producer(new, x) {
            Some((Op::Reshape { .. }, inner))
                if *new.ty(inner) == node.out[0] && may_be(view, new, id, inner) =>
            {
                Some(inner)
            }
            Some((Op::Reshape { .. }, inner)) if *new.ty(inner) != node.out[0] => {
                Some(new.node(&node.name, Op::Reshape { to: to.clone() }, &[inner])?)
            }
            _ => (!leaves).then(|| weight_view(view, new, id)).flatten(),
        },
        Op::Permute { order } => match producer(new, x) {
            Some((Op::Permute { order: inner_order }, inner)) => {
                let order = order.iter().map(|axis| inner_order[*axis as usize]).collect();
                Some(new.node(&node.name, Op::Permute { order }, &[inner])?)
            }
            _ => None,
        },
        _ => None,
    };
    Ok(match folded {
        Some(value) => {
            *fired += 1;
            Step::Replace(vec![value])
        }
        None => Step::Keep,
    })
}

/// Whether a value of the new graph may stand in place of a node's result: always, unless that leaves the graph;
/// then only a result of a node that does not leave it yet.
fn may_be(view: &View<'_>, new: &Rebuild<'_>, id: NodeId, value: Value) -> bool {
    if !view.leaves(Value::Node(id, 0)) {
        return true;
    }
    let before = |leaving: &Value| matches!(leaving, Value::Node(from, _) if *from < id);
    matches!(value, Value::Node(..)) && !view.leaving().filter(|v| before(v)).any(|v| new.map(v) == value)
}

/// Whether an operation whose result has the argument's type gives the argument.
fn keeps_order(op: &Op) -> bool {
    match op {
        Op::Permute { order } => order.iter().enumerate().all(|(i, axis)| i == *axis as usize),
        Op::Reshape { .. } | Op::Broadcast { .. } | Op::Slice { .. } | Op::Concat { .. } => true,
        _ => false,
    }
}

fn producer(new: &Rebuild<'_>, value: Value) -> Option<(Op, Value)> {
    let node = new.new_graph().producer(value)?;
    Some((node.op.clone(), *node.args.first()?))
}

/// The weight declared in the shape to which its only reader brings it.
fn weight_view(view: &View<'_>, new: &mut Rebuild<'_>, id: NodeId) -> Option<Value> {
    let node = &view.graph.nodes()[id];
    // Reshapes of reshapes become one first.
    let reshaped = |reader: &NodeId| matches!(view.graph.nodes()[*reader].op, Op::Reshape { .. });
    if view.readers(Value::Node(id, 0)).iter().any(reshaped) {
        return None;
    }
    let Some(Value::Weight(id)) = node.args.first().copied() else { return None };
    if view.readers(Value::Weight(id)).len() != 1 {
        return None;
    }
    let weight = &view.graph.weights()[id];
    // A new leading axis of size one is there for an elementwise operation, which does not need it.
    if node.out[0].shape.first() == Some(&Dim::ONE) && node.out[0].rank() > weight.ty.rank() {
        return None;
    }
    Some(new.weight(Weight { ty: node.out[0].clone(), ..weight.clone() }))
}

/// An elementwise node without the reshapes of its operands that only add leading axes of size one.
fn elementwise(new: &mut Rebuild<'_>, node: &Node, args: &[Value]) -> Result<Option<Step>, BuildError> {
    if !matches!(node.op, Op::Add | Op::Sub | Op::Mul | Op::Div) {
        return Ok(None);
    }
    let mut bare = args.to_vec();
    let mut changed = false;
    for at in 0..bare.len() {
        let shape = new.ty(bare[at]).shape.clone();
        let leading = shape.iter().take_while(|dim| **dim == Dim::ONE).count();
        let other = bare[1 - at.min(1)];
        for drop in (1..=leading.min(shape.len().saturating_sub(1))).rev() {
            let Some(smaller) = without_leading(new, bare[at], drop) else { continue };
            let ordered =
                if at == 0 { [new.ty(smaller), new.ty(other)] } else { [new.ty(other), new.ty(smaller)] };
            if infer(&node.op, &ordered).is_ok_and(|types| types == node.out) {
                bare[at] = smaller;
                changed = true;
                break;
            }
        }
    }
    if !changed {
        return Ok(None);
    }
    Ok(Some(Step::Replace(vec![new.node(&node.name, node.op.clone(), &bare)?])))
}

/// The value without `drop` leading axes, if it exists already or is a literal.
fn without_leading(new: &mut Rebuild<'_>, value: Value, drop: usize) -> Option<Value> {
    let ty = new.ty(value).clone();
    let smaller = TensorType { dtype: ty.dtype, shape: ty.shape[drop..].to_vec() };
    match value {
        Value::Const(id) => {
            let literal = new.new_graph().consts()[id].clone();
            Some(new.constant(&literal.name, smaller, literal.data))
        }
        Value::Node(..) => {
            let (op, inner) = producer(new, value)?;
            (matches!(op, Op::Reshape { .. }) && *new.ty(inner) == smaller).then_some(inner)
        }
        Value::Input(_) | Value::Weight(_) | Value::State(_) => None,
    }
}
