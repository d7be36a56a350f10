//! A budget of memory, and what is left of it for experts.

use lfm_graphs::Graph;
use lfm_graphs::plan::memory::{self, Layer, PagedMemory, Paging};
use lfm_graphs::plan::{Memory, Plan};
use lfm_graphs::target::ByteSize;

use super::{MOST_READERS, READERS};
use crate::error::{Error, Result};
use crate::machine;

/// Memory of the program that is touched after a bundle is opened: threads, code of kernels, sampling.
const LATER: u64 = 3 << 20;

/// Memory of the program that a plan counts with.
const PROGRAM: u64 = 4 << 20;

/// What a model may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    size: Size,
    context: Option<usize>,
    readers: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Ram(u64),
    Cache(u64),
}

impl Budget {
    /// `bytes` for the whole process, with one session: program, hot weights, states, arena, and experts.
    pub fn ram(bytes: u64) -> Budget {
        Budget { size: Size::Ram(bytes), context: None, readers: None }
    }

    /// `bytes` for experts alone.
    pub fn cache(bytes: u64) -> Budget {
        Budget { size: Size::Cache(bytes), context: None, readers: None }
    }

    /// Counts with sessions of `context` positions, in place of as many as were planned.
    pub fn with_context(self, context: Option<usize>) -> Budget {
        Budget { context, ..self }
    }

    /// Reads with this many threads, in place of 4.
    pub fn with_readers(self, readers: Option<usize>) -> Budget {
        Budget { readers, ..self }
    }

    pub(super) fn readers(&self) -> Result<usize> {
        match self.readers {
            None => Ok(READERS),
            Some(n) if (1..=MOST_READERS).contains(&n) => Ok(n),
            Some(n) => Err(Error::Argument(format!("{n} threads that read, expected 1 to {MOST_READERS}"))),
        }
    }

    /// Positions that are counted with.
    pub(super) fn context(&self, plan: &Plan) -> Result<usize> {
        let planned = plan.context as usize;
        match self.context {
            None => Ok(planned),
            Some(n) if (1..=planned).contains(&n) => Ok(n),
            Some(n) => Err(Error::Argument(format!("context is {n}, expected 1 to {planned}"))),
        }
    }

    /// The memory of a run within this budget: all of it, or as much as all experts take.
    pub(super) fn share(&self, paging: &Paging, memory: &Memory) -> Result<PagedMemory> {
        let least = paging.least(memory);
        let spare = match self.size {
            Size::Ram(bytes) => bytes.checked_sub(least.total),
            Size::Cache(bytes) => bytes.checked_sub(least.cache),
        };
        let Some(spare) = spare else { return Err(too_small(&least, self.size)) };
        let classes = slots(paging, least.cache.saturating_add(spare));
        Ok(paging.with_cache(memory, classes.iter().map(|class| class.slots as u64 * class.slot()).sum()))
    }
}

/// The least memory of a run.
pub(crate) fn least(graph: &Graph, plan: &Plan, context: Option<usize>, text: u64) -> Result<PagedMemory> {
    let context = Budget::cache(0).with_context(context).context(plan)?;
    Ok(Paging::of(graph, plan).least(&memory(graph, plan, context, text)?))
}

/// What a run takes beside its experts. `text` is what the tokenizer will take.
pub(crate) fn memory(graph: &Graph, plan: &Plan, context: usize, text: u64) -> Result<Memory> {
    let no_number = || Error::Argument(format!("a context of {context} positions overflows"));
    let states = u32::try_from(context).ok().and_then(|context| memory::state_bytes(graph, context));
    let states = states.ok_or_else(no_number)?;
    // The program may be larger than the planner could know. What else is planned comes on top of it.
    let held = machine::rss().unwrap_or(0).saturating_add(LATER).next_multiple_of(1 << 20);
    let planned = plan.memory.overhead.max(text.saturating_add(PROGRAM));
    let overhead = planned.saturating_add(held.saturating_sub(PROGRAM));
    Ok(Memory { states, overhead, ..plan.memory })
}

fn too_small(least: &PagedMemory, size: Size) -> Error {
    let approx = |bytes: u64| ByteSize(bytes).approx();
    let PagedMemory { hot, cache, states, arena, overhead, total } = *least;
    Error::Argument(match size {
        Size::Ram(bytes) => format!(
            "a budget of {} is too small, expected at least {} ({total} bytes): weights other than experts {}, the \
             experts of one token in one layer {}, states {}, arena {}, program {}",
            approx(bytes),
            approx(total),
            approx(hot),
            approx(cache),
            approx(states),
            approx(arena),
            approx(overhead),
        ),
        Size::Cache(bytes) => format!(
            "a cache of {} is too small, expected at least {} ({cache} bytes), the experts of one token in one layer",
            approx(bytes),
            approx(cache)
        ),
    })
}

/// Slots of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class {
    pub(super) pages: [u64; 3],
    pub(super) slots: usize,
    /// Experts of this size.
    experts: u64,
    /// Least number of slots.
    least: u64,
}

impl Class {
    fn slot(&self) -> u64 {
        self.pages.iter().sum()
    }
}

/// As many slots as fit into `bytes`. Each size gets its least number and then an equal share of its experts.
pub(super) fn slots(paging: &Paging, bytes: u64) -> Vec<Class> {
    let class = |kind: &Layer| {
        let alike = paging.layers.iter().filter(|layer| layer.pages == kind.pages);
        let experts = alike.map(|layer| u64::from(layer.count)).sum();
        Class { pages: kind.pages, slots: 0, experts, least: u64::from(kind.top_k) }
    };
    let mut classes: Vec<Class> = paging.kinds().into_iter().map(class).collect();
    let all: u128 = classes.iter().map(|c| u128::from(c.experts) * u128::from(c.slot())).sum();
    let least: u64 = classes.iter().map(|c| c.least * c.slot()).sum();
    // What the least numbers take is spread too, so that sizes of which one token needs many get no more than others.
    let mut left = bytes.saturating_sub(least);
    for class in &mut classes {
        let share = (u128::from(bytes) * u128::from(class.experts) / all.max(1)) as u64;
        let more = share.saturating_sub(class.least).min(left / class.slot().max(1));
        class.slots = (class.least + more).min(class.experts) as usize;
        left = left.saturating_sub((class.slots as u64 - class.least.min(class.slots as u64)) * class.slot());
    }
    for class in &mut classes {
        let more = (left / class.slot().max(1)).min(class.experts - class.slots as u64);
        class.slots += more as usize;
        left -= more * class.slot();
    }
    classes
}
