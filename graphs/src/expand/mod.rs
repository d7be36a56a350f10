//! Fused operations as graphs of core operations: their definition.
//!
//! [`expand`] gives the fragment that one operation stands for, [`expand_graph`] puts fragments in place of all
//! fused nodes. The interpreter runs fused operations by their fragments, so kernels are judged by what stands
//! here. Each file has the picture of one fragment; the node that gives the first result of a fused node `n` is
//! named `n` again, the others `n.role`.

mod attention;
mod conv_gate;
mod linear;
mod moe;
mod rms_norm;
mod rope;

use crate::build::{BuildError, Builder};
use crate::graph::Value;
use crate::id::Id;
use crate::infer::{InferError, infer};
use crate::{Dim, Graph, Op, Rebuild, Step, TensorType, rewrite};

/// Bytes of a node's name that are kept in the names of its parts, so that those stay well formed.
const MAX_STEM: usize = 96;

/// A fragment while it is made. Its inputs stand for the arguments of the fused node.
struct Fragment {
    op: Op,
    graph: Builder,
}

impl Fragment {
    fn node(&mut self, role: &str, op: Op, args: &[Value]) -> Result<Value, BuildError> {
        self.graph.node(role, op, args)
    }

    fn shape(&self, value: Value) -> Vec<Dim> {
        self.graph.ty(value).shape.clone()
    }

    /// `dim * by`.
    fn times(&self, dim: Dim, by: u32) -> Result<Dim, BuildError> {
        dim.checked_mul(by).ok_or_else(|| self.overflow(format!("{dim} times {by}")))
    }

    fn overflow(&self, what: String) -> BuildError {
        let source = InferError::Attribute { op: self.op.name(), what: format!("{what} is too large") };
        BuildError { name: self.op.name().to_string(), source }
    }
}

/// The number of the last axis.
fn last_axis(shape: &[Dim]) -> u8 {
    shape.len().saturating_sub(1) as u8
}

/// What a fused operation stands for: a graph whose inputs are the arguments, in order, and whose outputs are the
/// results, in order. `None` for core operations. A state's content is an argument like any other, and its next
/// content a result.
pub fn expand(op: &Op, types: &[&TensorType]) -> Result<Option<Graph>, BuildError> {
    if !op.is_fused() {
        return Ok(None);
    }
    infer(op, types).map_err(|source| BuildError { name: op.name().to_string(), source })?;
    let mut fragment = Fragment { op: op.clone(), graph: Builder::new(op.name().to_string()) };
    let args: Vec<Value> = types
        .iter()
        .enumerate()
        .map(|(i, ty)| fragment.graph.input(format!("a{i}"), (*ty).clone()))
        .collect();
    let f = &mut fragment;
    let results = match op {
        Op::RmsNorm { eps } => rms_norm::expand(f, &args, *eps)?,
        Op::RopeTable => rope::expand_table(f, &args)?,
        Op::Rope => rope::expand(f, &args)?,
        Op::Attention { scale, window } => attention::expand(f, &args, *scale, *window)?,
        Op::ConvGate { taps } => conv_gate::expand(f, &args, *taps)?,
        Op::SwiGlu => linear::expand_swiglu(f, &args)?,
        Op::LinearAdd => linear::expand_add(f, &args)?,
        Op::Moe { top_k, renorm, scale, bias, residual } => {
            let routing = moe::Routing { top_k: *top_k, renorm: *renorm, scale: *scale };
            moe::expand(f, &args, &routing, *bias, *residual)?
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
        | Op::Cast { .. }
        | Op::Mean { .. }
        | Op::Sum { .. }
        | Op::Softmax
        | Op::Linear
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
        | Op::LastRow => return Ok(None),
    };
    for result in results {
        fragment.graph.output(result);
    }
    Ok(Some(fragment.graph.finish()))
}

/// Emits the fragment of a fused node into a graph that is being rebuilt: `args` are values of the new graph, the
/// answer is one value for each result. `None` for core operations.
pub fn expand_node(
    new: &mut Rebuild<'_>,
    name: &str,
    op: &Op,
    args: &[Value],
) -> Result<Option<Vec<Value>>, BuildError> {
    let types: Vec<TensorType> = args.iter().map(|arg| new.ty(*arg).clone()).collect();
    let fragment = expand(op, &types.iter().collect::<Vec<_>>())
        .map_err(|error| BuildError { name: name.to_string(), source: error.source })?;
    let Some(fragment) = fragment else { return Ok(None) };
    let mut ids = Vec::with_capacity(fragment.nodes.len());
    let map = |ids: &[crate::id::NodeId], value: Value| match value {
        Value::Input(id) => args[id.index()],
        Value::Node(id, out) => Value::Node(ids[id.index()], out),
        Value::Const(_) | Value::Weight(_) | Value::State(_) => value,
    };
    for (id, node) in fragment.nodes.iter() {
        let first = fragment.outputs.first() == Some(&Value::Node(id, 0));
        let part = if first { name.to_string() } else { format!("{}.{}", stem(name), node.name) };
        let args: Vec<Value> = node.args.iter().map(|arg| map(&ids, *arg)).collect();
        ids.push(new.push(&part, node.op.clone(), &args)?);
    }
    Ok(Some(fragment.outputs.iter().map(|out| map(&ids, *out)).collect()))
}

/// The graph with every fused node replaced by core operations. A graph that verifies still does.
///
/// # Panics
/// May panic when the graph does not [`verify`](crate::verify()).
pub fn expand_graph(graph: &Graph) -> Result<Graph, BuildError> {
    rewrite(graph, |new, id| {
        let node = &new.old().nodes()[id];
        if !node.op.is_fused() {
            return Ok(Step::Keep);
        }
        let args: Vec<Value> = node.args.iter().map(|arg| new.map(*arg)).collect();
        Ok(match expand_node(new, &node.name, &node.op, &args)? {
            Some(results) => Step::Replace(results),
            None => Step::Keep,
        })
    })
}

/// The beginning of a name, short enough that a role and an ordinal may follow.
fn stem(name: &str) -> &str {
    match name.get(..MAX_STEM) {
        Some(start) => start.trim_end_matches('.'),
        None => name,
    }
}
