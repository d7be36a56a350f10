//! The model under `Device::capture()`: parameters stay unmaterialised, and which operations are recorded does
//! not depend on how many tokens there are, so that a graph captured at a few lengths stands for all.

mod common;

use burn::Tensor;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Int};
use burn_capture::{CaptureBackend, CapturedGraph, TensorId};
use common::fixture;
use lfm_model::{Config, LayerState, Lfm2, ParamPath, State, canonical_name};

fn id<const D: usize>(tensor: &Tensor<D>) -> TensorId {
    tensor.clone().try_into_primitive::<CaptureBackend>().unwrap().id()
}

/// Replaces parameters by empty tensors made outside of the capture, and lists them.
struct Bind<'a> {
    device: &'a Device,
    path: ParamPath,
    bound: Vec<(String, Vec<usize>)>,
}

impl ModuleMapper for Bind<'_> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        assert!(!param.is_initialized(), "{} is lazy", self.path.name());
        let shape = param.lazy_shape();
        let value = Tensor::<D>::empty(shape.clone(), self.device);
        self.bound.push((self.path.name(), shape.to_vec()));
        Param::initialized(param.id, value)
    }
}

/// Captures one call of `seq` tokens after `past` others; also the parameters.
fn capture(config: &Config, seq: usize, past: usize) -> (CapturedGraph, Vec<(String, Vec<usize>)>) {
    let device = Device::capture();
    let outside = |shape: [usize; 4]| Tensor::<4>::empty(shape, &device);
    let mut parameters = Vec::new();
    let graph = device
        .capture_scope(|scope| {
            let mut bind = Bind { device: &device, path: ParamPath::default(), bound: Vec::new() };
            let model = Lfm2::new(config, &device).map(&mut bind);
            let tokens = Tensor::<2, Int>::empty([1, seq], &device);
            let positions = Tensor::<1, Int>::empty([seq], &device);
            let mut state = State::empty(config, &device);
            for layer in &mut state.layers {
                if let LayerState::Attention { k, v } = layer {
                    *k = outside([1, config.kv_heads, past, config.head_dim]);
                    *v = outside([1, config.kv_heads, past, config.head_dim]);
                }
            }
            let (logits, next) = model.forward(tokens, positions, state);
            assert_eq!(logits.dims(), [1, seq, config.vocab_size]);
            let mut outputs = vec![id(&logits)];
            for layer in &next.layers {
                match layer {
                    LayerState::Conv { window } => outputs.push(id(window)),
                    LayerState::Attention { k, v } => outputs.extend([id(k), id(v)]),
                }
            }
            parameters = bind.bound;
            scope.complete(Vec::new(), outputs)
        })
        .unwrap();
    (graph, parameters)
}

/// The kind of each recorded operation, without its tensors.
fn kinds(graph: &CapturedGraph) -> Vec<String> {
    let kind = |op: &burn_ir::OperationIr| {
        // `NumericFloat(F32, Mul(BinaryOpIr { .. }))`: all before the operation's own structure.
        let text = format!("{op:?}");
        text.split_once("Ir {").map_or(text.clone(), |(kind, _)| kind.to_owned())
    };
    graph.graph.operations.iter().map(kind).collect()
}

#[test]
fn operations_do_not_depend_on_lengths() {
    for name in ["tiny-moe", "tiny-dense", "odd-dense", "odd-moe", "odd-moe-2", "all-attention"] {
        let config = Config::from_file(&fixture(name)).unwrap();
        let (first, _) = capture(&config, 7, 13);
        let expected = kinds(&first);
        for (seq, past) in [(11, 13), (7, 29), (1, 40), (1, 1), (2, 1)] {
            let found = kinds(&capture(&config, seq, past).0);
            let differs = expected.iter().zip(&found).position(|(a, b)| a != b);
            assert_eq!((differs, found.len()), (None, expected.len()), "{name} at {seq}, {past}");
        }
    }
}

#[test]
fn parameters_are_the_tensors_of_the_table() {
    for name in ["tiny-moe", "tiny-dense", "odd-dense", "odd-moe", "odd-moe-2", "all-conv", "all-attention"] {
        let config = Config::from_file(&fixture(name)).unwrap();
        let (_, parameters) = capture(&config, 3, 2);
        let mut found: Vec<_> =
            parameters.into_iter().map(|(path, shape)| (canonical_name(&path), shape)).collect();
        let in_module = |spec: lfm_model::TensorSpec| {
            let mut shape = spec.shape;
            if spec.kind.transposed_in_module() {
                shape.reverse();
            }
            (spec.name, shape)
        };
        let mut expected: Vec<_> = config.tensors().into_iter().map(in_module).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{name}");
    }
}
