//! Seeded parameters, runs of the interpreter, and comparison, for all tests of this crate.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod gguf;

use std::path::PathBuf;

use lfm_export::passes::{Pass, run};
use lfm_graphs::graph::Weight;
use lfm_graphs::interp::{Interp, States, Tensor};
use lfm_graphs::testing::Rng;
use lfm_graphs::{Graph, Op};
use lfm_model::Config;

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A fixture's configuration.
pub fn fixture_config(name: &str) -> Config {
    Config::from_file(&repository(&format!("tests/fixtures/{name}/config.json"))).unwrap()
}

/// A small MoE configuration with some keys replaced: `"conv_bias": true, ..`.
pub fn tiny_config(changes: &str) -> Config {
    let mut keys: serde_json::Map<String, serde_json::Value> = serde_json::from_str(
        r#"{"model_type": "lfm2_moe", "vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "conv_L_cache": 3, "conv_bias": false,
            "layer_types": ["conv", "full_attention", "conv"], "intermediate_size": 12, "num_dense_layers": 1,
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "use_expert_bias": true,
            "norm_topk_prob": true, "routed_scaling_factor": 1.0, "norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": true, "max_position_embeddings": 128}"#,
    )
    .unwrap();
    let changes: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&format!("{{{changes}}}")).unwrap();
    keys.extend(changes);
    Config::from_json(&serde_json::to_string(&keys).unwrap()).unwrap()
}

/// The content of a weight: seeded by its parameter, so that graphs that hold the parameter in other shapes or
/// turned hold the same numbers.
pub fn seeded_weight(weight: &Weight) -> Tensor {
    let seed = weight.param.bytes().fold(7, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let mut rng = Rng::new(seed);
    let shape = weight.ty.at(0, 0);
    let scale = if shape.len() > 1 { 0.4 } else { 0.2 };
    let shift = if weight.param.contains("norm") { 1.0 } else { 0.0 };
    let elements = shape.iter().product();
    let data: Vec<f32> = (0..elements).map(|_| rng.unit() * scale + shift).collect();
    held(weight, data)
}

/// The tensor of a weight from the elements of its parameter in the module's order.
pub fn held(weight: &Weight, data: Vec<f32>) -> Tensor {
    let shape = weight.ty.at(0, 0);
    if !weight.transposed {
        return Tensor::f32(shape, data);
    }
    let [rows, columns] = shape[..] else { panic!("{} is transposed but no matrix", weight.name) };
    let turned = (0..rows * columns).map(|i| data[(i % columns) * rows + i / columns]).collect();
    Tensor::f32(shape, turned)
}

/// Runs calls of these lengths one after another on seeded weights; the outputs of each and the states at the end.
pub fn run_calls(graph: &Graph, calls: &[usize]) -> (Vec<Vec<Tensor>>, States) {
    let weight = |name: &str| graph.weight_named(name).map(|id| seeded_weight(&graph.weights()[id]));
    let interp = Interp::new(graph, &weight).unwrap();
    let mut states = States::new(graph);
    let table = graph.nodes().values().find(|node| matches!(node.op, Op::Select)).map(|node| node.args[0]);
    let vocab = table.and_then(|table| graph.ty(table)).map_or(8, |ty| ty.at(0, 0)[0]);
    let mut rng = Rng::new(11);
    let outputs = calls
        .iter()
        .map(|seq| {
            let tokens: Vec<i32> = (0..*seq).map(|_| rng.below(vocab as u32) as i32).collect();
            interp.run_tokens(&tokens, &mut states).unwrap()
        })
        .collect();
    (outputs, states)
}

/// The largest difference of two tensors, of which `b` may hold the last row of `a` only.
pub fn difference(a: &Tensor, b: &Tensor) -> f32 {
    let (a, b) = (a.as_f32().unwrap(), b.as_f32().unwrap());
    assert!(a.len() >= b.len() && !b.is_empty(), "{} and {} elements", a.len(), b.len());
    let last = &a[a.len() - b.len()..];
    last.iter().zip(b).map(|(x, y)| distance(*x, *y)).fold(0.0, f32::max)
}

/// The distance of two numbers; none if both are no numbers, infinite if one is.
pub fn distance(x: f32, y: f32) -> f32 {
    match (x.is_nan(), y.is_nan()) {
        (true, true) => 0.0,
        (false, false) => (x - y).abs(),
        _ => f32::INFINITY,
    }
}

/// Fails when two graphs give other outputs or states on seeded weights, over a prompt, a token and a chunk.
pub fn assert_same(before: &Graph, after: &Graph, tolerance: f32, what: &str) {
    let calls = [5, 1, 3];
    let ((a, a_states), (b, b_states)) = (run_calls(before, &calls), run_calls(after, &calls));
    for (call, (a, b)) in a.iter().zip(&b).enumerate() {
        assert_eq!(a.len(), b.len(), "{what}: outputs");
        for (a, b) in a.iter().zip(b) {
            let found = difference(a, b);
            assert!(found <= tolerance, "{what}: outputs of call {call} differ by {found}");
        }
    }
    for state in before.states().values() {
        let (a, b) = (a_states.get(&state.name).unwrap(), b_states.get(&state.name).unwrap());
        assert_eq!(a.shape, b.shape, "{what}: state {}", state.name);
        if !a.data.is_empty() {
            let found = difference(a, b);
            assert!(found <= tolerance, "{what}: state {} differs by {found}", state.name);
        }
    }
}

/// Runs a pass and checks what holds for all: the result is sound, computes the same, and is not changed by a
/// second run. Gives a text of both graphs with the misses, for a snapshot, and the graph.
pub fn check_pass(pass: &dyn Pass, before: &Graph, tolerance: f32) -> (String, Graph) {
    assert_eq!(lfm_graphs::verify(before), [], "the graph before {}", pass.name());
    let outcome = run(pass, before).unwrap();
    let again = run(pass, &outcome.graph).unwrap();
    assert_eq!(again.fired, 0, "{} fires again on its own result", pass.name());
    assert_eq!(again.graph.text(), outcome.graph.text(), "{} changes its own result", pass.name());
    assert_same(before, &outcome.graph, tolerance, pass.name());
    let misses: Vec<String> = outcome.misses.iter().map(ToString::to_string).collect();
    let text = format!(
        "before\n{}\nafter {} fired {} times; misses: {misses:?}\n{}",
        nodes(before),
        pass.name(),
        outcome.fired,
        nodes(&outcome.graph),
    );
    (text, outcome.graph)
}

/// The canonical text without its first lines, up to the weights.
fn nodes(graph: &Graph) -> String {
    let text = graph.text();
    let from = text.find("    consts: [").unwrap_or(0);
    text[from..].to_owned()
}
