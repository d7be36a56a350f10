//! q8_0: 32 weights as signed bytes under one f16 scale, `scale = max |x| / 127`.
//!
//! Rounding the scale to f16 moves it by up to 1/2048 of itself; codes are computed with the rounded scale.

use super::group::{Fault, clamp, half_scale, peak, round, stored};

/// Largest code. -128 is representable but never produced, so that codes are symmetric.
const MAX: f32 = 127.0;

/// One canonical unit: f16 scale, 32 codes.
pub(super) fn encode(x: &[f32; 32]) -> Result<[u8; 34], Fault> {
    let peak = peak(x)?;
    let scale = half_scale(peak.abs() / MAX, x, peak)?;
    let mut unit = [0; 34];
    unit[..2].copy_from_slice(&scale.to_le_bytes());
    if scale.to_f32() != 0.0 {
        let inverse = 1.0 / scale.to_f32();
        for (code, x) in unit[2..].iter_mut().zip(x) {
            *code = stored(round(clamp(x * inverse, -MAX, MAX)), 0);
        }
    }
    Ok(unit)
}
