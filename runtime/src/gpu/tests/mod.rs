//! Shaders against the portable CPU kernels, and what every shader must be on any machine.
//!
//! Tests that need an adapter say why they are skipped where there is none; with `REQUIRE_GPU=1` they fail instead.

mod attention;
mod bench;
mod conv_gate;
mod linear;
mod moe;
mod rows;
mod shaders;

pub(crate) use bench::{Bench, Rng, assert_near};
