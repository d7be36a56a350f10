//! `lfm-run bench`: tokens a second, memory, and how much of the machine's bandwidth that is.

use std::time::Instant;

use clap::Args;
use lfm_graphs::target::ByteSize;
use lfm_runtime::bench::{self, Paged, Paging, Report, Speed, Workload};
use lfm_runtime::paging::Layout;

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
    let Report { model, recipe, cpu, device, isa, threads, chunk, context, workload, .. } = report;
    let on = device.as_ref().unwrap_or(cpu);
    let mut text =
        format!("{model} {recipe}\n{on}, {isa}, {threads} threads, chunk {chunk}, context {context}\n\n");
    text += "              median       min       max\n";
    let mut speed = |name: &str, tokens: usize, speed: &Option<Speed>| {
        if let Some(Speed { min, median, max }) = speed {
            text +=
                &format!("{name:<10}{median:>10.1}{min:>10.1}{max:>10.1} tok/s, {tokens} tokens at depth ");
            text += &format!("{}\n", workload.depth);
        }
    };
    speed("prefill", workload.prompt, &report.prefill_tok_s);
    speed("decode", workload.generate, &report.decode_tok_s);
    let size = |bytes: u64| ByteSize(bytes).approx();
    let peak = report.peak_rss_bytes.map_or("unknown".to_owned(), size);
    text += &format!("\nload      {:.3} s\n", report.load_s);
    text += &format!("memory    {peak} at most, {} planned\n", size(report.planned_bytes));
    if let Some(Paging { layout, prefill, decode }) = &report.paging {
        let Layout { hot, cache, slots, experts, .. } = layout;
        let (hot, cache) = (size(*hot), size(*cache));
        text += &format!("paging    {hot} resident, {slots} of {experts} experts in {cache}\n");
        for (name, paged) in [("prefill", prefill), ("decode", decode)] {
            let Some(Paged { hit_rate, bytes_per_token }) = paged else { continue };
            let hits = hit_rate.map_or(String::new(), |rate| format!("{:.1} % hit, ", 100.0 * rate));
            text += &format!("          {name}: {hits}{} read a token\n", size(*bytes_per_token as u64));
        }
    }
    if let (Some(bytes), Some(seconds)) = (report.device_bytes, report.upload_s) {
        text += &format!("gpu       {}, uploaded in {seconds:.3} s", size(bytes));
        if let Some(submissions) = report.submissions_per_token {
            text += &format!(", {submissions} submissions a token");
        }
        text += "\n";
    }
    if let Some(bandwidth) = report.read_bytes_s {
        text += &format!("bandwidth {:.1} GB/s", bandwidth / 1e9);
        if let Some(share) = report.read_share {
            let bytes = size(report.weight_bytes_per_token);
            text += &format!(", a token reads {bytes} of weights: decoding uses {:.0} %", 100.0 * share);
        }
        text += "\n";
    }
    if let Some(peak) = report.dot_peak_mac_s {
        text += &format!("products  {:.0} int8 GMAC/s in registers", peak / 1e9);
        if let (Some(rate), Some(share)) = (report.prefill_int8_mac_s, report.dot_peak_share) {
            text += &format!(", {:.0} in prefill: {:.0} %", rate / 1e9, 100.0 * share);
        }
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            model: "LFM2-8B-A1B".into(),
            recipe: "q4_0".into(),
            cpu: "A CPU".into(),
            device: None,
            isa: "x86-64-v3".into(),
            threads: 2,
            chunk: 512,
            context: 4096,
            workload: Workload { prompt: 512, generate: 128, depth: 64, repetitions: 3 },
            load_s: 0.0042,
            prefill_tok_s: Some(Speed { min: 184.96, median: 195.0, max: 1208.04 }),
            decode_tok_s: Some(Speed { min: 26.3, median: 27.25, max: 28.3 }),
            peak_rss_bytes: Some(4_840_000_000),
            planned_bytes: 4_850_000_000,
            paging: None,
            device_bytes: None,
            upload_s: None,
            submissions_per_token: None,
            weight_bytes_per_token: 900_000_000,
            read_bytes_s: Some(26.04e9),
            read_share: Some(0.941),
            int8_macs_per_token: 1_400_000_000,
            float_macs_per_token: 1_400_000,
            prefill_int8_mac_s: Some(273e9),
            prefill_float_mac_s: Some(0.3e9),
            dot_peak_mac_s: Some(410e9),
            dot_peak_share: Some(0.666),
        }
    }

    #[test]
    fn all_figures() {
        insta::assert_snapshot!(table(&report()), @r"
        LFM2-8B-A1B q4_0
        A CPU, x86-64-v3, 2 threads, chunk 512, context 4096

                      median       min       max
        prefill        195.0     185.0    1208.0 tok/s, 512 tokens at depth 64
        decode          27.2      26.3      28.3 tok/s, 128 tokens at depth 64

        load      0.004 s
        memory    4.51 GiB at most, 4.52 GiB planned
        bandwidth 26.0 GB/s, a token reads 858.31 MiB of weights: decoding uses 94 %
        products  410 int8 GMAC/s in registers, 273 in prefill: 67 %
        ");
    }

    #[test]
    fn what_paging_does() {
        let layout = Layout {
            hot: 370_000_000,
            cache: 2_000_000_000,
            slots: 323,
            experts: 704,
            total: 2_500_000_000,
            locked: true,
            direct: true,
        };
        let prefill = Some(Paged { hit_rate: Some(0.5), bytes_per_token: 6_190_000.0 });
        let decode = Some(Paged { hit_rate: Some(0.456), bytes_per_token: 300e6 });
        let report = Report { paging: Some(Paging { layout, prefill, decode }), ..report() };
        let table = table(&report);
        let lines: Vec<&str> = table.lines().skip_while(|line| !line.starts_with("paging")).take(3).collect();
        insta::assert_snapshot!(lines.join("\n"), @r"
        paging    352.86 MiB resident, 323 of 704 experts in 1.86 GiB
                  prefill: 50.0 % hit, 5.90 MiB read a token
                  decode: 45.6 % hit, 286.10 MiB read a token
        ");
    }

    #[test]
    fn on_a_gpu() {
        let report = Report {
            device: Some("A GPU (discrete GPU, Vulkan), 24 of 24 layers, 4.5 GiB".into()),
            device_bytes: Some(4_830_000_000),
            upload_s: Some(1.25),
            submissions_per_token: Some(1.0),
            read_bytes_s: None,
            read_share: None,
            dot_peak_mac_s: None,
            ..report()
        };
        insta::assert_snapshot!(table(&report), @r"
        LFM2-8B-A1B q4_0
        A GPU (discrete GPU, Vulkan), 24 of 24 layers, 4.5 GiB, x86-64-v3, 2 threads, chunk 512, context 4096

                      median       min       max
        prefill        195.0     185.0    1208.0 tok/s, 512 tokens at depth 64
        decode          27.2      26.3      28.3 tok/s, 128 tokens at depth 64

        load      0.004 s
        memory    4.51 GiB at most, 4.52 GiB planned
        gpu       4.50 GiB, uploaded in 1.250 s, 1 submissions a token
        ");
    }

    #[test]
    fn only_what_was_measured() {
        let report = Report {
            workload: Workload { prompt: 0, ..report().workload },
            prefill_tok_s: None,
            peak_rss_bytes: None,
            prefill_int8_mac_s: None,
            dot_peak_share: None,
            ..report()
        };
        insta::assert_snapshot!(table(&report), @r"
        LFM2-8B-A1B q4_0
        A CPU, x86-64-v3, 2 threads, chunk 512, context 4096

                      median       min       max
        decode          27.2      26.3      28.3 tok/s, 128 tokens at depth 64

        load      0.004 s
        memory    unknown at most, 4.52 GiB planned
        bandwidth 26.0 GB/s, a token reads 858.31 MiB of weights: decoding uses 94 %
        products  410 int8 GMAC/s in registers
        ");
    }
}
