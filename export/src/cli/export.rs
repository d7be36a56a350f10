//! `lfmc export`.

use std::io::Write;
use std::path::Path;

use indicatif::ProgressBar;
use lfm_export::bundle::{Exported, Options, Progress, Source, export};
use serde_json::json;

use super::args::ExportArgs;
use super::{Exit, Outcome, output};

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
    let bar: ProgressBar = output::bytes_bar("weights");
    let exported = export(source, options, path, |progress| match progress {
        Progress::Weights(done, all) => {
            bar.set_length(all);
            bar.set_position(done);
        }
        Progress::Golden => bar.set_message("golden vectors"),
    });
    bar.finish_and_clear();
    Ok(exported?)
}

fn report(exported: &Exported) {
    let (manifest, memory) = (&exported.manifest, &exported.plan.memory);
    let counts: Vec<String> = exported.graph.histogram().iter().map(|(op, n)| format!("{n} {op}")).collect();
    output::note(&format!(
        "{}: {} {}, context {}, chunk {}, kv {}",
        exported.published.path.display(),
        manifest.model,
        manifest.recipe,
        manifest.context,
        manifest.chunk,
        manifest.kv.name(),
    ));
    output::note(&format!("graph:  {}", counts.join(", ")));
    output::note(&format!(
        "memory: {} = weights {} + states {} + arena {} + program {}",
        output::size(memory.total),
        output::size(memory.weights),
        output::size(memory.states),
        output::size(memory.arena),
        output::size(memory.overhead),
    ));
    output::note(&format!(
        "file:   {}, id {}",
        output::size(exported.published.length),
        exported.published.id.to_hex()
    ));
}

fn report_json(exported: &Exported) -> serde_json::Value {
    let (manifest, memory) = (&exported.manifest, &exported.plan.memory);
    json!({
        "bundle": exported.published.path.display().to_string(),
        "id": exported.published.id.to_hex().to_string(),
        "bytes": exported.published.length,
        "model": manifest.model,
        "arch": manifest.arch,
        "recipe": manifest.recipe,
        "parameters": { "total": manifest.parameters.total, "active": manifest.parameters.active },
        "context": manifest.context,
        "chunk": manifest.chunk,
        "kv": manifest.kv.name(),
        "ops": exported.graph.histogram(),
        "memory": {
            "weights": memory.weights,
            "states": memory.states,
            "arena": memory.arena,
            "program": memory.overhead,
            "total": memory.total,
        },
    })
}
