//! The dense feed-forward: `w2(silu(w1 x) * w3 x)`.

use burn::Tensor;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, activation};

use crate::config::Config;
use crate::observe::{Part, Value};

/// Gated MLP with SiLU.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Gate, hidden to inner.
    pub w1: Linear,
    /// Down, inner to hidden.
    pub w2: Linear,
    /// Up, hidden to inner.
    pub w3: Linear,
}

impl Mlp {
    /// The dense feed-forward of `config`.
    pub fn new(config: &Config, device: &Device) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let linear = |input, output| LinearConfig::new(input, output).with_bias(false).init(device);
        Self { w1: linear(hidden, inner), w2: linear(inner, hidden), w3: linear(hidden, inner) }
    }

    /// `x` [1, seq, H] to [1, seq, H].
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.forward_observed(x, &mut |_, _| ())
    }

    /// [`forward`](Self::forward), showing the values on the way to `observe`.
    pub fn forward_observed<F>(&self, x: Tensor<3>, observe: &mut F) -> Tensor<3>
    where
        F: FnMut(Part, Value<'_>),
    {
        let inner = activation::silu(self.w1.forward(x.clone())) * self.w3.forward(x);
        observe(Part::FfnInner, Value::Float(&inner));
        self.w2.forward(inner)
    }
}
