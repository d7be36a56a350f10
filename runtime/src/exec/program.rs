//! From graph and plan to a program: every step with its operands resolved to places in memory, once, when a
//! bundle is opened, so that running it looks nothing up.

use std::collections::BTreeSet;
use std::ops::Range;

use lfm_graphs::graph::{Update, Value};
use lfm_graphs::id::{Id, NodeId};
use lfm_graphs::plan::{Places, Plan, WeightKind};
use lfm_graphs::weights::Format;
use lfm_graphs::{DType, Graph, Op};

/// Rows of floats in the arena. Offsets and widths are in floats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) start: usize,
    pub(crate) width: usize,
}

impl Rows {
    /// The floats of the first `rows` rows.
    pub(crate) fn range(self, rows: usize) -> Range<usize> {
        self.start..self.start + rows * self.width
    }
}

/// What a matrix is multiplied with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub(crate) rows: Rows,
    /// For quantised matrices: where the int8 form lies, and whether this step is the first that reads it.
    pub(crate) panels: Option<PanelsAt>,
}

/// The int8 form of rows, in the arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PanelsAt {
    /// In floats, as everything in the arena.
    pub(crate) start: usize,
    /// Whether this step has to quantise the rows first.
    pub(crate) make: bool,
}

/// A packed matrix, or a stack of them, in the weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatrixAt {
    pub(crate) format: Format,
    pub(crate) rows: usize,
    pub(crate) k: usize,
    pub(crate) offset: usize,
    pub(crate) stride: usize,
    pub(crate) count: usize,
}

/// Plain floats in the weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VectorAt {
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

/// One operation with its operands.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Nothing happens: the result is the argument's bytes.
    Alias,
    Embed {
        table: MatrixAt,
        out: Rows,
    },
    Norm {
        x: Rows,
        weight: VectorAt,
        eps: f32,
        out: Rows,
    },
    RopeTable {
        inv_freq: Vec<f32>,
        cos: Rows,
        sin: Rows,
    },
    Rope {
        x: Rows,
        cos: Rows,
        sin: Rows,
        out: Rows,
    },
    Linear {
        x: Operand,
        w: MatrixAt,
        bias: Option<VectorAt>,
        residual: Option<Rows>,
        out: Rows,
    },
    SwiGlu {
        x: Operand,
        gate: MatrixAt,
        up: MatrixAt,
        out: Rows,
    },
    ConvGate {
        bcx: Rows,
        kernel: MatrixAt,
        bias: Option<VectorAt>,
        state: usize,
        out: Rows,
    },
    Attention(AttentionStep),
    Moe(MoeStep),
    Add {
        a: Rows,
        b: Rows,
        out: Rows,
    },
    LastRow {
        x: Rows,
        out: Rows,
    },
}

#[cfg(any(feature = "wgpu", feature = "observe"))]
impl Kind {
    /// What a step reads and writes in the arena as rows. An alias does neither.
    pub(crate) fn rows(&self) -> (Vec<Rows>, Vec<Rows>) {
        match self {
            Kind::Alias => (vec![], vec![]),
            Kind::Embed { out, .. } => (vec![], vec![*out]),
            Kind::Norm { x, out, .. } | Kind::LastRow { x, out } => (vec![*x], vec![*out]),
            Kind::RopeTable { cos, sin, .. } => (vec![], vec![*cos, *sin]),
            Kind::Rope { x, cos, sin, out } => (vec![*x, *cos, *sin], vec![*out]),
            Kind::Linear { x, residual, out, .. } => {
                (std::iter::once(x.rows).chain(*residual).collect(), vec![*out])
            }
            Kind::SwiGlu { x, out, .. } => (vec![x.rows], vec![*out]),
            Kind::ConvGate { bcx, out, .. } => (vec![*bcx], vec![*out]),
            Kind::Attention(a) => (vec![a.q, a.k, a.v], vec![a.out]),
            Kind::Moe(m) => (std::iter::once(m.x.rows).chain(m.residual).collect(), vec![m.out]),
            Kind::Add { a, b, out } => (vec![*a, *b], vec![*out]),
        }
    }
}

/// The operands of an attention.
#[derive(Clone, Debug)]
pub(crate) struct AttentionStep {
    pub(crate) q: Rows,
    pub(crate) k: Rows,
    pub(crate) v: Rows,
    /// Indices of the states.
    pub(crate) keys: usize,
    pub(crate) values: usize,
    pub(crate) heads: usize,
    pub(crate) kv: usize,
    pub(crate) dim: usize,
    pub(crate) scale: f32,
    pub(crate) window: Option<std::num::NonZeroUsize>,
    pub(crate) out: Rows,
}

/// The operands of a router with its experts.
#[derive(Clone, Debug)]
pub(crate) struct MoeStep {
    pub(crate) x: Operand,
    pub(crate) router: MatrixAt,
    pub(crate) bias: Option<VectorAt>,
    pub(crate) gate: MatrixAt,
    pub(crate) up: MatrixAt,
    pub(crate) down: MatrixAt,
    pub(crate) residual: Option<Rows>,
    pub(crate) top_k: usize,
    pub(crate) renorm: Option<f32>,
    pub(crate) scale: f32,
    /// Which of the layers with experts it is, if these are paged: `gate`, `up` and `down` then are in the file.
    pub(crate) paged: Option<usize>,
    /// Start and length of the scratch, in floats.
    pub(crate) scratch: Range<usize>,
    pub(crate) out: Rows,
}

/// A step and the name of its node.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// How a state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateShape {
    /// Keys or values: `[kv][context][dim]`.
    Cache { kv: usize, dim: usize, half: bool },
    /// The last inputs of a convolution: `[rows][channels]`, oldest first.
    Window { rows: usize, channels: usize },
}

/// All steps of a graph.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    /// Up to and without `LastRow`.
    pub(crate) body: Vec<Step>,
    /// From `LastRow` on; may run for several groups of rows.
    pub(crate) tail: Vec<Step>,
    pub(crate) states: Vec<StateShape>,
    /// The logits, in rows of the vocabulary.
    pub(crate) logits: Rows,
    pub(crate) vocab: usize,
    /// Rows of the smallest embedding table.
    pub(crate) embeddings: usize,
    /// Floats of the arena.
    pub(crate) arena: usize,
}

impl Program {
    /// All steps, those of the body first.
    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.body.iter().chain(&self.tail)
    }
}

struct Compiler<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    places: Places,
    /// Values whose int8 form an earlier step makes.
    quantised: BTreeSet<Value>,
}

type Fault = (String, &'static str);

/// Resolves a verified graph with its verified plan.
///
/// # Errors
/// Node and reason, when they are not what the verifiers promise.
pub(crate) fn compile(graph: &Graph, plan: &Plan) -> Result<Program, Fault> {
    let places =
        Places::new(graph, plan).map_err(|_| ("the plan".to_string(), "it is that of another graph"))?;
    let mut compiler = Compiler { graph, plan, places, quantised: BTreeSet::new() };
    let tail_nodes = graph.tail();
    let (mut body, mut tail) = (Vec::new(), Vec::new());
    for (id, node) in graph.nodes().iter() {
        let kind = compiler.step(id).map_err(|what| (node.name.clone(), what))?;
        let step = Step { name: node.name.clone(), kind };
        if tail_nodes.contains(&id) { tail.push(step) } else { body.push(step) }
    }
    let outputs = |what| ("the outputs".to_string(), what);
    let logits = *graph.outputs().first().ok_or(outputs("there are none"))?;
    let logits = compiler.rows(logits).map_err(outputs)?;
    let states = compiler.states().map_err(|what| ("the states".to_string(), what))?;
    let arena = usize::try_from(plan.memory.arena / 4)
        .map_err(|_| outputs("an arena that this machine can address"))?;
    let tables = body.iter().filter_map(|step| match &step.kind {
        Kind::Embed { table, .. } => Some(table.rows),
        _ => None,
    });
    let embeddings = tables.min().ok_or(outputs("nothing reads the tokens"))?;
    Ok(Program { body, tail, states, logits, vocab: logits.width, embeddings, arena })
}

impl<'a> Compiler<'a> {
    fn rows(&self, value: Value) -> Result<Rows, &'static str> {
        let place = self.places.rows(value).ok_or("no buffer for a value")?;
        let ty = self.graph.ty(value).ok_or("a value without a type")?;
        let width = ty.shape[1..].iter().map(|d| d.base as usize).product();
        Ok(Rows { start: place.offset / 4, width })
    }

    fn operand(&mut self, value: Value, format: Format) -> Result<Operand, &'static str> {
        let rows = self.rows(value)?;
        let panels = if format.is_quantised() {
            let place = self.places.panels(value).ok_or("no panels for the input of a quantised matrix")?;
            Some(PanelsAt { start: place.offset / 4, make: self.quantised.insert(value) })
        } else {
            None
        };
        Ok(Operand { rows, panels })
    }

    fn slot(&self, value: Value) -> Result<&'a lfm_graphs::plan::WeightSlot, &'static str> {
        let Value::Weight(id) = value else { return Err("an argument that is no weight") };
        self.plan.weights.get(id.index()).ok_or("a weight that the plan has not")
    }

    fn matrix(&self, value: Value) -> Result<MatrixAt, &'static str> {
        let slot = self.slot(value)?;
        if slot.kind != WeightKind::Matrix {
            return Err("a vector where a matrix is expected");
        }
        Ok(MatrixAt {
            format: slot.format,
            rows: slot.rows as usize,
            k: slot.k as usize,
            offset: slot.offset as usize,
            stride: slot.stride as usize,
            count: slot.count as usize,
        })
    }

    fn vector(&self, value: Value) -> Result<VectorAt, &'static str> {
        let slot = self.slot(value)?;
        if slot.kind != WeightKind::Vector {
            return Err("a matrix where a vector is expected");
        }
        Ok(VectorAt { offset: slot.offset as usize, len: slot.k as usize })
    }

    fn state(&self, value: Value) -> Result<usize, &'static str> {
        match value {
            Value::State(id) => Ok(id.index()),
            _ => Err("an argument that is no state"),
        }
    }

    fn step(&mut self, id: NodeId) -> Result<Kind, &'static str> {
        let graph = self.graph;
        let node = &graph.nodes()[id];
        let a = &node.args;
        let outs: Vec<_> = (0..node.out.len() as u8).map(|i| self.rows(Value::Node(id, i))).collect();
        let out = |i: usize| outs[i];
        Ok(match &node.op {
            Op::Reshape { .. } => Kind::Alias,
            Op::Select => Kind::Embed { table: self.matrix(a[0])?, out: out(0)? },
            Op::RmsNorm { eps } => {
                Kind::Norm { x: self.rows(a[0])?, weight: self.vector(a[1])?, eps: *eps, out: out(0)? }
            }
            Op::RopeTable => {
                let Value::Const(constant) = a[1] else { return Err("frequencies that are no constant") };
                let inv_freq = self.graph.consts()[constant].data.clone();
                Kind::RopeTable { inv_freq, cos: out(0)?, sin: out(1)? }
            }
            Op::Rope => {
                Kind::Rope { x: self.rows(a[0])?, cos: self.rows(a[1])?, sin: self.rows(a[2])?, out: out(0)? }
            }
            Op::Linear | Op::LinearAdd => {
                let w = self.matrix(a[1])?;
                let adds = matches!(node.op, Op::LinearAdd);
                let weights = a.len() - adds as usize;
                Kind::Linear {
                    x: self.operand(a[0], w.format)?,
                    w,
                    bias: if weights == 3 { Some(self.vector(a[2])?) } else { None },
                    residual: if adds { Some(self.rows(a[a.len() - 1])?) } else { None },
                    out: out(0)?,
                }
            }
            Op::SwiGlu => {
                let (gate, up) = (self.matrix(a[1])?, self.matrix(a[2])?);
                if gate.format != up.format {
                    return Err("gate and up in different formats");
                }
                Kind::SwiGlu { x: self.operand(a[0], gate.format)?, gate, up, out: out(0)? }
            }
            Op::ConvGate { .. } => Kind::ConvGate {
                bcx: self.rows(a[0])?,
                kernel: self.matrix(a[1])?,
                bias: if a.len() == 4 { Some(self.vector(a[2])?) } else { None },
                state: self.state(a[a.len() - 1])?,
                out: out(0)?,
            },
            Op::Attention { scale, window } => {
                let sizes =
                    |v: Value| self.graph.ty(v).map(|t| t.shape.clone()).ok_or("a value without a type");
                let (q, k) = (sizes(a[0])?, sizes(a[1])?);
                if k[2].base as usize > crate::cpu::kernels::MAX_HEAD {
                    return Err("heads of more than 256 elements");
                }
                Kind::Attention(AttentionStep {
                    q: self.rows(a[0])?,
                    k: self.rows(a[1])?,
                    v: self.rows(a[2])?,
                    keys: self.state(a[3])?,
                    values: self.state(a[4])?,
                    heads: q[1].base as usize,
                    kv: k[1].base as usize,
                    dim: q[2].base as usize,
                    scale: *scale,
                    window: window.and_then(|w| std::num::NonZeroUsize::new(w as usize)),
                    out: out(0)?,
                })
            }
            Op::Moe { top_k, renorm, scale, bias, residual } => {
                let first = 2 + *bias as usize;
                let (gate, up, down) =
                    (self.matrix(a[first])?, self.matrix(a[first + 1])?, self.matrix(a[first + 2])?);
                if gate.format != up.format || gate.format.is_quantised() != down.format.is_quantised() {
                    return Err(
                        "experts of which some are quantised and some not, or gate and up in different formats",
                    );
                }
                let router = self.matrix(a[1])?;
                if gate.count > super::moe::MAX_EXPERTS {
                    return Err("more than 1024 experts");
                }
                if router.format.is_quantised() {
                    return Err("a quantised router");
                }
                let scratch = self.places.scratch(id).ok_or("no scratch")?;
                let start = scratch.offset / 4;
                Kind::Moe(MoeStep {
                    x: self.operand(a[0], gate.format)?,
                    router,
                    bias: if *bias { Some(self.vector(a[2])?) } else { None },
                    gate,
                    up,
                    down,
                    residual: if *residual { Some(self.rows(a[a.len() - 1])?) } else { None },
                    top_k: *top_k as usize,
                    renorm: *renorm,
                    scale: *scale,
                    paged: None,
                    scratch: start..start + scratch.bytes / 4,
                    out: out(0)?,
                })
            }
            Op::Add => Kind::Add { a: self.rows(a[0])?, b: self.rows(a[1])?, out: out(0)? },
            Op::LastRow => Kind::LastRow { x: self.rows(a[0])?, out: out(0)? },
            Op::Sub
            | Op::Mul
            | Op::Div
            | Op::AddScalar { .. }
            | Op::MulScalar { .. }
            | Op::Sqrt
            | Op::Sigmoid
            | Op::Sin
            | Op::Cos
            | Op::Cast { .. }
            | Op::Mean { .. }
            | Op::Sum { .. }
            | Op::Softmax
            | Op::MatMul
            | Op::DepthwiseConv { .. }
            | Op::Permute { .. }
            | Op::Slice { .. }
            | Op::Concat { .. }
            | Op::Broadcast { .. }
            | Op::Gather
            | Op::TopK { .. }
            | Op::CausalMask { .. } => return Err("an operation without a kernel"),
        })
    }

    fn states(&self) -> Result<Vec<StateShape>, &'static str> {
        let shape = |state: &lfm_graphs::State| {
            let size =
                |i: usize| state.ty.shape.get(i).map(|d| d.base as usize).ok_or("a state with too few axes");
            Ok(match state.update {
                Update::Append { .. } => {
                    StateShape::Cache { kv: size(0)?, dim: size(2)?, half: state.ty.dtype == DType::F16 }
                }
                Update::Window => StateShape::Window { rows: size(1)?, channels: size(0)? },
            })
        };
        self.graph.states().values().map(shape).collect()
    }
}
