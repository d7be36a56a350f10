//! The x86-64 tiers.
#![allow(
    unsafe_code,
    reason = "intrinsics, behind tokens that prove the CPU features; loads and stores of arrays"
)]

mod avx512vnni;
mod v3;

pub use avx512vnni::Avx512Vnni;
pub use v3::X86V3;

use std::arch::x86_64::__cpuid;
use std::sync::OnceLock;

/// How far to prefetch two streams of weights. Measured, of a plain read's bandwidth, q4_0: Intel (Sapphire Rapids)
/// 79 % without, 100 % with; AMD (Zen 5) 97 % without, 92 % with.
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
