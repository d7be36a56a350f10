//! Leaves out what nothing reads: nodes, weights and constants.
//!
//! ```text
//! x ─ mul ─ y                 x ─ mul ─ y
//!  └─ sigmoid                              %w is no longer declared
//! %w ─ reshape
//! ```
//!
//! Does not fire on inputs and states: they are the graph's interface. Right because an operation has no effect
//! but its results. Every rewrite ends with the same sweep; this pass exists for graphs that come from elsewhere.

use lfm_graphs::{BuildError, Graph, sweep};

use super::{Outcome, Pass};

/// See the file.
#[derive(Debug)]
pub struct Dce;

impl Pass for Dce {
    fn name(&self) -> &'static str {
        "dce"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        let new = sweep(graph);
        let items = |g: &Graph| g.nodes().len() + g.weights().len() + g.consts().len();
        let fired = (items(graph) - items(&new)) as u32;
        Ok(Outcome { graph: new, fired, misses: Vec::new() })
    }
}
