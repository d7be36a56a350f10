//! Where the time of a model goes: by operation and by layer, in prefill and in decoding.
//!
//! Every step is timed with a clock around it, on the thread that calls; what lies between steps is told as well, so
//! shares sum to one. The int8 form of an operand is made by the first step that reads it, and counts as that step's
//! time.

use lfm_graphs::Op;
use lfm_graphs::graph::Node;
use serde::Serialize;

use crate::bench::{Way, Work, Workload, descend, warm_up};
use crate::error::Result;
use crate::few;
use crate::machine;
use crate::model::Model;
use crate::session::{Options, Session};

/// The name of what is no step.
const BETWEEN: &str = "between steps";
/// The layer of steps that belong to none.
const NO_LAYER: &str = "other";

/// Where the time goes, and on what.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
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
    /// Taking in a prompt.
    pub prefill: Option<Phase>,
    /// Decoding.
    pub decode: Option<Phase>,
}

/// The time of one repetition of one phase, by the mean of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    /// Tokens.
    pub tokens: usize,
    /// Seconds.
    pub time_s: f64,
    /// Tokens a second.
    pub tok_s: f64,
    /// Parallel sections of one token: how often threads wait for each other. None on one thread.
    pub sections_per_token: f64,
    /// By operation, the longest first.
    pub ops: Vec<Part>,
    /// By layer, in the order of the graph: the prefix of the names of its nodes.
    pub layers: Vec<Part>,
}

/// The time of some steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Part {
    /// Operation or layer.
    pub name: String,
    /// How many steps it has.
    pub steps: usize,
    /// Seconds.
    pub time_s: f64,
    /// Share of the time of the phase.
    pub share: f64,
    /// Parallel sections of one token.
    pub sections_per_token: f64,
    /// In decoding, bytes of weights read a second.
    pub read_bytes_s: Option<f64>,
    /// In prefill, multiply-adds with matrices of weights a second.
    pub mac_s: Option<f64>,
}

/// What one node took in all repetitions, and what it had to do.
struct Taken<'a> {
    node: &'a Node,
    seconds: f64,
    sections: f64,
    /// Bytes or multiply-adds.
    work: f64,
}

/// Measures. `progress` gets repetitions done and all of them.
///
/// # Errors
/// When the workload does not fit into the context or an option is out of range.
pub fn run(
    model: &Model,
    options: &Options,
    workload: Workload,
    mut progress: impl FnMut(usize, usize),
) -> Result<Profile> {
    let mut session = model.session(options)?;
    workload.check(session.context())?;
    warm_up(&mut session)?;
    let ways = [(Way::Prefill, workload.prompt), (Way::Decode, workload.generate)];
    let used = ways.iter().filter(|(_, tokens)| *tokens > 0).count();
    let mut done = 0;
    let mut phases = Vec::new();
    for (way, tokens) in ways {
        let phase = (tokens > 0).then(|| {
            phase(&mut session, way, tokens, &workload, || {
                done += 1;
                progress(done, used * workload.repetitions);
            })
        });
        phases.push(phase.transpose()?);
    }
    let decode = phases.pop().flatten();
    Ok(Profile {
        model: model.manifest().model.clone(),
        recipe: model.manifest().recipe.clone(),
        cpu: machine::cpu_name(),
        device: session.device(),
        isa: session.isa().to_owned(),
        threads: session.threads(),
        chunk: session.chunk(),
        context: session.context(),
        workload,
        prefill: phases.pop().flatten(),
        decode,
    })
}

/// Profiles one phase.
fn phase(
    session: &mut Session,
    way: Way,
    tokens: usize,
    workload: &Workload,
    mut done: impl FnMut(),
) -> Result<Phase> {
    let mut seconds = 0.0;
    let mut laps = Vec::new();
    for repetition in 0..workload.repetitions {
        let ids = descend(session, workload.depth, tokens, repetition)?;
        session.record_laps(laps);
        seconds += way.time(session, &ids)?;
        laps = session.take_laps();
        done();
    }
    let model = session.model();
    let tail = model.graph().tail();
    let runs = (tokens * workload.repetitions) as f64;
    let mut taken = Vec::new();
    for (id, node) in model.graph().nodes().iter() {
        // A reshape is its argument.
        if matches!(node.op, Op::Reshape { .. }) {
            continue;
        }
        let Some(step) = model.program().steps().position(|step| step.name == node.name) else { continue };
        let Some(lap) = laps.get(step) else { continue };
        let work = Work::of(node, model.plan());
        let work = match way {
            Way::Decode => work.weight_bytes as f64 * runs,
            Way::Prefill => {
                let times = if tail.contains(&id) { workload.repetitions as f64 } else { runs };
                work.int8_macs.saturating_add(work.float_macs) as f64 * times
            }
        };
        taken.push(Taken { node, seconds: lap.time.as_secs_f64(), sections: lap.sections as f64, work });
    }
    let mut ops = parts(&taken, |node| node.op.name().0, way, workload.repetitions as f64, tokens);
    few::sort(&mut ops, |a, b| a.time_s > b.time_s);
    let mut layers = parts(&taken, layer, way, workload.repetitions as f64, tokens);
    let time_s = seconds / workload.repetitions as f64;
    finish(&mut ops, time_s);
    finish(&mut layers, time_s);
    let sections_per_token = ops.iter().map(|part| part.sections_per_token).sum();
    let tok_s = tokens as f64 / time_s.max(1e-9);
    Ok(Phase { tokens, time_s, tok_s, sections_per_token, ops, layers })
}

/// The layer of a node, by its name.
fn layer(node: &Node) -> &str {
    let Some((prefix, _)) = node.name.split_once('.') else { return NO_LAYER };
    let number = prefix.strip_prefix('l').unwrap_or_default();
    let is_layer = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    if is_layer { prefix } else { NO_LAYER }
}

/// Sums of what nodes of one name took, in the order in which names appear.
fn parts<'a>(
    taken: &[Taken<'a>],
    name: impl Fn(&'a Node) -> &'a str,
    way: Way,
    repetitions: f64,
    tokens: usize,
) -> Vec<Part> {
    let mut parts: Vec<(Part, f64)> = Vec::new();
    for one in taken {
        let name = name(one.node);
        let at = parts.iter().position(|(part, _)| part.name == name).unwrap_or_else(|| {
            parts.push((Part { name: name.to_owned(), ..Part::default() }, 0.0));
            parts.len() - 1
        });
        let (part, work) = &mut parts[at];
        part.steps += 1;
        part.time_s += one.seconds / repetitions;
        part.sections_per_token += one.sections / repetitions / tokens as f64;
        *work += one.work / repetitions;
    }
    let rated = parts.into_iter().map(|(part, work)| {
        let rate = (work > 0.0).then(|| work / part.time_s.max(1e-9));
        match way {
            Way::Decode => Part { read_bytes_s: rate, ..part },
            Way::Prefill => Part { mac_s: rate, ..part },
        }
    });
    rated.collect()
}

/// Adds what lies between steps, and shares.
fn finish(parts: &mut Vec<Part>, time_s: f64) {
    let between = time_s - parts.iter().map(|part| part.time_s).sum::<f64>();
    parts.push(Part { name: BETWEEN.to_owned(), time_s: between.max(0.0), ..Part::default() });
    for part in parts {
        part.share = part.time_s / time_s.max(1e-9);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_by_name() {
        let graph = lfm_graphs::testing::tiny_graph(&lfm_graphs::testing::Tiny::moe());
        let mut names: Vec<&str> = graph.nodes().values().map(layer).collect();
        names.dedup();
        assert_eq!(names.first(), Some(&NO_LAYER), "the embedding");
        assert_eq!(names.last(), Some(&NO_LAYER), "the head");
        assert!(["l0", "l1", "l2"].iter().all(|layer| names.contains(layer)), "{names:?}");
        let named = |name: &str| {
            let mut node = graph.nodes().values().next().unwrap().clone();
            node.name = name.into();
            layer(&node).to_owned()
        };
        assert_eq!((named("l12.ffn.moe").as_str(), named("l.x").as_str()), ("l12", NO_LAYER));
        assert_eq!((named("last").as_str(), named("l3x.y").as_str()), (NO_LAYER, NO_LAYER));
    }
}
