//! Golden vectors: what the new bundle answers, so that every device can prove that it answers the same.

use std::path::Path;

use lfm_graphs::bundle::Golden;
use lfm_runtime::{Model, Options, golden};

use super::ExportError;

/// Weights up to which the longer vectors are made. Running a vector touches the experts that its tokens choose;
/// an export must stay small whatever the model.
const SMALL: u64 = 1 << 30;

/// Runs the bundle at `path`, which has no golden vectors yet.
pub(super) fn compute(path: &Path, bos: Option<u32>) -> Result<Golden, ExportError> {
    let model = Model::open(path)?;
    let vocab = model.embeddings() as u32;
    let start = bos.filter(|id| *id < vocab).unwrap_or(0);
    let prompt = |len: u32| -> Vec<u32> {
        // A walk through the vocabulary; any ids would do.
        let walk = (1..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) % vocab);
        std::iter::once(start).chain(walk).collect()
    };
    let runs: &[(u32, usize)] =
        if model.plan().memory.weights <= SMALL { &[(1, 4), (7, 8), (80, 8)] } else { &[(3, 1)] };
    let room = model.plan().context as usize;
    let runs: Vec<(Vec<u32>, usize)> = runs
        .iter()
        .filter(|(len, more)| *len as usize + more <= room)
        .map(|(len, more)| (prompt(*len), *more))
        .collect();
    let runs = if runs.is_empty() { vec![(prompt(1), 1)] } else { runs };
    let mut golden = Golden { vectors: Vec::new() };
    for (prompt, more) in runs {
        golden.vectors.extend(golden::run(&model, &Options::default(), &[prompt], more)?.vectors);
    }
    Ok(golden)
}
