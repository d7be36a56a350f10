//! The x86-64 tiers.
#![allow(
    unsafe_code,
    reason = "intrinsics, behind tokens that prove the CPU features; loads and stores of arrays"
)]

mod avx512vnni;
mod avxvnni;
mod maddubs;
mod peak;
mod v3;
mod vnni;

pub use avx512vnni::Avx512Vnni;
pub use avxvnni::AvxVnni;
pub(crate) use peak::{dots, read};
pub use v3::X86V3;

use std::arch::x86_64::__cpuid;
use std::sync::OnceLock;

/// How far to prefetch two streams of weights.
///
/// Bandwidth of q4_0 AVX-512, of a plain read's: an Intel Xeon with AVX-512 FP16 about 80 % without prefetch, 94-103 %
/// with; an AMD Zen 5 97 % without, 92 % with.
fn stream_ahead() -> usize {
    // Asked once: in a virtual machine, cpuid costs as much as a small product.
    static AHEAD: OnceLock<usize> = OnceLock::new();
    *AHEAD.get_or_init(|| {
        let vendor = __cpuid(0);
        if [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"GenuineIntel" {
            4096
        } else {
            0
        }
    })
}
