//! The memory plan: where every weight, state and buffer of a graph lies, decided before anything runs.
//!
//! Memory is three regions, and every offset counts from the start of its region, which is 64-byte aligned:
//!
//! ```text
//! weights   packed, in the graph's order, as in the bundle; read only
//! states    what is carried from call to call: keys, values, convolution windows
//! arena     results of nodes, their quantised forms and scratch; buffers whose lives do not meet share bytes
//! ```
//!
//! A step is a node, numbered as in the graph. A buffer lives from the step that writes it to the last that reads
//! it, both included, and no two buffers that live at the same step overlap: nothing is computed in place. What
//! `LastRow` reads lives to the end, because the steps after it may run more than once, for different rows.
//!
//! | buffer | holds | lives |
//! |---|---|---|
//! | [`Rows`](BufferKind::Rows) | a result of a node, row-major f32 `[rows, ..]` | from its node to its last reader, through any `Reshape` |
//! | [`Panels`](BufferKind::Panels) | the same value in int8, for quantised matrices ([`panel_words`]) | from the first such reader to the last |
//! | [`Scratch`](BufferKind::Scratch) | what a node needs inside ([`MoeScratch`]) | during its node |
//!
//! `Reshape` has no buffer: its result is its argument's. Next contents of states have none either: they are
//! written into the states. Rows are `chunk` tokens, after `LastRow` [`head_rows`](Plan::head_rows) of them.
//!
//! A run whose experts do not all fit into memory keeps the same plan but for the weights: see [`memory`].
//!
//! [`plan()`] makes a plan, [`verify_plan`] proves one by recomputing from the graph what it must say, and
//! [`Places`] finds the bytes of a value in it.

mod arena;
mod checkpoints;
mod make;
pub mod memory;
mod needs;
mod places;
mod scratch;
mod text;
mod verify;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::weights::Format;

pub use checkpoints::Checkpoints;
pub use make::{Fit, Limits, PlanError, plan};
pub use places::{Place, Places};
pub use scratch::{MoeScratch, panel_words};
pub use text::{FORMAT, MAX_TEXT, PlanTextError};
pub use verify::{MAX_FAULTS, PlanFault, PlanRule, verify_plan};

/// Alignment of every offset, in bytes.
pub const ALIGN: u64 = 64;
/// Most tokens of a call.
pub const MAX_CHUNK: u32 = 1 << 10;
/// Most positions of a context.
pub const MAX_CONTEXT: u32 = 1 << 20;
/// Most rows that are evaluated together after `LastRow`.
pub const MAX_HEAD_ROWS: u32 = 16;

/// Where everything lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Most tokens of a call.
    pub chunk: u32,
    /// Most positions that states have room for.
    pub context: u32,
    /// Most rows that are evaluated together after `LastRow`.
    pub head_rows: u32,
    /// The sums.
    pub memory: Memory,
    /// The weights of the graph, in its order.
    pub weights: Vec<WeightSlot>,
    /// The states of the graph, in its order.
    pub states: Vec<StateSlot>,
    /// The buffers in the arena, by node: results in order, their panels in order, scratch.
    pub buffers: Vec<Buffer>,
}

/// Bytes of each region, and their sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The weights.
    pub weights: u64,
    /// The states.
    pub states: u64,
    /// The arena.
    pub arena: u64,
    /// Most bytes of buffers alive at one step: no arena can be smaller.
    pub live: u64,
    /// Everything else: [`Checkpoints`], and an estimate of program, tokenizer and threads.
    pub overhead: u64,
    /// `weights + states + arena + overhead`.
    pub total: u64,
    /// Of the overhead, what tokenizer and template take: nothing where they are not opened.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub text: u64,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// How a weight is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WeightKind {
    /// Plain f32, `k` of them.
    Vector,
    /// Packed matrices ([`layout`](crate::weights::layout)), one or a stack.
    Matrix,
}

/// A weight in the weights region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightSlot {
    /// Name in the graph.
    pub name: String,
    /// How it is laid out.
    pub kind: WeightKind,
    /// How its elements are stored.
    pub format: Format,
    /// Matrices in the stack; 1 if there is no stack.
    pub count: u32,
    /// Rows of a matrix; 1 for a vector.
    pub rows: u32,
    /// Columns of a matrix, or elements of a vector.
    pub k: u32,
    /// Bytes from one matrix of the stack to the next.
    pub stride: u64,
    /// First byte in the region, a multiple of 64.
    pub offset: u64,
    /// `count * stride`. Zeros follow up to a multiple of 64.
    pub bytes: u64,
}

/// A state in the states region.
///
/// Keys and values are `[kv][context][d]`, a window `[taps - 1][h]`, oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSlot {
    /// Name in the graph.
    pub name: String,
    /// First byte in the region, a multiple of 64.
    pub offset: u64,
    /// Its bytes, not rounded.
    pub bytes: u64,
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum BufferKind {
    /// A result of a node: row-major f32.
    Rows,
    /// A result of a node quantised to int8.
    Panels,
    /// Private to a node.
    Scratch,
}

/// A buffer in the arena.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Buffer {
    /// The value that it holds, as in the graph's text, or for scratch the node.
    pub name: String,
    /// What it holds.
    pub kind: BufferKind,
    /// First step at which it lives.
    pub first: u32,
    /// Last step at which it lives.
    pub last: u32,
    /// First byte in the arena, a multiple of 64.
    pub offset: u64,
    /// Its bytes, a multiple of 64.
    pub bytes: u64,
}

/// `bytes` rounded up to a multiple of [`ALIGN`], unless it overflows.
pub(crate) fn align(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(ALIGN)
}
