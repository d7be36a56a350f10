//! `lfm-run profile`: time by operation and by layer.

use clap::Args;
use lfm_runtime::bench::Workload;
use lfm_runtime::profile::{self, Part, Phase, Profile};

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
    #[arg(short, value_name = "N", default_value_t = 3)]
    r: usize,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn run(options: &Options) -> Result<Exit> {
    let model = options.run.open(&options.bundle.bundle)?;
    let workload =
        Workload { prompt: options.p, generate: options.n, depth: options.d, repetitions: options.r };
    let mut progress = Progress::new("measuring");
    let profile = profile::run(&model, &options.run.session(), workload, |done, all| {
        progress.show(done as u64, all as u64);
    })?;
    drop(progress);
    if options.json {
        output::json(&profile)?;
    } else {
        output::write(&table(&profile))?;
    }
    Ok(Exit::Done)
}

fn table(profile: &Profile) -> String {
    let Profile { model, recipe, cpu, device, isa, threads, chunk, context, workload, prefill, decode } =
        profile;
    let on = device.as_ref().unwrap_or(cpu);
    let mut text =
        format!("{model} {recipe}\n{on}, {isa}, {threads} threads, chunk {chunk}, context {context}\n");
    for (name, rate, phase) in [("prefill", "GMAC/s", prefill), ("decode", "GB/s", decode)] {
        let Some(Phase { tokens, time_s, tok_s, sections_per_token, ops, layers }) = phase else { continue };
        let ms = time_s * 1e3;
        text += &format!(
            "\n{name}: {tokens} tokens at depth {} in {ms:.1} ms, {tok_s:.1} tok/s, ",
            workload.depth
        );
        text += &format!("{} parallel sections a token\n", short(*sections_per_token));
        for (title, parts) in [("operation", ops), ("layer", layers)] {
            text += &format!("\n  {title:<14} steps        ms      %  {rate:>6}  sections a token\n");
            text.extend(parts.iter().map(line));
        }
    }
    text
}

fn line(part: &Part) -> String {
    let Part { name, steps, time_s, share, sections_per_token, read_bytes_s, mac_s } = part;
    let rate = read_bytes_s.or(*mac_s).map_or(String::new(), |rate| format!("{:.1}", rate / 1e9));
    let (ms, percent, sections) = (time_s * 1e3, share * 100.0, short(*sections_per_token));
    let line = format!("  {name:<14} {steps:>5} {ms:>9.1} {percent:>6.1}  {rate:>6}  {sections:>8}");
    line.trim_end().to_owned() + "\n"
}

/// Sections of a token: a whole number in decoding, little in prefill.
fn short(sections: f64) -> String {
    if sections >= 10.0 || sections == 0.0 { format!("{sections:.0}") } else { format!("{sections:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_figures() {
        let part = |name: &str, steps, time_s: f64, share, sections_per_token| Part {
            name: name.into(),
            steps,
            time_s,
            share,
            sections_per_token,
            ..Part::default()
        };
        let moe = part("Moe", 22, 2.1, 0.75, 0.322);
        let prefill = Phase {
            tokens: 512,
            time_s: 2.8,
            tok_s: 182.86,
            sections_per_token: 0.65,
            ops: vec![
                Part { mac_s: Some(240e9), ..moe.clone() },
                part("Attention", 6, 0.69, 0.246, 0.012),
                part("between steps", 0, 0.01, 0.004, 0.0),
            ],
            layers: vec![
                part("other", 5, 0.1, 0.036, 0.001),
                Part { mac_s: Some(101.26e9), ..part("l0", 9, 2.69, 0.961, 0.649) },
                part("between steps", 0, 0.01, 0.004, 0.0),
            ],
        };
        let moe = Part { time_s: 3.0, sections_per_token: 88.0, read_bytes_s: Some(24.96e9), ..moe };
        let decode = Phase {
            tokens: 128,
            time_s: 4.7,
            tok_s: 27.2,
            sections_per_token: 137.0,
            layers: vec![moe.clone()],
            ops: vec![moe],
        };
        let profile = Profile {
            model: "LFM2-8B-A1B".into(),
            recipe: "q4_0".into(),
            cpu: "A CPU".into(),
            device: None,
            isa: "x86-64-v3".into(),
            threads: 2,
            chunk: 512,
            context: 4096,
            workload: Workload { prompt: 512, generate: 128, depth: 64, repetitions: 3 },
            prefill: Some(prefill),
            decode: Some(decode),
        };
        insta::assert_snapshot!(table(&profile), @r"
        LFM2-8B-A1B q4_0
        A CPU, x86-64-v3, 2 threads, chunk 512, context 4096

        prefill: 512 tokens at depth 64 in 2800.0 ms, 182.9 tok/s, 0.65 parallel sections a token

          operation      steps        ms      %  GMAC/s  sections a token
          Moe               22    2100.0   75.0   240.0      0.32
          Attention          6     690.0   24.6              0.01
          between steps      0      10.0    0.4                 0

          layer          steps        ms      %  GMAC/s  sections a token
          other              5     100.0    3.6              0.00
          l0                 9    2690.0   96.1   101.3      0.65
          between steps      0      10.0    0.4                 0

        decode: 128 tokens at depth 64 in 4700.0 ms, 27.2 tok/s, 137 parallel sections a token

          operation      steps        ms      %    GB/s  sections a token
          Moe               22    3000.0   75.0    25.0        88

          layer          steps        ms      %    GB/s  sections a token
          Moe               22    3000.0   75.0    25.0        88
        ");
    }
}
