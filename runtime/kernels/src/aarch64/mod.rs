//! The AArch64 tiers.
#![allow(
    unsafe_code,
    reason = "intrinsics and single instructions, behind tokens that prove the CPU features; loads and stores of arrays"
)]

mod codes;
mod dotprod;
mod i8mm;
mod neon;
mod peak;

pub use dotprod::Dotprod;
pub use i8mm::I8mm;
pub use neon::Neon;
pub(super) use peak::dots;

/// How far to prefetch two streams of weights: not at all, as it is not measured on such CPUs.
fn stream_ahead() -> usize {
    0
}
