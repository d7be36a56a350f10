//! The table of a model's tensors: canonical names, shapes, roles.
//!
//! Names are those of the published checkpoints, but for the experts: whatever the layout on disk, each MoE
//! layer has three stacked tensors, `experts.gate` and `experts.up` [E, I, H] and `experts.down` [E, H, I],
//! so that one expert is one contiguous range.

use crate::config::{Config, FeedForwardKind, OperatorKind};

/// What a tensor is for. It decides how it is stored in a bundle and how the burn module holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TensorKind {
    /// Token embedding [V, H]; also the head when it is tied.
    Embedding,
    /// Head of its own [V, H].
    Head,
    /// Weight of a linear layer [out, in].
    Linear,
    /// Bias of a linear layer or of the convolution `[out]`.
    Bias,
    /// Scale of an RMSNorm `[width]`.
    Norm,
    /// Taps of the depthwise convolution [H, 1, K], the last one for the current token.
    ConvKernel,
    /// Router of a mixture [E, H].
    Router,
    /// Selection bias of a mixture `[E]`.
    ExpertBias,
    /// One of the three stacked matrices of a mixture, [E, out, in].
    Experts,
}

impl TensorKind {
    /// Whether burn's module holds the matrix transposed: `nn::Linear` is [in, out], a checkpoint [out, in].
    pub fn transposed_in_module(self) -> bool {
        match self {
            TensorKind::Linear | TensorKind::Router | TensorKind::Head => true,
            TensorKind::Embedding
            | TensorKind::Bias
            | TensorKind::Norm
            | TensorKind::ConvKernel
            | TensorKind::ExpertBias
            | TensorKind::Experts => false,
        }
    }
}

/// One tensor that a checkpoint of a configuration holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Canonical name.
    pub name: String,
    /// Shape, in the checkpoint's order (outermost first).
    pub shape: Vec<usize>,
    /// Role.
    pub kind: TensorKind,
}

impl TensorSpec {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// The canonical tensor of a parameter path of the burn module: `layers.0.conv.in_proj.weight` is
/// `model.layers.0.conv.in_proj.weight`, `lm_head.weight` stays.
pub fn canonical_name(path: &str) -> String {
    if path.starts_with("lm_head.") { path.to_owned() } else { format!("model.{path}") }
}

impl Config {
    /// Every tensor of the model, in the order in which a forward pass meets them (the tied head is none).
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let mut table = Table(Vec::new());
        let hidden = self.hidden_size;
        table.add("model.embed_tokens.weight", [self.vocab_size, hidden], TensorKind::Embedding);
        for layer in 0..self.layers() {
            let prefix = format!("model.layers.{layer}");
            table.add(format!("{prefix}.operator_norm.weight"), [hidden], TensorKind::Norm);
            match self.operators[layer] {
                OperatorKind::Conv => table.conv(self, &prefix),
                OperatorKind::Attention => table.attention(self, &prefix),
            }
            table.add(format!("{prefix}.ffn_norm.weight"), [hidden], TensorKind::Norm);
            match (self.feed_forward(layer), &self.moe) {
                (FeedForwardKind::Moe, Some(moe)) => {
                    let (experts, inner) = (moe.experts, moe.intermediate_size);
                    let ffn = format!("{prefix}.feed_forward");
                    table.add(format!("{ffn}.gate.weight"), [experts, hidden], TensorKind::Router);
                    if moe.use_expert_bias {
                        table.add(format!("{ffn}.expert_bias"), [experts], TensorKind::ExpertBias);
                    }
                    table.add(format!("{ffn}.experts.gate"), [experts, inner, hidden], TensorKind::Experts);
                    table.add(format!("{ffn}.experts.up"), [experts, inner, hidden], TensorKind::Experts);
                    table.add(format!("{ffn}.experts.down"), [experts, hidden, inner], TensorKind::Experts);
                }
                (FeedForwardKind::Moe, None) | (FeedForwardKind::Dense, _) => {
                    let inner = self.intermediate_size;
                    table.linear(format!("{prefix}.feed_forward.w1"), inner, hidden, false);
                    table.linear(format!("{prefix}.feed_forward.w3"), inner, hidden, false);
                    table.linear(format!("{prefix}.feed_forward.w2"), hidden, inner, false);
                }
            }
        }
        table.add("model.embedding_norm.weight", [hidden], TensorKind::Norm);
        if !self.tie_embedding {
            table.add("lm_head.weight", [self.vocab_size, hidden], TensorKind::Head);
        }
        table.0
    }
}

/// The table while it is being filled.
struct Table(Vec<TensorSpec>);

impl Table {
    fn add<const D: usize>(&mut self, name: impl Into<String>, shape: [usize; D], kind: TensorKind) {
        self.0.push(TensorSpec { name: name.into(), shape: shape.to_vec(), kind });
    }

    fn linear(&mut self, name: String, out: usize, input: usize, bias: bool) {
        self.add(format!("{name}.weight"), [out, input], TensorKind::Linear);
        if bias {
            self.add(format!("{name}.bias"), [out], TensorKind::Bias);
        }
    }

    fn conv(&mut self, config: &Config, prefix: &str) {
        let (hidden, bias) = (config.hidden_size, config.conv_bias);
        self.linear(format!("{prefix}.conv.in_proj"), 3 * hidden, hidden, bias);
        self.add(
            format!("{prefix}.conv.conv.weight"),
            [hidden, 1, config.conv_kernel],
            TensorKind::ConvKernel,
        );
        if bias {
            self.add(format!("{prefix}.conv.conv.bias"), [hidden], TensorKind::Bias);
        }
        self.linear(format!("{prefix}.conv.out_proj"), hidden, hidden, bias);
    }

    fn attention(&mut self, config: &Config, prefix: &str) {
        let (hidden, q, kv) = (config.hidden_size, config.q_size(), config.kv_size());
        self.linear(format!("{prefix}.self_attn.q_proj"), q, hidden, false);
        self.linear(format!("{prefix}.self_attn.k_proj"), kv, hidden, false);
        self.linear(format!("{prefix}.self_attn.v_proj"), kv, hidden, false);
        self.add(format!("{prefix}.self_attn.q_layernorm.weight"), [config.head_dim], TensorKind::Norm);
        self.add(format!("{prefix}.self_attn.k_layernorm.weight"), [config.head_dim], TensorKind::Norm);
        self.linear(format!("{prefix}.self_attn.out_proj"), hidden, q, false);
    }
}
