//! `aarch64-i8mm`: `smmla` for many tokens, two rows times two tokens at once; for one token, `sdot`.

use std::arch::aarch64::*;
use std::arch::asm;
use std::sync::OnceLock;

use super::codes::{Bytes, load_half, load_quads};
use super::{Dotprod, Neon};
use crate::driver;
use crate::quant::{Group, Quant, Unpacked, Weights};
use crate::tier::{implement_kernels, implement_products};
use crate::tile::{self, CHUNK, Coming, Sums};
use crate::{Attention, Cols, ConvGate, Input, Kernels, Matrix, Panels, PanelsMut};

/// Kernels for CPUs with `smmla` besides `sdot`. Having one proves that this CPU does.
///
/// Weights are kept in octets, eight consecutive elements of a row: one register holds those of rows 0 and 1, the next
/// those of rows 2 and 3. Of each two tokens s and t of a tile, the first sum holds
/// `[row 0 x s, row 0 x t, row 1 x s, row 1 x t]` and the second the same of rows 2 and 3. A last token without another
/// has one sum, with rows in its lanes.
#[derive(Clone, Copy, Debug)]
pub struct I8mm(Dotprod);

impl I8mm {
    /// The tier, if this CPU has its features.
    pub fn detect() -> Option<&'static I8mm> {
        static TIER: OnceLock<I8mm> = OnceLock::new();
        let dotprod = Dotprod::detect().filter(|_| std::arch::is_aarch64_feature_detected!("i8mm"))?;
        Some(TIER.get_or_init(|| I8mm(*dotprod)))
    }

    /// `sum` and the products of an octet of two rows with that of two tokens.
    #[inline(always)]
    fn smmla(self, mut sum: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
        // SAFETY: the token exists, so the CPU has the instruction; it takes and gives registers only. The standard
        // library's name for it is not stable.
        unsafe {
            asm!(
                "smmla {sum:v}.4s, {w:v}.16b, {x:v}.16b",
                sum = inout(vreg) sum,
                w = in(vreg) w,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    /// The sums of rows 0 and 1 and of rows 2 and 3 with the two octets of half a group.
    #[inline(always)]
    fn octets(self, sums: [int32x4_t; 2], w: [int8x16_t; 4], x: [int8x16_t; 2]) -> [int32x4_t; 2] {
        let sums = [self.smmla(sums[0], w[0], x[0]), self.smmla(sums[1], w[1], x[0])];
        [self.smmla(sums[0], w[2], x[1]), self.smmla(sums[1], w[3], x[1])]
    }
}

implement_products!(I8mm, "neon,dotprod,i8mm", Neon, isa => isa.neon());
implement_kernels!(I8mm, "aarch64-i8mm", pass_on());

/// Whether sum `t` of N belongs to a token without another.
const fn alone<const N: usize>(t: usize) -> bool {
    N % 2 == 1 && t == N - 1
}

impl Bytes for I8mm {
    #[inline(always)]
    fn neon(self) -> Neon {
        self.0.neon()
    }

    #[inline(always)]
    fn products<const LARGE: bool>(self, sum: int32x4_t, w: [int8x16_t; 4], x: int8x16_t) -> int32x4_t {
        self.0.products::<LARGE>(sum, w, x)
    }

    #[inline(always)]
    fn order(self, quads: [int8x16_t; 2]) -> [int8x16_t; 2] {
        let neon = self.neon();
        let (a, b) = (neon.as_quads(quads[0]), neon.as_quads(quads[1]));
        [neon.as_bytes(neon.low_zip(a, b)), neon.as_bytes(neon.high_zip(a, b))]
    }

    #[inline(always)]
    fn half<const LARGE: bool, const N: usize>(
        self,
        kept: (&Unpacked, usize),
        h: usize,
        x: Group<N>,
        sums: &mut [int32x4_t; N],
    ) {
        let neon = self.neon();
        let w = load_quads(neon, kept, h);
        for t in (0..N).step_by(2) {
            let a = load_half(neon, x, t, h);
            if alone::<N>(t) {
                let x = [neon.low_octets(a, a), neon.high_octets(a, a)];
                let twice = self.octets([neon.splat_word(0); 2], w, x);
                sums[t] = neon.add_words(sums[t], neon.evens(twice[0], twice[1]));
            } else {
                let b = load_half(neon, x, t + 1, h);
                let x = [neon.low_octets(a, b), neon.high_octets(a, b)];
                [sums[t], sums[t + 1]] = self.octets([sums[t], sums[t + 1]], w, x);
            }
        }
    }

    #[inline(always)]
    fn enter<const N: usize>(self, sums: &mut [float32x4_t; N]) {
        let neon = self.neon();
        for pair in sums.as_chunks_mut::<2>().0 {
            let (a, b) = (neon.as_words(pair[0]), neon.as_words(pair[1]));
            *pair = [neon.as_floats(neon.low_zip(a, b)), neon.as_floats(neon.high_zip(a, b))];
        }
    }

    #[inline(always)]
    fn leave<const N: usize>(self, sums: &mut [float32x4_t; N]) {
        let neon = self.neon();
        for pair in sums.as_chunks_mut::<2>().0 {
            let (a, b) = (neon.as_words(pair[0]), neon.as_words(pair[1]));
            *pair = [neon.as_floats(neon.evens(a, b)), neon.as_floats(neon.odds(a, b))];
        }
    }

    #[inline(always)]
    fn rows<const N: usize>(self, rows: int32x4_t, t: usize) -> int32x4_t {
        match (alone::<N>(t), t % 2) {
            (true, _) => rows,
            (false, 0) => self.neon().low_zip(rows, rows),
            (false, _) => self.neon().high_zip(rows, rows),
        }
    }

    #[inline(always)]
    fn tokens<const N: usize>(self, field: &[i32; N], t: usize) -> float32x4_t {
        let neon = self.neon();
        if alone::<N>(t) {
            return neon.as_floats(neon.splat_word(field[t]));
        }
        neon.as_floats(neon.splat_pair(field[t & !1], field[t | 1]))
    }
}
