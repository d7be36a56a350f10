//! Two graphs, compared by names.

use std::collections::{BTreeMap, VecDeque};

use lfm_graphs::graph::{Const, Input, Node, State, Value};
use lfm_graphs::{Graph, TensorType};
use serde::Serialize;

use super::list::{Field, Item, Named, compare};

/// Most elements of a constant that are printed.
const SHOWN: usize = 8;

/// How two graphs differ, but for their weights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GraphDiff {
    /// What is computed.
    pub model: Option<Field>,
    /// What the caller gives.
    pub inputs: Vec<Item>,
    /// Literals.
    pub consts: Vec<Item>,
    /// What is carried between calls.
    pub states: Vec<Item>,
    /// Operations.
    pub nodes: Vec<Item>,
    /// What the caller gets.
    pub outputs: Option<Field>,
}

impl GraphDiff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        let GraphDiff { model, inputs, consts, states, nodes, outputs } = self;
        model.is_none()
            && outputs.is_none()
            && [inputs, consts, states, nodes].iter().all(|items| items.is_empty())
    }
}

/// A value on one line of RON.
pub(super) fn line(value: &impl Serialize) -> String {
    let config = ron::ser::PrettyConfig::new().depth_limit(0).struct_names(false).number_suffixes(false);
    // Plain data has no way to fail.
    ron::ser::to_string_pretty(value, config).unwrap_or_default()
}

fn types(types: &[TensorType]) -> String {
    types.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Names of A as they are in B.
#[derive(Default)]
struct Renamed(BTreeMap<String, String>);

impl Renamed {
    fn value(&self, graph: &Graph, value: Value) -> String {
        let name = graph.value_name(value);
        if !matches!(value, Value::Node(..)) {
            return name;
        }
        let (node, result) = name.split_once(':').map_or((name.as_str(), None), |(n, r)| (n, Some(r)));
        match (self.0.get(node), result) {
            (None, _) => name,
            (Some(new), None) => new.clone(),
            (Some(new), Some(result)) => format!("{new}:{result}"),
        }
    }

    fn values(&self, graph: &Graph, values: &[Value]) -> String {
        values.iter().map(|value| self.value(graph, *value)).collect::<Vec<_>>().join(", ")
    }

    fn node(&self, graph: &Graph, node: &Node) -> String {
        format!("{} [{}] -> {}", line(&node.op), self.values(graph, &node.args), types(&node.out))
    }

    /// Nodes of A whose names B does not have, and that are nodes of B whose names A does not have.
    fn find(a: &Graph, b: &Graph) -> Renamed {
        let mut renamed = Renamed::default();
        let names = |graph: &Graph| graph.nodes().values().map(|node| node.name.clone()).collect::<Vec<_>>();
        let (in_a, in_b) = (names(a), names(b));
        let in_a: std::collections::BTreeSet<String> = in_a.into_iter().collect();
        let in_b: std::collections::BTreeSet<String> = in_b.into_iter().collect();
        let mut new = BTreeMap::<String, VecDeque<&str>>::new();
        for node in b.nodes().values().filter(|node| !in_a.contains(&node.name)) {
            let text = Renamed::default().node(b, node);
            new.entry(text).or_default().push_back(&node.name);
        }
        // Arguments come before what reads them, so they have their new names already.
        for node in a.nodes().values().filter(|node| !in_b.contains(&node.name)) {
            let text = renamed.node(a, node);
            if let Some(name) = new.get_mut(&text).and_then(VecDeque::pop_front) {
                renamed.0.insert(node.name.clone(), name.to_owned());
            }
        }
        renamed
    }
}

/// A graph and the names that its values go by.
struct Side<'a> {
    graph: &'a Graph,
    names: &'a Renamed,
}

impl Side<'_> {
    fn state(&self, state: &State) -> String {
        let next = self.names.value(self.graph, state.next);
        format!("{}, next {next}, {}", state.ty, line(&state.update))
    }
}

/// Compares two graphs but for their weights.
pub(super) fn diff(a: &Graph, b: &Graph) -> GraphDiff {
    let (names, same) = (Renamed::find(a, b), Renamed::default());
    let (side_a, side_b) = (Side { graph: a, names: &names }, Side { graph: b, names: &same });
    let none = BTreeMap::new();

    fn named<'a, T>(items: impl Iterator<Item = &'a T>, name: fn(&T) -> &str) -> Vec<Named<'a, T>> {
        items.map(|item| Named { name: name(item), item }).collect()
    }
    let input = |input: &Input| input.ty.to_string();
    let inputs = |graph| named(Graph::inputs(graph).values(), |i: &Input| &i.name);
    let consts = |graph| named(Graph::consts(graph).values(), |c: &Const| &c.name);
    let states = |graph| named(Graph::states(graph).values(), |s: &State| &s.name);
    let nodes = |graph| named(Graph::nodes(graph).values(), |n: &Node| &n.name);
    GraphDiff {
        model: Field::new("model", &a.model, &b.model),
        inputs: compare(&inputs(a), &inputs(b), &none, input, input, |a, b| {
            Field::new("type", &a.ty, &b.ty).into_iter().collect()
        }),
        consts: compare(&consts(a), &consts(b), &none, constant, constant, constants),
        states: compare(
            &states(a),
            &states(b),
            &none,
            |state| side_a.state(state),
            |state| side_b.state(state),
            |one, other| {
                let fields = [
                    Field::new("type", &one.ty, &other.ty),
                    Field::new("next", names.value(a, one.next), b.value_name(other.next)),
                    Field::new("update", line(&one.update), line(&other.update)),
                ];
                fields.into_iter().flatten().collect()
            },
        ),
        nodes: compare(
            &nodes(a),
            &nodes(b),
            &names.0,
            |node| names.node(a, node),
            |node| same.node(b, node),
            |one, other| {
                let fields = [
                    Field::new("op", line(&one.op), line(&other.op)),
                    Field::new("args", names.values(a, &one.args), same.values(b, &other.args)),
                    Field::new("out", types(&one.out), types(&other.out)),
                ];
                fields.into_iter().flatten().collect()
            },
        ),
        outputs: Field::new("outputs", names.values(a, a.outputs()), same.values(b, b.outputs())),
    }
}

fn numbers(data: &[f32]) -> String {
    let shown: Vec<String> = data.iter().take(SHOWN).map(f32::to_string).collect();
    let rest = if data.len() > SHOWN { format!(", .. {} in all", data.len()) } else { String::new() };
    format!("[{}{rest}]", shown.join(", "))
}

fn constant(constant: &Const) -> String {
    format!("{} {}", constant.ty, numbers(&constant.data))
}

fn constants(a: &Const, b: &Const) -> Vec<Field> {
    let ty = Field::new("type", &a.ty, &b.ty);
    let same =
        a.data.len() == b.data.len() && a.data.iter().zip(&b.data).all(|(x, y)| x.to_bits() == y.to_bits());
    let data = (!same).then(|| {
        // From the first element that differs on, so that a difference behind those shown is seen.
        let at = a.data.iter().zip(&b.data).take_while(|(x, y)| x.to_bits() == y.to_bits()).count();
        let from = at.saturating_sub(at % SHOWN);
        let tail = |data: &[f32]| numbers(data.get(from..).unwrap_or_default());
        let field = if from == 0 { "data".to_owned() } else { format!("data from element {from}") };
        Field { field, a: tail(&a.data), b: tail(&b.data) }
    });
    ty.into_iter().chain(data).collect()
}
