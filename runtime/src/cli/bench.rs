//! `lfm-run bench`: tokens a second, memory, and how much of the machine's bandwidth that is.

use std::time::Instant;

use clap::Args;
use lfm_graphs::target::ByteSize;
use lfm_runtime::bench::{self, Report, Speed, Workload};

use super::Exit;
use super::error::Result;
use super::model::{BundleArgument, RunOptions};
use super::output::{self, Progress};

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    bundle: BundleArgument,
    /// Tokens of a prompt
    #[arg(short, value_name = "N", default_value_t = 512)]
    p: usize,
    /// Tokens decoded one by one
    #[arg(short, value_name = "N", default_value_t = 128)]
    n: usize,
    /// Positions taken before
    #[arg(short, value_name = "DEPTH", default_value_t = 0)]
    d: usize,
    /// Repetitions
    #[arg(short, value_name = "N", default_value_t = 5)]
    r: usize,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn run(options: &Options) -> Result<Exit> {
    let start = Instant::now();
    let model = options.run.open(&options.bundle.bundle)?;
    let load_s = start.elapsed().as_secs_f64();
    let workload =
        Workload { prompt: options.p, generate: options.n, depth: options.d, repetitions: options.r };
    let mut progress = Progress::new("measuring");
    let report = bench::run(&model, &options.run.session(), workload, load_s, |done, all| {
        progress.show(done as u64, all as u64);
    })?;
    drop(progress);
    if options.json {
        output::json(&report)?;
    } else {
        output::write(&table(&report))?;
    }
    Ok(Exit::Done)
}

fn table(report: &Report) -> String {
    let Report { model, recipe, cpu, isa, threads, chunk, workload, load_s, .. } = report;
    let mut text = format!("{model} {recipe}\n{cpu}, {isa}, {threads} threads, chunk {chunk}\n\n");
    text += &format!("load       {load_s:.3} s\n");
    let mut speed = |name: &str, tokens: usize, speed: &Option<Speed>| {
        if let Some(Speed { min, median, max }) = speed {
            text += &format!("{name} {median:.1} tok/s ({min:.1} to {max:.1}), {tokens} tokens at depth ");
            text += &format!("{}\n", workload.depth);
        }
    };
    speed("prefill   ", workload.prompt, &report.prefill_tok_s);
    speed("decode    ", workload.generate, &report.decode_tok_s);
    let size = |bytes: u64| ByteSize(bytes).approx();
    let peak = report.peak_rss.map_or("unknown".to_owned(), size);
    text += &format!("memory     peak {peak}, planned {}\n", size(report.planned));
    text += &format!("bandwidth  {:.1} GB/s", report.bandwidth / 1e9);
    if let Some(share) = report.bandwidth_share {
        text += &format!(
            "; a token reads {} of weights: decoding uses {:.0} %",
            size(report.weight_bytes),
            100.0 * share
        );
    }
    text + "\n"
}
