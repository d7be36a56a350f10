//! Plans of small models: their text, their proof, and what is found when they are tampered with.

mod budget;
mod lives;
mod mutations;
mod paging;
mod random;

use super::*;
use crate::graph::Value;
use crate::testing::{Rng, Tiny, tiny_graph};
use crate::{DType, Graph, Op};

/// A graph whose matrices, but for kernels of convolutions and routers, are stored in a format each.
fn stored(tiny: &Tiny, embedding: Format, matrices: Format, experts: Format) -> Graph {
    tiny_graph(tiny).with_storage(|graph, id| {
        let weight = &graph.weights()[id];
        match (weight.name.as_str(), weight.ty.rank()) {
            ("embed_tokens", _) => embedding,
            (name, 2) if name.ends_with("conv.conv") || name.ends_with("ffn.gate") => Format::F32,
            (_, 2) => matrices,
            (_, 3) => experts,
            _ => Format::F32,
        }
    })
}

/// Two convolution layers and an attention layer, the first dense, the others with experts, in the usual formats.
fn tiny() -> Graph {
    stored(&Tiny { kv: DType::F16, ..Tiny::moe() }, Format::Q6K, Format::Q4_0, Format::Q4_0)
}

/// A graph of any dimensions, its matrices in any formats.
fn random(seed: u64) -> Graph {
    let mut rng = Rng::new(seed);
    let (experts, gate_up) = (*rng.pick(&Format::ALL), *rng.pick(&Format::ALL));
    tiny_graph(&Tiny::random(seed)).with_storage(|graph, id| {
        let weight = &graph.weights()[id];
        match weight.ty.rank() {
            2 if weight.name.ends_with("ffn.w1") || weight.name.ends_with("ffn.w3") => gate_up,
            2 if !weight.name.ends_with("conv.conv") => *rng.pick(&Format::ALL),
            3 => experts,
            _ => Format::F32,
        }
    })
}

fn limits(chunk: u32, context: u32) -> Limits {
    Limits { chunk, context, overhead: 1 << 20, ram: None }
}

#[test]
fn the_tiny_plan() {
    let graph = tiny();
    let plan = plan(&graph, limits(32, 256)).unwrap();
    assert_eq!(verify_plan(&graph, &plan), []);
    let text = plan.text();
    assert_eq!(Plan::parse(&text).unwrap(), plan);
    insta::assert_snapshot!(text);
}

#[test]
fn the_same_plan_again() {
    let graph = tiny();
    let again = Graph::parse(&graph.text()).unwrap();
    assert_eq!(plan(&graph, limits(32, 256)).unwrap().text(), plan(&again, limits(32, 256)).unwrap().text());
}

#[test]
fn text_errors_have_a_place() {
    let graph = stored(&Tiny { layers: vec![], ..Tiny::moe() }, Format::Q6K, Format::Q4_0, Format::Q4_0);
    let text = plan(&graph, limits(4, 8)).unwrap().text();
    for (from, to, message) in [
        (
            "format: 1",
            "format: 2",
            "plan text, line 1, column 1: the text has format 2, this version reads format 1",
        ),
        ("chunk:", "chunks:", "plan text, line 3, column 5: "),
        ("kind: Panels", "kind: Pixels", "plan text, line 17, column "),
        ("stride: 128", "stride: -128", "plan text, line 9, column "),
    ] {
        assert!(text.contains(from), "{from} in\n{text}");
        let error = Plan::parse(&text.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error} for {to}");
    }
    let long = " ".repeat(MAX_TEXT + 1);
    assert!(Plan::parse(&long).unwrap_err().message.contains("at most 33554432 are read"));
}

#[test]
fn a_chunk_is_cut_to_the_context() {
    let graph = tiny();
    let plan = plan(&graph, limits(512, 8)).unwrap();
    assert_eq!((plan.chunk, plan.context, plan.head_rows), (8, 8, 8));
    assert_eq!(verify_plan(&graph, &plan), []);
}
