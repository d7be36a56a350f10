//! What the quantisers share: cutting a row into groups, the largest element, rounding.

use half::f16;

use super::f16::finite;

/// Where and why a group cannot be encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fault {
    /// Element, counted from the start of the group (by an encoder) or of the row (by [`each`]).
    pub(super) element: usize,
    /// What is wrong with it.
    pub(super) kind: FaultKind,
}

/// What is wrong with an element.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FaultKind {
    /// NaN or infinite.
    NotFinite,
    /// Its f16 scale, or itself as f16, would be infinite.
    Overflow,
}

/// Encodes a row group by group; the last group is filled up with zeros.
pub(super) fn each<const N: usize, const UNIT: usize>(
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(&[f32; N]) -> Result<[u8; UNIT], Fault>,
) -> Result<(), Fault> {
    let (groups, rest) = values.as_chunks::<N>();
    let mut units = out.as_chunks_mut::<UNIT>().0.iter_mut();
    for (n, (group, unit)) in groups.iter().zip(&mut units).enumerate() {
        *unit = encode(group).map_err(|fault| Fault { element: n * N + fault.element, ..fault })?;
    }
    if let (false, Some(unit)) = (rest.is_empty(), units.next()) {
        let mut group = [0.0; N];
        group[..rest.len()].copy_from_slice(rest);
        *unit =
            encode(&group).map_err(|fault| Fault { element: groups.len() * N + fault.element, ..fault })?;
    }
    Ok(())
}

/// The element of largest magnitude, sign included (of +m and -m, -m); or the first element that is not finite.
pub(super) fn peak<const N: usize>(values: &[f32; N]) -> Result<f32, Fault> {
    // Magnitudes order like their bits, the sign below them; infinities and NaNs lie above all others. The compiler
    // turns a signed maximum into vector code on every target, so the order is moved to that of i32.
    const FLIP: u32 = 1 << 31;
    let key = |value: f32| (value.to_bits().rotate_left(1) ^ FLIP).cast_signed();
    let mut largest = i32::MIN;
    for value in values {
        let key = key(*value);
        largest = if key > largest { key } else { largest };
    }
    let value = f32::from_bits((largest.cast_unsigned() ^ FLIP).rotate_right(1));
    if value.is_finite() {
        return Ok(value);
    }
    let element = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
    Err(Fault { element, kind: FaultKind::NotFinite })
}

/// `scale` as f16, or a fault at the element `peak` of `values`, which made it too large.
pub(super) fn half_scale<const N: usize>(scale: f32, values: &[f32; N], peak: f32) -> Result<f16, Fault> {
    finite(scale).ok_or_else(|| Fault {
        element: values.iter().position(|value| *value == peak).unwrap_or(0),
        kind: FaultKind::Overflow,
    })
}

/// Rounds to the nearest integer, ties to even; exact for magnitudes below 2^22, and without a library call on targets
/// that have no rounding instruction.
#[inline]
pub(super) fn round(value: f32) -> f32 {
    (value + SHIFT) - SHIFT
}

/// 1.5 * 2^23: a sum with it has no bits below 1, and its lowest bits are the rounded integer.
const SHIFT: f32 = 12_582_912.0;

/// `code + offset` of an integral code: the low byte of the sum, without the checks of a cast.
#[inline]
pub(super) fn stored(code: f32, offset: u8) -> u8 {
    (code + (SHIFT + f32::from(offset))).to_bits() as u8
}

/// `value` within `low..=high`, as one minimum and one maximum. `value` is not NaN.
#[inline]
pub(super) fn clamp(value: f32, low: f32, high: f32) -> f32 {
    let value = if value < high { value } else { high };
    if value > low { value } else { low }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_even_and_clamping_is_exact() {
        for (value, expected) in
            [(0.5, 0.0), (1.5, 2.0), (-2.5, -2.0), (7.49, 7.0), (-127.6, -128.0), (0.0, 0.0)]
        {
            assert_eq!(round(value), expected);
        }
        assert_eq!((clamp(9.0, -8.0, 7.0), clamp(-9.0, -8.0, 7.0), clamp(3.0, -8.0, 7.0)), (7.0, -8.0, 3.0));
    }

    #[test]
    fn stored_codes_are_integers_plus_offset() {
        for code in -8..8_i32 {
            assert_eq!(stored(code as f32, 8), (code + 8) as u8);
        }
        for code in -127..=127_i8 {
            assert_eq!(stored(f32::from(code), 0), code.cast_unsigned());
        }
    }

    #[test]
    fn the_peak_keeps_its_sign_and_the_first_fault_is_named() {
        assert_eq!(peak(&[1.0, -3.0, 2.5, 2.0]), Ok(-3.0));
        assert_eq!(peak(&[1.0, 3.0, -2.5, f32::MIN_POSITIVE]), Ok(3.0));
        assert_eq!(peak(&[3.0, -3.0]), Ok(-3.0));
        assert_eq!(peak(&[0.0, -0.0]).map(f32::abs), Ok(0.0));
        let fault = peak(&[1.0, f32::NAN, f32::INFINITY, 2.0]).unwrap_err();
        assert_eq!(fault, Fault { element: 1, kind: FaultKind::NotFinite });
        let fault = half_scale(1e9, &[1.0, -7.0], -7.0).unwrap_err();
        assert_eq!(fault, Fault { element: 1, kind: FaultKind::Overflow });
    }
}
