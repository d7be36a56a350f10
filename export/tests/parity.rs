//! The graphs, interpreted on a checkpoint's weights, against the golden logits of its reference implementation.

mod common;

use common::{distance, held, repository};
use lfm_export::graph::{Stage, checkpoint_name, graph_from_config};
use lfm_graphs::Graph;
use lfm_graphs::bundle::KvType;
use lfm_graphs::graph::Weight;
use lfm_graphs::interp::{Interp, States, Tensor};
use lfm_model::Checkpoint;
use safetensors::SafeTensors;

/// The content of a weight, from a checkpoint.
fn read(checkpoint: &Checkpoint, weight: &Weight) -> Tensor {
    let name = checkpoint_name(weight);
    let info = checkpoint.tensor(&name).unwrap();
    let data = checkpoint.read_f32(&name).unwrap();
    // The checkpoint's order is the module's, but for matrices that the module holds transposed.
    let in_module_order = !info.kind.transposed_in_module();
    if in_module_order || weight.transposed {
        return Tensor::f32(weight.ty.at(0, 0), data);
    }
    let turned = Weight { transposed: true, ..weight.clone() };
    held(&turned, data)
}

fn logits(graph: &Graph, checkpoint: &Checkpoint, chunks: &[&[i32]]) -> Vec<f32> {
    let weight = |name: &str| graph.weight_named(name).map(|id| read(checkpoint, &graph.weights()[id]));
    let interp = Interp::new(graph, &weight).unwrap();
    let mut states = States::new(graph);
    let outputs: Vec<Tensor> =
        chunks.iter().map(|tokens| interp.run_tokens(tokens, &mut states).unwrap().remove(0)).collect();
    outputs.last().unwrap().as_f32().unwrap().to_vec()
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap();
    bytes.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn check(fixture: &str) {
    let folder = repository(&format!("tests/fixtures/{fixture}"));
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let golden = std::fs::read(folder.join("golden.safetensors")).unwrap();
    let golden = SafeTensors::deserialize(&golden).unwrap();
    for prompt in ["p0", "p1"] {
        let ids = golden.tensor(&format!("{prompt}.input_ids")).unwrap();
        let ids: Vec<i32> =
            ids.data().chunks_exact(8).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let expected = floats(&golden, &format!("{prompt}.logits"));
        let last = &expected[expected.len() - checkpoint.config().vocab_size..];
        let (first, rest) = ids.split_at(ids.len() / 2);
        for stage in [Stage::Lowered, Stage::Fused] {
            let graph = graph_from_config(checkpoint.config(), stage, KvType::F32).unwrap();
            let whole = logits(&graph, &checkpoint, &[&ids]);
            let expected = if stage == Stage::Lowered { &expected[..] } else { last };
            close(&whole, expected, &format!("{fixture} {prompt} {stage:?}"));
            if !first.is_empty() {
                let split = logits(&graph, &checkpoint, &[first, rest]);
                let tail = &expected[expected.len() - split.len()..];
                close(&split, tail, &format!("{fixture} {prompt} {stage:?} in two calls"));
            }
        }
    }
}

fn close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    assert!(found.iter().all(|x| x.is_finite()), "{what}");
    let worst = found.iter().zip(expected).map(|(a, b)| distance(*a, *b)).fold(0.0, f32::max);
    assert!(worst <= 1e-4, "{what}: logits differ by {worst}");
}

#[test]
fn moe() {
    check("tiny-moe");
}

#[test]
fn dense() {
    check("tiny-dense");
}
