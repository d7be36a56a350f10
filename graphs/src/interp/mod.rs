//! The interpreter: every operation in plain `f32` loops, never optimised. Passes and kernels are judged by it.
//!
//! Fused operations are run by their [expansion](crate::expand). A graph that verifies runs without a panic on any
//! inputs; whatever is wrong with weights, inputs and states is a named error, and then the states are as before.
//!
//! ```
//! # use lfm_graphs::{Builder, Op, interp::{Interp, States, Tensor}};
//! let mut b = Builder::new("doubled");
//! let tokens = b.input("tokens", "i32[seq]".parse().unwrap());
//! let table = b.weight("table", "f32[3, 2]".parse().unwrap(), "table");
//! let rows = b.node("rows", Op::Select, &[table, tokens]).unwrap();
//! let twice = b.node("twice", Op::MulScalar { by: 2.0 }, &[rows]).unwrap();
//! b.output(twice);
//! let graph = b.finish();
//!
//! let table = Tensor::f32([3, 2], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
//! let interp = Interp::new(&graph, &|name| (name == "table").then(|| table.clone())).unwrap();
//! let results = interp.run(&[("tokens", &[2, 0])], &mut States::new(&graph)).unwrap();
//! assert_eq!(results, [Tensor::f32([2, 2], vec![8.0, 10.0, 0.0, 2.0])]);
//! ```

mod arithmetic;
mod error;
mod eval;
mod indices;
mod layout;
mod products;
mod states;
mod tensor;

use std::collections::{BTreeMap, BTreeSet};

pub use error::{Fault, InterpError};
pub use states::States;
pub use tensor::{Data, MAX_ELEMENTS, Tensor};

use crate::expand::expand;
use crate::graph::{Node, Value};
use crate::id::{Id, NodeId};
use crate::{Graph, TensorType, verify};
use eval::{Place, eval};

/// Which rows of what stands before a [`LastRow`](crate::Op::LastRow) are looked at.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Rows {
    /// The last, as the operation says.
    Last,
    /// All: what follows the operation is evaluated for each row by itself, and the results stand one after another
    /// on the first axis.
    All,
}

/// A graph with its weights, ready to run.
pub struct Interp<'g> {
    graph: &'g Graph,
    consts: Vec<Tensor>,
    weights: Vec<Tensor>,
    /// The expansion of each fused node.
    fragments: Vec<Option<Graph>>,
    /// What depends on a `LastRow`.
    tail: BTreeSet<NodeId>,
}

/// The tensors of a call while it runs.
struct Call<'a> {
    graph: &'a Graph,
    inputs: Vec<&'a Tensor>,
    consts: &'a [Tensor],
    weights: &'a [Tensor],
    states: Vec<&'a Tensor>,
    /// Results of each node that has run and is still to be read.
    nodes: Vec<Vec<Tensor>>,
    place: Place,
}

impl Call<'_> {
    fn get(&self, value: Value) -> Result<&Tensor, Fault> {
        let found = match value {
            Value::Input(id) => self.inputs.get(id.index()).copied(),
            Value::Const(id) => self.consts.get(id.index()),
            Value::Weight(id) => self.weights.get(id.index()),
            Value::State(id) => self.states.get(id.index()).copied(),
            Value::Node(id, out) => self.nodes.get(id.index()).and_then(|n| n.get(out as usize)),
        };
        found.ok_or_else(|| Fault::Type {
            what: "an argument",
            found: "absent".into(),
            expected: self.graph.value_name(value),
        })
    }

    /// The results of one node, fused nodes by their fragment.
    fn node(&self, node: &Node, fragment: Option<&Graph>) -> Result<Vec<Tensor>, Fault> {
        let args = node.args.iter().map(|arg| self.get(*arg)).collect::<Result<Vec<_>, Fault>>()?;
        let Some(fragment) = fragment else { return eval(&node.op, &args, &node.out, self.place) };
        let mut inner = Call {
            graph: fragment,
            inputs: args,
            consts: &[],
            weights: &[],
            states: Vec::new(),
            nodes: vec![Vec::new(); fragment.nodes.len()],
            place: self.place,
        };
        let last = last_readers(fragment);
        for (id, part) in fragment.nodes.iter() {
            inner.nodes[id.index()] = inner.node(part, None)?;
            inner.forget(part, id, &last);
        }
        fragment.outputs.iter().map(|out| inner.get(*out).cloned()).collect()
    }

    /// Drops the results that `node` was the last to read.
    fn forget(&mut self, node: &Node, id: NodeId, last: &BTreeMap<NodeId, NodeId>) {
        for arg in &node.args {
            if let Value::Node(from, _) = arg
                && last.get(from) == Some(&id)
            {
                self.nodes[from.index()] = Vec::new();
            }
        }
    }
}

/// The last node that reads any result of a node, for those whose results do not leave the graph.
fn last_readers(graph: &Graph) -> BTreeMap<NodeId, NodeId> {
    let mut last = BTreeMap::new();
    for (id, node) in graph.nodes.iter() {
        for arg in &node.args {
            if let Value::Node(from, _) = arg {
                last.insert(*from, id);
            }
        }
    }
    for value in graph.leaving() {
        if let Value::Node(from, _) = value {
            last.remove(&from);
        }
    }
    last
}

impl<'g> Interp<'g> {
    /// Verifies the graph and takes its weights, which `weights` gives by name.
    pub fn new(
        graph: &'g Graph,
        weights: &dyn Fn(&str) -> Option<Tensor>,
    ) -> Result<Interp<'g>, InterpError> {
        if let Some(error) = verify(graph).into_iter().next() {
            return Err(InterpError::Unsound(error));
        }
        let consts = graph.consts.values().map(|c| Tensor::f32(c.ty.at(0, 0), c.data.clone())).collect();
        let weights = graph
            .weights
            .values()
            .map(|weight| {
                let (name, expected) = (weight.name.clone(), weight.ty.to_string());
                let Some(found) = weights(&name) else {
                    return Err(InterpError::MissingWeight { name, expected });
                };
                if !found.is(&weight.ty, 0, 0) {
                    return Err(InterpError::Weight { name, found: found.describe(), expected });
                }
                Ok(found)
            })
            .collect::<Result<_, _>>()?;
        let fragments = graph
            .nodes
            .values()
            .map(|node| {
                let types: Vec<&TensorType> = node.args.iter().filter_map(|arg| graph.ty(*arg)).collect();
                expand(&node.op, &types)
            })
            .collect::<Result<_, _>>()?;
        Ok(Interp { graph, consts, weights, fragments, tail: graph.tail() })
    }

    /// The graph.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// Runs one call on inputs by name and gives the outputs in order. The states become those after the call.
    ///
    /// All inputs have `seq` elements; a graph without inputs runs with `seq` one.
    pub fn run(&self, inputs: &[(&str, &[i32])], states: &mut States) -> Result<Vec<Tensor>, InterpError> {
        self.run_with(inputs, states, Rows::Last, &mut |_, _| {})
    }

    /// As [`run`](Interp::run), with the inputs `tokens` and `positions`, as far as the graph has them: positions
    /// count on from the states' past.
    pub fn run_tokens(&self, tokens: &[i32], states: &mut States) -> Result<Vec<Tensor>, InterpError> {
        self.run_tokens_with(tokens, states, Rows::Last, &mut |_, _| {})
    }

    /// As [`run_tokens`](Interp::run_tokens), with the choices of [`run_with`](Interp::run_with).
    pub fn run_tokens_with(
        &self,
        tokens: &[i32],
        states: &mut States,
        rows: Rows,
        observe: &mut dyn FnMut(&str, &Tensor),
    ) -> Result<Vec<Tensor>, InterpError> {
        let (past, seq) = (states.past, self.length(tokens.len(), states.past)?);
        let positions: Vec<i32> = (past..past + seq).map(|position| position as i32).collect();
        let given = [("tokens", tokens), ("positions", positions.as_slice())];
        let has = |name: &str| self.graph.inputs.values().any(|input| input.name == name);
        let inputs: Vec<(&str, &[i32])> = given.into_iter().filter(|(name, _)| has(name)).collect();
        self.run_with(&inputs, states, rows, observe)
    }

    /// As [`run`](Interp::run) for chosen rows, showing every result of every node to `observe` by the name of its
    /// value, nodes in order (for [`Rows::All`], what depends on a `LastRow` after all the rest).
    pub fn run_with(
        &self,
        inputs: &[(&str, &[i32])],
        states: &mut States,
        rows: Rows,
        observe: &mut dyn FnMut(&str, &Tensor),
    ) -> Result<Vec<Tensor>, InterpError> {
        let (tensors, seq) = self.inputs(inputs, states.past)?;
        let place = Place { seq, past: states.past, row: seq as usize - 1 };
        let mut call = Call {
            graph: self.graph,
            inputs: tensors.iter().collect(),
            consts: &self.consts,
            weights: &self.weights,
            states: self.state_tensors(states, place)?,
            nodes: vec![Vec::new(); self.graph.nodes.len()],
            place,
        };
        let last = last_readers(self.graph);
        match rows {
            Rows::Last => {
                for id in self.graph.nodes.ids() {
                    self.step(&mut call, id, observe)?;
                    call.forget(&self.graph.nodes[id], id, &last);
                }
            }
            Rows::All => {
                // What the tail reads is kept: no result is dropped.
                for id in self.graph.nodes.ids().filter(|id| !self.tail.contains(id)) {
                    self.step(&mut call, id, observe)?;
                }
                self.all_rows(&mut call, observe)?;
            }
        }
        let node_fault = |name: &str, fault| InterpError::Node { name: name.to_string(), fault };
        let outputs = self
            .graph
            .outputs
            .iter()
            .map(|out| call.get(*out).cloned().map_err(|fault| node_fault("the outputs", fault)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut next = BTreeMap::new();
        for state in self.graph.states.values() {
            let tensor = call.get(state.next).map_err(|fault| node_fault(&state.name, fault))?;
            next.insert(state.name.clone(), tensor.clone());
        }
        *states = States { past: states.past + seq, tensors: next };
        Ok(outputs)
    }

    /// Evaluates a node and shows its results.
    fn step(
        &self,
        call: &mut Call<'_>,
        id: NodeId,
        observe: &mut dyn FnMut(&str, &Tensor),
    ) -> Result<(), InterpError> {
        let node = &self.graph.nodes[id];
        let fragment = self.fragments.get(id.index()).and_then(Option::as_ref);
        let results = call
            .node(node, fragment)
            .map_err(|fault| InterpError::Node { name: node.name.clone(), fault })?;
        for (out, result) in results.iter().enumerate() {
            observe(&self.graph.value_name(Value::Node(id, out as u8)), result);
        }
        call.nodes[id.index()] = results;
        Ok(())
    }

    /// Evaluates the tail for each row and leaves the results, one row after another, in the call.
    fn all_rows(
        &self,
        call: &mut Call<'_>,
        observe: &mut dyn FnMut(&str, &Tensor),
    ) -> Result<(), InterpError> {
        let mut all = BTreeMap::<NodeId, Vec<Tensor>>::new();
        for row in 0..call.place.seq as usize {
            call.place.row = row;
            for id in &self.tail {
                self.step(call, *id, &mut |_, _| {})?;
                let results = &call.nodes[id.index()];
                match all.get_mut(id) {
                    None => drop(all.insert(*id, results.clone())),
                    Some(all) => {
                        for (all, result) in all.iter_mut().zip(results) {
                            below(all, result).map_err(|fault| InterpError::Node {
                                name: self.graph.nodes[*id].name.clone(),
                                fault,
                            })?;
                        }
                    }
                }
            }
        }
        for (id, results) in all {
            for (out, result) in results.iter().enumerate() {
                observe(&self.graph.value_name(Value::Node(id, out as u8)), result);
            }
            call.nodes[id.index()] = results;
        }
        Ok(())
    }

    /// `seq`, if a call of that length can be made.
    fn length(&self, seq: usize, past: u32) -> Result<u32, InterpError> {
        if seq == 0 {
            return Err(InterpError::Empty);
        }
        let most = MAX_ELEMENTS;
        let fits = seq.checked_add(past as usize).is_some_and(|total| total <= most);
        if fits { Ok(seq as u32) } else { Err(InterpError::TooLong { seq, past, most }) }
    }

    /// The inputs in the order of the graph, and their length.
    fn inputs(&self, given: &[(&str, &[i32])], past: u32) -> Result<(Vec<Tensor>, u32), InterpError> {
        let declared = &self.graph.inputs;
        if let Some((name, _)) = given.iter().find(|(name, _)| !declared.values().any(|i| i.name == *name)) {
            return Err(InterpError::UnknownInput { name: name.to_string() });
        }
        let mut seq = None;
        let mut tensors = Vec::with_capacity(declared.len());
        for input in declared.values() {
            let name = input.name.clone();
            let Some((_, data)) = given.iter().find(|(given, _)| *given == name) else {
                return Err(InterpError::MissingInput { name });
            };
            let expected = *seq.get_or_insert(data.len());
            if data.len() != expected {
                return Err(InterpError::InputLength { name, found: data.len(), expected });
            }
            tensors.push(Tensor::i32([data.len()], data.to_vec()));
        }
        Ok((tensors, self.length(seq.unwrap_or(1), past)?))
    }

    /// The contents of the states in the order of the graph.
    fn state_tensors<'s>(&self, states: &'s States, place: Place) -> Result<Vec<&'s Tensor>, InterpError> {
        self.graph
            .states
            .values()
            .map(|state| {
                let found = states.tensors.get(&state.name);
                found.filter(|tensor| tensor.is(&state.ty, place.seq, place.past)).ok_or_else(|| {
                    InterpError::State {
                        name: state.name.clone(),
                        found: found.map_or("absent".into(), Tensor::describe),
                        expected: state.ty.to_string(),
                        past: place.past,
                    }
                })
            })
            .collect()
    }
}

/// Puts a tensor below another along the first axis; scalars become the elements of a vector.
fn below(all: &mut Tensor, next: &Tensor) -> Result<(), Fault> {
    let rows = next.shape.first().copied().unwrap_or(1);
    match all.shape.first_mut() {
        Some(size) if !next.shape.is_empty() => *size += rows,
        Some(size) => *size += 1,
        None => all.shape = vec![2],
    }
    if all.data.len() + next.data.len() > MAX_ELEMENTS {
        return Err(Fault::TooLarge { found: all.describe(), most: MAX_ELEMENTS });
    }
    match (&mut all.data, &next.data) {
        (Data::F32(all), Data::F32(next)) => all.extend_from_slice(next),
        (Data::I32(all), Data::I32(next)) => all.extend_from_slice(next),
        (Data::F32(_), Data::I32(_)) | (Data::I32(_), Data::F32(_)) => {}
    }
    Ok(())
}
