//! `lfmc` as scripts use it: exit codes, what is written where, what errors say.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

const LFMC: &str = env!("CARGO_BIN_EXE_lfmc");

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name);
    path.to_str().unwrap().into()
}

/// Runs a command line in a folder.
fn lfmc_in(folder: &Path, args: &[&str]) -> Output {
    Command::new(LFMC).args(args).current_dir(folder).output().unwrap()
}

fn lfmc(args: &[&str]) -> Output {
    lfmc_in(Path::new(env!("CARGO_MANIFEST_DIR")), args)
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What a command that is done writes to stdout.
fn done(args: &[&str]) -> String {
    let output = lfmc(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

/// What a command that could not run says.
fn fails(args: &[&str]) -> String {
    let output = lfmc(args);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?} wrote to stdout");
    message
}

/// A bundle of `tiny-moe`.
fn bundle(folder: &TempDir) -> String {
    let path = path(folder, "tiny.lfmb");
    done(&["export", &fixture("tiny-moe"), "-o", &path, "--context", "128", "--chunk", "32"]);
    path
}

fn path(folder: &TempDir, name: &str) -> String {
    folder.path().join(name).to_str().unwrap().into()
}

#[test]
fn help() {
    let mut text = String::new();
    let commands = [
        "", "demo", "export", "graph", "inspect", "diff", "compare", "retarget", "keygen", "sign", "verify",
        "targets",
    ];
    for command in commands {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        text += &format!("$ lfmc {}\n{}\n", args.join(" "), done(&args));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn targets() {
    insta::assert_snapshot!(done(&["targets"]));
    // A printed profile is one that can be read.
    let folder = TempDir::new().unwrap();
    let profile = path(&folder, "own.ron");
    fs::write(&profile, done(&["targets", "portable"])).unwrap();
    let by_file = done(&["graph", &fixture("tiny-moe"), "--target", &profile, "--stage", "plan"]);
    assert_eq!(by_file, done(&["graph", &fixture("tiny-moe"), "--stage", "plan"]));
}

#[test]
fn export_reports() {
    let folder = TempDir::new().unwrap();
    let file = path(&folder, "x.lfmb");
    let args = ["export", &fixture("odd-moe"), "-o", &file, "--weights", "q8_0", "--json"];
    let report: Value = serde_json::from_str(&done(&args)).unwrap();
    assert_eq!(report["bytes"].as_u64(), Some(fs::metadata(&file).unwrap().len()));
    assert_eq!(report["bundle"], file.as_str());
    let text = serde_json::to_string_pretty(&report).unwrap();
    // Neither the place nor what follows from bytes of weights is for a snapshot.
    let text = text.replace(&file, "x.lfmb").replace(report["id"].as_str().unwrap(), "(64 hex digits)");
    insta::assert_snapshot!(text);
    let quiet = lfmc(&args[..args.len() - 1]);
    assert!(quiet.stdout.is_empty(), "the report for people goes to stderr");
    assert!(stderr(&quiet).contains("memory:"));
}

#[test]
fn inspect_shows_what_is_inside() {
    let folder = TempDir::new().unwrap();
    let bundle = bundle(&folder);
    let text = done(&["inspect", &bundle]);
    for part in ["memory", "weights", "q4_0", "operations", "ConvGate", "sections", "golden"] {
        assert!(text.contains(part), "{part} is missing from\n{text}");
    }
    let report: Value = serde_json::from_str(&done(&["inspect", &bundle, "--json"])).unwrap();
    let keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    insta::assert_debug_snapshot!(keys);
    let page = path(&folder, "graph.html");
    done(&["inspect", &bundle, "--html", &page]);
    let page = fs::read_to_string(page).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("Attention") && !page.contains("<script"));
}

#[test]
fn every_stage_of_a_graph_comes_from_a_configuration_alone() {
    let folder = TempDir::new().unwrap();
    let config = path(&folder, "config.json");
    fs::copy(Path::new(&fixture("tiny-moe")).join("config.json"), &config).unwrap();
    for (stage, part) in
        [("captured", "embed_tokens"), ("lowered", "MatMul"), ("fused", "ConvGate"), ("plan", "head_rows")]
    {
        let text = done(&["graph", &config, "--stage", stage]);
        assert!(text.contains(part), "{stage}: {part} is missing");
        assert_eq!(text, done(&["graph", &fixture("tiny-moe"), "--stage", stage]), "{stage}");
    }
    // A bundle holds what its flags give.
    let bundle = bundle(&folder);
    for stage in ["fused", "plan"] {
        let flags = ["--stage", stage, "--context", "128", "--chunk", "32"];
        let text = done(&[&["graph", &fixture("tiny-moe")][..], &flags].concat());
        let found = done(&["graph", &bundle, "--stage", stage]);
        if stage == "fused" {
            assert_eq!(found, text);
        } else {
            // The estimate for the program knows the size of the tokenizer.
            let rest = |text: &str| {
                text.lines().filter(|line| !line.contains("memory:")).collect::<Vec<_>>().join("\n")
            };
            assert_eq!(rest(&found), rest(&text));
        }
    }
    assert!(fails(&["graph", &bundle, "--stage", "lowered"]).contains("come from its checkpoint"));
}

#[test]
fn compare_answers() {
    let folder = TempDir::new().unwrap();
    let (bundle, source) = (bundle(&folder), fixture("tiny-moe"));
    let text = done(&["compare", &bundle, "--reference", &source]);
    assert!(text.ends_with(" nodes are within tolerance\n"), "{text}");
    assert!(text.lines().any(|line| line.starts_with("l5.ffn.moe ")), "{text}");

    let strict = ["compare", &bundle, "--reference", &source, "--tolerance", "1e-9", "--tokens", "1,2,3"];
    let output = lfmc(&strict);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(
        stdout(&output).contains("first outside: embed, the burn model's embed\n"),
        "{}",
        stdout(&output)
    );
    let json = lfmc(&[&strict[..], &["--json"]].concat());
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((json.status.code(), &report["first_outside"]), (Some(1), &Value::from("embed")));
    assert_eq!((&report["tokens"], &report["within"]), (&serde_json::json!([1, 2, 3]), &Value::from(false)));

    let config = format!("{source}/config.json");
    done(&["compare", &bundle, "--reference", &config, "--stored-weights"]);
    assert!(fails(&["compare", &bundle, "--reference", &config]).contains("a configuration has no weights"));
    assert!(
        fails(&["compare", &bundle, "--reference", &fixture("odd-moe")])
            .contains("not the model of the bundle")
    );
    assert!(
        fails(&["compare", &bundle, "--reference", &source, "--adapter", "0"]).contains("--backend wgpu")
    );
    assert!(fails(&["compare", &bundle, "--reference", &source, "--tokens", "99999"]).contains("99999"));

    let random = path(&folder, "random.lfmb");
    done(&["export", &config, "-o", &random, "--random-weights", "3", "--weights", "f32", "--context", "64"]);
    done(&["compare", &random, "--reference", &config]);
}

#[test]
fn verify_answers() {
    let folder = TempDir::new().unwrap();
    let bundle = bundle(&folder);
    let text = done(&["verify", &bundle]);
    assert_eq!(text.lines().filter(|line| line.starts_with("ok")).count(), 5, "{text}");

    let report: Value = serde_json::from_str(&done(&["inspect", &bundle, "--json"])).unwrap();
    let sections = report["sections"].as_array().unwrap();
    let weights = sections.iter().find(|section| section["name"] == "weights").unwrap();
    let at = (weights["offset"].as_u64().unwrap() + weights["length"].as_u64().unwrap() / 2) as usize;
    let mut bytes = fs::read(&bundle).unwrap();
    bytes[at] ^= 1;
    fs::write(&bundle, &bytes).unwrap();
    let output = lfmc(&["verify", &bundle]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("section `weights`"), "{}", stdout(&output));

    bytes.truncate(at);
    fs::write(&bundle, &bytes).unwrap();
    assert!(fails(&["verify", &bundle]).contains("it was truncated"));
    assert!(fails(&["verify", &path(&folder, "none.lfmb")]).contains("none.lfmb"));
}

#[test]
fn errors_say_what_was_expected() {
    let folder = TempDir::new().unwrap();
    let out = path(&folder, "x.lfmb");
    let moe = fixture("tiny-moe");
    let cases: [(&[&str], &[&str]); 9] = [
        (
            &["export", "no/such/folder", "-o", &out],
            &["no/such/folder", "expected a folder with config.json"],
        ),
        (&["export", &moe, "-o", &out, "--weights", "q5_9"], &["q5_9", "q4_0", "q8_0"]),
        (&["export", &moe, "-o", &out, "--target", "vax"], &["vax", "portable"]),
        (&["export", &moe, "-o", &out, "--target", "./none.ron"], &["cannot read the profile ./none.ron"]),
        (&["export", &moe, "-o", &out, "--context", "9999999"], &["9999999 positions", "made for"]),
        (&["export", &moe, "-o", &out, "--chunk", "0"], &["chunk of 0", "expected 1 to"]),
        (&["export", &moe, "-o", "no/such/folder/x.lfmb"], &["no/such/folder"]),
        (&["export", &moe, "-o", &out, "--ram", "much"], &["much"]),
        (&["inspect", &format!("{moe}/config.json")], &["config.json", "magic"]),
    ];
    for (args, parts) in cases {
        let message = fails(args);
        for part in parts {
            // Words of the error may differ; what was given and what would do may not.
            assert!(
                message.contains(part) || *part == "magic" && message.contains("LFMB"),
                "{args:?}: {message}"
            );
        }
    }
    assert!(!Path::new(&out).exists(), "a failed export leaves no file");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nor a part of one");
}

#[test]
fn a_budget_that_is_too_small_names_what_fits() {
    let folder = TempDir::new().unwrap();
    let out = path(&folder, "x.lfmb");
    let export = |more: &[&str]| lfmc(&[&["export", &fixture("tiny-dense"), "-o", &out][..], more].concat());
    let asked = ["--context", "2048", "--chunk", "512"];
    let report: Value = serde_json::from_str(&stdout(&export(&[&asked[..], &["--json"]].concat()))).unwrap();
    let total = report["memory"]["total"].as_u64().unwrap();
    assert_eq!(report["memory"]["budget"], Value::Null);
    let ram = |bytes: u64| bytes.to_string();
    assert_eq!(export(&[&asked[..], &["--ram", &ram(total)]].concat()).status.code(), Some(0));
    let little = ram(total - 1);
    let output = export(&[&asked[..], &["--ram", &little]].concat());
    assert_eq!(output.status.code(), Some(2));
    let message = stderr(&output);
    // It says settings that work.
    let (_, hints) = message.trim_end().split_once("what fits: ").unwrap_or_else(|| panic!("{message}"));
    let hints: Vec<Vec<&str>> = hints.split(", or ").map(|hint| hint.split(' ').collect()).collect();
    assert!(hints.len() >= 2, "{message}");
    for hint in hints {
        let flags = [("--context", "2048"), ("--chunk", "512"), ("--ram", &little)];
        let kept = flags.into_iter().filter(|(flag, _)| !hint.contains(flag)).flat_map(|(f, v)| [f, v]);
        let flags: Vec<&str> = hint.iter().copied().chain(kept).collect();
        assert_eq!(export(&flags).status.code(), Some(0), "{flags:?}");
    }
    // Without flags, what is not asked for gives way.
    let output = export(&["--ram", &little, "--json"]);
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(report["memory"]["total"].as_u64().unwrap() < total);
    assert_eq!(report["memory"]["budget"], total - 1);
}

#[test]
fn retargeting_says_what_it_keeps() {
    let folder = TempDir::new().unwrap();
    let (bundle, out) = (bundle(&folder), path(&folder, "pi.lfmb"));
    let profile = path(&folder, "own.ron");
    let text = done(&["targets", "raspberry-pi-5-8gb"]).replace("q4_0", "q8_0");
    fs::write(&profile, text).unwrap();
    let output = lfmc(&["retarget", &bundle, "--target", &profile, "-o", &out, "--chunk", "16"]);
    let notes = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{notes}");
    assert!(notes.contains("the profile asks for weights in q8_0; they stay q4_0"), "{notes}");
    assert!(notes.contains("as the export was asked for: --context 128\n"), "{notes}");
    let report: Value = serde_json::from_str(&done(&["inspect", &out, "--json"])).unwrap();
    assert_eq!((&report["context"], &report["chunk"]), (&128.into(), &16.into()));
    assert_eq!(report["target"], "raspberry-pi-5-8gb");
    done(&["verify", &out]);
    assert!(fails(&["retarget", &bundle, "--target", "vax", "-o", &out]).contains("portable"));
}

#[test]
fn signatures_vouch_for_bundles() {
    let folder = TempDir::new().unwrap();
    let (bundle, key, other) = (bundle(&folder), path(&folder, "a.key"), path(&folder, "b.key"));
    let verify = |more: &[&str]| lfmc(&[&["verify", &bundle][..], more].concat());
    for key in [&key, &other] {
        done(&["keygen", "-o", key]);
    }
    let public = [&key, &other].map(|key| format!("{key}.pub"));
    let demand = ["--require-signature", &public[0]];
    assert!(fails(&["keygen", "-o", &key]).contains("exists"), "a key is never overwritten");
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&key).unwrap().permissions());
        assert_eq!(mode & 0o077, 0, "a secret is its owner's");
    }

    // No signature.
    let output = verify(&[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("\n--  signature  there is no signature"), "{}", stdout(&output));
    assert_eq!(verify(&demand).status.code(), Some(1));

    let before = fs::read(&bundle).unwrap();
    done(&["sign", &bundle, "--key", &key]);
    assert!(fs::read(&bundle).unwrap() == before, "signing changes no byte");
    let signature = format!("{bundle}.sig");
    let text = fs::read_to_string(&signature).unwrap();
    done(&["sign", &bundle, "--key", &key]);
    assert_eq!(fs::read_to_string(&signature).unwrap(), text, "Ed25519 is deterministic");
    assert_eq!(verify(&demand).status.code(), Some(0));
    let hex = fs::read_to_string(&public[0]).unwrap().split_whitespace().last().unwrap().to_owned();
    assert_eq!(verify(&["--require-signature", &hex]).status.code(), Some(0));
    let report: Value = serde_json::from_str(&stdout(&verify(&[&demand[..], &["--json"]].concat()))).unwrap();
    assert_eq!((&report["ok"], &report["stages"][5]["verdict"]), (&true.into(), &"ok".into()));

    // Another key, an altered signature, no key at all.
    let output = verify(&["--require-signature", &public[1]]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("NO  signature  the signature is by key "), "{}", stdout(&output));
    let at = text.find("\nsignature ").unwrap() + 11;
    let digit = if &text[at..at + 1] == "0" { "1" } else { "0" };
    fs::write(&signature, format!("{}{digit}{}", &text[..at], &text[at + 1..])).unwrap();
    let output = verify(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("was altered"), "{}", stdout(&output));
    fs::write(&signature, "lfm signature 1\n").unwrap();
    assert!(stdout(&verify(&[])).contains("there is no line `bundle`"));
    fs::write(&signature, &text).unwrap();
    for bad in [&key, &bundle, "12"] {
        assert_eq!(verify(&["--require-signature", bad]).status.code(), Some(2), "{bad}");
    }
    assert!(fails(&["sign", &bundle, "--key", &public[0]]).contains("found no secret key"));

    // The signature of another bundle, which is this one for another target.
    let moved = path(&folder, "moved.lfmb");
    done(&["retarget", &bundle, "--target", "rk3588-16gb", "-o", &moved]);
    fs::copy(&signature, format!("{moved}.sig")).unwrap();
    let output = lfmc(&[&["verify", &moved][..], &demand].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("the signature is of bundle "), "{}", stdout(&output));

    // Altered weights: what is not what its hashes say is not signed, nor trusted.
    let report: Value = serde_json::from_str(&done(&["inspect", &bundle, "--json"])).unwrap();
    let sections = report["sections"].as_array().unwrap();
    let weights = sections.iter().find(|section| section["name"] == "weights").unwrap();
    let mut bytes = before;
    bytes[weights["offset"].as_u64().unwrap() as usize + 9] ^= 1;
    fs::write(&bundle, &bytes).unwrap();
    assert_eq!(verify(&demand).status.code(), Some(1));
    assert!(fails(&["sign", &bundle, "--key", &key]).contains("not a sound bundle"));
}

#[test]
fn random_weights_follow_the_seed() {
    let folder = TempDir::new().unwrap();
    let config = format!("{}/config.json", fixture("odd-moe"));
    let export = |name: &str, seed: &str| {
        let out = path(&folder, name);
        done(&["export", &config, "-o", &out, "--random-weights", seed]);
        fs::read(out).unwrap()
    };
    let first = export("a.lfmb", "1");
    assert!(first == export("b.lfmb", "1"), "one seed, two bundles");
    assert!(first != export("c.lfmb", "2"), "two seeds, one bundle");
    assert_eq!(lfmc(&["verify", &path(&folder, "a.lfmb")]).status.code(), Some(0));
}

#[test]
fn the_place_of_an_export_does_not_show() {
    let folder = TempDir::new().unwrap();
    let here = bundle(&folder);
    let copy = folder.path().join("another name");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(fixture("tiny-moe")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let args = ["export", "another name", "-o", "there.lfmb", "--context", "128", "--chunk", "32"];
    let output = lfmc_in(folder.path(), &args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(fs::read(here).unwrap() == fs::read(folder.path().join("there.lfmb")).unwrap());
}

#[test]
fn a_reader_may_leave() {
    // Many times the text that a pipe holds.
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/../graphs/configs/lfm2-8b-a1b.json");
    let mut child = Command::new(LFMC)
        .args(["graph", config, "--stage", "lowered"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One byte, then the pipe is closed with most of the text unwritten.
    let mut first = [0];
    let mut pipe = child.stdout.take().unwrap();
    pipe.read_exact(&mut first).unwrap();
    drop(pipe);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn wrong_arguments_are_no_answer() {
    for args in [&["export"][..], &["no-such-command"], &["graph", "x", "--stage", "none"], &[]] {
        assert_eq!(lfmc(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn the_demo_answers() {
    let folder = TempDir::new().unwrap();
    let output = lfmc_in(folder.path(), &["demo"]);
    let (text, notes) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{notes}");
    assert!(text.starts_with("> What is `Vec`?\n") && text.contains("contiguous growable array"), "{text}");
    assert!(notes.contains("often wrong") && notes.contains("The bundle is demo.lfmb"), "{notes}");
    assert!(folder.path().join("demo.lfmb").exists());
    let other: PathBuf = folder.path().join("other.lfmb");
    let output = lfmc_in(folder.path(), &["demo", "What is `Option`?", "-o", other.to_str().unwrap()]);
    assert!(stdout(&output).starts_with("> What is `Option`?\n"), "{}", stdout(&output));
    assert!(other.exists());
}
