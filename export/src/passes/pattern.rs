//! Matching: a view of a graph from a node backwards, and the shared frame of all fusions.
//!
//! A pattern is matched from its last node, the root, towards its arguments. Every node that it takes is
//! remembered; the fusion may only fire when no value of these nodes is read by any other node.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use lfm_graphs::graph::{Node, Value};
use lfm_graphs::id::NodeId;
use lfm_graphs::{BuildError, Dim, Graph, Op, Rebuild, Step, TensorType, rewrite_with};

use super::{Miss, Outcome};

/// A graph and who reads what.
pub(crate) struct View<'g> {
    pub(crate) graph: &'g Graph,
    readers: BTreeMap<Value, Vec<NodeId>>,
    leaving: BTreeSet<Value>,
}

impl<'g> View<'g> {
    pub(crate) fn new(graph: &'g Graph) -> View<'g> {
        View { graph, readers: graph.readers(), leaving: graph.leaving() }
    }

    pub(crate) fn leaves(&self, value: Value) -> bool {
        self.leaving.contains(&value)
    }

    pub(crate) fn leaving(&self) -> impl Iterator<Item = Value> {
        self.leaving.iter().copied()
    }

    pub(crate) fn readers(&self, value: Value) -> &[NodeId] {
        self.readers.get(&value).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn shape(&self, value: Value) -> &'g [Dim] {
        self.graph.ty(value).map_or(&[], |ty| &ty.shape)
    }

    pub(crate) fn name(&self, id: NodeId) -> String {
        self.graph.nodes()[id].name.clone()
    }
}

/// The nodes taken by one match.
pub(crate) struct Matcher<'v, 'g> {
    pub(crate) view: &'v View<'g>,
    pub(crate) root: NodeId,
    inside: Vec<NodeId>,
    sealed: Cell<bool>,
}

impl<'v, 'g> Matcher<'v, 'g> {
    fn new(view: &'v View<'g>, root: NodeId) -> Self {
        Matcher { view, root, inside: vec![root], sealed: Cell::new(false) }
    }

    pub(crate) fn node(&self) -> &'g Node {
        &self.view.graph.nodes()[self.root]
    }

    pub(crate) fn shape(&self, value: Value) -> &'g [Dim] {
        self.view.shape(value)
    }

    pub(crate) fn ty(&self, value: Value) -> Option<&'g TensorType> {
        self.view.graph.ty(value)
    }

    /// The node whose result `out` the value is, if its operation fits.
    pub(crate) fn take_output(
        &mut self,
        value: Value,
        out: u8,
        fits: impl Fn(&Op) -> bool,
    ) -> Option<&'g Node> {
        let Value::Node(id, found) = value else { return None };
        let node = self.view.graph.nodes().get(id)?;
        if found != out || !fits(&node.op) {
            return None;
        }
        self.inside.push(id);
        Some(node)
    }

    /// The node whose first result the value is, if its operation fits.
    pub(crate) fn take(&mut self, value: Value, fits: impl Fn(&Op) -> bool) -> Option<&'g Node> {
        self.take_output(value, 0, fits)
    }

    /// The argument of a node of one argument.
    pub(crate) fn unary(&mut self, value: Value, fits: impl Fn(&Op) -> bool) -> Option<Value> {
        self.take(value, fits)?.args.first().copied()
    }

    /// The arguments of a node of two arguments.
    pub(crate) fn binary(&mut self, value: Value, fits: impl Fn(&Op) -> bool) -> Option<[Value; 2]> {
        <[Value; 2]>::try_from(self.take(value, fits)?.args.as_slice()).ok()
    }

    /// Tries `f` on a pair in both orders. Nodes taken by a failed try are forgotten.
    pub(crate) fn either<T>(
        &mut self,
        [a, b]: [Value; 2],
        mut f: impl FnMut(&mut Self, Value, Value) -> Option<T>,
    ) -> Option<T> {
        self.attempt(|m| f(m, a, b)).or_else(|| self.attempt(|m| f(m, b, a)))
    }

    /// Tries `f`. Nodes taken by a failed try are forgotten.
    pub(crate) fn attempt<T>(&mut self, f: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let taken = self.inside.len();
        let found = f(self);
        if found.is_none() {
            self.inside.truncate(taken);
        }
        found
    }

    /// The nodes that read a value.
    pub(crate) fn readers(&self, value: Value) -> &'v [NodeId] {
        self.view.readers(value)
    }

    /// Takes a node that is not reached through arguments, such as the one that gives a state's next content.
    pub(crate) fn also(&mut self, id: NodeId) -> &'g Node {
        self.inside.push(id);
        &self.view.graph.nodes()[id]
    }

    /// Seals the match. Fails when a value of the nodes taken, but for the root's results, is read from outside or leaves the graph,
    /// except that those of `replaced` may leave it: next contents that the fused node gives.
    pub(crate) fn closed(&self, replaced: &[Value]) -> Result<(), Miss> {
        for id in self.inside.iter().filter(|id| **id != self.root) {
            for out in 0..self.view.graph.nodes()[*id].out.len() {
                let value = Value::Node(*id, out as u8);
                let shared = |by: String| {
                    let value = self.view.graph.value_name(value);
                    Err(Miss::Shared { at: self.view.name(self.root), value, by })
                };
                if let Some(by) = self.readers(value).iter().find(|by| !self.inside.contains(by)) {
                    return shared(self.view.name(*by));
                }
                if self.view.leaves(value) && !replaced.contains(&value) {
                    return shared("the caller".to_owned());
                }
            }
        }
        self.sealed.set(true);
        Ok(())
    }

    pub(crate) fn miss<T>(&self, why: impl Into<String>) -> Result<T, Miss> {
        Err(Miss::Check { at: self.view.name(self.root), why: why.into() })
    }
}

/// What stands in place of a match.
#[derive(Default)]
pub(crate) struct Fused {
    /// New values of the root's results.
    pub(crate) results: Vec<Value>,
    /// Next contents of states, as (state, content).
    pub(crate) next: Vec<(Value, Value)>,
}

impl From<Value> for Fused {
    fn from(value: Value) -> Fused {
        Fused { results: vec![value], next: Vec::new() }
    }
}

/// The frame of a fusion: `find` looks at every node as the root of a match; `emit` puts the fused node in place
/// of the root. What the match has made unused vanishes.
pub(crate) fn fuse<M>(
    graph: &Graph,
    find: impl Fn(&mut Matcher<'_, '_>) -> Result<Option<M>, Miss>,
    mut emit: impl FnMut(&mut Rebuild<'_>, &Node, &M) -> Result<Fused, BuildError>,
) -> Result<Outcome, BuildError> {
    let view = View::new(graph);
    let mut matches = BTreeMap::new();
    let mut inner = BTreeSet::new();
    let mut misses = Vec::new();
    for id in graph.nodes().ids() {
        let mut matcher = Matcher::new(&view, id);
        match find(&mut matcher) {
            Ok(Some(found)) => {
                matches.insert(id, found);
                if matcher.sealed.get() {
                    inner.extend(matcher.inside.into_iter().filter(|taken| *taken != id));
                }
            }
            Ok(None) => {}
            Err(miss) => misses.push(miss),
        }
    }
    if matches.is_empty() {
        return Ok(Outcome { graph: graph.clone(), fired: 0, misses });
    }
    let next = std::cell::RefCell::new(Vec::new());
    let new = rewrite_with::<BuildError>(
        graph,
        |_| Ok(()),
        |new, id| {
            let node = &graph.nodes()[id];
            let Some(found) = matches.get(&id) else {
                let Some(arg) = node.args.first().filter(|_| inner.contains(&id)) else {
                    return Ok(Step::Keep);
                };
                // Read by nodes of the match alone, none of which will stand: any value does. Its name is free.
                return Ok(Step::Replace(vec![new.map(*arg); node.out.len()]));
            };
            let fused = emit(new, node, found)?;
            next.borrow_mut().extend(fused.next);
            Ok(Step::Replace(fused.results))
        },
        |new| {
            for (state, content) in next.borrow().iter() {
                new.next(*state, *content);
            }
            Ok(())
        },
    )?;
    Ok(Outcome { graph: new, fired: matches.len() as u32, misses })
}

/// Whether a value is a weight of a number of axes.
pub(crate) fn is_weight(graph: &Graph, value: Value, rank: usize) -> bool {
    matches!(value, Value::Weight(_)) && graph.ty(value).is_some_and(|ty| ty.rank() == rank)
}

/// The name of a weight without the suffix of projections: `l0.conv.in_proj` → `l0.conv.in`.
pub(crate) fn weight_stem(graph: &Graph, value: Value) -> String {
    let name = match value {
        Value::Weight(id) => graph.weights()[id].name.clone(),
        Value::Input(_) | Value::Const(_) | Value::State(_) | Value::Node(..) => String::new(),
    };
    name.strip_suffix("_proj").map(str::to_owned).unwrap_or(name)
}

/// The longest common scope of weights, by their parameters' modules, and a role in it.
pub(crate) fn scoped(graph: &Graph, weights: &[Value], role: &str) -> String {
    use crate::lower::name;
    let scopes = weights.iter().filter_map(|value| match value {
        Value::Weight(id) => Some(name::module_scope(&graph.weights()[*id].param)),
        Value::Input(_) | Value::Const(_) | Value::State(_) | Value::Node(..) => None,
    });
    name::join(&scopes.reduce(|a, b| name::common_scope(&a, &b)).unwrap_or_default(), role)
}
