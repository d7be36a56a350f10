//! The contract between the exporter and the runtime: the graph language and everything both sides must
//! agree on.
//!
//! A [`Graph`] is a list of operations in execution order over values that only point backwards. It has two
//! symbols: `seq`, the tokens of a call, and `past`, the tokens already in the state; a [`Dim`] is affine in them.
//! Quantisation is a property of a weight's storage, never of a type. States are linear: each is read by one node
//! and replaced by its `next` when the call ends. A fused operation is defined by its expansion into core
//! operations.
//!
//! | module | what |
//! |---|---|
//! | [`op`], [`infer()`], [`types`], [`dim`] | the language: operations, their types, their sizes |
//! | [`graph`], [`build`], [`rewrite()`](rewrite()) | graphs, and the only two ways to make them in code |
//! | [`text`] | graph ↔ canonical RON |
//! | [`mod@verify`] | numbered rules; a graph that passes plans and runs without a panic |
//! | [`mod@expand`], [`interp`] | every fused operation as core operations; the naive interpreter of both |
//! | [`weights`] | formats and packed layouts of weights |
//! | [`mod@plan`], [`target`] | where everything lies in memory, and for which device |
//! | [`bundle`] | the `.lfmb` file |

pub mod build;
pub mod bundle;
pub mod dim;
pub mod expand;
pub mod graph;
pub mod id;
pub mod infer;
pub mod interp;
pub mod op;
pub mod plan;
pub mod replace;
pub mod rewrite;
pub mod target;
#[doc(hidden)]
pub mod testing;
pub mod text;
pub mod types;
pub mod verify;
pub mod weights;

pub use build::{BuildError, Builder};
pub use dim::Dim;
pub use graph::{Graph, Node, State, Update, Value, Weight};
pub use infer::{InferError, infer};
pub use op::Op;
pub use rewrite::{Rebuild, Step, rewrite, rewrite_with, sweep};
pub use types::{DType, TensorType};
pub use verify::{VerifyError, verify, verify_executable};
