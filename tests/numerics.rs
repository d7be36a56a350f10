//! The numerics contract on whole models: one digest per bundle, whatever runs it; and what quantisation costs.

use lfm_graphs::bundle::LogitsDigest;
use lfm_runtime::cpu::kernels;
use lfm_runtime::{Model, Options};
use lfm_tests::{Bundle, Golden, fixture};

/// One checkpoint of each shape; others differ in how their files are written.
const SHAPES: [&str; 7] =
    ["tiny-moe", "tiny-dense", "odd-dense", "odd-moe", "odd-moe-2", "all-conv", "all-attention"];

fn digest(model: &Model, tokens: &[u32], threads: usize, isa: &str, chunk: usize) -> String {
    let options =
        Options { threads: Some(threads), isa: Some(isa.into()), chunk: Some(chunk), ..Options::default() };
    let mut session = model.session(&options).unwrap();
    let mut digest = LogitsDigest::new();
    session
        .prefill_all(tokens, |_, logits| {
            digest.update(logits);
            Ok(())
        })
        .unwrap();
    digest.finish()
}

#[test]
fn one_digest_per_bundle() {
    for name in SHAPES {
        let golden = Golden::read(name);
        // More than a tile of attention; no more, because the portable tier has no fused multiply-add on x86.
        let (_, tokens) = golden.prompts().into_iter().max_by_key(|(_, tokens)| tokens.len()).unwrap();
        let tokens = &tokens[..tokens.len().min(80)];
        for recipe in ["f32", "f16", "q8_0", "q6_k", "q4_0"] {
            let bundle = Bundle::export(&fixture(name), recipe);
            let model = bundle.open();
            let expected = digest(&model, tokens, 1, "portable", 512);
            for tier in kernels::available() {
                let runs: &[(usize, usize)] = match tier.name() {
                    "portable" => &[(2, 7)],
                    _ => &[(1, 512), (2, 1), (3, 7), (4, 64)],
                };
                for &(threads, chunk) in runs {
                    let found = digest(&model, tokens, threads, tier.name(), chunk);
                    let tier = tier.name();
                    assert_eq!(found, expected, "{name} {recipe} {tier}, {threads} threads, chunk {chunk}");
                }
            }
        }
    }
}

#[test]
fn sessions_start_again_the_same() {
    let bundle = Bundle::export(&fixture("tiny-moe"), "q4_0");
    let mut session = bundle.open().session(&Options::default()).unwrap();
    let first = session.prefill(&[1, 5, 9, 300]).unwrap().to_vec();
    session.decode(7).unwrap();
    session.clear();
    assert_eq!(session.prefill(&[1, 5, 9, 300]).unwrap(), first);
}
