//! LFM2 and LFM2-MoE in burn, one file per part of the model, and the reading of their checkpoints.
//!
//! [`Config`] and [`Checkpoint`] know nothing of burn: an exporter streams tensors through them without ever
//! holding a model. [`Lfm2`] is the model itself, for eager execution and for capture.

mod attention;
mod block;
mod by_layer;
mod checkpoint;
mod config;
mod device;
mod lfm2;
mod load;
mod mlp;
mod moe;
mod norm;
mod observe;
mod rope;
mod short_conv;
mod state;
mod tensors;

pub use attention::Attention;
pub use block::{Block, FeedForward};
pub use checkpoint::{Checkpoint, CheckpointError, Dtype, TensorInfo};
pub use config::{Config, ConfigError, FeedForwardKind, MoeConfig, OperatorKind};
pub use device::cpu;
#[cfg(feature = "wgpu")]
pub use device::gpu;
pub use lfm2::Lfm2;
pub use load::ParamPath;
pub use mlp::Mlp;
pub use moe::{Experts, Moe, Routing};
pub use norm::RmsNorm;
pub use observe::{Part, Point, Value};
pub use rope::Rope;
pub use short_conv::ShortConv;
pub use state::{LayerState, State};
pub use tensors::{TensorKind, TensorSpec, canonical_name};
