//! One recording of a module at one (seq, past). The only file that names burn-capture, burn-ir and burn-router.
//!
//! Everything that comes from outside (inputs, states, parameters) is made a result of one custom operation at
//! the head of the recording; burn-capture then sees a graph without free inputs and needs no list of those that
//! happened to be read.

use std::collections::BTreeMap;

use burn::Tensor;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Bool, DType, Device, Int, Shape, TensorData};
use burn_capture::{CaptureBackend, CapturedGraph};
use burn_ir::{
    ActivationOperationIr, BaseOperationIr, CustomOpIr, FloatOperationIr, IntOperationIr, ModuleOperationIr,
    NumericOperationIr, OperationIr, ScalarIr, TensorId, TensorIr,
};
use burn_router::{RouterClient, RouterTensor};
use lfm_graphs::{Dim, Update};
use lfm_model::ParamPath;

use super::ops::{
    Captured, CapturedInput, CapturedLiteral, CapturedOp, CapturedParam, CapturedState, CapturedValue,
    Element, Kind, ValueId,
};
use super::{CaptureError, Traceable};

type Client = burn_capture::CaptureClient;

/// The name under which outside tensors enter a recording.
const GIVEN: &str = "lfm.given";

/// A declared state and, once the module has said so, its next content.
struct TracedState {
    name: String,
    shape: Vec<Dim>,
    update: Update,
    id: TensorId,
    next: Option<TensorId>,
}

/// What a [`Traceable`] is given: the device, inputs and states by name, and a place for its results.
pub struct Tracer {
    device: Device,
    client: Client,
    seq: u32,
    past: u32,
    inputs: Vec<(String, TensorId)>,
    params: Vec<(String, TensorId)>,
    states: Vec<TracedState>,
    outputs: Vec<TensorId>,
    /// Keeps results alive, so that no operation is recorded as consuming them.
    kept: Vec<Box<dyn std::any::Any>>,
    fault: Option<String>,
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracer").field("seq", &self.seq).field("past", &self.past).finish_non_exhaustive()
    }
}

impl Tracer {
    /// The recording device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Tokens of this call.
    pub fn seq(&self) -> usize {
        self.seq as usize
    }

    /// Tokens already in the state.
    pub fn past(&self) -> usize {
        self.past as usize
    }

    /// The module with shape-only parameters in place of its own, named by their paths.
    pub fn module<M: Module>(&mut self, module: M) -> M {
        module.map(&mut Bind { tracer: self, path: ParamPath::default() })
    }

    /// Declares an input `i32[seq]`, such as `tokens` or `positions`.
    pub fn input(&mut self, name: &str) -> Tensor<1, Int> {
        if self.inputs.iter().any(|(taken, _)| taken == name) {
            self.fail(format!("input `{name}` is declared twice"));
        }
        let (id, handle) = self.given(Shape::from([self.seq as usize]), DType::I64);
        self.inputs.push((name.to_owned(), id));
        Tensor::from_primitive::<CaptureBackend>(handle)
    }

    /// Declares a state by its shape in the graph: `PAST` on the axis of an `Append`, no symbol in a `Window`.
    pub fn state<const D: usize>(&mut self, name: &str, shape: [Dim; D], update: Update) -> Tensor<D> {
        if self.states.iter().any(|state| state.name == name) {
            self.fail(format!("state `{name}` is declared twice"));
        }
        let sizes: Vec<usize> = shape.iter().map(|dim| dim.at(self.seq, self.past) as usize).collect();
        let (id, handle) = self.given(Shape::from(sizes), DType::F32);
        self.states.push(TracedState {
            name: name.to_owned(),
            shape: shape.to_vec(),
            update,
            id,
            next: None,
        });
        Tensor::from_primitive::<CaptureBackend>(handle)
    }

    /// Says what a declared state holds after the call.
    pub fn next<const D: usize>(&mut self, name: &str, content: Tensor<D>) {
        let id = self.id_of(&content);
        match self.states.iter_mut().find(|state| state.name == name) {
            Some(state) if state.next.is_none() => state.next = id,
            Some(_) => self.fail(format!("state `{name}` gets its next content twice")),
            None => self.fail(format!("`{name}` gets a next content, but no such state is declared")),
        }
        self.kept.push(Box::new(content));
    }

    /// Adds a result of the graph.
    pub fn output<const D: usize>(&mut self, value: Tensor<D>) {
        if let Some(id) = self.id_of(&value) {
            self.outputs.push(id);
        }
        self.kept.push(Box::new(value));
    }

    fn id_of<const D: usize>(&mut self, value: &Tensor<D>) -> Option<TensorId> {
        match value.clone().try_into_primitive::<CaptureBackend>() {
            Ok(primitive) => Some(primitive.id()),
            Err(_) => {
                self.fail("a result is not on the tracer's device".to_owned());
                None
            }
        }
    }

    /// A tensor without elements that comes from outside.
    fn given(&mut self, shape: Shape, dtype: DType) -> (TensorId, RouterTensor<Client>) {
        let id = self.client.create_empty_handle();
        let ir = TensorIr::uninit(id, shape.clone(), dtype);
        self.client.register_op(OperationIr::Custom(CustomOpIr::new(GIVEN, &[], &[ir])));
        (id, RouterTensor::new(id, shape, dtype, self.client.clone()))
    }

    fn fail(&mut self, message: String) {
        self.fault.get_or_insert(message);
    }
}

/// Replaces parameters by shape-only handles.
struct Bind<'a> {
    tracer: &'a mut Tracer,
    path: ParamPath,
}

impl ModuleMapper for Bind<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, handle) = self.tracer.given(param.lazy_shape(), DType::F32);
        self.tracer.params.push((self.path.name(), id));
        Param::initialized(param.id, Tensor::from_primitive::<CaptureBackend>(handle))
    }

    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        self.tracer.fail(format!("parameter {} holds integers, expected floats", self.path.name()));
        param
    }

    fn map_bool<const D: usize>(&mut self, param: Param<Tensor<D, Bool>>) -> Param<Tensor<D, Bool>> {
        self.tracer.fail(format!("parameter {} holds truth values, expected floats", self.path.name()));
        param
    }
}

/// Records `module` once.
pub(super) fn record(module: &dyn Traceable, seq: u32, past: u32) -> Result<Captured<u64>, CaptureError> {
    let model = module.name();
    let trace_error = |message: String| CaptureError::Trace { model: model.clone(), message };
    let device = Device::capture();
    let mut traced = None;
    let graph = device.capture_scope(|scope| {
        // The probe tensor leaves one unread `Empty` operation behind, which is dropped below.
        let probe = Tensor::<1>::empty([1], &device).try_into_primitive::<CaptureBackend>();
        if let Ok(probe) = probe {
            let mut tracer = Tracer {
                device: device.clone(),
                client: probe.client.clone(),
                seq,
                past,
                inputs: Vec::new(),
                params: Vec::new(),
                states: Vec::new(),
                outputs: Vec::new(),
                kept: vec![Box::new(probe)],
                fault: None,
            };
            module.trace(&mut tracer);
            traced = Some(tracer);
        }
        // No results are named: which values leave is told by the tracer, with names for its messages.
        scope.complete([], [])
    });
    let graph = graph.map_err(|e| CaptureError::Burn { model: model.clone(), message: e.to_string() })?;
    let tracer = traced.ok_or_else(|| trace_error("the capture device gave no capture tensor".to_owned()))?;
    if let Some(fault) = tracer.fault {
        return Err(trace_error(fault));
    }
    let mut numbering = Numbering { graph: &graph, values: Vec::new(), ids: BTreeMap::new() };
    let inputs = tracer.inputs.iter().map(|(name, id)| (name.clone(), *id)).collect::<Vec<_>>();
    let captured =
        numbering.captured(model.clone(), &inputs, &tracer.params, &tracer.states, &tracer.outputs);
    captured.map_err(trace_error)
}

/// Gives values numbers in the order of first appearance.
struct Numbering<'a> {
    graph: &'a CapturedGraph,
    values: Vec<CapturedValue<u64>>,
    ids: BTreeMap<TensorId, ValueId>,
}

impl Numbering<'_> {
    fn value(&mut self, ir: &TensorIr) -> ValueId {
        let next = self.values.len();
        let id = *self.ids.entry(ir.id).or_insert(next);
        if id == next {
            self.values.push(CapturedValue {
                element: element(ir.dtype),
                shape: ir.shape.iter().map(|n| *n as u64).collect(),
            });
        }
        id
    }

    fn known(&self, id: TensorId, what: &str) -> Result<ValueId, String> {
        self.ids.get(&id).copied().ok_or_else(|| format!("{what} was never recorded"))
    }

    fn captured(
        &mut self,
        model: String,
        inputs: &[(String, TensorId)],
        params: &[(String, TensorId)],
        states: &[TracedState],
        outputs: &[TensorId],
    ) -> Result<Captured<u64>, String> {
        let mut ops = Vec::new();
        let mut literals = Vec::new();
        for op in &self.graph.graph.operations {
            let outs: Vec<ValueId> = op.outputs().map(|ir| self.value(ir)).collect();
            match op {
                OperationIr::Custom(custom) if custom.id == GIVEN => continue,
                OperationIr::Init(init) => {
                    let data = self.graph.values.get(&init.out.id).and_then(float_data);
                    literals.extend(
                        outs.iter().map(|value| CapturedLiteral { value: *value, data: data.clone() }),
                    );
                    continue;
                }
                _ => {}
            }
            let args = op.inputs().map(|ir| self.value(ir)).collect();
            ops.push(CapturedOp { kind: kind(op), inputs: args, outputs: outs });
        }
        let inputs = inputs
            .iter()
            .map(|(name, id)| {
                Ok(CapturedInput { name: name.clone(), value: self.known(*id, &format!("input `{name}`"))? })
            })
            .collect::<Result<Vec<_>, String>>()?;
        let params = params
            .iter()
            .map(|(path, id)| Ok(CapturedParam { path: path.clone(), value: self.known(*id, path)? }))
            .collect::<Result<Vec<_>, String>>()?;
        let states = states
            .iter()
            .map(|state| {
                let next =
                    state.next.ok_or_else(|| format!("state `{}` gets no next content", state.name))?;
                Ok(CapturedState {
                    name: state.name.clone(),
                    shape: state.shape.clone(),
                    update: state.update,
                    value: self.known(state.id, &state.name)?,
                    next: self.known(next, &format!("the next content of `{}`", state.name))?,
                })
            })
            .collect::<Result<Vec<_>, String>>()?;
        let outputs =
            outputs.iter().map(|id| self.known(*id, "an output")).collect::<Result<Vec<_>, String>>()?;
        let values = std::mem::take(&mut self.values);
        let mut captured = Captured { model, values, ops, inputs, params, literals, states, outputs };
        captured.drop_dead();
        Ok(captured)
    }
}

fn element(dtype: DType) -> Element {
    if dtype.is_float() {
        Element::Float
    } else if dtype.is_bool() {
        Element::Bool
    } else {
        Element::Int
    }
}

fn float_data(data: &TensorData) -> Option<Vec<f32>> {
    data.dtype().is_float().then(|| data.iter::<f32>().collect())
}

fn number(scalar: &ScalarIr) -> f64 {
    match scalar {
        ScalarIr::Float(x) => *x,
        ScalarIr::Int(x) => *x as f64,
        ScalarIr::UInt(x) => *x as f64,
        ScalarIr::Bool(x) => f64::from(u8::from(*x)),
    }
}

fn kind(op: &OperationIr) -> Kind<u64> {
    let known = match op {
        OperationIr::BaseFloat(base) | OperationIr::BaseInt(base) => base_kind(base),
        OperationIr::NumericFloat(_, numeric) => numeric_kind(numeric),
        OperationIr::Float(_, float) => float_kind(float),
        OperationIr::Int(IntOperationIr::IntoFloat(_)) => Some(Kind::Cast),
        OperationIr::Module(module) => module_kind(module),
        OperationIr::Activation(ActivationOperationIr::Sigmoid(_)) => Some(Kind::Sigmoid),
        OperationIr::Activation(ActivationOperationIr::Softmax(op)) => Some(Kind::Softmax { axis: op.axis }),
        OperationIr::Custom(custom) => return Kind::Other(custom.id.clone()),
        _ => None,
    };
    known.unwrap_or_else(|| Kind::Other(burn_name(op)))
}

fn base_kind(op: &BaseOperationIr) -> Option<Kind<u64>> {
    Some(match op {
        BaseOperationIr::Reshape(_) => Kind::Reshape,
        BaseOperationIr::SwapDims(op) => Kind::SwapDims { a: op.dim1, b: op.dim2 },
        BaseOperationIr::Permute(op) => Kind::Permute { order: op.axes.clone() },
        BaseOperationIr::Expand(_) => Kind::Expand,
        BaseOperationIr::Slice(op) => {
            if op.ranges.iter().any(|range| range.step != 1) {
                return None;
            }
            let sizes = op.tensor.shape.iter().map(|n| *n as i128);
            let absolute = |index: isize, size: i128| {
                let index = index as i128;
                (if index < 0 { index + size } else { index }).clamp(0, size) as u64
            };
            let mut ranges: Vec<(u64, u64)> = Vec::new();
            for (axis, size) in sizes.enumerate() {
                ranges.push(match op.ranges.get(axis) {
                    Some(range) => {
                        let to = range.end.map_or(size as u64, |end| absolute(end, size));
                        (absolute(range.start, size), to)
                    }
                    None => (0, size as u64),
                });
            }
            Kind::Slice { ranges }
        }
        BaseOperationIr::Select(op) => Kind::Select { axis: op.dim },
        BaseOperationIr::Gather(op) => Kind::Gather { axis: op.dim },
        BaseOperationIr::RepeatDim(op) => Kind::RepeatDim { axis: op.dim },
        BaseOperationIr::Cat(op) => Kind::Cat { axis: op.dim },
        BaseOperationIr::Cast(_) => Kind::Cast,
        BaseOperationIr::Empty(_) => Kind::Empty,
        BaseOperationIr::Ones(_) => Kind::Fill(1.0),
        BaseOperationIr::Zeros(_) => Kind::Fill(0.0),
        _ => return None,
    })
}

fn numeric_kind(op: &NumericOperationIr) -> Option<Kind<u64>> {
    Some(match op {
        NumericOperationIr::Add(_) => Kind::Add,
        NumericOperationIr::AddScalar(op) => Kind::AddScalar(number(&op.rhs)),
        NumericOperationIr::Sub(_) => Kind::Sub,
        NumericOperationIr::SubScalar(op) => Kind::SubScalar(number(&op.rhs)),
        NumericOperationIr::Div(_) => Kind::Div,
        NumericOperationIr::DivScalar(op) => Kind::DivScalar(number(&op.rhs)),
        NumericOperationIr::Mul(_) => Kind::Mul,
        NumericOperationIr::MulScalar(op) => Kind::MulScalar(number(&op.rhs)),
        NumericOperationIr::PowiScalar(op) => Kind::PowScalar(number(&op.rhs)),
        NumericOperationIr::Neg(_) => Kind::Neg,
        NumericOperationIr::Full(op) => Kind::Fill(number(&op.value)),
        NumericOperationIr::MeanDim(op) => Kind::MeanDim { axis: op.axis },
        NumericOperationIr::SumDim(op) => Kind::SumDim { axis: op.axis },
        NumericOperationIr::TopKWithIndices(op) => Kind::TopKWithIndices { axis: op.dim, k: op.k },
        _ => return None,
    })
}

fn float_kind(op: &FloatOperationIr) -> Option<Kind<u64>> {
    Some(match op {
        FloatOperationIr::Sqrt(_) => Kind::Sqrt,
        FloatOperationIr::Sin(_) => Kind::Sin,
        FloatOperationIr::Cos(_) => Kind::Cos,
        FloatOperationIr::Recip(_) => Kind::Recip,
        FloatOperationIr::PowfScalar(op) => Kind::PowScalar(number(&op.rhs)),
        FloatOperationIr::Matmul(_) => Kind::Matmul,
        _ => return None,
    })
}

fn module_kind(op: &ModuleOperationIr) -> Option<Kind<u64>> {
    Some(match op {
        ModuleOperationIr::Embedding(_) => Kind::Embedding,
        ModuleOperationIr::Linear(_) => Kind::Linear,
        ModuleOperationIr::Conv1d(op) => Kind::Conv1d {
            stride: op.options.stride[0],
            padding: op.options.padding[0],
            dilation: op.options.dilation[0],
            groups: op.options.groups,
        },
        ModuleOperationIr::Attention(op) => Kind::Attention {
            scale: op.options.scale.as_ref().map(number),
            causal: op.options.is_causal,
            extras: op.options.softcap.is_some() || op.mask.is_some() || op.attn_bias.is_some(),
        },
        _ => return None,
    })
}

/// `NumericFloat(F32, Abs(..` → `Abs`.
fn burn_name(op: &OperationIr) -> String {
    let text = format!("{op:?}");
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let family = match op {
        OperationIr::NumericFloat(..) | OperationIr::NumericInt(..) | OperationIr::Float(..) => 2,
        _ => 1,
    };
    words.nth(family).unwrap_or("an operation").to_owned()
}
