//! `lfmc retarget`.

use std::io::Write;

use lfm_export::bundle::{Bundled, Options, retarget};

use super::args::{KvArg, RetargetArgs, profile};
use super::{Exit, Outcome, export, output};

pub(super) fn run(args: &RetargetArgs) -> Outcome {
    let options = Options {
        context: args.context,
        chunk: args.chunk,
        ram: args.ram,
        kv: args.kv.map(KvArg::kv_type),
        ..Options::new(profile(&args.target)?)
    };
    let bundled = Bundled::open(&args.bundle)?;
    for note in notes(&bundled, &options) {
        output::note(&format!("note:   {note}"));
    }
    let bar = output::bytes_bar("weights");
    let made = retarget(&bundled, &options, &args.output, |step| export::progress(&bar, step));
    bar.finish_and_clear();
    let made = made?;
    if args.json {
        writeln!(std::io::stdout().lock(), "{}", export::report_json(&made))?;
    } else {
        export::report(&made);
    }
    Ok(Exit::Done)
}

/// What stays as the bundle has it, though the profile says otherwise.
fn notes(bundled: &Bundled, options: &Options) -> Vec<String> {
    let (request, target) = (bundled.request(), &options.target);
    let mut notes = Vec::new();
    if target.weights != bundled.recipe().to_string() {
        notes.push(format!(
            "the profile asks for weights in {}; they stay {}, as an export with --weights {1} has them",
            target.weights,
            bundled.recipe()
        ));
    }
    let kept = [
        ("context", request.context.filter(|_| options.context.is_none()).map(|n| n.to_string())),
        ("chunk", request.chunk.filter(|_| options.chunk.is_none()).map(|n| n.to_string())),
        ("ram", request.ram.filter(|_| options.ram.is_none()).map(|n| n.to_string())),
        ("kv", request.kv.filter(|_| options.kv.is_none()).map(|kv| kv.name().to_owned())),
    ];
    let kept: Vec<String> =
        kept.into_iter().filter_map(|(flag, value)| Some(format!("--{flag} {}", value?))).collect();
    if !kept.is_empty() {
        notes.push(format!("as the export was asked for: {}", kept.join(" ")));
    }
    notes
}
