//! Every tier of this CPU against the portable one, bit for bit, and that one against f64.
//!
//! `REQUIRE_ISA=x86-64-v3,x86-64-avx512vnni` makes it an error that this CPU lacks one of these tiers.

mod attention;
mod conv;
mod matmul;
mod quantize;
mod vector;

use super::{Kernels, Portable, available, best, by_name};

/// The tiers to compare with [`Portable`].
fn tiers() -> Vec<&'static dyn Kernels> {
    available().into_iter().filter(|tier| tier.name() != Portable.name()).collect()
}

#[test]
#[expect(clippy::print_stderr, reason = "which tiers a run has covered")]
fn required_tiers_are_here() {
    let names: Vec<_> = available().iter().map(|tier| tier.name()).collect();
    eprintln!("kernel tiers covered: {}", names.join(", "));
    for name in std::env::var("REQUIRE_ISA").unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
        assert!(names.contains(&name), "REQUIRE_ISA names {name}, this CPU has {names:?}");
    }
}

#[test]
fn tiers_are_found_by_name() {
    for tier in available() {
        assert_eq!(by_name(tier.name()).unwrap().name(), tier.name());
    }
    assert!(available().iter().any(|tier| tier.name() == best().name()));
    let error = by_name("sse9").err().unwrap().to_string();
    assert!(error.contains("`sse9`") && error.contains("portable"), "{error}");
}

#[track_caller]
fn assert_bits(found: &[f32], expected: &[f32], what: impl Fn() -> String) {
    assert_eq!(found.len(), expected.len(), "{}", what());
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(f.to_bits() == e.to_bits(), "{}: element {i}: found {f:e}, expected {e:e}", what());
    }
}

/// A small generator (xorshift64*).
struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in [-1, 1).
    fn unit(&mut self) -> f32 {
        (self.bits() & 0xff_ffff) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Uniform in [-1, 1) times a power of two of [-20, 20].
    fn wild(&mut self) -> f32 {
        self.unit() * 2.0f32.powi(self.below(41) as i32 - 20)
    }

    fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}
