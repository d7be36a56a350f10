//! From a value to its bytes: what an executor looks up once, before it runs.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Plan;
use super::make::PlanError;
use super::needs::{Holds, Needs};
use crate::Graph;
use crate::graph::Value;
use crate::id::NodeId;

/// A byte range in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// First byte, a multiple of 64.
    pub offset: usize,
    /// How many, a multiple of 64.
    pub bytes: usize,
}

impl Place {
    /// The bytes as a range.
    pub fn range(self) -> Range<usize> {
        self.offset..self.offset + self.bytes
    }
}

/// The places of a plan, by what they hold.
#[derive(Clone, Debug, Default)]
pub struct Places {
    buffers: BTreeMap<Holds, Place>,
    aliases: BTreeMap<Value, Value>,
}

impl Places {
    /// The places of a graph's values in its plan, which must have passed [`verify_plan`](super::verify_plan).
    pub fn new(graph: &Graph, plan: &Plan) -> Result<Places, PlanError> {
        let needs = Needs::of(graph, plan.chunk, plan.head_rows)?;
        if needs.buffers.len() != plan.buffers.len() {
            let what = format!("it has {} buffers, expected {}", plan.buffers.len(), needs.buffers.len());
            return Err(PlanError::Mismatch { what });
        }
        let mut buffers = BTreeMap::new();
        for (need, buffer) in needs.buffers.iter().zip(&plan.buffers) {
            let ends = buffer.offset.checked_add(buffer.bytes).map(usize::try_from);
            let (Some(Ok(_)), Ok(offset), Ok(bytes)) =
                (ends, usize::try_from(buffer.offset), usize::try_from(buffer.bytes))
            else {
                return Err(PlanError::Overflow { what: format!("the bytes of {}", need.holds.name(graph)) });
            };
            buffers.insert(need.holds, Place { offset, bytes });
        }
        Ok(Places { buffers, aliases: needs.aliases })
    }

    /// The f32 of a node's result, of a `Reshape` those of its argument. None for next contents of states.
    pub fn rows(&self, value: Value) -> Option<Place> {
        let root = *self.aliases.get(&value).unwrap_or(&value);
        self.buffers.get(&Holds::Rows(root)).copied()
    }

    /// The int8 form of a value that a quantised matrix reads. A `Reshape` that is read has its own.
    pub fn panels(&self, value: Value) -> Option<Place> {
        self.buffers.get(&Holds::Panels(value)).copied()
    }

    /// The scratch of a node that needs some.
    pub fn scratch(&self, node: NodeId) -> Option<Place> {
        self.buffers.get(&Holds::Scratch(node)).copied()
    }
}
