//! The graph language from outside: building, text, verification, rewriting.

use lfm_graphs::graph::Value;
use lfm_graphs::{
    BuildError, Builder, DType, Dim, Graph, Op, Step, TensorType, Update, rewrite, verify, verify_executable,
};

fn ty(text: &str) -> TensorType {
    text.parse().unwrap()
}

/// One convolution layer and a head, by hand.
fn conv_model() -> Graph {
    let mut b = Builder::new("tiny");
    let tokens = b.input("tokens", ty("i32[seq]"));
    let embed = b.weight("embed", ty("f32[32, 8]"), "embed_tokens.weight");
    let window = b.state("l0.conv.window", ty("f32[8, 2]"), Update::Window);
    let w = |b: &mut Builder, name: &str, t: &str| b.weight(name, ty(t), format!("layers.0.{name}"));
    let norm = w(&mut b, "l0.norm", "f32[8]");
    let in_proj = w(&mut b, "l0.conv.in_proj", "f32[24, 8]");
    let kernel = w(&mut b, "l0.conv.kernel", "f32[8, 3]");
    let out_proj = w(&mut b, "l0.conv.out_proj", "f32[8, 8]");
    let x = b.node("embed", Op::Select, &[embed, tokens]).unwrap();
    let n = b.node("l0.norm", Op::RmsNorm { eps: 1e-5 }, &[x, norm]).unwrap();
    let bcx = b.node("l0.conv.in", Op::Linear, &[n, in_proj]).unwrap();
    let gate = b.push("l0.conv.gate", Op::ConvGate { taps: 3 }, &[bcx, kernel, window]).unwrap();
    b.next(window, Value::Node(gate, 1));
    let y = b.node("l0.conv.out", Op::LinearAdd, &[Value::Node(gate, 0), out_proj, x]).unwrap();
    let last = b.node("last", Op::LastRow, &[y]).unwrap();
    let logits = b.node("head", Op::Linear, &[last, embed]).unwrap();
    b.output(logits);
    b.finish()
}

#[test]
fn text_round_trips() {
    let graph = conv_model();
    assert_eq!(verify_executable(&graph), []);
    let text = graph.text();
    let parsed = Graph::parse(&text).unwrap();
    assert_eq!(parsed, graph);
    assert_eq!(parsed.text(), text);
    insta::assert_snapshot!(text);
}

#[test]
fn text_errors_have_a_place() {
    let text = conv_model().text();
    for (from, to) in [
        ("taps: 3", "tapz: 3"),
        ("f32[24, 8]", "f31[24, 8]"),
        ("\"%l0.conv.in_proj\"", "\"%l0.conv.inproj\""),
        ("\"l0.conv.gate:1\"", "\"l0.conv.gate:2\""),
        ("format: 1", "format: 2"),
        ("(name: \"l0.norm\", ty", "(name: \"l0..norm\", ty"),
        ("(name: \"l0.conv.kernel\", ty", "(name: \"l0.norm\", ty"),
    ] {
        assert!(text.contains(from), "{from}");
        let error = Graph::parse(&text.replacen(from, to, 1)).unwrap_err();
        insta::assert_snapshot!(
            format!("parse {to}").replace(['"', '%', ':', '(', ')', '[', ']', ',', ' '], "_"),
            error
        );
    }
}

#[test]
fn wrong_arguments_are_refused_by_name() {
    let mut b = Builder::new("bad");
    let x = b.input("tokens", ty("i32[seq]"));
    let w = b.weight("w", ty("f32[4, 8]"), "w");
    let e = b.node("e", Op::Select, &[w, x]).unwrap();
    let error = b.node("l", Op::Linear, &[e, w, w]).unwrap_err();
    assert_eq!(error.to_string(), "at l: Linear: argument 2 is f32[4, 8], expected f32[4]");
    let error = b.node("l", Op::TopK { k: 9 }, &[e]).unwrap_err();
    assert_eq!(error.to_string(), "at l: TopK: k is 9, expected 1 to 8");
}

#[test]
fn rewriting_drops_what_nothing_reads() {
    let graph = conv_model();
    let without_norm = rewrite::<BuildError>(&graph, |new, id| {
        let node = &new.old().nodes()[id];
        Ok(match node.op {
            Op::RmsNorm { .. } => Step::Replace(vec![new.map(node.args[0])]),
            _ => Step::Keep,
        })
    })
    .unwrap();
    assert_eq!(verify(&without_norm), []);
    assert!(without_norm.weight_named("l0.norm").is_none());
    assert_eq!(without_norm.nodes().len(), graph.nodes().len() - 1);
}

#[test]
fn dims_and_types() {
    assert_eq!(ty("f16[2, past+seq, 16]").at(3, 4), [2, 7, 16]);
    assert_eq!(ty("f16[2, past+seq, 16]").bytes(3, 4), Some(2 * 7 * 16 * 2));
    assert_eq!(TensorType::new(DType::I32, [Dim::SEQ]).to_string(), "i32[seq]");
    assert!("f32[1, 1, 1, 1, 1, 1, 1]".parse::<TensorType>().is_err());
}
