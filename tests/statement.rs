//! The memory that a bundle states is at least what a process takes that runs it.
//!
//! Each run is a process of its own, this program again, because the most that a process has held is all that the system
//! tells. There is no harness, which would be part of it.
#![allow(clippy::print_stdout, reason = "a test program without a harness reports by itself")]

use std::path::Path;
use std::process::Command;

use lfm_graphs::bundle::Kind;
use lfm_runtime::machine::peak_rss;
use lfm_runtime::{Model, Options};
use lfm_tests::{Bundle, demo, fixture};

/// First argument of a process that runs a bundle.
const RUN: &str = "run-a-bundle";

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(RUN) {
        let (bundle, threads) = (arguments.next().unwrap(), arguments.next().unwrap());
        return run(Path::new(&bundle), threads.parse().unwrap());
    }
    if peak_rss().is_none() {
        println!("the system does not say what a process holds: nothing can be compared");
        return;
    }
    for (source, recipe) in
        [(demo(), "q4_0"), (fixture("tiny-moe"), "f32"), (fixture("all-attention"), "q8_0")]
    {
        let bundle = Bundle::export(&source, recipe);
        let stated = bundle.open().plan().memory.total;
        for threads in ["1", "2"] {
            let name = format!("{} {recipe}, {threads} threads", source.display());
            let exe = std::env::current_exe().unwrap();
            let output =
                Command::new(exe).args([RUN, bundle.path.to_str().unwrap(), threads]).output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            let peak: u64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
            println!("{name}: {peak} bytes held at most, {stated} stated");
            assert!(peak <= stated, "{name}");
        }
    }
}

/// Fills the context of a bundle and says what that took.
fn run(path: &Path, threads: usize) {
    let model = Model::open(path).unwrap();
    let text = model.section(Kind::Tokenizer).map(|_| model.text().unwrap());
    let mut session = model.session(&Options { threads: Some(threads), ..Options::default() }).unwrap();
    let last = session.context() as u32 - 1;
    let tokens: Vec<u32> = (0..last).map(|i| i * 7919 % model.embeddings() as u32).collect();
    session.prefill(&tokens).unwrap();
    session.decode(1).unwrap();
    drop(text);
    println!("{}", peak_rss().unwrap());
}
