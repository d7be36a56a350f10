//! Captured operations → core operations of the graph language.
//!
//! Every operation of burn that [`Kind`] knows is lowered or refused here; an unknown one is an error that names
//! it and the module it stands in. Nothing is simplified on the way: that is what passes are for.

mod layout;
pub mod name;
mod products;

use std::collections::BTreeMap;

use lfm_graphs::graph::Value;
use lfm_graphs::id::NodeId;
use lfm_graphs::{BuildError, Builder, DType, Dim, Graph, Op, TensorType, sweep, verify};

use crate::capture::ops::{Captured, CapturedOp, Element, Kind, ValueId};

/// Why a capture could not be lowered.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LowerError {
    /// An operation that the graph language has no words for.
    #[error("lowering {model}: operation {index} ({op}) in {scope} is not supported: {why}")]
    Unsupported {
        /// The model.
        model: String,
        /// Which of the captured operations.
        index: usize,
        /// burn's name of it.
        op: String,
        /// Where it stands.
        scope: String,
        /// What is missing.
        why: String,
    },
    /// An operation whose operands do not fit together.
    #[error("lowering {model}: operation {index} ({op}): {source}")]
    Build {
        /// The model.
        model: String,
        /// Which of the captured operations.
        index: usize,
        /// burn's name of it.
        op: String,
        /// What does not fit.
        #[source]
        source: Box<BuildError>,
    },
    /// What the module declares does not make a graph.
    #[error("lowering {model}: {message}")]
    Declaration {
        /// The model.
        model: String,
        /// What was found and expected.
        message: String,
    },
    /// The graph breaks rules of the language.
    #[error("lowering {model}: the graph is not sound: {errors}")]
    Unsound {
        /// The model.
        model: String,
        /// All broken rules.
        errors: String,
    },
}

/// Why one operation could not be lowered.
enum Fault {
    Unsupported(String),
    Build(BuildError),
}

impl From<BuildError> for Fault {
    fn from(error: BuildError) -> Fault {
        Fault::Build(error)
    }
}

fn unsupported<T>(why: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Unsupported(why.into()))
}

struct Lowering<'a> {
    captured: &'a Captured<Dim>,
    graph: Builder,
    /// What each captured value has become.
    values: Vec<Option<Value>>,
    /// The scope of each node.
    scopes: BTreeMap<NodeId, String>,
}

/// Lowers a capture. Parameters that nothing reads are left out.
pub fn lower(captured: &Captured<Dim>) -> Result<Graph, LowerError> {
    let model = captured.model.clone();
    let mut lowering = Lowering {
        captured,
        graph: Builder::new(model.clone()),
        values: vec![None; captured.values.len()],
        scopes: BTreeMap::new(),
    };
    lowering.declare().map_err(|message| LowerError::Declaration { model: model.clone(), message })?;
    for (index, op) in captured.ops.iter().enumerate() {
        let mut scope = lowering.scope_of(op);
        if scope.is_empty() {
            scope.push_str("the root module");
        }
        match lowering.operation(op) {
            Ok(results) => {
                for (out, value) in op.outputs.iter().zip(results) {
                    lowering.set(*out, value);
                }
            }
            Err(fault) => {
                let (model, op) = (model.clone(), op.kind.name().to_owned());
                return Err(match fault {
                    Fault::Unsupported(why) => LowerError::Unsupported { model, index, op, scope, why },
                    Fault::Build(source) => LowerError::Build { model, index, op, source: Box::new(source) },
                });
            }
        }
    }
    lowering.finish().map_err(|message| LowerError::Declaration { model: model.clone(), message })?;
    let graph = sweep(&lowering.graph.finish());
    let errors: Vec<String> = verify(&graph).iter().map(ToString::to_string).collect();
    if errors.is_empty() { Ok(graph) } else { Err(LowerError::Unsound { model, errors: errors.join("; ") }) }
}

impl Lowering<'_> {
    fn set(&mut self, id: ValueId, value: Value) {
        if let Some(slot) = self.values.get_mut(id) {
            *slot = Some(value);
        }
    }

    fn captured_type(&self, id: ValueId) -> Option<TensorType> {
        let value = self.captured.values.get(id)?;
        let dtype = match value.element {
            Element::Float => DType::F32,
            Element::Int => DType::I32,
            Element::Bool => return None,
        };
        Some(TensorType { dtype, shape: value.shape.clone() })
    }

    /// Inputs, parameters, literals and states.
    fn declare(&mut self) -> Result<(), String> {
        let captured = self.captured;
        let no_type = |name: &str| format!("`{name}` has no type of the graph language");
        for input in &captured.inputs {
            let ty = self.captured_type(input.value).ok_or_else(|| no_type(&input.name))?;
            let value = self.graph.input(input.name.clone(), ty);
            self.set(input.value, value);
        }
        for param in &captured.params {
            let ty = self.captured_type(param.value).ok_or_else(|| no_type(&param.path))?;
            let value = self.graph.weight(name::weight_name(&param.path), ty, param.path.clone());
            self.set(param.value, value);
        }
        for literal in &captured.literals {
            let ty = self.captured_type(literal.value).ok_or_else(|| no_type("a literal"))?;
            let data =
                literal.data.clone().ok_or("a literal tensor holds no floats, expected floats only")?;
            let value = self.graph.constant("literal", ty, data);
            self.set(literal.value, value);
        }
        for state in &captured.states {
            let ty = self.captured_type(state.value).ok_or_else(|| no_type(&state.name))?;
            if ty.shape != state.shape {
                return Err(format!("state `{}` is {ty}, declared otherwise", state.name));
            }
            let value = self.graph.state(state.name.clone(), ty, state.update);
            self.set(state.value, value);
        }
        Ok(())
    }

    /// Outputs and next contents of states.
    fn finish(&mut self) -> Result<(), String> {
        let captured = self.captured;
        for output in &captured.outputs {
            let value = self.values.get(*output).copied().flatten().ok_or("an output has no value")?;
            self.graph.output(value);
        }
        for state in &captured.states {
            let missing = || format!("the next content of `{}` has no value", state.name);
            let value = self.values.get(state.value).copied().flatten().ok_or_else(missing)?;
            let empty = state.shape.contains(&Dim::fixed(0));
            let read = captured.ops.iter().any(|op| op.inputs.contains(&state.value));
            let next = if empty && !read {
                // burn leaves empty operands out of a concatenation. The content before and after the call is
                // that of an empty tensor, of which there is only one.
                let op = Op::Reshape { to: state.shape.clone() };
                self.emit(&op, &[value]).map_err(|e| e.to_string())?
            } else {
                self.values.get(state.next).copied().flatten().ok_or_else(missing)?
            };
            self.graph.next(value, next);
        }
        Ok(())
    }

    fn value(&self, id: ValueId) -> Result<Value, Fault> {
        match self.values.get(id).copied().flatten() {
            Some(value) => Ok(value),
            None => unsupported("it reads a value that nothing gives"),
        }
    }

    fn ty(&self, value: Value) -> &TensorType {
        self.graph.ty(value)
    }

    fn shape(&self, value: Value) -> Vec<Dim> {
        self.ty(value).shape.clone()
    }

    /// The shape of the first result, as captured.
    fn result_shape(&self, op: &CapturedOp<Dim>) -> Vec<Dim> {
        let first = op.outputs.first().and_then(|id| self.captured.values.get(*id));
        first.map(|value| value.shape.clone()).unwrap_or_default()
    }

    /// The scope in which a captured operation stands.
    fn scope_of(&self, op: &CapturedOp<Dim>) -> String {
        let args: Vec<Value> =
            op.inputs.iter().filter_map(|id| self.values.get(*id).copied().flatten()).collect();
        self.scope(&args)
    }

    fn scope(&self, args: &[Value]) -> String {
        let graph = self.graph.graph();
        let weights = args.iter().filter_map(|arg| match arg {
            Value::Weight(id) => Some(name::module_scope(&graph.weights()[*id].param)),
            _ => None,
        });
        if let Some(scope) = weights.reduce(|a, b| name::common_scope(&a, &b)) {
            return scope;
        }
        let nodes = args.iter().filter_map(|arg| match arg {
            Value::Node(id, _) => Some(*id),
            _ => None,
        });
        if let Some(scope) = nodes.max().and_then(|id| self.scopes.get(&id)) {
            return scope.clone();
        }
        let state = args.iter().find_map(|arg| match arg {
            Value::State(id) => Some(name::parent(&graph.states()[*id].name).to_owned()),
            Value::Input(id) => Some(graph.inputs()[*id].name.clone()),
            _ => None,
        });
        state.unwrap_or_default()
    }

    /// Appends a node and gives its first result.
    fn emit(&mut self, op: &Op, args: &[Value]) -> Result<Value, BuildError> {
        Ok(Value::Node(self.emit_node(op, args)?, 0))
    }

    /// As [`emit`](Self::emit), with a name instead of scope and role.
    fn emit_as(&mut self, name: &str, op: &Op, args: &[Value]) -> Result<Value, BuildError> {
        let id = self.graph.push(name, op.clone(), args)?;
        self.scopes.insert(id, name.to_owned());
        Ok(Value::Node(id, 0))
    }

    fn emit_node(&mut self, op: &Op, args: &[Value]) -> Result<NodeId, BuildError> {
        let scope = self.scope(args);
        // A weight in another layout is no step of the computation, and its name should not push others aside.
        let role = if matches!(args, [Value::Weight(_)]) { "view".to_owned() } else { name::role(op) };
        let id = self.graph.push(&name::join(&scope, &role), op.clone(), args)?;
        self.scopes.insert(id, scope);
        Ok(id)
    }

    /// A tensor of one number.
    fn scalar(&mut self, value: f64) -> Value {
        self.graph.constant("literal", TensorType::f32([Dim::ONE]), vec![value as f32])
    }

    fn operation(&mut self, op: &CapturedOp<Dim>) -> Result<Vec<Value>, Fault> {
        let args = op.inputs.iter().map(|id| self.value(*id)).collect::<Result<Vec<Value>, Fault>>()?;
        let arg = |at: usize| match args.get(at) {
            Some(value) => Ok(*value),
            None => unsupported(format!("argument {at} is missing")),
        };
        let value = match &op.kind {
            Kind::Add => self.emit(&Op::Add, &args)?,
            Kind::Sub => self.emit(&Op::Sub, &args)?,
            Kind::Mul => self.emit(&Op::Mul, &args)?,
            Kind::Div => self.emit(&Op::Div, &args)?,
            Kind::AddScalar(by) => self.emit(&Op::AddScalar { by: *by as f32 }, &args)?,
            Kind::SubScalar(by) => self.emit(&Op::AddScalar { by: -(*by as f32) }, &args)?,
            Kind::MulScalar(by) => self.emit(&Op::MulScalar { by: *by as f32 }, &args)?,
            Kind::DivScalar(by) => {
                let by = self.scalar(*by);
                self.emit(&Op::Div, &[arg(0)?, by])?
            }
            Kind::PowScalar(by) if *by == 1.0 => arg(0)?,
            Kind::PowScalar(by) if *by == 2.0 => self.emit(&Op::Mul, &[arg(0)?, arg(0)?])?,
            Kind::PowScalar(by) if *by == 0.5 => self.emit(&Op::Sqrt, &args)?,
            Kind::PowScalar(by) => return unsupported(format!("the exponent is {by}, expected 1, 2 or 0.5")),
            Kind::Neg => self.emit(&Op::MulScalar { by: -1.0 }, &args)?,
            Kind::Recip => {
                let one = self.scalar(1.0);
                self.emit(&Op::Div, &[one, arg(0)?])?
            }
            Kind::Sqrt => self.emit(&Op::Sqrt, &args)?,
            Kind::Sin => self.emit(&Op::Sin, &args)?,
            Kind::Cos => self.emit(&Op::Cos, &args)?,
            Kind::Sigmoid => self.emit(&Op::Sigmoid, &args)?,
            Kind::MeanDim { axis } => self.emit(&Op::Mean { axis: *axis as u8 }, &args)?,
            Kind::SumDim { axis } => self.emit(&Op::Sum { axis: *axis as u8 }, &args)?,
            Kind::Softmax { axis } => {
                self.last_axis(*axis, arg(0)?)?;
                self.emit(&Op::Softmax, &args)?
            }
            Kind::Cast => self.cast(op, arg(0)?)?,
            Kind::Matmul => self.matmul(arg(0)?, arg(1)?)?,
            Kind::Linear => self.linear(&args)?,
            Kind::Conv1d { stride, padding, dilation, groups } => {
                if (*stride, *padding, *dilation) != (1, (0, 0), 1) {
                    let found = format!("stride {stride}, padding {padding:?}, dilation {dilation}");
                    return unsupported(format!("{found}; expected stride 1, no padding, dilation 1"));
                }
                self.conv(&args, *groups)?
            }
            Kind::Attention { scale, causal, extras } => {
                if *extras {
                    return unsupported("it has a mask, a bias or a soft cap; only the causal mask is known");
                }
                self.attention(&args, *scale, *causal)?
            }
            Kind::Embedding => self.embedding(arg(0)?, arg(1)?)?,
            Kind::Reshape => self.emit(&Op::Reshape { to: self.result_shape(op) }, &args)?,
            Kind::SwapDims { a, b } => self.swap(arg(0)?, *a, *b)?,
            Kind::Permute { order } => {
                let order = order.iter().map(|axis| *axis as u8).collect();
                self.emit(&Op::Permute { order }, &args)?
            }
            Kind::Expand => self.emit(&Op::Broadcast { to: self.result_shape(op) }, &args)?,
            Kind::RepeatDim { axis } => {
                if self.shape(arg(0)?).get(*axis) != Some(&Dim::ONE) {
                    return unsupported("only an axis of size one can be repeated");
                }
                self.emit(&Op::Broadcast { to: self.result_shape(op) }, &args)?
            }
            Kind::Slice { ranges } => self.slice(arg(0)?, ranges)?,
            Kind::Cat { axis } => self.emit(&Op::Concat { axis: *axis as u8 }, &args)?,
            Kind::Select { axis } => self.select(arg(0)?, arg(1)?, *axis)?,
            Kind::Gather { axis } => {
                self.last_axis(*axis, arg(0)?)?;
                self.emit(&Op::Gather, &args)?
            }
            Kind::TopKWithIndices { axis, k } => {
                self.last_axis(*axis, arg(0)?)?;
                let k = u32::try_from(*k).unwrap_or(u32::MAX);
                let id = self.emit_node(&Op::TopK { k }, &args)?;
                return Ok(vec![Value::Node(id, 0), Value::Node(id, 1)]);
            }
            Kind::Fill(value) => {
                let value = self.scalar(*value);
                self.emit(&Op::Broadcast { to: self.result_shape(op) }, &[value])?
            }
            Kind::Empty => {
                let shape = self.result_shape(op);
                if !shape.contains(&Dim::fixed(0)) {
                    return unsupported("a tensor without defined content is read");
                }
                let zero = self.scalar(0.0);
                self.emit(&Op::Broadcast { to: shape }, &[zero])?
            }
            Kind::Other(_) => return unsupported("the graph language has no such operation"),
        };
        Ok(vec![value])
    }
}
