//! Computes the beginning of two prompts once, and keeps the state in a file for the next run.
//!
//! ```text
//! cargo run --release --example session model.lfmb state.lfms
//! ```
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::path::Path;

use lfm_runtime::{Model, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(bundle), Some(file)) = (arguments.next(), arguments.next()) else {
        return Err("expected a bundle and a file for the state".into());
    };
    let mut session = Model::open(bundle)?.session(&Options::default())?;
    if Path::new(&file).exists() {
        session.restore(&file)?;
    }
    // Two prompts that begin alike: only what differs is computed, from the last checkpoint before it.
    let mut prompt: Vec<u32> = (1..60).collect();
    for end in [60, 61] {
        prompt.push(end);
        let start = session.start(&prompt)?;
        println!("{} of {} tokens were there", start.reused, prompt.len());
        prompt.pop();
    }
    // Back to the last checkpoint, and on from there with other tokens.
    let position = session.rewind(40)?;
    session.decode(7)?;
    println!("went back to {position}, checkpoints {:?}", session.checkpoints());
    session.save(&file, b"")?;
    Ok(())
}
