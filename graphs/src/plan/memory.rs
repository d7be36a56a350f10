//! What a model takes when its experts are read from the file as they are needed, and all other weights stay in memory.
//!
//! The three matrices of one expert (gate, up, down) are read and kept together, in a *slot*. All weights that are no
//! experts are *hot*. Both are read in whole pages, which is counted here.
//!
//! | part | bytes |
//! |---|---|
//! | hot | pages that hold a hot weight |
//! | cache | slots; at least as many as one token chooses in one layer |
//! | states, arena, overhead | as planned |
//! | paging | threads that read, and the table of slots ([`OVERHEAD`]) |

use std::ops::Range;

use super::make::place_states;
use super::{Memory, Plan};
use crate::graph::{Graph, Value};
use crate::id::{Id, NodeId};
use crate::op::Op;

/// What is read is read in whole pages of this many bytes, from multiples of it.
pub const PAGE: u64 = 4096;

/// Memory of paging itself: threads that read, and its tables.
pub const OVERHEAD: u64 = 1 << 20;

/// The weights of a graph, by how they are kept when experts are paged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paging {
    /// Bytes of all weights that are no experts, without what is between them.
    pub hot: u64,
    /// Bytes of all experts.
    pub experts: u64,
    /// Where hot weights lie: whole pages of the weights region, ascending, apart from each other. The last page may
    /// end behind the region.
    pub hot_pages: Vec<Range<u64>>,
    /// The layers with experts, in the order in which they run.
    pub layers: Vec<Layer>,
}

/// The experts of one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// The node.
    pub node: NodeId,
    /// Indices of gate, up and down among [`Plan::weights`].
    pub matrices: [usize; 3],
    /// How many experts there are.
    pub count: u32,
    /// How many of them a token chooses.
    pub top_k: u32,
    /// Bytes of the three matrices of one expert.
    pub expert: u64,
    /// Bytes of the pages that hold one matrix of an expert, at most: gate, up and down.
    pub pages: [u64; 3],
}

impl Layer {
    /// Bytes of a slot for an expert of this layer.
    pub fn slot(&self) -> u64 {
        self.pages.iter().fold(0, |sum, pages| sum.saturating_add(*pages))
    }
}

/// Memory of a run with paged experts, by parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagedMemory {
    /// Weights that stay in memory.
    pub hot: u64,
    /// Slots of experts.
    pub cache: u64,
    /// The states.
    pub states: u64,
    /// The arena.
    pub arena: u64,
    /// Everything else: program, tokenizer, threads, and paging itself.
    pub overhead: u64,
    /// The sum.
    pub total: u64,
}

impl Paging {
    /// The weights of an executable graph and its verified plan. Stacks that more than one node reads are hot.
    pub fn of(graph: &Graph, plan: &Plan) -> Paging {
        let mut readers = vec![0u32; plan.weights.len()];
        for arg in graph.nodes().values().flat_map(|node| &node.args) {
            if let Value::Weight(id) = arg
                && let Some(readers) = readers.get_mut(id.index())
            {
                *readers += 1;
            }
        }
        let layers = graph.nodes().iter().filter_map(|(id, node)| {
            let Op::Moe { top_k, bias, .. } = node.op else { return None };
            let first = 2 + usize::from(bias);
            layer(plan, &readers, id, node.args.get(first..first + 3)?, top_k)
        });
        let layers: Vec<Layer> = layers.collect();
        let mut paged = vec![false; plan.weights.len()];
        for index in layers.iter().flat_map(|layer| layer.matrices) {
            if let Some(paged) = paged.get_mut(index) {
                *paged = true;
            }
        }
        let (mut hot, mut experts) = (0u64, 0u64);
        let mut hot_pages: Vec<Range<u64>> = Vec::new();
        for (slot, paged) in plan.weights.iter().zip(paged) {
            if paged {
                experts = experts.saturating_add(slot.bytes);
                continue;
            }
            hot = hot.saturating_add(slot.bytes);
            let start = slot.offset / PAGE * PAGE;
            let end = pages_of(slot.offset.saturating_add(slot.bytes));
            match hot_pages.last_mut() {
                Some(last) if start <= last.end => last.end = last.end.max(end),
                Some(_) | None => hot_pages.push(start..end),
            }
        }
        Paging { hot, experts, hot_pages, layers }
    }

    /// Bytes of the pages of hot weights.
    pub fn hot_bytes(&self) -> u64 {
        self.hot_pages.iter().fold(0, |sum, pages| sum.saturating_add(pages.end - pages.start))
    }

    /// Layers with slots of each kind, in the order in which kinds appear: the one with the largest top-k stands for all
    /// of its kind.
    pub fn kinds(&self) -> Vec<&Layer> {
        let mut kinds: Vec<&Layer> = Vec::new();
        for layer in &self.layers {
            match kinds.iter_mut().find(|kind| kind.pages == layer.pages) {
                Some(kind) if kind.top_k >= layer.top_k => {}
                Some(kind) => *kind = layer,
                None => kinds.push(layer),
            }
        }
        kinds
    }

    /// The least memory with which a plan can run: with it, every layer of a token reads its experts again.
    pub fn least(&self, memory: &Memory) -> PagedMemory {
        let cache = self
            .kinds()
            .iter()
            .fold(0u64, |sum, layer| sum.saturating_add(layer.slot().saturating_mul(u64::from(layer.top_k))));
        self.with_cache(memory, cache)
    }

    /// The memory with a cache of this many bytes.
    pub fn with_cache(&self, memory: &Memory, cache: u64) -> PagedMemory {
        let (hot, states, arena) = (self.hot_bytes(), memory.states, memory.arena);
        let overhead = memory.overhead.saturating_add(OVERHEAD);
        let total = [hot, cache, states, arena, overhead].into_iter().fold(0u64, u64::saturating_add);
        PagedMemory { hot, cache, states, arena, overhead, total }
    }
}

/// Bytes of the states of a graph with room for `context` positions, unless there is no such number.
pub fn state_bytes(graph: &Graph, context: u32) -> Option<u64> {
    place_states(graph, context).map(|(_, bytes)| bytes).ok()
}

/// The experts of a node, unless it shares them with another.
fn layer(plan: &Plan, readers: &[u32], node: NodeId, stacks: &[Value], top_k: u32) -> Option<Layer> {
    let mut matrices = [0; 3];
    let mut pages = [0; 3];
    let (mut expert, mut count) = (0u64, u32::MAX);
    for ((stack, index), pages) in stacks.iter().zip(&mut matrices).zip(&mut pages) {
        let Value::Weight(id) = stack else { return None };
        *index = id.index();
        let slot = plan.weights.get(*index)?;
        if readers.get(*index) != Some(&1) {
            return None;
        }
        // From a multiple of 64 that is none of a page, a matrix may reach into one page more than it fills.
        let aligned = slot.offset.is_multiple_of(PAGE) && slot.stride.is_multiple_of(PAGE);
        *pages = pages_of(slot.stride).saturating_add(if aligned { 0 } else { PAGE });
        expert = expert.saturating_add(slot.stride);
        count = count.min(slot.count);
    }
    Some(Layer { node, matrices, count, top_k: top_k.min(count), expert, pages })
}

/// Bytes rounded up to whole pages.
fn pages_of(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
}
