//! The mixture of experts: a sigmoid router, and the selected experts as gathered batched matrix products.
//!
//! ```text
//! s = sigmoid(gate x)                      [seq, E]
//! ids = top k of (s + expert_bias)         the bias takes part in the selection only
//! w = s[ids]; w /= sum(w) + 1e-6; w *= routed_scaling_factor
//! y = sum over k of w_k * down[ids_k] (silu(gate[ids_k] x) * up[ids_k] x)
//! ```
//!
//! Nothing is read back to the host, so the same code runs eagerly and is captured.

use burn::Tensor;
use burn::module::{Module, Param};
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Int, activation};

use crate::config::{Config, MoeConfig};

/// Added to the sum of the selected weights before dividing by it.
const NORM_EPS: f64 = 1e-6;

/// Weights of all experts of a layer, stacked.
#[derive(Module, Debug)]
pub struct Experts {
    /// [E, inner, H]
    pub gate: Param<Tensor<3>>,
    /// [E, inner, H]
    pub up: Param<Tensor<3>>,
    /// [E, H, inner]
    pub down: Param<Tensor<3>>,
}

/// Router and experts of one layer.
#[derive(Module, Debug)]
pub struct Moe {
    /// Router, H to E.
    pub gate: Linear,
    /// Selection bias `[E]`.
    pub expert_bias: Option<Param<Tensor<1>>>,
    /// The experts.
    pub experts: Experts,
    /// Experts that each token visits.
    pub top_k: usize,
    /// Whether the weights of the selected experts are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on those weights.
    pub routed_scaling_factor: f64,
}

/// The router's decision for every token.
#[derive(Debug, Clone)]
pub struct Routing {
    /// Selected experts [1, seq, k], best first.
    pub ids: Tensor<3, Int>,
    /// Their weights [1, seq, k].
    pub weights: Tensor<3>,
    /// What all experts were ranked by [1, seq, E].
    pub ranks: Tensor<3>,
}

impl Moe {
    /// The mixture `moe` of `config`.
    pub fn new(config: &Config, moe: &MoeConfig, device: &Device) -> Self {
        let (experts, inner, hidden) = (moe.experts, moe.intermediate_size, config.hidden_size);
        let init = |fan_in: usize| Initializer::Normal { mean: 0.0, std: (fan_in as f64).powf(-0.5) };
        Self {
            gate: LinearConfig::new(hidden, experts).with_bias(false).init(device),
            expert_bias: moe.use_expert_bias.then(|| Initializer::Zeros.init([experts], device)),
            experts: Experts {
                gate: init(hidden).init([experts, inner, hidden], device),
                up: init(hidden).init([experts, inner, hidden], device),
                down: init(inner).init([experts, hidden, inner], device),
            },
            top_k: moe.top_k,
            norm_topk_prob: moe.norm_topk_prob,
            routed_scaling_factor: moe.routed_scaling_factor,
        }
    }

    /// `x` [1, seq, H] to [1, seq, H], and the routing that led there.
    pub fn forward(&self, x: Tensor<3>) -> (Tensor<3>, Routing) {
        self.forward_through(x, None)
    }

    /// [`forward`](Self::forward), but through the experts `ids` [1, seq, k], if they are given. The routing is the
    /// router's own.
    pub fn forward_through(&self, x: Tensor<3>, ids: Option<Tensor<3, Int>>) -> (Tensor<3>, Routing) {
        let routing = self.route(x.clone());
        let (ids, weights) = match ids {
            None => (routing.ids.clone(), routing.weights.clone()),
            Some(ids) => {
                let scores = activation::sigmoid(self.gate.forward(x.clone()));
                (ids.clone(), self.weigh(scores, ids))
            }
        };
        (self.experts.forward(x, ids, weights), routing)
    }

    /// Selects `top_k` experts for every token of `x` [1, seq, H].
    pub fn route(&self, x: Tensor<3>) -> Routing {
        let scores = activation::sigmoid(self.gate.forward(x));
        let ranks = match &self.expert_bias {
            Some(bias) => scores.clone() + bias.val().unsqueeze(),
            None => scores.clone(),
        };
        let (_, ids) = ranks.clone().topk_with_indices(self.top_k, 2);
        let weights = self.weigh(scores, ids.clone());
        Routing { ids, weights, ranks }
    }

    /// The weights of the experts `ids` by the scores of all.
    fn weigh(&self, scores: Tensor<3>, ids: Tensor<3, Int>) -> Tensor<3> {
        let mut weights = scores.gather(2, ids);
        if self.norm_topk_prob {
            weights = weights.clone() / (weights.sum_dim(2) + NORM_EPS);
        }
        if self.routed_scaling_factor != 1.0 {
            weights = weights * self.routed_scaling_factor;
        }
        weights
    }
}

impl Experts {
    /// Runs every token of `x` [1, seq, H] through its experts `ids` [1, seq, k] and adds the results by
    /// `weights` [1, seq, k].
    ///
    /// Gathers k matrices for every token: memory grows with seq × k × inner × H.
    pub fn forward(&self, x: Tensor<3>, ids: Tensor<3, Int>, weights: Tensor<3>) -> Tensor<3> {
        let ([_, seq, hidden], [_, _, k]) = (x.dims(), ids.dims());
        let ids = ids.reshape([seq * k]);
        let x = x.reshape([seq, 1, hidden]).expand([seq, k, hidden]).reshape([seq * k, hidden, 1]);
        let gate = self.gate.val().select(0, ids.clone()).matmul(x.clone());
        let up = self.up.val().select(0, ids.clone()).matmul(x);
        let y = self.down.val().select(0, ids).matmul(activation::silu(gate) * up);
        let y = y.reshape([seq, k, hidden]) * weights.reshape([seq, k, 1]);
        y.sum_dim(1).reshape([1, seq, hidden])
    }
}
