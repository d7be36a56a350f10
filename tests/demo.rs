//! The demo checkpoint: a trained model, so that quality means something.

use std::fs;

use lfm_runtime::text::{ChatRequest, Text};
use lfm_runtime::{Options, Session, golden, perplexity};
use lfm_tests::{Bundle, demo, ids};
use serde_json::Value;

/// Tokens of a piece of the validation text.
const WINDOW: usize = 512;
/// Pieces that are scored: enough to tell formats apart, few enough for a test. `docs/numerics.md` has the whole text.
const PIECES: usize = 4;

fn golden_file() -> Value {
    serde_json::from_slice(&fs::read(demo().join("golden.json")).unwrap()).unwrap()
}

/// Ids of a recorded prompt, made from its text or its messages.
fn prompt(text: &Text, generation: &Value) -> Vec<u32> {
    match generation.get("chat") {
        None => text.tokenizer.encode(generation["text"].as_str().unwrap(), true, true).unwrap(),
        Some(messages) => {
            let mut request = ChatRequest::new();
            for message in messages.as_array().unwrap() {
                request.push(message["role"].as_str().unwrap(), message["content"].as_str().unwrap());
            }
            assert_eq!(text.render(&request).unwrap(), generation["prompt"].as_str().unwrap());
            text.encode_chat(&request).unwrap()
        }
    }
}

#[test]
fn it_writes_what_transformers_writes() {
    let bundle = Bundle::export(&demo(), "f32");
    let model = bundle.open();
    let text = model.text().unwrap();
    let mut session = model.session(&Options::default()).unwrap();
    for generation in golden_file()["generations"].as_array().unwrap() {
        let name = generation["prompt"].as_str().unwrap();
        let prompt = prompt(&text, generation);
        assert_eq!(prompt, ids(&generation["prompt_ids"]), "{name:?}");
        session.clear();
        let logits = session.prefill(&prompt).unwrap();
        for top in generation["top"].as_array().unwrap() {
            let (id, expected) = (top[0].as_u64().unwrap() as usize, top[1].as_f64().unwrap());
            let found = f64::from(logits[id]);
            assert!(
                (found - expected).abs() < 1e-3,
                "{name:?}: logit of {id} is {found}, expected {expected}"
            );
        }
        let expected = ids(&generation["new_ids"]);
        let found = golden::vector(&mut session, &prompt, expected.len()).unwrap().greedy;
        assert_eq!(found, expected, "{name:?}");
        // What transformers decodes keeps the special tokens.
        assert_eq!(text.tokenizer.decode(&found, false), generation["new_text"].as_str().unwrap());
    }
}

fn session(bundle: &Bundle) -> Session {
    bundle.open().session(&Options::default()).unwrap()
}

#[test]
fn quantisation_costs_little() {
    let bundles = ["f32", "q8_0", "q4_0"].map(|recipe| Bundle::export(&demo(), recipe));
    let [mut f32, mut q8_0, mut q4_0] = bundles.each_ref().map(session);
    let text = bundles[0].open().text().unwrap();
    let valid = fs::read_to_string(demo().join("valid.txt")).unwrap();
    let ids = text.tokenizer.encode(&valid, false, false).unwrap();
    let expected = golden_file()["validation"]["tokens"].as_u64().unwrap();
    assert_eq!(ids.len() as u64, expected, "tokens of the validation text");
    let ids = &ids[..PIECES * (WINDOW - 1)];
    let bos = text.bos().unwrap();
    let mut score = |session: &mut Session| {
        let score = perplexity::score(session, Some(&mut f32), bos, ids, WINDOW, |_, _| {}).unwrap();
        let reference = score.reference.unwrap();
        (score.perplexity / reference.perplexity, reference.kl, reference.top1)
    };
    let (ratio, kl, top1) = score(&mut q8_0);
    assert!(
        (ratio - 1.0).abs() < 0.005 && kl < 0.005 && top1 > 0.96,
        "q8_0: perplexity x {ratio}, KL {kl}, {top1}"
    );
    let (ratio, kl, top1) = score(&mut q4_0);
    assert!(ratio < 1.05 && kl < 0.07 && top1 > 0.85, "q4_0: perplexity x {ratio}, KL {kl}, {top1}");
    // Were they equal, nothing would have been quantised.
    assert!(kl > 0.01, "q4_0: KL {kl}");
}
