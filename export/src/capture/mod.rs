//! Module → list of operations with symbolic sizes, without a single weight in memory.
//!
//! burn-capture runs a module on a device that records operations instead of executing them. Parameters are
//! handles that have a shape and a path but no elements. Recorded sizes are concrete, so the module is recorded
//! at several ([`solve::PROBES`]) numbers of tokens and every number that differs is solved for `seq` and `past`.
//!
//! | file | what |
//! |---|---|
//! | [`record`] | one recording; the only file that names burn-capture and burn-ir |
//! | [`ops`] | the list of operations |
//! | [`solve`] | several recordings → one with symbolic sizes |
//! | [`lfm2`] | how LFM2 is traced |

pub mod lfm2;
pub mod ops;
pub mod record;
pub mod solve;
mod text;

use lfm_graphs::Dim;

pub use ops::{Captured, CapturedOp, Kind, ValueId};
pub use record::Tracer;

/// Why a module could not be captured.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CaptureError {
    /// burn-capture refused.
    #[error("capturing {model}: {message}")]
    Burn {
        /// The module.
        model: String,
        /// What it said.
        message: String,
    },
    /// The trace declares something that does not fit together.
    #[error("tracing {model}: {message}")]
    Trace {
        /// The module.
        model: String,
        /// What was declared and what was expected.
        message: String,
    },
    /// Recordings at two lengths do not have the same structure.
    #[error(
        "capturing {model}: {place} differs between (seq, past) = {first:?} and {second:?}: {found} and {other}"
    )]
    Structure {
        /// The module.
        model: String,
        /// Which operation or declaration.
        place: String,
        /// One probe.
        first: (u32, u32),
        /// The other probe.
        second: (u32, u32),
        /// What the first probe gave.
        found: String,
        /// What the other probe gave.
        other: String,
    },
    /// A number is no `base + a·seq + b·past`.
    #[error(
        "capturing {model}: {place} is {found:?} at (seq, past) = {probes:?}, which is no sum of a number and multiples of seq and past"
    )]
    Size {
        /// The module.
        model: String,
        /// Which operation or value.
        place: String,
        /// The numbers found.
        found: Vec<u64>,
        /// Where they were found.
        probes: Vec<(u32, u32)>,
    },
}

/// A module that can be captured: it says what it is fed, what it carries from call to call and what it gives.
///
/// `trace` is called several times, each time with another number of tokens, and must do the same each time. It
/// gets everything from the [`Tracer`]:
///
/// ```no_run
/// use burn::nn::{Embedding, EmbeddingConfig};
/// use lfm_export::capture::{Traceable, Tracer};
///
/// struct Table;
///
/// impl Traceable for Table {
///     fn name(&self) -> String {
///         "table".into()
///     }
///     fn trace(&self, tracer: &mut Tracer) {
///         let table: Embedding = tracer.module(EmbeddingConfig::new(100, 16).init(tracer.device()));
///         let tokens = tracer.input("tokens");
///         let rows = table.forward(tokens.unsqueeze());
///         tracer.output(rows.squeeze_dim::<2>(0));
///     }
/// }
/// ```
pub trait Traceable {
    /// The name of the graph, such as `lfm2_moe`.
    fn name(&self) -> String;

    /// Runs the module once on the tracer's device.
    fn trace(&self, tracer: &mut Tracer);
}

/// Captures a module at all probes and solves its sizes.
///
/// # Panics
/// When the module itself panics, for example on shapes that do not fit.
pub fn capture(module: &dyn Traceable) -> Result<Captured<Dim>, CaptureError> {
    let mut probes = Vec::with_capacity(solve::PROBES.len());
    for (seq, past) in solve::PROBES {
        probes.push(record::record(module, seq, past)?);
    }
    solve::solve(&probes)
}
