//! The planner: sizes and lives from the graph, places from [`arena`], sums, and the budget.

use super::needs::{Needs, check_graph, weight_slot};
use super::{
    Buffer, Checkpoints, MAX_CHUNK, MAX_CONTEXT, MAX_HEAD_ROWS, Memory, Plan, StateSlot, WeightSlot, align,
    arena,
};
use crate::Graph;
use crate::target::ByteSize;
use crate::verify::VerifyError;

/// What a plan is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most tokens of a call; cut to the context.
    pub chunk: u32,
    /// Most positions.
    pub context: u32,
    /// Estimate of the bytes of everything that is no weight, state, buffer or checkpoint: program, tokenizer, threads.
    pub overhead: u64,
    /// Most bytes that all together may take; no limit when absent.
    pub ram: Option<u64>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The graph is not executable.
    #[error("cannot plan: the graph breaks {faults} rules, the first: {first}")]
    Graph {
        /// How many faults there are.
        faults: usize,
        /// The first of them.
        #[source]
        first: VerifyError,
    },
    /// The graph is executable but not in a way that can be planned.
    #[error("cannot plan {name}: {message}")]
    Unsupported {
        /// The node or weight.
        name: String,
        /// What was found and expected.
        message: String,
    },
    /// A limit is out of range.
    #[error("cannot plan with a {what} of {found}, expected 1 to {most}")]
    Limit {
        /// Which limit.
        what: &'static str,
        /// What it is.
        found: u32,
        /// Most that it may be.
        most: u32,
    },
    /// A size does not fit into 64 bits.
    #[error("cannot plan: {what} overflow 64 bits")]
    Overflow {
        /// The size.
        what: String,
    },
    /// All together takes more than the budget.
    #[error(
        "the plan needs {}, {} more than the budget of {}: weights {}, states {}, arena {}, overhead {}; {hint}",
        size(memory.total), size(memory.total.saturating_sub(*budget)), size(*budget),
        size(memory.weights), size(memory.states), size(memory.arena), size(memory.overhead)
    )]
    Ram {
        /// What it takes.
        memory: Memory,
        /// What it may take; less than `memory.total`.
        budget: u64,
        /// What would fit.
        hint: Fit,
    },
    /// The plan is of another graph.
    #[error("the plan does not fit the graph: {what}")]
    Mismatch {
        /// What was found and expected.
        what: String,
    },
}

/// The setting nearest to what was asked for that fits into a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// A shorter context.
    Context(u32),
    /// A smaller chunk.
    Chunk(u32),
    /// Both.
    Both {
        /// The chunk.
        chunk: u32,
        /// The context.
        context: u32,
    },
    /// No context or chunk does.
    None,
}

impl std::fmt::Display for Fit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fit::Context(context) => write!(f, "a context of {context} fits"),
            Fit::Chunk(chunk) => write!(f, "a chunk of {chunk} fits"),
            Fit::Both { chunk, context } => write!(f, "a context of {context} with a chunk of {chunk} fits"),
            Fit::None => f.write_str("no context fits: smaller weights are needed"),
        }
    }
}

fn size(bytes: u64) -> String {
    ByteSize(bytes).approx()
}

/// Rows that are evaluated together after `LastRow`.
pub(super) fn head_rows(chunk: u32) -> u32 {
    chunk.min(MAX_HEAD_ROWS)
}

/// Plans an executable graph.
pub fn plan(graph: &Graph, limits: Limits) -> Result<Plan, PlanError> {
    let limit = |what, found, most| match (1..=most).contains(&found) {
        true => Ok(()),
        false => Err(PlanError::Limit { what, found, most }),
    };
    limit("context", limits.context, MAX_CONTEXT)?;
    limit("chunk", limits.chunk, MAX_CHUNK)?;
    check_graph(graph)?;
    let plan = place(graph, limits)?;
    match limits.ram {
        Some(budget) if plan.memory.total > budget => {
            let hint = nearest_fit(graph, limits, budget)?;
            Err(PlanError::Ram { memory: plan.memory, budget, hint })
        }
        _ => Ok(plan),
    }
}

/// The plan of a graph that passed [`check_graph`], whatever it takes.
fn place(graph: &Graph, limits: Limits) -> Result<Plan, PlanError> {
    let chunk = limits.chunk.min(limits.context);
    let head_rows = head_rows(chunk);
    let (weights, weights_bytes) = place_weights(graph)?;
    let (states, states_bytes) = place_states(graph, limits.context)?;
    let needs = Needs::of(graph, chunk, head_rows)?;
    let arena = arena::place(&needs.buffers)
        .ok_or_else(|| PlanError::Overflow { what: "the bytes of the arena".into() })?;
    let buffers = needs.buffers.iter().zip(&arena.offsets).map(|(need, offset)| Buffer {
        name: need.holds.name(graph),
        kind: need.holds.kind(),
        first: need.first,
        last: need.last,
        offset: *offset,
        bytes: need.bytes,
    });
    let buffers = buffers.collect();
    let overflow = || PlanError::Overflow { what: "the bytes of all together".into() };
    let overhead = checkpoints(graph, chunk, limits.context)?.checked_add(limits.overhead);
    let overhead = overhead.ok_or_else(overflow)?;
    let total = [weights_bytes, states_bytes, arena.bytes, overhead]
        .into_iter()
        .try_fold(0u64, u64::checked_add)
        .ok_or_else(overflow)?;
    let memory = Memory {
        weights: weights_bytes,
        states: states_bytes,
        arena: arena.bytes,
        live: arena.live,
        overhead,
        total,
        text: 0,
    };
    Ok(Plan { chunk, context: limits.context, head_rows, memory, weights, states, buffers })
}

/// Bytes of the checkpoints.
fn checkpoints(graph: &Graph, chunk: u32, context: u32) -> Result<u64, PlanError> {
    let overflow = || PlanError::Overflow { what: "the bytes of the checkpoints".into() };
    Ok(Checkpoints::of(graph, chunk, context).ok_or_else(overflow)?.bytes)
}

/// The weights one after another, and their bytes.
pub(super) fn place_weights(graph: &Graph) -> Result<(Vec<WeightSlot>, u64), PlanError> {
    let overflow = || PlanError::Overflow { what: "the bytes of the weights".into() };
    let mut end = 0u64;
    let mut slots = Vec::with_capacity(graph.weights.len());
    for weight in graph.weights.values() {
        let slot = WeightSlot { offset: end, ..weight_slot(weight)? };
        end = end.checked_add(slot.bytes).and_then(align).ok_or_else(overflow)?;
        slots.push(slot);
    }
    Ok((slots, end))
}

/// The states one after another, and their bytes. Keys and values have room for whole groups of 16 positions.
pub(super) fn place_states(graph: &Graph, context: u32) -> Result<(Vec<StateSlot>, u64), PlanError> {
    let overflow = || PlanError::Overflow { what: "the bytes of the states".into() };
    let mut end = 0u64;
    let mut slots = Vec::with_capacity(graph.states.len());
    let positions = context.checked_next_multiple_of(16).ok_or_else(overflow)?;
    for state in graph.states.values() {
        let bytes = state.ty.bytes(0, positions).ok_or_else(overflow)?;
        slots.push(StateSlot { name: state.name.clone(), offset: end, bytes });
        end = end.checked_add(bytes).and_then(align).ok_or_else(overflow)?;
    }
    Ok((slots, end))
}

/// What fits into a budget: the longest context with the chunk as it is, else the largest power of two as chunk with
/// the context as it is, else the largest chunk that leaves at least half of the context that a chunk of 1 would.
fn nearest_fit(graph: &Graph, limits: Limits, budget: u64) -> Result<Fit, PlanError> {
    // The arena does not depend on the context while the context holds a chunk.
    let longest = |chunk: u32| -> Result<Option<u32>, PlanError> {
        let arena = place(graph, Limits { chunk, ..limits })?.memory;
        let rest = arena.total - arena.states - checkpoints(graph, chunk, limits.context)?;
        let fits = |context: u32| -> Result<bool, PlanError> {
            let parts = [place_states(graph, context)?.1, checkpoints(graph, chunk, context)?];
            let total = parts.into_iter().try_fold(rest, u64::checked_add);
            Ok(total.is_some_and(|total| total <= budget))
        };
        if !fits(chunk)? {
            return Ok(None);
        }
        let (mut good, mut bad) = (chunk, limits.context);
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if fits(middle)? { good = middle } else { bad = middle }
        }
        // A round number, if there is one.
        let round = good / CONTEXT_STEP * CONTEXT_STEP;
        Ok(Some(if round >= chunk { round } else { good }))
    };
    let chunk = limits.chunk.min(limits.context);
    if chunk < limits.context
        && let Some(context) = longest(chunk)?
    {
        return Ok(Fit::Context(context));
    }
    let smaller = || (0..chunk.ilog2() + 1).rev().map(|bit| 1u32 << bit).filter(|smaller| *smaller < chunk);
    for chunk in smaller() {
        if place(graph, Limits { chunk, ..limits })?.memory.total <= budget {
            return Ok(Fit::Chunk(chunk));
        }
    }
    let Some(most) = longest(1)? else { return Ok(Fit::None) };
    for chunk in smaller() {
        if let Some(context) = longest(chunk)?.filter(|context| *context >= most / 2) {
            return Ok(Fit::Both { chunk, context });
        }
    }
    Ok(Fit::None)
}

/// Contexts that are suggested are multiples of this, if they can be.
const CONTEXT_STEP: u32 = 256;
