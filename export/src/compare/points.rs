//! Which value of the burn model a node of the graph computes.

use lfm_graphs::graph::Node;
use lfm_graphs::{Graph, Op};
use lfm_model::{Config, Part, Point};

/// The value that result `result` of a node is, by the node's name. A node that adds the residual stream gives what
/// the stream is after it.
pub(super) fn point(graph: &Graph, config: &Config, node: &Node, result: usize) -> Option<Point> {
    let whole = |part| Some(Point { layer: None, part });
    if let Some((layer, name)) = layer(&node.name) {
        let part = part(name, adds_residual(&node.op))?;
        return (result == 0 && layer < config.layers()).then_some(Point { layer: Some(layer), part });
    }
    match (node.name.as_str(), result) {
        ("embed", 0) => whole(Part::Embed),
        ("rope", 0) => whole(Part::RopeCos),
        ("rope", 1) => whole(Part::RopeSin),
        ("last", 0) => Some(Point { layer: Some(config.layers().checked_sub(1)?), part: Part::Out }),
        ("embedding_norm", 0) => whole(Part::FinalNorm),
        ("head", 0) if graph.outputs().len() == 1 => whole(Part::Logits),
        _ => None,
    }
}

/// Layer and role of `l12.attn.q`.
fn layer(name: &str) -> Option<(usize, &str)> {
    let (layer, role) = name.strip_prefix('l')?.split_once('.')?;
    Some((layer.parse().ok()?, role))
}

fn adds_residual(op: &Op) -> bool {
    match op {
        Op::Moe { residual, .. } => *residual,
        op => matches!(op, Op::LinearAdd),
    }
}

fn part(role: &str, residual: bool) -> Option<Part> {
    Some(match role {
        "operator_norm" => Part::OperatorNorm,
        "conv.in" => Part::ConvIn,
        "conv.gate" => Part::ConvGate,
        "attn.q" => Part::Query,
        "attn.k" => Part::Key,
        "attn.v" => Part::Values,
        "attn.q_norm" => Part::QueryNorm,
        "attn.k_norm" => Part::KeyNorm,
        "attn.q_rope" => Part::QueryRope,
        "attn.k_rope" => Part::KeyRope,
        "attn.attend" => Part::Attend,
        "conv.out" | "attn.out" if residual => Part::Middle,
        "conv.out" | "attn.out" => Part::Operator,
        "ffn_norm" => Part::FfnNorm,
        "ffn.swiglu" => Part::FfnInner,
        "ffn.w2" | "ffn.moe" if residual => Part::Out,
        "ffn.w2" | "ffn.moe" => Part::Ffn,
        _ => return None,
    })
}
