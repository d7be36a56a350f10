//! `lfm-run perplexity`: how well a model predicts a text.

use std::path::PathBuf;

use clap::Args;
use lfm_runtime::{Error, perplexity};

use super::Exit;
use super::error::{CliError, Result};
use super::model::{BundleArgument, RunOptions};
use super::output::{self, Progress};
use super::words::Words;

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    bundle: BundleArgument,
    /// The text, UTF-8
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Tokens of a piece, with the one that begins it
    #[arg(long, value_name = "N", default_value_t = 512)]
    window: usize,
    /// Also compare with this bundle: mean KL divergence and agreement on the best token
    #[arg(long, value_name = "BUNDLE")]
    reference: Option<PathBuf>,
    /// Write one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn run(options: &Options) -> Result<Exit> {
    let bytes =
        std::fs::read(&options.file).map_err(|source| Error::Read { path: options.file.clone(), source })?;
    let text = std::str::from_utf8(&bytes).map_err(|e| {
        let (path, at) = (options.file.display(), e.valid_up_to());
        CliError::argument(format!("{path}: byte {at} is not UTF-8, expected a text file"))
    })?;
    let (mut session, words, _) =
        options.run.start(&options.bundle.bundle, |model| Words::open(model, "perplexity"))?;
    let bos = words.bos().ok_or_else(|| {
        CliError::argument("the bundle has no token that begins a text, expected a bos_token")
    })?;
    let ids = words.plain(text)?;
    let mut reference = match &options.reference {
        Some(path) => Some(options.run.start(path, |_| Ok(()))?.0),
        None => None,
    };
    let mut progress = Progress::new("scoring");
    let score =
        perplexity::score(&mut session, reference.as_mut(), bos, &ids, options.window, |done, all| {
            progress.show(done as u64, all as u64);
        })?;
    drop(progress);
    if options.json {
        output::json(&score)?;
        return Ok(Exit::Done);
    }
    let mut report = format!("perplexity {:.4}, {} tokens\n", score.perplexity, score.tokens);
    if let Some(reference) = &score.reference {
        report += &format!("reference  {:.4}\n", reference.perplexity);
        report += &format!("mean KL    {:.6}\n", reference.kl);
        report += &format!("same best  {:.2} %\n", 100.0 * reference.top1);
    }
    output::write(&report)?;
    Ok(Exit::Done)
}
