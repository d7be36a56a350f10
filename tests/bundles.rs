//! Bundles as files: the same bytes on every build, and errors instead of anything else for damaged ones.

use std::fs;

use lfm_runtime::Model;
use lfm_tests::{Bundle, fixture};

#[test]
fn two_exports_are_the_same_bytes() {
    for recipe in ["q4_0", "f32"] {
        let first = Bundle::export(&fixture("tiny-moe"), recipe);
        // Another folder, under another name, on another number of threads.
        let copy = tempfile::TempDir::new().unwrap();
        for entry in fs::read_dir(fixture("tiny-moe")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        let pool = lfm_tests::threads(3);
        let second = pool.install(|| Bundle::export(copy.path(), recipe));
        assert!(fs::read(&first.path).unwrap() == fs::read(&second.path).unwrap(), "{recipe}");
    }
}

/// Every mutation must be an error on opening, or one that the hash of the weights finds.
fn must_fail(bytes: &[u8], folder: &std::path::Path, what: &str) {
    let path = folder.join("damaged.lfmb");
    fs::write(&path, bytes).unwrap();
    if let Ok(model) = Model::open(&path) {
        assert!(model.verify_weights(|_, _| {}).is_err(), "{what} was not noticed");
    }
}

#[test]
fn damaged_bundles_are_errors() {
    let bundle = Bundle::export(&fixture("odd-moe"), "q4_0");
    let good = fs::read(&bundle.path).unwrap();
    let folder = bundle.folder.path();
    let mut state = 1u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    for _ in 0..600 {
        let at = random(good.len());
        let mut bad = good.clone();
        bad[at] ^= 1 << random(8);
        must_fail(&bad, folder, &format!("a flipped bit in byte {at}"));
        bad.truncate(at);
        must_fail(&bad, folder, &format!("a cut at byte {at}"));
    }
    let longer = [&good[..], &[0]].concat();
    must_fail(&longer, folder, "an extra byte");
}
