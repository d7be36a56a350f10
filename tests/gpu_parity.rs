//! Bundles on a GPU against Hugging Face transformers, and against the CPU: logits, greedy tokens, routing; all tokens
//! together and one by one.
//!
//! They are run by the program in `LFM_RUN_WGPU`, a `lfm-run` with feature `wgpu` (`just test-gpu` builds one): one test
//! with both burn and wgpu would compile either once more. Without it the tests are skipped and say so; with
//! `REQUIRE_GPU=1` they fail.

use std::path::Path;
use std::process::Command;

use lfm_runtime::{Options, Session};
use lfm_tests::{Bundle, FIXTURES, Golden, fixture, ids, max_difference, nmse};
use safetensors::SafeTensors;
use serde_json::Value;

/// Largest difference of a logit of f32 bundles, and of f16 bundles by the range of the logits.
const F32: f32 = 1e-3;
const F16: f32 = 5e-3;
/// NMSE of quantised bundles against the CPU.
const QUANTISED: f64 = 1e-4;
/// Greedy tokens are compared where the two best logits are further apart than this.
const MARGIN: f32 = 1e-2;
/// Experts whose scores are closer than this are a near tie.
const NEAR_TIE: f32 = 1e-4;

/// The program, if there is one.
#[expect(clippy::print_stderr, reason = "nothing is skipped silently")]
fn program() -> Option<String> {
    let program = std::env::var("LFM_RUN_WGPU").ok();
    let required = std::env::var("REQUIRE_GPU").is_ok_and(|value| value == "1");
    assert!(
        program.is_some() || !required,
        "REQUIRE_GPU=1, but LFM_RUN_WGPU names no lfm-run with feature wgpu"
    );
    if program.is_none() {
        eprintln!(
            "skipped: LFM_RUN_WGPU names no lfm-run with feature wgpu (REQUIRE_GPU=1 makes this a failure)"
        );
    }
    program
}

/// What a run gives: logits of all positions, experts by layer and position.
struct Answer {
    logits: Vec<f32>,
    routes: Vec<(String, Vec<Vec<u32>>)>,
}

fn run(program: &str, bundle: &Path, tokens: &[u32], chunk: usize) -> Answer {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("logits.safetensors");
    let file = file.as_path();
    let list: Vec<String> = tokens.iter().map(u32::to_string).collect();
    let output = Command::new(program)
        .args(["logits", "--backend", "wgpu", "--all", "--routes", "--tokens", &list.join(",")])
        .args(["--chunk", &chunk.to_string()])
        .arg("-o")
        .args([file, bundle])
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let by_position = |layer: &Value| layer["ids"].as_array().unwrap().iter().map(ids).collect();
    let layers = report["routes"].as_array().unwrap();
    let bytes = std::fs::read(file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let logits = tensors.tensor("logits").unwrap().data().as_chunks::<4>().0;
    Answer {
        logits: logits.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        routes: layers.iter().map(|l| (l["layer"].as_str().unwrap().to_owned(), by_position(l))).collect(),
    }
}

fn session(bundle: &Bundle) -> Session {
    bundle.open().session(&Options { threads: Some(2), ..Options::default() }).unwrap()
}

/// The best id of a row, and how far it is from the second.
fn best(logits: &[f32]) -> (u32, f32) {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    (order[0] as u32, logits[order[0]] - logits[order[1]])
}

fn range(logits: &[f32]) -> f32 {
    let most = |sign: f32| logits.iter().map(|x| sign * x).fold(f32::NEG_INFINITY, f32::max);
    most(1.0) + most(-1.0)
}

/// A prompt with its greedy continuation, all but the last token of it.
fn continued(prompt: &Value) -> (usize, Vec<u32>, Vec<u32>) {
    let (mut tokens, greedy) = (ids(&prompt["ids"]), ids(&prompt["greedy"]));
    let len = tokens.len();
    tokens.extend(&greedy[..greedy.len() - 1]);
    (len, tokens, greedy)
}

#[test]
fn f32_bundles() {
    let Some(program) = program() else { return };
    for name in FIXTURES {
        let (golden, bundle) = (Golden::read(name), Bundle::export(&fixture(name), "f32"));
        for prompt in golden.json["prompts"].as_array().unwrap() {
            let label = prompt["name"].as_str().unwrap();
            let (len, tokens, greedy) = continued(prompt);
            let last = &golden.tensors[&format!("{label}.last_logits")].data;
            let margins = &golden.tensors[&format!("{label}.greedy_margin")].data;
            let vocab = last.len();
            for chunk in [64, 1] {
                let answer = run(&program, &bundle.path, &tokens, chunk);
                let what = format!("{name} {label} chunk {chunk}");
                let worst = max_difference(&answer.logits[(len - 1) * vocab..len * vocab], last);
                assert!(worst <= F32, "{what}: last logits differ by {worst}");
                if let Some(all) = golden.tensors.get(&format!("{label}.logits")) {
                    let worst = max_difference(&answer.logits[..len * vocab], &all.data);
                    assert!(worst <= F32, "{what}: logits differ by {worst}");
                }
                let rows = answer.logits[(len - 1) * vocab..].chunks_exact(vocab);
                for (step, (row, expected)) in rows.zip(&greedy).enumerate() {
                    assert!(
                        best(row).0 == *expected || margins[step] <= MARGIN,
                        "{what}: greedy token {step}"
                    );
                }
                if label == "p2" {
                    check_routes(&what, &golden, &answer, len);
                }
            }
        }
    }
}

/// Experts of prompt p2, but for near ties.
fn check_routes(what: &str, golden: &Golden, answer: &Answer, len: usize) {
    for (layer, found) in &answer.routes {
        let layer = layer.split('.').next().unwrap().trim_start_matches('l');
        let expected = &golden.tensors[&format!("p2.router.L{layer}.ids")];
        let margins = golden.tensors.get(&format!("p2.router.L{layer}.margin"));
        let expected = expected.data.chunks_exact(expected.shape[1]);
        for (position, (found, expected)) in found.iter().take(len).zip(expected).enumerate() {
            let found: Vec<f32> = found.iter().map(|id| *id as f32).collect();
            let near_tie = margins.is_some_and(|margins| margins.data[position] < NEAR_TIE);
            assert!(found == expected || near_tie, "{what}: layer {layer}, position {position}");
        }
    }
}

#[test]
fn f16_bundles() {
    let Some(program) = program() else { return };
    for name in FIXTURES {
        let (golden, bundle) = (Golden::read(name), Bundle::export(&fixture(name), "f16"));
        let (label, tokens) = golden.prompts().into_iter().find(|(label, _)| label == "p2").unwrap();
        let last = &golden.tensors[&format!("{label}.last_logits")].data;
        for chunk in [64, 1] {
            let answer = run(&program, &bundle.path, &tokens, chunk);
            let worst = max_difference(&answer.logits[answer.logits.len() - last.len()..], last);
            assert!(worst <= F16 * range(last), "{name} chunk {chunk}: last logits differ by {worst}");
        }
    }
}

#[test]
fn quantised_bundles() {
    let Some(program) = program() else { return };
    for name in ["tiny-moe", "tiny-dense", "odd-dense", "odd-moe", "odd-moe-2", "all-conv", "all-attention"] {
        let golden = Golden::read(name);
        let (_, tokens) = golden.prompts().into_iter().find(|(label, _)| label == "p2").unwrap();
        for recipe in ["q4_0", "q8_0", "q6_k"] {
            let bundle = Bundle::export(&fixture(name), recipe);
            let mut session = session(&bundle);
            let (vocab, mut expected) = (session.model().vocab(), Vec::new());
            session.record_routes(true);
            session
                .prefill_all(&tokens, |_, rows| {
                    expected.extend_from_slice(rows);
                    Ok(())
                })
                .unwrap();
            let routes = session.take_routes();
            for chunk in [64, 1] {
                let answer = run(&program, &bundle.path, &tokens, chunk);
                let what = format!("{name} {recipe} chunk {chunk}");
                let error = nmse(&answer.logits, &expected);
                assert!(error <= QUANTISED, "{what}: NMSE {error}");
                let rows = answer.logits.chunks_exact(vocab).zip(expected.chunks_exact(vocab));
                for (position, (found, expected)) in rows.enumerate() {
                    let (id, margin) = best(expected);
                    let near = margin <= MARGIN * range(expected);
                    assert!(best(found).0 == id || near, "{what}: best token at position {position}");
                }
                let found = |layer: &str, position: usize| {
                    let layer = answer.routes.iter().find(|(name, _)| name == layer);
                    layer.map(|(_, ids)| ids[position].clone())
                };
                let differ =
                    routes.iter().filter(|r| found(&r.layer, r.position).as_ref() != Some(&r.ids)).count();
                assert!(100 * differ <= routes.len(), "{what}: {differ} of {} routes differ", routes.len());
            }
        }
    }
}
