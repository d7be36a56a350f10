//! Fused operations: their formulas written out in `f64` against the interpreter, and expanded graphs against the
//! fused ones.

use std::collections::{BTreeMap, BTreeSet};

use lfm_graphs::expand::expand_graph;
use lfm_graphs::interp::{Data, Interp, Rows, States, Tensor};
use lfm_graphs::testing::{Rng, Tiny, random_graph, random_weights, tiny_graph};
use lfm_graphs::{
    Builder, DType, Dim, Graph, Op, TensorType, Update, Value, sweep, verify, verify_executable,
};

/// (seq, past) of the comparisons.
const PLACES: [(u32, u32); 5] = [(1, 0), (2, 0), (5, 0), (1, 4), (3, 7)];

/// A graph with one fused node, its weights, and what stands in its arguments.
struct Case {
    rng: Rng,
    b: Builder,
    seq: u32,
    past: u32,
    weights: BTreeMap<String, Tensor>,
    states: BTreeMap<String, Tensor>,
}

impl Case {
    fn new(seq: u32, past: u32) -> Case {
        let mut b = Builder::new("case");
        b.input("positions", TensorType::new(DType::I32, [Dim::SEQ]));
        let rng = Rng::new(seq as u64 * 1000 + past as u64);
        Case { rng, b, seq, past, weights: BTreeMap::new(), states: BTreeMap::new() }
    }

    fn positions(&self) -> Value {
        let (id, _) = self.b.graph().inputs().iter().next().unwrap();
        Value::Input(id)
    }

    /// A weight and its elements.
    fn weight(&mut self, name: &str, shape: &[u32]) -> (Value, Vec<f64>) {
        let tensor = self.rng.tensor(shape.iter().map(|n| *n as usize).collect::<Vec<_>>(), 1.5);
        let data = wide(&tensor);
        self.weights.insert(name.into(), tensor);
        (self.b.weight(name, TensorType::new(DType::F32, shape.iter().copied()), name), data)
    }

    /// A value `[seq, ..]`: rows `past..` of a table.
    fn rows(&mut self, name: &str, shape: &[u32]) -> (Value, Vec<f64>) {
        let width: u32 = shape.iter().product();
        let (table, data) = self.weight(name, &[16, width]);
        let rows = self.b.node(&format!("{name}.rows"), Op::Select, &[table, self.positions()]).unwrap();
        let mut to = vec![Dim::SEQ];
        to.extend(shape.iter().map(|n| Dim::fixed(*n)));
        let value = self.b.node(name, Op::Reshape { to }, &[rows]).unwrap();
        let (from, to) = (self.past * width, (self.past + self.seq) * width);
        (value, data[from as usize..to as usize].to_vec())
    }

    fn state(&mut self, name: &str, ty: TensorType, update: Update) -> (Value, Vec<f64>) {
        let mut tensor = self.rng.tensor(ty.at(self.seq, self.past), 1.5);
        if let (Data::F32(data), DType::F16) = (&mut tensor.data, ty.dtype) {
            data.iter_mut().for_each(|x| *x = half::f16::from_f32(*x).to_f32());
        }
        let data = wide(&tensor);
        self.states.insert(name.into(), tensor);
        (self.b.state(name, ty, update), data)
    }

    /// The results of a fused node named `fused`, after checking that the expanded graph gives the same.
    fn run(mut self, op: Op, args: &[Value], states: &[Value]) -> Vec<Vec<f64>> {
        let results = op.outputs();
        let node = self.b.push("fused", op, args).unwrap();
        for (i, state) in states.iter().enumerate() {
            self.b.next(*state, Value::Node(node, 1 + i as u8));
        }
        for out in 0..results - states.len() {
            self.b.output(Value::Node(node, out as u8));
        }
        let graph = self.b.finish();
        assert_eq!(verify(&graph), []);
        let run = |graph: &Graph| {
            let interp = Interp::new(graph, &|name| self.weights.get(name).cloned()).unwrap();
            let mut after = States::with(self.past, self.states.clone());
            let positions: Vec<i32> = (self.past as i32..(self.past + self.seq) as i32).collect();
            let mut results = interp.run(&[("positions", &positions)], &mut after).unwrap();
            results.extend(graph.states().values().map(|s| after.get(&s.name).unwrap().clone()));
            results
        };
        let expanded = expand_graph(&graph).unwrap();
        assert_eq!(verify(&expanded), []);
        assert!(expanded.nodes().values().all(|n| !n.op.is_fused()));
        let results = run(&graph);
        assert_eq!(run(&expanded), results);
        results.iter().map(wide).collect()
    }
}

fn wide(tensor: &Tensor) -> Vec<f64> {
    tensor.as_f32().unwrap().iter().map(|x| *x as f64).collect()
}

#[track_caller]
fn close(found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (i, (a, b)) in found.iter().zip(expected).enumerate() {
        assert!((a - b).abs() <= 2e-5 * (1.0 + b.abs()), "element {i} is {a}, expected {b}");
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `Σ_i x[i] · w[i]`
fn dot(x: &[f64], w: &[f64]) -> f64 {
    x.iter().zip(w).map(|(x, w)| x * w).sum()
}

/// Each row of `x` times each of `w`, rows of `k`.
fn product(x: &[f64], w: &[f64], k: usize) -> Vec<f64> {
    x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
}

#[test]
fn rms_norm() {
    for (seq, past) in PLACES {
        let mut c = Case::new(seq, past);
        let (x, xs) = c.rows("x", &[3, 5]);
        let (w, ws) = c.weight("w", &[5]);
        let eps = 1e-3;
        let found = c.run(Op::RmsNorm { eps }, &[x, w], &[]);
        let expected: Vec<f64> = xs
            .chunks(5)
            .flat_map(|row| {
                let rms = (dot(row, row) / 5.0 + eps as f64).sqrt();
                row.iter().zip(&ws).map(move |(x, w)| x / rms * w)
            })
            .collect();
        close(&found[0], &expected);
    }
}

#[test]
fn rope_and_its_table() {
    for (seq, past) in PLACES {
        let mut c = Case::new(seq, past);
        let (x, xs) = c.rows("x", &[2, 6]);
        let inv_freq = [1.0, 0.1, 0.01];
        let constant = c.b.constant("inv_freq", TensorType::new(DType::F32, [3u32]), inv_freq.to_vec());
        let table = c.b.push("table", Op::RopeTable, &[c.positions(), constant]).unwrap();
        let found = c.run(Op::Rope, &[x, Value::Node(table, 0), Value::Node(table, 1)], &[]);
        let mut expected = xs.clone();
        for (head, y) in expected.chunks_mut(6).enumerate() {
            let position = (past as usize + head / 2) as f64;
            for i in 0..3 {
                let (sin, cos) = (position * inv_freq[i] as f64).sin_cos();
                let (low, high) = (y[i], y[i + 3]);
                y[i] = low * cos - high * sin;
                y[i + 3] = low * sin + high * cos;
            }
        }
        close(&found[0], &expected);
    }
}

#[test]
fn rope_table() {
    for (seq, past) in PLACES {
        let mut c = Case::new(seq, past);
        let constant = c.b.constant("inv_freq", TensorType::new(DType::F32, [2u32]), vec![1.0, 0.25]);
        let positions = c.positions();
        let found = c.run(Op::RopeTable, &[positions, constant], &[]);
        let angles: Vec<f64> = (past..past + seq).flat_map(|p| [p as f64, p as f64 * 0.25]).collect();
        close(&found[0], &angles.iter().map(|a| a.cos()).collect::<Vec<_>>());
        close(&found[1], &angles.iter().map(|a| a.sin()).collect::<Vec<_>>());
    }
}

#[test]
fn attention() {
    let (heads, kv, d) = (6usize, 2usize, 4usize);
    for (seq, past) in PLACES {
        for (dtype, window) in
            [(DType::F32, None), (DType::F16, None), (DType::F32, Some(3)), (DType::F16, Some(1))]
        {
            let mut c = Case::new(seq, past);
            let (q, qs) = c.rows("q", &[heads as u32, d as u32]);
            let (k, ks) = c.rows("k", &[kv as u32, d as u32]);
            let (v, vs) = c.rows("v", &[kv as u32, d as u32]);
            let ty = TensorType::new(dtype, [Dim::fixed(kv as u32), Dim::PAST, Dim::fixed(d as u32)]);
            let (keys, old_keys) = c.state("keys", ty.clone(), Update::Append { axis: 1 });
            let (values, old_values) = c.state("values", ty, Update::Append { axis: 1 });
            let op = Op::Attention { scale: 0.7, window };
            let found = c.run(op, &[q, k, v, keys, values], &[keys, values]);

            let (seq, past) = (seq as usize, past as usize);
            let round = |x: f64| if dtype == DType::F16 { half::f16::from_f32(x as f32).to_f64() } else { x };
            // Element [g, t, i] of a state and of what this call adds to it.
            let at = |old: &[f64], new: &[f64], g: usize, t: usize, i: usize| match t.checked_sub(past) {
                None => old[(g * past + t) * d + i],
                Some(t) => round(new[(t * kv + g) * d + i]),
            };
            let mut y = vec![0.0; seq * heads * d];
            for s in 0..seq {
                for h in 0..heads {
                    let g = h / (heads / kv);
                    let seen = |t: usize| t <= past + s && window.is_none_or(|w| past + s - t < w as usize);
                    let score = |t: usize| {
                        (0..d).map(|i| qs[(s * heads + h) * d + i] * at(&old_keys, &ks, g, t, i)).sum::<f64>()
                    };
                    let exps: Vec<f64> = (0..past + seq)
                        .map(|t| if seen(t) { (score(t) * 0.7f32 as f64).exp() } else { 0.0 })
                        .collect();
                    let sum: f64 = exps.iter().sum();
                    for i in 0..d {
                        y[(s * heads + h) * d + i] =
                            (0..past + seq).map(|t| exps[t] / sum * at(&old_values, &vs, g, t, i)).sum();
                    }
                }
            }
            close(&found[0], &y);
            for (found, old, new) in [(&found[1], &old_keys, &ks), (&found[2], &old_values, &vs)] {
                let expected: Vec<f64> = (0..kv * (past + seq) * d)
                    .map(|e| at(old, new, e / d / (past + seq), e / d % (past + seq), e % d))
                    .collect();
                assert_eq!(*found, expected);
            }
        }
    }
}

#[test]
fn conv_gate() {
    let h = 3usize;
    for (seq, past) in PLACES {
        for (taps, with_bias) in [(1, false), (2, true), (3, false), (3, true), (7, false)] {
            let mut c = Case::new(seq, past);
            let (bcx, xs) = c.rows("bcx", &[3 * h as u32]);
            let (kernel, kernels) = c.weight("kernel", &[h as u32, taps as u32]);
            let bias = with_bias.then(|| c.weight("bias", &[h as u32]));
            let ty = TensorType::new(DType::F32, [h as u32, taps as u32 - 1]);
            let (window, old) = c.state("window", ty, Update::Window);
            let args: Vec<Value> =
                [bcx, kernel].into_iter().chain(bias.iter().map(|b| b.0)).chain([window]).collect();
            let found = c.run(Op::ConvGate { taps: taps as u32 }, &args, &[window]);

            let seq = seq as usize;
            let third = |t: usize, part: usize, i: usize| xs[t * 3 * h + part * h + i];
            // The gated input at `t - (taps - 1)`: the window comes first.
            let z = |t: usize, i: usize| match t.checked_sub(taps - 1) {
                None => old[i * (taps - 1) + t],
                Some(t) => third(t, 0, i) * third(t, 2, i),
            };
            let mut y = Vec::new();
            for t in 0..seq {
                for i in 0..h {
                    let conv: f64 = (0..taps).map(|j| kernels[i * taps + j] * z(t + j, i)).sum();
                    y.push(third(t, 1, i) * (conv + bias.as_ref().map_or(0.0, |b| b.1[i])));
                }
            }
            close(&found[0], &y);
            let next: Vec<f64> =
                (0..h).flat_map(|i| (0..taps - 1).map(move |j| (seq + j, i))).map(|(t, i)| z(t, i)).collect();
            close(&found[1], &next);
        }
    }
}

#[test]
fn swiglu() {
    for (seq, past) in PLACES {
        let mut c = Case::new(seq, past);
        let (x, xs) = c.rows("x", &[4]);
        let (gate, gates) = c.weight("gate", &[5, 4]);
        let (up, ups) = c.weight("up", &[5, 4]);
        let found = c.run(Op::SwiGlu, &[x, gate, up], &[]);
        let (g, u) = (product(&xs, &gates, 4), product(&xs, &ups, 4));
        let expected: Vec<f64> = g.iter().zip(&u).map(|(g, u)| g * sigmoid(*g) * u).collect();
        close(&found[0], &expected);
    }
}

#[test]
fn linear_add() {
    for (seq, past) in PLACES {
        for with_bias in [false, true] {
            let mut c = Case::new(seq, past);
            let (x, xs) = c.rows("x", &[4]);
            let (w, ws) = c.weight("w", &[3, 4]);
            let bias = with_bias.then(|| c.weight("bias", &[3]));
            let (residual, rs) = c.rows("residual", &[3]);
            let args: Vec<Value> =
                [x, w].into_iter().chain(bias.iter().map(|b| b.0)).chain([residual]).collect();
            let found = c.run(Op::LinearAdd, &args, &[]);
            let bias = |i: usize| bias.as_ref().map_or(0.0, |b| b.1[i % 3]);
            let expected: Vec<f64> =
                product(&xs, &ws, 4).iter().enumerate().map(|(i, y)| rs[i] + y + bias(i)).collect();
            close(&found[0], &expected);
        }
    }
}

#[test]
fn moe() {
    let (e, i, h) = (5usize, 3usize, 4usize);
    for (seq, past) in PLACES {
        for (top_k, renorm, scale, bias, residual) in [
            (2, Some(1e-6), 1.0, true, true),
            (1, None, 2.5, false, false),
            (5, Some(0.0), 0.5, true, false),
            (3, None, 1.0, false, true),
        ] {
            let mut c = Case::new(seq, past);
            let (x, xs) = c.rows("x", &[h as u32]);
            let (router, routers) = c.weight("router", &[e as u32, h as u32]);
            let selection = bias.then(|| c.weight("bias", &[e as u32]));
            let (gate, gates) = c.weight("gate", &[e as u32, i as u32, h as u32]);
            let (up, ups) = c.weight("up", &[e as u32, i as u32, h as u32]);
            let (down, downs) = c.weight("down", &[e as u32, h as u32, i as u32]);
            let rest = residual.then(|| c.rows("residual", &[h as u32]));
            let mut args = vec![x, router];
            args.extend(selection.iter().map(|s| s.0));
            args.extend([gate, up, down]);
            args.extend(rest.iter().map(|r| r.0));
            let op = Op::Moe { top_k: top_k as u32, renorm, scale, bias, residual };
            let found = c.run(op, &args, &[]);

            let mut expected = Vec::new();
            for (t, x) in xs.chunks(h).enumerate() {
                let s: Vec<f64> = routers.chunks(h).map(|w| sigmoid(dot(x, w))).collect();
                let rank = |at: usize| s[at] + selection.as_ref().map_or(0.0, |b| b.1[at]);
                let mut chosen: Vec<usize> = (0..e).collect();
                chosen.sort_by(|a, b| rank(*b).total_cmp(&rank(*a)));
                chosen.truncate(top_k);
                let sum = renorm.map_or(1.0, |eps| chosen.iter().map(|at| s[*at]).sum::<f64>() + eps as f64);
                let mut y = rest.as_ref().map_or(vec![0.0; h], |r| r.1[t * h..(t + 1) * h].to_vec());
                for at in chosen {
                    let part = |w: &[f64]| w[at * i * h..(at + 1) * i * h].to_vec();
                    let (g, u) = (product(x, &part(&gates), h), product(x, &part(&ups), h));
                    let inner: Vec<f64> = g.iter().zip(&u).map(|(g, u)| g * sigmoid(*g) * u).collect();
                    for (y, d) in y.iter_mut().zip(product(&inner, &part(&downs), i)) {
                        *y += s[at] / sum * scale as f64 * d;
                    }
                }
                expected.extend(y);
            }
            close(&found[0], &expected);
        }
    }
}

#[test]
fn equal_experts_go_to_the_lower_index() {
    let mut c = Case::new(1, 0);
    let (x, _) = c.rows("x", &[1]);
    let mut weight = |name: &str, shape: [usize; 3], data: [f32; 3]| {
        let shape: Vec<usize> = shape.into_iter().filter(|n| *n > 0).collect();
        let ty = TensorType::new(DType::F32, shape.iter().map(|n| *n as u32));
        c.weights.insert(name.into(), Tensor::f32(shape, data.to_vec()));
        c.b.weight(name, ty, name)
    };
    let args = [
        x,
        weight("router", [3, 1, 0], [0.0; 3]),
        weight("gate", [3, 1, 1], [1.0; 3]),
        weight("up", [3, 1, 1], [1.0; 3]),
        weight("down", [3, 1, 1], [0.0, 1.0, 1e6]),
    ];
    let (s, op) = (0.5, Op::Moe { top_k: 2, renorm: None, scale: 1.0, bias: false, residual: false });
    let x = c.weights["x"].as_f32().unwrap()[0] as f64;
    let found = c.run(op, &args, &[]);
    close(&found[0], &[s * x * sigmoid(x) * x]);
}

/// Every value of both graphs that has the same name has the same bits, and so have the states.
fn same_values(graph: &Graph, expanded: &Graph, seed: u64, calls: &[&[i32]]) -> usize {
    let weights = random_weights(graph, seed);
    let mut common = 0;
    for rows in [Rows::Last, Rows::All] {
        let run = |graph: &Graph| {
            let interp = Interp::new(graph, &|name| weights.get(name).cloned()).unwrap();
            let mut states = States::new(graph);
            let mut seen = Vec::new();
            for call in calls {
                let mut values = BTreeMap::new();
                let mut keep =
                    |name: &str, tensor: &Tensor| drop(values.insert(name.to_string(), bits(tensor)));
                let results = interp.run_tokens_with(call, &mut states, rows, &mut keep);
                seen.push((values, results.map(|r| r.iter().map(bits).collect::<Vec<_>>()).is_ok()));
            }
            let states: Vec<_> =
                graph.states().values().map(|s| bits(states.get(&s.name).unwrap())).collect();
            (seen, states)
        };
        let ((fused, states), (core, core_states)) = (run(graph), run(expanded));
        assert_eq!(states, core_states);
        for ((fused, fused_ok), (core, core_ok)) in fused.iter().zip(&core) {
            assert_eq!(fused_ok, core_ok);
            for (name, value) in fused {
                if let Some(other) = core.get(name) {
                    assert_eq!(value, other, "{name}");
                    common += 1;
                }
            }
        }
    }
    common
}

/// Shape and bits: what is not a number equals itself here.
fn bits(tensor: &Tensor) -> (Vec<usize>, Vec<u32>) {
    let bits = match &tensor.data {
        Data::F32(data) => data.iter().map(|x| if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }).collect(),
        Data::I32(data) => data.iter().map(|x| *x as u32).collect(),
    };
    (tensor.shape.clone(), bits)
}

#[test]
fn tiny_models_expand() {
    for seed in 0..30 {
        let tiny = Tiny::random(seed);
        let graph = tiny_graph(&tiny);
        assert_eq!(verify_executable(&graph), [], "{tiny:?}");
        let expanded = expand_graph(&graph).unwrap();
        assert_eq!(verify(&expanded), [], "{tiny:?}");
        assert!(expanded.nodes().values().all(|n| !n.op.is_fused()));
        let last = tiny.vocab as i32 - 1;
        let common = same_values(&graph, &expanded, seed, &[&[0, last, 0], &[last]]);
        // The first result of each node keeps its name.
        assert!(common >= 2 * 2 * graph.nodes().len(), "{common} of {}", graph.nodes().len());
    }
}

#[test]
fn random_graphs_expand() {
    let mut ops = BTreeSet::new();
    for seed in 0..300 {
        // An expanded graph has no dead nodes, whose indices might be out of range.
        let graph = sweep(&random_graph(seed));
        ops.extend(graph.histogram().into_keys());
        let expanded = expand_graph(&graph).unwrap();
        assert_eq!(verify(&expanded), [], "seed {seed}\n{}", expanded.annotated(&verify(&expanded)));
        same_values(&graph, &expanded, seed, &[&[0, 1, 2], &[15], &[3, 3, 9, 2, 7]]);
    }
    assert_eq!(ops.len(), 35, "the generator makes only {ops:?}");
}

#[test]
fn the_expansion_of_a_tiny_model() {
    let tiny = Tiny { kv: DType::F16, ..Tiny::moe() };
    insta::assert_snapshot!(expand_graph(&tiny_graph(&tiny)).unwrap().text());
}

#[test]
fn long_names_stay_well_formed() {
    let long = format!("l0.{}", "x".repeat(125));
    let mut c = Case::new(2, 0);
    let (x, _) = c.rows("x", &[4]);
    let (w, _) = c.weight("w", &[4]);
    for name in [&long[..128], &long[..127]] {
        let y = c.b.node(name, Op::RmsNorm { eps: 1e-5 }, &[x, w]).unwrap();
        c.b.output(y);
    }
    let graph = c.b.finish();
    assert_eq!(verify(&graph), []);
    let expanded = expand_graph(&graph).unwrap();
    assert_eq!(verify(&expanded), []);
    assert!(expanded.node_named(&long).is_some());
}
