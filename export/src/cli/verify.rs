//! `lfmc verify`: everything that can be proved about a bundle.

use std::io::Write;

use lfm_runtime::proof::{self, Stage};
use lfm_runtime::signature::PublicKey;
use lfm_runtime::{Model, Options};
use serde_json::json;

use super::args::VerifyArgs;
use super::{Exit, Outcome, output};

pub(super) fn run(args: &VerifyArgs) -> Outcome {
    let key = args.require_signature.as_deref().map(PublicKey::find).transpose()?;
    // What cannot be opened is no bundle to answer about: that is an error, not a no.
    let model = Model::open(&args.bundle)?;
    let bar = output::bytes_bar("hashing weights");
    let stages = proof::prove(&model, &Options::default(), key.as_ref(), |done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let stages = stages?;
    let ok = proof::holds(&stages);
    let mut stdout = std::io::stdout().lock();
    if args.json {
        let bundle = args.bundle.display().to_string();
        let report = json!({ "bundle": bundle, "id": model.id(), "ok": ok, "stages": stages });
        writeln!(stdout, "{report}")?;
    } else {
        for Stage { stage, verdict, detail } in &stages {
            for line in detail.lines() {
                writeln!(stdout, "{}  {stage:<9}  {line}", verdict.mark())?;
            }
        }
    }
    Ok(if ok { Exit::Done } else { Exit::No })
}
