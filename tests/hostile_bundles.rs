//! Hostile bundles: damaged files, and files that are sound as bytes but not in what they say. Each is an error, or
//! a bundle that runs; none is a panic, a hang, or memory beyond what the file can justify.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;

use lfm_export::bundle::Bundled;
use lfm_export::bundle::roles;
use lfm_export::quantize::recipe::Recipe;
use lfm_graphs::Graph;
use lfm_graphs::bundle::{Bundle as Sections, Kind};
use lfm_graphs::id::Id;
use lfm_graphs::plan::{Limits, plan};
use lfm_graphs::testing::{Mixer, Rng, Tiny, tiny_graph};
use lfm_runtime::{Error, Model, Options};
use lfm_tests::fuzz::{RUN, use_model};
use lfm_tests::heap::{Heap, peak};
use lfm_tests::{Bundle, damage, fixture, rewrite as reseal};

#[global_allocator]
static HEAP: Heap = Heap;

/// Memory is measured, so tests run one after another.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes of memory that opening may take for each byte of the file, and on top. Parsed text is larger than text.
const PER_BYTE: usize = 40;
const ON_TOP: usize = 1 << 20;

/// The bundle: every operation, quantised, in a short context.
fn made() -> Bundle {
    Bundle::export_with(&fixture("odd-moe"), "q4_0", |options| {
        options.context = Some(64);
        options.chunk = Some(16);
    })
}

/// Opens the file, and where that works runs tokens and reads every section. The error, if there was one.
fn exercise(path: &Path, what: &str) -> Option<Error> {
    let len = fs::metadata(path).unwrap().len() as usize;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let (opened, held) = peak(|| Model::open(path));
        assert!(held <= PER_BYTE * len + ON_TOP, "opening {len} bytes took {held} bytes of memory");
        use_model(&opened?)
    }));
    outcome.unwrap_or_else(|_| panic!("a panic: {what}")).err()
}

#[test]
fn damaged_bytes() {
    let _alone = ALONE.lock();
    let bundle = made();
    let good = fs::read(&bundle.path).unwrap();
    let path = bundle.folder.path().join("damaged.lfmb");
    let mut rng = Rng::new(1);
    let mut refused = 0;
    for _ in 0..3000 {
        let (bad, what) = damage::bytes(&good, &mut rng);
        fs::write(&path, &bad).unwrap();
        let error = exercise(&path, &what);
        if bad == good {
            continue;
        }
        match error {
            Some(Error::Bundle { .. } | Error::Read { .. }) => refused += 1,
            Some(error) => panic!("{what}: {error}"),
            // What opening leaves to `verify`.
            None => {
                let model = Model::open(&path).unwrap();
                assert!(model.verify_weights(|_, _| {}).is_err(), "{what} was not noticed");
            }
        }
    }
    assert!(refused > 1500, "{refused} of 3000 were refused on opening");
}

/// Mutates one section some times; gives how many of the results were refused.
fn mutate(bundle: &Bundle, kind: Kind, times: u32, seed: u64) -> u32 {
    let good = fs::read(&bundle.path).unwrap();
    let text = Sections::parse(&good).unwrap().section(kind).unwrap().to_vec();
    let text = String::from_utf8(text).unwrap();
    let path = bundle.folder.path().join("sealed.lfmb");
    let mut rng = Rng::new(seed);
    let mut refused = 0;
    for _ in 0..times {
        let (mut bad, mut what) = damage::text(&text, &mut rng);
        if rng.once_in(4) {
            let (worse, and) = damage::text(&bad, &mut rng);
            (bad, what) = (worse, format!("{what}, then {and}"));
        }
        if reseal(&good, &[(kind, &bad)], None, &path) {
            refused += exercise(&path, &format!("section {kind}: {what}")).is_some() as u32;
        }
    }
    refused
}

#[test]
fn sealed_graphs_that_lie() {
    let _alone = ALONE.lock();
    let refused = mutate(&made(), Kind::Graph, 1200, 2);
    assert!(refused > 800, "{refused} of 1200");
}

#[test]
fn sealed_plans_that_lie() {
    let _alone = ALONE.lock();
    let bundle = made();
    let refused = mutate(&bundle, Kind::Plan, 1200, 3);
    assert!(refused > 1000, "{refused} of 1200");
}

#[test]
fn other_sealed_sections_that_lie() {
    let _alone = ALONE.lock();
    for (kind, times) in [(Kind::Manifest, 200), (Kind::Target, 200), (Kind::Golden, 200)] {
        assert!(mutate(&made(), kind, times, 4) > 0, "{kind}");
    }
    let bundle = Bundle::export_with(&fixture("tiny-dense"), "q4_0", |options| {
        options.context = Some(64);
        options.chunk = Some(16);
    });
    let kinds =
        [(Kind::Tokenizer, 150), (Kind::TextConfig, 100), (Kind::ChatTemplate, 150), (Kind::Generation, 100)];
    for (kind, times) in kinds {
        assert!(mutate(&bundle, kind, times, 5) > 0, "{kind}");
    }
}

/// A graph that passes its verifier plans and runs: mutated graphs with plans of their own, and weights of any bits.
#[test]
fn planned_graphs_run() {
    let _alone = ALONE.lock();
    let bundle = made();
    let good = fs::read(&bundle.path).unwrap();
    let text = Sections::parse(&good).unwrap().text(Kind::Graph).unwrap().to_owned();
    let old = Sections::parse(&good).unwrap().weights().to_vec();
    let path = bundle.folder.path().join("planned.lfmb");
    let mut rng = Rng::new(6);
    let (mut planned, mut ran) = (0, 0);
    for _ in 0..2500 {
        let (bad, what) = damage::text(&text, &mut rng);
        let Ok(graph) = Graph::parse(&bad) else { continue };
        let limits = Limits { chunk: 16, context: 64, overhead: 0, ram: Some(RUN) };
        let Ok(plan) = plan(&graph, limits) else { continue };
        planned += 1;
        let mut weights = old.clone();
        weights.resize(plan.memory.weights as usize, 0);
        if rng.once_in(4) {
            weights.iter_mut().for_each(|byte| *byte = rng.bits() as u8);
        }
        assert!(reseal(
            &good,
            &[(Kind::Graph, &graph.text()), (Kind::Plan, &plan.text())],
            Some(&weights),
            &path
        ));
        ran += exercise(&path, &what).is_none() as u32;
    }
    assert!(planned > 100 && ran > 50, "{planned} were planned, {ran} ran");
}

/// Faults that a mutation finds rarely, by name.
#[test]
fn graphs_without_kernels() {
    let _alone = ALONE.lock();
    let bundle = made();
    let good = fs::read(&bundle.path).unwrap();
    let text = Sections::parse(&good).unwrap().text(Kind::Graph).unwrap().to_owned();
    let path = bundle.folder.path().join("lies.lfmb");
    let reshaped = "(name: \"wide\", op: Reshape(to: [\"seq\", 2, 24]), args: [\"l1.operator_norm\"], out: [\"f32[seq, 2, 24]\"]),\n        ";
    let products = [
        ("%l1.attn.k_proj\"], out: [\"f32[seq, 24]\"]", "%l1.attn.k_proj\"], out: [\"f32[seq, 2, 12]\"]"),
        (
            "op: Linear, args: [\"l1.operator_norm\", \"%l1.attn.k_proj",
            "op: Linear, args: [\"wide\", \"%l1.attn.k_proj",
        ),
        ("name: \"l1.attn.k_proj\", ty: \"f32[24, 48]\"", "name: \"l1.attn.k_proj\", ty: \"f32[12, 24]\""),
        ("(name: \"l1.attn.k\", op", &format!("{reshaped}(name: \"l1.attn.k\", op")),
    ];
    let cases: [(&str, &[(&str, &str)]); 5] = [
        ("V15", &[("\"$tokens\"", "\"$positions\"")]),
        ("V15", &[("\"$positions\"", "\"$tokens\"")]),
        ("V15", &products),
        ("V02", &[("args: [\"embed\", \"%l0.op", "args: [\"l0.conv.gate\", \"%l0.op")]),
        ("V09", &[("\"@l3.attn.k\", \"@l3.attn.v\"", "\"@l1.attn.k\", \"@l3.attn.v\"")]),
    ];
    for (rule, changes) in cases {
        let mut bad = text.clone();
        for (from, to) in changes {
            assert!(bad.contains(from), "{from} is not in\n{bad}");
            bad = bad.replacen(from, to, 1);
        }
        assert!(reseal(&good, &[(Kind::Graph, &bad)], None, &path));
        let error = exercise(&path, rule).unwrap();
        let Error::Unsound { section: "graph", faults, .. } = &error else { panic!("{error}") };
        assert!(faults.iter().all(|fault| fault.starts_with(rule)), "{rule}: {error}");
    }
}

/// Sizes at the ends of what a graph can say: each runs, or is refused in words.
#[test]
fn extreme_shapes() {
    let _alone = ALONE.lock();
    let bundle = made();
    let good = fs::read(&bundle.path).unwrap();
    let path = bundle.folder.path().join("extreme.lfmb");
    let moe = Tiny::moe();
    let attention = Tiny { layers: vec![Mixer::Attention], ..Tiny::moe() };
    let shapes = [
        (
            "one of everything",
            Tiny { vocab: 1, hidden: 1, heads: 1, kv_heads: 1, head_dim: 2, ..moe.clone() },
            64,
        ),
        ("narrow layers", Tiny { dense_width: 1, expert_width: 1, experts: 1, top_k: 1, ..moe.clone() }, 64),
        ("one tap", Tiny { taps: 1, conv_bias: true, ..moe.clone() }, 64),
        ("a long filter", Tiny { taps: 3000, ..moe.clone() }, 64),
        ("wide heads", Tiny { head_dim: 256, ..attention.clone() }, 64),
        ("too wide heads", Tiny { head_dim: 3000, ..attention.clone() }, 64),
        ("many heads", Tiny { heads: 3000, kv_heads: 1000, head_dim: 2, ..attention.clone() }, 64),
        ("a group of many heads", Tiny { heads: 3000, kv_heads: 1, head_dim: 2, ..attention.clone() }, 64),
        ("a window of one", Tiny { window: Some(1), ..attention.clone() }, 64),
        ("a window of all", Tiny { window: Some(u32::MAX), ..attention.clone() }, 64),
        ("many experts", Tiny { experts: 1024, top_k: 1024, expert_width: 2, ..moe.clone() }, 64),
        ("too many experts", Tiny { experts: 5000, top_k: 3, expert_width: 2, ..moe.clone() }, 64),
        (
            "huge numbers",
            Tiny { renorm: Some(f32::MAX), routed_scale: f32::MAX, eps: f32::MAX, ..moe.clone() },
            64,
        ),
        (
            "tiny numbers",
            Tiny { renorm: None, routed_scale: 1e-45, eps: 1e-45, theta: 1e-30, ..moe.clone() },
            64,
        ),
        ("a context of one", moe.clone(), 1),
        ("no layers", Tiny { layers: Vec::new(), ..moe.clone() }, 64),
        // 128 GiB of keys and values: more than most machines give, and no reason to end the program.
        (
            "a cache larger than memory",
            Tiny { hidden: 2, head_dim: 256, heads: 64, kv_heads: 64, ..attention },
            1 << 20,
        ),
    ];
    let mut rng = Rng::new(7);
    for (what, tiny, context) in shapes {
        for recipe in ["f32", "f16", "q8_0", "q4_0", "q6_k"] {
            let recipe: Recipe = recipe.parse().unwrap();
            let graph = tiny_graph(&tiny);
            let roles = roles(&graph);
            let graph = graph.with_storage(|graph, id| {
                let k = graph.weights()[id].ty.last().and_then(|k| k.as_fixed()).unwrap_or(1);
                recipe.format_for(roles[id.index()], k as usize)
            });
            let limits = Limits { chunk: 16, context, overhead: 0, ram: None };
            let plan = plan(&graph, limits).unwrap_or_else(|e| panic!("{what}: {e}"));
            let texts = [(Kind::Graph, &*graph.text()), (Kind::Plan, &*plan.text()), (Kind::Golden, "")];
            for random in [false, true] {
                let mut weights = vec![0; plan.memory.weights as usize];
                if random {
                    weights.iter_mut().for_each(|byte| *byte = rng.bits() as u8);
                }
                assert!(reseal(&good, &texts, Some(&weights), &path));
                match exercise(&path, what) {
                    None => {}
                    Some(Error::Token { .. } | Error::ContextFull { .. })
                        if tiny.vocab < 5 || context == 1 => {}
                    Some(Error::Unsound { section: "graph", .. })
                        if tiny.experts > 1024 || tiny.head_dim > 256 => {}
                    Some(error) => panic!("{what}, {recipe}: {error}"),
                }
            }
            if context > 64 {
                let options = Options { threads: Some(1), ..Options::default() };
                let session = Model::open(&path).unwrap().session(&options);
                assert!(matches!(session, Ok(_) | Err(Error::System { .. })), "{what}");
            }
        }
    }
}

/// Text that nests deeper than a stack is high is an error: an overflow would end the program.
#[test]
fn bottomless_sections() {
    let _alone = ALONE.lock();
    let bundle = Bundle::export_with(&fixture("tiny-dense"), "q4_0", |options| {
        options.context = Some(64);
        options.chunk = Some(16);
    });
    let good = fs::read(&bundle.path).unwrap();
    let path = bundle.folder.path().join("deep.lfmb");
    let texts = Kind::ALL
        .into_iter()
        .filter(|kind| !matches!(kind, Kind::Weights | Kind::Licence | Kind::ChatTemplate));
    for kind in texts {
        for open in ["(", "[", "{", "Some(", "[[1],", "{\"a\":", "/*", "\"", "(vectors:[", "-"] {
            assert!(reseal(&good, &[(kind, &open.repeat(60_000))], None, &path), "{kind}");
            // What an export was asked for is read when the bundle is made for another target.
            let refused = match kind {
                Kind::Request => Bundled::open(&path).is_err(),
                _ => exercise(&path, open).is_some(),
            };
            assert!(refused, "{kind} of {open}");
        }
    }
    for (before, open) in [
        ("{{", "("),
        ("{{", "["),
        ("{{", "-"),
        ("{{", "not "),
        ("{{", "{1:"),
        ("{{ x", "[x"),
        ("{{ 1", "+1"),
        ("{{ x", "|length"),
        ("{{ 1 if 1 else", " 1 if 1 else"),
        ("{{ 2", "**2"),
        ("", "{% if x %}"),
        ("", "{% for a in x %}"),
        ("", "{% macro a() %}"),
        ("", "{% if 0 %}{% else %}"),
        ("{% if 0 %}", "{% elif 1 %}"),
    ] {
        let template = format!("{before}{}", open.repeat(100_000));
        assert!(reseal(&good, &[(Kind::ChatTemplate, &template)], None, &path));
        assert!(exercise(&path, open).is_some(), "a template of {open}");
    }
    // Complete ones: what parses has to be rendered.
    for (before, open, after) in [
        ("{{ ", "1+", "1 }}"),
        ("{{ ", "not ", "1 }}"),
        ("{{ 1", "|string", " }}"),
        ("{{ 'a'", "~'a'", " }}"),
    ] {
        let template = format!("{before}{}{after}", open.repeat(100_000));
        assert!(reseal(&good, &[(Kind::ChatTemplate, &template)], None, &path));
        exercise(&path, open);
    }
    // No end either.
    for template in [
        "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{{ range(1000000000)|list }}",
        "{{ 'x' * 1000000000000 }}",
        "{% set ns = namespace(s='x') %}{% for a in range(64) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{{ 2 ** 100000 ** 1000 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'a'|center(10000000000) }}",
        "{{ 'a'|indent(10000000000) }}",
        "{{ 'aaaa'|replace('', 'x' * 1000000000) }}",
        "{% include 'x' %}",
        "{{ 'x'.ljust(10000000000) }}",
    ] {
        assert!(reseal(&good, &[(Kind::ChatTemplate, template)], None, &path));
        let (_, held) = peak(|| exercise(&path, template));
        assert!(held < RUN as usize, "{template} took {held} bytes");
    }
}

/// Headers that other machines and other versions would write.
#[test]
fn foreign_headers_are_named() {
    let _alone = ALONE.lock();
    let bundle = made();
    let good = fs::read(&bundle.path).unwrap();
    let path = bundle.folder.path().join("foreign.lfmb");
    let message = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bad = good.clone();
        change(&mut bad);
        fs::write(&path, bad).unwrap();
        let error = exercise(&path, "a foreign header").unwrap();
        std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string)
    };
    for (what, found) in [
        ("version", message(&|bytes| bytes[8..12].copy_from_slice(&2u32.to_le_bytes()))),
        ("endian", message(&|bytes| bytes[8..12].copy_from_slice(&1u32.to_be_bytes()))),
        ("endian", message(&|bytes| bytes[..8].reverse())),
        ("a bundle starts with", message(&|bytes| bytes[..8].fill(b'x'))),
        ("expected a bundle", message(&|bytes| bytes.clear())),
    ] {
        assert!(found.contains(what), "{found:?} does not say {what:?}");
    }
}
