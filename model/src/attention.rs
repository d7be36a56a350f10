//! Grouped-query attention with a norm of every query and key head before the rotary embedding.

use burn::Tensor;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::Device;
use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;

use crate::config::Config;
use crate::norm::RmsNorm;
use crate::observe::{Part, Value};
use crate::rope::Rope;

/// Causal self-attention; a key head serves `heads / kv_heads` query heads.
#[derive(Module, Debug)]
pub struct Attention {
    /// H to heads × D.
    pub q_proj: Linear,
    /// H to kv_heads × D.
    pub k_proj: Linear,
    /// H to kv_heads × D.
    pub v_proj: Linear,
    /// heads × D to H.
    pub out_proj: Linear,
    /// Norm of each query head, over D.
    pub q_layernorm: RmsNorm,
    /// Norm of each key head, over D.
    pub k_layernorm: RmsNorm,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head, D.
    pub head_dim: usize,
}

impl Attention {
    /// The attention of `config`.
    pub fn new(config: &Config, device: &Device) -> Self {
        let (hidden, q, kv) = (config.hidden_size, config.q_size(), config.kv_size());
        let linear = |input, output| LinearConfig::new(input, output).with_bias(false).init(device);
        let norm = || RmsNorm::new(config.head_dim, config.norm_eps, device);
        Self {
            q_proj: linear(hidden, q),
            k_proj: linear(hidden, kv),
            v_proj: linear(hidden, kv),
            out_proj: linear(q, hidden),
            q_layernorm: norm(),
            k_layernorm: norm(),
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        }
    }

    /// `x` [1, seq, H] with the keys and values of the past, each [1, kv_heads, past, D], to the output
    /// [1, seq, H] and the keys and values of past + seq.
    ///
    /// The keys are kept after the rotary embedding. Query i sees the keys up to past + i.
    pub fn forward(
        &self,
        x: Tensor<3>,
        rope: &Rope,
        past: (Tensor<4>, Tensor<4>),
    ) -> (Tensor<3>, (Tensor<4>, Tensor<4>)) {
        self.forward_observed(x, rope, past, &mut |_, _| ())
    }

    /// [`forward`](Self::forward), showing the values on the way to `observe`.
    pub fn forward_observed<F>(
        &self,
        x: Tensor<3>,
        rope: &Rope,
        past: (Tensor<4>, Tensor<4>),
        observe: &mut F,
    ) -> (Tensor<3>, (Tensor<4>, Tensor<4>))
    where
        F: FnMut(Part, Value<'_>),
    {
        let [_, seq, _] = x.dims();
        let mut shown = |part, heads: Tensor<4>| {
            observe(part, Value::Heads(&heads));
            heads
        };
        let q = self.q_proj.forward(x.clone()).reshape([1, seq, self.heads, self.head_dim]);
        let k = self.k_proj.forward(x.clone()).reshape([1, seq, self.kv_heads, self.head_dim]);
        let v = self.v_proj.forward(x).reshape([1, seq, self.kv_heads, self.head_dim]);

        let (q, k, v) = (shown(Part::Query, q), shown(Part::Key, k), shown(Part::Values, v));
        let q = shown(Part::QueryNorm, self.q_layernorm.forward(q));
        let q = shown(Part::QueryRope, rope.apply(q)).swap_dims(1, 2);
        let k = shown(Part::KeyNorm, self.k_layernorm.forward(k));
        let k = shown(Part::KeyRope, rope.apply(k)).swap_dims(1, 2);
        let k = Tensor::cat(vec![past.0, k], 2);
        let v = Tensor::cat(vec![past.1, v.swap_dims(1, 2)], 2);

        let options = AttentionModuleOptions {
            scale: Some((self.head_dim as f64).powf(-0.5)),
            softcap: None,
            is_causal: true,
        };
        let y =
            attention(q, self.per_query_head(k.clone()), self.per_query_head(v.clone()), None, None, options);
        let y = y.swap_dims(1, 2).reshape([1, seq, self.heads * self.head_dim]);
        observe(Part::Attend, Value::Float(&y));
        (self.out_proj.forward(y), (k, v))
    }

    /// Repeats each of the heads of `kv` [1, kv_heads, len, D] for its queries: [1, heads, len, D].
    fn per_query_head(&self, kv: Tensor<4>) -> Tensor<4> {
        let [_, kv_heads, len, head_dim] = kv.dims();
        let kv = kv.reshape([1, kv_heads, 1, len, head_dim]);
        let kv: Tensor<5> = kv.expand([1, kv_heads, self.heads / kv_heads, len, head_dim]);
        kv.reshape([1, self.heads, len, head_dim])
    }
}
