//! `lfm-run check`: whether this machine computes what the exporter did.

use clap::Args;
use lfm_runtime::{Error, golden};

use super::Exit;
use super::error::Result;
use super::model::{BundleArgument, RunOptions};
use super::output::{self, Progress};

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    bundle: BundleArgument,
    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn run(options: &Options) -> Result<Exit> {
    let model = options.run.open(&options.bundle.bundle)?;
    let golden = model.golden()?.ok_or_else(|| Error::Missing {
        path: model.path().to_path_buf(),
        what: "golden vectors",
        hint: ": nothing to check",
    })?;
    // The bits of logits mean something only for the weights that they were computed from.
    let mut progress = Progress::new("hashing weights");
    model.verify_weights(|done, all| progress.show(done, all))?;
    drop(progress);
    let differences = golden::check(&model, &options.run.session(), &golden)?;
    let vectors = golden.vectors.len();
    if differences.is_empty() {
        let tokens: usize = golden.vectors.iter().map(|vector| vector.greedy.len()).sum();
        output::write(&format!("{vectors} golden vectors of {tokens} tokens agree bit for bit\n"))?;
        return Ok(Exit::Done);
    }
    for difference in &differences {
        output::write(&format!("{difference}\n"))?;
    }
    output::write(&format!("{} of {vectors} golden vectors differ\n", differences.len()))?;
    Ok(Exit::No)
}
