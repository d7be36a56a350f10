//! The whole model: embedding, layers, final norm, head.

use burn::Tensor;
use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::module::linear;
use burn::tensor::{Device, Int};

use crate::block::Block;
use crate::config::Config;
use crate::norm::RmsNorm;
use crate::observe::{Part, Point, Value};
use crate::rope::Rope;
use crate::state::State;

/// LFM2 or LFM2-MoE with a language-model head. Parameter paths are the published tensor names without their
/// leading `model.` (see [`canonical_name`](crate::canonical_name)).
#[derive(Module, Debug)]
pub struct Lfm2 {
    /// Token embedding [V, H].
    pub embed_tokens: Embedding,
    /// The layers.
    pub layers: Vec<Block>,
    /// Norm after the last layer.
    pub embedding_norm: RmsNorm,
    /// The head; none where the embedding serves as one.
    pub lm_head: Option<Linear>,
    /// Inverse rotary frequencies [D / 2].
    #[module(skip)]
    pub inv_freq: Vec<f32>,
}

impl Lfm2 {
    /// The model of `config` on `device`. The parameters stay unmaterialised until they are loaded or used.
    pub fn new(config: &Config, device: &Device) -> Self {
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        Self {
            embed_tokens: EmbeddingConfig::new(vocab, hidden).init(device),
            layers: (0..config.layers()).map(|layer| Block::new(config, layer, device)).collect(),
            embedding_norm: RmsNorm::new(hidden, config.norm_eps, device),
            lm_head: (!config.tie_embedding)
                .then(|| LinearConfig::new(hidden, vocab).with_bias(false).init(device)),
            inv_freq: config.inv_freq(),
        }
    }

    /// `tokens` [1, seq] at `positions` `[seq]` to logits [1, seq, V] and the state after them.
    ///
    /// # Panics
    ///
    /// Panics if a shape does not fit, or if the state is not that of this model.
    pub fn forward(
        &self,
        tokens: Tensor<2, Int>,
        positions: Tensor<1, Int>,
        state: State,
    ) -> (Tensor<3>, State) {
        self.forward_observed(tokens, positions, state, &mut |_, _| ())
    }

    /// [`forward`](Self::forward), showing the values on the way to `observe`.
    pub fn forward_observed<F>(
        &self,
        tokens: Tensor<2, Int>,
        positions: Tensor<1, Int>,
        state: State,
        observe: &mut F,
    ) -> (Tensor<3>, State)
    where
        F: FnMut(Point, Value<'_>),
    {
        assert_eq!(state.layers.len(), self.layers.len(), "a state has one entry per layer");
        let rope = Rope::new(positions, &self.inv_freq);
        let mut x = self.embed_tokens.forward(tokens);
        observe(Point { layer: None, part: Part::Embed }, Value::Float(&x));
        let mut next = Vec::with_capacity(self.layers.len());
        for (index, (layer, state)) in self.layers.iter().zip(state.layers).enumerate() {
            let mut observe = |part, value: Value<'_>| observe(Point { layer: Some(index), part }, value);
            let (y, state) = layer.forward(x, &rope, state, &mut observe);
            x = y;
            next.push(state);
        }
        let x = self.embedding_norm.forward(x);
        observe(Point { layer: None, part: Part::FinalNorm }, Value::Float(&x));
        let logits = match &self.lm_head {
            Some(head) => head.forward(x),
            None => linear(x, self.embed_tokens.weight.val().transpose(), None),
        };
        (logits, State { layers: next })
    }
}
