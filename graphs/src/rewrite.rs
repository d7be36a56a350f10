//! The only walk over a graph: it is rebuilt node by node, and a callback says what becomes of each.
//!
//! Passes match on the old graph and emit into the new one. What nothing reads any more is left out at the end
//! (nodes, weights and constants; inputs and states stay).

use crate::build::{BuildError, Builder};
use crate::graph::{Update, Value, Weight};
use crate::id::{Id, NodeId};
use crate::{Graph, Op, TensorType};

/// The new graph while it is made.
#[derive(Debug)]
pub struct Rebuild<'a> {
    old: &'a Graph,
    new: Builder,
    /// New value of each old node's results, by node.
    nodes: Vec<Vec<Value>>,
    /// New values of old weights that a pass has replaced.
    consts: Vec<Value>,
    weights: Vec<Value>,
}

/// What becomes of a node.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// It stays, reading the new values of its arguments.
    Keep,
    /// Its results are these values of the new graph.
    Replace(Vec<Value>),
}

impl<'a> Rebuild<'a> {
    /// The graph that is rewritten.
    pub fn old(&self) -> &'a Graph {
        self.old
    }

    /// What has been made so far.
    pub fn new_graph(&self) -> &Graph {
        self.new.graph()
    }

    /// The new value of an old one.
    ///
    /// # Panics
    /// When the value comes from a node that has not been visited yet.
    pub fn map(&self, value: Value) -> Value {
        match value {
            Value::Input(_) | Value::State(_) => value,
            Value::Const(id) => self.consts[id.index()],
            Value::Weight(id) => self.weights[id.index()],
            Value::Node(id, out) => self.nodes[id.index()][out as usize],
        }
    }

    /// Appends a node to the new graph and gives its first result.
    pub fn node(&mut self, name: &str, op: Op, args: &[Value]) -> Result<Value, BuildError> {
        self.new.node(name, op, args)
    }

    /// Appends a node to the new graph.
    pub fn push(&mut self, name: &str, op: Op, args: &[Value]) -> Result<NodeId, BuildError> {
        self.new.push(name, op, args)
    }

    /// Adds a weight to the new graph.
    pub fn weight(&mut self, weight: Weight) -> Value {
        self.new.add_weight(weight)
    }

    /// Adds a constant to the new graph.
    pub fn constant(&mut self, name: &str, ty: TensorType, data: Vec<f32>) -> Value {
        self.new.constant(name, ty, data)
    }

    /// The type of a value of the new graph.
    pub fn ty(&self, value: Value) -> &TensorType {
        self.new.ty(value)
    }

    /// Gives a state of the new graph another type and way to grow. States keep their ids in a rewrite.
    pub fn retype_state(&mut self, state: Value, ty: TensorType, update: Update) {
        if let Value::State(id) = state
            && let Some(state) = self.new.graph.states.get_mut(id)
        {
            state.ty = ty;
            state.update = update;
        }
    }

    /// Says what a state holds after the call, in place of what the old next content becomes. To be called after
    /// the last node.
    pub fn next(&mut self, state: Value, next: Value) {
        self.new.next(state, next);
    }

    /// Gives an input of the new graph another type.
    pub fn retype_input(&mut self, input: Value, ty: TensorType) {
        if let Value::Input(id) = input
            && let Some(input) = self.new.graph.inputs.get_mut(id)
        {
            input.ty = ty;
        }
    }
}

/// Rebuilds `graph`. `visit` is called for each node in order, before it is copied.
pub fn rewrite<E: From<BuildError>>(
    graph: &Graph,
    visit: impl FnMut(&mut Rebuild<'_>, NodeId) -> Result<Step, E>,
) -> Result<Graph, E> {
    rewrite_with(graph, |_| Ok(()), visit, |_| Ok(()))
}

/// As [`rewrite`], with a callback before the first node (to retype inputs and states) and one after the last
/// (to replace outputs and next contents of states through [`Rebuild::map`]ped values).
pub fn rewrite_with<E: From<BuildError>>(
    graph: &Graph,
    before: impl FnOnce(&mut Rebuild<'_>) -> Result<(), E>,
    mut visit: impl FnMut(&mut Rebuild<'_>, NodeId) -> Result<Step, E>,
    after: impl FnOnce(&mut Rebuild<'_>) -> Result<(), E>,
) -> Result<Graph, E> {
    let mut new = Builder::new(graph.model.clone());
    for input in graph.inputs.values() {
        new.input(input.name.clone(), input.ty.clone());
    }
    for state in graph.states.values() {
        new.state(state.name.clone(), state.ty.clone(), state.update);
    }
    let consts =
        graph.consts.values().map(|c| new.constant(c.name.clone(), c.ty.clone(), c.data.clone())).collect();
    let weights = graph.weights.values().map(|w| new.add_weight(w.clone())).collect();
    let mut rebuild =
        Rebuild { old: graph, new, nodes: Vec::with_capacity(graph.nodes.len()), consts, weights };
    before(&mut rebuild)?;
    for (id, node) in graph.nodes.iter() {
        let values = match visit(&mut rebuild, id)? {
            Step::Replace(values) => values,
            Step::Keep => {
                let args: Vec<Value> = node.args.iter().map(|arg| rebuild.map(*arg)).collect();
                let new = rebuild.new.push(&node.name, node.op.clone(), &args)?;
                (0..node.out.len()).map(|out| Value::Node(new, out as u8)).collect()
            }
        };
        debug_assert_eq!(values.len(), node.out.len(), "a replacement for each result of {}", node.name);
        rebuild.nodes.push(values);
    }
    for (id, state) in graph.states.iter() {
        let next = rebuild.map(state.next);
        rebuild.new.graph.set_next(id, next);
    }
    rebuild.new.graph.outputs = graph.outputs.iter().map(|out| rebuild.map(*out)).collect();
    after(&mut rebuild)?;
    Ok(sweep(&rebuild.new.finish()))
}

/// The graph without the nodes, weights and constants that nothing reads; weights in the order of first use.
pub fn sweep(graph: &Graph) -> Graph {
    let mut live = vec![false; graph.nodes.len()];
    for value in graph.leaving() {
        if let Value::Node(id, _) = value {
            live[id.index()] = true;
        }
    }
    for (id, node) in graph.nodes.iter().rev() {
        if live[id.index()] {
            for arg in &node.args {
                if let Value::Node(id, _) = arg {
                    live[id.index()] = true;
                }
            }
        }
    }
    let mut new = Graph { model: graph.model.clone(), inputs: graph.inputs.clone(), ..Graph::default() };
    new.states = graph.states.clone();
    let mut consts = vec![None; graph.consts.len()];
    let mut weights = vec![None; graph.weights.len()];
    let mut nodes = vec![None; graph.nodes.len()];
    for (id, node) in graph.nodes.iter().filter(|(id, _)| live[id.index()]) {
        let mut node = node.clone();
        for arg in &mut node.args {
            *arg = match *arg {
                Value::Input(_) | Value::State(_) => *arg,
                Value::Const(id) => {
                    let new =
                        *consts[id.index()].get_or_insert_with(|| new.consts.push(graph.consts[id].clone()));
                    Value::Const(new)
                }
                Value::Weight(id) => {
                    let new = *weights[id.index()]
                        .get_or_insert_with(|| new.weights.push(graph.weights[id].clone()));
                    Value::Weight(new)
                }
                Value::Node(id, out) => Value::Node(nodes[id.index()].expect("arguments come first"), out),
            };
        }
        nodes[id.index()] = Some(new.nodes.push(node));
    }
    let moved = |value: Value| match value {
        Value::Node(id, out) => Value::Node(nodes[id.index()].expect("leaving values are live"), out),
        Value::Input(_) | Value::Const(_) | Value::Weight(_) | Value::State(_) => value,
    };
    new.outputs = graph.outputs.iter().map(|out| moved(*out)).collect();
    for (id, state) in graph.states.iter() {
        new.set_next(id, moved(state.next));
    }
    new
}
