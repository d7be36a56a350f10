//! Speed of a model on this machine.
//!
//! Every repetition takes in a prompt, then decodes, both timed with a clock around the calls of a [`Session`]; before
//! the first one some tokens warm up caches and pages. After each repetition the limits of the machine are measured
//! ([`Gauge`]): a share compares the median speed with the best of these measurements.
//!
//! | figure | is |
//! |---|---|
//! | load | from opening the bundle to a session that can run |
//! | weight bytes of a token | each matrix once, of experts those that are chosen, of the table one row; keys and values are not in it |
//! | share of the bandwidth | weight bytes times decoded tokens a second, of the bytes a second that as many threads read from a buffer larger than caches, by the widest loads, prefetched, in huge pages where the system has them |
//! | multiply-adds a second | those of products with weight matrices in prefill, the head once a prompt; attention, convolution and norms do none of them but take their time |
//! | share of the dot product peak | int8 multiply-adds a second, of those that as many threads do in registers by the best instructions of the ISA tier |
//! | upload | of that, writing weights to the GPU's memory, staging of 16 MiB at a time, until all have arrived |
//! | submissions | to the GPU's queue while decoding, by decoded tokens |
//! | peak memory | most that the process has held, mapped weights included, without the buffer of the bandwidth |

mod work;

use std::time::Instant;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::few;
use crate::machine::{self, Gauge, Limits};
use crate::model::Model;
use crate::paging::{Layout, Stats};
use crate::session::{Options, Session};

pub use work::Work;

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

impl Workload {
    /// Whether there is something to measure, and room for it.
    pub(crate) fn check(&self, context: usize) -> Result<()> {
        let Workload { prompt, generate, depth, repetitions } = *self;
        if repetitions == 0 || (prompt == 0 && generate == 0) {
            return Err(Error::Argument(
                "there is nothing to measure, expected -r and one of -p and -n above 0".into(),
            ));
        }
        let needed = depth.saturating_add(prompt.max(generate));
        if needed > context {
            return Err(Error::Argument(format!(
                "depth {depth} with {} tokens takes {needed} positions, expected at most the context of {context}",
                prompt.max(generate)
            )));
        }
        Ok(())
    }
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

/// What paging does in a model that was opened with a budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paging {
    /// How memory is divided.
    pub layout: Layout,
    /// While prompts are taken in.
    pub prefill: Option<Paged>,
    /// While tokens are decoded.
    pub decode: Option<Paged>,
}

/// What paging does in one way of working, over all repetitions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Paged {
    /// Share of the needed experts that were in memory.
    pub hit_rate: Option<f64>,
    /// Bytes read for each token.
    pub bytes_per_token: f64,
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
    /// The GPU that computes, if one does.
    pub device: Option<String>,
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
    /// Most bytes of memory held at once.
    pub peak_rss_bytes: Option<u64>,
    /// Bytes that the plan states, or the budget.
    pub planned_bytes: u64,
    /// What paging does, if the model was opened with a budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paging: Option<Paging>,
    /// Bytes of GPU memory, if a GPU computes.
    pub device_bytes: Option<u64>,
    /// Seconds of the upload of weights, which are part of loading.
    pub upload_s: Option<f64>,
    /// Submissions to the GPU for each decoded token.
    pub submissions_per_token: Option<f64>,
    /// Bytes of weights that one decoded token reads.
    pub weight_bytes_per_token: u64,
    /// Bytes a second that as many threads of the CPU read from memory; as all limits and shares, nothing if a GPU
    /// computes or experts are paged.
    pub read_bytes_s: Option<f64>,
    /// Share of that at which decoding reads weights, by the median.
    pub read_share: Option<f64>,
    /// Multiply-adds with quantised matrices of one token of a prompt, the head not among them.
    pub int8_macs_per_token: u64,
    /// Multiply-adds with matrices of floats of one token of a prompt, the head not among them.
    pub float_macs_per_token: u64,
    /// Multiply-adds with quantised matrices a second in prefill, by the median.
    pub prefill_int8_mac_s: Option<f64>,
    /// Multiply-adds with matrices of floats a second in prefill, by the median.
    pub prefill_float_mac_s: Option<f64>,
    /// Int8 multiply-adds a second that as many threads of the CPU do with this ISA tier.
    pub dot_peak_mac_s: Option<f64>,
    /// Share of that at which prefill does them, by the median; nothing if the model has none.
    pub dot_peak_share: Option<f64>,
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
    workload.check(session.context())?;
    let no_gauge =
        |source| Error::System { attempt: "cannot measure what the machine can do".into(), source };
    let device = session.device();
    // The buffer of the gauge is not in a budget.
    let gauge =
        (device.is_none() && model.paging().is_none()).then(|| Gauge::new(session.threads(), session.isa()));
    let mut gauge = gauge.transpose().map_err(no_gauge)?;
    warm_up(&mut session)?;
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    let (mut paged_prefill, mut paged_decode) = (Stats::default(), Stats::default());
    let (mut peak_rss_bytes, mut limits) = (None, None::<Limits>);
    let (mut submissions, mut decoded) = (0, 0);
    for repetition in 0..workload.repetitions {
        let ways = [
            (Way::Prefill, workload.prompt, &mut prefill, &mut paged_prefill),
            (Way::Decode, workload.generate, &mut decode, &mut paged_decode),
        ];
        for (way, tokens, speeds, paged) in ways {
            if tokens > 0 {
                let ids = descend(&mut session, workload.depth, tokens, repetition)?;
                let before = model.paging_stats().unwrap_or_default();
                let submitted = session.submissions();
                speeds.push(tokens as f64 / way.time(&mut session, &ids)?.max(1e-9));
                *paged += model.paging_stats().unwrap_or_default().since(before);
                if way == Way::Decode {
                    submissions += session.submissions() - submitted;
                    decoded += tokens;
                }
            }
        }
        // The buffer of the first measurement is in the system's peak, but no longer in memory.
        let held = if repetition == 0 { machine::peak_rss() } else { machine::rss() };
        peak_rss_bytes = peak_rss_bytes.max(held);
        if let Some(gauge) = &mut gauge {
            limits = Some(gauge.measure().map_err(no_gauge)?);
        }
        progress(repetition + 1, workload.repetitions);
    }
    let (prefill_tok_s, decode_tok_s) = (Speed::of(prefill), Speed::of(decode));
    let paging = model.paging().map(|layout| {
        let phase = |tokens: usize, stats: Stats| Paged {
            hit_rate: stats.hit_rate(),
            bytes_per_token: stats.bytes_read as f64 / (tokens * workload.repetitions).max(1) as f64,
        };
        Paging {
            layout,
            prefill: (workload.prompt > 0).then(|| phase(workload.prompt, paged_prefill)),
            decode: (workload.generate > 0).then(|| phase(workload.generate, paged_decode)),
        }
    });
    let (body, tail) = Work::of_graph(model.graph(), model.plan());
    // The products of a prompt, shared out between its tokens.
    let rate = |body: u64, tail: u64| {
        let speed = prefill_tok_s?.median;
        Some(speed * (body as f64 + tail as f64 / workload.prompt as f64))
    };
    let prefill_int8_mac_s = rate(body.int8_macs, tail.int8_macs);
    let weight_bytes = body.weight_bytes.saturating_add(tail.weight_bytes);
    Ok(Report {
        model: model.manifest().model.clone(),
        recipe: model.manifest().recipe.clone(),
        cpu: machine::cpu_name(),
        device,
        isa: session.isa().to_owned(),
        threads: session.threads(),
        chunk: session.chunk(),
        context: session.context(),
        workload,
        load_s,
        prefill_tok_s,
        decode_tok_s,
        peak_rss_bytes,
        planned_bytes: model.paging().map_or_else(
            || model.plan().memory.total.saturating_sub(model.plan().memory.text),
            |layout| layout.total,
        ),
        paging,
        device_bytes: session.device_memory().map(|(bytes, _)| bytes),
        upload_s: session.device_memory().map(|(_, seconds)| seconds),
        submissions_per_token: (session.device().is_some() && decoded > 0)
            .then(|| submissions as f64 / decoded as f64),
        weight_bytes_per_token: weight_bytes,
        read_bytes_s: limits.map(|limits| limits.read_bytes_s),
        read_share: limits
            .zip(decode_tok_s)
            .map(|(limits, speed)| speed.median * weight_bytes as f64 / limits.read_bytes_s),
        int8_macs_per_token: body.int8_macs,
        float_macs_per_token: body.float_macs,
        prefill_int8_mac_s,
        prefill_float_mac_s: rate(body.float_macs, tail.float_macs),
        dot_peak_mac_s: limits.map(|limits| limits.dot_mac_s),
        dot_peak_share: limits
            .zip(prefill_int8_mac_s)
            .filter(|_| body.int8_macs > 0)
            .map(|(limits, macs)| macs / limits.dot_mac_s),
    })
}

/// Runs some tokens: the first run of anything meets cold caches and pages that are not there yet.
pub(crate) fn warm_up(session: &mut Session) -> Result<()> {
    let tokens = ids(session.chunk().min(session.context()).min(64), session.model().embeddings(), 0);
    session.prefill(&tokens)?;
    if session.past() < session.context() {
        session.decode(0)?;
    }
    Ok(())
}

/// How tokens are taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// All together, as a prompt.
    Prefill,
    /// One by one.
    Decode,
}

impl Way {
    /// Takes in `ids`, and says how many seconds that took.
    pub(crate) fn time(self, session: &mut Session, ids: &[u32]) -> Result<f64> {
        let at_once = if self == Way::Prefill { ids.len() } else { 1 };
        let start = Instant::now();
        for ids in ids.chunks(at_once.max(1)) {
            session.prefill(ids)?;
        }
        Ok(start.elapsed().as_secs_f64())
    }
}

/// Takes `depth` positions of an empty session, and gives the `n` tokens that follow, other ones each time.
pub(crate) fn descend(session: &mut Session, depth: usize, n: usize, repetition: usize) -> Result<Vec<u32>> {
    session.clear();
    let vocab = session.model().embeddings();
    if depth > 0 {
        session.prefill(&ids(depth, vocab, 0))?;
    }
    Ok(ids(n, vocab, repetition + 1))
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

    #[test]
    fn workloads() {
        let fits = Workload { prompt: 10, generate: 3, depth: 6, repetitions: 1 };
        assert!(fits.check(16).is_ok());
        assert!(fits.check(15).is_err());
        assert!(Workload { depth: usize::MAX, ..fits }.check(16).is_err());
        assert!(Workload { prompt: 0, generate: 0, ..fits }.check(16).is_err());
        assert!(Workload { repetitions: 0, ..fits }.check(16).is_err());
    }
}
