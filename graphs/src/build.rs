//! Making graphs: append a node, infer its type, keep its name unique.

use std::collections::BTreeSet;

use crate::graph::{Const, Input, Node, State, Update, Value, Weight};
use crate::id::{NodeId, StateId};
use crate::infer::{InferError, infer};
use crate::weights::Format;
use crate::{Graph, Op, TensorType};

/// Appends to a graph. Everything that it accepts passes the verifier once states have their `next`.
#[derive(Debug, Default, Clone)]
pub struct Builder {
    pub(crate) graph: Graph,
    names: BTreeSet<String>,
}

/// Why a node could not be appended.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("at {name}: {source}")]
pub struct BuildError {
    /// The name that the node was to have.
    pub name: String,
    /// What is wrong with it.
    #[source]
    pub source: InferError,
}

impl Builder {
    /// An empty graph of a model.
    pub fn new(model: impl Into<String>) -> Builder {
        Builder { graph: Graph { model: model.into(), ..Graph::default() }, names: BTreeSet::new() }
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The type of a value.
    ///
    /// # Panics
    /// When the value is not of this graph.
    pub fn ty(&self, value: Value) -> &TensorType {
        self.graph.ty(value).expect("values come from this builder")
    }

    /// Adds an input.
    pub fn input(&mut self, name: impl Into<String>, ty: TensorType) -> Value {
        Value::Input(self.graph.inputs.push(Input { name: name.into(), ty }))
    }

    /// Adds a constant, or finds an equal one of the same name.
    pub fn constant(&mut self, name: impl Into<String>, ty: TensorType, data: Vec<f32>) -> Value {
        let mut constant = Const { name: name.into(), ty, data };
        let stem = constant.name.clone();
        let mut ordinal = 0;
        loop {
            let found = self.graph.consts.iter().find(|(_, c)| c.name == constant.name);
            match found.map(|(id, found)| (id, *found == constant)) {
                None => return Value::Const(self.graph.consts.push(constant)),
                Some((id, true)) => return Value::Const(id),
                Some((_, false)) => {
                    ordinal += 1;
                    constant.name = format!("{stem}.{ordinal}");
                }
            }
        }
    }

    /// Adds a weight stored in `f32`, whose parameter has the given path in the traced module.
    pub fn weight(&mut self, name: impl Into<String>, ty: TensorType, param: impl Into<String>) -> Value {
        self.add_weight(Weight {
            name: name.into(),
            ty,
            storage: Format::F32,
            param: param.into(),
            transposed: false,
        })
    }

    /// Adds a weight as it is, or finds the one of the same name.
    pub fn add_weight(&mut self, weight: Weight) -> Value {
        match self.graph.weight_named(&weight.name) {
            Some(id) if self.graph.weights[id] == weight => Value::Weight(id),
            _ => Value::Weight(self.graph.weights.push(weight)),
        }
    }

    /// Adds a state; its next content is its old one until [`next`](Builder::next) says otherwise.
    pub fn state(&mut self, name: impl Into<String>, ty: TensorType, update: Update) -> Value {
        use crate::id::Id;
        let id = StateId::new(self.graph.states.len());
        Value::State(self.graph.states.push(State { name: name.into(), ty, next: Value::State(id), update }))
    }

    /// Says what a state holds after the call. Does nothing to values that are no state.
    pub fn next(&mut self, state: Value, next: Value) {
        if let Value::State(id) = state {
            self.graph.set_next(id, next);
        }
    }

    /// Appends a node. When the name is taken, an ordinal is added.
    pub fn push(&mut self, name: &str, op: Op, args: &[Value]) -> Result<NodeId, BuildError> {
        let types: Vec<&TensorType> = args.iter().map(|arg| self.ty(*arg)).collect();
        let out = infer(&op, &types).map_err(|source| BuildError { name: name.into(), source })?;
        let name = self.fresh(name);
        Ok(self.graph.nodes.push(Node { name, op, args: args.to_vec(), out }))
    }

    /// Appends a node and gives its first result.
    pub fn node(&mut self, name: &str, op: Op, args: &[Value]) -> Result<Value, BuildError> {
        Ok(Value::Node(self.push(name, op, args)?, 0))
    }

    /// Adds what the caller gets.
    pub fn output(&mut self, value: Value) {
        self.graph.outputs.push(value);
    }

    /// The graph.
    pub fn finish(self) -> Graph {
        self.graph
    }

    fn fresh(&mut self, name: &str) -> String {
        if self.names.insert(name.to_string()) {
            return name.to_string();
        }
        (1..)
            .map(|ordinal| format!("{name}.{ordinal}"))
            .find(|name| self.names.insert(name.clone()))
            .expect("there are more ordinals than nodes")
    }
}
