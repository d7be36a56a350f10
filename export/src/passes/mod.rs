//! Graph → graph, one rewrite a file.
//!
//! [`PIPELINE`] is the order. The driver verifies the graph after every pass, so that a broken rewrite is named.
//! A pass reports how often it fired and why near misses did not.

mod cse;
mod dce;
mod drop_batch;
mod fold_constants;
mod fold_layout;
mod fuse_attention;
mod fuse_conv_gate;
mod fuse_linear;
mod fuse_moe;
mod fuse_residual;
mod fuse_rms_norm;
mod fuse_rope;
mod fuse_swiglu;
mod kv_dtype;
mod last_row;
pub(crate) mod pattern;

use std::fmt;

use lfm_graphs::{BuildError, DType, Graph, verify};

pub use cse::Cse;
pub use dce::Dce;
pub use drop_batch::DropBatch;
pub use fold_constants::FoldConstants;
pub use fold_layout::FoldLayout;
pub use fuse_attention::FuseAttention;
pub use fuse_conv_gate::FuseConvGate;
pub use fuse_linear::FuseLinear;
pub use fuse_moe::FuseMoe;
pub use fuse_residual::FuseResidual;
pub use fuse_rms_norm::FuseRmsNorm;
pub use fuse_rope::FuseRope;
pub use fuse_swiglu::FuseSwiGlu;
pub use kv_dtype::KvDtype;
pub use last_row::LastRow;

/// A rewrite of the whole graph.
pub trait Pass: Sync {
    /// Kebab case: the file name with dashes.
    fn name(&self) -> &'static str;
    /// The rewritten graph. A second run on it fires zero times and gives the same text.
    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError>;
}

/// What a pass did.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The graph after it.
    pub graph: Graph,
    /// How many rewrites fired.
    pub fired: u32,
    /// Near misses, in the order of the graph.
    pub misses: Vec<Miss>,
}

/// Why a rewrite that looked possible did not fire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Miss {
    /// A value inside the pattern is read from outside, or leaves the graph.
    Shared {
        /// The node at which the pattern ends.
        at: String,
        /// The value.
        value: String,
        /// The node that reads it.
        by: String,
    },
    /// A side condition does not hold.
    Check {
        /// The node at which the pattern ends.
        at: String,
        /// What was found and expected.
        why: String,
    },
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Miss::Shared { at, value, by } => write!(f, "at {at}: {value} is read by {by} too"),
            Miss::Check { at, why } => write!(f, "at {at}: {why}"),
        }
    }
}

/// Why passes could not be run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PassError {
    /// A rewrite emitted a node that does not fit.
    #[error("pass {pass}: {source}")]
    Build {
        /// The pass.
        pass: &'static str,
        /// What does not fit.
        #[source]
        source: Box<BuildError>,
    },
    /// The graph after a pass breaks rules.
    #[error("pass {pass} left a graph that is not sound: {errors}")]
    Unsound {
        /// The pass.
        pass: &'static str,
        /// All broken rules.
        errors: String,
    },
    /// There is no pass of that name.
    #[error("there is no pass `{name}`, expected one of {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// All names.
        known: String,
    },
}

/// The order of passes.
pub const PIPELINE: &[&dyn Pass] = &[
    &DropBatch,     // tensors lose the batch axis that only the traced module needs
    &FoldConstants, // scalars become attributes, which the patterns below look for
    &FoldLayout,    // reshapes cancel; weights have the shapes in which they are used
    &Cse,           // equal views become one value, so that "the same x" is a comparison
    &Dce,           // what has become unused has no readers that would block a fusion
    &FuseLinear,    // matrices in [out, in] order; the names of everything that follows come from them
    &FuseRmsNorm,   // norms, of rows and of heads
    &FuseRope,      // needs heads as [seq, heads, d], before they are permuted for attention
    &FuseAttention, // takes over the key and value states
    &FuseConvGate,  // takes over the window state
    &FuseSwiGlu,    // dense feed-forward
    &FuseMoe,       // router and experts
    &FuseResidual,  // what is added to the residual stream adds it itself; after all that ends in a product
    &LastRow,       // norm and head for one row: after fusion, when both are single nodes
];

/// What the driver does besides running all passes.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Ends after the pass of this name.
    pub stop_after: Option<String>,
    /// Keeps the text of the graph after the pass of this name.
    pub dump_after: Option<String>,
    /// Element type of attention states; `f32`, as traced, when absent.
    pub kv: Option<DType>,
}

/// One pass as it went.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The pass.
    pub pass: &'static str,
    /// How many rewrites fired.
    pub fired: u32,
    /// Near misses.
    pub misses: Vec<Miss>,
    /// Nodes after it.
    pub nodes: usize,
}

/// The result of the driver.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimized {
    /// The graph after the last pass.
    pub graph: Graph,
    /// What every pass did.
    pub steps: Vec<Step>,
    /// The text asked for by [`Options::dump_after`].
    pub dump: Option<String>,
}

/// Runs [`PIPELINE`], and [`KvDtype`] where a type is asked for.
pub fn optimize(graph: &Graph, options: &Options) -> Result<Optimized, PassError> {
    let kv = options.kv.map(KvDtype);
    let passes = PIPELINE.iter().copied().chain(kv.iter().map(|pass| pass as &dyn Pass));
    let names: Vec<&'static str> = passes.clone().map(Pass::name).collect();
    for name in options.stop_after.iter().chain(&options.dump_after) {
        if !names.contains(&name.as_str()) {
            return Err(PassError::Unknown { name: name.clone(), known: names.join(", ") });
        }
    }
    let mut done = Optimized { graph: graph.clone(), steps: Vec::new(), dump: None };
    for pass in passes {
        let outcome = run(pass, &done.graph)?;
        done.graph = outcome.graph;
        done.steps.push(Step {
            pass: pass.name(),
            fired: outcome.fired,
            misses: outcome.misses,
            nodes: done.graph.nodes().len(),
        });
        if options.dump_after.as_deref() == Some(pass.name()) {
            done.dump = Some(done.graph.text());
        }
        if options.stop_after.as_deref() == Some(pass.name()) {
            break;
        }
    }
    Ok(done)
}

/// Runs one pass and verifies what it leaves.
pub fn run(pass: &dyn Pass, graph: &Graph) -> Result<Outcome, PassError> {
    let name = pass.name();
    let outcome =
        pass.run(graph).map_err(|source| PassError::Build { pass: name, source: Box::new(source) })?;
    let errors: Vec<String> = verify(&outcome.graph).iter().map(ToString::to_string).collect();
    if errors.is_empty() {
        Ok(outcome)
    } else {
        Err(PassError::Unsound { pass: name, errors: errors.join("; ") })
    }
}
