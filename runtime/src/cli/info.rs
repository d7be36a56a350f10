//! `lfm-run info`: this machine, and what a bundle needs.

use std::path::PathBuf;

use clap::Args;
use lfm_graphs::plan::Checkpoints;
use lfm_graphs::plan::memory::PagedMemory;
use lfm_graphs::target::ByteSize;
use lfm_runtime::Model;
use lfm_runtime::machine::Machine;

use super::Exit;
use super::error::Result;
use super::output;

#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The bundle
    #[arg(value_name = "BUNDLE")]
    bundle: Option<PathBuf>,
    /// Write a device profile of this machine, for `lfmc export --target FILE.ron`
    #[arg(long, conflicts_with = "bundle")]
    target: bool,
}

pub(crate) fn run(options: &Options) -> Result<Exit> {
    let machine = Machine::detect();
    let text = match &options.bundle {
        _ if options.target => machine.target().text(),
        None => about_machine(&machine),
        Some(path) => format!("{}\n{}", about_machine(&machine), about_bundle(&Model::open(path)?, &machine)),
    };
    output::write(&text)?;
    Ok(Exit::Done)
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).approx()
}

fn about_machine(machine: &Machine) -> String {
    let Machine { cpu, physical, logical, threads, why, ram, tiers } = machine;
    let cores = physical.map_or("unknown".to_owned(), |n| n.to_string());
    let ram = ram.map_or("unknown".to_owned(), size);
    let text = format!(
        "cpu        {cpu}\ncores      {cores}, {logical} hardware threads\nthreads    {threads} by default: {why}\n\
         memory     {ram}\ntiers      {}\n",
        tiers.join(", ")
    );
    text + &about_gpus()
}

/// The adapters, in the order of `--adapter INDEX`.
#[cfg(feature = "wgpu")]
fn about_gpus() -> String {
    let adapters = lfm_runtime::gpu::adapters();
    if adapters.is_empty() {
        return "gpus       none: a Vulkan driver is missing (software Vulkan: Debian's mesa-vulkan-drivers)\n".into();
    }
    let lines = adapters.iter().enumerate().map(|(index, adapter)| {
        let title = if index == 0 { "gpus" } else { "" };
        let binding = size(adapter.binding);
        format!("{title:<10} {index}: {adapter}, driver {}, bindings of {binding}\n", adapter.driver)
    });
    lines.collect()
}

#[cfg(not(feature = "wgpu"))]
fn about_gpus() -> String {
    String::new()
}

/// The least budget, where there are experts to page.
fn about_budget(model: &Model) -> String {
    let Ok(least) = model.least_memory(None) else { return String::new() };
    if least.cache == 0 {
        return String::new();
    }
    // A process that holds a little more when it runs should not need more.
    let total = ByteSize(least.total.next_multiple_of(1 << 20) + (1 << 20));
    let PagedMemory { hot, cache, states, arena, overhead, .. } = least;
    format!(
        "\nleast budget, experts paged: --ram {total}\n  hot      {}\n  experts  {}\n  states   {}\n  arena    {}\n  other    {}\n",
        size(hot),
        size(cache),
        size(states),
        size(arena),
        size(overhead),
    )
}

/// What all layers of a bundle take on each GPU, and some of them.
#[cfg(feature = "wgpu")]
fn bundle_on_gpus(model: &Model) -> String {
    use lfm_runtime::gpu;
    let all = gpu::model_layers(model);
    let mut text = String::new();
    for (index, adapter) in gpu::adapters().iter().enumerate() {
        text += &format!("\nmemory on GPU {index}, {}\n", adapter.name);
        let mut some: Vec<usize> = (0..=4).rev().map(|part| all * part / 4).collect();
        some.dedup();
        for layers in some {
            let takes = match gpu::needed(model, adapter, layers) {
                Ok(bytes) => size(bytes),
                Err(why) => format!("cannot: {why}"),
            };
            text += &format!("  {:<18} {takes}\n", format!("--gpu-layers {layers}"));
        }
    }
    text
}

#[cfg(not(feature = "wgpu"))]
fn bundle_on_gpus(_: &Model) -> String {
    String::new()
}

fn about_bundle(model: &Model, machine: &Machine) -> String {
    let (manifest, plan, target) = (model.manifest(), model.plan(), model.target());
    let billions = |n: u64| format!("{:.3} M", n as f64 / 1e6);
    let runs = match target.isa.name() {
        name if machine.tiers.contains(&name) => String::new(),
        _ => ", which this CPU does not run natively".to_owned(),
    };
    let threads = match target.cores as usize {
        0 => format!("{} by default", machine.threads),
        cores => format!("{} by default: made for at most {cores}", cores.min(machine.threads)),
    };
    let memory = &plan.memory;
    let fits = match machine.ram {
        Some(ram) if memory.total > ram => " (more than this machine has)",
        Some(_) | None => "",
    };
    let rows = [
        ("bundle", format!("{}, {}", size(model.file_len() as u64), model.id())),
        ("model", format!("{} ({}), from {}", manifest.model, manifest.arch, manifest.source.name())),
        (
            "parameters",
            format!(
                "{}, {} a token",
                billions(manifest.parameters.total),
                billions(manifest.parameters.active)
            ),
        ),
        ("weights", format!("{}, made for {} ({}){runs}", manifest.recipe, target.name, target.isa)),
        ("threads", threads),
        (
            "context",
            format!("{} positions, chunks of {}, cache {}", plan.context, plan.chunk, manifest.kv.name()),
        ),
    ];
    let checkpoints = Checkpoints::of(model.graph(), plan.chunk, plan.context).map_or(0, |kept| kept.bytes);
    let planned = [
        ("weights", size(memory.weights)),
        ("states", size(memory.states)),
        ("arena", size(memory.arena)),
        (
            "other",
            format!("{}, {} of it for checkpoints of a session", size(memory.overhead), size(checkpoints)),
        ),
        ("total", size(memory.total) + fits),
    ];
    let mut text: String = rows.iter().map(|(name, value)| format!("{name:<10} {value}\n")).collect();
    text += "\nplanned memory\n";
    text.extend(planned.iter().map(|(name, value)| format!("  {name:<8} {value}\n")));
    text + &about_budget(model) + &bundle_on_gpus(model)
}
