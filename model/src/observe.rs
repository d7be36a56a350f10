//! Looking at the values inside a forward pass, for comparison with another implementation.

use std::fmt;

use burn::Tensor;
use burn::tensor::Int;

/// A value that a forward pass shows.
#[derive(Debug)]
pub enum Value<'a> {
    /// A hidden state [1, seq, H] or router weights [1, seq, k].
    Float(&'a Tensor<3>),
    /// Expert ids [1, seq, k].
    Int(&'a Tensor<3, Int>),
}

/// Which value of a layer, or of the model, is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The embedded tokens.
    Embed,
    /// The layer's input after its first norm.
    OperatorNorm,
    /// Output of convolution or attention, before the residual addition.
    Operator,
    /// Input of the feed-forward.
    FfnNorm,
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
}

/// A value's place in the model. Displays as `embed`, `L3.ffn_norm`, `L3.router.ids`, `final_norm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// The layer; none for the embedding and the final norm.
    pub layer: Option<usize>,
    /// The value.
    pub part: Part,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Embed => "embed",
            Part::OperatorNorm => "operator_norm",
            Part::Operator => "operator",
            Part::FfnNorm => "ffn_norm",
            Part::RouterIds => "router.ids",
            Part::RouterWeights => "router.weights",
            Part::Ffn => "ffn",
            Part::Out => "out",
            Part::FinalNorm => "final_norm",
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
