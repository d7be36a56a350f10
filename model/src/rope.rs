//! Rotary position embedding, rotate-half form, over the whole head.

use burn::Tensor;
use burn::tensor::{Int, TensorData};

/// Cosines and sines of one call's positions, shared by all attention layers.
#[derive(Debug, Clone)]
pub struct Rope {
    /// [1, seq, 1, head_dim / 2]
    pub(crate) cos: Tensor<4>,
    /// [1, seq, 1, head_dim / 2]
    pub(crate) sin: Tensor<4>,
}

impl Rope {
    /// The tables of `positions` `[seq]`, for the frequencies of [`Config::inv_freq`](crate::Config::inv_freq).
    pub fn new(positions: Tensor<1, Int>, inv_freq: &[f32]) -> Self {
        let ([seq], half) = (positions.dims(), inv_freq.len());
        let inv_freq = TensorData::new(inv_freq.to_vec(), [1, half]);
        let inv_freq = Tensor::<2>::from_data(inv_freq, &positions.device());
        let angles = positions.float().reshape([seq, 1]) * inv_freq;
        Self {
            cos: angles.clone().cos().reshape([1, seq, 1, half]),
            sin: angles.sin().reshape([1, seq, 1, half]),
        }
    }

    /// Rotates `x` [1, seq, heads, head_dim]: element i pairs with element i + head_dim / 2.
    pub fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, seq, heads, head_dim] = x.dims();
        let half = head_dim / 2;
        let x1 = x.clone().slice([0..1, 0..seq, 0..heads, 0..half]);
        let x2 = x.slice([0..1, 0..seq, 0..heads, half..head_dim]);
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        let y1 = x1.clone() * cos.clone() - x2.clone() * sin.clone();
        let y2 = x2 * cos + x1 * sin;
        Tensor::cat(vec![y1, y2], 3)
    }
}
