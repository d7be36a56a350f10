//! The x86-64 tiers.
#![allow(
    unsafe_code,
    reason = "intrinsics, behind tokens that prove the CPU features; loads and stores of arrays"
)]

mod avx512vnni;
mod v3;

pub use avx512vnni::Avx512Vnni;
pub use v3::X86V3;
