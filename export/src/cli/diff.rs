//! `lfmc diff`: what two bundles or graphs have not in common.

use std::io::Write;
use std::path::Path;

use lfm_export::diff::{Diff, Side};
use serde_json::json;

use super::args::DiffArgs;
use super::{Exit, Outcome, output};

pub(super) fn run(args: &DiffArgs) -> Outcome {
    let (a, b) = (Side::open(&args.a)?, Side::open(&args.b)?);
    if a.bundle().is_some() != b.bundle().is_some() {
        output::note(
            "a graph file has no more than a graph: only graphs and formats of weights are compared",
        );
    }
    let bar = output::bytes_bar("comparing weights");
    let diff = Diff::of(&a, &b, |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", report(args, &a, &b, &diff)?)?;
    } else if diff.is_same() {
        writeln!(stdout, "no difference")?;
    } else {
        for (mark, path, side) in [("---", &args.a, &a), ("+++", &args.b, &b)] {
            writeln!(stdout, "{mark} {}", title(path, side))?;
        }
        stdout.write_all(diff.text().as_bytes())?;
    }
    Ok(if diff.is_same() { Exit::Done } else { Exit::No })
}

fn title(path: &Path, side: &Side) -> String {
    match side.bundle() {
        Some(model) => {
            let (manifest, path) = (model.manifest(), path.display());
            format!("{path}: {} {} for {}", manifest.model, manifest.recipe, model.target().name)
        }
        None => path.display().to_string(),
    }
}

fn report(args: &DiffArgs, a: &Side, b: &Side, diff: &Diff) -> serde_json::Result<serde_json::Value> {
    let side = |path: &Path, side: &Side| json!({ "file": path.display().to_string(), "id": side.bundle().map(lfm_runtime::Model::id) });
    let mut report = json!({ "same": diff.is_same(), "a": side(&args.a, a), "b": side(&args.b, b) });
    if let (Some(report), serde_json::Value::Object(diff)) =
        (report.as_object_mut(), serde_json::to_value(diff)?)
    {
        report.extend(diff);
    }
    Ok(report)
}
