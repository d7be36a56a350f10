//! The float formats: f32 as it is, f16 rounded to nearest even. Both refuse what they cannot hold.

use half::f16;

use super::group::{Fault, FaultKind};

/// One f32, which must be finite.
pub(super) fn encode_f32(value: &[f32; 1]) -> Result<[u8; 4], Fault> {
    match value[0].is_finite() {
        true => Ok(value[0].to_le_bytes()),
        false => Err(Fault { element: 0, kind: FaultKind::NotFinite }),
    }
}

/// A row as f16. The lengths have been checked.
pub(super) fn encode_row(values: &[f32], out: &mut [u8]) -> Result<(), Fault> {
    for (element, (value, out)) in values.iter().zip(out.as_chunks_mut::<2>().0).enumerate() {
        let Some(half) = finite(*value) else {
            let kind = if value.is_finite() { FaultKind::Overflow } else { FaultKind::NotFinite };
            return Err(Fault { element, kind });
        };
        *out = half.to_le_bytes();
    }
    Ok(())
}

/// The nearest f16, unless that is infinite or NaN.
pub(super) fn finite(value: f32) -> Option<f16> {
    let half = f16::from_f32(value);
    half.is_finite().then_some(half)
}
