//! What a capture gives: a plain list of operations on numbered values, generic in how sizes are known.
//!
//! `Captured<u64>` is what one probe recorded; `Captured<Dim>` is what several probes solved to. Values are
//! numbered by first appearance, so two recordings of the same module agree in everything but sizes.

use std::fmt;

use lfm_graphs::{Dim, Update};

/// Index into [`Captured::values`].
pub type ValueId = usize;

/// Element type of a captured value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Any float. Models are traced in `f32`.
    Float,
    /// Any integer.
    Int,
    /// Truth values.
    Bool,
}

/// A value and its shape.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturedValue<N> {
    /// Element type.
    pub element: Element,
    /// Sizes of the axes, outermost first.
    pub shape: Vec<N>,
}

/// What an operation does, named as burn names it. Integers that may depend on a symbol are `N`.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind<N> {
    /// `a + b`
    Add,
    /// `a - b`
    Sub,
    /// `a * b`
    Mul,
    /// `a / b`
    Div,
    /// `x + by`
    AddScalar(f64),
    /// `x - by`
    SubScalar(f64),
    /// `x * by`
    MulScalar(f64),
    /// `x / by`
    DivScalar(f64),
    /// `x` to a fixed power.
    PowScalar(f64),
    /// `-x`
    Neg,
    /// `1 / x`
    Recip,
    /// `sqrt(x)`
    Sqrt,
    /// `sin(x)`
    Sin,
    /// `cos(x)`
    Cos,
    /// `1 / (1 + exp(-x))`
    Sigmoid,
    /// Softmax along an axis.
    Softmax {
        /// The axis.
        axis: usize,
    },
    /// Mean along an axis, which stays with size one.
    MeanDim {
        /// The axis.
        axis: usize,
    },
    /// Sum along an axis, which stays with size one.
    SumDim {
        /// The axis.
        axis: usize,
    },
    /// Another element type, or none at all where it is a float already.
    Cast,
    /// Batched matrix product; leading axes of size one are stretched.
    Matmul,
    /// `x · w (+ bias)` with `w` [in, out].
    Linear,
    /// 1-D convolution: x, weight (, bias).
    Conv1d {
        /// Distance of the windows.
        stride: usize,
        /// Zeros before and after.
        padding: (usize, usize),
        /// Distance of the taps.
        dilation: usize,
        /// Groups of channels.
        groups: usize,
    },
    /// Scaled dot-product attention: q, k, v.
    Attention {
        /// Factor of the scores; `1 / sqrt(d)` when absent.
        scale: Option<f64>,
        /// Whether a query sees no later key.
        causal: bool,
        /// Set where a soft cap, a mask or a bias takes part.
        extras: bool,
    },
    /// Rows of a table: table, indices.
    Embedding,
    /// The same elements in another shape.
    Reshape,
    /// Two axes exchanged.
    SwapDims {
        /// One axis.
        a: usize,
        /// The other axis.
        b: usize,
    },
    /// Axes in another order.
    Permute {
        /// Axis `i` of the result is axis `order[i]` of the argument.
        order: Vec<usize>,
    },
    /// Axes of size one stretched.
    Expand,
    /// An axis repeated.
    RepeatDim {
        /// The axis.
        axis: usize,
    },
    /// A range of every axis.
    Slice {
        /// First element and one past the last, per axis.
        ranges: Vec<(N, N)>,
    },
    /// Arguments one after another.
    Cat {
        /// The axis.
        axis: usize,
    },
    /// Whole slices along an axis by index: x, indices.
    Select {
        /// The axis.
        axis: usize,
    },
    /// Elements along an axis by index: x, indices.
    Gather {
        /// The axis.
        axis: usize,
    },
    /// The largest along an axis, with their indices.
    TopKWithIndices {
        /// The axis.
        axis: usize,
        /// How many.
        k: usize,
    },
    /// One number everywhere.
    Fill(f64),
    /// A tensor without a defined content.
    Empty,
    /// Anything else, by burn's name.
    Other(String),
}

/// One recorded operation.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturedOp<N> {
    /// What it does.
    pub kind: Kind<N>,
    /// What it reads.
    pub inputs: Vec<ValueId>,
    /// What it gives.
    pub outputs: Vec<ValueId>,
}

/// A tensor that the caller of the traced module gives.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturedInput {
    /// Its name in the graph.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A parameter of the traced module.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturedParam {
    /// Path in the module, such as `layers.0.conv.in_proj.weight`.
    pub path: String,
    /// The value.
    pub value: ValueId,
}

/// Numbers written in the traced module.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturedLiteral {
    /// The value.
    pub value: ValueId,
    /// The elements, row-major; none where they are no floats.
    pub data: Option<Vec<f32>>,
}

/// A tensor carried from call to call.
#[derive(Debug, Clone, PartialEq)]
pub struct CapturedState {
    /// Its name in the graph.
    pub name: String,
    /// Its declared shape.
    pub shape: Vec<Dim>,
    /// How it grows.
    pub update: Update,
    /// Its content before the call.
    pub value: ValueId,
    /// Its content after the call.
    pub next: ValueId,
}

/// A recorded module.
#[derive(Debug, Clone, PartialEq)]
pub struct Captured<N> {
    /// What is computed, such as `lfm2_moe`.
    pub model: String,
    /// All values.
    pub values: Vec<CapturedValue<N>>,
    /// Operations in execution order.
    pub ops: Vec<CapturedOp<N>>,
    /// What the caller gives.
    pub inputs: Vec<CapturedInput>,
    /// Parameters, in the order of the module.
    pub params: Vec<CapturedParam>,
    /// Numbers written in the module.
    pub literals: Vec<CapturedLiteral>,
    /// What is carried between calls.
    pub states: Vec<CapturedState>,
    /// What the caller gets.
    pub outputs: Vec<ValueId>,
}

impl<N: Copy> Kind<N> {
    /// The same kind with every `N` replaced, in a fixed order.
    pub fn map<M>(&self, mut f: impl FnMut(N) -> M) -> Kind<M> {
        match self {
            Kind::Add => Kind::Add,
            Kind::Sub => Kind::Sub,
            Kind::Mul => Kind::Mul,
            Kind::Div => Kind::Div,
            Kind::AddScalar(by) => Kind::AddScalar(*by),
            Kind::SubScalar(by) => Kind::SubScalar(*by),
            Kind::MulScalar(by) => Kind::MulScalar(*by),
            Kind::DivScalar(by) => Kind::DivScalar(*by),
            Kind::PowScalar(by) => Kind::PowScalar(*by),
            Kind::Neg => Kind::Neg,
            Kind::Recip => Kind::Recip,
            Kind::Sqrt => Kind::Sqrt,
            Kind::Sin => Kind::Sin,
            Kind::Cos => Kind::Cos,
            Kind::Sigmoid => Kind::Sigmoid,
            Kind::Softmax { axis } => Kind::Softmax { axis: *axis },
            Kind::MeanDim { axis } => Kind::MeanDim { axis: *axis },
            Kind::SumDim { axis } => Kind::SumDim { axis: *axis },
            Kind::Cast => Kind::Cast,
            Kind::Matmul => Kind::Matmul,
            Kind::Linear => Kind::Linear,
            Kind::Conv1d { stride, padding, dilation, groups } => {
                Kind::Conv1d { stride: *stride, padding: *padding, dilation: *dilation, groups: *groups }
            }
            Kind::Attention { scale, causal, extras } => {
                Kind::Attention { scale: *scale, causal: *causal, extras: *extras }
            }
            Kind::Embedding => Kind::Embedding,
            Kind::Reshape => Kind::Reshape,
            Kind::SwapDims { a, b } => Kind::SwapDims { a: *a, b: *b },
            Kind::Permute { order } => Kind::Permute { order: order.clone() },
            Kind::Expand => Kind::Expand,
            Kind::RepeatDim { axis } => Kind::RepeatDim { axis: *axis },
            Kind::Slice { ranges } => {
                Kind::Slice { ranges: ranges.iter().map(|(from, to)| (f(*from), f(*to))).collect() }
            }
            Kind::Cat { axis } => Kind::Cat { axis: *axis },
            Kind::Select { axis } => Kind::Select { axis: *axis },
            Kind::Gather { axis } => Kind::Gather { axis: *axis },
            Kind::TopKWithIndices { axis, k } => Kind::TopKWithIndices { axis: *axis, k: *k },
            Kind::Fill(value) => Kind::Fill(*value),
            Kind::Empty => Kind::Empty,
            Kind::Other(name) => Kind::Other(name.clone()),
        }
    }
}

impl<N> Kind<N> {
    /// burn's name of the operation.
    pub fn name(&self) -> &str {
        match self {
            Kind::Add => "Add",
            Kind::Sub => "Sub",
            Kind::Mul => "Mul",
            Kind::Div => "Div",
            Kind::AddScalar(_) => "AddScalar",
            Kind::SubScalar(_) => "SubScalar",
            Kind::MulScalar(_) => "MulScalar",
            Kind::DivScalar(_) => "DivScalar",
            Kind::PowScalar(_) => "PowScalar",
            Kind::Neg => "Neg",
            Kind::Recip => "Recip",
            Kind::Sqrt => "Sqrt",
            Kind::Sin => "Sin",
            Kind::Cos => "Cos",
            Kind::Sigmoid => "Sigmoid",
            Kind::Softmax { .. } => "Softmax",
            Kind::MeanDim { .. } => "MeanDim",
            Kind::SumDim { .. } => "SumDim",
            Kind::Cast => "Cast",
            Kind::Matmul => "Matmul",
            Kind::Linear => "Linear",
            Kind::Conv1d { .. } => "Conv1d",
            Kind::Attention { .. } => "Attention",
            Kind::Embedding => "Embedding",
            Kind::Reshape => "Reshape",
            Kind::SwapDims { .. } => "SwapDims",
            Kind::Permute { .. } => "Permute",
            Kind::Expand => "Expand",
            Kind::RepeatDim { .. } => "RepeatDim",
            Kind::Slice { .. } => "Slice",
            Kind::Cat { .. } => "Cat",
            Kind::Select { .. } => "Select",
            Kind::Gather { .. } => "Gather",
            Kind::TopKWithIndices { .. } => "TopKWithIndices",
            Kind::Fill(_) => "Fill",
            Kind::Empty => "Empty",
            Kind::Other(name) => name,
        }
    }
}

impl<N: fmt::Display> Captured<N> {
    fn typed(&self, f: &mut fmt::Formatter<'_>, id: ValueId) -> fmt::Result {
        write!(f, "v{id}")?;
        let Some(value) = self.values.get(id) else { return Ok(()) };
        let element = match value.element {
            Element::Float => "float",
            Element::Int => "int",
            Element::Bool => "bool",
        };
        let shape: Vec<String> = value.shape.iter().map(ToString::to_string).collect();
        write!(f, ": {element}[{}]", shape.join(", "))
    }
}

/// One line an input, parameter, literal, state and operation. For reading only: it is not parsed.
impl<N: fmt::Display + fmt::Debug> fmt::Display for Captured<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model {}", self.model)?;
        for input in &self.inputs {
            write!(f, "input ${} = ", input.name)?;
            self.typed(f, input.value)?;
            writeln!(f)?;
        }
        for param in &self.params {
            write!(f, "param %{} = ", param.path)?;
            self.typed(f, param.value)?;
            writeln!(f)?;
        }
        for literal in &self.literals {
            write!(f, "literal ")?;
            self.typed(f, literal.value)?;
            writeln!(f)?;
        }
        for state in &self.states {
            write!(f, "state @{} = ", state.name)?;
            self.typed(f, state.value)?;
            writeln!(f, " -> v{} {:?}", state.next, state.update)?;
        }
        for op in &self.ops {
            for (i, out) in op.outputs.iter().enumerate() {
                f.write_str(if i > 0 { ", " } else { "" })?;
                self.typed(f, *out)?;
            }
            let inputs: Vec<String> = op.inputs.iter().map(|v| format!("v{v}")).collect();
            write!(f, " = {}({})", op.kind.name(), inputs.join(", "))?;
            match &op.kind {
                Kind::Slice { ranges } => {
                    let ranges: Vec<String> = ranges.iter().map(|(from, to)| format!("{from}..{to}")).collect();
                    write!(f, " [{}]", ranges.join(", "))?;
                }
                Kind::AddScalar(by)
                | Kind::SubScalar(by)
                | Kind::MulScalar(by)
                | Kind::DivScalar(by)
                | Kind::PowScalar(by)
                | Kind::Fill(by) => write!(f, " {by}")?,
                Kind::Softmax { axis }
                | Kind::MeanDim { axis }
                | Kind::SumDim { axis }
                | Kind::RepeatDim { axis }
                | Kind::Cat { axis }
                | Kind::Select { axis }
                | Kind::Gather { axis } => write!(f, " axis {axis}")?,
                Kind::TopKWithIndices { axis, k } => write!(f, " axis {axis} k {k}")?,
                Kind::SwapDims { a, b } => write!(f, " {a} {b}")?,
                Kind::Permute { order } => write!(f, " {order:?}")?,
                Kind::Conv1d { stride, padding, dilation, groups } => {
                    write!(f, " stride {stride} padding {padding:?} dilation {dilation} groups {groups}")?;
                }
                Kind::Attention { scale, causal, extras } => {
                    write!(f, " scale {scale:?} causal {causal}{}", if *extras { " with mask, bias or cap" } else { "" })?;
                }
                Kind::Add
                | Kind::Sub
                | Kind::Mul
                | Kind::Div
                | Kind::Neg
                | Kind::Recip
                | Kind::Sqrt
                | Kind::Sin
                | Kind::Cos
                | Kind::Sigmoid
                | Kind::Cast
                | Kind::Matmul
                | Kind::Linear
                | Kind::Embedding
                | Kind::Reshape
                | Kind::Expand
                | Kind::Empty
                | Kind::Other(_) => {}
            }
            writeln!(f)?;
        }
        let outputs: Vec<String> = self.outputs.iter().map(|v| format!("v{v}")).collect();
        writeln!(f, "outputs {}", outputs.join(", "))
    }
}
