//! Names: of weights from the paths of parameters, of nodes from what they read.
//!
//! A name is `scope.role`, with an ordinal where it is taken. The scope of a node is the longest common prefix of
//! the modules whose parameters it reads; a node that reads none stands in the scope of the latest node it reads,
//! or of the state. Numbers of burn never appear, so that a name survives changes elsewhere in the graph.

use lfm_graphs::Op;

/// The name of a parameter in the graph: `layers.0.feed_forward.w1.weight` → `l0.ffn.w1`.
pub fn weight_name(path: &str) -> String {
    let parts = abbreviate(path);
    match parts.as_slice() {
        [scope @ .., last] if last == "weight" && !scope.is_empty() => scope.join("."),
        parts => parts.join("."),
    }
}

/// The module that a parameter belongs to, in graph names: `layers.0.feed_forward.w1.weight` → `l0.ffn.w1`.
pub fn module_scope(path: &str) -> String {
    let mut parts = abbreviate(path);
    parts.pop();
    parts.join(".")
}

/// The longest common prefix of two scopes, by parts.
pub fn common_scope(a: &str, b: &str) -> String {
    let same = a.split('.').zip(b.split('.')).take_while(|(a, b)| a == b);
    same.map(|(a, _)| a).collect::<Vec<_>>().join(".")
}

/// `scope.role`, or the role alone in no scope.
pub fn join(scope: &str, role: &str) -> String {
    if scope.is_empty() { role.to_owned() } else { format!("{scope}.{role}") }
}

/// The scope of a scope or name: everything but its last part.
pub fn parent(scope: &str) -> &str {
    scope.rsplit_once('.').map_or("", |(parent, _)| parent)
}

/// The role of an operation: its name in snake case.
pub fn role(op: &Op) -> String {
    if matches!(op, Op::MatMul) {
        return "matmul".to_owned();
    }
    let mut role = String::new();
    for c in op.name().0.chars() {
        if c.is_ascii_uppercase() && !role.is_empty() {
            role.push('_');
        }
        role.push(c.to_ascii_lowercase());
    }
    role
}

/// Parts of a path with the usual abbreviations.
fn abbreviate(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in path.split('.') {
        let number = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match parts.last_mut() {
            Some(last) if number && last == "layers" => *last = format!("l{part}"),
            _ => parts.push(match part {
                "feed_forward" => "ffn".to_owned(),
                "self_attn" => "attn".to_owned(),
                part => part.to_owned(),
            }),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_keep_the_path() {
        assert_eq!(weight_name("layers.0.conv.in_proj.weight"), "l0.conv.in_proj");
        assert_eq!(weight_name("layers.0.conv.in_proj.bias"), "l0.conv.in_proj.bias");
        assert_eq!(weight_name("layers.12.feed_forward.experts.gate"), "l12.ffn.experts.gate");
        assert_eq!(weight_name("embed_tokens.weight"), "embed_tokens");
        assert_eq!(weight_name("weight"), "weight");
        assert_eq!(module_scope("layers.12.feed_forward.expert_bias"), "l12.ffn");
        assert_eq!(common_scope("l0.ffn.w1", "l0.ffn.w3"), "l0.ffn");
        assert_eq!(common_scope("l0.ffn", "l1.ffn"), "");
        assert_eq!(role(&Op::MulScalar { by: 2.0 }), "mul_scalar");
    }
}
