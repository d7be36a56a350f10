//! Checkpoints: what a session keeps beside its states, so that it can go back.
//!
//! Keys and values of a position never change once they are written, so going back needs the convolution windows of that
//! position only. They are kept at every chunk boundary, and where the last few prompts and answers end.

use crate::Graph;
use crate::graph::Update;

/// Most checkpoints at chunk boundaries in a short context; a small chunk is to make memory smaller, not larger.
const BOUNDARIES: u32 = 64;
/// Positions for each checkpoint at a chunk boundary in a long context.
const EVERY: u32 = 512;
/// Checkpoints where prompts and answers end.
const MARKS: u32 = 8;

/// How many checkpoints a session keeps, and what they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoints {
    /// Those at chunk boundaries; where there are more boundaries, every second is kept, or every third, and so on.
    pub boundaries: u32,
    /// All.
    pub count: u32,
    /// Bytes of all, of the tokens taken in, and of the logits after the last prompt.
    pub bytes: u64,
}

impl Checkpoints {
    /// The checkpoints of a graph's sessions. `None` if their size overflows.
    pub fn of(graph: &Graph, chunk: u32, context: u32) -> Option<Checkpoints> {
        let boundaries = context.div_ceil(chunk.max(1)).min(BOUNDARIES.max(context / EVERY));
        let count = boundaries + MARKS;
        let mut windows = 4u64;
        for state in graph.states.values().filter(|state| matches!(state.update, Update::Window)) {
            windows = windows.checked_add(state.ty.bytes(0, 0)?)?;
        }
        let vocab = graph.outputs.first().and_then(|logits| graph.ty(*logits)?.last()).map_or(0, |d| d.base);
        // As states have it: contexts come in groups of 16 positions.
        let tokens = 4 * u64::from(context).next_multiple_of(16);
        let bytes = windows.checked_mul(u64::from(count))?.checked_add(4 * u64::from(vocab) + tokens)?;
        Some(Checkpoints { boundaries, count, bytes })
    }
}
