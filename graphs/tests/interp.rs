//! The interpreter: core operations on small exact cases, states, rows, and everything that can go wrong.

use std::collections::BTreeMap;
use std::slice::from_ref;

use lfm_graphs::interp::{Fault, Interp, InterpError, Rows, States, Tensor};
use lfm_graphs::testing::{Tiny, random_graph, random_weights, tiny_graph};
use lfm_graphs::{Builder, DType, Dim, Graph, Op, TensorType, Update, Value, verify, verify_executable};

fn ty(text: &str) -> TensorType {
    text.parse().unwrap()
}

fn f32s(shape: &[usize], data: &[f32]) -> Tensor {
    Tensor::f32(shape, data.to_vec())
}

fn i32s(shape: &[usize], data: &[i32]) -> Tensor {
    Tensor::i32(shape, data.to_vec())
}

/// The results of `op` on arguments kept as weights, and on `tokens` after them if there are any.
fn try_apply(op: Op, args: &[Tensor], tokens: &[i32]) -> Result<Vec<Tensor>, InterpError> {
    let mut b = Builder::new("one");
    let mut values = Vec::new();
    let mut weights = BTreeMap::new();
    for (i, arg) in args.iter().enumerate() {
        let name = format!("w{i}");
        let ty = TensorType::new(DType::F32, arg.shape.iter().map(|n| *n as u32));
        values.push(b.weight(name.clone(), ty, name.clone()));
        weights.insert(name, arg.clone());
    }
    let mut inputs = vec![];
    if !tokens.is_empty() {
        values.push(b.input("tokens", ty("i32[seq]")));
        inputs.push(("tokens", tokens));
    }
    let outs = op.outputs();
    let id = b.push("op", op, &values).unwrap();
    (0..outs).for_each(|out| b.output(Value::Node(id, out as u8)));
    let graph = b.finish();
    Interp::new(&graph, &|name| weights.get(name).cloned())?.run(&inputs, &mut States::new(&graph))
}

fn apply(op: Op, args: &[Tensor]) -> Tensor {
    try_apply(op, args, &[]).unwrap().remove(0)
}

#[test]
fn arithmetic() {
    let a = f32s(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let row = f32s(&[3], &[1.0, 2.0, 4.0]);
    let column = f32s(&[2, 1], &[10.0, 20.0]);
    assert_eq!(apply(Op::Add, &[a.clone(), row.clone()]), f32s(&[2, 3], &[2.0, 4.0, 7.0, 5.0, 7.0, 10.0]));
    assert_eq!(
        apply(Op::Sub, &[column.clone(), row.clone()]),
        f32s(&[2, 3], &[9.0, 8.0, 6.0, 19.0, 18.0, 16.0])
    );
    assert_eq!(apply(Op::Mul, &[a.clone(), column]), f32s(&[2, 3], &[10.0, 20.0, 30.0, 80.0, 100.0, 120.0]));
    assert_eq!(apply(Op::Div, &[a.clone(), row]), f32s(&[2, 3], &[1.0, 1.0, 0.75, 4.0, 2.5, 1.5]));
    assert_eq!(apply(Op::AddScalar { by: 0.5 }, &[f32s(&[], &[1.0])]), f32s(&[], &[1.5]));
    assert_eq!(apply(Op::MulScalar { by: -2.0 }, &[f32s(&[2], &[1.0, 3.0])]), f32s(&[2], &[-2.0, -6.0]));
    assert_eq!(apply(Op::Sqrt, &[f32s(&[2], &[4.0, 9.0])]), f32s(&[2], &[2.0, 3.0]));
    assert_eq!(apply(Op::Sigmoid, &[f32s(&[3], &[0.0, 200.0, -200.0])]), f32s(&[3], &[0.5, 1.0, 0.0]));
    assert_eq!(apply(Op::Sin, &[f32s(&[1], &[0.0])]), f32s(&[1], &[0.0]));
    assert_eq!(apply(Op::Cos, &[f32s(&[1], &[0.0])]), f32s(&[1], &[1.0]));
    assert_eq!(apply(Op::Sum { axis: 0 }, from_ref(&a)), f32s(&[1, 3], &[5.0, 7.0, 9.0]));
    assert_eq!(apply(Op::Mean { axis: 1 }, &[a]), f32s(&[2, 1], &[2.0, 5.0]));
    let even = f32s(&[2, 2], &[7.0, 7.0, f32::NEG_INFINITY, 0.0]);
    assert_eq!(apply(Op::Softmax, &[even]), f32s(&[2, 2], &[0.5, 0.5, 0.0, 1.0]));
}

#[test]
fn casts() {
    let x = f32s(&[4], &[1.0 + 1.0 / 2048.0, 1.0 + 3.0 / 2048.0, 70000.0, -2.9]);
    let halves = f32s(&[4], &[1.0, 1.0 + 4.0 / 2048.0, f32::INFINITY, -2.900_390_6]);
    assert_eq!(apply(Op::Cast { to: DType::F16 }, from_ref(&x)), halves);
    assert_eq!(apply(Op::Cast { to: DType::F32 }, from_ref(&x)), x);
    let wild = f32s(&[4], &[-2.9, 1e20, f32::NAN, 7.5]);
    assert_eq!(apply(Op::Cast { to: DType::I32 }, &[wild]), i32s(&[4], &[-2, i32::MAX, 0, 7]));
    let tokens = try_apply(Op::Cast { to: DType::F32 }, &[], &[3, -4]).unwrap();
    assert_eq!(tokens, [f32s(&[2], &[3.0, -4.0])]);
}

#[test]
fn products() {
    let x = f32s(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let w = f32s(&[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    let bias = f32s(&[3], &[10.0, 20.0, 30.0]);
    assert_eq!(apply(Op::Linear, &[x.clone(), w.clone()]), f32s(&[2, 3], &[1.0, 2.0, 3.0, 3.0, 4.0, 7.0]));
    assert_eq!(apply(Op::Linear, &[x, w, bias]), f32s(&[2, 3], &[11.0, 22.0, 33.0, 13.0, 24.0, 37.0]));
    let a = f32s(&[2, 1, 2], &[1.0, 2.0, 3.0, 4.0]);
    let b = f32s(&[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(apply(Op::MatMul, &[a, b]), f32s(&[2, 1, 2], &[7.0, 10.0, 43.0, 50.0]));
    let x = f32s(&[2, 4], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    let taps = f32s(&[2, 3], &[1.0, 10.0, 100.0, 0.0, 0.0, 1.0]);
    let bias = f32s(&[2], &[0.0, 1.0]);
    let op = Op::DepthwiseConv { taps: 3 };
    assert_eq!(apply(op.clone(), &[x.clone(), taps.clone()]), f32s(&[2, 2], &[321.0, 432.0, 7.0, 8.0]));
    assert_eq!(apply(op, &[x, taps, bias]), f32s(&[2, 2], &[321.0, 432.0, 8.0, 9.0]));
}

#[test]
fn layout() {
    let x = f32s(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let to = vec![Dim::fixed(3), Dim::ONE, Dim::fixed(2)];
    assert_eq!(apply(Op::Reshape { to }, from_ref(&x)), f32s(&[3, 1, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]));
    let order = vec![1, 0];
    assert_eq!(apply(Op::Permute { order }, from_ref(&x)), f32s(&[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    let cube = f32s(&[1, 2, 2], &[0.0, 1.0, 2.0, 3.0]);
    let order = vec![2, 0, 1];
    assert_eq!(apply(Op::Permute { order }, &[cube]), f32s(&[2, 1, 2], &[0.0, 2.0, 1.0, 3.0]));
    let slice = |from, to| Op::Slice { axis: 1, from: Dim::fixed(from), to: Dim::fixed(to) };
    assert_eq!(apply(slice(1, 3), from_ref(&x)), f32s(&[2, 2], &[1.0, 2.0, 4.0, 5.0]));
    assert_eq!(apply(slice(3, 3), from_ref(&x)), f32s(&[2, 0], &[]));
    let y = f32s(&[2, 1], &[8.0, 9.0]);
    let both = f32s(&[2, 4], &[0.0, 1.0, 2.0, 8.0, 3.0, 4.0, 5.0, 9.0]);
    assert_eq!(apply(Op::Concat { axis: 1 }, &[x.clone(), y.clone()]), both);
    let three = f32s(&[3, 1], &[8.0, 9.0, 7.0]);
    let all = f32s(&[5, 1], &[8.0, 9.0, 8.0, 9.0, 7.0]);
    assert_eq!(apply(Op::Concat { axis: 0 }, &[y.clone(), three]), all);
    let to = vec![Dim::fixed(2), Dim::fixed(2), Dim::fixed(2)];
    let wide = f32s(&[2, 2, 2], &[8.0, 8.0, 9.0, 9.0, 8.0, 8.0, 9.0, 9.0]);
    assert_eq!(apply(Op::Broadcast { to }, &[y]), wide);
}

#[test]
fn indices() {
    let table = f32s(&[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let rows = try_apply(Op::Select, from_ref(&table), &[2, 0, 2]).unwrap();
    assert_eq!(rows, [f32s(&[3, 2], &[4.0, 5.0, 0.0, 1.0, 4.0, 5.0])]);
    let elements = try_apply(Op::Gather, &[f32s(&[3], &[7.0, 8.0, 9.0])], &[1, 1, 0]).unwrap();
    assert_eq!(elements, [f32s(&[3], &[8.0, 8.0, 7.0])]);
    for token in [-1, 3, i32::MIN, i32::MAX] {
        let error = try_apply(Op::Select, from_ref(&table), &[0, token]).unwrap_err();
        let fault = Fault::Index { index: token, at: 1, size: 3 };
        assert_eq!(error, InterpError::Node { name: "op".into(), fault });
        assert!(error.to_string().contains("at op: index"), "{error}");
    }
}

#[test]
fn top_k_takes_the_lower_index_of_equals() {
    let x = f32s(&[2, 4], &[1.0, 3.0, 3.0, 2.0, f32::NAN, -1.0, -0.0, 0.0]);
    let results = try_apply(Op::TopK { k: 3 }, &[x], &[]).unwrap();
    assert_eq!(results[0], f32s(&[2, 3], &[3.0, 3.0, 2.0, -0.0, 0.0, -1.0]));
    assert_eq!(results[1], i32s(&[2, 3], &[1, 2, 3, 2, 3, 1]));
}

/// `Σ past keys`: a graph whose mask depends on past and seq. Its state is one row a token.
fn masked(window: Option<u32>) -> Graph {
    let mut b = Builder::new("masked");
    let tokens = b.input("tokens", ty("i32[seq]"));
    let table = b.weight("table", ty("f32[4, 1]"), "table");
    let state = b.state("keys", ty("f32[past, 1]"), Update::Append { axis: 0 });
    let x = b.node("x", Op::Select, &[table, tokens]).unwrap();
    let keys = b.node("keys", Op::Concat { axis: 0 }, &[state, x]).unwrap();
    b.next(state, keys);
    let row = b.node("row", Op::Reshape { to: vec![Dim::ONE, Dim::TOTAL] }, &[keys]).unwrap();
    let wide = b.node("wide", Op::Broadcast { to: vec![Dim::SEQ, Dim::TOTAL] }, &[row]).unwrap();
    let mask = b.node("mask", Op::CausalMask { window }, &[wide]).unwrap();
    b.output(mask);
    b.finish()
}

#[test]
fn masks_and_states() {
    let table = f32s(&[4, 1], &[0.0, 1.0, 2.0, 3.0]);
    let inf = f32::NEG_INFINITY;
    let run = |window, calls: &[&[i32]]| {
        let graph = masked(window);
        let interp = Interp::new(&graph, &|_| Some(table.clone())).unwrap();
        let mut states = States::new(&graph);
        let results: Vec<Tensor> =
            calls.iter().map(|call| interp.run_tokens(call, &mut states).unwrap().remove(0)).collect();
        assert_eq!(states.past() as usize, calls.iter().map(|c| c.len()).sum::<usize>());
        assert_eq!(states.get("keys").unwrap().shape, [states.past() as usize, 1]);
        results
    };
    let results = run(None, &[&[1, 2], &[3, 0]]);
    assert_eq!(results[0], f32s(&[2, 2], &[1.0, inf, 1.0, 2.0]));
    assert_eq!(results[1], f32s(&[2, 4], &[1.0, 2.0, 3.0, inf, 1.0, 2.0, 3.0, 0.0]));
    let results = run(Some(2), &[&[1, 2], &[3, 0]]);
    assert_eq!(results[1], f32s(&[2, 4], &[inf, 2.0, 3.0, inf, inf, inf, 3.0, 0.0]));
    let results = run(Some(1), &[&[1, 2]]);
    assert_eq!(results[0], f32s(&[2, 2], &[1.0, inf, inf, 2.0]));
}

#[test]
fn what_is_wrong_with_a_call_is_named_and_changes_nothing() {
    let graph = tiny_graph(&Tiny::moe());
    let weights = random_weights(&graph, 1);
    let interp = Interp::new(&graph, &|name| weights.get(name).cloned()).unwrap();
    let mut states = States::new(&graph);
    interp.run_tokens(&[1, 2, 3], &mut states).unwrap();
    let before = states.clone();
    let mut message = |inputs: &[(&str, &[i32])]| interp.run(inputs, &mut states).unwrap_err().to_string();
    insta::assert_snapshot!(
        [
            message(&[]),
            message(&[("tokens", &[1])]),
            message(&[("tokens", &[1]), ("positions", &[3]), ("mask", &[0])]),
            message(&[("tokens", &[1, 2]), ("positions", &[3])]),
            message(&[("tokens", &[]), ("positions", &[])]),
            message(&[("tokens", &[96]), ("positions", &[3])]),
        ]
        .join("\n"),
        @r"
    input `tokens` was not given
    input `positions` was not given
    input `mask` was given, but the graph has no such input
    input `positions` has 1 elements, expected 2 like the inputs before it
    the call has no tokens, expected at least one
    at embed: index 96 at element 0, expected 0 to 96, exclusive
    "
    );
    assert_eq!(states, before);

    let other = tiny_graph(&Tiny { taps: 5, ..Tiny::moe() });
    let error = interp.run_tokens(&[1], &mut States::new(&other)).unwrap_err();
    assert_eq!(error.to_string(), "state `l0.conv.window` is f32[32, 4], expected f32[32, 2] after 0 tokens");
    let error = interp.run_tokens(&[1], &mut States::default()).unwrap_err();
    assert_eq!(error.to_string(), "state `l0.conv.window` is absent, expected f32[32, 2] after 0 tokens");
    let error = interp.run_tokens(&[1], &mut States::with(u32::MAX, BTreeMap::new())).unwrap_err();
    assert!(matches!(error, InterpError::TooLong { seq: 1, past: u32::MAX, .. }));
    assert!(interp.run_tokens(&[], &mut states).is_err());
}

#[test]
fn what_is_wrong_with_weights_is_named() {
    let graph = tiny_graph(&Tiny::moe());
    let weights = random_weights(&graph, 1);
    let error = |give: &dyn Fn(&str) -> Option<Tensor>| Interp::new(&graph, give).err().unwrap().to_string();
    let without = error(&|name| weights.get(name).filter(|_| name != "l1.attn.q_proj").cloned());
    assert_eq!(without, "weight `l1.attn.q_proj` was not given, expected f32[32, 32]");
    let short = error(&|_| Some(Tensor::f32([96, 32], vec![0.0; 4])));
    assert_eq!(short, "weight `embed_tokens` is f32[96, 32] of 4 elements, expected f32[96, 32]");
    let ints = error(&|_| Some(Tensor::i32([1], vec![0])));
    assert_eq!(ints, "weight `embed_tokens` is i32[1], expected f32[96, 32]");

    let mut b = Builder::new("unsound");
    b.input("tokens", ty("i32[seq]"));
    let error = Interp::new(&b.finish(), &|_| None).err().unwrap();
    assert!(matches!(error, InterpError::Unsound(_)), "{error}");
}

#[test]
fn results_that_are_too_large_are_refused() {
    let wide = |times: u32| {
        let op = Op::Broadcast { to: vec![Dim::SEQ.checked_mul(times).unwrap(), Dim::fixed(u32::MAX)] };
        try_apply(op, &[f32s(&[1, 1], &[1.0])], &[])
    };
    for times in [1, u32::MAX] {
        let error = wide(times).unwrap_err();
        assert!(matches!(error, InterpError::Node { fault: Fault::TooLarge { .. }, .. }), "{error}");
    }
}

/// The logits after `tokens`, given in calls of these lengths.
fn in_calls(interp: &Interp<'_>, tokens: &[i32], lengths: &[usize]) -> (Vec<f32>, States) {
    let mut states = States::new(interp.graph());
    let mut logits = Vec::new();
    let mut from = 0;
    for length in lengths {
        let results = interp.run_tokens(&tokens[from..from + length], &mut states).unwrap();
        logits = results[0].as_f32().unwrap().to_vec();
        from += length;
    }
    (logits, states)
}

#[track_caller]
fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance * (1.0 + a.abs().max(b.abs())), "element {i}: {a} and {b}");
    }
}

#[test]
fn calls_may_be_split_anywhere() {
    let tokens = [5, 0, 7, 7, 1, 3, 2];
    for tiny in [
        Tiny::moe(),
        Tiny::dense(),
        Tiny { kv: DType::F16, window: Some(3), ..Tiny::moe() },
        Tiny { taps: 1, conv_bias: true, ..Tiny::moe() },
        Tiny { taps: 9, kv_heads: 1, renorm: None, expert_bias: false, tied: false, ..Tiny::moe() },
    ] {
        let graph = tiny_graph(&tiny);
        assert_eq!(verify_executable(&graph), []);
        let weights = random_weights(&graph, 3);
        let interp = Interp::new(&graph, &|name| weights.get(name).cloned()).unwrap();
        let (whole, states) = in_calls(&interp, &tokens, &[7]);
        assert!(whole.iter().all(|x| x.is_finite()) && whole.iter().any(|x| x.abs() > 0.1), "{whole:?}");
        for lengths in [vec![1; 7], vec![3, 4], vec![6, 1], vec![1, 5, 1]] {
            let (parts, after) = in_calls(&interp, &tokens, &lengths);
            close(&parts, &whole, 1e-4);
            assert_eq!(after.past(), states.past());
            for state in graph.states().values() {
                let data = |states: &States| states.get(&state.name).unwrap().as_f32().unwrap().to_vec();
                close(&data(&after), &data(&states), if tiny.kv == DType::F16 { 2e-3 } else { 1e-4 });
            }
        }
    }
}

#[test]
fn all_rows_are_the_last_rows_of_all_prefixes() {
    let tokens = [5, 0, 7, 7, 1];
    let graph = tiny_graph(&Tiny::moe());
    let weights = random_weights(&graph, 4);
    let interp = Interp::new(&graph, &|name| weights.get(name).cloned()).unwrap();
    let mut seen = BTreeMap::new();
    let mut states = States::new(&graph);
    let all = interp
        .run_tokens_with(&tokens, &mut states, Rows::All, &mut |name, tensor| {
            assert!(seen.insert(name.to_string(), tensor.shape.clone()).is_none(), "{name} is shown twice");
        })
        .unwrap();
    assert_eq!(all[0].shape, [5, 96]);
    assert_eq!(seen["last"], [5, 32]);
    assert_eq!(seen["head"], [5, 96]);
    assert_eq!(seen["l1.attn.attend:1"], [2, 5, 8]);
    let results: usize = graph.nodes().values().map(|n| n.out.len()).sum();
    assert_eq!(seen.len(), results);
    for n in 1..=tokens.len() {
        let (row, _) = in_calls(&interp, &tokens[..n], &[n]);
        close(&all[0].as_f32().unwrap()[(n - 1) * 96..n * 96], &row, 1e-5);
    }
    assert_eq!(states, in_calls(&interp, &tokens, &[5]).1);
}

/// Calls of some lengths, and tokens that may or may not exist.
const CALLS: [&[i32]; 3] = [&[0, 1, 2], &[15], &[3, 3, 9, 16, -1, 2, 7]];

#[test]
fn whatever_verifies_runs_without_a_panic() {
    let mut runs = 0;
    for seed in 0..400 {
        let graph = random_graph(seed);
        assert_eq!(verify(&graph), [], "seed {seed}");
        let weights = random_weights(&graph, seed);
        let interp = Interp::new(&graph, &|name| weights.get(name).cloned()).unwrap();
        for rows in [Rows::Last, Rows::All] {
            let mut states = States::new(&graph);
            for call in CALLS {
                match interp.run_tokens_with(call, &mut states, rows, &mut |_, _| {}) {
                    Ok(results) => {
                        assert_eq!(results.len(), graph.outputs().len());
                        runs += 1;
                    }
                    Err(InterpError::Node { fault: Fault::Index { .. }, .. }) => {}
                    Err(error) => panic!("seed {seed}: {error}\n{}", graph.text()),
                }
            }
        }
    }
    assert!(runs > 800, "only {runs} calls had results");
}
