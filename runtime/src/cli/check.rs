//! `lfm-run check`: whether a bundle is sound, and this machine computes what the exporter did.

use clap::Args;
use lfm_runtime::proof::{self, Stage};
use lfm_runtime::{Error, Model};
use serde::Serialize;

use super::Exit;
use super::error::Result;
use super::model::{BundleArgument, RunOptions};
use super::output::{self, Progress};

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    bundle: BundleArgument,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunOptions,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Report<'a> {
    id: &'a str,
    ok: bool,
    stages: &'a [Stage],
}

pub(crate) fn run(options: &Options) -> Result<Exit> {
    let key = options.run.key()?;
    let model = options.run.open_unproved(&options.bundle.bundle)?;
    if model.golden()?.is_none() {
        let (path, hint) = (model.path().to_path_buf(), ": nothing to check");
        return Err(Error::Missing { path, what: "golden vectors", hint }.into());
    }
    let stages = prove(&model, options, key.as_ref())?;
    let ok = proof::holds(&stages);
    if options.json {
        output::json(&Report { id: model.id(), ok, stages: &stages })?;
    } else {
        for Stage { stage, verdict, detail } in &stages {
            for line in detail.lines() {
                output::write(&format!("{}  {stage:<9}  {line}\n", verdict.mark()))?;
            }
        }
    }
    Ok(if ok { Exit::Done } else { Exit::No })
}

fn prove(model: &Model, options: &Options, key: proof::Key<'_>) -> Result<Vec<Stage>> {
    let mut progress = Progress::new("hashing weights");
    Ok(proof::prove(model, &options.run.session(), key, |done, all| progress.show(done, all))?)
}
