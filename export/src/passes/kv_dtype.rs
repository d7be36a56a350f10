//! Keeps the keys and values of attention in another element type.
//!
//! ```text
//! @l2.attn.k f32[8, past, 64]          @l2.attn.k f16[8, past, 64]
//! ```
//!
//! Does not fire on states that no `Attention` reads: windows of convolutions are small and stay in `f32`.
//! Not an identity: keys and values are rounded when they are appended, as `Attention` says, and read as what they
//! were rounded to.

use lfm_graphs::graph::Value;
use lfm_graphs::{BuildError, DType, Graph, Op, Step, TensorType, rewrite_with};

use super::{Outcome, Pass};

/// See the file. Holds the new element type.
#[derive(Debug)]
pub struct KvDtype(pub DType);

impl Pass for KvDtype {
    fn name(&self) -> &'static str {
        "kv-dtype"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        let attentions = graph.nodes().values().filter(|node| matches!(node.op, Op::Attention { .. }));
        let states: Vec<Value> = attentions
            .flat_map(|node| node.args.iter().skip(3).copied())
            .filter(|state| graph.ty(*state).is_some_and(|ty| ty.dtype != self.0))
            .collect();
        let new = rewrite_with::<BuildError>(
            graph,
            |new| {
                for state in &states {
                    let Value::State(id) = *state else { continue };
                    let old = &graph.states()[id];
                    let ty = TensorType { dtype: self.0, shape: old.ty.shape.clone() };
                    new.retype_state(*state, ty, old.update);
                }
                Ok(())
            },
            |_, _| Ok(Step::Keep),
            |_| Ok(()),
        )?;
        Ok(Outcome { graph: new, fired: states.len() as u32, misses: Vec::new() })
    }
}
