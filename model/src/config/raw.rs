//! The keys of `config.json` as files have them, and their resolution into a [`Config`].
//!
//! Legacy files (before transformers 5) use other names for some keys; where both are given, the rule of the
//! reference implementation decides. `null` counts as absent.

use serde::Deserialize;

use super::{Config, ConfigError, MAX_FFN, MAX_LAYERS, MoeConfig, OperatorKind, in_range, value};

/// Every key that has a meaning here; all others are ignored.
#[derive(Debug, Deserialize)]
pub(super) struct RawConfig {
    model_type: Option<String>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    block_dim: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    layer_types: Option<Vec<String>>,
    full_attn_idxs: Option<Vec<usize>>,
    #[serde(rename = "conv_L_cache")]
    conv_l_cache: Option<usize>,
    conv_bias: Option<bool>,
    intermediate_size: Option<usize>,
    block_ff_dim: Option<usize>,
    block_auto_adjust_ff_dim: Option<bool>,
    /// Absent means 1, `null` means no multiplier and no rounding.
    #[serde(default, deserialize_with = "present")]
    block_ffn_dim_multiplier: Option<Option<f64>>,
    block_multiple_of: Option<usize>,
    block_use_swiglu: Option<bool>,
    hidden_act: Option<String>,
    num_dense_layers: Option<usize>,
    num_experts: Option<usize>,
    num_experts_per_tok: Option<usize>,
    moe_intermediate_size: Option<usize>,
    use_expert_bias: Option<bool>,
    norm_topk_prob: Option<bool>,
    routed_scaling_factor: Option<f64>,
    norm_eps: Option<f64>,
    block_norm_eps: Option<f64>,
    rope_parameters: Option<RawRope>,
    rope_scaling: Option<RawRope>,
    rope_theta: Option<f64>,
    theta: Option<f64>,
    tie_embedding: Option<bool>,
    tie_word_embeddings: Option<bool>,
    max_position_embeddings: Option<usize>,
    bos_token_id: Option<u32>,
    eos_token_id: Option<OneOrMany>,
    pad_token_id: Option<u32>,
    quantization_config: Option<serde_json::Value>,
}

/// The rotary embedding's own keys.
#[derive(Debug, Deserialize)]
struct RawRope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    #[serde(rename = "type")]
    legacy_type: Option<String>,
    partial_rotary_factor: Option<f64>,
}

/// `7` or `[7, 2]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

/// Tells a key that is `null` (`Some(None)`) from one that is absent (`None`).
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<f64>>, D::Error> {
    Option::<f64>::deserialize(deserializer).map(Some)
}

/// The value of a key that must be there.
fn required<T>(key: &'static str, found: Option<T>) -> Result<T, ConfigError> {
    found.ok_or(ConfigError::Missing(key))
}

impl RawConfig {
    /// The configuration that these keys mean, checked.
    pub(super) fn resolve(self) -> Result<Config, ConfigError> {
        let mixture = match self.model_type.as_deref() {
            Some("lfm2") => false,
            Some("lfm2_moe") => true,
            Some(other) => return Err(value("model_type", other, "lfm2 or lfm2_moe")),
            None => return Err(ConfigError::Missing("model_type")),
        };
        self.refuse_unsupported()?;
        let hidden_size = required("hidden_size", self.hidden_size.or(self.block_dim))?;
        let heads = required("num_attention_heads", self.num_attention_heads.or(self.num_heads))?;
        in_range("num_attention_heads", heads, 1, super::MAX_HEADS)?;
        let head_dim = match self.head_dim {
            Some(head_dim) => head_dim,
            None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
            None => {
                let expected =
                    format!("a multiple of num_attention_heads ({heads}) where head_dim is not given");
                return Err(value("hidden_size", hidden_size, expected));
            }
        };
        let intermediate_size = self.dense_width(mixture)?;
        let moe = if mixture {
            Some(MoeConfig {
                dense_layers: self.num_dense_layers.unwrap_or(2),
                experts: required("num_experts", self.num_experts)?,
                top_k: required("num_experts_per_tok", self.num_experts_per_tok)?,
                intermediate_size: required("moe_intermediate_size", self.moe_intermediate_size)?,
                use_expert_bias: self.use_expert_bias.unwrap_or(true),
                norm_topk_prob: self.norm_topk_prob.unwrap_or(true),
                routed_scaling_factor: self.routed_scaling_factor.unwrap_or(1.0),
            })
        } else {
            None
        };
        Config {
            vocab_size: required("vocab_size", self.vocab_size)?,
            hidden_size,
            operators: self.operators()?,
            heads,
            kv_heads: required("num_key_value_heads", self.num_key_value_heads)?,
            head_dim,
            conv_kernel: self.conv_l_cache.unwrap_or(3),
            conv_bias: self.conv_bias.unwrap_or(false),
            intermediate_size,
            moe,
            norm_eps: self.norm_eps.or(self.block_norm_eps).unwrap_or(1e-5),
            rope_theta: self.theta()?,
            tie_embedding: self.tie_embedding.or(self.tie_word_embeddings).unwrap_or(true),
            max_positions: self.max_position_embeddings.unwrap_or(128_000),
            bos_token_id: self.bos_token_id,
            eos_token_ids: match self.eos_token_id {
                Some(OneOrMany::One(id)) => vec![id],
                Some(OneOrMany::Many(ids)) => ids,
                None => Vec::new(),
            },
            pad_token_id: self.pad_token_id,
        }
        .check()
    }

    /// Keys that would change what the model computes in a way that is not implemented.
    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        if self.block_use_swiglu == Some(false) {
            return Err(value("block_use_swiglu", false, "true"));
        }
        if let Some(act) = self.hidden_act.as_deref().filter(|&act| act != "silu") {
            return Err(value("hidden_act", act, "silu"));
        }
        if self.quantization_config.is_some() {
            return Err(value("quantization_config", "present", "a checkpoint in f32, f16 or bf16"));
        }
        for rope in [&self.rope_parameters, &self.rope_scaling].into_iter().flatten() {
            let kind = rope.rope_type.as_deref().or(rope.legacy_type.as_deref());
            if let Some(kind) = kind.filter(|&kind| kind != "default") {
                return Err(value("rope_type", kind, "default"));
            }
            if let Some(factor) = rope.partial_rotary_factor.filter(|&factor| factor != 1.0) {
                return Err(value("partial_rotary_factor", factor, "1"));
            }
        }
        Ok(())
    }

    /// Operator of every layer: `layer_types`, else `full_attn_idxs`, else attention everywhere.
    fn operators(&self) -> Result<Vec<OperatorKind>, ConfigError> {
        let layers = match (self.num_hidden_layers, &self.layer_types) {
            (Some(layers), _) => layers,
            (None, Some(types)) => types.len(),
            (None, None) => return Err(ConfigError::Missing("num_hidden_layers")),
        };
        in_range("num_hidden_layers", layers, 1, MAX_LAYERS)?;
        if let Some(types) = &self.layer_types {
            if types.len() != layers {
                let expected = format!("one for each of the {layers} layers");
                return Err(value("layer_types", format!("a list of {}", types.len()), expected));
            }
            let operator = |kind: &String| match kind.as_str() {
                "conv" => Ok(OperatorKind::Conv),
                "full_attention" => Ok(OperatorKind::Attention),
                other => Err(value("layer_types", format!("`{other}`"), "conv or full_attention")),
            };
            return types.iter().map(operator).collect();
        }
        let Some(attention) = &self.full_attn_idxs else {
            return Ok(vec![OperatorKind::Attention; layers]);
        };
        let mut operators = vec![OperatorKind::Conv; layers];
        for &index in attention {
            match operators.get_mut(index) {
                Some(operator) => *operator = OperatorKind::Attention,
                None => return Err(value("full_attn_idxs", index, format!("layers below {layers}"))),
            }
        }
        Ok(operators)
    }

    /// Inner width of the dense feed-forward. Only the dense family adjusts the configured number.
    fn dense_width(&self, mixture: bool) -> Result<usize, ConfigError> {
        let given =
            if mixture { self.intermediate_size } else { self.block_ff_dim.or(self.intermediate_size) };
        let given = required("intermediate_size", given)?;
        in_range("intermediate_size", given, 1, MAX_FFN)?;
        if mixture || !self.block_auto_adjust_ff_dim.unwrap_or(true) {
            return Ok(given);
        }
        let width = (2.0 * given as f64 / 3.0) as usize;
        let Some(multiplier) = self.block_ffn_dim_multiplier.unwrap_or(Some(1.0)) else {
            return Ok(width);
        };
        if !(multiplier > 0.0 && multiplier <= 64.0) {
            return Err(value("block_ffn_dim_multiplier", multiplier, "a positive number up to 64"));
        }
        let multiple = self.block_multiple_of.unwrap_or(256);
        in_range("block_multiple_of", multiple, 1, MAX_FFN)?;
        Ok(((multiplier * width as f64) as usize).next_multiple_of(multiple))
    }

    /// Base of the rotary frequencies.
    fn theta(&self) -> Result<f64, ConfigError> {
        if let Some(theta) = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta) {
            return Ok(theta);
        }
        match (self.rope_theta, self.theta) {
            (Some(new), Some(old)) if new != old => {
                Err(value("theta", old, format!("the same as rope_theta ({new})")))
            }
            (new, old) => Ok(new.or(old).unwrap_or(1e6)),
        }
    }
}
