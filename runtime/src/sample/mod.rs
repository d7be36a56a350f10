//! From logits to the next token: penalties, filters, one random draw.
//!
//! Everything here is deterministic: the same logits, settings, seed and history give the same
//! tokens on every machine.

mod filter;
mod rng;
mod sampler;
mod settings;

pub use rng::Rng;
pub use sampler::Sampler;
pub use settings::{SampleError, Settings};
