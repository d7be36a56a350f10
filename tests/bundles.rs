//! Bundles as files: the same bytes on every build.

use std::fs;

use lfm_tests::{Bundle, fixture, threads};
use tempfile::TempDir;

#[test]
fn two_exports_are_the_same_bytes() {
    for name in ["tiny-moe", "odd-dense"] {
        // Another folder, with other times and another order of its entries.
        let copy = TempDir::new().unwrap();
        let entries = fs::read_dir(fixture(name)).unwrap().map(|entry| entry.unwrap());
        for entry in entries.collect::<Vec<_>>().into_iter().rev() {
            fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
        }
        for recipe in ["q4_0", "q6_k", "q8_0", "f16", "f32"] {
            let first = threads(1).install(|| Bundle::export(&fixture(name), recipe));
            let second = threads(3).install(|| Bundle::export(copy.path(), recipe));
            assert!(fs::read(&first.path).unwrap() == fs::read(&second.path).unwrap(), "{name} {recipe}");
        }
    }
}
