//! Reading of `config.json`: both generations of keys, and everything that must be refused.

mod common;

use common::fixture;
use lfm_model::{Config, FeedForwardKind, OperatorKind, TensorKind};
use serde_json::{Value, json};

fn dense() -> Value {
    json!({
        "model_type": "lfm2", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 200,
        "block_auto_adjust_ff_dim": true, "block_ffn_dim_multiplier": 1.0, "block_multiple_of": 32,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "conv_L_cache": 3,
        "layer_types": ["conv", "full_attention", "conv"], "eos_token_id": 7,
    })
}

fn mixture() -> Value {
    json!({
        "model_type": "lfm2_moe", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 200,
        "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2, "num_dense_layers": 1,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention", "conv"],
    })
}

/// `base` with some keys set; `Value::Null` removes nothing, it stays as `null`.
fn with(mut base: Value, keys: Value) -> String {
    let object = base.as_object_mut().unwrap();
    object.extend(keys.as_object().unwrap().clone());
    base.to_string()
}

fn read(base: Value, keys: Value) -> Config {
    Config::from_json(&with(base, keys)).unwrap()
}

fn refused(base: Value, keys: Value) -> String {
    Config::from_json(&with(base, keys)).unwrap_err().to_string()
}

#[test]
fn published_shapes() {
    let graphs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../graphs/configs");
    let read = |name: &str| Config::from_file(&graphs.join(name)).unwrap();
    let parameters = |config: &Config| config.tensors().iter().map(|spec| spec.elements()).sum::<usize>();

    let config = read("lfm2-8b-a1b.json");
    assert_eq!(config.operator_count(OperatorKind::Conv), 18);
    assert_eq!(config.operator_count(OperatorKind::Attention), 6);
    assert_eq!(config.feed_forward_count(FeedForwardKind::Dense), 2);
    assert_eq!(config.feed_forward_count(FeedForwardKind::Moe), 22);
    assert_eq!(config.head_dim, 64);
    // The selection biases are not counted among the published parameters.
    assert_eq!(parameters(&config), 8_339_929_856 + 22 * 32);

    let config = read("lfm2-350m.json");
    assert_eq!((config.intermediate_size, config.moe.is_none()), (4608, true));
    assert_eq!(config.operators[2], OperatorKind::Attention);
    assert_eq!(config.operator_count(OperatorKind::Attention), 6);
    assert_eq!(read("lfm2-1.2b.json").intermediate_size, 8192);
    assert_eq!(read("lfm2.5-8b-a1b.json").vocab_size, 128_000);

    let config = read("lfm2-24b-a2b.json");
    assert_eq!((config.layers(), config.moe.as_ref().unwrap().experts), (40, 64));
}

#[test]
fn legacy_keys_mean_the_same() {
    let read = |name| Config::from_file(&fixture(name)).unwrap();
    assert_eq!(read("tiny-dense-legacy"), read("tiny-dense"));
    assert_eq!(read("tiny-moe-sharded"), read("tiny-moe"));
}

#[test]
fn precedence_of_keys() {
    let rope = json!({"rope_parameters": {"rope_theta": 5e6, "rope_type": "default"}, "rope_theta": 1e4});
    assert_eq!(read(dense(), rope).rope_theta, 5e6);
    assert_eq!(read(dense(), json!({"rope_theta": 10000})).rope_theta, 1e4);
    assert_eq!(read(dense(), json!({})).rope_theta, 1e6);
    assert!(!read(dense(), json!({"tie_embedding": false, "tie_word_embeddings": true})).tie_embedding);
    assert!(!read(dense(), json!({"tie_word_embeddings": false})).tie_embedding);
    assert!(read(dense(), json!({})).tie_embedding);
    assert_eq!(read(dense(), json!({"head_dim": 24})).head_dim, 24);
    assert_eq!(read(dense(), json!({"head_dim": null})).head_dim, 16);
    assert_eq!(read(dense(), json!({"eos_token_id": [7, 2]})).eos_token_ids, [7, 2]);
    assert_eq!(read(dense(), json!({"eos_token_id": null})).eos_token_ids, [0; 0]);
    let types = json!({"layer_types": null, "full_attn_idxs": [0, 2]});
    let (conv, attention) = (OperatorKind::Conv, OperatorKind::Attention);
    assert_eq!(read(dense(), types).operators, [attention, conv, attention]);
    assert_eq!(read(dense(), json!({"layer_types": null})).operators, [attention; 3]);
    assert_eq!(read(dense(), json!({"full_attn_idxs": [0]})).operators, [conv, attention, conv]);
}

#[test]
fn dense_width() {
    let width = |keys| read(dense(), keys).intermediate_size;
    assert_eq!(width(json!({})), 160);
    assert_eq!(width(json!({"block_ff_dim": 300})), 224);
    assert_eq!(width(json!({"block_auto_adjust_ff_dim": false})), 200);
    assert_eq!(width(json!({"block_ffn_dim_multiplier": 0.5})), 96);
    assert_eq!(width(json!({"block_ffn_dim_multiplier": null})), 133);
    // The mixture family takes its width as it stands.
    assert_eq!(read(mixture(), json!({"block_ff_dim": 300})).intermediate_size, 200);
}

#[test]
fn tensors_of_a_mixture() {
    let config = read(mixture(), json!({"conv_bias": true, "tie_word_embeddings": false}));
    let tensors = config.tensors();
    let shape = |name: &str| tensors.iter().find(|spec| spec.name == name).map(|spec| spec.shape.clone());
    assert_eq!(shape("model.layers.0.conv.in_proj.weight").unwrap(), [192, 64]);
    assert_eq!(shape("model.layers.0.conv.in_proj.bias").unwrap(), [192]);
    assert_eq!(shape("model.layers.0.conv.conv.weight").unwrap(), [64, 1, 3]);
    assert_eq!(shape("model.layers.0.feed_forward.w2.weight").unwrap(), [64, 200]);
    assert_eq!(shape("model.layers.1.self_attn.k_proj.weight").unwrap(), [32, 64]);
    assert_eq!(shape("model.layers.1.feed_forward.experts.gate").unwrap(), [8, 32, 64]);
    assert_eq!(shape("model.layers.1.feed_forward.experts.down").unwrap(), [8, 64, 32]);
    assert_eq!(shape("model.layers.1.feed_forward.expert_bias").unwrap(), [8]);
    assert_eq!(shape("lm_head.weight").unwrap(), [100, 64]);
    assert_eq!(tensors.iter().filter(|spec| spec.kind == TensorKind::Experts).count(), 6);
    let unbiased = read(mixture(), json!({"use_expert_bias": false}));
    assert!(unbiased.tensors().iter().all(|spec| spec.kind != TensorKind::ExpertBias));
}

#[test]
fn refusals() {
    let cases = [
        (json!({"model_type": "llama"}), "model_type is llama, expected lfm2 or lfm2_moe"),
        (json!({"model_type": null}), "`model_type` is missing"),
        (json!({"vocab_size": null}), "`vocab_size` is missing"),
        (json!({"vocab_size": 0}), "vocab_size is 0"),
        (json!({"vocab_size": 99999999999u64}), "vocab_size is 99999999999"),
        (json!({"vocab_size": -1}), "invalid value"),
        (json!({"vocab_size": "100"}), "invalid type"),
        (json!({"hidden_size": 0, "head_dim": 16}), "hidden_size is 0"),
        (json!({"hidden_size": 66}), "a multiple of num_attention_heads (4)"),
        (json!({"hidden_size": u64::MAX, "head_dim": 16}), "hidden_size is 18446744073709551615"),
        (json!({"num_attention_heads": 0}), "num_attention_heads is 0"),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads is 0"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads is 3, expected a divisor"),
        (json!({"num_key_value_heads": 8}), "num_key_value_heads is 8"),
        (json!({"head_dim": 15}), "head_dim is 15, expected an even number"),
        (json!({"head_dim": 1u64 << 40}), "head_dim is"),
        (json!({"num_hidden_layers": 4}), "layer_types is a list of 3, expected one for each of the 4"),
        (json!({"num_hidden_layers": 0, "layer_types": []}), "num_hidden_layers is 0"),
        (json!({"num_hidden_layers": u64::MAX, "layer_types": null}), "num_hidden_layers is"),
        (json!({"layer_types": ["conv", "conv", "sliding_attention"]}), "`sliding_attention`"),
        (json!({"layer_types": null, "full_attn_idxs": [3]}), "full_attn_idxs is 3"),
        (json!({"conv_L_cache": 0}), "conv_L_cache is 0"),
        (json!({"conv_L_cache": 100000}), "conv_L_cache is 100000"),
        (json!({"intermediate_size": null}), "`intermediate_size` is missing"),
        (json!({"intermediate_size": 0}), "intermediate_size is 0"),
        (json!({"intermediate_size": 1, "block_ffn_dim_multiplier": null}), "intermediate_size is 0"),
        (json!({"block_multiple_of": 0}), "block_multiple_of is 0"),
        (json!({"block_ffn_dim_multiplier": -1.0}), "block_ffn_dim_multiplier is -1"),
        (json!({"norm_eps": 0.0}), "norm_eps is 0"),
        (json!({"rope_theta": -1.0}), "rope_theta is -1"),
        (json!({"rope_theta": 1e4, "theta": 1e5}), "theta is 100000"),
        (json!({"rope_parameters": {"rope_type": "yarn"}}), "rope_type is yarn"),
        (json!({"rope_scaling": {"type": "linear", "factor": 2.0}}), "rope_type is linear"),
        (json!({"rope_parameters": {"partial_rotary_factor": 0.5}}), "partial_rotary_factor is 0.5"),
        (json!({"block_use_swiglu": false}), "block_use_swiglu is false"),
        (json!({"hidden_act": "gelu"}), "hidden_act is gelu"),
        (json!({"quantization_config": {}}), "quantization_config is present"),
        (json!({"eos_token_id": 100}), "eos_token_id is 100, expected a token below vocab_size (100)"),
        (json!({"max_position_embeddings": 0}), "max_position_embeddings is 0"),
    ];
    for (keys, expected) in cases {
        let message = refused(dense(), keys.clone());
        assert!(message.contains(expected), "{keys}: {message}");
    }
    let cases = [
        (json!({"num_experts": 0}), "num_experts is 0"),
        (json!({"num_experts": 100000}), "num_experts is 100000"),
        (json!({"num_experts_per_tok": 9}), "num_experts_per_tok is 9, expected 1 to 8"),
        (json!({"num_experts_per_tok": 0}), "num_experts_per_tok is 0"),
        (json!({"num_dense_layers": 4}), "num_dense_layers is 4"),
        (json!({"moe_intermediate_size": null}), "`moe_intermediate_size` is missing"),
        (json!({"routed_scaling_factor": 0.0}), "routed_scaling_factor is 0"),
    ];
    for (keys, expected) in cases {
        let message = refused(mixture(), keys.clone());
        assert!(message.contains(expected), "{keys}: {message}");
    }
    assert!(Config::from_json("").is_err());
    assert!(Config::from_json("[]").is_err());
    assert!(Config::from_json(&"[".repeat(100_000)).is_err());
    let twice = r#"{"model_type": "lfm2", "vocab_size": 1, "vocab_size": 2}"#;
    assert!(Config::from_json(twice).unwrap_err().to_string().contains("duplicate field"));
}

#[test]
fn rotary_frequencies() {
    let frequencies = read(dense(), json!({"head_dim": 4, "rope_theta": 10000.0})).inv_freq();
    assert_eq!(frequencies, [1.0, 0.01]);
}
