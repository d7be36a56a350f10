//! Tiny LFM2-like graphs in their final form, of any dimensions.

use super::Rng;
use crate::build::{BuildError, Builder};
use crate::graph::{Update, Value};
use crate::{DType, Dim, Graph, Op, TensorType};

/// What mixes the tokens of a layer.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Mixer {
    /// Gated short convolution.
    Conv,
    /// Grouped-query attention.
    Attention,
}

/// Dimensions of a tiny model.
#[derive(Clone, PartialEq, Debug)]
pub struct Tiny {
    /// Tokens in the vocabulary.
    pub vocab: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key heads, a divisor of the query heads.
    pub kv_heads: u32,
    /// Columns a head, even.
    pub head_dim: u32,
    /// Width of the short convolution's filter.
    pub taps: u32,
    /// The layers.
    pub layers: Vec<Mixer>,
    /// How many layers from the first have one feed-forward network in place of experts.
    pub dense_layers: usize,
    /// Width of that network.
    pub dense_width: u32,
    /// Experts of a layer.
    pub experts: u32,
    /// Experts that run for a token.
    pub top_k: u32,
    /// Width of an expert.
    pub expert_width: u32,
    /// Whether the router has a selection bias.
    pub expert_bias: bool,
    /// What is added to the sum that divides the weights of experts.
    pub renorm: Option<f32>,
    /// Factor of those weights.
    pub routed_scale: f32,
    /// Whether the linear maps of a convolution layer and its filter have biases.
    pub conv_bias: bool,
    /// Element type of keys and values.
    pub kv: DType,
    /// Keys that a query sees.
    pub window: Option<u32>,
    /// Whether the embedding is the head.
    pub tied: bool,
    /// Added to the mean square by norms.
    pub eps: f32,
    /// Base of the rotary frequencies.
    pub theta: f32,
}

impl Tiny {
    /// Two convolution layers and an attention layer, the first dense, the others with four experts.
    pub fn moe() -> Tiny {
        Tiny {
            vocab: 96,
            hidden: 32,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            taps: 3,
            layers: vec![Mixer::Conv, Mixer::Attention, Mixer::Conv],
            dense_layers: 1,
            dense_width: 64,
            experts: 4,
            top_k: 2,
            expert_width: 32,
            expert_bias: true,
            renorm: Some(1e-6),
            routed_scale: 1.0,
            conv_bias: false,
            kv: DType::F32,
            window: None,
            tied: true,
            eps: 1e-5,
            theta: 1e6,
        }
    }

    /// The same without experts.
    pub fn dense() -> Tiny {
        Tiny { dense_layers: 3, ..Tiny::moe() }
    }

    /// Any dimensions that make a graph.
    pub fn random(seed: u64) -> Tiny {
        let mut rng = Rng::new(seed);
        let kv_heads = 1 + rng.below(3);
        let experts = 1 + rng.below(6);
        let layers = 1 + rng.below(4);
        let mixers = [Mixer::Conv, Mixer::Attention];
        Tiny {
            vocab: 1 + rng.below(80),
            hidden: 1 + rng.below(40),
            heads: kv_heads * (1 + rng.below(3)),
            kv_heads,
            head_dim: 2 * (1 + rng.below(5)),
            taps: 1 + rng.below(7),
            layers: (0..layers).map(|_| *rng.pick(&mixers)).collect(),
            dense_layers: rng.below(layers + 1) as usize,
            dense_width: 1 + rng.below(50),
            experts,
            top_k: 1 + rng.below(experts),
            expert_width: 1 + rng.below(20),
            expert_bias: rng.once_in(2),
            renorm: (!rng.once_in(3)).then(|| rng.unit().abs() * 1e-3),
            routed_scale: 0.5 + rng.unit().abs(),
            conv_bias: rng.once_in(2),
            kv: *rng.pick(&[DType::F32, DType::F16]),
            window: rng.once_in(3).then(|| 1 + rng.below(6)),
            tied: rng.once_in(2),
            eps: 1e-5 + rng.unit().abs() * 1e-4,
            theta: 1e4 + rng.unit().abs() * 1e6,
        }
    }
}

/// A layer while it is appended.
struct Layer<'a> {
    b: &'a mut Builder,
    tiny: &'a Tiny,
    index: usize,
}

impl Layer<'_> {
    fn name(&self, role: &str) -> String {
        format!("l{}.{role}", self.index)
    }

    fn weight(&mut self, role: &str, shape: &[u32]) -> Value {
        let path = role.replace("attn", "self_attn").replacen("ffn.", "feed_forward.", 1);
        let direct = role.ends_with("bias") || role.contains("experts.");
        let param = format!("layers.{}.{path}{}", self.index, if direct { "" } else { ".weight" });
        self.b.weight(self.name(role), TensorType::new(DType::F32, shape.iter().copied()), param)
    }

    fn node(&mut self, role: &str, op: Op, args: &[Value]) -> Result<Value, BuildError> {
        let name = self.name(role);
        self.b.node(&name, op, args)
    }

    fn norm(&mut self, role: &str, x: Value, width: u32) -> Result<Value, BuildError> {
        let w = self.weight(role, &[width]);
        self.node(role, Op::RmsNorm { eps: self.tiny.eps }, &[x, w])
    }

    /// A linear map to `o` columns, its bias if convolutions have them, and the residual if there is one.
    fn conv_linear(
        &mut self,
        role: &str,
        x: Value,
        shape: [u32; 2],
        residual: Option<Value>,
    ) -> Result<Value, BuildError> {
        let mut args = vec![x, self.weight(&format!("{role}_proj"), &shape)];
        if self.tiny.conv_bias {
            args.push(self.weight(&format!("{role}_proj.bias"), &shape[..1]));
        }
        args.extend(residual);
        self.node(role, if residual.is_some() { Op::LinearAdd } else { Op::Linear }, &args)
    }

    fn conv(&mut self, x: Value, residual: Value) -> Result<Value, BuildError> {
        let (h, taps) = (self.tiny.hidden, self.tiny.taps);
        let bcx = self.conv_linear("conv.in", x, [3 * h, h], None)?;
        let mut args = vec![bcx, self.weight("conv.conv", &[h, taps])];
        if self.tiny.conv_bias {
            args.push(self.weight("conv.conv.bias", &[h]));
        }
        let window = TensorType::new(DType::F32, [h, taps - 1]);
        let window = self.b.state(self.name("conv.window"), window, Update::Window);
        args.push(window);
        let name = self.name("conv.gate");
        let gate = self.b.push(&name, Op::ConvGate { taps }, &args)?;
        self.b.next(window, Value::Node(gate, 1));
        self.conv_linear("conv.out", Value::Node(gate, 0), [h, h], Some(residual))
    }

    /// `heads` heads of `x`: normed and turned, unless they are values.
    fn heads(
        &mut self,
        role: &str,
        x: Value,
        heads: u32,
        rope: Option<[Value; 2]>,
    ) -> Result<Value, BuildError> {
        let (h, d) = (self.tiny.hidden, self.tiny.head_dim);
        let w = self.weight(&format!("attn.{role}_proj"), &[heads * d, h]);
        let y = self.node(&format!("attn.{role}"), Op::Linear, &[x, w])?;
        let to = vec![Dim::SEQ, Dim::fixed(heads), Dim::fixed(d)];
        let y = self.node(&format!("attn.{role}.heads"), Op::Reshape { to }, &[y])?;
        let Some([cos, sin]) = rope else { return Ok(y) };
        let y = self.norm(&format!("attn.{role}_layernorm"), y, d)?;
        self.node(&format!("attn.{role}.rope"), Op::Rope, &[y, cos, sin])
    }

    fn attention(&mut self, x: Value, residual: Value, rope: [Value; 2]) -> Result<Value, BuildError> {
        let Tiny { hidden, heads, kv_heads, head_dim, kv, window, .. } = *self.tiny;
        let q = self.heads("q", x, heads, Some(rope))?;
        let k = self.heads("k", x, kv_heads, Some(rope))?;
        let v = self.heads("v", x, kv_heads, None)?;
        let ty = TensorType::new(kv, [Dim::fixed(kv_heads), Dim::PAST, Dim::fixed(head_dim)]);
        let keys = self.b.state(self.name("attn.k"), ty.clone(), Update::Append { axis: 1 });
        let values = self.b.state(self.name("attn.v"), ty, Update::Append { axis: 1 });
        let op = Op::Attention { scale: (head_dim as f32).powf(-0.5), window };
        let name = self.name("attn.attend");
        let attend = self.b.push(&name, op, &[q, k, v, keys, values])?;
        self.b.next(keys, Value::Node(attend, 1));
        self.b.next(values, Value::Node(attend, 2));
        let w = self.weight("attn.out_proj", &[hidden, heads * head_dim]);
        self.node("attn.out", Op::LinearAdd, &[Value::Node(attend, 0), w, residual])
    }

    fn ffn(&mut self, x: Value, residual: Value) -> Result<Value, BuildError> {
        let Tiny {
            hidden: h,
            dense_width,
            experts,
            expert_width,
            top_k,
            renorm,
            routed_scale,
            expert_bias,
            ..
        } = *self.tiny;
        if self.index < self.tiny.dense_layers {
            let gate = self.weight("ffn.w1", &[dense_width, h]);
            let up = self.weight("ffn.w3", &[dense_width, h]);
            let y = self.node("ffn.swiglu", Op::SwiGlu, &[x, gate, up])?;
            let down = self.weight("ffn.w2", &[h, dense_width]);
            return self.node("ffn.out", Op::LinearAdd, &[y, down, residual]);
        }
        let mut args = vec![x, self.weight("ffn.gate", &[experts, h])];
        if expert_bias {
            args.push(self.weight("ffn.expert_bias", &[experts]));
        }
        args.push(self.weight("ffn.experts.gate", &[experts, expert_width, h]));
        args.push(self.weight("ffn.experts.up", &[experts, expert_width, h]));
        args.push(self.weight("ffn.experts.down", &[experts, h, expert_width]));
        args.push(residual);
        let op = Op::Moe { top_k, renorm, scale: routed_scale, bias: expert_bias, residual: true };
        self.node("ffn.moe", op, &args)
    }
}

fn build(tiny: &Tiny) -> Result<Graph, BuildError> {
    let mut b = Builder::new("lfm2_tiny");
    let tokens = b.input("tokens", TensorType::new(DType::I32, [Dim::SEQ]));
    let positions = b.input("positions", TensorType::new(DType::I32, [Dim::SEQ]));
    let table = TensorType::new(DType::F32, [tiny.vocab, tiny.hidden]);
    let embed = b.weight("embed_tokens", table.clone(), "embed_tokens.weight");
    let mut x = b.node("embed", Op::Select, &[embed, tokens])?;
    let rope = if tiny.layers.contains(&Mixer::Attention) {
        let half = tiny.head_dim / 2;
        let inv_freq = (0..half).map(|i| tiny.theta.powf(-(i as f32) / half as f32)).collect();
        let inv_freq = b.constant("inv_freq", TensorType::new(DType::F32, [half]), inv_freq);
        let rope = b.push("rope", Op::RopeTable, &[positions, inv_freq])?;
        Some([Value::Node(rope, 0), Value::Node(rope, 1)])
    } else {
        None
    };
    for (index, mixer) in tiny.layers.iter().enumerate() {
        let mut layer = Layer { b: &mut b, tiny, index };
        let normed = layer.norm("operator_norm", x, tiny.hidden)?;
        x = match (mixer, rope) {
            (Mixer::Attention, Some(rope)) => layer.attention(normed, x, rope)?,
            (Mixer::Attention, None) | (Mixer::Conv, _) => layer.conv(normed, x)?,
        };
        let normed = layer.norm("ffn_norm", x, tiny.hidden)?;
        x = layer.ffn(normed, x)?;
    }
    let last = b.node("last", Op::LastRow, &[x])?;
    let norm = TensorType::new(DType::F32, [tiny.hidden]);
    let norm = b.weight("embedding_norm", norm, "embedding_norm.weight");
    let last = b.node("embedding_norm", Op::RmsNorm { eps: tiny.eps }, &[last, norm])?;
    let head = if tiny.tied { embed } else { b.weight("lm_head", table, "lm_head.weight") };
    let logits = b.node("head", Op::Linear, &[last, head])?;
    b.output(logits);
    Ok(b.finish())
}

/// The final graph of a tiny model: it passes [`verify_executable`](crate::verify_executable()).
///
/// # Panics
/// When the dimensions make no graph, such as heads that key heads do not divide.
pub fn tiny_graph(tiny: &Tiny) -> Graph {
    build(tiny).unwrap_or_else(|error| panic!("dimensions that make a graph: {error}"))
}
