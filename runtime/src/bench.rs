//! Speed of a model on this machine.

use std::time::Instant;

use lfm_graphs::graph::Value;
use lfm_graphs::id::Id;
use lfm_graphs::plan::{Plan, WeightSlot};
use lfm_graphs::{Graph, Op};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::few;
use crate::machine;
use crate::model::Model;
use crate::session::{Options, Session};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Tokens of the prompt; none: not measured.
    pub prompt: usize,
    /// Tokens decoded one by one; none: not measured.
    pub generate: usize,
    /// Positions that are taken before either starts.
    pub depth: usize,
    /// How often each is measured.
    pub repetitions: usize,
}

/// Tokens a second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Of the slowest repetition.
    pub min: f64,
    /// The median.
    pub median: f64,
    /// Of the fastest repetition.
    pub max: f64,
}

impl Speed {
    fn of(mut samples: Vec<f64>) -> Option<Speed> {
        few::sort(&mut samples, |a, b| a < b);
        let (min, max) = (*samples.first()?, *samples.last()?);
        let (low, high) = ((samples.len() - 1) / 2, samples.len() / 2);
        Some(Speed { min, median: (samples[low] + samples[high]) / 2.0, max })
    }
}

/// What was measured, and on what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Name of the model.
    pub model: String,
    /// Weight recipe.
    pub recipe: String,
    /// Name of the CPU.
    pub cpu: String,
    /// ISA tier of the kernels.
    pub isa: String,
    /// Threads.
    pub threads: usize,
    /// Most tokens of one pass of a prompt.
    pub chunk: usize,
    /// Positions there are.
    pub context: usize,
    /// What was asked for.
    pub workload: Workload,
    /// Seconds from opening the bundle to a session that can run.
    pub load_s: f64,
    /// Speed of taking in a prompt, in tokens a second.
    pub prefill_tok_s: Option<Speed>,
    /// Speed of decoding, in tokens a second.
    pub decode_tok_s: Option<Speed>,
    /// Most bytes of memory held at once, measured before the bandwidth is.
    pub peak_rss: Option<u64>,
    /// Bytes that the plan states.
    pub planned: u64,
    /// Bytes of weights that one decoded token reads.
    pub weight_bytes: u64,
    /// Bytes a second that this machine reads with as many threads.
    pub bandwidth: f64,
    /// Share of that bandwidth at which decoding reads weights, by the median.
    pub bandwidth_share: Option<f64>,
}

/// Bytes of weights that one token reads: all but the rows of tables and the experts that it does not choose.
pub fn weight_bytes(graph: &Graph, plan: &Plan) -> u64 {
    let slot = |value: &Value| -> Option<&WeightSlot> {
        let Value::Weight(id) = value else { return None };
        plan.weights.get(id.index())
    };
    let mut bytes = 0u64;
    for node in graph.nodes().values() {
        for slot in node.args.iter().filter_map(slot) {
            bytes += match node.op {
                Op::Select => slot.stride / u64::from(slot.rows.max(1)),
                Op::Moe { top_k, .. } if slot.count > 1 => slot.stride * u64::from(top_k),
                _ => slot.bytes,
            };
        }
    }
    bytes
}

/// Some ids below `vocab`, other ones each time.
fn ids(n: usize, vocab: usize, salt: usize) -> Vec<u32> {
    let mut rng = crate::sample::Rng::new(salt as u64);
    (0..n).map(|_| (rng.next_u64() % vocab.max(1) as u64) as u32).collect()
}

/// Measures. `load_s` is what opening took; `progress` gets repetitions done and all of them.
///
/// # Errors
/// When the workload does not fit into the context or an option is out of range.
pub fn run(
    model: &Model,
    options: &Options,
    workload: Workload,
    load_s: f64,
    mut progress: impl FnMut(usize, usize),
) -> Result<Report> {
    let start = Instant::now();
    let mut session = model.session(options)?;
    let load_s = load_s + start.elapsed().as_secs_f64();
    let Workload { prompt, generate, depth, repetitions } = workload;
    if repetitions == 0 || prompt + generate == 0 {
        return Err(Error::Argument(
            "there is nothing to measure, expected -r and one of -p and -n above 0".into(),
        ));
    }
    let needed = depth.saturating_add(prompt.max(generate));
    if needed > session.context() {
        return Err(Error::Argument(format!(
            "depth {depth} with {} tokens takes {needed} positions, expected at most the context of {}",
            prompt.max(generate),
            session.context()
        )));
    }
    // The first run of anything meets cold caches and pages that are not there yet.
    let warm = ids(session.chunk().min(session.context()).min(64), model.embeddings(), 0);
    session.prefill(&warm)?;
    if session.past() < session.context() {
        session.decode(0)?;
    }
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for repetition in 0..repetitions {
        if prompt > 0 {
            let tokens = ids(prompt, model.embeddings(), 2 * repetition + 1);
            descend(&mut session, depth)?;
            let start = Instant::now();
            session.prefill(&tokens)?;
            prefill.push(prompt as f64 / start.elapsed().as_secs_f64());
        }
        if generate > 0 {
            let tokens = ids(generate, model.embeddings(), 2 * repetition + 2);
            descend(&mut session, depth)?;
            let start = Instant::now();
            for token in &tokens {
                session.decode(*token)?;
            }
            decode.push(generate as f64 / start.elapsed().as_secs_f64());
        }
        progress(repetition + 1, repetitions);
    }
    let (prefill_tok_s, decode_tok_s) = (Speed::of(prefill), Speed::of(decode));
    let peak_rss = machine::peak_rss();
    let threads = session.threads();
    let bandwidth = machine::read_bandwidth(threads).map_err(|source| Error::System {
        attempt: format!("cannot measure the memory with {threads} threads"),
        source,
    })?;
    let weight_bytes = weight_bytes(model.graph(), model.plan());
    Ok(Report {
        model: model.manifest().model.clone(),
        recipe: model.manifest().recipe.clone(),
        cpu: machine::Machine::detect().cpu,
        isa: session.isa().to_owned(),
        threads,
        chunk: session.chunk(),
        context: session.context(),
        workload,
        load_s,
        prefill_tok_s,
        decode_tok_s,
        peak_rss,
        planned: model.plan().memory.total,
        weight_bytes,
        bandwidth,
        bandwidth_share: decode_tok_s.map(|speed| speed.median * weight_bytes as f64 / bandwidth),
    })
}

/// An empty session, then `depth` positions.
fn descend(session: &mut Session, depth: usize) -> Result<()> {
    session.clear();
    if depth > 0 {
        let tokens = ids(depth, session.model().embeddings(), 0);
        session.prefill(&tokens)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Speed::of(vec![]), None);
        assert_eq!(Speed::of(vec![3.0, 1.0, 2.0]), Some(Speed { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Speed::of(vec![4.0, 1.0, 2.0, 3.0]).map(|s| s.median), Some(2.5));
    }
}
