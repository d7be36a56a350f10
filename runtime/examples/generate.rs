//! Writes what a model answers.
//!
//! ```text
//! cargo run --release --example generate model.lfmb "What is a Vec?"
//! ```
#![allow(clippy::print_stdout, reason = "a program's output")]

use lfm_runtime::sample::Sampler;
use lfm_runtime::text::{ChatRequest, Detokenizer};
use lfm_runtime::{Generation, Limits, Model, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(bundle), Some(question)) = (arguments.next(), arguments.next()) else {
        return Err("expected a bundle and a question".into());
    };
    let model = Model::open(bundle)?;
    let text = model.text()?;
    let prompt = text.encode_chat(&ChatRequest::new().message("user", &question))?;
    let mut session = model.session(&Options::default())?;
    let mut sampler = Sampler::new(model.generation_defaults()?.settings, model.vocab())?;
    let mut stream = Detokenizer::new(true);
    let (pending, limits) = (prompt.len(), Limits { tokens: Some(512), stop: text.eos(), cancel: None });
    for id in Generation::new(&mut session, &mut sampler, prompt, pending, limits) {
        print!("{}", stream.push(&text.tokenizer, id?));
    }
    println!("{}", stream.finish());
    Ok(())
}
