//! The verifier. A graph that passes can be planned and run without a panic; anything else is a bug here.
//!
//! All faults are collected. The rules:
//!
//! | rule | says |
//! |---|---|
//! | V01 | every value that is read exists |
//! | V02 | a node reads only nodes before it |
//! | V03 | names are unique within their kind, and well formed |
//! | V04 | a node has as many arguments as its operation takes, and attributes in range |
//! | V05 | stored result types are those that inference gives |
//! | V06 | inputs, constants and weights have types that can exist: weights and constants without symbols, no empty axis, sizes that do not overflow |
//! | V07 | a constant has as many finite elements as its type says |
//! | V08 | a weight stored in a quantised format is a matrix or a stack of matrices of `f32` |
//! | V09 | a state is read by exactly one node |
//! | V10 | outputs and next contents of states are results of nodes, and there is at least one output |
//! | V11 | the next content of an appended state is the state with `past` grown by `seq` on its axis; that of a window has the state's type |
//! | V12 | no value leaves the graph twice |
//! | V13 | only states, and what is computed from them, have `past` in their types |
//! | V14 | nothing computed after `LastRow` feeds a state, and what is computed there reads only weights, constants and other values computed there: it can be evaluated for any row by itself |
//!
//! A graph that is to run on kernels passes [`verify_executable`] too:
//!
//! | rule | says |
//! |---|---|
//! | V15 | only operations that the runtime has kernels for, on the arguments that they take |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::graph::{Update, Value, is_name, number};
use crate::id::{ConstId, Id, InputId, NodeId, StateId, WeightId};
use crate::infer::{InferError, infer};
use crate::weights::Format;
use crate::{DType, Dim, Graph, Op, TensorType};

/// Most nodes, weights, states or inputs of a graph.
pub const MAX_ITEMS: usize = 100_000;
/// Most bytes that a tensor without symbols may have when stored in `f32`: 1 TiB.
pub const MAX_TENSOR_BYTES: u64 = 1 << 40;

/// A rule of the verifier.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rule(pub u8);

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "V{:02}", self.0)
    }
}

/// What a fault concerns.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum At {
    /// The graph as a whole.
    Graph,
    /// An input.
    Input(InputId),
    /// A constant.
    Const(ConstId),
    /// A weight.
    Weight(WeightId),
    /// A state.
    State(StateId),
    /// A node.
    Node(NodeId),
    /// The outputs.
    Outputs,
}

macro_rules! at_from {
    ($($id:ident $at:ident),*) => { $(
        impl From<$id> for At {
            fn from(id: $id) -> At {
                At::$at(id)
            }
        }
    )* };
}
at_from!(InputId Input, ConstId Const, WeightId Weight, StateId State, NodeId Node);

/// A broken rule.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[error("{rule} at {name}: {message}")]
pub struct VerifyError {
    /// Which rule.
    pub rule: Rule,
    /// Where.
    pub at: At,
    /// The name of what it concerns.
    pub name: String,
    /// What was found and expected.
    pub message: String,
}

struct Verifier<'a> {
    graph: &'a Graph,
    errors: Vec<VerifyError>,
}

/// Checks all rules but V15. No errors: the graph is sound.
pub fn verify(graph: &Graph) -> Vec<VerifyError> {
    let mut verifier = Verifier { graph, errors: Vec::new() };
    let counts =
        [graph.inputs.len(), graph.consts.len(), graph.weights.len(), graph.states.len(), graph.nodes.len()];
    if counts.iter().any(|n| *n > MAX_ITEMS) {
        verifier.report(3, At::Graph, format!("more than {MAX_ITEMS} items of one kind"));
        return verifier.errors;
    }
    verifier.names();
    verifier.declarations();
    verifier.nodes();
    if verifier.errors.is_empty() {
        // The rest relies on existing values and sound types.
        verifier.states();
        verifier.outputs();
        verifier.past();
        verifier.last_row();
    }
    verifier.errors
}

/// [`verify`], and V15.
pub fn verify_executable(graph: &Graph) -> Vec<VerifyError> {
    let mut errors = verify(graph);
    if errors.is_empty() {
        let mut verifier = Verifier { graph, errors: Vec::new() };
        verifier.executable();
        errors = verifier.errors;
    }
    errors
}

impl Verifier<'_> {
    fn report(&mut self, rule: u8, at: At, message: impl Into<String>) {
        let graph = self.graph;
        let name = match at {
            At::Graph => "the graph".into(),
            At::Outputs => "the outputs".into(),
            At::Input(id) => graph.value_name(Value::Input(id)),
            At::Const(id) => graph.value_name(Value::Const(id)),
            At::Weight(id) => graph.value_name(Value::Weight(id)),
            At::State(id) => graph.value_name(Value::State(id)),
            At::Node(id) => graph.value_name(Value::Node(id, 0)),
        };
        self.errors.push(VerifyError { rule: Rule(rule), at, name, message: message.into() });
    }

    fn names(&mut self) {
        let graph = self.graph;
        fn check<'a, I: Id + Into<At>>(
            verifier: &mut Verifier<'_>,
            items: impl Iterator<Item = (I, &'a str)>,
        ) {
            let mut seen = BTreeMap::new();
            for (id, name) in items {
                if !is_name(name) {
                    verifier.report(3, id.into(), format!("{name:?} is no well-formed name"));
                }
                if let Some(first) = seen.insert(name, number(id)) {
                    verifier.report(3, id.into(), format!("the name is already that of item {first}"));
                }
            }
        }
        check(self, graph.inputs.iter().map(|(id, i)| (id, i.name.as_str())));
        check(self, graph.consts.iter().map(|(id, c)| (id, c.name.as_str())));
        check(self, graph.weights.iter().map(|(id, w)| (id, w.name.as_str())));
        check(self, graph.states.iter().map(|(id, s)| (id, s.name.as_str())));
        check(self, graph.nodes.iter().map(|(id, n)| (id, n.name.as_str())));
    }

    /// A type that holds no symbols and has at least one element, and how many.
    fn concrete(&mut self, at: At, ty: &TensorType) -> Option<u64> {
        let fixed = ty.fixed().is_some();
        let elements = ty.elements(0, 0).filter(|n| *n <= MAX_TENSOR_BYTES / 4);
        match elements {
            Some(n) if fixed && n > 0 => Some(n),
            _ => {
                let expected = "fixed sizes, no empty axis, at most 1 TiB";
                self.report(6, at, format!("the type is {ty}, expected {expected}"));
                None
            }
        }
    }

    fn declarations(&mut self) {
        let graph = self.graph;
        for (id, input) in graph.inputs.iter() {
            if input.ty.dtype != DType::I32 || input.ty.shape != [Dim::SEQ] {
                self.report(6, id.into(), format!("the type is {}, expected i32[seq]", input.ty));
            }
        }
        for (id, constant) in graph.consts.iter() {
            let Some(elements) = self.concrete(id.into(), &constant.ty) else { continue };
            if constant.ty.dtype != DType::F32 {
                self.report(6, id.into(), format!("the type is {}, expected f32", constant.ty));
            }
            if elements != constant.data.len() as u64 {
                let message =
                    format!("{} has {elements} elements, found {}", constant.ty, constant.data.len());
                self.report(7, id.into(), message);
            }
            if let Some(bad) = constant.data.iter().find(|x| !x.is_finite()) {
                self.report(7, id.into(), format!("an element is {bad}, expected finite numbers"));
            }
        }
        for (id, weight) in graph.weights.iter() {
            self.concrete(id.into(), &weight.ty);
            if weight.ty.dtype != DType::F32 {
                self.report(6, id.into(), format!("the type is {}, expected f32", weight.ty));
            }
            if weight.storage != Format::F32 && !(2..=3).contains(&weight.ty.rank()) {
                let message = format!(
                    "{} is stored as {}, expected a matrix or a stack of them",
                    weight.ty, weight.storage
                );
                self.report(8, id.into(), message);
            }
        }
        for (id, state) in graph.states.iter() {
            let ty = &state.ty;
            let symbols_ok = match state.update {
                Update::Window => ty.fixed().is_some(),
                Update::Append { axis } => {
                    ty.shape.iter().enumerate().all(|(i, d)| {
                        if i == axis as usize { *d == Dim::PAST } else { d.as_fixed().is_some() }
                    }) && (axis as usize) < ty.rank()
                }
            };
            if ty.dtype == DType::I32
                || !symbols_ok
                || ty.elements(0, 1).is_none_or(|n| n > MAX_TENSOR_BYTES / 4)
            {
                let expected = "f32 or f16, `past` on the appended axis and nowhere else";
                self.report(
                    6,
                    id.into(),
                    format!("the type is {ty} with {:?}, expected {expected}", state.update),
                );
            }
        }
    }

    fn nodes(&mut self) {
        let graph = self.graph;
        for (id, node) in graph.nodes.iter() {
            for arg in &node.args {
                match *arg {
                    Value::Node(from, _) if from.index() >= id.index() && graph.nodes.get(from).is_some() => {
                        self.report(
                            2,
                            id.into(),
                            format!("reads {}, which does not come before it", graph.value_name(*arg)),
                        );
                    }
                    _ if graph.ty(*arg).is_none() => {
                        self.report(1, id.into(), "reads a value that does not exist")
                    }
                    _ => {}
                }
            }
            let Some(types) = node.args.iter().map(|arg| graph.ty(*arg)).collect::<Option<Vec<_>>>() else {
                continue;
            };
            match infer(&node.op, &types) {
                Ok(out) if out == node.out => {}
                Ok(out) => {
                    let list = |types: &[TensorType]| {
                        types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                    };
                    let message =
                        format!("results are {}, {} gives {}", list(&node.out), node.op.name(), list(&out));
                    self.report(5, id.into(), message);
                }
                Err(error @ (InferError::Arity { .. } | InferError::Attribute { .. })) => {
                    self.report(4, id.into(), error.to_string());
                }
                Err(error @ InferError::Argument { .. }) => self.report(5, id.into(), error.to_string()),
            }
        }
    }

    fn states(&mut self) {
        let graph = self.graph;
        let readers = graph.readers();
        for (id, state) in graph.states.iter() {
            let count = readers.get(&Value::State(id)).map_or(0, Vec::len);
            if count != 1 {
                self.report(9, id.into(), format!("read {count} times, expected once"));
            }
            let Value::Node(..) = state.next else {
                self.report(10, id.into(), "the next content is no result of a node");
                continue;
            };
            let Some(next) = graph.ty(state.next) else {
                self.report(1, id.into(), "the next content does not exist");
                continue;
            };
            let mut expected = state.ty.clone();
            if let Update::Append { axis } = state.update
                && let Some(dim) = expected.shape.get_mut(axis as usize)
            {
                *dim = Dim::TOTAL;
            }
            if *next != expected {
                self.report(11, id.into(), format!("the next content is {next}, expected {expected}"));
            }
        }
    }

    fn outputs(&mut self) {
        let graph = self.graph;
        if graph.outputs.is_empty() {
            self.report(10, At::Outputs, "there are none, expected at least one");
        }
        let mut seen = BTreeSet::new();
        for value in &graph.outputs {
            if !matches!(value, Value::Node(..)) {
                self.report(10, At::Outputs, format!("{} is no result of a node", graph.value_name(*value)));
            } else if graph.ty(*value).is_none() {
                self.report(1, At::Outputs, "a value that does not exist");
            }
        }
        for value in graph.outputs.iter().copied().chain(graph.states.values().map(|s| s.next)) {
            if !seen.insert(value) {
                self.report(12, At::Outputs, format!("{} leaves the graph twice", graph.value_name(value)));
            }
        }
    }

    fn past(&mut self) {
        let graph = self.graph;
        let mut from_state = BTreeSet::new();
        for (id, node) in graph.nodes.iter() {
            let stateful = node.args.iter().any(|arg| match arg {
                Value::State(_) => true,
                Value::Node(from, _) => from_state.contains(from),
                Value::Input(_) | Value::Const(_) | Value::Weight(_) => false,
            });
            if stateful {
                from_state.insert(id);
            } else if let Some(ty) = node.out.iter().find(|ty| ty.shape.iter().any(|d| d.past > 0)) {
                self.report(13, id.into(), format!("a result is {ty}, but no state is read"));
            }
        }
    }

    /// Nodes that depend on a `LastRow`.
    fn last_row(&mut self) {
        let graph = self.graph;
        let tail = graph.tail();
        for (id, state) in graph.states.iter() {
            if let Value::Node(from, _) = state.next
                && tail.contains(&from)
            {
                self.report(14, id.into(), "the next content is computed after LastRow");
            }
        }
        for id in &tail {
            let node = &graph.nodes[*id];
            let inside = |arg: &Value| match arg {
                Value::Node(from, _) => tail.contains(from),
                Value::Weight(_) | Value::Const(_) => true,
                Value::Input(_) | Value::State(_) => false,
            };
            let row_wise = if matches!(node.op, Op::LastRow) {
                !node.args.iter().any(inside)
            } else {
                node.args.iter().all(inside)
            };
            if !row_wise {
                let message =
                    format!("{} after LastRow reads something that is not of one row", node.op.name());
                self.report(14, (*id).into(), message);
            }
        }
    }

    fn executable(&mut self) {
        let graph = self.graph;
        let is_weight = |v: &Value| matches!(v, Value::Weight(_));
        let is_state = |v: &Value| matches!(v, Value::State(_));
        let is_float = |v: &Value| matches!(v, Value::Node(..));
        // Rows of a matrix: one for each token.
        let is_rows = |v: &Value| is_float(v) && graph.ty(*v).is_some_and(|t| t.rank() == 2);
        let is_input =
            |v: &Value, name: &str| matches!(v, Value::Input(id) if graph.inputs[*id].name == name);
        for (id, node) in graph.nodes.iter() {
            let a = &node.args;
            let last = a.len().saturating_sub(1);
            let ok = match &node.op {
                Op::Select => {
                    is_weight(&a[0])
                        && graph.ty(a[0]).is_some_and(|t| t.rank() == 2)
                        && is_input(&a[1], "tokens")
                }
                Op::RmsNorm { .. } => is_float(&a[0]) && is_weight(&a[1]),
                Op::Linear => is_rows(&a[0]) && a[1..].iter().all(is_weight),
                Op::LinearAdd => is_rows(&a[0]) && a[1..last].iter().all(is_weight) && is_float(&a[last]),
                Op::SwiGlu => is_rows(&a[0]) && a[1..].iter().all(is_weight),
                Op::RopeTable => is_input(&a[0], "positions") && matches!(a[1], Value::Const(_)),
                Op::Rope => a.iter().all(is_float),
                Op::Attention { .. } => {
                    a[..3].iter().all(is_float) && a[3..].iter().all(is_state) && a[3] != a[4]
                }
                Op::ConvGate { .. } => {
                    is_float(&a[0]) && a[1..last].iter().all(is_weight) && is_state(&a[last])
                }
                Op::Moe { residual, .. } => {
                    let end = a.len() - *residual as usize;
                    is_float(&a[0]) && a[1..end].iter().all(is_weight) && a[end..].iter().all(is_float)
                }
                Op::Add => a.iter().all(is_float) && graph.ty(a[0]) == graph.ty(a[1]),
                Op::Reshape { .. } | Op::LastRow => is_float(&a[0]),
                Op::Sub
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
                | Op::MatMul
                | Op::DepthwiseConv { .. }
                | Op::Permute { .. }
                | Op::Slice { .. }
                | Op::Concat { .. }
                | Op::Broadcast { .. }
                | Op::Gather
                | Op::TopK { .. }
                | Op::CausalMask { .. } => false,
            };
            let rows = node.out.iter().enumerate().all(|(i, ty)| {
                i > 0 && !matches!(node.op, Op::RopeTable)
                    || ty.rank() > 1
                        && ty.shape.first().is_some_and(|d| *d == Dim::SEQ || *d == Dim::ONE)
                        && ty.shape[1..].iter().all(|d| d.as_fixed().is_some_and(|n| n > 0))
            });
            if !ok || !rows {
                let expected =
                    "a fused operation on rows of tokens with weights, states and constants in their places";
                self.report(
                    15,
                    id.into(),
                    format!("{} has no kernel for these arguments, expected {expected}", node.op.name()),
                );
            }
        }
        for (id, state) in graph.states.iter() {
            let from_reader = match state.next {
                Value::Node(node, out) => {
                    let node = &graph.nodes[node];
                    let at = match node.op {
                        Op::Attention { .. } => 2 + out as usize,
                        Op::ConvGate { .. } => node.args.len() - 1,
                        _ => usize::MAX,
                    };
                    out > 0 && node.args.get(at) == Some(&Value::State(id))
                }
                _ => false,
            };
            if !from_reader {
                self.report(
                    15,
                    id.into(),
                    "the next content is not that of the operation that reads the state",
                );
            }
        }
        let logits_ok = graph.outputs.len() == 1
            && graph.ty(graph.outputs[0]).is_some_and(|t| t.rank() == 2 && t.shape[0] == Dim::ONE);
        if !logits_ok {
            self.report(15, At::Outputs, "expected one output of one row, the logits");
        }
        let inputs: Vec<&str> = graph.inputs.values().map(|i| i.name.as_str()).collect();
        if inputs.iter().any(|i| !["tokens", "positions"].contains(i)) {
            self.report(15, At::Graph, format!("the inputs are {inputs:?}, expected tokens and positions"));
        }
    }
}

impl Graph {
    /// The nodes that depend on a `LastRow`, it included, in order: what runs for chosen rows only.
    pub fn tail(&self) -> BTreeSet<NodeId> {
        let mut tail = BTreeSet::new();
        for (id, node) in self.nodes.iter() {
            let depends = node.args.iter().any(|a| matches!(a, Value::Node(from, _) if tail.contains(from)));
            if matches!(node.op, Op::LastRow) || depends {
                tail.insert(id);
            }
        }
        tail
    }
}
