//! `aarch64-dotprod`: `sdot` with quads of activations picked by lane; all but quantised products are those of
//! `aarch64-neon`.

use std::arch::aarch64::*;
use std::arch::asm;
use std::sync::OnceLock;

use super::Neon;
use super::codes::Bytes;
use crate::driver;
use crate::quant::{Quant, Unpacked, Weights};
use crate::tier::{implement_kernels, implement_products};
use crate::tile::{self, CHUNK, Coming, Sums};
use crate::{Attention, Cols, ConvGate, Input, Kernels, Matrix, Panels, PanelsMut};

/// Kernels for CPUs with `sdot` besides Advanced SIMD. Having one proves that this CPU does.
#[derive(Clone, Copy, Debug)]
pub struct Dotprod(Neon);

impl Dotprod {
    /// The tier, if this CPU has its features.
    pub fn detect() -> Option<&'static Dotprod> {
        static TIER: OnceLock<Dotprod> = OnceLock::new();
        let neon = Neon::detect().filter(|_| std::arch::is_aarch64_feature_detected!("dotprod"))?;
        Some(TIER.get_or_init(|| Dotprod(*neon)))
    }

    /// `sum` and, for 4 rows, the products of a quad of weights with quad J of `x`.
    #[inline(always)]
    fn sdot<const J: usize>(self, mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the token exists, so the CPU has the instruction; it takes and gives registers only. The standard
        // library's name for it is not stable.
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{j}]",
                sum = inout(vreg) sum,
                w = in(vreg) w,
                x = in(vreg) x,
                j = const J,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }
}

implement_products!(Dotprod, "neon,dotprod", Neon, isa => isa.0);
implement_kernels!(Dotprod, "aarch64-dotprod", pass_on());

impl Bytes for Dotprod {
    #[inline(always)]
    fn neon(self) -> Neon {
        self.0
    }

    #[inline(always)]
    fn products<const LARGE: bool>(self, sum: int32x4_t, w: [int8x16_t; 4], x: int8x16_t) -> int32x4_t {
        let sum = self.sdot::<0>(sum, w[0], x);
        let sum = self.sdot::<1>(sum, w[1], x);
        let sum = self.sdot::<2>(sum, w[2], x);
        self.sdot::<3>(sum, w[3], x)
    }
}
