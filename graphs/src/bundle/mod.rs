//! The bundle file (`.lfmb`): everything that the runtime needs to run a model on one kind of device.
//!
//! A header page, then text sections, then the weights, then golden vectors; `docs/bundle-format.md` has the
//! layout byte by byte. [`BundleWriter`] streams one to disk under a temporary name and publishes it with a
//! rename; [`Bundle`] checks the bytes of one, mapped or read by the caller, before any of them is used.
//! What is inside the graph, plan, target and weights sections is the business of other modules.

mod error;
mod golden;
mod header;
mod kind;
mod manifest;
mod partial;
mod reader;
mod request;
mod text;
mod writer;

#[cfg(test)]
mod tests;

pub use error::{BundleError, WriteError};
pub use golden::{Golden, GoldenVector, LogitsDigest};
pub use header::{HEADER_LEN, MAGIC, MAX_SECTIONS, Section, VERSION};
pub use kind::Kind;
pub use manifest::{KvType, Manifest, Parameters, Source};
pub use reader::Bundle;
pub use request::Request;
pub use writer::{BundleWriter, Published, Sealed, WeightsWriter};
