//! Every kind of configuration is compiled, and computes the same at every stage.

mod common;

use common::{assert_same, fixture_config, repository, tiny_config};
use lfm_export::capture::capture;
use lfm_export::capture::lfm2::Lfm2Trace;
use lfm_export::graph::{Stage, compile, graph_from_config};
use lfm_export::lower::lower;
use lfm_export::passes::{Options, PIPELINE, PassError, optimize, run};
use lfm_graphs::bundle::KvType;
use lfm_graphs::{verify, verify_executable};
use lfm_model::Config;

const VARIANTS: &[&str] = &[
    "",
    "\"conv_L_cache\": 1",
    "\"conv_L_cache\": 2",
    "\"conv_L_cache\": 7, \"conv_bias\": true",
    "\"conv_L_cache\": 1, \"conv_bias\": true",
    "\"head_dim\": 8",
    "\"head_dim\": 2",
    "\"tie_word_embeddings\": false",
    "\"use_expert_bias\": false",
    "\"norm_topk_prob\": false",
    "\"routed_scaling_factor\": 2.5",
    "\"norm_topk_prob\": false, \"use_expert_bias\": false, \"routed_scaling_factor\": 0.5",
    "\"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\"]",
    "\"layer_types\": [\"conv\", \"conv\", \"conv\"]",
    "\"num_key_value_heads\": 4",
    "\"num_key_value_heads\": 1",
    "\"num_attention_heads\": 1, \"num_key_value_heads\": 1",
    "\"num_experts_per_tok\": 4",
    "\"num_experts_per_tok\": 1",
    "\"num_experts\": 1, \"num_experts_per_tok\": 1",
    "\"num_dense_layers\": 0",
    "\"num_dense_layers\": 3",
    "\"model_type\": \"lfm2\"",
    "\"hidden_size\": 1, \"num_attention_heads\": 1, \"num_key_value_heads\": 1, \"head_dim\": 4",
    "\"intermediate_size\": 1, \"moe_intermediate_size\": 1",
];

#[test]
fn every_pass_keeps_what_is_computed() {
    for variant in VARIANTS {
        let config = tiny_config(variant);
        let mut graph = lower(&capture(&Lfm2Trace(&config)).unwrap()).unwrap();
        for pass in PIPELINE {
            let outcome = run(*pass, &graph).unwrap();
            let what = format!("{variant}: {}", pass.name());
            if outcome.fired > 0 {
                assert_same(&graph, &outcome.graph, 1e-5, &what);
            }
            let again = run(*pass, &outcome.graph).unwrap();
            assert_eq!((again.fired, again.graph.text()), (0, outcome.graph.text()), "{what}: a second run");
            graph = outcome.graph;
        }
        assert_eq!(verify_executable(&graph), [], "{variant}");
    }
}

#[test]
fn every_variant_compiles_with_its_fusions() {
    for variant in VARIANTS {
        let stages = compile(&tiny_config(variant), KvType::F16).unwrap();
        assert_eq!(verify(&stages.lowered), [], "{variant}");
        assert_same(&stages.lowered, &stages.fused, 0.05, variant);
    }
    for name in ["tiny-moe", "tiny-dense", "tiny-dense-legacy", "tiny-moe-fused"] {
        compile(&fixture_config(name), KvType::F32).unwrap();
    }
}

#[test]
fn compiling_twice_gives_the_same_text() {
    let config = fixture_config("tiny-moe");
    let text = || graph_from_config(&config, Stage::Fused, KvType::F16).unwrap().text();
    assert_eq!(text(), text());
    let captured = || lfm_export::graph::captured_text(&config).unwrap();
    assert_eq!(captured(), captured());
}

#[test]
fn the_driver_stops_and_dumps() {
    let lowered = graph_from_config(&tiny_config(""), Stage::Lowered, KvType::F32).unwrap();
    let options = Options {
        stop_after: Some("fuse-linear".to_owned()),
        dump_after: Some("drop-batch".to_owned()),
        kv: None,
    };
    let done = optimize(&lowered, &options).unwrap();
    assert_eq!(done.steps.last().map(|step| step.pass), Some("fuse-linear"));
    assert!(done.dump.is_some_and(|text| text.contains("matmul") && !text.contains("op: Linear")));
    let options = Options { stop_after: Some("fuse-all".to_owned()), ..Options::default() };
    let error = optimize(&lowered, &options).unwrap_err();
    assert!(matches!(error, PassError::Unknown { .. }), "{error}");
}

#[test]
fn the_largest_model_has_its_fusions() {
    let config = Config::from_file(&repository("graphs/configs/lfm2-8b-a1b.json")).unwrap();
    let fused = compile(&config, KvType::F16).unwrap().fused;
    let count = |op: &str| fused.histogram().get(op).copied();
    assert_eq!((count("ConvGate"), count("Attention"), count("Moe")), (Some(18), Some(6), Some(22)));
    assert_eq!(
        fused.parameters(),
        config.tensors().iter().map(|tensor| tensor.elements() as u64).sum::<u64>()
    );
    assert_eq!(fused.parameters() / 1_000_000, 8_339);
}
