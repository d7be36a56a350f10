//! What each weight of a graph is used for, which decides how it is stored.

use lfm_graphs::graph::Value;
use lfm_graphs::id::{Id, WeightId};
use lfm_graphs::{Graph, Op};

use crate::quantize::recipe::WeightRole;

/// The role of every weight, in the graph's order.
///
/// A table that is looked up and a matrix that makes the logits are both `Embedding`, tied or not: errors there
/// reach the output directly.
pub fn roles(graph: &Graph) -> Vec<WeightRole> {
    let mut roles = vec![None; graph.weights().len()];
    let mut set = |value: &Value, role: WeightRole| {
        if let Value::Weight(id) = value {
            let slot: &mut Option<WeightRole> = &mut roles[WeightId::index(*id)];
            if *slot != Some(WeightRole::Embedding) {
                *slot = Some(role);
            }
        }
    };
    for (id, node) in graph.nodes().iter() {
        let is_logits = graph.outputs().contains(&Value::Node(id, 0));
        let args = &node.args;
        match &node.op {
            Op::Select => set(&args[0], WeightRole::Embedding),
            Op::Linear if is_logits => set(&args[1], WeightRole::Embedding),
            Op::Linear | Op::LinearAdd => set(&args[1], WeightRole::Matrix),
            Op::SwiGlu => args[1..].iter().for_each(|arg| set(arg, WeightRole::Matrix)),
            Op::ConvGate { .. } => set(&args[1], WeightRole::ConvKernel),
            Op::Moe { bias, .. } => {
                set(&args[1], WeightRole::Router);
                let experts = 2 + *bias as usize;
                args[experts..experts + 3].iter().for_each(|arg| set(arg, WeightRole::Expert));
            }
            // Other operations read vectors, if they read weights at all.
            _ => {}
        }
    }
    roles.into_iter().map(|role| role.unwrap_or(WeightRole::Vector)).collect()
}
