//! Golden vectors: what the new bundle answers, so that every device can prove that it answers the same.

use std::path::Path;

use lfm_graphs::bundle::Golden;
use lfm_graphs::plan::Plan;
use lfm_runtime::{Model, Options, golden};

use super::ExportError;

/// Weights up to which the longer vectors are made. Running a vector touches the experts that its tokens choose;
/// an export must stay small whatever the model.
const SMALL: u64 = 1 << 30;

/// The runs of a bundle: tokens of a prompt, and tokens that follow it.
pub(super) fn runs(plan: &Plan) -> Vec<(usize, usize)> {
    let all: &[(usize, usize)] =
        if plan.memory.weights <= SMALL { &[(1, 4), (7, 8), (80, 8)] } else { &[(3, 1)] };
    let room = plan.context as usize;
    let runs: Vec<_> = all.iter().copied().filter(|(prompt, more)| prompt + more <= room).collect();
    if runs.is_empty() { vec![(1, 1)] } else { runs }
}

/// The same of golden vectors.
pub(super) fn shape(golden: &Golden) -> Vec<(usize, usize)> {
    golden.vectors.iter().map(|vector| (vector.prompt.len(), vector.greedy.len())).collect()
}

/// Runs the bundle at `path`, which has no golden vectors yet. Prompts start with `start` where that is an id.
pub(super) fn compute(path: &Path, start: Option<u32>) -> Result<Golden, ExportError> {
    let model = Model::open(path)?;
    let vocab = model.embeddings() as u32;
    let start = start.filter(|id| *id < vocab).unwrap_or(0);
    let prompt = |len: usize| -> Vec<u32> {
        // A walk through the vocabulary; any ids would do.
        let walk = (1..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) % vocab);
        std::iter::once(start).chain(walk).collect()
    };
    let mut golden = Golden { vectors: Vec::new() };
    for (len, more) in runs(model.plan()) {
        golden.vectors.extend(golden::run(&model, &Options::default(), &[prompt(len)], more)?.vectors);
    }
    Ok(golden)
}
