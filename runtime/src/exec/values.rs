//! Values of nodes, copied out of the arena behind each step, for comparison with another implementation.

use super::program::{Rows, Step};

/// What a node has given for some tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeRows {
    /// Name of the node.
    pub node: String,
    /// Which of its results; all but a rotary table have one that is not a state.
    pub result: usize,
    /// Position of the first row in the context.
    pub position: usize,
    /// Elements of a row.
    pub width: usize,
    /// The rows.
    pub values: Vec<f32>,
}

/// What was kept so far.
#[derive(Debug, Default)]
pub(crate) struct Values {
    /// Position of the first token of the last chunk.
    pub(crate) past: usize,
    pub(crate) kept: Vec<NodeRows>,
}

impl Values {
    /// Keeps what `step` has left in the arena for `rows` rows, the first of them being row `first` of the chunk.
    /// `read` gives the floats of rows.
    pub(crate) fn keep<E>(
        &mut self,
        step: &Step,
        first: usize,
        mut read: impl FnMut(Rows) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        for (result, rows) in step.kind.rows().1.into_iter().enumerate() {
            let (node, position) = (step.name.clone(), self.past + first);
            self.kept.push(NodeRows { node, result, position, width: rows.width, values: read(rows)? });
        }
        Ok(())
    }
}
