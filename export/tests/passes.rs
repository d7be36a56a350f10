//! Every pass on a small graph: what it does, as a snapshot; that it computes the same; that a second run does
//! nothing; a near miss with its reason. For fusions the graph before is the fused operation's own expansion, so
//! that fusing is shown to give the operation back.

mod common;

use common::check_pass;
use lfm_export::passes::{
    Cse, Dce, DropBatch, FoldConstants, FoldLayout, FuseAttention, FuseConvGate, FuseLinear, FuseMoe,
    FuseResidual, FuseRmsNorm, FuseRope, FuseSwiGlu, KvDtype, LastRow, Pass,
};
use lfm_graphs::expand::expand_graph;
use lfm_graphs::graph::Value;
use lfm_graphs::{Builder, DType, Dim, Graph, Op, TensorType, Update};

fn ty(text: &str) -> TensorType {
    text.parse().unwrap()
}

/// A graph that starts with an embedding of the tokens.
struct Small {
    b: Builder,
    x: Value,
}

impl Small {
    fn new() -> Small {
        let mut b = Builder::new("small");
        let tokens = b.input("tokens", ty("i32[seq]"));
        let table = b.weight("embed_tokens", ty("f32[12, 8]"), "embed_tokens.weight");
        let x = b.node("embed", Op::Select, &[table, tokens]).unwrap();
        Small { b, x }
    }

    fn weight(&mut self, path: &str, t: &str) -> Value {
        self.b.weight(lfm_export::lower::name::weight_name(path), ty(t), path)
    }

    fn node(&mut self, name: &str, op: Op, args: &[Value]) -> Value {
        self.b.node(name, op, args).unwrap()
    }

    fn output(mut self, value: Value) -> Graph {
        self.b.output(value);
        self.b.finish()
    }
}

fn reshape(dims: &[Dim]) -> Op {
    Op::Reshape { to: dims.to_vec() }
}

fn dim(n: u32) -> Dim {
    Dim::fixed(n)
}

/// Checks a fusion on the expansion of a graph, which it must give back but for names.
fn fuses_back(pass: &dyn Pass, fused: &Graph) -> String {
    let expanded = expand_graph(fused).unwrap();
    let (text, after) = check_pass(pass, &expanded, 1e-5);
    assert_eq!(without_names(&after), without_names(fused), "{} does not undo the expansion", pass.name());
    text
}

fn without_names(graph: &Graph) -> Vec<(String, Vec<TensorType>)> {
    graph.nodes().values().map(|node| (format!("{:?}", node.op), node.out.clone())).collect()
}

#[test]
fn drop_batch() {
    let mut b = Builder::new("small");
    let tokens = b.input("tokens", ty("i32[seq]"));
    let table = b.weight("embed_tokens", ty("f32[12, 8]"), "embed_tokens.weight");
    let norm = b.weight("norm", ty("f32[8]"), "norm.weight");
    let w = b.weight("w", ty("f32[8, 6]"), "w.weight");
    let batch = b.node("tokens.batch", reshape(&[Dim::ONE, Dim::SEQ]), &[tokens]).unwrap();
    let flat = b.node("tokens.flat", reshape(&[Dim::SEQ]), &[batch]).unwrap();
    let rows = b.node("embed", Op::Select, &[table, flat]).unwrap();
    let x = b.node("embed.batch", reshape(&[Dim::ONE, Dim::SEQ, dim(8)]), &[rows]).unwrap();
    let scale = b.node("norm.view", reshape(&[Dim::ONE, Dim::ONE, dim(8)]), &[norm]).unwrap();
    let y = b.node("norm.mul", Op::Mul, &[x, scale]).unwrap();
    let mean = b.node("norm.mean", Op::Mean { axis: 2 }, &[y]).unwrap();
    let y = b.node("norm.sub", Op::Sub, &[y, mean]).unwrap();
    let w = b.node("w.view", reshape(&[Dim::ONE, dim(8), dim(6)]), &[w]).unwrap();
    let y = b.node("w.matmul", Op::MatMul, &[y, w]).unwrap();
    let y = b.node("w.turned", Op::Permute { order: vec![0, 2, 1] }, &[y]).unwrap();
    // An operation that needs the axis: the batch is moved to the middle and back.
    let y = b.node("w.moved", Op::Permute { order: vec![1, 0, 2] }, &[y]).unwrap();
    let y = b.node("out", reshape(&[dim(6), Dim::SEQ]), &[y]).unwrap();
    b.output(y);
    let (text, after) = check_pass(&DropBatch, &b.finish(), 0.0);
    assert!(
        after
            .nodes()
            .values()
            .filter(|n| n.name != "w.moved")
            .all(|n| n.out[0].shape[0] != Dim::ONE || n.out[0].rank() < 3),
        "{text}"
    );
    insta::assert_snapshot!(text);
}

#[test]
fn drop_batch_keeps_a_single_head() {
    let mut s = Small::new();
    let heads = s.node("heads", reshape(&[Dim::SEQ, Dim::ONE, dim(8)]), &[s.x]);
    let turned = s.node("turned", Op::Permute { order: vec![1, 0, 2] }, &[heads]);
    insta::assert_snapshot!(check_pass(&DropBatch, &s.output(turned), 0.0).0);
}

#[test]
fn fold_constants() {
    let mut s = Small::new();
    let four = s.b.constant("four", ty("f32[1]"), vec![4.0]);
    let three = s.b.constant("three", ty("f32[1]"), vec![3.0]);
    let row = s.b.constant("row", ty("f32[8]"), vec![1.0, 4.0, 9.0, 16.0, 25.0, 36.0, 49.0, 64.0]);
    let root = s.node("root", Op::Sqrt, &[row]);
    let more = s.node("more", Op::AddScalar { by: 0.5 }, &[root]);
    let y = s.node("mul", Op::Mul, &[s.x, more]);
    let y = s.node("quarter", Op::Div, &[y, four]);
    let y = s.node("add", Op::Add, &[three, y]);
    let y = s.node("once", Op::MulScalar { by: 1.0 }, &[y]);
    // A third is not exact: stays a division.
    let y = s.node("third", Op::Div, &[y, three]);
    insta::assert_snapshot!(check_pass(&FoldConstants, &s.output(y), 0.0).0);
}

#[test]
fn fold_layout() {
    let mut s = Small::new();
    let scale = s.weight("norm.weight", "f32[8]");
    let kernel = s.weight("conv.weight", "f32[8, 1, 3]");
    let kernel = s.node("conv.view", reshape(&[dim(8), dim(3)]), &[kernel]);
    let view = s.node("norm.view", reshape(&[Dim::ONE, dim(8)]), &[scale]);
    let y = s.node("mul", Op::Mul, &[s.x, view]);
    let y = s.node("a", reshape(&[Dim::SEQ, dim(2), dim(4)]), &[y]);
    let y = s.node("b", reshape(&[Dim::SEQ, dim(8)]), &[y]);
    let y = s.node("c", Op::Permute { order: vec![1, 0] }, &[y]);
    let y = s.node("d", Op::Permute { order: vec![1, 0] }, &[y]);
    let y = s.node("e", Op::Broadcast { to: vec![Dim::SEQ, dim(8)] }, &[y]);
    let y = s.node("f", Op::Concat { axis: 0 }, &[y]);
    let y = s.node("g", Op::MatMul, &[y, kernel]);
    let y = s.node("out", reshape(&[Dim::SEQ, dim(3)]), &[y]);
    insta::assert_snapshot!(check_pass(&FoldLayout, &s.output(y), 0.0).0);
}

#[test]
fn fold_layout_leaves_outputs_nodes() {
    let mut b = Builder::new("small");
    let state = b.state("s", ty("f32[4]"), Update::Window);
    let same = b.node("same", reshape(&[dim(4)]), &[state]).unwrap();
    let twice = b.node("twice", reshape(&[dim(4)]), &[same]).unwrap();
    b.next(state, same);
    b.output(twice);
    insta::assert_snapshot!(check_pass(&FoldLayout, &b.finish(), 0.0).0);
}

#[test]
fn cse() {
    let mut s = Small::new();
    let a = s.node("a", Op::Sqrt, &[s.x]);
    let b = s.node("b", Op::Sqrt, &[s.x]);
    let c = s.node("c", Op::Add, &[a, b]);
    let d = s.node("d", Op::Add, &[b, a]);
    let e = s.node("e", Op::Mul, &[c, d]);
    // Equal to `e`, but both leave.
    let f = s.node("f", Op::Mul, &[c, d]);
    s.b.output(e);
    insta::assert_snapshot!(check_pass(&Cse, &s.output(f), 0.0).0);
}

#[test]
fn dce() {
    let mut s = Small::new();
    let w = s.weight("w.weight", "f32[8]");
    let unread = s.node("unread", Op::Mul, &[s.x, w]);
    s.node("more", Op::Sqrt, &[unread]);
    let y = s.node("y", Op::Sigmoid, &[s.x]);
    insta::assert_snapshot!(check_pass(&Dce, &s.output(y), 0.0).0);
}

#[test]
fn fuse_linear() {
    let mut s = Small::new();
    let plain = s.weight("layers.0.conv.in_proj.weight", "f32[8, 8]");
    let bias = s.weight("layers.0.conv.in_proj.bias", "f32[8]");
    let turned = s.weight("layers.0.conv.out_proj.weight", "f32[8, 8]");
    let head = s.weight("lm_head.weight", "f32[12, 8]");
    let y = s.node("a", Op::MatMul, &[s.x, plain]);
    let y = s.node("b", Op::Add, &[bias, y]);
    let view = s.node("view", Op::Permute { order: vec![1, 0] }, &[turned]);
    let y = s.node("c", Op::Linear, &[y, view]);
    let view = s.node("head.view", Op::Permute { order: vec![1, 0] }, &[head]);
    let y = s.node("d", Op::MatMul, &[y, view]);
    insta::assert_snapshot!(check_pass(&FuseLinear, &s.output(y), 1e-6).0);
}

#[test]
fn fuse_linear_needs_a_matrix_of_its_own() {
    let mut s = Small::new();
    let w = s.weight("layers.0.w.weight", "f32[8, 8]");
    let y = s.node("a", Op::MatMul, &[s.x, w]);
    let bent = s.node("bent", Op::Sqrt, &[w]);
    let y = s.node("b", Op::MatMul, &[y, bent]);
    insta::assert_snapshot!(check_pass(&FuseLinear, &s.output(y), 0.0).0);
}

fn norm() -> (Small, Value) {
    let mut s = Small::new();
    let w = s.weight("layers.0.operator_norm.weight", "f32[8]");
    let y = s.node("l0.operator_norm", Op::RmsNorm { eps: 1e-5 }, &[s.x, w]);
    (s, y)
}

#[test]
fn fuse_rms_norm() {
    let (s, y) = norm();
    insta::assert_snapshot!(fuses_back(&FuseRmsNorm, &s.output(y)));
}

#[test]
fn fuse_rms_norm_of_one_reader() {
    let (s, y) = norm();
    let mut graph = expand_graph(&s.output(y)).unwrap();
    let text = graph.text().replace(
        "outputs: [\"l0.operator_norm\"]",
        "outputs: [\"l0.operator_norm\", \"l0.operator_norm.rms\"]",
    );
    graph = Graph::parse(&text).unwrap();
    insta::assert_snapshot!(check_pass(&FuseRmsNorm, &graph, 1e-6).0);
}

fn attention(kv: u32) -> Graph {
    let mut s = Small::new();
    let positions = s.b.input("positions", ty("i32[seq]"));
    let inv_freq = s.b.constant("inv_freq", ty("f32[2]"), vec![1.0, 0.1]);
    let k_state = s.b.state("l0.attn.k", ty(&format!("f32[{kv}, past, 4]")), Update::Append { axis: 1 });
    let v_state = s.b.state("l0.attn.v", ty(&format!("f32[{kv}, past, 4]")), Update::Append { axis: 1 });
    let mut heads = Vec::new();
    for (part, n) in [("q", 4), ("k", kv), ("v", kv)] {
        let w = s.weight(&format!("layers.0.self_attn.{part}_proj.weight"), &format!("f32[{}, 8]", n * 4));
        let y = s.node(&format!("l0.attn.{part}"), Op::Linear, &[s.x, w]);
        heads.push(s.node(&format!("l0.attn.{part}.heads"), reshape(&[Dim::SEQ, dim(n), dim(4)]), &[y]));
    }
    let table = s.b.push("rope", Op::RopeTable, &[positions, inv_freq]).unwrap();
    let (cos, sin) = (Value::Node(table, 0), Value::Node(table, 1));
    let q = s.node("l0.attn.q.rope", Op::Rope, &[heads[0], cos, sin]);
    let k = s.node("l0.attn.k.rope", Op::Rope, &[heads[1], cos, sin]);
    let op = Op::Attention { scale: 0.5, window: None };
    let attend = s.b.push("l0.attn.attend", op, &[q, k, heads[2], k_state, v_state]).unwrap();
    s.b.next(k_state, Value::Node(attend, 1));
    s.b.next(v_state, Value::Node(attend, 2));
    s.output(Value::Node(attend, 0))
}

/// The graph with only some of its fused operations expanded.
fn expand_only(graph: &Graph, which: fn(&Op) -> bool) -> Graph {
    lfm_graphs::rewrite::<lfm_graphs::BuildError>(graph, |new, id| {
        let node = &new.old().nodes()[id];
        if !which(&node.op) {
            return Ok(lfm_graphs::Step::Keep);
        }
        let args: Vec<Value> = node.args.iter().map(|arg| new.map(*arg)).collect();
        let parts = lfm_graphs::expand::expand_node(new, &node.name, &node.op, &args)?;
        Ok(parts.map_or(lfm_graphs::Step::Keep, lfm_graphs::Step::Replace))
    })
    .unwrap()
}

#[test]
fn fuse_rope() {
    let fused = attention(2);
    let before = expand_only(&fused, |op| matches!(op, Op::Rope | Op::RopeTable));
    let (text, after) = check_pass(&FuseRope, &before, 1e-5);
    let count = |op: &str| after.histogram().get(op).copied();
    assert_eq!((count("RopeTable"), count("Rope")), (Some(1), Some(2)));
    insta::assert_snapshot!(text);
}

#[test]
fn fuse_rope_of_a_table() {
    // Only the rotations are expanded: the table is there already.
    let fused = attention(2);
    let before = expand_only(&fused, |op| matches!(op, Op::Rope));
    let (_, after) = check_pass(&FuseRope, &before, 1e-5);
    assert_eq!(without_names(&after), without_names(&fused));
}

#[test]
fn fuse_rope_turns_one_way() {
    let before = expand_only(&attention(2), |op| matches!(op, Op::Rope | Op::RopeTable));
    let turned = before
        .text()
        .replace("(name: \"l0.attn.q.rope.sub\", op: Sub", "(name: \"l0.attn.q.rope.sub\", op: Add");
    let (_, after) = check_pass(&FuseRope, &Graph::parse(&turned).unwrap(), 1e-5);
    assert_eq!(after.histogram().get("Rope"), Some(&1), "only the keys are turned as a rotation");
    let swapped = before.text().replace(
        "\"l0.attn.q.rope.high.cos\", \"l0.attn.q.rope.low.sin\"",
        "\"l0.attn.q.rope.high.cos\", \"l0.attn.q.rope.high.sin\"",
    );
    let (text, _) = check_pass(&FuseRope, &Graph::parse(&swapped).unwrap(), 1e-5);
    let misses = text.lines().find(|line| line.starts_with("after")).unwrap();
    insta::assert_snapshot!(misses);
}

#[test]
fn fuse_attention() {
    for kv in [1, 2, 4] {
        let fused = attention(kv);
        let before = expand_only(&fused, |op| matches!(op, Op::Attention { .. }));
        let (text, after) = check_pass(&FuseAttention, &before, 1e-5);
        assert_eq!(without_names(&after), without_names(&fused), "{kv} key heads");
        if kv == 2 {
            insta::assert_snapshot!(text);
        }
    }
}

#[test]
fn fuse_attention_of_half_precision() {
    let fused = check_pass(&KvDtype(DType::F16), &attention(2), 0.05).1;
    let before = expand_only(&fused, |op| matches!(op, Op::Attention { .. }));
    let (_, after) = check_pass(&FuseAttention, &before, 1e-5);
    assert_eq!(without_names(&after), without_names(&fused));
}

#[test]
fn fuse_attention_needs_the_mask() {
    let before = expand_only(&attention(2), |op| matches!(op, Op::Attention { .. }));
    let text = before
        .text()
        .replace("op: CausalMask()", "op: MulScalar(by: 1.0)")
        .replace("op: CausalMask(window: None)", "op: MulScalar(by: 1.0)");
    assert_ne!(text, before.text());
    let (text, _) = check_pass(&FuseAttention, &Graph::parse(&text).unwrap(), 1e-5);
    insta::assert_snapshot!(text.lines().find(|line| line.starts_with("after")).unwrap());
}

fn conv_gate(taps: u32, bias: bool) -> Graph {
    let mut s = Small::new();
    let window = s.b.state("l0.conv.window", ty(&format!("f32[8, {}]", taps - 1)), Update::Window);
    let w = s.weight("layers.0.conv.in_proj.weight", "f32[24, 8]");
    let kernel = s.weight("layers.0.conv.conv.weight", &format!("f32[8, {taps}]"));
    let y = s.node("l0.conv.in", Op::Linear, &[s.x, w]);
    let mut args = vec![y, kernel];
    if bias {
        args.push(s.weight("layers.0.conv.conv.bias", "f32[8]"));
    }
    args.push(window);
    let gate = s.b.push("l0.conv.gate", Op::ConvGate { taps }, &args).unwrap();
    s.b.next(window, Value::Node(gate, 1));
    s.output(Value::Node(gate, 0))
}

#[test]
fn fuse_conv_gate() {
    for (taps, bias) in [(3, false), (1, false), (2, true), (4, true), (7, false)] {
        let text = fuses_back(&FuseConvGate, &conv_gate(taps, bias));
        if taps == 3 {
            insta::assert_snapshot!(text);
        }
    }
}

#[test]
fn fuse_conv_gate_needs_the_last_columns() {
    let before = expand_graph(&conv_gate(3, false)).unwrap();
    let text = before
        .text()
        .replace("Slice(axis: 1, from: \"seq\", to: \"seq+2\")", "Slice(axis: 1, from: 0, to: 2)");
    assert_ne!(text, before.text());
    let (text, _) = check_pass(&FuseConvGate, &Graph::parse(&text).unwrap(), 1e-5);
    insta::assert_snapshot!(text.lines().find(|line| line.starts_with("after")).unwrap());
}

fn swiglu() -> (Small, Value) {
    let mut s = Small::new();
    let gate = s.weight("layers.0.feed_forward.w1.weight", "f32[6, 8]");
    let up = s.weight("layers.0.feed_forward.w3.weight", "f32[6, 8]");
    let y = s.node("l0.ffn.swiglu", Op::SwiGlu, &[s.x, gate, up]);
    (s, y)
}

#[test]
fn fuse_swiglu() {
    let (s, y) = swiglu();
    insta::assert_snapshot!(fuses_back(&FuseSwiGlu, &s.output(y)));
}

#[test]
fn fuse_swiglu_needs_one_input() {
    let (mut s, y) = swiglu();
    let other = s.node("other", Op::Sqrt, &[s.x]);
    let _ = other;
    let graph = expand_graph(&s.output(y)).unwrap();
    let text = graph.text().replace("(name: \"l0.ffn.swiglu.up\", op: Linear, args: [\"embed\"", "(name: \"twice\", op: Add, args: [\"embed\", \"embed\"], out: [\"f32[seq, 8]\"]),\n        (name: \"l0.ffn.swiglu.up\", op: Linear, args: [\"twice\"");
    assert_ne!(text, graph.text());
    let (text, _) = check_pass(&FuseSwiGlu, &Graph::parse(&text).unwrap(), 1e-5);
    insta::assert_snapshot!(text.lines().find(|line| line.starts_with("after")).unwrap());
}

fn moe(top_k: u32, renorm: Option<f32>, scale: f32, bias: bool, residual: bool) -> Graph {
    let mut s = Small::new();
    let ffn = |name: &str| format!("layers.0.feed_forward.{name}");
    let mut args = vec![s.x, s.weight(&ffn("gate.weight"), "f32[4, 8]")];
    if bias {
        args.push(s.weight(&ffn("expert_bias"), "f32[4]"));
    }
    args.push(s.weight(&ffn("experts.gate"), "f32[4, 6, 8]"));
    args.push(s.weight(&ffn("experts.up"), "f32[4, 6, 8]"));
    args.push(s.weight(&ffn("experts.down"), "f32[4, 8, 6]"));
    if residual {
        args.push(s.x);
    }
    let y = s.node("l0.ffn.moe", Op::Moe { top_k, renorm, scale, bias, residual }, &args);
    s.output(y)
}

#[test]
fn fuse_moe() {
    for top_k in [1, 2, 4] {
        for renorm in [None, Some(1e-6)] {
            for scale in [1.0, 2.5] {
                for bias in [false, true] {
                    let text = fuses_back(&FuseMoe, &moe(top_k, renorm, scale, bias, false));
                    if (top_k, renorm, scale, bias) == (2, Some(1e-6), 2.5, true) {
                        insta::assert_snapshot!(text);
                    }
                }
            }
        }
    }
}

#[test]
fn fuse_moe_weighs_by_unbiased_scores() {
    let before = expand_graph(&moe(2, None, 1.0, true, false)).unwrap();
    let text = before
        .text()
        .replace("op: Gather, args: [\"l0.ffn.moe.sigmoid\"", "op: Gather, args: [\"l0.ffn.moe.biased\"");
    assert_ne!(text, before.text());
    let (text, _) = check_pass(&FuseMoe, &Graph::parse(&text).unwrap(), 1e-5);
    insta::assert_snapshot!(text.lines().find(|line| line.starts_with("after")).unwrap());
}

#[test]
fn fuse_residual() {
    let mut s = Small::new();
    let w = s.weight("layers.0.conv.out_proj.weight", "f32[8, 8]");
    let bias = s.weight("layers.0.conv.out_proj.bias", "f32[8]");
    let y = s.node("l0.conv.out", Op::LinearAdd, &[s.x, w, bias, s.x]);
    insta::assert_snapshot!(fuses_back(&FuseResidual, &s.output(y)));
}

#[test]
fn fuse_residual_of_experts() {
    let fused = moe(2, Some(1e-6), 1.0, true, true);
    let expanded = expand_graph(&fused).unwrap();
    let experts = check_pass(&FuseMoe, &expanded, 1e-5).1;
    let (_, after) = check_pass(&FuseResidual, &experts, 1e-5);
    assert_eq!(without_names(&after), without_names(&fused));
}

#[test]
fn fuse_residual_needs_the_product_alone() {
    let mut s = Small::new();
    let w = s.weight("layers.0.out_proj.weight", "f32[8, 8]");
    let product = s.node("product", Op::Linear, &[s.x, w]);
    let sum = s.node("sum", Op::Add, &[s.x, product]);
    let y = s.node("y", Op::Mul, &[sum, product]);
    insta::assert_snapshot!(check_pass(&FuseResidual, &s.output(y), 1e-6).0);
}

#[test]
fn last_row() {
    let mut s = Small::new();
    let norm = s.weight("embedding_norm.weight", "f32[8]");
    let head = s.weight("lm_head.weight", "f32[12, 8]");
    let stream = s.node("stream", Op::Add, &[s.x, s.x]);
    let y = s.node("embedding_norm", Op::RmsNorm { eps: 1e-5 }, &[stream, norm]);
    let y = s.node("head", Op::Linear, &[y, head]);
    insta::assert_snapshot!(check_pass(&LastRow, &s.output(y), 0.0).0);
}

#[test]
fn last_row_needs_an_operation_on_rows() {
    let mut s = Small::new();
    let y = s.node("y", Op::Add, &[s.x, s.x]);
    insta::assert_snapshot!(check_pass(&LastRow, &s.output(y), 0.0).0);
}

#[test]
fn kv_dtype() {
    let (text, after) = check_pass(&KvDtype(DType::F16), &attention(2), 0.05);
    assert!(after.states().values().all(|state| state.ty.dtype == DType::F16));
    insta::assert_snapshot!(text);
}
