//! What a graph needs: each weight, state and buffer with its size and life, computed from the graph alone.
//!
//! The planner places these, and the verifier of plans compares with them.

use std::collections::{BTreeMap, BTreeSet};

use super::make::PlanError;
use super::scratch::{MoeScratch, panel_words};
use super::{BufferKind, WeightKind, WeightSlot, align};
use crate::graph::{Node, Value, Weight};
use crate::id::{Id, NodeId};
use crate::verify::verify_executable;
use crate::weights::{Format, layout};
use crate::{Graph, Op};

/// Whose bytes a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holds {
    /// A value as f32.
    Rows(Value),
    /// A value as int8.
    Panels(Value),
    /// Scratch of a node.
    Scratch(NodeId),
}

impl Holds {
    pub(super) fn kind(self) -> BufferKind {
        match self {
            Holds::Rows(_) => BufferKind::Rows,
            Holds::Panels(_) => BufferKind::Panels,
            Holds::Scratch(_) => BufferKind::Scratch,
        }
    }

    /// The name of the buffer.
    pub(super) fn name(self, graph: &Graph) -> String {
        match self {
            Holds::Rows(value) | Holds::Panels(value) => graph.value_name(value),
            Holds::Scratch(node) => graph.value_name(Value::Node(node, 0)),
        }
    }
}

/// A buffer before it has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) holds: Holds,
    pub(super) first: u32,
    pub(super) last: u32,
    /// A multiple of 64, not zero.
    pub(super) bytes: u64,
}

/// Every buffer that a graph needs, in the order of a plan.
#[derive(Clone, Debug)]
pub(super) struct Needs {
    pub(super) buffers: Vec<Need>,
    /// Values without a buffer of their own, and the value whose buffer is theirs.
    pub(super) aliases: BTreeMap<Value, Value>,
}

/// A graph that kernels can run, in the order that planning relies on.
pub(super) fn check_graph(graph: &Graph) -> Result<(), PlanError> {
    let faults = verify_executable(graph);
    if let Some(first) = faults.first() {
        return Err(PlanError::Graph { faults: faults.len(), first: first.clone() });
    }
    let unsupported =
        |node: &Node, message: String| Err(PlanError::Unsupported { name: node.name.clone(), message });
    let tail = graph.tail();
    let next: BTreeSet<Value> = graph.states.values().map(|state| state.next).collect();
    let format = |value: Value| storage(graph, value).unwrap_or(Format::F32);
    let mut in_tail = false;
    for (id, node) in graph.nodes.iter() {
        if in_tail && !tail.contains(&id) {
            return unsupported(node, "it follows a node after LastRow, but does not depend on it".into());
        }
        in_tail = tail.contains(&id);
        if let Some(arg) = node.args.iter().find(|arg| next.contains(arg)) {
            let message = format!("it reads {}, the next content of a state", graph.value_name(*arg));
            return unsupported(node, message);
        }
        match &node.op {
            Op::ConvGate { .. } if format(node.args[1]) != Format::F32 => {
                let message = format!("the kernel is stored as {}, expected f32", format(node.args[1]));
                return unsupported(node, message);
            }
            // Kernels make `silu(gate) * up` of both products in one pass over the rows.
            Op::SwiGlu if format(node.args[1]) != format(node.args[2]) => {
                return unsupported(node, two_formats(format(node.args[1]), format(node.args[2])));
            }
            Op::Moe { bias, .. } => {
                let experts = expert_formats(graph, node, *bias);
                if experts[0] != experts[1] {
                    return unsupported(node, two_formats(experts[0], experts[1]));
                }
                if experts.iter().any(|f| is_quantised(*f) != is_quantised(experts[0])) {
                    let [gate, up, down] = experts;
                    let message = format!(
                        "the experts are stored as {gate}, {up} and {down}, expected all quantised or none"
                    );
                    return unsupported(node, message);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// How a weight must be placed; `offset` is zero.
pub(super) fn weight_slot(weight: &Weight) -> Result<WeightSlot, PlanError> {
    let overflow = || PlanError::Overflow { what: format!("the bytes of weight {}", weight.name) };
    let shape = weight.ty.fixed().unwrap_or_default();
    let (kind, count, rows, k) = match shape[..] {
        [] => (WeightKind::Vector, 1, 1, 1),
        [k] => (WeightKind::Vector, 1, 1, k),
        [rows, k] => (WeightKind::Matrix, 1, rows, k),
        [count, rows, k] => (WeightKind::Matrix, count, rows, k),
        _ => {
            let message = format!("the weight has type {}, expected at most 3 axes", weight.ty);
            return Err(PlanError::Unsupported { name: weight.name.clone(), message });
        }
    };
    let stride = match kind {
        WeightKind::Vector => u64::from(k).checked_mul(4),
        WeightKind::Matrix => layout::packed_bytes(weight.storage, rows as usize, k as usize),
    };
    let stride = stride.ok_or_else(overflow)?;
    let bytes = stride.checked_mul(u64::from(count)).ok_or_else(overflow)?;
    Ok(WeightSlot {
        name: weight.name.clone(),
        kind,
        format: weight.storage,
        count,
        rows,
        k,
        stride,
        offset: 0,
        bytes,
    })
}

impl Needs {
    /// The buffers of a graph that passed [`check_graph`].
    pub(super) fn of(graph: &Graph, chunk: u32, head_rows: u32) -> Result<Needs, PlanError> {
        let sizes = Sizes { graph, tail: graph.tail(), chunk, head_rows };
        let next: BTreeSet<Value> = graph.states.values().map(|state| state.next).collect();
        let end = step(graph.nodes.len().saturating_sub(1));

        // A Reshape comes after its argument, so one look finds the root.
        let mut aliases = BTreeMap::new();
        let mut last = BTreeMap::<Value, u32>::new();
        let mut panels = BTreeMap::<Value, (u32, u32)>::new();
        for (id, node) in graph.nodes.iter() {
            let here = step(id.index());
            if let (Op::Reshape { .. }, Some(arg)) = (&node.op, node.args.first()) {
                aliases.insert(Value::Node(id, 0), *aliases.get(arg).unwrap_or(arg));
            }
            for arg in &node.args {
                // What follows LastRow may run again for other rows of the same argument.
                let until = if matches!(node.op, Op::LastRow) { end } else { here };
                let root = *aliases.get(arg).unwrap_or(arg);
                let last = last.entry(root).or_insert(until);
                *last = until.max(*last);
            }
            if let (true, Some(arg)) = (reads_panels(graph, node), node.args.first()) {
                panels.entry(*arg).or_insert((here, here)).1 = here;
            }
        }
        for output in &graph.outputs {
            last.insert(*aliases.get(output).unwrap_or(output), end);
        }

        let mut buffers = Vec::new();
        for (id, node) in graph.nodes.iter() {
            let here = step(id.index());
            let values = || (0..node.out.len()).map(|out| Value::Node(id, out as u8));
            for value in values().filter(|value| !aliases.contains_key(value) && !next.contains(value)) {
                let last = *last.get(&value).unwrap_or(&here);
                buffers.push(Need {
                    holds: Holds::Rows(value),
                    first: here,
                    last,
                    bytes: sizes.rows(value)?,
                });
            }
            for value in values() {
                if let Some((first, last)) = panels.get(&value).copied() {
                    buffers.push(Need {
                        holds: Holds::Panels(value),
                        first,
                        last,
                        bytes: sizes.panels(value)?,
                    });
                }
            }
            if let Op::Moe { top_k, bias, .. } = node.op {
                let bytes = sizes.moe(node, top_k, bias)?;
                buffers.push(Need { holds: Holds::Scratch(id), first: here, last: here, bytes });
            }
        }
        Ok(Needs { buffers, aliases })
    }
}

/// Sizes of buffers at the planned number of rows.
struct Sizes<'a> {
    graph: &'a Graph,
    tail: BTreeSet<NodeId>,
    chunk: u32,
    head_rows: u32,
}

impl Sizes<'_> {
    fn overflow(&self, value: Value) -> PlanError {
        PlanError::Overflow { what: format!("the bytes of {}", self.graph.value_name(value)) }
    }

    /// Elements of a value, and its columns.
    fn elements(&self, value: Value) -> Option<(u64, u64)> {
        let ty = self.graph.ty(value)?;
        let tail = matches!(value, Value::Node(id, _) if self.tail.contains(&id));
        let elements = match tail {
            true => ty.elements(1, 0)?.checked_mul(u64::from(self.head_rows))?,
            false => ty.elements(self.chunk, 0)?,
        };
        Some((elements, ty.last()?.at(self.chunk, 0)))
    }

    /// Rows of a value whose rows are its columns long.
    fn tokens(&self, value: Value) -> Option<(u64, u64)> {
        let (elements, k) = self.elements(value)?;
        Some((elements.checked_div(k)?, k))
    }

    fn rows(&self, value: Value) -> Result<u64, PlanError> {
        let bytes = self.elements(value).and_then(|(n, _)| align(n.checked_mul(4)?));
        bytes.ok_or_else(|| self.overflow(value))
    }

    fn panels(&self, value: Value) -> Result<u64, PlanError> {
        let bytes = self.tokens(value).and_then(|(tokens, k)| align(panel_words(tokens, k)?.checked_mul(4)?));
        bytes.ok_or_else(|| self.overflow(value))
    }

    fn moe(&self, node: &Node, top_k: u32, bias: bool) -> Result<u64, PlanError> {
        let total = || {
            let (tokens, hidden) = self.tokens(*node.args.first()?)?;
            let gate = self.graph.ty(*node.args.get(2 + bias as usize)?)?.fixed()?;
            let [experts, inner, _] = gate[..] else { return None };
            let quantised = is_quantised(expert_formats(self.graph, node, bias)[0]);
            let (inner, experts) = (u64::from(inner), u64::from(experts));
            Some(MoeScratch::new(tokens, hidden, inner, experts, u64::from(top_k), quantised)?.total)
        };
        total().ok_or_else(|| PlanError::Overflow { what: format!("the scratch of {}", node.name) })
    }
}

fn two_formats(gate: Format, up: Format) -> String {
    format!("gate and up are stored as {gate} and {up}, expected one format for both")
}

fn step(index: usize) -> u32 {
    // The verifier caps nodes far below this.
    u32::try_from(index).unwrap_or(u32::MAX)
}

/// Whether matrices of this format are multiplied with int8 panels.
pub(super) fn is_quantised(format: Format) -> bool {
    match format {
        Format::F32 | Format::F16 => false,
        Format::Q8_0 | Format::Q4_0 | Format::Q6K | Format::Q4K | Format::Q5K => true,
    }
}

fn storage(graph: &Graph, value: Value) -> Option<Format> {
    match value {
        Value::Weight(id) => graph.weights.get(id).map(|w| w.storage),
        Value::Input(_) | Value::Const(_) | Value::State(_) | Value::Node(..) => None,
    }
}

/// Formats of gate, up and down.
fn expert_formats(graph: &Graph, node: &Node, bias: bool) -> [Format; 3] {
    let first = 2 + bias as usize;
    [0, 1, 2].map(|i| node.args.get(first + i).and_then(|w| storage(graph, *w)).unwrap_or(Format::F32))
}

/// Whether a node multiplies its first argument with a quantised matrix.
fn reads_panels(graph: &Graph, node: &Node) -> bool {
    let matrices = match &node.op {
        Op::Linear | Op::LinearAdd | Op::SwiGlu | Op::Moe { .. } => node.args.get(1..).unwrap_or_default(),
        // All others read f32.
        _ => &[],
    };
    matrices.iter().any(|arg| storage(graph, *arg).is_some_and(is_quantised))
}
