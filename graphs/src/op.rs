//! The operations: one closed enum, core operations first, then the fused ones.
//!
//! Core operations are what a capture is lowered to; each has its meaning in the interpreter. A fused
//! operation is defined by [`expand`](crate::expand): the graph of core operations that it stands for.
//!
//! Shapes below use `n` for any leading axes.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{DType, Dim};

/// An operation with its attributes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Op {
    // ---- core: arithmetic
    /// `a + b`, elementwise; axes of size one are stretched.
    Add,
    /// `a - b`, elementwise; axes of size one are stretched.
    Sub,
    /// `a * b`, elementwise; axes of size one are stretched.
    Mul,
    /// `a / b`, elementwise; axes of size one are stretched.
    Div,
    /// `x + by`.
    AddScalar {
        /// The number added.
        by: f32,
    },
    /// `x * by`.
    MulScalar {
        /// The factor.
        by: f32,
    },
    /// `sqrt(x)`.
    Sqrt,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// `sin(x)`, x in radians.
    Sin,
    /// `cos(x)`, x in radians.
    Cos,
    /// The same numbers in another element type.
    Cast {
        /// Element type of the result.
        to: DType,
    },
    /// The mean over an axis, which stays with size one.
    Mean {
        /// The axis.
        axis: u8,
    },
    /// The sum over an axis, which stays with size one.
    Sum {
        /// The axis.
        axis: u8,
    },
    /// `exp(x - max) / sum` over the last axis.
    Softmax,

    // ---- core: products
    /// `x [n, k], %w [o, k] (, bias [o]) -> [n, o]`: `x · wᵀ (+ bias)`.
    Linear,
    /// `a [n, m, k], b [n, k, o] -> [n, m, o]`, leading axes equal.
    MatMul,
    /// `x [c, l], %w [c, taps] (, bias [c]) -> [c, l - taps + 1]`: one filter a channel,
    /// `y[c, t] = Σ_j w[c, j] · x[c, t + j] (+ bias[c])`.
    DepthwiseConv {
        /// Filter width.
        taps: u32,
    },

    // ---- core: layout
    /// The same elements in another shape.
    Reshape {
        /// The new shape.
        to: Vec<Dim>,
    },
    /// Axis `i` of the result is axis `order[i]` of the argument.
    Permute {
        /// A permutation of the axes.
        order: Vec<u8>,
    },
    /// Elements `from..to` along an axis.
    Slice {
        /// The axis.
        axis: u8,
        /// First element.
        from: Dim,
        /// One past the last element.
        to: Dim,
    },
    /// The arguments one after another along an axis.
    Concat {
        /// The axis.
        axis: u8,
    },
    /// Stretches axes of size one.
    Broadcast {
        /// The new shape.
        to: Vec<Dim>,
    },

    // ---- core: indices
    /// `table [r, n], indices i32[m] -> [m, n]`: rows by index (an embedding, or experts).
    Select,
    /// `x [n, e], indices i32[n, k] -> [n, k]`: elements of the last axis by index.
    Gather,
    /// `x [n, e] -> values [n, k], indices i32[n, k]`: the largest along the last axis, largest first; of equals
    /// the lower index.
    TopK {
        /// How many.
        k: u32,
    },
    /// `scores [n, seq, past+seq]`: minus infinity wherever a query would see a later key (query `i` stands
    /// at position `past + i`) or, with a window, one `window` or more positions back.
    CausalMask {
        /// How many keys a query sees, its own included; all when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        window: Option<u32>,
    },
    /// `x [seq, n] -> [1, n]`: the row of the last token. What follows must treat rows one by one, so that an
    /// executor may evaluate it for any rows.
    LastRow,

    // ---- fused
    /// `x [n, k], %w [k]`: `x / sqrt(mean(x²) + eps) * w` over the last axis.
    RmsNorm {
        /// Added to the mean square.
        eps: f32,
    },
    /// `positions i32[seq], #inv_freq [d] -> cos [seq, d], sin [seq, d]` of `position * inv_freq`.
    RopeTable,
    /// `x [seq, heads, 2d], cos [seq, d], sin [seq, d]`: each pair `(i, i + d)` turned by its angle.
    Rope,
    /// `q [seq, heads, d], k [seq, kv, d], v [seq, kv, d], @k [kv, past, d], @v [kv, past, d] ->
    /// y [seq, heads * d], k' [kv, past+seq, d], v' [kv, past+seq, d]`: causal attention in which head `h` reads
    /// key head `h / (heads / kv)`. Keys and values are rounded to the states' element type first.
    Attention {
        /// Factor of the scores.
        scale: f32,
        /// How many keys a query sees, its own included; all when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        window: Option<u32>,
    },
    /// `bcx [seq, 3h], %kernel [h, taps] (, bias [h]), @window [h, taps - 1] -> y [seq, h], window' [h, taps - 1]`: the
    /// gated short convolution, with `b, c, x` the thirds of `bcx`:
    /// `z = b * x`, `y[t] = c[t] * (Σ_j kernel[j] · z[t - taps + 1 + j] (+ bias))`.
    ConvGate {
        /// Filter width.
        taps: u32,
    },
    /// `x [n, k], %gate [i, k], %up [i, k] -> [n, i]`: `silu(x · gateᵀ) * (x · upᵀ)`.
    SwiGlu,
    /// `x [n, k], %w [o, k] (, bias [o]), residual [n, o] -> [n, o]`: `residual + Linear(..)`.
    LinearAdd,
    /// `x [seq, h], %router [e, h] (, bias [e]), %gate [e, i, h], %up [e, i, h], %down [e, h, i] (, residual [seq, h])
    /// -> [seq, h]`: the router and its experts.
    ///
    /// `s = sigmoid(x · routerᵀ)`; the `top_k` largest of `s + bias` are chosen (of equals the lower index); their
    /// weights are `s`, divided by their sum plus `renorm` if that is given, times `scale`;
    /// `y = Σ weight · (silu(x · gateᵀ) * (x · upᵀ)) · downᵀ (+ residual)`.
    Moe {
        /// Experts that run for a token.
        top_k: u32,
        /// Added to the sum by which the weights are divided; not divided when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        renorm: Option<f32>,
        /// Factor of the weights.
        scale: f32,
        /// Whether a selection bias is among the arguments.
        bias: bool,
        /// Whether a residual is the last argument.
        residual: bool,
    },
}

/// The name of an operation without its attributes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpName(pub &'static str);

impl fmt::Display for OpName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Op {
    /// The name, as in the text form.
    pub fn name(&self) -> OpName {
        OpName(match self {
            Op::Add => "Add",
            Op::Sub => "Sub",
            Op::Mul => "Mul",
            Op::Div => "Div",
            Op::AddScalar { .. } => "AddScalar",
            Op::MulScalar { .. } => "MulScalar",
            Op::Sqrt => "Sqrt",
            Op::Sigmoid => "Sigmoid",
            Op::Sin => "Sin",
            Op::Cos => "Cos",
            Op::Cast { .. } => "Cast",
            Op::Mean { .. } => "Mean",
            Op::Sum { .. } => "Sum",
            Op::Softmax => "Softmax",
            Op::Linear => "Linear",
            Op::MatMul => "MatMul",
            Op::DepthwiseConv { .. } => "DepthwiseConv",
            Op::Reshape { .. } => "Reshape",
            Op::Permute { .. } => "Permute",
            Op::Slice { .. } => "Slice",
            Op::Concat { .. } => "Concat",
            Op::Broadcast { .. } => "Broadcast",
            Op::Select => "Select",
            Op::Gather => "Gather",
            Op::TopK { .. } => "TopK",
            Op::CausalMask { .. } => "CausalMask",
            Op::LastRow => "LastRow",
            Op::RmsNorm { .. } => "RmsNorm",
            Op::RopeTable => "RopeTable",
            Op::Rope => "Rope",
            Op::Attention { .. } => "Attention",
            Op::ConvGate { .. } => "ConvGate",
            Op::SwiGlu => "SwiGlu",
            Op::LinearAdd => "LinearAdd",
            Op::Moe { .. } => "Moe",
        })
    }

    /// Whether the operation is defined by an expansion into others.
    pub fn is_fused(&self) -> bool {
        match self {
            Op::RmsNorm { .. }
            | Op::RopeTable
            | Op::Rope
            | Op::Attention { .. }
            | Op::ConvGate { .. }
            | Op::SwiGlu
            | Op::LinearAdd
            | Op::Moe { .. } => true,
            Op::Add
            | Op::Sub
            | Op::Mul
            | Op::Div
            | Op::AddScalar { .. }
            | Op::MulScalar { .. }
            | Op::Sqrt
            | Op::Sigmoid
            | Op::Sin
            | Op::Cos
            | Op::Cast { .. }
            | Op::Mean { .. }
            | Op::Sum { .. }
            | Op::Softmax
            | Op::Linear
            | Op::MatMul
            | Op::DepthwiseConv { .. }
            | Op::Reshape { .. }
            | Op::Permute { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Broadcast { .. }
            | Op::Select
            | Op::Gather
            | Op::TopK { .. }
            | Op::CausalMask { .. }
            | Op::LastRow => false,
        }
    }

    /// How many arguments the operation takes: least and most.
    pub fn arity(&self) -> (usize, usize) {
        match self {
            Op::Add | Op::Sub | Op::Mul | Op::Div | Op::MatMul | Op::Select | Op::Gather => (2, 2),
            Op::AddScalar { .. }
            | Op::MulScalar { .. }
            | Op::Sqrt
            | Op::Sigmoid
            | Op::Sin
            | Op::Cos
            | Op::Cast { .. }
            | Op::Mean { .. }
            | Op::Sum { .. }
            | Op::Softmax
            | Op::Reshape { .. }
            | Op::Permute { .. }
            | Op::Slice { .. }
            | Op::Broadcast { .. }
            | Op::TopK { .. }
            | Op::CausalMask { .. }
            | Op::LastRow => (1, 1),
            Op::Linear | Op::DepthwiseConv { .. } => (2, 3),
            Op::Concat { .. } => (1, 16),
            Op::RmsNorm { .. } | Op::RopeTable => (2, 2),
            Op::Rope | Op::SwiGlu => (3, 3),
            Op::Attention { .. } => (5, 5),
            Op::ConvGate { .. } => (3, 4),
            Op::LinearAdd => (3, 4),
            Op::Moe { bias, residual, .. } => {
                let n = 5 + *bias as usize + *residual as usize;
                (n, n)
            }
        }
    }

    /// How many values the operation gives.
    pub fn outputs(&self) -> usize {
        match self {
            Op::TopK { .. } | Op::RopeTable | Op::ConvGate { .. } => 2,
            Op::Attention { .. } => 3,
            _ => 1,
        }
    }
}
