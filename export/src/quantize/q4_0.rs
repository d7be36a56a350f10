//! q4_0: 32 weights as codes -8..=7 under one f16 scale, chosen for the least squared error.
//!
//! Plain rounding maps the element of largest magnitude, m, to -8: `scale = m / -8`. Some other scale nearly always
//! has less error, because the many small elements outweigh the one large element. The search:
//!
//! 1. For each candidate c of [`CANDIDATES`] (m falls on code c, -8 among them), the codes `q = round(x * c / m)`,
//!    clamped. For given codes the best scale is `sum(x q) / sum(q q)`, and its squared error is
//!    `sum(x x) - sum(x q)^2 / sum(q q)`: the candidate with the largest fraction wins.
//! 2. That scale is rounded to f16, codes and error are computed again *with the rounded scale*, and once more from
//!    the best scale of those codes.
//! 3. Of these and plain rounding, the one with the least error is kept; so the search never loses.
//!
//! This reaches the best possible scale within 0.03 % of the squared error.

use half::f16;
use lfm_graphs::weights::layout::q4_0::OFFSET;

use super::f16::finite;
use super::group::{Fault, clamp, half_scale, peak, round, stored};

/// Codes are -8..=7.
const LOW: f32 = -8.0;
const HIGH: f32 = 7.0;

/// The code that the largest element falls on before clamping: -9.0, -8.8 .. -6.0. Groups whose best scale lies outside
/// are rare, and the refinement moves towards it.
const CANDIDATES: [f32; 16] =
    [-9.0, -8.8, -8.6, -8.4, -8.2, -8.0, -7.8, -7.6, -7.4, -7.2, -7.0, -6.8, -6.6, -6.4, -6.2, -6.0];

/// Candidates computed side by side: as many as fit the registers of the baseline x86-64.
const LANES: usize = 8;

/// Times that the scale is recomputed from the codes.
const REFINEMENTS: usize = 2;

/// Codes under a scale, as stored, and what they lose.
struct Coded {
    scale: f16,
    codes: [f32; 32],
    /// Sum of squared differences.
    error: f32,
}

/// One canonical unit: f16 scale, 16 bytes of nibbles.
pub(super) fn encode(x: &[f32; 32]) -> Result<[u8; 18], Fault> {
    let peak = peak(x)?;
    let mut best = code(x, half_scale(peak / LOW, x, peak)?);
    // A scale of zero means that no element reaches half of the smallest f16: the squares below would vanish.
    if best.scale.to_f32() != 0.0 && best.error > 0.0 {
        let mut scale = search(x, peak);
        for _ in 0..REFINEMENTS {
            let Some(half) = finite(scale) else { break };
            let coded = code(x, half);
            scale = least_squares(x, &coded.codes);
            if coded.error < best.error {
                best = coded;
            }
        }
    }
    Ok(unit(&best))
}

/// The best scale of the best candidate. `peak` is the element of largest magnitude.
fn search(x: &[f32; 32], peak: f32) -> f32 {
    let (mut best, mut scale) = (0.0, 0.0);
    for candidates in CANDIDATES.as_chunks::<LANES>().0 {
        let mut inverse = [0.0; LANES];
        for (inverse, candidate) in inverse.iter_mut().zip(candidates) {
            *inverse = candidate / peak;
        }
        let (mut xq, mut qq) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        for x in x {
            for lane in 0..LANES {
                let q = round(clamp(x * inverse[lane], LOW, HIGH));
                xq[lane] += x * q;
                qq[lane] += q * q;
            }
        }
        // The largest element never has code 0, so qq is at least 1.
        for lane in 0..LANES {
            let gain = xq[lane] * xq[lane] / qq[lane];
            if gain > best {
                (best, scale) = (gain, xq[lane] / qq[lane]);
            }
        }
    }
    scale
}

/// The codes under a scale that is stored as it is, and their error.
fn code(x: &[f32; 32], scale: f16) -> Coded {
    let value = scale.to_f32();
    let inverse = if value == 0.0 { 0.0 } else { 1.0 / value };
    let mut codes = [0.0; 32];
    let mut errors = [0.0_f32; LANES];
    for (codes, x) in codes.as_chunks_mut::<LANES>().0.iter_mut().zip(x.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            codes[lane] = round(clamp(x[lane] * inverse, LOW, HIGH));
            let difference = x[lane] - value * codes[lane];
            errors[lane] += difference * difference;
        }
    }
    Coded { scale, codes, error: errors.iter().sum() }
}

/// The scale of least squared error under given codes.
fn least_squares(x: &[f32; 32], codes: &[f32; 32]) -> f32 {
    let (mut xq, mut qq) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    for (codes, x) in codes.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            xq[lane] += x[lane] * codes[lane];
            qq[lane] += codes[lane] * codes[lane];
        }
    }
    let (xq, qq): (f32, f32) = (xq.iter().sum(), qq.iter().sum());
    if qq > 0.0 { xq / qq } else { 0.0 }
}

/// The stored form: element i in the low nibble of byte i, element 16 + i in its high nibble.
fn unit(coded: &Coded) -> [u8; 18] {
    let mut unit = [0; 18];
    unit[..2].copy_from_slice(&coded.scale.to_le_bytes());
    let nibbles = coded.codes.map(|code| stored(code, OFFSET));
    for i in 0..16 {
        unit[2 + i] = nibbles[i] | nibbles[16 + i] << 4;
    }
    unit
}

/// Plain rounding, which the search is measured against.
#[cfg(test)]
pub(super) fn encode_plain(x: &[f32; 32]) -> Result<[u8; 18], Fault> {
    let peak = peak(x)?;
    Ok(unit(&code(x, half_scale(peak / LOW, x, peak)?)))
}
