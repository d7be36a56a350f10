//! Eager execution on burn-ndarray against the reference values of every fixture.

mod common;

use std::collections::BTreeMap;

use burn::Tensor;
use burn::tensor::{Device, Int, TensorData};
use common::{Golden, argmax, fixture, max_abs_diff};
use lfm_model::{Checkpoint, CheckpointError, Config, Lfm2, Point, State, TensorSpec, Value};

/// Largest difference of a logit, prompts of all lengths.
const LOGIT_TOLERANCE: f32 = 1e-4;
/// Largest difference of a hidden state or a router weight.
const HIDDEN_TOLERANCE: f32 = 1e-4;
/// Where the reference's best two logits are closer than this, either may win.
const TIE_MARGIN: f32 = 1e-3;

/// A loaded fixture.
struct Model {
    model: Lfm2,
    config: Config,
    device: Device,
}

/// Shown values by name, flattened.
#[derive(Default)]
struct Shown {
    floats: BTreeMap<String, Vec<f32>>,
    ints: BTreeMap<String, Vec<i64>>,
}

impl Shown {
    fn add(&mut self, at: Point, value: Value<'_>) {
        match value {
            Value::Float(_) | Value::Heads(_) => {
                self.floats.insert(at.to_string(), value.floats().unwrap());
            }
            Value::Int(tensor) => {
                let data = tensor.clone().into_data().convert::<i64>();
                self.ints.insert(at.to_string(), data.try_into_vec().unwrap());
            }
        }
    }
}

fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

impl Model {
    fn load(name: &str) -> Self {
        Self::open(&fixture(name))
    }

    fn open(folder: &std::path::Path) -> Self {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let device = lfm_model::cpu();
        let model = Lfm2::load(&checkpoint, &device).unwrap();
        Self { model, config: checkpoint.config().clone(), device }
    }

    fn start(&self) -> State {
        State::empty(&self.config, &self.device)
    }

    /// Runs `tokens`, which follow `past` others, to their logits [seq × V].
    fn run(&self, tokens: &[i64], past: usize, state: State, shown: Option<&mut Shown>) -> (Vec<f32>, State) {
        let seq = tokens.len();
        let positions: Vec<i64> = (past as i64..).take(seq).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(tokens.to_vec(), [1, seq]), &self.device);
        let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [seq]), &self.device);
        let (logits, state) = match shown {
            Some(shown) => {
                self.model.forward_observed(ids, positions, state, &mut |at, value| shown.add(at, value))
            }
            None => self.model.forward(ids, positions, state),
        };
        (floats(logits), state)
    }
}

fn check(name: &str) {
    let (golden, model) = (Golden::read(name), Model::load(name));
    let vocab = model.config.vocab_size;
    let prompts = golden.prompts();
    assert!(prompts.len() >= 3, "{name} has prompts");
    for prompt in prompts {
        let ids = golden.ints(&format!("{prompt}.input_ids")).unwrap();
        let mut shown = Shown::default();
        let (logits, state) = model.run(&ids, 0, model.start(), Some(&mut shown));
        let last = &logits[logits.len() - vocab..];
        if let Some(expected) = golden.floats(&format!("{prompt}.logits")) {
            let worst = max_abs_diff(&logits, &expected);
            assert!(worst <= LOGIT_TOLERANCE, "{name} {prompt}: a logit is off by {worst:e}");
        }
        let worst = max_abs_diff(last, &golden.floats(&format!("{prompt}.last_logits")).unwrap());
        assert!(worst <= LOGIT_TOLERANCE, "{name} {prompt}: a last logit is off by {worst:e}");
        check_shown(name, &prompt, &golden, &shown);
        check_greedy(name, &prompt, &golden, &model, (ids.len(), last.to_vec(), state));
    }
}

/// Hidden states of prompt p1 and routing of p2, where the golden file has them.
fn check_shown(name: &str, prompt: &str, golden: &Golden, shown: &Shown) {
    for (at, values) in &shown.floats {
        let key = match at.split_once(".router.") {
            Some((layer, part)) => format!("{prompt}.router.{layer}.{part}"),
            None => format!("{prompt}.h.{at}"),
        };
        if let Some(expected) = golden.floats(&key) {
            let worst = max_abs_diff(values, &expected);
            assert!(worst <= HIDDEN_TOLERANCE, "{name} {key}: a value is off by {worst:e}");
        }
    }
    for (at, ids) in &shown.ints {
        let layer = at.strip_suffix(".router.ids").unwrap();
        if let Some(expected) = golden.ints(&format!("{prompt}.router.{layer}.ids")) {
            assert_eq!(ids, &expected, "{name} {prompt}: experts of {layer}");
        }
    }
    // Every recorded value has been compared: none is named differently here.
    let recorded = |prefix: String| golden.names().into_iter().filter(move |name| name.starts_with(&prefix));
    for key in recorded(format!("{prompt}.h.")) {
        assert!(shown.floats.contains_key(&key[prompt.len() + 3..]), "{name}: {key} is not shown");
    }
    for key in recorded(format!("{prompt}.router.")).filter(|key| key.ends_with(".ids")) {
        let layer = key.split('.').nth(2).unwrap();
        assert!(shown.ints.contains_key(&format!("{layer}.router.ids")), "{name}: {key} is not shown");
    }
}

/// Decodes greedily from the state after the prompt, one token at a time.
fn check_greedy(name: &str, prompt: &str, golden: &Golden, model: &Model, after: (usize, Vec<f32>, State)) {
    let (mut past, mut logits, mut state) = after;
    let expected = golden.ints(&format!("{prompt}.greedy")).unwrap();
    let margins = golden.floats(&format!("{prompt}.greedy_margin")).unwrap();
    let all_logits = golden.floats(&format!("{prompt}.greedy_logits"));
    for (step, (&token, &margin)) in expected.iter().zip(&margins).enumerate() {
        if let Some(all) = &all_logits {
            let vocab = model.config.vocab_size;
            let worst = max_abs_diff(&logits, &all[step * vocab..(step + 1) * vocab]);
            assert!(worst <= LOGIT_TOLERANCE, "{name} {prompt} step {step}: a logit is off by {worst:e}");
        }
        let best = argmax(&logits);
        assert!(
            best == token || margin < TIE_MARGIN,
            "{name} {prompt} step {step}: {best}, expected {token}"
        );
        (logits, state) = model.run(&[token], past, state, None);
        past += 1;
    }
}

#[test]
fn tiny_dense() {
    check("tiny-dense");
}

#[test]
fn tiny_dense_legacy() {
    check("tiny-dense-legacy");
}

#[test]
fn tiny_dense_bf16() {
    check("tiny-dense-bf16");
}

#[test]
fn tiny_dense_f16() {
    check("tiny-dense-f16");
}

#[test]
fn tiny_moe() {
    check("tiny-moe");
}

#[test]
fn tiny_moe_fused() {
    check("tiny-moe-fused");
}

#[test]
fn tiny_moe_sharded() {
    check("tiny-moe-sharded");
}

#[test]
fn tiny_moe_bf16() {
    check("tiny-moe-bf16");
}

#[test]
fn odd_dense() {
    check("odd-dense");
}

#[test]
fn odd_moe() {
    check("odd-moe");
}

#[test]
fn odd_moe_2() {
    check("odd-moe-2");
}

#[test]
fn all_conv() {
    check("all-conv");
}

#[test]
fn all_attention() {
    check("all-attention");
}

/// A prompt in two pieces, the second with a past, gives the logits of the prompt in one piece.
#[test]
fn chunked_prefill() {
    for name in ["tiny-moe", "odd-dense", "odd-moe-2"] {
        let (golden, model) = (Golden::read(name), Model::load(name));
        let ids = golden.ints("p2.input_ids").unwrap();
        let expected = golden.floats("p2.logits").unwrap();
        for cut in [1, 2, 5, ids.len() - 1] {
            let (mut logits, state) = model.run(&ids[..cut], 0, model.start(), None);
            let (rest, _) = model.run(&ids[cut..], cut, state, None);
            logits.extend(rest);
            let worst = max_abs_diff(&logits, &expected);
            assert!(worst <= LOGIT_TOLERANCE, "{name} cut at {cut}: a logit is off by {worst:e}");
        }
    }
}

/// The demo checkpoint continues its recorded prompts.
#[test]
fn demo() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("demo");
    let model = Model::open(&folder);
    let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&text).unwrap();
    let ids = |value: &serde_json::Value| -> Vec<i64> { serde_json::from_value(value.clone()).unwrap() };
    for generation in golden["generations"].as_array().unwrap() {
        let (prompt, expected) = (ids(&generation["prompt_ids"]), ids(&generation["new_ids"]));
        let (logits, mut state) = model.run(&prompt, 0, model.start(), None);
        let mut last = logits[logits.len() - model.config.vocab_size..].to_vec();
        for (step, &token) in expected.iter().take(24).enumerate() {
            assert_eq!(argmax(&last), token, "{} at step {step}", generation["prompt"]);
            (last, state) = model.run(&[token], prompt.len() + step, state, None);
        }
    }
}

/// Layer by layer, the values are the same.
#[test]
fn layer_by_layer() {
    for name in ["tiny-moe", "odd-dense", "odd-moe-2", "all-conv"] {
        let (golden, model) = (Golden::read(name), Model::load(name));
        let ids = golden.ints("p1.input_ids").unwrap();
        let mut expected = Shown::default();
        let (logits, _) = model.run(&ids, 0, model.start(), Some(&mut expected));
        expected.floats.insert("logits".into(), logits);
        let checkpoint = Checkpoint::open(&fixture(name)).unwrap();
        let mut found = Shown::default();
        let tokens: Vec<u32> = ids.iter().map(|id| *id as u32).collect();
        let mut read = |tensor: &TensorSpec| checkpoint.read_f32(&tensor.name);
        let show = |first, at, value: Value<'_>| {
            assert_eq!(first, 0, "{name}: small models run in one piece");
            found.add(at, value);
            Ok::<(), CheckpointError>(())
        };
        // The experts of the whole model's run are those that would be chosen anyway.
        let experts = |layer: usize, _| {
            let ids = expected.ints.get(&format!("L{layer}.router.ids"))?;
            Some(ids.iter().map(|id| *id as u32).collect())
        };
        Lfm2::run_by_layer(&model.config, &model.device, &tokens, &mut read, experts, show).unwrap();
        assert_eq!(found.ints, expected.ints, "{name}");
        for table in ["rope.cos", "rope.sin"] {
            let table = found.floats.remove(table).unwrap();
            assert_eq!(table.len(), ids.len() * model.config.head_dim / 2, "{name}");
        }
        assert_eq!(found.floats, expected.floats, "{name}");
    }
}
