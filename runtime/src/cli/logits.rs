//! `lfm-run logits`: what a model answers, to compare with others.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use lfm_graphs::bundle::LogitsDigest;
use lfm_runtime::{Error, Route};
use serde::Serialize;

use super::Exit;
use super::error::{CliError, Result};
use super::model::{BundleArgument, RunOptions, token};
use super::output;
use super::session::SessionOptions;
use super::words::Words;

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    bundle: BundleArgument,
    #[command(flatten)]
    input: Input,
    /// Logits of all positions, not of the last alone
    #[arg(long)]
    all: bool,
    /// Add the experts that each layer chooses at each position, and their weights
    #[arg(long)]
    routes: bool,
    /// Write the logits as tensor `logits` [positions, vocab], f32
    #[arg(short, value_name = "FILE.safetensors")]
    output: Option<PathBuf>,
    #[command(flatten)]
    session: SessionOptions,
    #[command(flatten)]
    run: RunOptions,
}

/// What is taken in.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Input {
    /// Token ids, taken as they are
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token)]
    tokens: Option<Vec<u32>>,
    /// Text without the chat template, behind what begins a text
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,
}

/// What is written.
#[derive(Serialize)]
struct Report {
    tokens: Vec<u32>,
    /// How many of them were in the session; only with `--session`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reused_tokens: Option<usize>,
    vocab: usize,
    digest: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    routes: Option<Vec<LayerRoutes>>,
}

/// The choices of one layer, by position.
#[derive(Debug, PartialEq, Serialize)]
struct LayerRoutes {
    layer: String,
    ids: Vec<Vec<u32>>,
    weights: Vec<Vec<f32>>,
}

pub(crate) fn run(options: &Options) -> Result<Exit> {
    let (mut session, tokens, _) =
        options.run.start(&options.bundle.bundle, |model| match &options.input {
            Input { prompt: Some(text), .. } => Words::open(model, "--prompt")?.raw(text),
            Input { tokens, .. } => Ok(tokens.clone().unwrap_or_default()),
        })?;
    if options.session.wanted() && (options.all || options.routes) {
        return Err(CliError::argument(
            "--session leaves out what was computed before, expected neither --all nor --routes with it",
        ));
    }
    let note = options.session.restore(&mut session)?;
    let vocab = session.model().vocab();
    session.record_routes(options.routes);
    let positions = if options.all { tokens.len() } else { 1 };
    let mut file = options.output.as_deref().map(|path| TensorFile::new(path, positions, vocab));
    let mut digest = LogitsDigest::new();
    let mut take = |rows: &[f32]| {
        digest.update(rows);
        file.as_mut().map_or(Ok(()), |file| file.write(rows))
    };
    let mut reused_tokens = None;
    if options.all {
        session.prefill_all(&tokens, |_, rows| take(rows))?;
    } else {
        let start = session.start(&tokens)?;
        take(start.logits)?;
        reused_tokens = options.session.wanted().then_some(start.reused);
    }
    if let Some(file) = file {
        file.finish()?;
    }
    let routes = options.routes.then(|| by_layer(session.take_routes()));
    output::json(&Report { tokens, reused_tokens, vocab, digest: digest.finish(), routes })?;
    options.session.save(&mut session, &note)?;
    Ok(Exit::Done)
}

/// Layers in the order in which they run, positions ascending.
fn by_layer(routes: Vec<Route>) -> Vec<LayerRoutes> {
    let mut layers: Vec<LayerRoutes> = Vec::new();
    for route in routes {
        let at = layers.iter().position(|layer| layer.layer == route.layer).unwrap_or_else(|| {
            layers.push(LayerRoutes { layer: route.layer, ids: Vec::new(), weights: Vec::new() });
            layers.len() - 1
        });
        layers[at].ids.push(route.ids);
        layers[at].weights.push(route.weights);
    }
    layers
}

/// A safetensors file of one tensor, written as it comes. It is created with the first row, so that a run that
/// cannot start leaves nothing behind.
#[derive(Debug)]
struct TensorFile<'a> {
    path: &'a Path,
    /// Positions and vocabulary.
    shape: [usize; 2],
    file: Option<BufWriter<File>>,
}

impl<'a> TensorFile<'a> {
    fn new(path: &'a Path, positions: usize, vocab: usize) -> TensorFile<'a> {
        TensorFile { path, shape: [positions, vocab], file: None }
    }

    /// Appends rows.
    fn write(&mut self, rows: &[f32]) -> lfm_runtime::Result<()> {
        let (path, header) = (self.path, header(self.shape));
        let mut write = || {
            let file = match &mut self.file {
                Some(file) => file,
                empty => {
                    let mut file = BufWriter::new(File::create(path)?);
                    file.write_all(&header)?;
                    empty.insert(file)
                }
            };
            rows.iter().try_for_each(|logit| file.write_all(&logit.to_le_bytes()))
        };
        write().map_err(|source| Error::Write { path: path.to_path_buf(), source })
    }

    /// Writes what is still kept.
    fn finish(self) -> lfm_runtime::Result<()> {
        let path = self.path;
        let flushed = self.file.map_or(Ok(()), |mut file| file.flush());
        flushed.map_err(|source| Error::Write { path: path.to_path_buf(), source })
    }
}

/// Length and JSON of the header, the data behind it aligned to 8 bytes.
fn header([positions, vocab]: [usize; 2]) -> Vec<u8> {
    let bytes = 4 * positions * vocab;
    let json =
        format!(r#"{{"logits":{{"dtype":"F32","shape":[{positions},{vocab}],"data_offsets":[0,{bytes}]}}}}"#);
    let length = json.len().next_multiple_of(8);
    let mut header = (length as u64).to_le_bytes().to_vec();
    header.extend_from_slice(json.as_bytes());
    header.resize(8 + length, b' ');
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_grouped_by_layer() {
        let route = |layer: &str, position, id| {
            let (layer, ids, weights) = (layer.to_owned(), vec![id], vec![0.5]);
            Route { layer, position, ids, weights }
        };
        let routes = vec![route("l2", 0, 1), route("l2", 1, 2), route("l1", 0, 3), route("l2", 2, 4)];
        let layers = by_layer(routes);
        assert_eq!(layers.iter().map(|l| l.layer.as_str()).collect::<Vec<_>>(), ["l2", "l1"]);
        assert_eq!(layers[0].ids, [[1], [2], [4]]);
    }

    #[test]
    fn headers_are_aligned() {
        for positions in 1..20 {
            let header = header([positions, 96]);
            assert_eq!(header.len() % 8, 0);
            let json: serde_json::Value = serde_json::from_slice(&header[8..]).unwrap();
            assert_eq!(json["logits"]["shape"], serde_json::json!([positions, 96]));
        }
    }
}
