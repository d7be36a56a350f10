//! Configuration → graph: capture, lowering and passes in one call, and the checks that the result is the model.
//!
//! No weight is read: a `config.json` alone is enough.

use std::collections::BTreeMap;

use lfm_graphs::bundle::KvType;
use lfm_graphs::graph::Weight;
use lfm_graphs::{DType, Dim, Graph, verify_executable};
use lfm_model::{Config, FeedForwardKind, OperatorKind, TensorSpec, canonical_name};

use crate::capture::lfm2::Lfm2Trace;
use crate::capture::{CaptureError, Captured, capture};
use crate::lower::{LowerError, lower};
use crate::passes::{Miss, Options, PassError, Step, optimize};

/// How far a graph is compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Core operations, as traced.
    Lowered,
    /// After all passes: what the runtime executes.
    Fused,
}

/// Why there is no graph.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum GraphError {
    /// The model could not be captured.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The capture could not be lowered.
    #[error(transparent)]
    Lower(#[from] LowerError),
    /// A pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// Fusions did not fire as often as the configuration says.
    #[error("fusing {model}: found {found} of {op}, expected {expected}{}", list(misses))]
    NotFused {
        /// The model.
        model: String,
        /// The operation.
        op: &'static str,
        /// How often it occurs.
        found: usize,
        /// How often the configuration has it.
        expected: usize,
        /// All near misses of all passes.
        misses: Vec<Miss>,
    },
    /// The runtime has no kernels for the graph.
    #[error("fusing {model}: the graph cannot be executed: {errors}{}", list(misses))]
    NotExecutable {
        /// The model.
        model: String,
        /// All broken rules.
        errors: String,
        /// All near misses of all passes.
        misses: Vec<Miss>,
    },
    /// A weight of the graph is no tensor of the checkpoint.
    #[error("weight {weight} of {model}: {found}, expected {expected}")]
    Weight {
        /// The model.
        model: String,
        /// Its name in the graph.
        weight: String,
        /// What it is.
        found: String,
        /// What the checkpoint has.
        expected: String,
    },
}

fn list(misses: &[Miss]) -> String {
    if misses.is_empty() {
        return "; there was no near miss".to_owned();
    }
    let lines: Vec<String> = misses.iter().map(ToString::to_string).collect();
    format!("; near misses: {}", lines.join("; "))
}

/// All stages of a compilation.
#[derive(Debug, Clone, PartialEq)]
pub struct Stages {
    /// burn's operations with symbolic sizes.
    pub captured: Captured<Dim>,
    /// Core operations.
    pub lowered: Graph,
    /// After all passes.
    pub fused: Graph,
    /// What every pass did.
    pub steps: Vec<Step>,
}

/// Compiles the model of a configuration, keeping every stage. `kv` is the element type of keys and values.
///
/// # Errors
/// When the graph of the last stage is not what the configuration says, or nothing that the runtime executes.
pub fn compile(config: &Config, kv: KvType) -> Result<Stages, GraphError> {
    let captured = capture(&Lfm2Trace(config))?;
    let lowered = lower(&captured)?;
    let kv = match kv {
        KvType::F32 => DType::F32,
        KvType::F16 => DType::F16,
    };
    let done = optimize(&lowered, &Options { kv: Some(kv), ..Options::default() })?;
    let stages = Stages { captured, lowered, fused: done.graph, steps: done.steps };
    let misses = || stages.steps.iter().flat_map(|step| step.misses.clone()).collect::<Vec<Miss>>();
    let found = stages.fused.histogram();
    for (op, expected) in expected_operations(config) {
        let found = found.get(op).copied().unwrap_or(0);
        if found != expected {
            let model = stages.fused.model.clone();
            return Err(GraphError::NotFused { model, op, found, expected, misses: misses() });
        }
    }
    let errors: Vec<String> = verify_executable(&stages.fused).iter().map(ToString::to_string).collect();
    if !errors.is_empty() {
        let model = stages.fused.model.clone();
        return Err(GraphError::NotExecutable { model, errors: errors.join("; "), misses: misses() });
    }
    check_weights(&stages.fused, config)?;
    Ok(stages)
}

/// The graph of a configuration at a stage. `kv` is the element type of keys and values after fusion.
///
/// # Errors
/// As [`compile`].
pub fn graph_from_config(config: &Config, stage: Stage, kv: KvType) -> Result<Graph, GraphError> {
    match stage {
        Stage::Lowered => Ok(lower(&capture(&Lfm2Trace(config))?)?),
        Stage::Fused => Ok(compile(config, kv)?.fused),
    }
}

/// burn's operations, one a line, with sizes in `seq` and `past`. For reading only.
///
/// # Errors
/// When the model cannot be captured.
pub fn captured_text(config: &Config) -> Result<String, GraphError> {
    Ok(capture(&Lfm2Trace(config))?.to_string())
}

/// The canonical name of the checkpoint tensor that a weight holds, in whose order of axes a fused graph has it.
pub fn checkpoint_name(weight: &Weight) -> String {
    canonical_name(&weight.param)
}

/// How often each operation stands in the fused graph of a configuration.
fn expected_operations(config: &Config) -> [(&'static str, usize); 13] {
    let layers = config.layers();
    let conv = config.operator_count(OperatorKind::Conv);
    let attention = config.operator_count(OperatorKind::Attention);
    let dense = config.feed_forward_count(FeedForwardKind::Dense);
    let moe = config.feed_forward_count(FeedForwardKind::Moe);
    [
        ("ConvGate", conv),
        ("Attention", attention),
        ("SwiGlu", dense),
        ("Moe", moe),
        ("RmsNorm", 2 * layers + 2 * attention + 1),
        ("RopeTable", attention.min(1)),
        ("Rope", 2 * attention),
        ("Linear", conv + 3 * attention + 1),
        ("LinearAdd", layers + dense),
        ("Reshape", 3 * attention),
        ("Select", 1),
        ("LastRow", 1),
        ("Add", 0),
    ]
}

/// Every tensor of the checkpoint is one weight, with as many elements and with rows and columns as it has them.
fn check_weights(graph: &Graph, config: &Config) -> Result<(), GraphError> {
    let tensors: BTreeMap<String, TensorSpec> =
        config.tensors().into_iter().map(|spec| (spec.name.clone(), spec)).collect();
    let fault = |weight: &str, found: String, expected: String| {
        Err(GraphError::Weight { model: graph.model.clone(), weight: weight.to_owned(), found, expected })
    };
    for weight in graph.weights().values() {
        let name = checkpoint_name(weight);
        let Some(spec) = tensors.get(&name) else {
            return fault(
                &weight.name,
                format!("no tensor is called {name}"),
                "one of the checkpoint's".to_owned(),
            );
        };
        let squeezed: Vec<u64> = spec.shape.iter().map(|n| *n as u64).collect();
        let elements = squeezed.iter().product::<u64>();
        let same_order = weight.transposed == spec.kind.transposed_in_module();
        let last = weight.ty.last().and_then(Dim::as_fixed).map(u64::from) == squeezed.last().copied();
        if !(same_order && last && weight.ty.elements(0, 0) == Some(elements)) {
            let found = format!("{}{}", weight.ty, if weight.transposed { " transposed" } else { "" });
            return fault(&weight.name, found, format!("{name} {:?} of the checkpoint", spec.shape));
        }
    }
    if graph.weights().len() != tensors.len() {
        let count = format!("{} weights", graph.weights().len());
        return fault("(all)", count, format!("one for each of {} tensors", tensors.len()));
    }
    Ok(())
}
