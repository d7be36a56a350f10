//! What a capture gives: a plain list of operations on numbered values, generic in how sizes are known.
//!
//! `Captured<u64>` is what one probe recorded; `Captured<Dim>` is what several probes solved to. Values are
//! numbered by first appearance, so two recordings of the same module agree in everything but sizes.

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

impl<N> Captured<N> {
    /// Removes operations and literals that nothing reads, such as a recorder's own.
    pub(super) fn drop_dead(&mut self) {
        let mut live = vec![false; self.values.len()];
        for value in self.outputs.iter().copied().chain(self.states.iter().map(|state| state.next)) {
            live[value] = true;
        }
        let mut kept = Vec::with_capacity(self.ops.len());
        for op in std::mem::take(&mut self.ops).into_iter().rev() {
            if op.outputs.iter().any(|out| live[*out]) {
                for value in &op.inputs {
                    live[*value] = true;
                }
                kept.push(op);
            }
        }
        kept.reverse();
        self.ops = kept;
        self.literals.retain(|literal| live[literal.value]);
    }
}
