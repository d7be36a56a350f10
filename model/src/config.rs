//! The shape of an LFM2 model, read from a checkpoint's `config.json` and checked.
//!
//! Two families share it: `lfm2` (dense) and `lfm2_moe`. A value of [`Config`] is always consistent: every
//! count is in range, divisions that the model relies on are exact, and no product of its sizes overflows.

mod raw;

use std::path::{Path, PathBuf};

use raw::RawConfig;

/// Bytes of `config.json` that are accepted at most.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Upper bounds of the sizes. The largest product, experts × FFN width × hidden size, stays below 2^50.
const MAX_VOCAB: usize = 1 << 24;
const MAX_HIDDEN: usize = 1 << 16;
const MAX_FFN: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 10;
const MAX_HEADS: usize = 1 << 10;
const MAX_HEAD_DIM: usize = 1 << 12;
const MAX_KERNEL: usize = 1 << 8;
const MAX_EXPERTS: usize = 1 << 12;
const MAX_POSITIONS: usize = 1 << 24;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("reading {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not JSON, or a key has a value of another type.
    #[error("config.json: {0}")]
    Json(#[from] serde_json::Error),
    /// A key that the model needs is absent.
    #[error("config.json: `{0}` is missing")]
    Missing(&'static str),
    /// A key has a value that no model can have, or that is not supported.
    #[error("config.json: {key} is {found}, expected {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What is accepted.
        expected: String,
    },
}

/// What a layer does along the sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperatorKind {
    /// Gated short convolution.
    Conv,
    /// Grouped-query attention.
    Attention,
}

/// What a layer does within one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForwardKind {
    /// One gated MLP.
    Dense,
    /// Router and experts.
    Moe,
}

/// The mixture of experts of the layers that have one.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeConfig {
    /// Leading layers with a dense feed-forward; all later ones are mixtures. At most the number of layers.
    pub dense_layers: usize,
    /// Experts of a layer.
    pub experts: usize,
    /// Experts that each token visits, 1 ..= `experts`.
    pub top_k: usize,
    /// Inner width of one expert.
    pub intermediate_size: usize,
    /// Whether a bias per expert takes part in the selection (never in the weights).
    pub use_expert_bias: bool,
    /// Whether the weights of the selected experts are divided by their sum.
    pub norm_topk_prob: bool,
    /// Factor on the weights of the selected experts.
    pub routed_scaling_factor: f64,
}

/// A checked model configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Rows of the embedding, and logits of a position.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Operator of every layer; its length is the number of layers.
    pub operators: Vec<OperatorKind>,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head, even.
    pub head_dim: usize,
    /// Taps of the short convolution (`conv_L_cache`).
    pub conv_kernel: usize,
    /// Whether in_proj, conv and out_proj of the short convolution have biases.
    pub conv_bias: bool,
    /// Inner width of the dense feed-forward, after the adjustment of the legacy keys.
    pub intermediate_size: usize,
    /// The experts; `None` for the dense family.
    pub moe: Option<MoeConfig>,
    /// Epsilon of every RMSNorm.
    pub norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the head is the embedding matrix.
    pub tie_embedding: bool,
    /// Positions that the model was made for.
    pub max_positions: usize,
    /// Token before every text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    pub eos_token_ids: Vec<u32>,
    /// Token of padding.
    pub pad_token_id: Option<u32>,
}

impl Config {
    /// Reads `config.json`: `path` is the file or the folder that holds it.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let file = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
        let io = |source| ConfigError::Io { path: file.clone(), source };
        let metadata = std::fs::metadata(&file).map_err(io)?;
        if !metadata.is_file() || metadata.len() > MAX_CONFIG_BYTES {
            return Err(ConfigError::Value {
                key: "the file",
                found: format!("{} of {} bytes", file.display(), metadata.len()),
                expected: format!("a regular file of at most {MAX_CONFIG_BYTES} bytes"),
            });
        }
        Self::from_json(&std::fs::read_to_string(&file).map_err(io)?)
    }

    /// Parses and checks the text of a `config.json`.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        serde_json::from_str::<RawConfig>(text)?.resolve()
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.operators.len()
    }

    /// Feed-forward of layer `layer`.
    pub fn feed_forward(&self, layer: usize) -> FeedForwardKind {
        match &self.moe {
            Some(moe) if layer >= moe.dense_layers => FeedForwardKind::Moe,
            _ => FeedForwardKind::Dense,
        }
    }

    /// Number of layers whose operator is `kind`.
    pub fn operator_count(&self, kind: OperatorKind) -> usize {
        self.operators.iter().filter(|&&operator| operator == kind).count()
    }

    /// Number of layers whose feed-forward is `kind`.
    pub fn feed_forward_count(&self, kind: FeedForwardKind) -> usize {
        (0..self.layers()).filter(|&layer| self.feed_forward(layer) == kind).count()
    }

    /// Width of the queries of one token, over all heads.
    pub fn q_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of the keys (or values) of one token, over all heads.
    pub fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Inverse rotary frequencies `theta^(-2i/head_dim)`, `head_dim / 2` of them.
    ///
    /// The exponent, the power and its reciprocal are each rounded to f32, as in the reference implementation;
    /// the power is taken in f64 so that no host's `powf` shows in the result.
    pub fn inv_freq(&self) -> Vec<f32> {
        (0..self.head_dim / 2)
            .map(|i| {
                let exponent = (2 * i) as f32 / self.head_dim as f32;
                1.0 / self.rope_theta.powf(f64::from(exponent)) as f32
            })
            .collect()
    }

    /// Checks every relation between the fields.
    fn check(self) -> Result<Self, ConfigError> {
        in_range("vocab_size", self.vocab_size, 1, MAX_VOCAB)?;
        in_range("hidden_size", self.hidden_size, 1, MAX_HIDDEN)?;
        in_range("num_hidden_layers", self.layers(), 1, MAX_LAYERS)?;
        in_range("num_attention_heads", self.heads, 1, MAX_HEADS)?;
        in_range("num_key_value_heads", self.kv_heads, 1, self.heads)?;
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(value(
                "num_key_value_heads",
                self.kv_heads,
                format!("a divisor of num_attention_heads ({})", self.heads),
            ));
        }
        in_range("head_dim", self.head_dim, 2, MAX_HEAD_DIM)?;
        if !self.head_dim.is_multiple_of(2) {
            return Err(value("head_dim", self.head_dim, "an even number"));
        }
        in_range("conv_L_cache", self.conv_kernel, 1, MAX_KERNEL)?;
        in_range("intermediate_size", self.intermediate_size, 1, MAX_FFN)?;
        in_range("max_position_embeddings", self.max_positions, 1, MAX_POSITIONS)?;
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            return Err(value("norm_eps", self.norm_eps, "a number between 0 and 1"));
        }
        if !(self.rope_theta > 0.0 && self.rope_theta <= 1e15) {
            return Err(value("rope_theta", self.rope_theta, "a positive number up to 1e15"));
        }
        if let Some(moe) = &self.moe {
            in_range("num_dense_layers", moe.dense_layers, 0, self.layers())?;
            in_range("num_experts", moe.experts, 1, MAX_EXPERTS)?;
            in_range("num_experts_per_tok", moe.top_k, 1, moe.experts)?;
            in_range("moe_intermediate_size", moe.intermediate_size, 1, MAX_FFN)?;
            if !(moe.routed_scaling_factor.is_finite() && moe.routed_scaling_factor != 0.0) {
                return Err(value(
                    "routed_scaling_factor",
                    moe.routed_scaling_factor,
                    "a finite non-zero number",
                ));
            }
        }
        let ids = self.eos_token_ids.iter().map(|&id| ("eos_token_id", id));
        let ids = ids.chain(self.bos_token_id.map(|id| ("bos_token_id", id)));
        for (key, id) in ids.chain(self.pad_token_id.map(|id| ("pad_token_id", id))) {
            if id as usize >= self.vocab_size {
                return Err(value(key, id, format!("a token below vocab_size ({})", self.vocab_size)));
            }
        }
        Ok(self)
    }
}

/// An error about the value of one key.
fn value(key: &'static str, found: impl ToString, expected: impl Into<String>) -> ConfigError {
    ConfigError::Value { key, found: found.to_string(), expected: expected.into() }
}

/// Checks `low <= found <= high`.
fn in_range(key: &'static str, found: usize, low: usize, high: usize) -> Result<(), ConfigError> {
    if (low..=high).contains(&found) { Ok(()) } else { Err(value(key, found, format!("{low} to {high}"))) }
}
