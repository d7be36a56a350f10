//! Looking at the values inside a forward pass, for comparison with another implementation.

use std::fmt;

use burn::Tensor;
use burn::tensor::{Int, TensorReadError};

/// A value that a forward pass shows. All have one row for each token.
#[derive(Debug)]
pub enum Value<'a> {
    /// [1, seq, width]
    Float(&'a Tensor<3>),
    /// Queries or keys [1, seq, heads, D], or rotary angles [1, seq, 1, D / 2].
    Heads(&'a Tensor<4>),
    /// Expert ids [1, seq, k].
    Int(&'a Tensor<3, Int>),
}

impl Value<'_> {
    /// The elements in order, ids as floats.
    ///
    /// # Errors
    /// When the device fails.
    pub fn floats(&self) -> Result<Vec<f32>, TensorReadError> {
        match *self {
            Value::Float(tensor) => tensor.clone().try_into_vec_as(),
            Value::Heads(tensor) => tensor.clone().try_into_vec_as(),
            Value::Int(tensor) => tensor.clone().try_into_vec_as(),
        }
    }
}

/// Which value of a layer, or of the model, is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The embedded tokens.
    Embed,
    /// Cosines of the rotary angles.
    RopeCos,
    /// Sines of the rotary angles.
    RopeSin,
    /// The layer's input after its first norm.
    OperatorNorm,
    /// B, C and x of a convolution.
    ConvIn,
    /// The convolution of B * x, times C.
    ConvGate,
    /// Queries as projected.
    Query,
    /// Keys as projected.
    Key,
    /// Values as projected.
    Values,
    /// Queries after their norm.
    QueryNorm,
    /// Keys after their norm.
    KeyNorm,
    /// Queries after the rotary embedding.
    QueryRope,
    /// Keys after the rotary embedding.
    KeyRope,
    /// The mixed values of all heads.
    Attend,
    /// Output of convolution or attention, before the residual addition.
    Operator,
    /// The residual stream between operator and feed-forward.
    Middle,
    /// Input of the feed-forward.
    FfnNorm,
    /// silu(w1 x) * w3 x of a dense feed-forward.
    FfnInner,
    /// What the router ranks all experts by, [1, seq, E].
    RouterRanks,
    /// Experts selected by the router, best first.
    RouterIds,
    /// Weights of those experts.
    RouterWeights,
    /// Output of the feed-forward, before the residual addition.
    Ffn,
    /// The residual stream after the layer.
    Out,
    /// The input of the head.
    FinalNorm,
    /// The logits.
    Logits,
}

/// A value's place in the model. Displays as `embed`, `L3.ffn_norm`, `L3.router.ids`, `final_norm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// The layer; none for what the model has once.
    pub layer: Option<usize>,
    /// The value.
    pub part: Part,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Embed => "embed",
            Part::RopeCos => "rope.cos",
            Part::RopeSin => "rope.sin",
            Part::OperatorNorm => "operator_norm",
            Part::ConvIn => "conv.in",
            Part::ConvGate => "conv.gate",
            Part::Query => "attn.q",
            Part::Key => "attn.k",
            Part::Values => "attn.v",
            Part::QueryNorm => "attn.q_norm",
            Part::KeyNorm => "attn.k_norm",
            Part::QueryRope => "attn.q_rope",
            Part::KeyRope => "attn.k_rope",
            Part::Attend => "attn.attend",
            Part::Operator => "operator",
            Part::Middle => "middle",
            Part::FfnNorm => "ffn_norm",
            Part::FfnInner => "ffn.inner",
            Part::RouterRanks => "router.ranks",
            Part::RouterIds => "router.ids",
            Part::RouterWeights => "router.weights",
            Part::Ffn => "ffn",
            Part::Out => "out",
            Part::FinalNorm => "final_norm",
            Part::Logits => "logits",
        })
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(layer) = self.layer {
            write!(f, "L{layer}.")?;
        }
        self.part.fmt(f)
    }
}
