//! What the bytes of a weight are worth: canonical and packed rows as f32. This is the definition of each format.
//!
//! ```text
//! f32, f16   the number itself
//! q8_0       scale * q
//! q4_0       scale * (nibble - 8)
//! q6_k       d * (sub * (q - 32))      the bracket is an exact integer
//! q4_k, q5_k d * sc * q - dmin * m
//! ```
//!
//! The first products of q8_0 and q4_0 are exact in f32 (11 + 8 bits); q6_k rounds once. In q4_k and q5_k both products
//! are exact (11 + 6 + 5 and 11 + 6 bits), so only the difference rounds, fused or not.

use half::f16;
use thiserror::Error;

use super::format::Format;
use super::k_quant;
use super::layout;
use super::pack::{self, PackError};
use super::q6_k;

/// A row whose length does not fit its format.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("a {format} row of {k} elements: found {found} bytes, expected {expected}")]
pub struct RowLength {
    /// Format of the row.
    pub format: Format,
    /// Elements wanted.
    pub k: usize,
    /// Bytes given.
    pub found: usize,
    /// Bytes that k implies; `usize::MAX` if there is no such number.
    pub expected: usize,
}

/// The values of a canonical row, `out.len()` elements.
pub fn dequantise_row(format: Format, row: &[u8], out: &mut [f32]) -> Result<(), RowLength> {
    let k = out.len();
    let expected = format.row_bytes(k).unwrap_or(usize::MAX);
    if row.len() != expected {
        return Err(RowLength { format, k, found: row.len(), expected });
    }
    match format {
        Format::F32 => each(row, out, |unit| [f32::from_le_bytes(*unit)]),
        Format::F16 => each(row, out, |unit| [f16::from_le_bytes(*unit).to_f32()]),
        Format::Q8_0 => each(row, out, q8_0_unit),
        Format::Q4_0 => each(row, out, q4_0_unit),
        Format::Q6K => each(row, out, q6_k_unit),
        Format::Q4K => each(row, out, q4_k_unit),
        Format::Q5K => each(row, out, q5_k_unit),
    }
    Ok(())
}

/// The values of row `row` of a packed matrix of `rows x out.len()`.
pub fn dequantise_packed_row(
    format: Format,
    rows: usize,
    packed: &[u8],
    row: usize,
    out: &mut [f32],
) -> Result<(), PackError> {
    let k = out.len();
    let canonical = pack::unpacked_row(format, rows, k, packed, row)?;
    dequantise_row(format, &canonical, out).map_err(|_| PackError::TooLarge { format, rows, k })
}

/// The values of one canonical q8_0 unit.
pub fn q8_0_unit(unit: &[u8; 34]) -> [f32; 32] {
    let scale = f16::from_le_bytes([unit[0], unit[1]]).to_f32();
    std::array::from_fn(|i| scale * f32::from(unit[2 + i].cast_signed()))
}

/// The values of one canonical q4_0 unit.
pub fn q4_0_unit(unit: &[u8; 18]) -> [f32; 32] {
    let scale = f16::from_le_bytes([unit[0], unit[1]]).to_f32();
    std::array::from_fn(|i| {
        let nibble = if i < 16 { unit[2 + i] & 15 } else { unit[2 + i - 16] >> 4 };
        scale * (f32::from(nibble) - f32::from(layout::q4_0::OFFSET))
    })
}

/// The values of one canonical q6_k unit.
pub fn q6_k_unit(unit: &[u8; 210]) -> [f32; 256] {
    let d = f16::from_le_bytes([unit[208], unit[209]]).to_f32();
    let codes = q6_k::codes(unit);
    std::array::from_fn(|i| {
        let sub = f32::from(unit[192 + i / 16].cast_signed());
        d * (sub * (f32::from(codes[i]) - f32::from(layout::q6_k::OFFSET)))
    })
}

/// The values of one canonical q4_k unit.
pub fn q4_k_unit(unit: &[u8; 144]) -> [f32; 256] {
    k_values(&std::array::from_fn(|i| unit[i]), &k_quant::q4_k_codes(unit))
}

/// The values of one canonical q5_k unit.
pub fn q5_k_unit(unit: &[u8; 176]) -> [f32; 256] {
    k_values(&std::array::from_fn(|i| unit[i]), &k_quant::q5_k_codes(unit))
}

/// The values of 256 codes with the scales of a q4_k or q5_k unit, its first 16 bytes.
fn k_values(head: &[u8; 16], codes: &[u8; 256]) -> [f32; 256] {
    let d = f16::from_le_bytes([head[0], head[1]]).to_f32();
    let dmin = f16::from_le_bytes([head[2], head[3]]).to_f32();
    let scales = k_quant::scales(&std::array::from_fn(|i| head[k_quant::SCALES + i]));
    let scales = scales.map(|group| (d * f32::from(group.sc), dmin * f32::from(group.m)));
    std::array::from_fn(|i| {
        let (scale, min) = scales[i / 32];
        scale * f32::from(codes[i]) - min
    })
}

/// Decodes every unit, the last one as far as `out` goes.
fn each<const UNIT: usize, const N: usize>(
    row: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; UNIT]) -> [f32; N],
) {
    for (unit, out) in row.as_chunks::<UNIT>().0.iter().zip(out.chunks_mut(N)) {
        out.copy_from_slice(&decode(unit)[..out.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::k_quant::GroupScale;
    use super::*;

    /// f16 bits of 0.5.
    const HALF: [u8; 2] = [0x00, 0x38];

    #[test]
    fn q4_0_pairs_element_i_with_16_plus_i() {
        let mut unit = [0x88; 18];
        unit[..2].copy_from_slice(&HALF);
        unit[2] = 0xf0;
        let values = q4_0_unit(&unit);
        assert_eq!((values[0], values[16], values[1]), (-4.0, 3.5, 0.0));
    }

    #[test]
    fn q8_0_is_scale_times_byte() {
        let mut unit = [0; 34];
        unit[..2].copy_from_slice(&HALF);
        unit[2] = 0x80;
        unit[33] = 127;
        let values = q8_0_unit(&unit);
        assert_eq!((values[0], values[31], values[1]), (-64.0, 63.5, 0.0));
    }

    #[test]
    fn q6_k_codes_and_sub_scales_follow_the_elements() {
        let codes: [u8; 256] = std::array::from_fn(|i| (i * 7 % 64) as u8);
        let mut unit = [0; 210];
        q6_k::set_codes(&mut unit, &codes);
        assert_eq!(q6_k::codes(&unit), codes);
        for s in 0..16 {
            unit[192 + s] = (s as i8 - 8).cast_unsigned();
        }
        unit[208..].copy_from_slice(&HALF);
        let values = q6_k_unit(&unit);
        for (i, value) in values.iter().enumerate() {
            let (sub, code) = (i as i32 / 16 - 8, i32::from(codes[i]));
            assert_eq!(*value, 0.5 * (sub * (code - 32)) as f32, "element {i}");
        }
        // Element 100 = 0 * 128 + 3 * 32 + 4: high nibble of ql[32 + 4], top bits of qh[4].
        assert_eq!(codes[100], unit[36] >> 4 | unit[132] >> 6 << 4);
    }

    #[test]
    fn q4_k_and_q5_k_scale_and_shift_each_group() {
        let scales: [GroupScale; 8] =
            std::array::from_fn(|g| GroupScale { sc: 63 - g as u8, m: 8 * g as u8 });
        let (mut q4, mut q5) = ([0; 144], [0; 176]);
        for head in [&mut q4[..16], &mut q5[..16]] {
            head[..2].copy_from_slice(&HALF);
            head[2..4].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
            head[4..].copy_from_slice(&k_quant::set_scales(&scales));
        }
        let codes: [u8; 256] = std::array::from_fn(|i| (i * 7 % 32) as u8);
        k_quant::set_q4_k_codes(&mut q4, &codes.map(|code| code % 16));
        k_quant::set_q5_k_codes(&mut q5, &codes);
        for (i, (v4, v5)) in q4_k_unit(&q4).into_iter().zip(q5_k_unit(&q5)).enumerate() {
            let (sc, m) = (63 - i as i32 / 32, 8 * (i as i32 / 32));
            let value = |code: u8| 0.25 * (2 * sc * i32::from(code) - m) as f32;
            assert_eq!((v4, v5), (value(codes[i] % 16), value(codes[i])), "element {i}");
        }
    }

    #[test]
    fn a_partial_unit_gives_only_its_elements() {
        let mut unit = [0x99; 18];
        unit[..2].copy_from_slice(&HALF);
        let mut out = [0.0; 5];
        dequantise_row(Format::Q4_0, &unit, &mut out).unwrap();
        assert_eq!(out, [0.5; 5]);
        let error = dequantise_row(Format::Q4_0, &unit[..17], &mut out).unwrap_err();
        assert_eq!(error.to_string(), "a q4_0 row of 5 elements: found 17 bytes, expected 18");
    }
}
