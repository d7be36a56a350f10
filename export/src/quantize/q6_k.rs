//! q6_k: 256 weights as codes -32..=31, one signed byte of scale per 16 and one f16 scale d per 256, chosen for the
//! least squared error.
//!
//! The value is `d * sub * q`. Plain rounding maps the largest element m of each 16 to -32 and the largest of the 16
//! scales to sub = -128. The search tries a few d, already rounded to f16; for a given d every sub-block picks, on its
//! own and on the very grid that is stored, the integer sub of least error among those that put m near -32
//! ([`CANDIDATES`]). Plain rounding is among the candidates, so the search never loses. Recomputing d by least squares
//! from the codes was worth 0.02 % of the error, another d among those tried is worth more.

use half::f16;
use lfm_graphs::weights::layout::q6_k::OFFSET;
use lfm_graphs::weights::q6_k::set_codes;

use super::f16::finite;
use super::group::{self, Fault, clamp, half_scale, peak, round, stored};

/// Codes are -32..=31.
const LOW: f32 = -32.0;
const HIGH: f32 = 31.0;

/// Sub-scales are signed bytes.
const SUB_LOW: f32 = -128.0;
const SUB_HIGH: f32 = 127.0;

/// The code that the largest element of a sub-block falls on before clamping. The first is plain rounding.
const CANDIDATES: [f32; 16] = [
    -32.0, -33.5, -33.0, -32.5, -31.5, -31.0, -30.5, -30.0, -29.5, -29.0, -28.5, -28.0, -27.5, -27.0, -26.5,
    -26.0,
];

/// The sub-scale of the sub-block with the largest element, before its own search. The first is plain rounding.
const LARGEST_SUB: [f32; 3] = [-128.0, -118.0, -109.0];

/// Candidates computed side by side: as many as fit the registers of the baseline x86-64.
const LANES: usize = 8;

/// Sub-scales under one d, as stored, and what they lose.
struct Scales {
    d: f16,
    sub: [f32; 16],
    /// Sum of squared differences.
    error: f32,
}

/// One canonical unit: low bits, high bits, sub-scales, d.
pub(super) fn encode(x: &[f32; 256]) -> Result<[u8; 210], Fault> {
    let peak = peak(x)?;
    let peaks = peaks(x)?;
    let mut best = search(x, &peaks, half_scale(peak / (LOW * LARGEST_SUB[0]), x, peak)?);
    for largest in &LARGEST_SUB[1..] {
        let Some(d) = finite(peak / (LOW * largest)) else { break };
        let scales = search(x, &peaks, d);
        if scales.error < best.error {
            best = scales;
        }
    }
    Ok(unit(x, &best))
}

/// The element of largest magnitude of each sub-block.
fn peaks(x: &[f32; 256]) -> Result<[f32; 16], Fault> {
    let mut peaks = [0.0; 16];
    for (peak, x) in peaks.iter_mut().zip(x.as_chunks::<16>().0) {
        *peak = group::peak(x)?;
    }
    Ok(peaks)
}

/// The best sub-scales under a d that is stored as it is.
fn search(x: &[f32; 256], peaks: &[f32; 16], d: f16) -> Scales {
    let mut scales = Scales { d, sub: [0.0; 16], error: 0.0 };
    let d = d.to_f32();
    for ((sub, peak), x) in scales.sub.iter_mut().zip(peaks).zip(x.as_chunks::<16>().0) {
        let ideal = if d == 0.0 { 0.0 } else { peak / d };
        let mut least = f32::INFINITY;
        for candidates in CANDIDATES.as_chunks::<LANES>().0 {
            let (mut subs, mut scales, mut inverses) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
            for lane in 0..LANES {
                subs[lane] = round(clamp(ideal / candidates[lane], SUB_LOW, SUB_HIGH));
                scales[lane] = d * subs[lane];
                // Under a scale of zero the codes do not matter.
                inverses[lane] = 1.0 / if scales[lane] == 0.0 { 1.0 } else { scales[lane] };
            }
            let mut errors = [0.0_f32; LANES];
            for x in x {
                for lane in 0..LANES {
                    let q = round(clamp(x * inverses[lane], LOW, HIGH));
                    let difference = x - scales[lane] * q;
                    errors[lane] += difference * difference;
                }
            }
            for lane in 0..LANES {
                if errors[lane] < least {
                    (least, *sub) = (errors[lane], subs[lane]);
                }
            }
        }
        scales.error += least;
    }
    scales
}

/// The codes of one sub-block.
fn codes(x: &[f32; 16], d: f32, sub: f32) -> [f32; 16] {
    let scale = d * sub;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    x.map(|x| round(clamp(x * inverse, LOW, HIGH)))
}

/// The stored form.
fn unit(x: &[f32; 256], scales: &Scales) -> [u8; 210] {
    let mut unit = [0; 210];
    let mut bytes = [OFFSET; 256];
    for (s, (x, sub)) in x.as_chunks::<16>().0.iter().zip(scales.sub).enumerate() {
        let codes = codes(x, scales.d.to_f32(), sub);
        for (byte, q) in bytes[16 * s..].iter_mut().zip(codes) {
            *byte = stored(q, OFFSET);
        }
        unit[192 + s] = stored(sub, 0);
    }
    unit[208..].copy_from_slice(&scales.d.to_le_bytes());
    set_codes(&mut unit, &bytes);
    unit
}

/// Plain rounding, which the search is measured against.
#[cfg(test)]
pub(super) fn encode_plain(x: &[f32; 256]) -> Result<[u8; 210], Fault> {
    let peak = peak(x)?;
    let d = half_scale(peak / (LOW * LARGEST_SUB[0]), x, peak)?;
    let sub = peaks(x)?.map(|peak| match d.to_f32() {
        0.0 => 0.0,
        d => round(clamp(peak / (LOW * d), SUB_LOW, SUB_HIGH)),
    });
    Ok(unit(x, &Scales { d, sub, error: 0.0 }))
}
