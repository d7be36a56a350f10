//! exp, sigmoid and silu: one fixed sequence of IEEE operations, the same in every tier.
//!
//! Error against f64 for x in -87..=88, bounds that the tests check on a sample of all f32: exp 0.9 ulp, sigmoid 2.4.
//! NaN gives some number.

use super::lanes::Lanes;

/// Below this exp is +0 (the true value is near the smallest normal number).
pub(super) const LOWEST: f32 = -87.0;
/// Above this exp stays at exp(88) = 1.65e38.
pub(super) const HIGHEST: f32 = 88.0;

/// e^x: x = n ln 2 + r, e^r = 1 + r (1 + r p(r)), times 2^n.
#[inline(always)]
pub(super) fn exp<I: Lanes>(isa: I, x: I::V) -> I::V {
    let magic = isa.splat(12_582_912.0); // 1.5 * 2^23: adding it rounds to an integer
    let c = isa.min(isa.max(x, isa.splat(LOWEST)), isa.splat(HIGHEST));
    let t = isa.fma(c, isa.splat(std::f32::consts::LOG2_E), magic);
    let n = isa.sub(t, magic);
    let r = isa.fma(n, isa.splat(-0.693_359_4), c); // the top 9 bits of ln 2: exact
    let r = isa.fma(n, isa.splat(2.121_944_4e-4), r);
    let mut p = isa.splat(f32::from_bits(0x3ab5_11a8));
    for bits in [0x3c09_1d36, 0x3d2a_ac7a, 0x3e2a_aa48, 0x3eff_fffe, 0x3f80_0000, 0x3f80_0000] {
        p = isa.fma(p, r, isa.splat(f32::from_bits(bits)));
    }
    isa.zero_below(isa.exponent(p, t), x, isa.splat(LOWEST))
}

/// 1 + e^-x
#[inline(always)]
fn one_plus_exp_minus<I: Lanes>(isa: I, x: I::V) -> I::V {
    isa.add(isa.splat(1.0), exp(isa, isa.sub(isa.splat(0.0), x)))
}

/// 1 / (1 + e^-x)
#[inline(always)]
pub(super) fn sigmoid<I: Lanes>(isa: I, x: I::V) -> I::V {
    isa.div(isa.splat(1.0), one_plus_exp_minus(isa, x))
}

/// x / (1 + e^-x)
#[inline(always)]
pub(super) fn silu<I: Lanes>(isa: I, x: I::V) -> I::V {
    isa.div(x, one_plus_exp_minus(isa, x))
}
