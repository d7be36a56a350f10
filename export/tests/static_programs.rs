//! The static programs that `just dist` makes: the same logits on every CPU, with nothing around them.
//!
//! | variable | says |
//! |---|---|
//! | `LFM_STATIC` | the folder of the programs: `lfm-run-x86_64`, `lfm-run-lean-x86_64`, and the same of `aarch64` |
//! | `REQUIRE_ARM` | 1: it is an error that a program or `qemu-aarch64` is missing |

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::gguf::mixture;
use common::repository;
use lfm_export::bundle::{Options, Source, export};
use lfm_graphs::bundle::LogitsDigest;
use lfm_graphs::target::Target;
use lfm_graphs::testing::Rng;
use lfm_runtime::Model;
use tempfile::TempDir;

/// A CPU of qemu, and the tiers that it runs, slowest first.
const CPUS: [(&str, &[&str]); 3] = [
    ("cortex-a72", &["portable", "aarch64-neon"]),
    ("cortex-a76", &["portable", "aarch64-neon", "aarch64-dotprod"]),
    ("max", &["portable", "aarch64-neon", "aarch64-dotprod", "aarch64-i8mm"]),
];

/// A program of `just dist`; none, with a word on standard error, if there is no such thing and none is required.
#[expect(clippy::print_stderr, reason = "what a run has left out")]
fn program(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("LFM_STATIC").map(|folder| Path::new(&folder).join(name));
    let found = found.filter(|path| path.is_file());
    let qemu = !name.ends_with("aarch64") || Command::new("qemu-aarch64").arg("--version").output().is_ok();
    if found.is_none() || !qemu {
        let what =
            format!("{name} of LFM_STATIC (`just dist`), and qemu-aarch64 for Arm (apt install qemu-user)");
        assert!(std::env::var_os("REQUIRE_ARM").is_none_or(|required| required != "1"), "missing: {what}");
        eprintln!("skipped, for want of {what}");
        return None;
    }
    found
}

/// Bundles of every weight format, each with tokens to take in: more than a tile of attention and several panels.
fn bundles(folder: &Path) -> Vec<(PathBuf, Vec<u32>)> {
    let gguf = folder.join("mixture.gguf");
    mixture(&mut Rng::new(5)).write(&gguf);
    let recipes = ["f32", "f16", "q8_0", "q6_k", "q4_0"];
    let checkpoints =
        ["tiny-moe", "odd-dense", "odd-moe"].map(|name| repository(&format!("tests/fixtures/{name}")));
    let sources = checkpoints.iter().flat_map(|path| recipes.map(|recipe| (path.clone(), Some(recipe))));
    let mut made = Vec::new();
    for (source, recipe) in sources.chain([(gguf, None)]) {
        let path = folder.join(format!("{}.lfmb", made.len()));
        let mut options = Options::new(Target::builtin("aarch64-dotprod").unwrap());
        options.recipe = recipe.map(|name| name.parse().unwrap());
        options.context = Some(128);
        options.ram = None;
        export(&Source::open(&source).unwrap(), &options, &path, |_| {}).unwrap();
        let vocab = Model::open(&path).unwrap().vocab() as u32;
        made.push((path, (0..75).map(|i| (7 * i * i + 3 * i + 1) % vocab).collect()));
    }
    made
}

/// The digest of the logits of all positions, computed here.
fn expected(bundle: &Path, tokens: &[u32]) -> String {
    let mut session = Model::open(bundle).unwrap().session(&lfm_runtime::Options::default()).unwrap();
    let mut digest = LogitsDigest::new();
    session
        .prefill_all(tokens, |_, logits| {
            digest.update(logits);
            Ok(())
        })
        .unwrap();
    digest.finish()
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}: {}{}", output.status, text(&output.stdout), text(&output.stderr))
}

#[test]
fn arm_computes_what_this_machine_does() {
    let (Some(program), Some(lean)) = (program("lfm-run-aarch64"), program("lfm-run-lean-aarch64")) else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let run = |cpu: &str, program: &Path, arguments: &[&str]| {
        Command::new("qemu-aarch64").args(["-cpu", cpu]).arg(program).args(arguments).output().unwrap()
    };
    for (bundle, tokens) in bundles(folder.path()) {
        let digest = expected(&bundle, &tokens);
        let ids = tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let bundle = bundle.to_str().unwrap();
        for (cpu, tiers) in CPUS {
            // What is left out is done by a CPU that has more.
            let tiers = if cpu == "max" { tiers } else { &tiers[tiers.len() - 1..] };
            for tier in tiers {
                for (chunk, program) in [("64", &program), ("1", &lean)] {
                    let arguments =
                        ["logits", bundle, "--all", "--tokens", &ids, "--isa", tier, "--chunk", chunk];
                    let output = run(cpu, program, &arguments);
                    assert!(
                        output.status.success() && String::from_utf8_lossy(&output.stdout).contains(&digest),
                        "{cpu} {tier} chunk {chunk}, expected {digest}: {}",
                        said(&output)
                    );
                }
            }
        }
        let output = run("max", &program, &["check", bundle]);
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn arm_tiers_are_found() {
    let Some(program) = program("lfm-run-aarch64") else { return };
    let [.., (_, all)] = CPUS;
    for (cpu, tiers) in CPUS {
        let output =
            Command::new("qemu-aarch64").args(["-cpu", cpu]).arg(&program).arg("info").output().unwrap();
        let found = said(&output);
        let named: Vec<_> = all.iter().filter(|tier| found.contains(**tier)).copied().collect();
        assert!(output.status.success() && named == tiers, "{cpu}: {found}");
    }
}

#[test]
fn a_program_and_a_bundle_are_enough() {
    let folder = TempDir::new().unwrap();
    let made = bundles(folder.path());
    let (bundle, tokens) = made.last().unwrap();
    let ids = tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    for name in ["lfm-run-x86_64", "lfm-run-lean-x86_64"] {
        let Some(program) = program(name) else { return };
        // A root with nothing else: no /proc, /sys, /dev, /tmp.
        let root = TempDir::new().unwrap();
        fs::copy(&program, root.path().join("lfm-run")).unwrap();
        fs::copy(bundle, root.path().join("m.lfmb")).unwrap();
        let run = |arguments: &[&str]| {
            // Only root may change its root; anyone may be root of a namespace.
            let is_root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
            let mut command = Command::new(if is_root { "env" } else { "unshare" });
            command.args(if is_root { &[][..] } else { &["--user", "--map-root-user"] });
            command.arg("chroot").arg(root.path()).arg("/lfm-run").args(arguments).output().unwrap()
        };
        for arguments in [
            &["check", "/m.lfmb"][..],
            &["info", "/m.lfmb"],
            &["generate", "/m.lfmb", "--tokens", &ids, "-n", "3", "--greedy"],
            &["logits", "/m.lfmb", "--tokens", &ids, "--all"],
        ] {
            let output = run(arguments);
            assert!(output.status.success(), "{name} {arguments:?}: {}", said(&output));
            if arguments[0] == "logits" {
                let digest = expected(bundle, tokens);
                assert!(said(&output).contains(&digest), "{name}: expected {digest}: {}", said(&output));
            }
        }
    }
}
