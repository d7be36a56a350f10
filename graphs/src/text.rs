//! Graph ↔ canonical RON text.
//!
//! One input, constant, weight, state or node a line, in order; values print as `$input`, `#const`, `%weight`,
//! `@state`, `node` and `node:1`. Text → graph → text is the identity on canonical text, and comments and other
//! layouts are accepted on reading.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ron::ser::PrettyConfig;
use serde::{Deserialize, Serialize};

use crate::graph::{Const, Input, Node, State, Update, Value, Weight, is_name};
use crate::id::{ConstId, Id, InputId, NodeId, StateId, WeightId};
use crate::verify::{At, VerifyError};
use crate::weights::Format;
use crate::{Graph, Op, TensorType};

/// The version of the text form.
pub const FORMAT: u32 = 1;
/// Largest text that is read, in bytes.
pub const MAX_TEXT: usize = 32 << 20;
/// Most elements of all constants together.
pub const MAX_CONST_ELEMENTS: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InputText {
    name: String,
    ty: TensorType,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConstText {
    name: String,
    ty: TensorType,
    data: Vec<f32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightText {
    name: String,
    ty: TensorType,
    storage: Format,
    param: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    transposed: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateText {
    name: String,
    ty: TensorType,
    next: String,
    update: Update,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeText {
    name: String,
    op: Op,
    args: Vec<String>,
    out: Vec<TensorType>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GraphText {
    format: u32,
    model: String,
    inputs: Vec<InputText>,
    consts: Vec<ConstText>,
    weights: Vec<WeightText>,
    states: Vec<StateText>,
    nodes: Vec<NodeText>,
    outputs: Vec<String>,
}

/// Why a text is no graph. `line` and `column` count from 1.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("graph text, line {line}, column {column}: {message}")]
pub struct TextError {
    /// Line of the fault.
    pub line: usize,
    /// Column of the fault.
    pub column: usize,
    /// What was found and expected.
    pub message: String,
}

/// One value on one line.
pub(crate) fn line(value: &impl Serialize) -> String {
    let config = PrettyConfig::new().depth_limit(0).new_line("\n").struct_names(false).number_suffixes(false);
    ron::ser::to_string_pretty(value, config).expect("plain data serialises")
}

impl Graph {
    /// The canonical text.
    pub fn text(&self) -> String {
        self.annotated(&[])
    }

    /// The canonical text with each error as a comment under the line that it concerns. It still parses if
    /// the graph without the errors would.
    pub fn annotated(&self, errors: &[VerifyError]) -> String {
        let mut text = String::new();
        let note = |text: &mut String, at: At| {
            for error in errors.iter().filter(|e| e.at == at) {
                let _ = writeln!(text, "        // ^ {}: {}", error.rule, error.message);
            }
        };
        let _ = writeln!(text, "(\n    format: {FORMAT},\n    model: {},", line(&self.model));
        note(&mut text, At::Graph);
        macro_rules! section {
            ($name:literal, $items:expr, |$id:ident, $item:ident| $line:expr) => {
                let _ = writeln!(text, concat!("    ", $name, ": ["));
                for ($id, $item) in $items {
                    let _ = writeln!(text, "        {},", line(&$line));
                    note(&mut text, At::from($id));
                }
                let _ = writeln!(text, "    ],");
            };
        }
        section!("inputs", self.inputs.iter(), |id, i| InputText { name: i.name.clone(), ty: i.ty.clone() });
        section!("consts", self.consts.iter(), |id, c| ConstText {
            name: c.name.clone(),
            ty: c.ty.clone(),
            data: c.data.clone(),
        });
        section!("weights", self.weights.iter(), |id, w| WeightText {
            name: w.name.clone(),
            ty: w.ty.clone(),
            storage: w.storage,
            param: w.param.clone(),
            transposed: w.transposed,
        });
        section!("states", self.states.iter(), |id, s| StateText {
            name: s.name.clone(),
            ty: s.ty.clone(),
            next: self.value_name(s.next),
            update: s.update,
        });
        section!("nodes", self.nodes.iter(), |id, n| NodeText {
            name: n.name.clone(),
            op: n.op.clone(),
            args: n.args.iter().map(|a| self.value_name(*a)).collect(),
            out: n.out.clone(),
        });
        let outputs: Vec<String> = self.outputs.iter().map(|o| self.value_name(*o)).collect();
        let _ = writeln!(text, "    outputs: {},", line(&outputs));
        note(&mut text, At::Outputs);
        text.push_str(")\n");
        text
    }

    /// Parses text. The graph is well formed in its names and references only; [`verify`](crate::verify())
    /// says whether it means something.
    pub fn parse(text: &str) -> Result<Graph, TextError> {
        let fault = |line: usize, column: usize, message: String| TextError { line, column, message };
        if text.len() > MAX_TEXT {
            return Err(fault(
                1,
                1,
                format!("the text has {} bytes, at most {MAX_TEXT} are read", text.len()),
            ));
        }
        let parsed: GraphText = ron::from_str(text)
            .map_err(|e| fault(e.span.start.line, e.span.start.col, e.code.to_string()))?;
        Resolver { text, graph: Graph::default() }.resolve(parsed)
    }
}

struct Resolver<'a> {
    text: &'a str,
    graph: Graph,
}

#[derive(Default)]
struct Names<'a> {
    inputs: BTreeMap<&'a str, InputId>,
    consts: BTreeMap<&'a str, ConstId>,
    weights: BTreeMap<&'a str, WeightId>,
    states: BTreeMap<&'a str, StateId>,
    nodes: BTreeMap<&'a str, (NodeId, usize)>,
}

impl Resolver<'_> {
    /// An error at the line on which `"name"` stands first.
    fn at(&self, name: &str, message: String) -> TextError {
        let needle = line(&name);
        let offset = self.text.find(&needle).unwrap_or(0);
        let before = &self.text[..offset];
        let start = before.rfind('\n').map_or(0, |n| n + 1);
        TextError {
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
            message,
        }
    }

    fn check(&self, kind: &str, name: &str) -> Result<(), TextError> {
        if is_name(name) {
            return Ok(());
        }
        let expected = "expected letters, digits, `_`, `-` and single dots, at most 128 bytes";
        Err(self.at(name, format!("{kind} has the name {name:?}, {expected}")))
    }

    fn resolve(mut self, parsed: GraphText) -> Result<Graph, TextError> {
        if parsed.format != FORMAT {
            let message =
                format!("the text has format {}, this version reads format {FORMAT}", parsed.format);
            return Err(TextError { line: 1, column: 1, message });
        }
        self.graph.model = parsed.model;
        let mut names = Names::default();
        let taken = |kind: &str, name: &str| format!("{kind} `{name}` is declared twice");
        for item in &parsed.inputs {
            self.check("an input", &item.name)?;
            let id = self.graph.inputs.push(Input { name: item.name.clone(), ty: item.ty.clone() });
            if names.inputs.insert(&item.name, id).is_some() {
                return Err(self.at(&item.name, taken("input", &item.name)));
            }
        }
        let mut elements = 0usize;
        for item in &parsed.consts {
            self.check("a constant", &item.name)?;
            elements += item.data.len();
            if elements > MAX_CONST_ELEMENTS {
                let message = format!("the constants have more than {MAX_CONST_ELEMENTS} elements");
                return Err(self.at(&item.name, message));
            }
            let id = self.graph.consts.push(Const {
                name: item.name.clone(),
                ty: item.ty.clone(),
                data: item.data.clone(),
            });
            if names.consts.insert(&item.name, id).is_some() {
                return Err(self.at(&item.name, taken("constant", &item.name)));
            }
        }
        for item in &parsed.weights {
            self.check("a weight", &item.name)?;
            let id = self.graph.weights.push(Weight {
                name: item.name.clone(),
                ty: item.ty.clone(),
                storage: item.storage,
                param: item.param.clone(),
                transposed: item.transposed,
            });
            if names.weights.insert(&item.name, id).is_some() {
                return Err(self.at(&item.name, taken("weight", &item.name)));
            }
        }
        for item in &parsed.states {
            self.check("a state", &item.name)?;
            let id = StateId::new(self.graph.states.len());
            self.graph.states.push(State {
                name: item.name.clone(),
                ty: item.ty.clone(),
                next: Value::State(id),
                update: item.update,
            });
            if names.states.insert(&item.name, id).is_some() {
                return Err(self.at(&item.name, taken("state", &item.name)));
            }
        }
        for (index, item) in parsed.nodes.iter().enumerate() {
            self.check("a node", &item.name)?;
            // Later nodes can be named too: that the reference points backwards is a rule of the verifier.
            names.nodes.entry(&item.name).or_insert((NodeId::new(index), item.out.len()));
        }
        for item in &parsed.nodes {
            let args = item
                .args
                .iter()
                .map(|arg| self.value(&names, &item.name, arg))
                .collect::<Result<Vec<Value>, TextError>>()?;
            self.graph.nodes.push(Node {
                name: item.name.clone(),
                op: item.op.clone(),
                args,
                out: item.out.clone(),
            });
        }
        for (index, item) in parsed.states.iter().enumerate() {
            let next = self.value(&names, &item.name, &item.next)?;
            self.graph.set_next(StateId::new(index), next);
        }
        for output in &parsed.outputs {
            let value = self.value(&names, output, output)?;
            self.graph.outputs.push(value);
        }
        Ok(self.graph)
    }

    fn value(&self, names: &Names<'_>, at: &str, text: &str) -> Result<Value, TextError> {
        let found = match text.split_at_checked(1) {
            Some(("$", name)) => names.inputs.get(name).map(|id| Value::Input(*id)),
            Some(("#", name)) => names.consts.get(name).map(|id| Value::Const(*id)),
            Some(("%", name)) => names.weights.get(name).map(|id| Value::Weight(*id)),
            Some(("@", name)) => names.states.get(name).map(|id| Value::State(*id)),
            _ => {
                let (name, out) = match text.split_once(':') {
                    Some((name, out)) => (name, out.parse::<u8>().ok().filter(|out| *out > 0)),
                    None => (text, Some(0)),
                };
                match (names.nodes.get(name), out) {
                    (Some((id, outs)), Some(out)) if (out as usize) < *outs => Some(Value::Node(*id, out)),
                    _ => None,
                }
            }
        };
        found.ok_or_else(|| {
            self.at(
                at,
                format!("`{at}` reads `{text}`, which is no input, constant, weight, state or node result"),
            )
        })
    }
}
