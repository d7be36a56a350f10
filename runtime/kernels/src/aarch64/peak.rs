//! The most that the instructions of a tier can do: int8 multiply-adds in registers, nothing from memory.

use std::arch::aarch64::*;
use std::arch::asm;
use std::hint::black_box;

use super::{Dotprod, I8mm, Neon};
use crate::Kernels;

/// Chains that do not wait for each other: as many as hide the latency of four pipes.
const CHAINS: usize = 16;

/// Does `rounds` rounds of the densest int8 products of the tier called `isa`, and says how many multiply-adds these
/// were; `None` if this CPU has no such tier.
pub(crate) fn dots(isa: &str, rounds: u32) -> Option<u64> {
    /// `rounds` times the same instruction for all chains, each MACS multiply-adds.
    macro_rules! chains {
        ($instruction:literal, $macs:literal) => {{
            let (w, x) = (black_box([3i8; 16]), black_box([-5i8; 16]));
            let mut sums = [[0i32; 4]; CHAINS];
            // SAFETY: the tier was detected, so the CPU has the instruction; 16 bytes of arrays are read and written.
            unsafe {
                let (w, x) = (vld1q_s8(w.as_ptr()), vld1q_s8(x.as_ptr()));
                let mut held: [int32x4_t; CHAINS] = [vdupq_n_s32(0); CHAINS];
                for _ in 0..rounds {
                    for sum in &mut held {
                        asm!(
                            $instruction,
                            sum = inout(vreg) *sum,
                            w = in(vreg) w,
                            x = in(vreg) x,
                            options(nomem, nostack, preserves_flags),
                        );
                    }
                }
                for (sum, held) in sums.iter_mut().zip(held) {
                    vst1q_s32(sum.as_mut_ptr(), held);
                }
            }
            black_box(sums);
            Some(u64::from(rounds) * (CHAINS * $macs) as u64)
        }};
    }
    if I8mm::detect().is_some_and(|tier| tier.name() == isa) {
        return chains!(".arch_extension i8mm\nsmmla {sum:v}.4s, {w:v}.16b, {x:v}.16b", 32);
    }
    if Dotprod::detect().is_some_and(|tier| tier.name() == isa) {
        return chains!(".arch_extension dotprod\nsdot {sum:v}.4s, {w:v}.16b, {x:v}.16b", 16);
    }
    if Neon::detect().is_some_and(|tier| tier.name() == isa) {
        return chains!("smlal {sum:v}.8h, {w:v}.8b, {x:v}.8b", 8);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted() {
        assert_eq!(dots("portable", 1), None);
        for (tier, macs) in [("aarch64-neon", 8), ("aarch64-dotprod", 16), ("aarch64-i8mm", 32)] {
            let found = dots(tier, 10);
            assert_eq!(found, crate::by_name(tier).ok().map(|_| 10 * 16 * macs), "{tier}");
        }
    }
}
