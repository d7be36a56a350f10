//! `lfmc compare` on the fixtures: sound bundles are within tolerance at every node, a damaged one is reported where
//! it is damaged.

use std::path::PathBuf;

use lfm_export::bundle::Source;
use lfm_export::compare::{Comparison, Reference, Tolerance, compare, default_tokens};
use lfm_graphs::bundle::{Bundle as Sections, BundleWriter, Kind};
use lfm_graphs::{Graph, Op};
use lfm_runtime::{Model, Options};
use lfm_tests::{Bundle, FIXTURES, fixture};

/// Compares a bundle of a fixture with its checkpoint, or with its own weights.
fn compared(model: &Model, name: &str, stored: bool) -> Comparison {
    let source = Source::folder(&fixture(name)).unwrap();
    let device = lfm_model::cpu();
    let weights = (!stored).then_some(&source);
    let reference = Reference { config: source.config(), weights, device: &device };
    let tokens = default_tokens(source.config(), model);
    compare(model, &Options::default(), &reference, &tokens, Tolerance::of(model, stored))
        .unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Names of nodes with values of their own.
fn computed(graph: &Graph) -> Vec<String> {
    let nodes = graph.nodes().values().filter(|node| !matches!(node.op, Op::Reshape { .. }));
    let results = |node: &Op| if matches!(node, Op::RopeTable) { 2 } else { 1 };
    nodes.flat_map(|node| vec![node.name.clone(); results(&node.op)]).collect()
}

#[test]
fn every_node_of_every_fixture() {
    for name in FIXTURES {
        let bundle = Bundle::export(&fixture(name), "f32");
        let model = bundle.open();
        let comparison = compared(&model, name, false);
        assert_eq!(comparison.first_outside(), None, "{name}");
        assert!(comparison.without_reference.is_empty(), "{name}: {:?}", comparison.without_reference);
        let nodes: Vec<String> = comparison.nodes.iter().map(|node| node.node.clone()).collect();
        assert_eq!(nodes, computed(model.graph()), "{name}");
        for node in &comparison.nodes {
            assert_eq!(node.rows, comparison.tokens.len(), "{name} {}", node.node);
            assert!(node.nmse < comparison.tolerance.nmse / 10.0, "{name}: {node:?}");
        }
    }
}

/// Node by node on a GPU, all layers there and some.
#[cfg(feature = "wgpu")]
#[test]
fn bundles_on_a_gpu() {
    use lfm_runtime::Backend;

    let device = lfm_model::cpu();
    for (name, layers) in
        [("tiny-moe", None), ("tiny-dense", None), ("odd-moe", Some(1)), ("odd-dense", Some(2))]
    {
        let source = Source::folder(&fixture(name)).unwrap();
        for (recipe, stored) in [("f32", false), ("f16", true), ("q8_0", true), ("q4_0", true)] {
            let model = Bundle::export(&fixture(name), recipe).open();
            let reference =
                Reference { config: source.config(), weights: (!stored).then_some(&source), device: &device };
            let options = Options { backend: Backend::Wgpu { adapter: None, layers }, ..Options::default() };
            let tokens = default_tokens(source.config(), &model);
            let compared = compare(&model, &options, &reference, &tokens, Tolerance::of(&model, stored))
                .unwrap_or_else(|e| panic!("{name} {recipe}: {e}"));
            assert!(compared.device.is_some(), "{name} {recipe} ran on the CPU");
            assert_eq!(compared.first_outside(), None, "{name} {recipe}");
            assert_eq!(compared.nodes.len(), computed(model.graph()).len(), "{name} {recipe}");
        }
    }
}

#[test]
fn quantised_bundles() {
    for name in ["tiny-moe", "tiny-dense", "odd-dense", "odd-moe", "all-conv", "all-attention"] {
        for recipe in ["f16", "q8_0", "q6_k", "q4_0"] {
            let model = Bundle::export(&fixture(name), recipe).open();
            for stored in [false, true] {
                let comparison = compared(&model, name, stored);
                assert_eq!(comparison.first_outside(), None, "{name} {recipe}, stored weights: {stored}");
                assert!(
                    comparison.nodes.iter().any(|node| node.nmse > 0.0),
                    "{name} {recipe}: nothing is rounded"
                );
            }
        }
    }
}

/// A copy of the bundle with another number at the start of a weight, and the right hashes.
fn damaged(bundle: &Bundle, weight: &str, row: u64) -> PathBuf {
    let model = bundle.open();
    let slot = model.plan().weights.iter().find(|slot| slot.name == weight).unwrap();
    let file = std::fs::read(&bundle.path).unwrap();
    let sections = Sections::parse(&file).unwrap();
    let path = bundle.folder.path().join("damaged.lfmb");
    let mut writer = BundleWriter::create(&path).unwrap();
    for section in sections.sections().iter().filter(|section| section.kind() < Kind::Weights) {
        writer.section(section.kind(), sections.section(section.kind()).unwrap()).unwrap();
    }
    let mut weights = sections.weights().to_vec();
    // Rows of f32 are interleaved by 16.
    let at = (slot.offset + row / 16 * 64 * u64::from(slot.k) + row % 16 * 4) as usize;
    let value = f32::from_le_bytes(weights[at..at + 4].try_into().unwrap());
    weights[at..at + 4].copy_from_slice(&(value + 0.5).to_le_bytes());
    let mut writer = writer.weights_writer(weights.len() as u64).unwrap();
    writer.append(&weights).unwrap();
    writer.seal_without_golden().unwrap().publish().unwrap();
    path
}

#[test]
fn a_damaged_weight_is_reported_at_its_node() {
    let bundle = Bundle::export(&fixture("tiny-moe"), "f32");
    let config = Source::folder(&fixture("tiny-moe")).unwrap().config().clone();
    let tokens = default_tokens(&config, &bundle.open());
    let other = (0u32..).find(|id| !tokens.contains(id)).unwrap();
    let cases = [
        ("embed_tokens", u64::from(tokens[3]), "embed"),
        // The row of a token that is not looked up is read by the head alone.
        ("embed_tokens", u64::from(other), "head"),
        ("l0.operator_norm", 0, "l0.operator_norm"),
        ("l0.conv.in_proj", 17, "l0.conv.in"),
        ("l1.conv.conv", 0, "l1.conv.gate"),
        ("l1.ffn.w3", 3, "l1.ffn.swiglu"),
        ("l1.ffn.w2", 0, "l1.ffn.w2"),
        ("l2.attn.q_proj", 40, "l2.attn.q"),
        ("l2.attn.k_layernorm", 0, "l2.attn.k_norm"),
        ("l2.attn.v_proj", 0, "l2.attn.v"),
        ("l2.attn.out_proj", 0, "l2.attn.out"),
        ("l3.ffn.gate", 2, "l3.ffn.moe"),
        ("l4.ffn.experts.down", 0, "l4.ffn.moe"),
        ("embedding_norm", 0, "embedding_norm"),
    ];
    for (weight, row, node) in cases {
        let model = Model::open(damaged(&bundle, weight, row)).unwrap();
        let comparison = compared(&model, "tiny-moe", false);
        let first = comparison.first_outside().unwrap_or_else(|| panic!("{weight} is not noticed"));
        assert_eq!(first.node, node, "{weight}, row {row}");
        // With the weights that it has, it computes what it should.
        assert_eq!(compared(&model, "tiny-moe", true).first_outside(), None, "{weight}, row {row}");
    }
}

#[test]
fn another_model_is_no_reference() {
    let model = Bundle::export(&fixture("tiny-moe"), "f32").open();
    let source = Source::folder(&fixture("odd-moe")).unwrap();
    let device = lfm_model::cpu();
    let reference = Reference { config: source.config(), weights: Some(&source), device: &device };
    let error = compare(&model, &Options::default(), &reference, &[1, 2], Tolerance::of(&model, false))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("the reference is not the model of the bundle: model.embed_tokens.weight"),
        "{error}"
    );
}
