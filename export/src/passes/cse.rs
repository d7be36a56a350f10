//! Computes equal things once.
//!
//! ```text
//! positions ─ reshape ─ a        positions ─ reshape ─┬─ a
//! positions ─ reshape ─ b                             └─ b
//! ```
//!
//! Does not fire when both results leave the graph: no value may leave twice. Right because operations have no
//! effect but their results, which depend on nothing but attributes and arguments.

use std::collections::BTreeMap;

use lfm_graphs::graph::Value;
use lfm_graphs::{BuildError, Graph, Step, rewrite};

use super::pattern::View;
use super::{Outcome, Pass};

/// See the file.
#[derive(Debug)]
pub struct Cse;

impl Pass for Cse {
    fn name(&self) -> &'static str {
        "cse"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        let view = View::new(graph);
        let mut seen = BTreeMap::<(String, Vec<Value>), (Vec<Value>, bool)>::new();
        let mut fired = 0;
        let new = rewrite::<BuildError>(graph, |new, id| {
            let node = &graph.nodes()[id];
            let outs = || (0..node.out.len()).map(|out| Value::Node(id, out as u8));
            let leaves = outs().any(|out| view.leaves(out));
            let args: Vec<Value> = node.args.iter().map(|arg| new.map(*arg)).collect();
            let key = (format!("{:?}", node.op), args);
            if let Some((values, first_leaves)) = seen.get(&key)
                && !(leaves && *first_leaves)
            {
                fired += 1;
                let values = values.clone();
                if leaves {
                    seen.insert(key, (values.clone(), true));
                }
                return Ok(Step::Replace(values));
            }
            let kept = new.push(&node.name, node.op.clone(), &key.1)?;
            let values: Vec<Value> = (0..node.out.len()).map(|out| Value::Node(kept, out as u8)).collect();
            seen.insert(key, (values.clone(), leaves));
            Ok(Step::Replace(values))
        })?;
        Ok(Outcome { graph: new, fired, misses: Vec::new() })
    }
}
