//! `lfmc export`.

use std::io::Write;
use std::path::Path;

use indicatif::ProgressBar;
use lfm_export::bundle::{Exported, MemoryTable, Options, Progress, Source, export};
use serde_json::json;

use super::args::ExportArgs;
use super::{Exit, Outcome, memory, output};

pub(super) fn run(args: &ExportArgs) -> Outcome {
    let options = args.target.resolve()?;
    let source = match args.random_weights {
        Some(seed) => Source::random(&args.source, seed)?,
        None => Source::open(&args.source)?,
    };
    for note in source.notes() {
        output::note(&format!("note:   {note}"));
    }
    let exported = with_progress(&source, &options, &args.output)?;
    if args.json {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{}", report_json(&exported))?;
    } else {
        report(&exported);
    }
    Ok(Exit::Done)
}

/// Exports with a progress bar where there is a terminal.
pub(super) fn with_progress(
    source: &Source,
    options: &Options,
    path: &Path,
) -> Result<Exported, Box<dyn std::error::Error>> {
    let bar = output::bytes_bar("weights");
    let exported = export(source, options, path, |step| progress(&bar, step));
    bar.finish_and_clear();
    Ok(exported?)
}

/// Shows what an export is doing.
pub(super) fn progress(bar: &ProgressBar, step: Progress) {
    match step {
        Progress::Weights(done, all) => {
            bar.set_length(all);
            bar.set_position(done);
        }
        Progress::Golden => bar.set_message("golden vectors"),
    }
}

/// What was made, for people.
pub(super) fn report(exported: &Exported) {
    let (manifest, settled) = (&exported.manifest, &exported.settled);
    let counts: Vec<String> = settled.graph.histogram().iter().map(|(op, n)| format!("{n} {op}")).collect();
    output::note(&format!(
        "{}: {} {} for {}, context {}, chunk {}, kv {}",
        exported.published.path.display(),
        manifest.model,
        manifest.recipe,
        settled.target.name,
        manifest.context,
        manifest.chunk,
        manifest.kv.name(),
    ));
    output::note(&format!("graph:  {}", counts.join(", ")));
    output::note(&format!(
        "file:   {}, id {}",
        output::size(exported.published.length),
        exported.published.id.to_hex()
    ));
    output::note("memory:");
    for line in memory::lines(&MemoryTable::of(&settled.graph, &settled.plan, &settled.target)) {
        output::note(&line);
    }
}

/// The same as a JSON object.
pub(super) fn report_json(exported: &Exported) -> serde_json::Value {
    let (manifest, settled) = (&exported.manifest, &exported.settled);
    json!({
        "bundle": exported.published.path.display().to_string(),
        "id": exported.published.id.to_hex().to_string(),
        "bytes": exported.published.length,
        "model": manifest.model,
        "arch": manifest.arch,
        "recipe": manifest.recipe,
        "parameters": { "total": manifest.parameters.total, "active": manifest.parameters.active },
        "target": settled.target.name,
        "context": manifest.context,
        "chunk": manifest.chunk,
        "kv": manifest.kv.name(),
        "ops": settled.graph.histogram(),
        "memory": memory::json(&MemoryTable::of(&settled.graph, &settled.plan, &settled.target), &settled.plan),
    })
}
