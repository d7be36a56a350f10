//! RMSNorm: `x / sqrt(mean(x²) + eps) * weight` along the last axis.

use burn::Tensor;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::Device;

/// RMSNorm with a learnt scale.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Scale `[width]`.
    pub weight: Param<Tensor<1>>,
    /// Added to the mean of squares.
    pub eps: f64,
}

impl RmsNorm {
    /// A norm over `width` values; the scale is one until loaded.
    pub fn new(width: usize, eps: f64, device: &Device) -> Self {
        Self { weight: Initializer::Ones.init([width], device), eps }
    }

    /// Normalises the last axis of `x` [.., width].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let rms = (x.clone().square().mean_dim(D - 1) + self.eps).sqrt();
        x / rms * self.weight.val().unsqueeze()
    }
}
