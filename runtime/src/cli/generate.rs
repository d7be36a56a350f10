//! `lfm-run generate`: one completion.

use std::time::Instant;

use clap::Args;
use lfm_runtime::paging::Stats;
use lfm_runtime::sample::Sampler;
use lfm_runtime::{Generation, Limits};
use serde::Serialize;

use super::Exit;
use super::error::Result;
use super::interrupt::{self, Answer};
use super::model::{BundleArgument, RunOptions, paged, token};
use super::output;
use super::sampling::SamplingOptions;
use super::session::SessionOptions;
use super::words::Words;

/// Most tokens, unless the caller says otherwise.
pub(super) const TOKENS: usize = 512;

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    bundle: BundleArgument,
    #[command(flatten)]
    prompt: Prompt,
    /// Most tokens to write [default: 512, or what fits]
    #[arg(short, value_name = "N")]
    n: Option<usize>,
    /// Take the text as it is, without the chat template
    #[arg(long, requires = "prompt")]
    raw: bool,
    /// Go on where the model would end
    #[arg(long)]
    ignore_eos: bool,
    /// Write one JSON object at the end
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    session: SessionOptions,
    #[command(flatten)]
    run: RunOptions,
}

/// What is continued.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Prompt {
    /// What is said to the model
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// Token ids, taken as they are
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token)]
    tokens: Option<Vec<u32>>,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Report<'a> {
    /// Ids that were taken in.
    prompt_tokens: &'a [u32],
    /// How many of them were in the session; only with `--session`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reused_tokens: Option<usize>,
    /// Generated ids, with the one that ended the answer.
    tokens: &'a [u32],
    /// Their text, without that one; null without a tokenizer.
    text: Option<&'a str>,
    /// `stop`, `length`, `context` or `cancelled`.
    finish: &'a str,
    timings: Timings,
    /// What paging has done, with a budget of memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    paging: Option<Stats>,
}

/// Seconds, and tokens a second where there are any.
#[derive(Clone, Copy, Debug, Serialize)]
struct Timings {
    load_s: f64,
    prefill_s: f64,
    prefill_tok_s: Option<f64>,
    decode_s: f64,
    decode_tok_s: Option<f64>,
}

impl Timings {
    fn new(load_s: f64, prompt: usize, prefill_s: f64, generated: usize, decode_s: f64) -> Timings {
        let rate =
            |tokens: usize, seconds: f64| (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds);
        Timings {
            load_s,
            prefill_s,
            prefill_tok_s: rate(if generated > 0 { prompt } else { 0 }, prefill_s),
            decode_s,
            // The prompt gives the first.
            decode_tok_s: rate(generated.saturating_sub(1), decode_s),
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<Exit> {
    let (mut session, (mut words, defaults), mut load_s) =
        options.run.start(&options.bundle.bundle, |model| {
            let words = match options.prompt.prompt {
                Some(_) => Some(Words::open(model, "--prompt")?),
                None => Words::optional(model)?,
            };
            Ok((words, model.generation_defaults()?))
        })?;
    let prompt = match (&options.prompt.prompt, &words) {
        (Some(text), Some(words)) if options.raw => words.raw(text)?,
        (Some(text), Some(words)) => words.message(text)?,
        (_, _) => options.prompt.tokens.clone().unwrap_or_default(),
    };
    let stop = match &words {
        _ if options.ignore_eos => Vec::new(),
        Some(words) => words.stop().to_vec(),
        None => defaults.stop,
    };
    let settings = options.sampling.settings(&defaults.settings);
    let vocab = session.model().vocab();
    let mut sampler = Sampler::new(settings, vocab).map_err(lfm_runtime::Error::from)?;

    let model = session.model().clone();
    let start = Instant::now();
    let note = options.session.restore(&mut session)?;
    load_s += start.elapsed().as_secs_f64();

    interrupt::install()?;
    let answer = Answer::start();
    let limits =
        Limits { tokens: Some(options.n.unwrap_or(TOKENS)), stop: &stop, cancel: Some(answer.cancel()) };
    let start = Instant::now();
    let mut first = None;
    let mut text = String::new();
    let mut generation = Generation::start(&mut session, &mut sampler, prompt.clone(), limits);
    while let Some(id) = generation.next() {
        let id = id?;
        first.get_or_insert_with(|| start.elapsed().as_secs_f64());
        match &mut words {
            Some(words) if options.json => text.push_str(words.push(id)),
            Some(words) => output::write(words.push(id))?,
            None if options.json => {}
            None if generation.tokens().len() == 1 => output::write(&id.to_string())?,
            None => output::write(&format!(" {id}"))?,
        }
    }
    let total = start.elapsed().as_secs_f64();
    let prefill_s = first.unwrap_or(total);
    let tokens = generation.tokens();
    let reused = generation.reused();
    let timings = Timings::new(load_s, prompt.len() - reused, prefill_s, tokens.len(), total - prefill_s);
    let paging = model.paging_stats();
    let finish = generation.finish().map_or("error", |finish| finish.name());
    let rest = words.as_mut().map_or("", |words| words.finish());
    if options.json {
        text.push_str(rest);
        let text = words.is_some().then_some(text.as_str());
        let reused_tokens = options.session.wanted().then_some(reused);
        output::json(&Report {
            prompt_tokens: &prompt,
            reused_tokens,
            tokens,
            text,
            finish,
            timings,
            paging,
        })?;
    } else {
        output::write(&format!("{rest}\n"))?;
        summary(&timings, prompt.len() - reused, tokens.len(), finish);
        if let Some(stats) = paging {
            output::note(&paged(&model, stats, prompt.len() - reused + tokens.len()));
        }
    }
    options.session.save(&mut session, &note)?;
    Ok(Exit::Done)
}

/// One line on standard error.
fn summary(timings: &Timings, prompt: usize, generated: usize, finish: &str) {
    let Timings { load_s, prefill_s, prefill_tok_s, decode_s, decode_tok_s } = timings;
    let rate = |rate: &Option<f64>| rate.map_or(String::new(), |rate| format!(" ({rate:.1} tok/s)"));
    output::note(&format!(
        "load {load_s:.3} s, {prompt} prompt tokens in {prefill_s:.3} s{}, {generated} tokens in {decode_s:.3} s{}, \
         ended by {finish}",
        rate(prefill_tok_s),
        rate(decode_tok_s),
    ));
}
