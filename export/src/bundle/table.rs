//! The stated memory of a bundle, part by part.

use lfm_graphs::Graph;
use lfm_graphs::graph::Update;
use lfm_graphs::plan::memory::Paging;
use lfm_graphs::plan::{Checkpoints, Plan};
use lfm_graphs::target::Target;

/// What a running bundle takes, in bytes. Where all weights do not fit into the budget, experts are paged, and the cache of
/// experts takes what the budget leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryTable {
    /// All weights, as in the file.
    pub weights: u64,
    /// Weights in memory: all, or with paged experts the hot ones and the cache.
    pub resident: u64,
    /// Weights that are read when they are needed.
    pub paged: u64,
    /// Keys and values.
    pub kv: u64,
    /// Windows of convolutions.
    pub conv: u64,
    /// What is kept to go back in a conversation.
    pub checkpoints: u64,
    /// Results of nodes and scratch.
    pub arena: u64,
    /// Program, stacks, mapped text.
    pub program: u64,
    /// Tokenizer and template.
    pub text: u64,
    /// The sum of `resident` to `text` (without `paged`).
    pub total: u64,
    /// What there is.
    pub budget: Option<u64>,
    /// The least budget with experts paged, where there are experts.
    pub least: Option<u64>,
}

impl MemoryTable {
    /// Of a graph with a plan, on a target.
    pub fn of(graph: &Graph, plan: &Plan, target: &Target) -> MemoryTable {
        let memory = &plan.memory;
        let states = graph.states().values().zip(&plan.states);
        let (mut kv, mut conv) = (0u64, 0u64);
        for (state, slot) in states {
            match state.update {
                Update::Append { .. } => kv += slot.bytes,
                Update::Window => conv += slot.bytes,
            }
        }
        // Rounding between states is the last one's.
        kv += memory.states.saturating_sub(kv + conv);
        let checkpoints = Checkpoints::of(graph, plan.chunk, plan.context).map_or(0, |kept| kept.bytes);
        let budget = target.ram.map(|ram| ram.0);
        let paging = Paging::of(graph, plan);
        let least = (!paging.layers.is_empty()).then(|| paging.least(memory));
        let mut table = MemoryTable {
            weights: memory.weights,
            resident: memory.weights,
            paged: 0,
            kv,
            conv,
            checkpoints,
            arena: memory.arena,
            program: memory.overhead.saturating_sub(memory.text + checkpoints),
            text: memory.text,
            total: memory.total,
            budget,
            least: least.map(|least| least.total),
        };
        if let (Some(budget), Some(least)) = (budget.filter(|budget| memory.total > *budget), least) {
            let cache = budget.saturating_sub(least.total).saturating_add(least.cache);
            let with = paging.with_cache(memory, cache);
            table.resident = with.hot + with.cache;
            table.paged = memory.weights.saturating_sub(table.resident);
            table.program += with.overhead - memory.overhead;
            table.total = with.total;
        }
        table
    }

    /// The parts that the total is the sum of, with their names in JSON and for people.
    pub fn parts(&self) -> [(&'static str, &'static str, u64); 7] {
        [
            ("resident", "weights in memory", self.resident),
            ("kv", "keys and values", self.kv),
            ("conv", "convolutions", self.conv),
            ("checkpoints", "checkpoints", self.checkpoints),
            ("arena", "arena", self.arena),
            ("code", "code and stacks", self.program),
            ("text", "tokenizer", self.text),
        ]
    }
}
