//! `lfmc diff`: what it shows, what it answers, and that no file harms it.

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::gguf::Writer;
use common::repository;
use lfm_export::diff::{Diff, Side};
use lfm_graphs::testing::Rng;
use serde_json::Value;
use tempfile::TempDir;

/// Runs `lfmc` in a folder: exit code, stdout, stderr.
fn lfmc(folder: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lfmc")).args(args).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn fixture(name: &str) -> PathBuf {
    repository(&format!("tests/fixtures/{name}"))
}

/// Exports into a folder.
fn export(folder: &TempDir, source: &Path, name: &str, more: &[&str]) {
    let flags = ["export", source.to_str().unwrap(), "-o", name, "--context", "128"];
    let (code, _, message) = lfmc(folder.path(), &[&flags[..], more].concat());
    assert_eq!(code, 0, "{message}");
}

/// A difference in JSON, and its exit code.
fn json(folder: &TempDir, a: &str, b: &str) -> (i32, Value) {
    let (code, text, message) = lfmc(folder.path(), &["diff", a, b, "--json"]);
    (code, serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{message}")))
}

/// The text of a difference.
fn differ(folder: &TempDir, a: &str, b: &str) -> String {
    let (code, text, message) = lfmc(folder.path(), &["diff", a, b]);
    assert_eq!(code, 1, "{text}{message}");
    text
}

/// Names of fields.
fn names(fields: &Value) -> Vec<&str> {
    fields.as_array().unwrap().iter().map(|field| field["field"].as_str().unwrap()).collect()
}

/// A checkpoint without its tokenizer.
fn mute(folder: &TempDir, source: &Path) -> PathBuf {
    let copy = folder.path().join("checkpoint");
    fs::create_dir(&copy).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(source.join(name), copy.join(name)).unwrap();
    }
    copy
}

/// The text of the tiny model's fused graph.
fn tiny_graph() -> String {
    fs::read_to_string(repository("graphs/golden/tiny-moe.fused.ron")).unwrap()
}

#[test]
fn both_routes_of_one_model_differ_in_formats_only() {
    let folder = TempDir::new().unwrap();
    let checkpoint = mute(&folder, &repository("model/demo"));
    Writer::from_folder(&checkpoint, "q4_0", false).write(&folder.path().join("model.gguf"));
    export(&folder, &checkpoint, "hf.lfmb", &["--weights", "q6_k"]);
    export(&folder, &folder.path().join("model.gguf"), "gguf.lfmb", &[]);
    let (code, report) = json(&folder, "hf.lfmb", "gguf.lfmb");
    assert_eq!(code, 1);
    let none = serde_json::json!([]);
    for part in ["inputs", "consts", "states", "nodes"] {
        assert_eq!(report["graph"][part], none, "{part}");
    }
    assert!(report["graph"]["model"].is_null() && report["graph"]["outputs"].is_null());
    for part in ["target", "plan", "sections"] {
        assert_eq!(report[part], none, "{part}");
    }
    assert_eq!(report["places"]["differ"], 0);
    assert_eq!(names(&report["manifest"]), ["source", "fingerprint", "recipe"]);
    assert_eq!(report["weights"]["items"], none);
    assert_eq!(report["weights"]["values"], none);
    let text = differ(&folder, "hf.lfmb", "gguf.lfmb");
    let fingerprint = report["manifest"][1].clone();
    let short = |side: &str| fingerprint[side].as_str().unwrap()[..12].to_owned();
    insta::assert_snapshot!(text.replace(&short("a"), "(12 digits)").replace(&short("b"), "(12 digits)"));

    // In the same formats nothing is left but where it came from.
    export(&folder, &checkpoint, "same.lfmb", &["--weights", "q4_0"]);
    let (_, report) = json(&folder, "same.lfmb", "gguf.lfmb");
    assert_eq!(names(&report["manifest"]), ["source", "fingerprint"]);
    for part in ["items", "formats", "values"] {
        assert_eq!(report["weights"][part], none, "{part}");
    }
    assert_eq!(report["golden"]["logits"], 0);
}

#[test]
fn both_routes_spell_the_tokenizer_in_their_own_way() {
    let folder = TempDir::new().unwrap();
    let checkpoint = fixture("tiny-moe");
    Writer::from_folder(&checkpoint, "q8_0", false).write(&folder.path().join("model.gguf"));
    export(&folder, &checkpoint, "hf.lfmb", &["--weights", "q8_0"]);
    export(&folder, &folder.path().join("model.gguf"), "gguf.lfmb", &[]);
    let (code, report) = json(&folder, "hf.lfmb", "gguf.lfmb");
    assert_eq!(code, 1);
    let sections = report["sections"].as_array().unwrap().iter();
    let sections: Vec<&str> = sections.map(|section| section["name"].as_str().unwrap()).collect();
    assert_eq!(sections, ["tokenizer", "text_config", "generation"]);
    // The estimate of the program's memory knows the size of the tokenizer.
    assert_eq!(names(&report["plan"]), ["program", "total without weights"]);
    assert_eq!(names(&report["manifest"]), ["source", "fingerprint"]);
}

#[test]
fn equal_bundles_are_equal() {
    let folder = TempDir::new().unwrap();
    export(&folder, &fixture("tiny-moe"), "a.lfmb", &[]);
    fs::copy(folder.path().join("a.lfmb"), folder.path().join("b.lfmb")).unwrap();
    assert_eq!(lfmc(folder.path(), &["diff", "a.lfmb", "b.lfmb"]).0, 0);
    let (code, report) = json(&folder, "a.lfmb", "b.lfmb");
    assert_eq!((code, &report["same"]), (0, &Value::Bool(true)));
    // A bundle against the graph that it holds.
    let (_, graph, _) = lfmc(folder.path(), &["graph", "a.lfmb"]);
    fs::write(folder.path().join("a.ron"), graph).unwrap();
    let (code, text, note) = lfmc(folder.path(), &["diff", "a.lfmb", "a.ron"]);
    assert_eq!((code, text.as_str()), (0, "no difference\n"));
    assert!(note.contains("only graphs"), "{note}");
}

#[test]
fn settings_show_field_by_field() {
    let folder = TempDir::new().unwrap();
    export(&folder, &fixture("tiny-moe"), "a.lfmb", &["--chunk", "32"]);
    export(
        &folder,
        &fixture("tiny-moe"),
        "b.lfmb",
        &["--chunk", "16", "--kv", "f32", "--target", "x86-64-v3"],
    );
    let text = differ(&folder, "a.lfmb", "b.lfmb");
    // How much memory it is, is for snapshots of the planner.
    let sizes = ["arena", "live", "total", "buffers"];
    let planned = |line: &&str| !sizes.iter().any(|word| line.contains(word));
    insta::assert_snapshot!(text.lines().filter(planned).collect::<Vec<_>>().join("\n"));
}

#[test]
fn other_values_are_counted() {
    let folder = TempDir::new().unwrap();
    let config = fixture("odd-moe").join("config.json");
    export(&folder, &config, "a.lfmb", &["--random-weights", "1"]);
    export(&folder, &config, "b.lfmb", &["--random-weights", "2"]);
    let (_, report) = json(&folder, "a.lfmb", "b.lfmb");
    let values = report["weights"]["values"].as_array().unwrap();
    assert!(values.iter().all(|weight| weight["rows_differ"] == weight["rows"]), "{values:#?}");

    // One element of one row.
    let copy = mute(&folder, &fixture("tiny-moe"));
    export(&folder, &copy, "c.lfmb", &["--weights", "f32"]);
    let file = copy.join("model.safetensors");
    let mut bytes = fs::read(&file).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let table: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "model.layers.1.feed_forward.w1.weight";
    assert_eq!(table[name]["dtype"], "F32");
    let at = 8 + header + table[name]["data_offsets"][0].as_u64().unwrap() as usize + 4 * 1000;
    bytes[at..at + 4].copy_from_slice(&1234.5f32.to_le_bytes());
    fs::write(&file, bytes).unwrap();
    export(&folder, &copy, "d.lfmb", &["--weights", "f32"]);
    insta::assert_snapshot!(differ(&folder, "c.lfmb", "d.lfmb"), @r"
    --- c.lfmb: lfm2_moe-372.4K-A224.9K f32 for portable
    +++ d.lfmb: lfm2_moe-372.4K-A224.9K f32 for portable
    weights: values
      l1.ffn.w1 (f32): 1 of 128 rows differ, 4 of 32768 bytes
    ");
}

#[test]
fn graphs_differ_by_names() {
    let folder = TempDir::new().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    let before = tiny_graph();
    write("a.ron", &before);

    // What happens in many layers is said once, and a renamed node does not touch its readers.
    let wider = before
        .replace("taps: 3", "taps: 4")
        .replace("f32[64, 3]", "f32[64, 4]")
        .replace("f32[64, 2]", "f32[64, 3]")
        .replace("l5.ffn.moe", "l5.ffn.mixture");
    write("b.ron", &wider);
    insta::assert_snapshot!("wider", differ(&folder, "a.ron", "b.ron"));

    // A node more, one elsewhere, another head.
    let head = before.lines().find(|line| line.contains("(name: \"head\"")).unwrap();
    let scaled =
        "        (name: \"scaled\", op: MulScalar(by: 0.5), args: [\"head\"], out: [\"f32[1, 512]\"]),";
    let rope = before.lines().find(|line| line.contains("(name: \"rope\"")).unwrap();
    let embed = before.lines().find(|line| line.contains("(name: \"embed\"")).unwrap();
    let scaled = before
        .replace(head, &format!("{head}\n{scaled}"))
        .replace("outputs: [\"head\"]", "outputs: [\"scaled\"]")
        .replace(&format!("{rope}\n"), "")
        .replace(embed, &format!("{rope}\n{embed}"));
    write("c.ron", &scaled);
    insta::assert_snapshot!("scaled", differ(&folder, "a.ron", "c.ron"));
    let (_, report) = json(&folder, "c.ron", "a.ron");
    assert_eq!(report["graph"]["nodes"].as_array().unwrap().len(), 2, "{report:#}");
    assert!(report["plan"].is_null());

    // Whole models.
    for (name, other) in [("lfm2-350m", "lfm2-1.2b"), ("lfm2-8b-a1b", "lfm2.5-8b-a1b")] {
        let path = |name: &str| repository(&format!("graphs/golden/{name}.fused.ron"));
        let (a, b) = (Side::open(&path(name)).unwrap(), Side::open(&path(other)).unwrap());
        insta::assert_snapshot!(name, Diff::of(&a, &b, |_, _| {}).unwrap().text());
    }
}

#[test]
fn what_is_no_side_is_an_error() {
    let folder = TempDir::new().unwrap();
    let good = tiny_graph();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
    write("good.ron", good.as_bytes());
    write("cut.ron", &good.as_bytes()[..1000]);
    write("bytes.ron", b"\xff\xfe(");
    write("empty.ron", b"");
    write("rule.ron", good.replace("f32[1, 512]", "f32[1, 513]").as_bytes());
    let head = good.lines().find(|line| line.contains("(name: \"head\"")).unwrap();
    write("twice.ron", good.replace(head, &format!("{head}\n{head}")).as_bytes());
    write("empty.lfmb", b"");
    write("text.lfmb", good.as_bytes());
    let cases = [
        ("none.ron", "none.ron"),
        ("none.lfmb", "none.lfmb"),
        ("cut.ron", "line 18"),
        ("bytes.ron", "UTF-8"),
        ("empty.ron", "line 1"),
        ("rule.ron", "V05"),
        ("twice.ron", "V03"),
        ("empty.lfmb", "empty.lfmb"),
        ("text.lfmb", "a bundle starts with"),
        (".", "."),
    ];
    for (name, expected) in cases {
        for args in [["diff", name, "good.ron"], ["diff", "good.ron", name]] {
            let (code, text, message) = lfmc(folder.path(), &args);
            assert_eq!((code, text.as_str()), (2, ""), "{name}: {message}");
            assert!(message.contains(expected), "{name}: {message}");
        }
    }
    assert_eq!(lfmc(folder.path(), &["diff", "good.ron"]).0, 2);
    // A name is no reason to act on a terminal.
    write("loud.ron", good.replace("model: \"lfm2_moe\"", "model: \"\\u{1b}[2J\\nx\"").as_bytes());
    let text = differ(&folder, "good.ron", "loud.ron");
    assert!(text.contains(r"\u{1b}[2J\nx") && !text.contains('\x1b'), "{text:?}");
}

#[cfg(unix)]
#[test]
fn a_file_without_end_is_not_read_to_it() {
    let folder = TempDir::new().unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("zero.ron")).unwrap();
    let (code, _, message) = lfmc(folder.path(), &["diff", "zero.ron", "zero.ron"]);
    assert_eq!(code, 2);
    assert!(message.contains("at most"), "{message}");
}

#[test]
fn damage_is_an_error_or_a_difference() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.ron");
    let good = tiny_graph();
    let golden = Side::open(&repository("graphs/golden/tiny-moe.fused.ron")).unwrap();
    let mut rng = Rng::new(5);
    let mut differed = 0;
    for _ in 0..300 {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..=rng.below(3) {
            let (at, from) = (rng.below(bytes.len() as u32) as usize, rng.below(bytes.len() as u32) as usize);
            bytes[at] = bytes[from];
        }
        fs::write(&path, bytes).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let side = Side::open(&path).ok()?;
            let diff = Diff::of(&golden, &side, |_, _| {}).unwrap();
            assert_eq!(diff.is_same(), diff.text().is_empty());
            (!diff.is_same()).then_some(())
        }));
        differed += usize::from(outcome.expect("a panic").is_some());
    }
    assert!(differed > 10, "{differed}");

    // Weights are opened without their hash: any bytes may be there, scales that no row packs to as well.
    for recipe in ["q4_0", "q6_k", "q8_0", "f16", "f32"] {
        export(&folder, &repository("model/demo"), "a.lfmb", &["--weights", recipe]);
        let a = Side::open(&folder.path().join("a.lfmb")).unwrap();
        let sections = a.bundle().unwrap().sections();
        let weights = sections.iter().find(|section| section.kind().name() == "weights").unwrap();
        let mut bytes = fs::read(folder.path().join("a.lfmb")).unwrap();
        for _ in 0..50 {
            let at = weights.range().start + rng.below(weights.length() as u32) as usize;
            bytes[at] ^= 0xff;
        }
        fs::write(folder.path().join("b.lfmb"), bytes).unwrap();
        let b = Side::open(&folder.path().join("b.lfmb")).unwrap();
        let diff = Diff::of(&a, &b, |_, _| {}).unwrap();
        assert!(diff.graph.is_empty() && !diff.weights.values.is_empty());
        let bytes: u64 = diff.weights.values.iter().map(|weight| weight.bytes_differ).sum();
        assert!((30..=50).contains(&bytes), "{recipe}: {bytes}");
    }
}
