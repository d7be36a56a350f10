//! Sessions: right by the interpreter, and the same bits however the work is divided.

mod common;

use common::{FORMATS, Made, Recipe, tokens};
use lfm_graphs::DType;
use lfm_graphs::bundle::LogitsDigest;
use lfm_graphs::interp::{Interp, Rows, States};
use lfm_graphs::testing::Tiny;
use lfm_graphs::weights::Format;
use lfm_runtime::cpu::kernels::available;
use lfm_runtime::{Error, Model, Options, Session};

fn open(made: &Made) -> Model {
    Model::open(&made.path).unwrap_or_else(|e| panic!("{e}"))
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

fn digest(logits: &[f32]) -> String {
    let mut digest = LogitsDigest::new();
    digest.update(logits);
    digest.finish()
}

/// What the interpreter answers with the weights that the bundle holds.
fn interpreted(made: &Made, tokens: &[u32]) -> Vec<f32> {
    let interp = Interp::new(&made.graph, &|name| made.stored.get(name).cloned()).unwrap();
    let ids: Vec<i32> = tokens.iter().map(|id| *id as i32).collect();
    let mut states = States::new(&made.graph);
    let out = interp.run_tokens_with(&ids, &mut states, Rows::All, &mut |_, _| {}).unwrap();
    out[0].as_f32().unwrap().to_vec()
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Normalised mean squared error.
fn nmse(found: &[f32], expected: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    error / expected.iter().map(|x| square(*x)).sum::<f64>()
}

#[test]
fn float_bundles_agree_with_the_interpreter() {
    let shapes = [Tiny::moe(), Tiny::dense(), Tiny { conv_bias: true, tied: false, ..Tiny::moe() }];
    let random = (0..24).map(Tiny::random);
    for (index, tiny) in shapes.into_iter().chain(random).enumerate() {
        for format in [Format::F32, Format::F16] {
            let made = Recipe::new(tiny.clone(), format).make();
            let ids = tokens(21, tiny.vocab as usize);
            let expected = interpreted(&made, &ids);
            let found = all(&mut open(&made).session(&Options::default()).unwrap(), &ids);
            let error = worst(&found, &expected);
            // A key or value that rounds to the other neighbour in f16 moves what follows.
            let most = if tiny.kv == DType::F16 { 2e-4 } else { 2e-5 };
            assert!(error < most, "shape {index}, {format}: {error}\n{tiny:?}");
        }
    }
}

#[test]
fn quantised_bundles_are_near_the_interpreter() {
    for format in [Format::Q8_0, Format::Q4_0, Format::Q6K] {
        for tiny in [Tiny::dense(), Tiny { hidden: 96, ..Tiny::dense() }] {
            let made = Recipe::new(tiny.clone(), format).make();
            let ids = tokens(40, tiny.vocab as usize);
            let expected = interpreted(&made, &ids);
            let found = all(&mut open(&made).session(&Options::default()).unwrap(), &ids);
            let error = nmse(&found, &expected);
            assert!(error < 2e-3, "{format}: {error}");
        }
    }
}

/// Shapes that differ in what the executor does.
fn shapes() -> Vec<Tiny> {
    let mut shapes = Vec::new();
    for taps in 1..=4 {
        shapes.push(Tiny { taps, ..Tiny::moe() });
    }
    shapes.push(Tiny { kv: DType::F16, conv_bias: true, tied: false, hidden: 40, ..Tiny::dense() });
    shapes.push(Tiny { kv: DType::F16, window: Some(5), hidden: 72, experts: 6, top_k: 3, ..Tiny::moe() });
    shapes
}

#[test]
fn logits_do_not_depend_on_threads_tier_or_chunk() {
    for (index, tiny) in shapes().into_iter().enumerate() {
        // All thread counts once, and two of them with every shape.
        let threads: &[usize] = if index == 2 { &[1, 2, 3, 4] } else { &[1, 3] };
        for format in FORMATS {
            let made = Recipe::new(tiny.clone(), format).make();
            let model = open(&made);
            let ids = tokens(70, tiny.vocab as usize);
            let mut expected = None;
            for tier in available() {
                for threads in threads {
                    for chunk in [1, 7, 64] {
                        let options = Options {
                            threads: Some(*threads),
                            isa: Some(tier.name().into()),
                            chunk: Some(chunk),
                            ..Options::default()
                        };
                        let mut session = model.session(&options).unwrap();
                        let found = digest(&all(&mut session, &ids));
                        let expected = expected.get_or_insert_with(|| found.clone());
                        assert_eq!(&found, expected, "{format} {options:?} {tiny:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn prefill_is_decode_bit_for_bit() {
    for format in FORMATS {
        let made = Recipe::new(Tiny::moe(), format).make();
        let model = open(&made);
        let ids = tokens(50, 96);
        let mut session = model.session(&Options::default()).unwrap();
        let together = all(&mut session, &ids);
        session.clear();
        assert_eq!(session.past(), 0);
        let mut one_by_one = Vec::new();
        for id in &ids {
            one_by_one.extend_from_slice(session.decode(*id).unwrap());
        }
        assert_eq!(digest(&together), digest(&one_by_one), "{format}");
        // Again after clear(), in two calls; only the last row of each is asked for.
        session.clear();
        session.prefill(&ids[..13]).unwrap();
        let last = session.prefill(&ids[13..]).unwrap();
        assert_eq!(digest(last), digest(&together[49 * 96..]), "{format}");
    }
}

#[test]
fn routes_are_the_interpreters() {
    let made = Recipe::new(Tiny { experts: 6, top_k: 3, ..Tiny::moe() }, Format::F32).make();
    let model = open(&made);
    let ids = tokens(30, 96);
    let record = |chunk| {
        let options = Options { chunk: Some(chunk), ..Options::default() };
        let mut session = model.session(&options).unwrap();
        session.record_routes(true);
        session.prefill(&ids).unwrap();
        let mut routes = session.take_routes();
        assert!(session.take_routes().is_empty());
        routes.sort_by_key(|route| (route.layer.clone(), route.position));
        routes
    };
    let routes = record(64);
    assert_eq!(routes.len(), 60);
    assert_eq!(routes, record(7));
    for route in &routes {
        assert_eq!((route.ids.len(), route.weights.len()), (3, 3));
        assert!((route.weights.iter().sum::<f32>() - 1.0).abs() < 1e-3, "{route:?}");
    }
    assert_eq!(routes.iter().filter(|r| r.layer == "l1.ffn.moe").count(), 30);
}

#[test]
fn a_full_context_is_an_error_and_changes_nothing() {
    let made = Recipe::new(Tiny::moe(), Format::F32).make();
    let model = open(&made);
    let options = Options { context: Some(9), ..Options::default() };
    let mut session = model.session(&options).unwrap();
    session.prefill(&tokens(8, 96)).unwrap();
    let error = session.prefill(&[1, 2]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the context is full: 8 positions are taken, 2 more do not fit into the 9 of this session"
    );
    assert!(matches!(session.prefill(&[96]), Err(Error::Token { id: 96, vocab: 96 })));
    assert!(matches!(session.prefill(&[]), Err(Error::Argument(_))));
    assert_eq!(session.past(), 8);
    session.decode(1).unwrap();
    assert!(matches!(session.decode(1), Err(Error::ContextFull { .. })));
}

#[test]
fn options_out_of_range_are_named() {
    let made = Recipe::new(Tiny::dense(), Format::F32).make();
    let model = open(&made);
    let message = |options: Options| model.session(&options).unwrap_err().to_string();
    let none = Options::default;
    assert_eq!(message(Options { threads: Some(0), ..none() }), "threads is 0, expected 1 to 32");
    assert_eq!(message(Options { chunk: Some(65), ..none() }), "chunk is 65, expected 1 to 64");
    assert_eq!(message(Options { context: Some(161), ..none() }), "context is 161, expected 1 to 160");
    let isa = message(Options { isa: Some("pdp11".into()), ..none() });
    assert!(isa.starts_with("no kernels for ISA tier `pdp11`: this CPU runs portable"), "{isa}");
}
