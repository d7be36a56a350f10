//! Drops the batch axis that the traced module works with.
//!
//! ```text
//! $tokens ─ reshape [1, seq] ─ .. ─ x f32[1, seq, h] ─ mul %w f32[1, 1, h]      $tokens ─ .. ─ x f32[seq, h] ─ mul %w [1, h]
//! ```
//!
//! Every result whose first axis has size one loses that axis; an operation that needs it gets a reshape before
//! and after. Does not fire on a graph in which no input is reshaped to `[1, seq]`: it has no batch axis, and an
//! axis of size one is then something else, such as a single head.
//!
//! Right because a first axis of size one adds no element and changes no order, and because each operation is
//! only taken to the smaller shape where its attributes can say the same there; values that leave the graph keep
//! their types.

use lfm_graphs::graph::{Node, Value};
use lfm_graphs::id::NodeId;
use lfm_graphs::{BuildError, Dim, Graph, Op, Rebuild, Step, TensorType, infer, rewrite};

use super::pattern::View;
use super::{Outcome, Pass};

/// See the file.
#[derive(Debug)]
pub struct DropBatch;

impl Pass for DropBatch {
    fn name(&self) -> &'static str {
        "drop-batch"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        let has_batch = graph.nodes().values().any(|node| {
            matches!(&node.op, Op::Reshape { to } if *to == [Dim::ONE, Dim::SEQ])
                && matches!(node.args.first(), Some(Value::Input(_)))
        });
        if !has_batch {
            return Ok(Outcome { graph: graph.clone(), fired: 0, misses: Vec::new() });
        }
        let view = View::new(graph);
        let mut fired = 0;
        let new = rewrite(graph, |new, id| visit(&view, new, id, &mut fired))?;
        Ok(Outcome { graph: new, fired, misses: Vec::new() })
    }
}

/// Whether the value loses its first axis.
fn batched(view: &View<'_>, value: Value) -> bool {
    matches!(value, Value::Node(..)) && !view.leaves(value) && matches!(view.shape(value), [Dim::ONE, _, ..])
}

fn without_first(ty: &TensorType) -> TensorType {
    TensorType { dtype: ty.dtype, shape: ty.shape.iter().skip(1).copied().collect() }
}

fn visit(view: &View<'_>, new: &mut Rebuild<'_>, id: NodeId, fired: &mut u32) -> Result<Step, BuildError> {
    let node = &view.graph.nodes()[id];
    let outs: Vec<Value> = (0..node.out.len()).map(|out| Value::Node(id, out as u8)).collect();
    if !node.args.iter().chain(&outs).any(|value| batched(view, *value)) {
        return Ok(Step::Keep);
    }
    *fired += 1;
    let expected: Vec<TensorType> = node
        .out
        .iter()
        .zip(&outs)
        .map(|(ty, out)| if batched(view, *out) { without_first(ty) } else { ty.clone() })
        .collect();
    let args: Vec<Value> = node.args.iter().map(|arg| new.map(*arg)).collect();
    if let Some(op) = smaller(view, node, batched(view, outs[0])) {
        let types: Vec<&TensorType> = args.iter().map(|arg| new.ty(*arg)).collect();
        if infer(&op, &types).is_ok_and(|types| types == expected) {
            let new = new.push(&node.name, op, &args)?;
            return Ok(Step::Replace((0..outs.len()).map(|out| Value::Node(new, out as u8)).collect()));
        }
    }
    let mut whole = Vec::with_capacity(args.len());
    for (old, arg) in node.args.iter().zip(args) {
        whole.push(match (batched(view, *old), view.graph.ty(*old)) {
            (true, Some(ty)) => new.node(&node.name, Op::Reshape { to: ty.shape.clone() }, &[arg])?,
            _ => arg,
        });
    }
    let kept = new.push(&node.name, node.op.clone(), &whole)?;
    let mut results = Vec::with_capacity(outs.len());
    for (out, (old, ty)) in outs.iter().zip(expected).enumerate() {
        let value = Value::Node(kept, out as u8);
        results.push(match batched(view, *old) {
            true => new.node(&node.name, Op::Reshape { to: ty.shape }, &[value])?,
            false => value,
        });
    }
    Ok(Step::Replace(results))
}

/// The operation on arguments without the axis, if it can be said.
fn smaller(view: &View<'_>, node: &Node, out_batched: bool) -> Option<Op> {
    let all_batched = node.args.iter().all(|arg| batched(view, *arg));
    Some(match &node.op {
        Op::Mean { axis } if all_batched => Op::Mean { axis: axis.checked_sub(1)? },
        Op::Sum { axis } if all_batched => Op::Sum { axis: axis.checked_sub(1)? },
        Op::Slice { axis, from, to } if all_batched => {
            Op::Slice { axis: axis.checked_sub(1)?, from: *from, to: *to }
        }
        Op::Concat { axis } if all_batched => Op::Concat { axis: axis.checked_sub(1)? },
        Op::Permute { order } if all_batched && order.first() == Some(&0) => {
            Op::Permute { order: order.iter().skip(1).map(|axis| axis - 1).collect() }
        }
        Op::Reshape { to } => Op::Reshape { to: to.iter().skip(usize::from(out_batched)).copied().collect() },
        Op::Broadcast { to } => {
            Op::Broadcast { to: to.iter().skip(usize::from(out_batched)).copied().collect() }
        }
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
        | Op::Cast { .. } => node.op.clone(),
        Op::Softmax | Op::Linear | Op::MatMul | Op::Gather | Op::TopK { .. } | Op::CausalMask { .. }
            if batched(view, *node.args.first()?) && view.shape(*node.args.first()?).len() > 2 =>
        {
            node.op.clone()
        }
        Op::RmsNorm { .. } => node.op.clone(),
        Op::Mean { .. }
        | Op::Sum { .. }
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Permute { .. }
        | Op::Softmax
        | Op::Linear
        | Op::MatMul
        | Op::Gather
        | Op::TopK { .. }
        | Op::CausalMask { .. }
        | Op::DepthwiseConv { .. }
        | Op::Select
        | Op::LastRow
        | Op::RopeTable
        | Op::Rope
        | Op::Attention { .. }
        | Op::ConvGate { .. }
        | Op::SwiGlu
        | Op::LinearAdd
        | Op::Moe { .. } => return None,
    })
}
