//! What a model carries from one call to the next.

use burn::Tensor;
use burn::tensor::Device;

use crate::config::{Config, OperatorKind};

/// State of one layer.
#[derive(Debug, Clone)]
pub enum LayerState {
    /// Short convolution.
    Conv {
        /// The last K − 1 values of B * x [1, H, K − 1], oldest first.
        window: Tensor<3>,
    },
    /// Attention.
    Attention {
        /// Keys after norm and rotary embedding [1, kv_heads, past, D].
        k: Tensor<4>,
        /// Values [1, kv_heads, past, D].
        v: Tensor<4>,
    },
}

/// State of all layers, in order.
#[derive(Debug, Clone)]
pub struct State {
    /// One entry per layer.
    pub layers: Vec<LayerState>,
}

impl State {
    /// The state before the first token: zero windows, no keys.
    pub fn empty(config: &Config, device: &Device) -> Self {
        let kv = || Tensor::zeros([1, config.kv_heads, 0, config.head_dim], device);
        let layer = |operator: &OperatorKind| match operator {
            OperatorKind::Conv => LayerState::Conv {
                window: Tensor::zeros([1, config.hidden_size, config.conv_kernel - 1], device),
            },
            OperatorKind::Attention => LayerState::Attention { k: kv(), v: kv() },
        };
        Self { layers: config.operators.iter().map(layer).collect() }
    }
}
