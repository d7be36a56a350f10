//! Bundles for other targets: each has the bytes that an export for that target has, and fits into its budget.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::gguf::Writer;
use common::repository;
use lfm_export::bundle::{Bundled, ExportError, MemoryTable, Options, Source, compile, export, retarget};
use lfm_graphs::bundle::KvType;
use lfm_graphs::target::{ByteSize, Kv, Target};
use lfm_runtime::Model;
use tempfile::TempDir;

fn target(name: &str) -> Target {
    Target::builtin(name).unwrap()
}

/// A profile that wants other things than those that are built in.
fn odd() -> Target {
    Target {
        name: "odd".into(),
        ram: Some(ByteSize(64 << 20)),
        context: 300,
        chunk: 24,
        weights: "q8_0".into(),
        kv: Kv::F32,
        ..target("portable")
    }
}

/// Exports a source for a target.
fn made(source: &Source, options: &Options, path: &Path) -> Vec<u8> {
    export(source, options, path, |_| {}).unwrap();
    fs::read(path).unwrap()
}

/// Makes a bundle for another target.
fn moved(bundle: &Path, options: &Options, path: &Path) -> Vec<u8> {
    retarget(&Bundled::open(bundle).unwrap(), options, path, |_| {}).unwrap();
    fs::read(path).unwrap()
}

/// The flags of an export, without its target.
type Flags = fn(&mut Options);

fn options(target: Target, flags: Flags) -> Options {
    let mut options = Options::new(target);
    flags(&mut options);
    options
}

/// For every target: from the first one's bundle to the target's, and back.
fn check(source: &Source, targets: &[Target], flags: Flags) {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let first = target("x86-64-v3");
    let original = made(source, &options(first.clone(), flags), &path("original"));
    let recipe = Bundled::open(&path("original")).unwrap().recipe();
    for target in targets {
        let there = moved(&path("original"), &Options::new(target.clone()), &path("there"));
        // Where the profile wants another recipe, the weights stay.
        let mut exported = options(target.clone(), flags);
        exported.recipe = source.dominating().is_none().then_some(recipe);
        assert!(there == made(source, &exported, &path("exported")), "{}: not as exported", target.name);
        let back = moved(&path("there"), &Options::new(first.clone()), &path("back"));
        assert!(back == original, "{}: not the original bytes", target.name);
    }
}

#[test]
fn a_retargeted_bundle_is_an_exported_one() {
    let tiny = Source::folder(&repository("tests/fixtures/tiny-moe")).unwrap();
    let mut all = Target::builtins();
    all.push(odd());
    check(&tiny, &all, |_| {});
}

#[test]
fn whatever_was_asked_for_and_wherever_it_comes_from() {
    let few = [target("raspberry-pi-4-2gb"), odd()];
    let tiny = Source::folder(&repository("tests/fixtures/tiny-moe")).unwrap();
    let flags: [Flags; 5] = [
        |options| options.context = Some(77),
        |options| options.chunk = Some(400),
        |options| options.ram = Some(ByteSize(40 << 20)),
        |options| options.kv = Some(KvType::F32),
        |options| {
            options.recipe = Some("f32".parse().unwrap());
            // No golden vector of an ordinary export fits in.
            (options.context, options.chunk) = (Some(3), Some(2));
        },
    ];
    for flags in flags {
        check(&tiny, &few, flags);
    }
    let folder = TempDir::new().unwrap();
    let gguf = folder.path().join("model.gguf");
    Writer::from_folder(&repository("tests/fixtures/tiny-dense"), "q8_0", false).write(&gguf);
    let config = repository("tests/fixtures/odd-moe/config.json");
    for source in [Source::gguf(&gguf), Source::random(&config, 5), Source::folder(&repository("model/demo"))]
    {
        check(&source.unwrap(), &few, |_| {});
    }
}

#[test]
fn flags_of_a_retargeting_count_as_those_of_an_export() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let source = Source::folder(&repository("tests/fixtures/tiny-dense")).unwrap();
    let asked: Flags = |options| (options.context, options.chunk) = (Some(100), Some(20));
    made(&source, &options(target("portable"), asked), &path("a"));
    let again: Flags = |options| {
        (options.chunk, options.ram, options.kv) = (Some(30), Some(ByteSize(1 << 30)), Some(KvType::F32));
    };
    let there = moved(&path("a"), &options(target("wgpu"), again), &path("b"));
    let both: Flags = |options| {
        (options.context, options.chunk) = (Some(100), Some(30));
        (options.ram, options.kv) = (Some(ByteSize(1 << 30)), Some(KvType::F32));
    };
    assert!(there == made(&source, &options(target("wgpu"), both), &path("c")));
}

#[test]
fn what_cannot_be_retargeted_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let source = Source::folder(&repository("tests/fixtures/tiny-dense")).unwrap();
    let mut bytes = made(&source, &Options::new(target("portable")), &path("a"));
    let model = Model::open(path("a")).unwrap();
    let weights = model.sections().iter().find(|s| s.kind() == lfm_graphs::bundle::Kind::Weights).unwrap();
    bytes[weights.offset() as usize + 100] ^= 4;
    fs::write(path("damaged"), &bytes).unwrap();
    let failed = |bundle: PathBuf, options: &Options| {
        let error = retarget(&Bundled::open(&bundle).unwrap(), options, &path("out"), |_| {}).unwrap_err();
        assert!(!path("out").exists());
        error
    };
    let error = failed(path("damaged"), &Options::new(target("wgpu")));
    assert!(matches!(error, ExportError::Damaged(_)), "{error}");
    let small = options(target("portable"), |options| options.ram = Some(ByteSize(1 << 20)));
    let error = failed(path("a"), &small);
    assert!(matches!(error, ExportError::Unfit(_)), "{error}");
    let long = options(target("portable"), |options| options.context = Some(1 << 20));
    let error = failed(path("a"), &long);
    assert!(matches!(error, ExportError::Context { .. }), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "no part of a bundle is left");
}

/// A configuration of the repository, without weights.
fn config(name: &str) -> Source {
    Source::random(&repository(&format!("graphs/configs/{name}.json")), 0).unwrap()
}

/// What is decided for a model and a target: recipe, context, chunk, and the memory.
fn decided(model: &str, options: &Options) -> (String, u32, u32, MemoryTable) {
    let settled = compile(&config(model), options).unwrap();
    let table = MemoryTable::of(&settled.graph, &settled.plan, &settled.target);
    let parts: u64 = table.parts().iter().map(|(_, _, bytes)| bytes).sum();
    assert_eq!(parts, table.total, "{model}: the parts make the total");
    assert!(table.budget.is_none_or(|budget| table.total <= budget), "{model}: {table:?}");
    (settled.recipe.to_string(), settled.plan.context, settled.plan.chunk, table)
}

#[test]
fn boards_get_what_fits() {
    let boards = ["raspberry-pi-4-2gb", "raspberry-pi-5-4gb", "raspberry-pi-5-8gb", "rk3588-16gb"];
    let mut lines = String::new();
    for target in boards.map(target) {
        for model in ["lfm2-1.2b", "lfm2-8b-a1b", "lfm2-24b-a2b"] {
            let line = match compile(&config(model), &Options::new(target.clone())) {
                Ok(_) => {
                    let (recipe, context, chunk, table) = decided(model, &Options::new(target.clone()));
                    let how = if table.paged > 0 { "paged" } else { "resident" };
                    format!("{recipe}, context {context}, chunk {chunk}, {how}")
                }
                Err(ExportError::Unfit(_)) => "does not fit".into(),
                Err(error) => panic!("{error}"),
            };
            lines += &format!("{:<20} {model:<14} {line}\n", target.name);
        }
    }
    insta::assert_snapshot!(lines);
}

#[test]
fn settings_give_way_in_order() {
    let with = |ram: u64, change: fn(&mut Target, &mut Options)| {
        let mut target = Target { ram: Some(ByteSize(ram)), ..target("portable") };
        let mut options = Options::new(target.clone());
        change(&mut target, &mut options);
        options.target = target;
        options
    };
    let model = "lfm2-350m";
    let least = |options: &Options| decided(model, options).3.total;
    let free = least(&with(u64::MAX, |_, _| {}));
    let short: fn(&mut Target, &mut Options) =
        |_, options| (options.context, options.chunk) = (Some(1024), Some(128));
    let short = least(&with(u64::MAX, short));
    // All as the profile says, a smaller chunk, a shorter context, smaller weights.
    let settings = |options: &Options| {
        let (recipe, context, chunk, _) = decided(model, options);
        (recipe, context, chunk)
    };
    assert_eq!(settings(&with(free, |_, _| {})), ("q4_0".into(), 4096, 512));
    assert_eq!(settings(&with(free - 1, |_, _| {})), ("q4_0".into(), 4096, 256));
    let (recipe, context, _) = settings(&with((free + short) / 2, |_, _| {}));
    assert!(recipe == "q4_0" && (1024..4096).contains(&context) && context % 256 == 0, "{context}");
    assert_eq!(settings(&with(short, |_, _| {})), ("q4_0".into(), 1024, 128));
    let larger: fn(&mut Target, &mut Options) = |target, _| target.weights = "f16".into();
    let (recipe, context, _) = settings(&with(free, larger));
    assert!(recipe == "q4_0" && context == 4096, "{recipe}, {context}");
    let unfit = |options: &Options| match compile(&config(model), options) {
        Err(ExportError::Unfit(unfit)) => *unfit,
        other => panic!("{:?}", other.map(|settled| settled.plan.memory)),
    };
    // What was asked for stays, and what would fit is said.
    let asked: fn(&mut Target, &mut Options) = |_, options| options.context = Some(4096);
    let hints = unfit(&with(short, asked)).hints;
    assert!(hints[0].starts_with("--context ") && hints[1].starts_with("--ram "), "{hints:?}");
    let asked: fn(&mut Target, &mut Options) = |_, options| options.recipe = Some("q8_0".parse().unwrap());
    let options = with(free, asked);
    let unfit = unfit(&options);
    assert_eq!((unfit.hints[0].as_str(), unfit.hints.len()), ("--weights q4_0", 2), "{unfit}");
    // And it does.
    let mut again = options.clone();
    again.recipe = Some("q4_0".parse().unwrap());
    decided(model, &again);
    let (_, ram) = unfit.hints[1].split_once(' ').unwrap();
    let mut again = options;
    again.ram = Some(ram.parse().unwrap());
    decided(model, &again);
}

#[test]
fn mixtures_are_paged_where_their_weights_do_not_fit() {
    let model = "lfm2-8b-a1b";
    let on = |ram: &str| {
        let mut options = Options::new(target("raspberry-pi-5-4gb"));
        options.ram = Some(ram.parse().unwrap());
        decided(model, &options).3
    };
    let (large, small) = (on("8GiB"), on("3GiB"));
    assert_eq!((large.paged, large.resident), (0, large.weights));
    assert!(
        small.paged > 1 << 30 && small.total <= 3 << 30 && small.total > (3 << 30) - (64 << 20),
        "{small:?}"
    );
    let mut options = Options::new(target("raspberry-pi-5-4gb"));
    options.ram = Some(ByteSize(200 << 20));
    let error = compile(&config(model), &options).unwrap_err().to_string();
    assert!(error.contains("with experts paged at least ") && error.contains("what fits: --ram "), "{error}");
}
