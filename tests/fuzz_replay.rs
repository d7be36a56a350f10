//! What fuzzers run, without a fuzzer: every target on its seeds, on the checked-in files that were hostile to it or reach
//! far into it, and on damaged ones of both.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use lfm_graphs::testing::Rng;
use lfm_tests::damage;
use lfm_tests::fuzz::{TARGETS, corpus, seeds::seeds};
use lfm_tests::heap::Heap;

#[global_allocator]
static HEAP: Heap = Heap;

/// Damaged inputs of a target.
const DAMAGED: usize = 200;
/// Longer inputs are not damaged: their target's seeds are.
const SHORT: usize = 64 << 10;

/// Memory is measured, so targets run one after another.
#[test]
fn every_target_takes_any_bytes() {
    for (target, body) in TARGETS {
        let mut inputs: Vec<(String, Vec<u8>)> =
            seeds(target).into_iter().enumerate().map(|(i, seed)| (format!("seed {i}"), seed)).collect();
        assert!(!inputs.is_empty(), "{target} has no seeds");
        let folder = corpus(target);
        let mut files: Vec<_> = fs::read_dir(&folder)
            .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        assert!(!files.is_empty(), "{} is empty", folder.display());
        inputs.extend(files.iter().map(|path| (path.display().to_string(), fs::read(path).unwrap())));
        inputs.push(("nothing".into(), Vec::new()));
        let run = |what: &str, bytes: &[u8]| {
            let outcome = catch_unwind(AssertUnwindSafe(|| body(bytes)));
            assert!(outcome.is_ok(), "target {target}: {what}");
        };
        for (what, bytes) in &inputs {
            run(what, bytes);
        }
        let mut rng = Rng::new(1);
        let short: Vec<_> = inputs.iter().filter(|(_, bytes)| (8..SHORT).contains(&bytes.len())).collect();
        for _ in 0..DAMAGED {
            let (what, good) = rng.pick(&short);
            let (bad, damage) = match std::str::from_utf8(good) {
                Ok(text) if !rng.once_in(4) => {
                    let (bad, damage) = damage::text(text, &mut rng);
                    (bad.into_bytes(), damage)
                }
                _ => damage::bytes(good, &mut rng),
            };
            run(&format!("{what}, {damage}"), &bad);
        }
    }
}
