//! The kernels as generic bodies: written once, compiled in every tier with its instructions.
//!
//! Everything here is `#[inline(always)]` and has no CPU features of its own, so that it takes those of the tier's
//! entry point it is inlined into.

pub(super) mod attention;
pub(super) mod conv;
pub(super) mod dense;
pub(super) mod quantize;
pub(super) mod vector;
