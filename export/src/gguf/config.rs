//! Metadata to configuration, by way of the keys of a `config.json`, whose checks are those of the model.

use lfm_model::Config;
use serde_json::{Value as Json, json};

use super::error::GgufError;
use super::value::{Array, Metadata, Value, required};

/// `expert_gating_func` of scores by sigmoid.
const SIGMOID: u32 = 2;
/// Base of the rotary frequencies where the metadata gives none.
const DEFAULT_ROPE_BASE: f64 = 10_000.0;

/// What the table of tensors says about the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Present {
    /// There is a head of its own.
    pub(super) head: bool,
    /// The mixtures have selection biases.
    pub(super) expert_bias: bool,
}

/// The configuration that the metadata means.
pub(super) fn config(metadata: &Metadata<'_>, present: Present) -> Result<Config, GgufError> {
    let arch = required("general.architecture", metadata.string("general.architecture")?)?;
    let mixture = match arch {
        "lfm2" => false,
        "lfm2moe" => true,
        _ => return Err(metadata.wrong("general.architecture", "lfm2 or lfm2moe")),
    };
    let key = |name: &str| format!("{arch}.{name}");
    let size = |name: &str| required(&key(name), metadata.size(&key(name))?);
    let layers = size("block_count")?;
    let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
    let (kv_heads, layer_types) = layer_kinds(metadata, &key("attention.head_count_kv"), layers, heads)?;
    let head_dim = match metadata.size(&key("attention.key_length"))? {
        Some(length) => length,
        None => hidden.checked_div(heads).unwrap_or(0),
    };
    for name in ["attention.value_length", "rope.dimension_count"] {
        if metadata.size(&key(name))?.is_some_and(|n| n != head_dim) {
            return Err(metadata.wrong(&key(name), format!("the width of a head, {head_dim}")));
        }
    }
    let scaling = key("rope.scaling.type");
    if metadata.string(&scaling)?.is_some_and(|kind| kind != "none") {
        return Err(metadata.wrong(&scaling, "none"));
    }
    let width = |name: &str| required(&key(name), metadata.one_size(&key(name))?);
    let eps = key("attention.layer_norm_rms_epsilon");
    let mut config = json!({
        "model_type": if mixture { "lfm2_moe" } else { "lfm2" },
        "vocab_size": vocabulary(metadata, &key("vocab_size"))?,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "layer_types": layer_types,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "conv_L_cache": size("shortconv.l_cache")?,
        "conv_bias": false,
        "intermediate_size": width("feed_forward_length")?,
        "block_auto_adjust_ff_dim": false,
        "norm_eps": required(&eps, metadata.number(&eps)?)?,
        "rope_theta": metadata.number(&key("rope.freq_base"))?.unwrap_or(DEFAULT_ROPE_BASE),
        "tie_word_embeddings": !present.head,
        "max_position_embeddings": size("context_length")?,
        "bos_token_id": metadata.size("tokenizer.ggml.bos_token_id")?,
        "eos_token_id": ends(metadata)?,
        "pad_token_id": metadata.size("tokenizer.ggml.padding_token_id")?,
    });
    if let (true, Json::Object(keys)) = (mixture, &mut config) {
        let gating = key("expert_gating_func");
        if size("expert_gating_func")? != SIGMOID {
            return Err(metadata.wrong(&gating, "2, the sigmoid"));
        }
        let norm = key("expert_weights_norm");
        if metadata.flag(&norm)? == Some(false) {
            return Err(metadata.wrong(&norm, "true"));
        }
        let scale = key("expert_weights_scale");
        // Zero is how writers say that there is none.
        if metadata.number(&scale)?.is_some_and(|x| x != 0.0 && x != 1.0) {
            return Err(metadata.wrong(&scale, "1"));
        }
        let dense = metadata.size(&key("leading_dense_block_count"))?.unwrap_or(0);
        keys.extend([
            ("num_dense_layers".to_owned(), json!(dense)),
            ("num_experts".to_owned(), json!(size("expert_count")?)),
            ("num_experts_per_tok".to_owned(), json!(size("expert_used_count")?)),
            ("moe_intermediate_size".to_owned(), json!(width("expert_feed_forward_length")?)),
            ("use_expert_bias".to_owned(), json!(present.expert_bias)),
            ("norm_topk_prob".to_owned(), json!(true)),
            ("routed_scaling_factor".to_owned(), json!(1.0)),
        ]);
    }
    Ok(Config::from_json(&config.to_string())?)
}

/// Number of key-value heads, and the kind of every layer: those without such heads are convolutions.
fn layer_kinds(
    metadata: &Metadata<'_>,
    key: &str,
    layers: u32,
    heads: u32,
) -> Result<(i64, Vec<&'static str>), GgufError> {
    let (attention, conv) = ("full_attention", "conv");
    if let Some(Value::Array(Array::Integers(list))) = metadata.0.get(key) {
        let mut counts = list.iter().copied().filter(|n| *n != 0);
        // Without attention no layer has such heads, and any number of them will do.
        let count = counts.next().unwrap_or(i64::from(heads));
        if list.len() as u64 != u64::from(layers) || count < 0 || counts.any(|n| n != count) {
            let expected = format!("for each of {layers} layers zero or one and the same number");
            return Err(metadata.wrong(key, expected));
        }
        return Ok((count, list.iter().map(|n| if *n == 0 { conv } else { attention }).collect()));
    }
    Err(match metadata.0.get(key) {
        None => GgufError::MissingKey(key.to_owned()),
        Some(_) => metadata.wrong(key, "an array with a number for each layer, zero for convolutions"),
    })
}

/// Rows of the embedding.
fn vocabulary(metadata: &Metadata<'_>, key: &str) -> Result<u64, GgufError> {
    if let Some(size) = metadata.size(key)? {
        return Ok(size.into());
    }
    let tokens = metadata.strings("tokenizer.ggml.tokens")?;
    Ok(required(key, tokens)?.len() as u64)
}

/// Tokens that end a text.
fn ends(metadata: &Metadata<'_>) -> Result<Vec<u32>, GgufError> {
    let mut ids = Vec::new();
    for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
        ids.extend(metadata.size(key)?.filter(|id| !ids.contains(id)));
    }
    Ok(ids)
}
