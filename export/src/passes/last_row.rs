//! Only the last token reaches the head.
//!
//! ```text
//! x [seq, h] ─ rms_norm ─ linear ─ logits [seq, v]     x ─ last_row [1, h] ─ rms_norm ─ linear ─ logits [1, v]
//! ```
//!
//! An output with a row for each token becomes that of the last token, and the cut is moved up over operations
//! that read one value row by row: norms, products with a weight, elementwise functions. It stops at the
//! residual stream.
//!
//! Does not fire on an output that has no row for each token, or on one that a state or another output needs.
//! Right because such an operation gives row i from row i alone; the graph's caller asks for the next token only.

use std::collections::BTreeSet;

use lfm_graphs::graph::Value;
use lfm_graphs::id::NodeId;
use lfm_graphs::{BuildError, Dim, Graph, Op, Step, rewrite};

use super::pattern::View;
use super::{Miss, Outcome, Pass};

/// See the file.
#[derive(Debug)]
pub struct LastRow;

impl Pass for LastRow {
    fn name(&self) -> &'static str {
        "last-row"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        let view = View::new(graph);
        let mut misses = Vec::new();
        // The nodes whose argument is cut.
        let mut cut_before = BTreeSet::new();
        // The nodes that see one row.
        let mut tail = BTreeSet::new();
        for output in graph.outputs() {
            let (Value::Node(id, _), [Dim::SEQ, _, ..]) = (*output, view.shape(*output)) else { continue };
            match hoist(&view, id) {
                Some(nodes) => {
                    cut_before.extend(nodes.first().copied());
                    tail.extend(nodes);
                }
                None => misses.push(Miss::Check {
                    at: view.name(id),
                    why: "the output is not given by an operation on single rows".to_owned(),
                }),
            }
        }
        let new = rewrite::<BuildError>(graph, |new, id| {
            if !tail.contains(&id) {
                return Ok(Step::Keep);
            }
            let node = &graph.nodes()[id];
            let mut args: Vec<Value> = node.args.iter().map(|arg| new.map(*arg)).collect();
            if cut_before.contains(&id) {
                args[0] = new.node("last", Op::LastRow, &args[..1])?;
            }
            Ok(Step::Replace(vec![new.node(&node.name, node.op.clone(), &args)?]))
        })?;
        Ok(Outcome { graph: new, fired: cut_before.len() as u32, misses })
    }
}

/// The longest chain of operations on single rows that ends at a node, first one first.
fn hoist(view: &View<'_>, last: NodeId) -> Option<Vec<NodeId>> {
    let mut chain = Vec::new();
    let mut at = last;
    loop {
        let node = &view.graph.nodes()[at];
        let alone = at == last && view.readers(Value::Node(at, 0)).is_empty()
            || at != last && view.readers(Value::Node(at, 0)).len() == 1 && !view.leaves(Value::Node(at, 0));
        let others_fixed =
            node.args.iter().skip(1).all(|arg| matches!(arg, Value::Weight(_) | Value::Const(_)));
        if !(alone && others_fixed && row_wise(&node.op) && node.out[0].shape.first() == Some(&Dim::SEQ)) {
            break;
        }
        let Some(Value::Node(before, _)) = node.args.first().copied() else { break };
        chain.push(at);
        at = before;
    }
    chain.reverse();
    (!chain.is_empty()).then_some(chain)
}

/// Whether the operation gives every row from that row of its first argument and fixed ones.
fn row_wise(op: &Op) -> bool {
    match op {
        Op::Linear
        | Op::RmsNorm { .. }
        | Op::AddScalar { .. }
        | Op::MulScalar { .. }
        | Op::Sqrt
        | Op::Sigmoid => true,
        Op::Sin | Op::Cos => true,
        Op::Add
        | Op::Sub
        | Op::Mul
        | Op::Div
        | Op::Cast { .. }
        | Op::Mean { .. }
        | Op::Sum { .. }
        | Op::Softmax
        | Op::MatMul
        | Op::DepthwiseConv { .. }
        | Op::Reshape { .. }
        | Op::Permute { .. }
        | Op::Slice { .. }
        | Op::Concat { .. }
        | Op::Broadcast { .. }
        | Op::Select
        | Op::Gather
        | Op::TopK { .. }
        | Op::CausalMask { .. }
        | Op::LastRow
        | Op::RopeTable
        | Op::Rope
        | Op::Attention { .. }
        | Op::ConvGate { .. }
        | Op::SwiGlu
        | Op::LinearAdd
        | Op::Moe { .. } => false,
    }
}
