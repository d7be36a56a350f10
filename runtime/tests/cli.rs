//! The command line of `lfm-run`: exit codes, JSON, messages.

mod common;

use std::process::{Command, Output, Stdio};

use common::{Made, Recipe, name, with_golden};
use lfm_graphs::testing::Tiny;
use lfm_graphs::weights::Format;
use lfm_runtime::{Model, Options, golden};
use serde::Deserialize;
use serde_json::Value;

fn lfm_run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lfm-run")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// Standard output of a command that is done.
fn done(arguments: &[&str]) -> String {
    let output = lfm_run(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
    stdout(&output).to_owned()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&done(arguments)).unwrap()
}

/// Standard error of a command that could not run.
fn failed(arguments: &[&str]) -> String {
    let output = lfm_run(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
    assert_eq!(stdout(&output), "", "{arguments:?}");
    stderr(&output).to_owned()
}

/// A bundle without a tokenizer.
fn bare() -> Made {
    Recipe::new(Tiny::moe(), Format::Q4_0).make()
}

#[test]
fn usage_errors_are_2() {
    let usage: [&[&str]; 7] = [
        &[],
        &["dance"],
        &["generate"],
        &["generate", "x.lfmb"],
        &["generate", "x.lfmb", "-p", "a", "--tokens", "1"],
        &["generate", "x.lfmb", "--tokens", "1", "--greedy", "--temperature", "1"],
        &["logits", "x.lfmb", "--tokens", "1,b"],
    ];
    for arguments in usage {
        failed(arguments);
    }
    assert!(
        failed(&["logits", "x.lfmb", "--tokens", "1,b"])
            .contains("found `b`, expected token ids such as 1,2,3")
    );
    assert!(done(&["--help"]).contains("perplexity"));
    assert!(done(&["generate", "--help"]).contains("--repetition-penalty"));
    assert!(done(&["--version"]).starts_with("lfm-run "));
}

#[test]
fn errors_say_what_and_why() {
    let message = failed(&["check", "no-such.lfmb"]);
    assert_eq!(message, "error: cannot read no-such.lfmb\ncause: No such file or directory (os error 2)\n");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.lfmb");
    std::fs::write(&path, [7; 5000]).unwrap();
    let message = failed(&["info", name(&path)]);
    assert!(message.starts_with("error: ") && message.contains("bad.lfmb"), "{message}");
    assert!(message.contains("cause: "), "{message}");

    let made = bare();
    let bundle = name(&made.path);
    let tokens = ["logits", bundle, "--tokens"];
    let message = |more: &[&str]| failed(&[&tokens[..], more].concat());
    assert_eq!(message(&["96"]), "error: token id 96 is outside the vocabulary of 96\n");
    assert_eq!(message(&["1", "--chunk", "65"]), "error: chunk is 65, expected 1 to 64\n");
    assert!(message(&["1", "--isa", "pdp11"]).starts_with("error: no kernels for ISA tier `pdp11`"));
    let found = message(&["1", "--gpu-layers", "1"]);
    assert_eq!(found, "error: --gpu-layers is given with backend cpu, expected `--backend wgpu`\n");
    if cfg!(not(feature = "wgpu")) {
        let found = message(&["1", "--backend", "wgpu"]);
        assert!(found.starts_with("error: this build of lfm-run has no wgpu backend"), "{found}");
    }
    let found = message(&["1", "-o", "/no/such/folder/x.safetensors"]);
    assert!(found.starts_with("error: cannot write /no/such/folder/x.safetensors\ncause: "), "{found}");
    let found = failed(&["generate", bundle, "--tokens", "1", "--top-p", "2"]);
    assert_eq!(found, "error: --top-p 2: expected 0 < p <= 1\n");
    let many = vec!["1"; 200].join(",");
    let found = failed(&["generate", bundle, "--tokens", &many]);
    assert!(found.starts_with("error: the context is full: 0 positions are taken, 200 more"), "{found}");

    #[cfg(feature = "text")]
    let expected = "the bundle has no tokenizer: give token ids with --tokens";
    #[cfg(not(feature = "text"))]
    let expected = "use a build with feature `text`";
    for arguments in [
        &["generate", bundle, "-p", "hello"][..],
        &["logits", bundle, "--prompt", "hello"],
        &["chat", bundle],
        &["tokenize", bundle, "hello"],
        &["perplexity", bundle, file!()],
    ] {
        let arguments: Vec<&str> = arguments
            .iter()
            .map(|a| if *a == file!() { concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml") } else { a })
            .collect();
        let found = failed(&arguments);
        assert!(found.contains(expected), "{found}");
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Generated {
    prompt_tokens: Vec<u32>,
    tokens: Vec<u32>,
    text: Option<String>,
    finish: String,
    timings: Timings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Timings {
    load_s: f64,
    prefill_s: f64,
    prefill_tok_s: Option<f64>,
    decode_s: f64,
    decode_tok_s: Option<f64>,
}

fn generated(arguments: &[&str]) -> Generated {
    let arguments = [&["generate", "--json"], arguments].concat();
    serde_json::from_str(&done(&arguments)).unwrap()
}

#[test]
fn generate_without_a_tokenizer() {
    let made = bare();
    let bundle = name(&made.path);
    let model = Model::open(&made.path).unwrap();
    let prompts = [vec![1, 2, 3]];
    let expected = golden::run(&model, &Options::default(), &prompts, 12).unwrap().vectors.remove(0).greedy;

    let flags = [bundle, "--tokens", "1,2,3", "--greedy", "-n", "12"];
    let found = generated(&flags);
    assert_eq!((found.prompt_tokens, found.text), (vec![1, 2, 3], None));
    assert_eq!((&found.tokens, found.finish.as_str()), (&expected, "length"));
    let Timings { load_s, prefill_s, prefill_tok_s, decode_s, decode_tok_s } = found.timings;
    assert!(load_s > 0.0 && prefill_s > 0.0 && decode_s > 0.0);
    assert!(prefill_tok_s.is_some() && decode_tok_s.is_some());

    let output = lfm_run(&[&["generate"], &flags[..]].concat());
    let ids: Vec<String> = expected.iter().map(u32::to_string).collect();
    assert_eq!(stdout(&output), ids.join(" ") + "\n");
    assert!(stderr(&output).contains("3 prompt tokens in") && stderr(&output).ends_with("ended by length\n"));

    let full = generated(&[bundle, "--tokens", "1", "--greedy", "--context", "8", "-n", "100"]);
    assert_eq!((full.tokens.len(), full.finish.as_str()), (8, "context"));
    let sampled = |seed| generated(&[bundle, "--tokens", "1,2", "--temperature", "5", "--seed", seed]).tokens;
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
}

#[test]
fn generation_defaults_are_the_bundles() {
    let recipe = Recipe::new(Tiny::moe(), Format::Q4_0);
    let greedy =
        Recipe { generation: Some(r#"{"do_sample": false, "eos_token_id": [50]}"#), ..recipe }.make();
    let bundle = name(&greedy.path);
    let plain = generated(&[bundle, "--tokens", "1,2,3", "-n", "20", "--ignore-eos"]);
    assert_eq!(
        plain.tokens,
        generated(&[bundle, "--tokens", "1,2,3", "-n", "20", "--greedy", "--ignore-eos"]).tokens
    );
    let stop = plain.tokens[4];
    let section = format!(r#"{{"do_sample": false, "eos_token_id": {stop}}}"#);
    let recipe = Recipe::new(Tiny::moe(), Format::Q4_0);
    let stopping = Recipe { generation: Some(&section), ..recipe }.make();
    let found = generated(&[name(&stopping.path), "--tokens", "1,2,3", "-n", "20"]);
    let at = plain.tokens.iter().position(|id| *id == stop).unwrap();
    assert_eq!((found.tokens.as_slice(), found.finish.as_str()), (&plain.tokens[..=at], "stop"));
}

#[test]
fn logits_digest_and_file() {
    let made = bare();
    let bundle = name(&made.path);
    let file = made.folder.path().join("logits.safetensors");
    let tokens = ["logits", bundle, "--tokens", "1,2,3,4,5"];
    let last = json(&[&tokens[..], &["-o", name(&file)]].concat());
    assert_eq!(last["tokens"], serde_json::json!([1, 2, 3, 4, 5]));
    assert_eq!(last["vocab"], 96);
    assert_eq!(last.as_object().unwrap().len(), 3);
    let (shape, data) = tensor(&std::fs::read(&file).unwrap());
    assert_eq!(shape, [1, 96]);
    assert_eq!(last["digest"], blake3::hash(&data).to_string());

    let all = json(&[&tokens[..], &["--all", "--routes", "--chunk", "2", "-o", name(&file)]].concat());
    let (shape, every) = tensor(&std::fs::read(&file).unwrap());
    assert_eq!(shape, [5, 96]);
    assert_eq!(every[4 * 4 * 96..], data);
    assert_eq!(all["digest"], blake3::hash(&every).to_string());
    let routes = all["routes"].as_array().unwrap();
    let layers: Vec<&str> = routes.iter().map(|r| r["layer"].as_str().unwrap()).collect();
    assert_eq!(layers, ["l1.ffn.moe", "l2.ffn.moe"]);
    for layer in routes {
        assert_eq!(layer.as_object().unwrap().len(), 3);
        for field in ["ids", "weights"] {
            let positions = layer[field].as_array().unwrap();
            assert!(positions.len() == 5 && positions.iter().all(|p| p.as_array().unwrap().len() == 2));
        }
    }
}

/// Shape and data of the only tensor of a safetensors file.
fn tensor(file: &[u8]) -> (Vec<u64>, Vec<u8>) {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let tensor = &header["logits"];
    assert_eq!(tensor["dtype"], "F32");
    let shape = tensor["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
    assert_eq!(tensor["data_offsets"][1].as_u64().unwrap() as usize, file.len() - 8 - length);
    (shape, file[8 + length..].to_vec())
}

#[test]
fn check_answers_yes_no_or_not_at_all() {
    let made = bare();
    let message = failed(&["check", name(&made.path)]);
    assert!(message.ends_with("the bundle has no golden vectors: nothing to check\n"), "{message}");

    let model = Model::open(&made.path).unwrap();
    let mut golden = golden::run(&model, &Options::default(), &[vec![1, 2], vec![3]], 5).unwrap();
    let good = with_golden(&made, &golden);
    for more in [&["--isa", "portable"][..], &["--threads", "1", "--chunk", "1", "--verify"], &[]] {
        let text = done(&[&["check", name(&good)], more].concat());
        assert!(text.contains("ok  golden     2 golden vectors of 10 tokens agree bit for bit\n"), "{text}");
        let marks: Vec<&str> = text.lines().map(|line| &line[..2]).collect();
        let signature = if cfg!(feature = "sign") { &["--"][..] } else { &[] };
        assert_eq!(marks, [&["ok"; 5][..], signature].concat());
    }
    let report = json(&["check", name(&good), "--json"]);
    assert_eq!(report["ok"], true);
    let stages = report["stages"].as_array().unwrap();
    let names: Vec<&str> = stages.iter().map(|stage| stage["stage"].as_str().unwrap()).collect();
    assert_eq!(names[..5], ["sections", "graph", "plan", "weights", "golden"]);
    assert_eq!(names.get(5).copied(), cfg!(feature = "sign").then_some("signature"));
    golden.vectors[1].digest = "0".repeat(64);
    let bad = with_golden(&made, &golden);
    let output = lfm_run(&["check", name(&bad)]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.contains("\nNO  golden     vector 1, logits: found digest "), "{text}");
    assert!(text.contains("\nNO  golden     1 of 2 golden vectors differ\n"), "{text}");

    let mut file = std::fs::read(&bad).unwrap();
    let weights = lfm_graphs::bundle::Bundle::parse(&file)
        .unwrap()
        .entry(lfm_graphs::bundle::Kind::Weights)
        .unwrap()
        .range();
    file[weights.start + 3] ^= 1;
    std::fs::write(&bad, &file).unwrap();
    let output = lfm_run(&["check", name(&bad), "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(report["ok"], false);
    for (stage, verdict, part) in [(3, "no", "section `weights`"), (4, "none", "not run")] {
        assert_eq!(report["stages"][stage]["verdict"], verdict);
        assert!(report["stages"][stage]["detail"].as_str().unwrap().contains(part), "{report}");
    }
    assert!(failed(&["logits", name(&bad), "--tokens", "1", "--verify"]).contains("weights"));
    done(&["logits", name(&bad), "--tokens", "1"]);
}

#[cfg(feature = "measure")]
mod measure {
    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Workload {
        prompt: usize,
        generate: usize,
        depth: usize,
        repetitions: usize,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Speed {
        min: f64,
        median: f64,
        max: f64,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Bench {
        model: String,
        recipe: String,
        cpu: String,
        device: Option<String>,
        isa: String,
        threads: usize,
        chunk: usize,
        context: usize,
        workload: Workload,
        load_s: f64,
        prefill_tok_s: Option<Speed>,
        decode_tok_s: Option<Speed>,
        peak_rss_bytes: Option<u64>,
        planned_bytes: u64,
        device_bytes: Option<u64>,
        upload_s: Option<f64>,
        submissions_per_token: Option<f64>,
        weight_bytes_per_token: u64,
        read_bytes_s: Option<f64>,
        read_share: Option<f64>,
        int8_macs_per_token: u64,
        float_macs_per_token: u64,
        prefill_int8_mac_s: Option<f64>,
        prefill_float_mac_s: Option<f64>,
        dot_peak_mac_s: Option<f64>,
        dot_peak_share: Option<f64>,
    }

    #[test]
    fn bench_reports() {
        let made = bare();
        let arguments =
            ["bench", name(&made.path), "-p", "20", "-n", "5", "-d", "3", "-r", "2", "--threads", "2"];
        let report = |more: &[&str]| -> Bench {
            serde_json::from_str(&done(&[&arguments[..], &["--json"], more].concat())).unwrap()
        };
        let all = report(&[]);
        for speed in [all.prefill_tok_s.unwrap(), all.decode_tok_s.unwrap()] {
            assert!(0.0 < speed.min && speed.min <= speed.median && speed.median <= speed.max);
        }
        let Workload { prompt, generate, depth, repetitions } = all.workload;
        assert_eq!((prompt, generate, depth, repetitions), (20, 5, 3, 2));
        assert_eq!(
            (all.device_bytes, all.upload_s, all.submissions_per_token),
            (None, None, None),
            "on the CPU"
        );
        assert_eq!((all.model.as_str(), all.recipe.as_str()), ("tiny", "q4_0"));
        assert_eq!((all.threads, all.chunk, all.context), (2, 64, 160));
        assert!(!all.cpu.is_empty() && !all.isa.is_empty() && all.device.is_none());
        assert!(all.load_s > 0.0 && all.read_bytes_s.unwrap() > 0.0 && all.dot_peak_mac_s.unwrap() > 0.0);
        assert!(all.peak_rss_bytes.unwrap() > 0 && all.planned_bytes > 0 && all.weight_bytes_per_token > 0);
        assert!(all.int8_macs_per_token > all.float_macs_per_token && all.float_macs_per_token > 0);
        assert!(all.read_share.unwrap() > 0.0 && all.dot_peak_share.unwrap() > 0.0);
        assert!(all.prefill_int8_mac_s.unwrap() > all.prefill_float_mac_s.unwrap());

        // Floats alone have no share of an int8 peak; what is not measured is null.
        let float = Recipe::new(Tiny::moe(), Format::F32).make();
        let text = done(&["bench", name(&float.path), "-p", "9", "-n", "0", "-r", "1", "--json"]);
        let float: Bench = serde_json::from_str(&text).unwrap();
        assert!(float.decode_tok_s.is_none() && float.read_share.is_none() && float.dot_peak_share.is_none());
        assert_eq!(float.int8_macs_per_token, 0);
        assert_eq!(float.float_macs_per_token, all.int8_macs_per_token + all.float_macs_per_token);

        let text = done(&arguments);
        for word in ["load", "prefill", "decode", "memory", "bandwidth", "products"] {
            assert!(text.lines().any(|line| line.starts_with(word)), "{text}");
        }
        let message = failed(&["bench", name(&made.path), "-p", "200"]);
        assert_eq!(
            message,
            "error: depth 0 with 200 tokens takes 200 positions, expected at most the context of 160\n"
        );
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Profile {
        model: String,
        recipe: String,
        cpu: String,
        device: Option<String>,
        isa: String,
        threads: usize,
        chunk: usize,
        context: usize,
        workload: Workload,
        prefill: Option<Phase>,
        decode: Option<Phase>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Phase {
        tokens: usize,
        time_s: f64,
        tok_s: f64,
        sections_per_token: f64,
        ops: Vec<Part>,
        layers: Vec<Part>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Part {
        name: String,
        steps: usize,
        time_s: f64,
        share: f64,
        sections_per_token: f64,
        read_bytes_s: Option<f64>,
        mac_s: Option<f64>,
    }

    fn part<'a>(parts: &'a [Part], name: &str) -> &'a Part {
        parts.iter().find(|part| part.name == name).unwrap()
    }

    #[test]
    fn profile_reports() {
        let made = bare();
        let arguments = ["profile", name(&made.path), "-p", "20", "-n", "5", "-d", "3", "-r", "2"];
        let text = done(&[&arguments[..], &["--json", "--threads", "2"]].concat());
        let profile: Profile = serde_json::from_str(&text).unwrap();
        assert_eq!((profile.model.as_str(), profile.recipe.as_str()), ("tiny", "q4_0"));
        assert_eq!((profile.threads, profile.chunk, profile.context), (2, 64, 160));
        assert!(!profile.cpu.is_empty() && !profile.isa.is_empty() && profile.device.is_none());
        assert_eq!(profile.workload.repetitions, 2);
        let (prefill, decode) = (profile.prefill.unwrap(), profile.decode.unwrap());
        for (phase, tokens) in [(&prefill, 20), (&decode, 5)] {
            assert_eq!(phase.tokens, tokens);
            assert!((phase.tok_s * phase.time_s - tokens as f64).abs() < 1e-6);
            for parts in [&phase.ops, &phase.layers] {
                let share: f64 = parts.iter().map(|part| part.share).sum();
                let time: f64 = parts.iter().map(|part| part.time_s).sum();
                let sections: f64 = parts.iter().map(|part| part.sections_per_token).sum();
                assert!((share - 1.0).abs() < 1e-6, "{share}");
                assert!((time - phase.time_s).abs() < 1e-6, "{time}");
                assert!((sections - phase.sections_per_token).abs() < 1e-6, "{sections}");
                assert!(parts.iter().all(|part| part.steps == 0 || part.time_s > 0.0));
                assert_eq!(parts.last().unwrap().name, "between steps");
            }
            let mut names: Vec<&str> = phase.layers.iter().map(|part| part.name.as_str()).collect();
            names.sort_unstable();
            assert_eq!(names[..3], ["between steps", "l0", "l1"]);
            assert!(names.contains(&"other"));
            let ops = &phase.ops[..phase.ops.len() - 1];
            assert!(ops.is_sorted_by(|a, b| a.time_s >= b.time_s));
        }
        assert!(prefill.ops.iter().all(|part| part.read_bytes_s.is_none()));
        assert!(decode.ops.iter().all(|part| part.mac_s.is_none()));
        assert!(part(&prefill.ops, "Moe").mac_s.unwrap() > 0.0);
        assert!(part(&prefill.ops, "Attention").mac_s.is_none());
        assert!(part(&decode.ops, "Moe").read_bytes_s.unwrap() > 0.0);
        assert!(prefill.sections_per_token > 0.0);

        // One thread waits for nobody, and what is not wanted is not there.
        let more = ["--json", "--threads", "1", "-p", "0"];
        let few = ["profile", name(&made.path), "-n", "5", "-r", "1"];
        let profile: Profile = serde_json::from_str(&done(&[&few[..], &more].concat())).unwrap();
        assert!(profile.prefill.is_none());
        assert_eq!(profile.decode.unwrap().sections_per_token, 0.0);

        let text = done(&arguments);
        for word in ["prefill: ", "decode: ", "  operation", "  layer", "  l2 "] {
            assert!(text.lines().any(|line| line.starts_with(word)), "{text}");
        }
        let message = failed(&["profile", name(&made.path), "-p", "0", "-n", "0"]);
        assert!(message.contains("nothing to measure"), "{message}");
    }
}

#[test]
fn info_describes_machine_and_bundle() {
    let text = done(&["info"]);
    assert!(text.contains("portable") && text.contains(" by default: "), "{text}");
    let made = bare();
    let text = done(&["info", name(&made.path)]);
    for word in ["model", "parameters", "planned memory", "arena", "total"] {
        assert!(text.contains(word), "{text}");
    }
    let target = lfm_graphs::target::Target::parse(&done(&["info", "--target"])).unwrap();
    assert!(target.cores >= 1);
}

#[test]
fn a_closed_output_is_success() {
    let made = bare();
    let bundle = name(&made.path);
    for arguments in [
        &["generate", bundle, "--tokens", "1", "-n", "150", "--ignore-eos"][..],
        &["logits", bundle, "--tokens", "1"],
        &["info", bundle],
        &["--help"],
    ] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lfm-run"))
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr(&output));
        assert!(
            !stderr(&output).contains("panicked") && !stderr(&output).contains("error"),
            "{}",
            stderr(&output)
        );
    }
}

#[cfg(feature = "text")]
mod text {
    use std::io::Write;

    use super::*;

    /// A bundle with tokenizer and chat template; the vocabulary is theirs.
    fn with_text() -> Made {
        let recipe = Recipe::new(Tiny { vocab: 512, ..Tiny::moe() }, Format::Q8_0);
        Recipe { text: Some("tiny-dense"), context: 300, ..recipe }.make()
    }

    #[test]
    fn generate_renders_the_chat_unless_raw() {
        let made = with_text();
        let bundle = name(&made.path);
        let chat = made.folder.path().join("chat.json");
        let request =
            r#"{"messages": [{"role": "user", "content": "Grüß dich"}], "add_generation_prompt": true}"#;
        std::fs::write(&chat, request).unwrap();
        let rendered = json(&["tokenize", bundle, "--chat", name(&chat)]);
        let text = rendered["rendered"].as_str().unwrap();
        assert!(text.contains("user\nGrüß dich<|im_end|>") && text.ends_with("assistant\n"), "{text}");
        let plain = json(&["tokenize", bundle, "Grüß dich"]);
        assert_eq!(plain["rendered"], Value::Null);
        assert_eq!(plain["ids"][0], 1);
        assert_eq!(plain["ids"].as_array().unwrap().len(), plain["tokens"].as_array().unwrap().len());
        assert!(json(&["tokenize", bundle, "-- a"])["ids"].as_array().unwrap().len() > 2);
        let bare = json(&["tokenize", bundle, "--bare", "Grüß dich"]);
        assert_eq!(bare["ids"].as_array().unwrap()[..], plain["ids"].as_array().unwrap()[1..]);

        let ids = |value: &Value| -> Vec<u32> { serde_json::from_value(value["ids"].clone()).unwrap() };
        let flags = [bundle, "-p", "Grüß dich", "--greedy", "-n", "30"];
        let found = generated(&flags);
        assert_eq!(found.prompt_tokens, ids(&rendered));
        let raw = generated(&[&flags[..], &["--raw"]].concat());
        assert_eq!(raw.prompt_tokens, ids(&plain));
        let streamed = done(&[&["generate"], &flags[..]].concat());
        assert_eq!(streamed.strip_suffix('\n'), found.text.as_deref());

        let logits = json(&["logits", bundle, "--prompt", "Grüß dich"]);
        assert_eq!(logits["tokens"], plain["ids"]);
    }

    fn chat(bundle: &str, lines: &str) -> String {
        chat_with(bundle, &[], lines)
    }

    fn chat_with(bundle: &str, more: &[&str], lines: &str) -> String {
        let mut child = Command::new(env!("CARGO_BIN_EXE_lfm-run"))
            .args(["chat", bundle, "--greedy", "-n", "8"])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        stdout(&output).to_owned()
    }

    #[test]
    fn chat_answers_line_by_line() {
        let made = with_text();
        let bundle = name(&made.path);
        let answer = done(&["generate", bundle, "-p", "hello", "--greedy", "-n", "8"]);
        assert_eq!(chat(bundle, "hello\n"), answer);
        assert_eq!(chat(bundle, "\n  hello \n/reset\nhello\n/exit\nhello\n"), answer.repeat(2));
        assert_eq!(chat(bundle, ""), "");
        // The second answer is that to the whole conversation.
        let two = chat(bundle, "hello\nand now?\n");
        let second = two.strip_prefix(&answer).unwrap();
        let request = serde_json::json!({"add_generation_prompt": true, "messages": [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": answer.strip_suffix('\n').unwrap()},
            {"role": "user", "content": "and now?"},
        ]});
        let file = made.folder.path().join("chat.json");
        std::fs::write(&file, request.to_string()).unwrap();
        let ids = json(&["tokenize", bundle, "--chat", name(&file)])["ids"].to_string();
        let ids = ids.trim_matches(['[', ']']);
        assert_eq!(second, done(&["generate", bundle, "--tokens", ids, "--greedy", "-n", "8"]));
        // One that does not fit is left out, and the next one is answered.
        let long = format!("{}\nhello\n", "long ".repeat(400));
        assert_eq!(chat(bundle, &long), answer);
    }

    #[test]
    fn chat_goes_on_from_a_file_and_takes_back() {
        let made = with_text();
        let bundle = name(&made.path);
        let file = made.folder.path().join("kept");
        let session = ["--session", name(&file)];
        let first = chat(bundle, "hello\n");
        let both = chat(bundle, "hello\nand now?\n");
        let second = both.strip_prefix(&first).unwrap();
        assert_eq!(chat_with(bundle, &session, "hello\n"), first);
        assert_eq!(chat_with(bundle, &session, "and now?\n"), second);
        assert_eq!(chat_with(bundle, &session, "/retry\n"), second);
        assert_eq!(chat_with(bundle, &session, "/undo\nand now?\n"), second);
        assert_eq!(chat_with(bundle, &session, "/reset\nhello\n"), first);
        assert_eq!(chat(bundle, "/undo\n/retry\nhello\n/retry\n/undo\n/undo\nhello\n"), first.repeat(3));
        // Another command may use the file, and the conversation goes on all the same.
        done(&["generate", bundle, "-p", "hello", "-n", "2", "--session", name(&file)]);
        assert_eq!(chat_with(bundle, &session, "and now?\n"), second);
    }

    #[test]
    fn perplexity_compares_bundles() {
        let made = with_text();
        let bundle = name(&made.path);
        let file = made.folder.path().join("text.txt");
        std::fs::write(
            &file,
            "All that is gold does not glitter, <|im_end|> not all those who wander are lost.\n",
        )
        .unwrap();
        let plain = json(&["perplexity", bundle, name(&file), "--window", "16", "--json"]);
        assert_eq!(plain.as_object().unwrap().len(), 3);
        let same =
            json(&["perplexity", bundle, name(&file), "--window", "16", "--reference", bundle, "--json"]);
        assert_eq!(same["perplexity"], plain["perplexity"]);
        assert_eq!(same["reference_perplexity"], plain["perplexity"]);
        assert_eq!((same["kl"].as_f64(), same["top1"].as_f64()), (Some(0.0), Some(1.0)));
        let text = done(&["perplexity", bundle, name(&file), "--window", "16"]);
        assert!(text.starts_with("perplexity "), "{text}");
        std::fs::write(&file, b"ab\xffc").unwrap();
        assert!(failed(&["perplexity", bundle, name(&file)]).contains("byte 2 is not UTF-8"));
    }
}

#[cfg(feature = "sign")]
#[test]
fn only_signed_bundles_run_where_that_is_demanded() {
    use ed25519_dalek::{Signer, SigningKey};
    use lfm_runtime::signature::{PublicKey, Signature, hex, message, path_of};

    let made = bare();
    let secret = SigningKey::from_bytes(&[7; 32]);
    let key = PublicKey::from_bytes(secret.verifying_key().as_bytes()).unwrap();
    let demand = format!("--require-signature={key}");
    let run = ["logits", name(&made.path), "--tokens", "1", &demand];
    assert!(failed(&run).contains("cannot trust") && failed(&run).contains("there is no signature"));
    let bundle: [u8; 32] = hex(Model::open(&made.path).unwrap().id()).unwrap();
    let signature = Signature { bundle, key, bytes: secret.sign(&message(&bundle)).to_bytes() };
    std::fs::write(path_of(&made.path), signature.text()).unwrap();
    let trusted = done(&run);
    assert_eq!(trusted, done(&["logits", name(&made.path), "--tokens", "1"]));
    let other = PublicKey::from_bytes(SigningKey::from_bytes(&[8; 32]).verifying_key().as_bytes()).unwrap();
    let other = format!("--require-signature={other}");
    assert!(failed(&["logits", name(&made.path), "--tokens", "1", &other]).contains("expected one by"));

    // The identity says nothing of weights that have changed since.
    let mut file = std::fs::read(&made.path).unwrap();
    let last = file.len() - 70;
    file[last] ^= 1;
    std::fs::write(&made.path, &file).unwrap();
    assert!(failed(&run).contains("section `weights`"));
}

#[cfg(not(feature = "sign"))]
#[test]
fn signatures_are_a_feature() {
    let made = bare();
    let message = failed(&["logits", name(&made.path), "--tokens", "1", "--require-signature", "x"]);
    assert!(message.contains("cannot check signatures") && message.contains("feature `sign`"), "{message}");
}
