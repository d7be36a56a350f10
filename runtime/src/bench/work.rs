//! What one token costs: weights that are read, multiply-adds of matrix products. Both follow from graph and plan.

use std::ops::AddAssign;

use lfm_graphs::graph::{Node, Value};
use lfm_graphs::id::Id;
use lfm_graphs::plan::{Plan, WeightKind, WeightSlot};
use lfm_graphs::{Graph, Op};

/// The cost of one token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes of weights that are read for this token alone: all but the rows of tables and the experts that it does not
    /// choose.
    pub weight_bytes: u64,
    /// Multiply-adds of products with quantised matrices.
    pub int8_macs: u64,
    /// Multiply-adds of products with matrices of floats.
    pub float_macs: u64,
}

impl Work {
    /// Of one node. Convolution and attention are no products with matrices of weights, and count as none.
    pub fn of(node: &Node, plan: &Plan) -> Work {
        let mut work = Work::default();
        for arg in &node.args {
            let Value::Weight(id) = arg else { continue };
            let Some(slot) = plan.weights.get(id.index()) else { continue };
            let rows = u64::from(slot.rows.max(1));
            let (bytes, products) = match node.op {
                Op::Select => (slot.stride / rows, 0),
                Op::Moe { top_k, .. } if slot.count > 1 => {
                    (slot.stride.saturating_mul(top_k.into()), products(slot).saturating_mul(top_k.into()))
                }
                Op::Linear | Op::LinearAdd | Op::SwiGlu | Op::Moe { .. } => (slot.bytes, products(slot)),
                _ => (slot.bytes, 0),
            };
            let products = if slot.format.is_quantised() { (products, 0) } else { (0, products) };
            work += Work { weight_bytes: bytes, int8_macs: products.0, float_macs: products.1 };
        }
        work
    }

    /// Of all nodes: those that every token passes, and those that only the last one of a prompt does.
    pub fn of_graph(graph: &Graph, plan: &Plan) -> (Work, Work) {
        let tail_nodes = graph.tail();
        let (mut body, mut tail) = (Work::default(), Work::default());
        for (id, node) in graph.nodes().iter() {
            let part = if tail_nodes.contains(&id) { &mut tail } else { &mut body };
            *part += Work::of(node, plan);
        }
        (body, tail)
    }
}

/// Multiply-adds of one matrix with one token.
fn products(slot: &WeightSlot) -> u64 {
    match slot.kind {
        WeightKind::Matrix => u64::from(slot.rows) * u64::from(slot.k),
        WeightKind::Vector => 0,
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.weight_bytes = self.weight_bytes.saturating_add(other.weight_bytes);
        self.int8_macs = self.int8_macs.saturating_add(other.int8_macs);
        self.float_macs = self.float_macs.saturating_add(other.float_macs);
    }
}

#[cfg(test)]
mod tests {
    use lfm_graphs::plan::{Limits, plan};
    use lfm_graphs::testing::{Tiny, tiny_graph};
    use lfm_graphs::weights::Format;

    use super::*;

    #[test]
    fn a_tiny_moe() {
        let tiny = Tiny::moe();
        // As in a recipe: matrices quantised, but for routers and convolution kernels.
        let graph = tiny_graph(&tiny).with_storage(|graph, id| {
            let weight = &graph.weights()[id];
            let float = weight.ty.rank() < 2
                || weight.name.ends_with("ffn.gate")
                || weight.name.ends_with("conv.conv");
            if float { Format::F32 } else { Format::Q4_0 }
        });
        let plan = plan(&graph, Limits { chunk: 8, context: 16, overhead: 0, ram: None }).unwrap();
        let (body, tail) = Work::of_graph(&graph, &plan);
        let sizes = |name: &str| {
            let slot = plan.weights.iter().find(|slot| slot.name == name).unwrap();
            (u64::from(slot.rows) * u64::from(slot.k), slot.stride)
        };
        // Only the head has the vocabulary's products.
        assert_eq!((tail.int8_macs, tail.float_macs), (sizes("embed_tokens").0, 0));
        let (mut int8, mut float) = (0, 0);
        for node in graph.nodes().values() {
            let Op::Moe { top_k, .. } = node.op else { continue };
            let top = u64::from(top_k);
            let layer = node.name.strip_suffix(".moe").unwrap();
            let work = Work::of(node, &plan);
            let experts: Vec<_> = plan
                .weights
                .iter()
                .filter(|slot| slot.name.starts_with(layer) && slot.count > 1)
                .map(|slot| sizes(&slot.name))
                .collect();
            assert_eq!(experts.len(), 3);
            assert_eq!(work.int8_macs, top * experts.iter().map(|sizes| sizes.0).sum::<u64>());
            assert_eq!(work.float_macs, sizes(&format!("{layer}.gate")).0);
            assert!(work.weight_bytes > top * experts.iter().map(|sizes| sizes.1).sum::<u64>());
            (int8, float) = (int8 + work.int8_macs, float + work.float_macs);
        }
        assert!(float > 0 && body.float_macs == float);
        assert!(body.int8_macs > int8);
        assert!(body.weight_bytes + tail.weight_bytes < plan.memory.weights);
    }
}
