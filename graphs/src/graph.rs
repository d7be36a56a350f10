//! The graph: arenas of inputs, constants, weights, states and nodes, and the values between them.
//!
//! Nodes are stored in execution order and read only what stands before them. Outside this crate a graph is
//! read only; it is made by [`Builder`](crate::Builder), by parsing text, or by [`rewrite`](crate::rewrite()).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{Arena, ConstId, Id, InputId, NodeId, StateId, WeightId};
use crate::weights::Format;
use crate::{Op, TensorType};

/// Where a value comes from.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Value {
    /// Given by the caller. Prints as `$tokens`.
    Input(InputId),
    /// A literal. Prints as `#inv_freq`.
    Const(ConstId),
    /// A trained parameter. Prints as `%l0.conv.kernel`.
    Weight(WeightId),
    /// The content of a state before the call. Prints as `@l0.conv.window`.
    State(StateId),
    /// A result of a node. Prints as `l0.conv.gate`, further results as `l0.conv.gate:1`.
    Node(NodeId, u8),
}

/// A tensor that the caller gives.
#[derive(Clone, PartialEq, Debug)]
pub struct Input {
    /// Unique among inputs.
    pub name: String,
    /// Its type.
    pub ty: TensorType,
}

/// A literal tensor of `f32`.
#[derive(Clone, PartialEq, Debug)]
pub struct Const {
    /// Unique among constants.
    pub name: String,
    /// Its type, without symbols.
    pub ty: TensorType,
    /// Row-major elements.
    pub data: Vec<f32>,
}

/// A trained parameter.
#[derive(Clone, PartialEq, Debug)]
pub struct Weight {
    /// Unique among weights.
    pub name: String,
    /// Its logical type, without symbols.
    pub ty: TensorType,
    /// How its bytes are kept.
    pub storage: Format,
    /// Path of the parameter in the traced module.
    pub param: String,
    /// Whether the parameter's last two axes are exchanged in the module.
    pub transposed: bool,
}

/// How a state grows.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Update {
    /// The new content is the old one followed by `seq` more along an axis.
    Append {
        /// The axis.
        axis: u8,
    },
    /// The new content has the shape of the old one.
    Window,
}

/// A tensor carried from call to call: read by one node, replaced by `next` when the call ends.
#[derive(Clone, PartialEq, Debug)]
pub struct State {
    /// Unique among states.
    pub name: String,
    /// Its type before the call.
    pub ty: TensorType,
    /// The content after the call.
    pub next: Value,
    /// How it grows.
    pub update: Update,
}

/// An operation on values.
#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    /// Unique among nodes.
    pub name: String,
    /// What is done.
    pub op: Op,
    /// What it is done to.
    pub args: Vec<Value>,
    /// Types of the results.
    pub out: Vec<TensorType>,
}

/// A static graph with two symbols, `seq` and `past`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Graph {
    /// What is computed, such as `lfm2_moe`.
    pub model: String,
    pub(crate) inputs: Arena<InputId, Input>,
    pub(crate) consts: Arena<ConstId, Const>,
    pub(crate) weights: Arena<WeightId, Weight>,
    pub(crate) states: Arena<StateId, State>,
    pub(crate) nodes: Arena<NodeId, Node>,
    pub(crate) outputs: Vec<Value>,
}

impl Graph {
    /// What the caller gives.
    pub fn inputs(&self) -> &Arena<InputId, Input> {
        &self.inputs
    }
    /// Literals.
    pub fn consts(&self) -> &Arena<ConstId, Const> {
        &self.consts
    }
    /// Trained parameters, in the order of their first use.
    pub fn weights(&self) -> &Arena<WeightId, Weight> {
        &self.weights
    }
    /// What is carried between calls.
    pub fn states(&self) -> &Arena<StateId, State> {
        &self.states
    }
    /// Operations in execution order.
    pub fn nodes(&self) -> &Arena<NodeId, Node> {
        &self.nodes
    }
    /// What the caller gets.
    pub fn outputs(&self) -> &[Value] {
        &self.outputs
    }

    /// The type of a value, if it exists.
    pub fn ty(&self, value: Value) -> Option<&TensorType> {
        match value {
            Value::Input(id) => self.inputs.get(id).map(|i| &i.ty),
            Value::Const(id) => self.consts.get(id).map(|c| &c.ty),
            Value::Weight(id) => self.weights.get(id).map(|w| &w.ty),
            Value::State(id) => self.states.get(id).map(|s| &s.ty),
            Value::Node(id, out) => self.nodes.get(id).and_then(|n| n.out.get(out as usize)),
        }
    }

    /// The text of a value: its name behind the sigil of its kind.
    pub fn value_name(&self, value: Value) -> String {
        let missing = |kind: char| format!("{kind}?");
        match value {
            Value::Input(id) => self.inputs.get(id).map_or_else(|| missing('$'), |i| format!("${}", i.name)),
            Value::Const(id) => self.consts.get(id).map_or_else(|| missing('#'), |c| format!("#{}", c.name)),
            Value::Weight(id) => {
                self.weights.get(id).map_or_else(|| missing('%'), |w| format!("%{}", w.name))
            }
            Value::State(id) => self.states.get(id).map_or_else(|| missing('@'), |s| format!("@{}", s.name)),
            Value::Node(id, out) => {
                let name = self.nodes.get(id).map_or("?", |n| n.name.as_str());
                if out == 0 { name.to_string() } else { format!("{name}:{out}") }
            }
        }
    }

    /// The node that gives a value, if a node does.
    pub fn producer(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(id, _) => self.nodes.get(id),
            Value::Input(_) | Value::Const(_) | Value::Weight(_) | Value::State(_) => None,
        }
    }

    /// Which nodes read each value (a node that reads it twice stands there twice).
    pub fn readers(&self) -> BTreeMap<Value, Vec<NodeId>> {
        let mut readers = BTreeMap::<Value, Vec<NodeId>>::new();
        for (id, node) in self.nodes.iter() {
            for arg in &node.args {
                readers.entry(*arg).or_default().push(id);
            }
        }
        readers
    }

    /// The values that leave the graph: outputs and the next contents of states.
    pub fn leaving(&self) -> BTreeSet<Value> {
        self.outputs.iter().copied().chain(self.states.values().map(|s| s.next)).collect()
    }

    /// The node of that name.
    pub fn node_named(&self, name: &str) -> Option<NodeId> {
        self.nodes.iter().find(|(_, n)| n.name == name).map(|(id, _)| id)
    }

    /// The weight of that name.
    pub fn weight_named(&self, name: &str) -> Option<WeightId> {
        self.weights.iter().find(|(_, w)| w.name == name).map(|(id, _)| id)
    }

    /// How often each operation occurs, by name.
    pub fn histogram(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for node in self.nodes.values() {
            *counts.entry(node.op.name().0).or_default() += 1;
        }
        counts
    }

    /// The same graph with another storage for each weight.
    pub fn with_storage(mut self, mut storage: impl FnMut(&Graph, WeightId) -> Format) -> Graph {
        for id in self.weights.ids().collect::<Vec<_>>() {
            let format = storage(&self, id);
            if let Some(weight) = self.weights.get_mut(id) {
                weight.storage = format;
            }
        }
        self
    }

    /// The number of trained parameters.
    pub fn parameters(&self) -> u64 {
        self.weights.values().filter_map(|w| w.ty.elements(0, 0)).sum()
    }

    pub(crate) fn set_next(&mut self, state: StateId, next: Value) {
        if let Some(state) = self.states.get_mut(state) {
            state.next = next;
        }
    }
}

/// Whether a name may stand in a graph: letters, digits, `_`, `-`, `.`, at most 128 bytes, no empty part.
pub fn is_name(name: &str) -> bool {
    name.len() <= 128
        && name.split('.').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        })
}

/// The number of an id, for messages about graphs whose names are broken.
pub(crate) fn number(id: impl Id) -> usize {
    id.index()
}
