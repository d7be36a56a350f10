//! The table of tensors matched with the model's: names, shapes and types.

use std::collections::BTreeMap;

use lfm_model::{Config, TensorKind, TensorSpec};

use super::error::{GgufError, first_names};
use super::header::Info;

/// The names of the tensors of a layer, canonical and in the file.
const LAYER: [(&str, &str); 20] = [
    ("operator_norm.weight", "attn_norm.weight"),
    ("ffn_norm.weight", "ffn_norm.weight"),
    ("conv.in_proj.weight", "shortconv.in_proj.weight"),
    ("conv.conv.weight", "shortconv.conv.weight"),
    ("conv.out_proj.weight", "shortconv.out_proj.weight"),
    ("self_attn.q_proj.weight", "attn_q.weight"),
    ("self_attn.k_proj.weight", "attn_k.weight"),
    ("self_attn.v_proj.weight", "attn_v.weight"),
    ("self_attn.out_proj.weight", "attn_output.weight"),
    ("self_attn.q_layernorm.weight", "attn_q_norm.weight"),
    ("self_attn.k_layernorm.weight", "attn_k_norm.weight"),
    ("feed_forward.w1.weight", "ffn_gate.weight"),
    ("feed_forward.w3.weight", "ffn_up.weight"),
    ("feed_forward.w2.weight", "ffn_down.weight"),
    ("feed_forward.gate.weight", "ffn_gate_inp.weight"),
    ("feed_forward.expert_bias", "exp_probs_b.bias"),
    ("feed_forward.experts.gate", "ffn_gate_exps.weight"),
    ("feed_forward.experts.up", "ffn_up_exps.weight"),
    ("feed_forward.experts.down", "ffn_down_exps.weight"),
    ("conv.conv.bias", "shortconv.conv.bias"),
];

/// The file's name of a canonical tensor.
pub fn gguf_name(canonical: &str) -> Option<String> {
    match canonical {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        // The file's name misleads: it is the norm after the last layer.
        "model.embedding_norm.weight" => return Some("token_embd_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, part) = canonical.strip_prefix("model.layers.")?.split_once('.')?;
    let (_, name) = LAYER.iter().find(|(canonical, _)| *canonical == part)?;
    Some(format!("blk.{layer}.{name}"))
}

/// Every canonical tensor of `config` with its place in the file. No tensor may be missing or left over.
pub(super) fn resolve(config: &Config, tensors: &[Info]) -> Result<BTreeMap<String, Info>, GgufError> {
    let mut found: BTreeMap<&str, &Info> = tensors.iter().map(|info| (info.name.as_str(), info)).collect();
    let mut resolved = BTreeMap::new();
    let mut missing = Vec::new();
    for spec in config.tensors() {
        let name = gguf_name(&spec.name).unwrap_or_else(|| spec.name.clone());
        match found.remove(name.as_str()) {
            Some(info) => {
                check(&spec, info)?;
                resolved.insert(spec.name, info.clone());
            }
            None => missing.push(name),
        }
    }
    if !missing.is_empty() {
        return Err(GgufError::MissingTensors(first_names(missing.iter().map(String::as_str))));
    }
    if !found.is_empty() {
        return Err(GgufError::UnexpectedTensors(first_names(found.keys().copied())));
    }
    Ok(resolved)
}

/// Whether tensors of this use may be in blocks. All others become f32.
fn is_quantisable(kind: TensorKind) -> bool {
    match kind {
        TensorKind::Embedding | TensorKind::Head | TensorKind::Linear | TensorKind::Experts => true,
        TensorKind::Bias
        | TensorKind::Norm
        | TensorKind::ConvKernel
        | TensorKind::Router
        | TensorKind::ExpertBias => false,
    }
}

fn check(spec: &TensorSpec, info: &Info) -> Result<(), GgufError> {
    let mut expected: Vec<u64> = spec.shape.iter().rev().map(|n| *n as u64).collect();
    if spec.kind == TensorKind::ConvKernel {
        // [H, 1, K] without its middle.
        expected.remove(1);
    }
    // Outer dimensions of one element may be left out.
    let trimmed = |ne: &[u64]| {
        let outer = ne.iter().skip(1).rev().take_while(|n| **n == 1).count();
        ne.iter().copied().take(ne.len() - outer).collect::<Vec<u64>>()
    };
    let wrong = |what, found: String, expected: String| {
        Err(GgufError::Tensor { name: info.name.clone(), what, found, expected })
    };
    if trimmed(&info.ne) != trimmed(&expected) {
        return wrong("the shape", format!("{:?}", info.ne), format!("{expected:?}"));
    }
    if !is_quantisable(spec.kind) && !info.kind.is_float() {
        return wrong(
            "the type",
            info.kind.name().into(),
            "F32, F16 or BF16 for a tensor of this use".into(),
        );
    }
    Ok(())
}
