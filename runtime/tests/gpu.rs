//! Sessions on a GPU: near those of the CPU, for every shape, format, chunk and placement.
//!
//! Without an adapter the tests are skipped and say so; with `REQUIRE_GPU=1` they fail.
#![cfg(feature = "wgpu")]

mod common;

use common::{Made, Recipe, tokens};
use lfm_graphs::DType;
use lfm_graphs::testing::{Mixer, Tiny};
use lfm_graphs::weights::Format;
use lfm_runtime::{Backend, Error, Model, Options, Route, Session};

/// Whether there is a GPU. Says so if not.
#[expect(clippy::print_stderr, reason = "nothing is skipped silently")]
fn adapter() -> bool {
    if !lfm_runtime::gpu::adapters().is_empty() {
        return true;
    }
    let required = std::env::var("REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(!required, "REQUIRE_GPU=1, but there is no GPU adapter");
    eprintln!("skipped: there is no GPU adapter (REQUIRE_GPU=1 makes this a failure)");
    false
}

/// How far from the CPU logits may be, `most` being for hardware: software devices with f64 give the same bits.
fn within<T: Default>(most: T) -> T {
    match lfm_runtime::gpu::adapters().first() {
        Some(adapter) if adapter.exact => T::default(),
        _ => most,
    }
}

fn open(made: &Made) -> Model {
    Model::open(&made.path).unwrap_or_else(|e| panic!("{e}"))
}

fn on_gpu() -> Options {
    Options { backend: Backend::Wgpu { adapter: None, layers: None }, ..Options::default() }
}

/// Logits of all positions.
fn all(session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    let mut logits = Vec::new();
    session
        .prefill_all(tokens, |_, rows| {
            logits.extend_from_slice(rows);
            Ok(())
        })
        .unwrap();
    logits
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |most, x| if x <= most { most } else { x })
}

/// Normalised mean squared error.
fn nmse(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    error / expected.iter().map(|x| square(*x)).sum::<f64>()
}

/// Shapes that differ in what is run.
fn shapes() -> Vec<Tiny> {
    let mut shapes = vec![
        Tiny::moe(),
        Tiny { conv_bias: true, tied: false, hidden: 40, kv: DType::F16, ..Tiny::dense() },
        Tiny { kv: DType::F16, window: Some(5), hidden: 72, experts: 6, top_k: 3, ..Tiny::moe() },
        Tiny { taps: 1, renorm: None, expert_bias: false, routed_scale: 0.7, ..Tiny::moe() },
        Tiny { head_dim: 64, kv_heads: 1, heads: 3, layers: vec![Mixer::Attention; 2], ..Tiny::dense() },
    ];
    shapes.extend((0..12).map(Tiny::random));
    shapes
}

#[test]
fn float_bundles_are_near_the_cpu() {
    if !adapter() {
        return;
    }
    for (index, tiny) in shapes().into_iter().enumerate() {
        for format in [Format::F32, Format::F16] {
            let made = Recipe::new(tiny.clone(), format).make();
            let model = open(&made);
            let ids = tokens(37, tiny.vocab as usize);
            let expected = all(&mut model.session(&Options::default()).unwrap(), &ids);
            let mut session = model.session(&on_gpu()).unwrap();
            let error = worst(&all(&mut session, &ids), &expected);
            assert!(error <= within(1e-3), "shape {index}, {format}: {error}\n{tiny:?}");
        }
    }
}

#[test]
fn quantised_bundles_are_near_the_cpu() {
    if !adapter() {
        return;
    }
    for format in Format::ALL.into_iter().filter(|format| format.is_quantised()) {
        for tiny in [Tiny::dense(), Tiny::moe(), Tiny { hidden: 96, kv: DType::F16, ..Tiny::moe() }] {
            let made = Recipe::new(tiny.clone(), format).make();
            let model = open(&made);
            let ids = tokens(40, tiny.vocab as usize);
            let expected = all(&mut model.session(&Options::default()).unwrap(), &ids);
            let mut session = model.session(&on_gpu()).unwrap();
            let error = nmse(&all(&mut session, &ids), &expected);
            // One int8 code of 32 that rounds the other way is 1e-4 in a model this small.
            let most = if matches!(format, Format::Q4_0 | Format::Q8_0) { 1e-4 } else { 5e-4 };
            assert!(error <= within(most), "{format}: {error}\n{tiny:?}");
        }
    }
}

#[test]
fn one_token_is_one_submission_and_near_a_prefill() {
    if !adapter() {
        return;
    }
    for format in [Format::F32, Format::Q4_0] {
        let made = Recipe::new(Tiny { kv: DType::F16, ..Tiny::moe() }, format).make();
        let model = open(&made);
        let ids = tokens(50, 96);
        let mut session = model.session(&on_gpu()).unwrap();
        let together = all(&mut session, &ids);
        session.clear();
        assert_eq!((session.past(), session.context()), (0, 160));
        let mut one_by_one = Vec::new();
        for id in &ids {
            let before = session.submissions();
            one_by_one.extend_from_slice(session.decode(*id).unwrap());
            assert_eq!(session.submissions() - before, 1);
        }
        let error = nmse(&one_by_one, &together);
        assert!(error <= within(1e-4), "{format}: {error}");
        // In chunks, each of one submission; only the last row is asked for.
        let options = Options { chunk: Some(7), ..on_gpu() };
        let mut session = model.session(&options).unwrap();
        session.prefill(&ids[..13]).unwrap();
        let last = session.prefill(&ids[13..]).unwrap().to_vec();
        let error = nmse(&last, &together[49 * 96..]);
        assert!(error <= within(1e-4), "{format}: {error}");
        assert_eq!(session.submissions(), 2 + 6);
        assert_eq!(session.past(), 50);
    }
}

#[test]
fn sessions_go_back() {
    if !adapter() {
        return;
    }
    let made =
        Recipe { chunk: 16, ..Recipe::new(Tiny { kv: DType::F16, ..Tiny::moe() }, Format::Q4_0) }.make();
    let model = open(&made);
    let first = tokens(60, 96);
    let second = [&first[..45], &[1, 2, 3]].concat();
    let divided = Options { backend: Backend::Wgpu { adapter: None, layers: Some(1) }, ..Options::default() };
    for options in [on_gpu(), divided] {
        let cold = |ids: &[u32]| model.session(&options).unwrap().prefill(ids).unwrap().to_vec();
        let mut session = model.session(&options).unwrap();
        session.start(&first).unwrap();
        for (ids, reused) in [(&second[..], 32), (&second[..], 48), (&first[..], 32), (&second[..40], 32)] {
            let start = session.start(ids).unwrap();
            assert_eq!(start.reused, reused);
            let error = nmse(start.logits, &cold(ids));
            assert!(error <= within(1e-4), "{error}");
        }
        let message = session.save(made.folder.path().join("kept"), b"").unwrap_err().to_string();
        assert_eq!(message, "sessions of backend wgpu are not kept in files, expected backend cpu");
    }
}

#[test]
fn layers_may_be_divided_between_cpu_and_gpu() {
    if !adapter() {
        return;
    }
    for format in [Format::F32, Format::Q4_0] {
        let made = Recipe::new(Tiny::moe(), format).make();
        let model = open(&made);
        let ids = tokens(40, 96);
        let expected = all(&mut model.session(&Options::default()).unwrap(), &ids);
        for layers in 0..=3 {
            let backend = Backend::Wgpu { adapter: None, layers: Some(layers) };
            let options = Options { backend, chunk: Some(16), ..Options::default() };
            let mut session = model.session(&options).unwrap();
            for _ in 0..2 {
                let mut found = all(&mut session, &ids[..30]);
                for id in &ids[30..] {
                    found.extend_from_slice(session.decode(*id).unwrap());
                }
                let error = nmse(&found, &expected);
                assert!(error <= within(1e-4), "{format}, {layers} layers: {error}");
                session.clear();
            }
        }
    }
    let made = Recipe::new(Tiny::moe(), Format::F32).make();
    let backend = Backend::Wgpu { adapter: None, layers: Some(4) };
    let error = open(&made).session(&Options { backend, ..Options::default() }).unwrap_err();
    assert_eq!(error.to_string(), "GPU layers are 4, expected 0 to 3");
}

#[test]
fn routes_are_those_of_the_cpu() {
    if !adapter() {
        return;
    }
    let made = Recipe::new(Tiny { experts: 6, top_k: 3, ..Tiny::moe() }, Format::F32).make();
    let model = open(&made);
    let ids = tokens(30, 96);
    let record = |options: &Options| {
        let mut session = model.session(options).unwrap();
        session.record_routes(true);
        session.prefill(&ids[..29]).unwrap();
        session.decode(ids[29]).unwrap();
        let mut routes = session.take_routes();
        assert!(session.take_routes().is_empty());
        session.record_routes(false);
        routes.sort_by_key(|route| (route.layer.clone(), route.position));
        routes
    };
    let expected = record(&Options { chunk: Some(16), ..Options::default() });
    let mixed = Backend::Wgpu { adapter: None, layers: Some(1) };
    for options in [on_gpu(), Options { backend: mixed, ..Options::default() }] {
        let found = record(&Options { chunk: Some(16), ..options });
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let near = |a: &Route, b: &Route| worst(&a.weights, &b.weights) <= 1e-4;
            assert_eq!((&found.layer, found.position), (&expected.layer, expected.position));
            assert!(found.ids == expected.ids && near(found, expected), "{found:?}, expected {expected:?}");
        }
    }
}

/// On all layers or some, every node gives what it gives on the CPU, and what a run without looking gives.
#[cfg(feature = "observe")]
#[test]
fn values_of_nodes_are_those_of_the_cpu() {
    if !adapter() {
        return;
    }
    for format in [Format::F32, Format::Q4_0] {
        let made = Recipe::new(Tiny::moe(), format).make();
        let model = open(&made);
        let ids = tokens(21, 96);
        let look = |options: Options| {
            let mut session = model.session(&Options { chunk: Some(16), ..options }).unwrap();
            session.record_values(true);
            session.record_routes(true);
            let logits = all(&mut session, &ids);
            let (values, routes) = (session.take_values(), session.take_routes());
            assert!(session.take_values().is_empty());
            session.record_values(false);
            session.clear();
            assert_eq!(all(&mut session, &ids), logits);
            assert!(session.take_values().is_empty());
            (values, routes.len(), logits)
        };
        let (expected, routes, logits) = look(Options::default());
        let head: Vec<f32> =
            expected.iter().filter(|v| v.node == "head").flat_map(|v| v.values.clone()).collect();
        assert_eq!(head, logits);
        for layers in [None, Some(1)] {
            let backend = Backend::Wgpu { adapter: None, layers };
            let (found, found_routes, _) = look(Options { backend, ..Options::default() });
            assert_eq!(found_routes, routes);
            let of = |values: &[lfm_runtime::NodeRows], node: &lfm_runtime::NodeRows| -> Vec<f32> {
                let same = |v: &&lfm_runtime::NodeRows| (&v.node, v.result) == (&node.node, node.result);
                values.iter().filter(same).flat_map(|v| v.values.clone()).collect()
            };
            for node in &expected {
                let error = nmse(&of(&found, node), &of(&expected, node));
                assert!(error <= within(1e-4), "{format}, layers {layers:?}, {}: {error}", node.node);
            }
        }
    }
}

#[test]
fn memory_is_what_was_stated() {
    if !adapter() {
        return;
    }
    let model = open(&Recipe::new(Tiny::moe(), Format::Q4_0).make());
    let mut adapter = lfm_runtime::gpu::adapters().remove(0);
    assert_eq!(lfm_runtime::gpu::model_layers(&model), 3);
    let mut before = 0;
    for layers in 0..=3 {
        let stated = lfm_runtime::gpu::needed(&model, &adapter, layers).unwrap();
        let backend = Backend::Wgpu { adapter: None, layers: Some(layers) };
        let session = model.session(&Options { backend, ..Options::default() }).unwrap();
        let (held, upload_s) = session.device_memory().unwrap();
        // What is not stated are the uniforms of a call.
        assert!(
            held >= stated && held - stated <= 16 << 10 && upload_s > 0.0,
            "{layers}: {held}, {stated} stated"
        );
        assert!(stated > before);
        before = stated;
    }
    adapter.binding = 1024;
    let error = lfm_runtime::gpu::needed(&model, &adapter, 3).unwrap_err();
    assert!(error.contains("expected at most 1024 in one binding"), "{error}");
}

#[test]
fn errors_say_what_was_found() {
    if !adapter() {
        return;
    }
    let made = Recipe::new(Tiny::moe(), Format::F32).make();
    let model = open(&made);
    for name in ["no such adapter", "99"] {
        let backend = Backend::Wgpu { adapter: Some(name.into()), layers: None };
        let error = model.session(&Options { backend, ..Options::default() }).unwrap_err().to_string();
        assert!(error.starts_with(&format!("no GPU adapter `{name}`: found 0: ")), "{error}");
        assert!(error.ends_with("`lfm-run info` lists adapters"), "{error}");
    }
    let first = lfm_runtime::gpu::adapters().remove(0).name.to_uppercase();
    let backend = Backend::Wgpu { adapter: Some(first.clone()), layers: None };
    let options = Options { context: Some(9), backend, ..Options::default() };
    let mut session = model.session(&options).unwrap();
    assert!(session.device().unwrap().to_uppercase().starts_with(&first), "{:?}", session.device());
    session.prefill(&tokens(8, 96)).unwrap();
    assert!(matches!(session.prefill(&[1, 2]), Err(Error::ContextFull { past: 8, wanted: 2, context: 9 })));
    assert!(matches!(session.prefill(&[96]), Err(Error::Token { id: 96, vocab: 96 })));
    session.decode(1).unwrap();
    assert!(matches!(session.decode(1), Err(Error::ContextFull { .. })));
}
