//! One layer: `x += operator(operator_norm(x)); x += feed_forward(ffn_norm(x))`.

use burn::Tensor;
use burn::module::Module;
use burn::tensor::{Device, Int};

use crate::attention::Attention;
use crate::config::{Config, FeedForwardKind, OperatorKind};
use crate::mlp::Mlp;
use crate::moe::Moe;
use crate::norm::RmsNorm;
use crate::observe::{Part, Value};
use crate::rope::Rope;
use crate::short_conv::ShortConv;
use crate::state::LayerState;

/// The feed-forward of a layer.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a handful of layers, and burn's derive takes no boxes")]
pub enum FeedForward {
    /// One MLP.
    Dense(Mlp),
    /// Router and experts.
    Moe(Moe),
}

/// One layer. It has exactly one operator, `conv` or `self_attn`.
#[derive(Module, Debug)]
pub struct Block {
    /// Norm before the operator.
    pub operator_norm: RmsNorm,
    /// The operator of a convolution layer.
    pub conv: Option<ShortConv>,
    /// The operator of an attention layer.
    pub self_attn: Option<Attention>,
    /// Norm before the feed-forward.
    pub ffn_norm: RmsNorm,
    /// The feed-forward.
    pub feed_forward: FeedForward,
}

impl Block {
    /// Layer `layer` of `config`.
    pub fn new(config: &Config, layer: usize, device: &Device) -> Self {
        let norm = || RmsNorm::new(config.hidden_size, config.norm_eps, device);
        let operator = config.operators[layer];
        Self {
            operator_norm: norm(),
            conv: (operator == OperatorKind::Conv).then(|| ShortConv::new(config, device)),
            self_attn: (operator == OperatorKind::Attention).then(|| Attention::new(config, device)),
            ffn_norm: norm(),
            feed_forward: match (config.feed_forward(layer), &config.moe) {
                (FeedForwardKind::Moe, Some(moe)) => FeedForward::Moe(Moe::new(config, moe, device)),
                (FeedForwardKind::Moe, None) | (FeedForwardKind::Dense, _) => {
                    FeedForward::Dense(Mlp::new(config, device))
                }
            },
        }
    }

    /// `x` [1, seq, H] and the layer's state to the residual stream after the layer and the next state.
    ///
    /// # Panics
    ///
    /// Panics if the state is that of the other operator.
    pub fn forward<F>(
        &self,
        x: Tensor<3>,
        rope: &Rope,
        state: LayerState,
        observe: &mut F,
    ) -> (Tensor<3>, LayerState)
    where
        F: FnMut(Part, Value<'_>),
    {
        self.forward_through(x, rope, state, None, observe)
    }

    /// [`forward`](Self::forward), but through given experts (see [`Moe::forward_through`]).
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn forward_through<F>(
        &self,
        x: Tensor<3>,
        rope: &Rope,
        state: LayerState,
        experts: Option<Tensor<3, Int>>,
        observe: &mut F,
    ) -> (Tensor<3>, LayerState)
    where
        F: FnMut(Part, Value<'_>),
    {
        let h = self.operator_norm.forward(x.clone());
        observe(Part::OperatorNorm, Value::Float(&h));
        let (y, next) = match (&self.conv, &self.self_attn, state) {
            (Some(conv), None, LayerState::Conv { window }) => {
                let (y, window) = conv.forward_observed(h, window, observe);
                (y, LayerState::Conv { window })
            }
            (None, Some(attention), LayerState::Attention { k, v }) => {
                let (y, (k, v)) = attention.forward_observed(h, rope, (k, v), observe);
                (y, LayerState::Attention { k, v })
            }
            (_, _, state) => panic!("the layer's operator does not fit its state {state:?}"),
        };
        observe(Part::Operator, Value::Float(&y));
        let x = x + y;
        observe(Part::Middle, Value::Float(&x));

        let h = self.ffn_norm.forward(x.clone());
        observe(Part::FfnNorm, Value::Float(&h));
        let y = match &self.feed_forward {
            FeedForward::Dense(mlp) => mlp.forward_observed(h, observe),
            FeedForward::Moe(moe) => {
                let (y, routing) = moe.forward_through(h, experts);
                observe(Part::RouterRanks, Value::Float(&routing.ranks));
                observe(Part::RouterIds, Value::Int(&routing.ids));
                observe(Part::RouterWeights, Value::Float(&routing.weights));
                y
            }
        };
        observe(Part::Ffn, Value::Float(&y));
        let x = x + y;
        observe(Part::Out, Value::Float(&x));
        (x, next)
    }
}
