//! The gated short convolution: `out_proj(C * conv(B * x))` with `B, C, x = in_proj(input)`.

use burn::Tensor;
use burn::module::Module;
use burn::nn::conv::{Conv1d, Conv1dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;

use crate::config::Config;
use crate::observe::{Part, Value};

/// Gated depthwise causal convolution over the last K tokens.
#[derive(Module, Debug)]
pub struct ShortConv {
    /// H to 3 H: B, then C, then x.
    pub in_proj: Linear,
    /// Depthwise, weight [H, 1, K], the last tap for the current token.
    pub conv: Conv1d,
    /// H to H.
    pub out_proj: Linear,
}

impl ShortConv {
    /// The short convolution of `config`.
    pub fn new(config: &Config, device: &Device) -> Self {
        let (hidden, bias) = (config.hidden_size, config.conv_bias);
        let linear = |input, output| LinearConfig::new(input, output).with_bias(bias).init(device);
        Self {
            in_proj: linear(hidden, 3 * hidden),
            conv: Conv1dConfig::new(hidden, hidden, config.conv_kernel)
                .with_groups(hidden)
                .with_bias(bias)
                .init(device),
            out_proj: linear(hidden, hidden),
        }
    }

    /// `x` [1, seq, H] and the last K − 1 values of B * x, `window` [1, H, K − 1], to the output [1, seq, H]
    /// and the next window.
    pub fn forward(&self, x: Tensor<3>, window: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        self.forward_observed(x, window, &mut |_, _| ())
    }

    /// [`forward`](Self::forward), showing the values on the way to `observe`.
    pub fn forward_observed<F>(
        &self,
        x: Tensor<3>,
        window: Tensor<3>,
        observe: &mut F,
    ) -> (Tensor<3>, Tensor<3>)
    where
        F: FnMut(Part, Value<'_>),
    {
        let ([_, seq, hidden], [_, _, kept]) = (x.dims(), window.dims());
        let bcx = self.in_proj.forward(x);
        observe(Part::ConvIn, Value::Float(&bcx));
        let third = |i: usize| bcx.clone().slice([0..1, 0..seq, i * hidden..(i + 1) * hidden]);
        let (b, c, x) = (third(0), third(1), third(2));
        drop(bcx);
        let bx = (b * x).swap_dims(1, 2);
        let history = Tensor::cat(vec![window, bx], 2);
        let next = history.clone().slice([0..1, 0..hidden, seq..seq + kept]);
        let y = self.conv.forward(history).swap_dims(1, 2);
        let y = c * y;
        observe(Part::ConvGate, Value::Float(&y));
        (self.out_proj.forward(y), next)
    }
}
