//! Bundles in f32 against Hugging Face transformers: logits, greedy tokens, routing.

use lfm_runtime::{Model, Options, Session};
use lfm_tests::{Bundle, FIXTURES, Golden, fixture, ids, max_difference};

/// Two f32 implementations of one model differ by rounding alone.
const TOLERANCE: f32 = 1e-4;
/// Greedy tokens are compared where the two best logits are further apart than this.
const MARGIN: f32 = 1e-3;

fn session(model: &Model, chunk: usize) -> Session {
    model.session(&Options { chunk: Some(chunk), threads: Some(2), ..Options::default() }).unwrap()
}

fn all_logits(session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    let mut logits = Vec::new();
    session
        .prefill_all(tokens, |_, rows| {
            logits.extend_from_slice(rows);
            Ok(())
        })
        .unwrap();
    logits
}

fn argmax(logits: &[f32]) -> u32 {
    (0..logits.len()).rev().max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap() as u32
}

#[test]
fn logits_of_all_positions() {
    for name in FIXTURES {
        let (golden, bundle) = (Golden::read(name), Bundle::export(&fixture(name), "f32"));
        let model = bundle.open();
        for (prompt, tokens) in golden.prompts() {
            for chunk in [1, 64] {
                let mut session = session(&model, chunk);
                let logits = all_logits(&mut session, &tokens);
                let last = &golden.tensors[&format!("{prompt}.last_logits")];
                let worst = max_difference(&logits[logits.len() - model.vocab()..], &last.data);
                assert!(worst <= TOLERANCE, "{name} {prompt} chunk {chunk}: last logits differ by {worst}");
                if let Some(all) = golden.tensors.get(&format!("{prompt}.logits")) {
                    let worst = max_difference(&logits, &all.data);
                    assert!(worst <= TOLERANCE, "{name} {prompt} chunk {chunk}: logits differ by {worst}");
                }
            }
        }
    }
}

#[test]
fn greedy_tokens() {
    for name in FIXTURES {
        let (golden, bundle) = (Golden::read(name), Bundle::export(&fixture(name), "f32"));
        let model = bundle.open();
        for prompt in golden.json["prompts"].as_array().unwrap() {
            let label = prompt["name"].as_str().unwrap();
            let margins = &golden.tensors[&format!("{label}.greedy_margin")];
            let mut session = session(&model, 512);
            let mut next = argmax(session.prefill(&ids(&prompt["ids"])).unwrap());
            for (step, expected) in ids(&prompt["greedy"]).into_iter().enumerate() {
                if next != expected {
                    assert!(margins.data[step] <= MARGIN, "{name} {label}: greedy token {step}");
                    break;
                }
                next = argmax(session.decode(next).unwrap());
            }
        }
    }
}

#[test]
fn chosen_experts() {
    for name in FIXTURES {
        let golden = Golden::read(name);
        let has_router = golden.tensors.keys().any(|key| key.starts_with("p2.router"));
        assert_eq!(has_router, name.contains("moe"), "{name}: goldens of the router");
        if !has_router {
            continue;
        }
        let bundle = Bundle::export(&fixture(name), "f32");
        let mut session = session(&bundle.open(), 512);
        session.record_routes(true);
        let (_, tokens) = golden.prompts().into_iter().find(|(prompt, _)| prompt == "p2").unwrap();
        session.prefill(&tokens).unwrap();
        let mut compared = 0;
        for route in session.take_routes() {
            let layer = route.layer.split('.').next().unwrap().trim_start_matches('l');
            let expected = &golden.tensors[&format!("p2.router.L{layer}.ids")];
            let weights = &golden.tensors[&format!("p2.router.L{layer}.weights")];
            let k = expected.shape[1];
            let row = route.position * k..(route.position + 1) * k;
            let found: Vec<f32> = route.ids.iter().map(|id| *id as f32).collect();
            assert_eq!(found, expected.data[row.clone()], "{name} layer {layer} position {}", route.position);
            assert!(max_difference(&route.weights, &weights.data[row]) < 1e-5);
            compared += 1;
        }
        assert!(compared >= tokens.len(), "{name}: every position of every mixture is compared");
    }
}
