//! Where one canonical unit of one row goes inside a packed block, for each format.

use half::f16;

use super::super::format::Format;
use super::super::layout::{self, ROWS};
use super::super::q6_k;

/// The block of one format: `BLOCK` bytes hold `PER_BLOCK` canonical units of `UNIT` bytes of each of 16 rows.
pub(super) trait Units<const UNIT: usize, const BLOCK: usize> {
    /// The format.
    const FORMAT: Format;
    /// Units of one row in one block.
    const PER_BLOCK: usize;
    /// The unit whose values are all zero: padding.
    const ZERO: [u8; UNIT];
    /// Whether the scale (or the float itself) is neither infinite nor NaN.
    fn is_finite(unit: &[u8; UNIT]) -> bool;
    /// Stores unit `u` of row `row`.
    fn put(block: &mut [u8; BLOCK], u: usize, row: usize, unit: &[u8; UNIT]);
    /// Reads it back; `None` if no canonical unit has this packed form.
    fn take(block: &[u8; BLOCK], u: usize, row: usize) -> Option<[u8; UNIT]>;
}

/// One f32 per row.
pub(super) struct F32;
/// One f16 per row.
pub(super) struct F16;
/// Two groups of 32 bytes per row.
pub(super) struct Q8;
/// Two groups of 32 nibbles per row.
pub(super) struct Q4;
/// One unit of 256 six-bit codes per row.
pub(super) struct Q6;

/// Bytes of one quad, and distance between the same quads of neighbouring rows.
pub(super) const QUAD: usize = 4;
/// One quad of each of the 16 rows.
pub(super) const VECTOR: usize = QUAD * ROWS;

/// Whether little-endian f16 bits, of which this is the high byte, are finite.
pub(super) fn finite_half(high: u8) -> bool {
    high & 0x7c != 0x7c
}

impl Units<4, 64> for F32 {
    const FORMAT: Format = Format::F32;
    const PER_BLOCK: usize = 1;
    const ZERO: [u8; 4] = [0; 4];

    fn is_finite(unit: &[u8; 4]) -> bool {
        f32::from_le_bytes(*unit).is_finite()
    }

    #[inline]
    fn put(block: &mut [u8; 64], _: usize, row: usize, unit: &[u8; 4]) {
        block[4 * row..][..4].copy_from_slice(unit);
    }

    fn take(block: &[u8; 64], _: usize, row: usize) -> Option<[u8; 4]> {
        Some(std::array::from_fn(|i| block[4 * row + i]))
    }
}

impl Units<2, 32> for F16 {
    const FORMAT: Format = Format::F16;
    const PER_BLOCK: usize = 1;
    const ZERO: [u8; 2] = [0; 2];

    fn is_finite(unit: &[u8; 2]) -> bool {
        finite_half(unit[1])
    }

    #[inline]
    fn put(block: &mut [u8; 32], _: usize, row: usize, unit: &[u8; 2]) {
        block[2 * row..][..2].copy_from_slice(unit);
    }

    fn take(block: &[u8; 32], _: usize, row: usize) -> Option<[u8; 2]> {
        Some(std::array::from_fn(|i| block[2 * row + i]))
    }
}

/// Stores a group of f16 scale and `QUADS` quads: the scale among the scales, every quad in the row's dword.
#[inline]
fn put_group<const QUADS: usize>(block: &mut [u8], codes: usize, u: usize, row: usize, unit: &[u8]) {
    let (scale, quads) = unit.split_at(2);
    block[2 * ROWS * u + 2 * row..][..2].copy_from_slice(scale);
    let group = &mut block[codes + u * QUADS * VECTOR..][..QUADS * VECTOR];
    for (j, quad) in quads.as_chunks::<QUAD>().0.iter().enumerate().take(QUADS) {
        group[VECTOR * j + QUAD * row..][..QUAD].copy_from_slice(quad);
    }
}

/// The inverse of [`put_group`].
#[inline]
fn take_group<const QUADS: usize>(block: &[u8], codes: usize, u: usize, row: usize, unit: &mut [u8]) {
    let (scale, quads) = unit.split_at_mut(2);
    scale.copy_from_slice(&block[2 * ROWS * u + 2 * row..][..2]);
    let group = &block[codes + u * QUADS * VECTOR..][..QUADS * VECTOR];
    for (j, quad) in quads.as_chunks_mut::<QUAD>().0.iter_mut().enumerate().take(QUADS) {
        quad.copy_from_slice(&group[VECTOR * j + QUAD * row..][..QUAD]);
    }
}

impl Units<34, { layout::q8_0::BYTES }> for Q8 {
    const FORMAT: Format = Format::Q8_0;
    const PER_BLOCK: usize = layout::q8_0::GROUPS;
    const ZERO: [u8; 34] = [0; 34];

    fn is_finite(unit: &[u8; 34]) -> bool {
        finite_half(unit[1])
    }

    #[inline]
    fn put(block: &mut [u8; layout::q8_0::BYTES], u: usize, row: usize, unit: &[u8; 34]) {
        put_group::<8>(block, layout::q8_0::CODES, u, row, unit);
    }

    fn take(block: &[u8; layout::q8_0::BYTES], u: usize, row: usize) -> Option<[u8; 34]> {
        let mut unit = [0; 34];
        take_group::<8>(block, layout::q8_0::CODES, u, row, &mut unit);
        Some(unit)
    }
}

impl Units<18, { layout::q4_0::BYTES }> for Q4 {
    const FORMAT: Format = Format::Q4_0;
    const PER_BLOCK: usize = layout::q4_0::GROUPS;
    const ZERO: [u8; 18] = {
        let mut unit = [layout::q4_0::OFFSET * 0x11; 18];
        unit[0] = 0;
        unit[1] = 0;
        unit
    };

    fn is_finite(unit: &[u8; 18]) -> bool {
        finite_half(unit[1])
    }

    #[inline]
    fn put(block: &mut [u8; layout::q4_0::BYTES], u: usize, row: usize, unit: &[u8; 18]) {
        put_group::<4>(block, layout::q4_0::CODES, u, row, unit);
    }

    fn take(block: &[u8; layout::q4_0::BYTES], u: usize, row: usize) -> Option<[u8; 18]> {
        let mut unit = [0; 18];
        take_group::<4>(block, layout::q4_0::CODES, u, row, &mut unit);
        Some(unit)
    }
}

impl Units<210, { layout::q6_k::BYTES }> for Q6 {
    const FORMAT: Format = Format::Q6K;
    const PER_BLOCK: usize = 1;
    // Code 32 is low bits 0, high bits 2.
    const ZERO: [u8; 210] = {
        let mut unit = [0; 210];
        let mut i = 128;
        while i < 192 {
            unit[i] = 0b1010_1010;
            i += 1;
        }
        unit
    };

    fn is_finite(unit: &[u8; 210]) -> bool {
        finite_half(unit[209])
    }

    fn put(block: &mut [u8; layout::q6_k::BYTES], _: usize, row: usize, unit: &[u8; 210]) {
        use layout::q6_k::{GROUP_BYTES, HI, LO, PAIR_0, PAIR_BYTES, PAIR_GROUPS};
        let d = f16::from_le_bytes([unit[208], unit[209]]).to_f32();
        block[4 * row..][..4].copy_from_slice(&d.to_le_bytes());
        let codes = q6_k::codes(unit);
        for (g, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
            let pair = &mut block[PAIR_0 + g / 2 * PAIR_BYTES..][..PAIR_BYTES];
            for h in 0..2 {
                pair[(g % 2 * 2 + h) * ROWS + row] = unit[192 + 2 * g + h];
            }
            let group = &mut pair[PAIR_GROUPS + g % 2 * GROUP_BYTES..][..GROUP_BYTES];
            let (low, high) = codes.split_at(16);
            for j in 0..4 {
                let quad: [u8; 4] = std::array::from_fn(|i| low[4 * j + i] & 15 | high[4 * j + i] << 4);
                group[LO + VECTOR * j + QUAD * row..][..QUAD].copy_from_slice(&quad);
            }
            for (p, part) in [low, high].into_iter().enumerate() {
                let quad: [u8; 4] = std::array::from_fn(|i| {
                    part[i] >> 4 | part[4 + i] >> 4 << 2 | part[8 + i] >> 4 << 4 | part[12 + i] >> 4 << 6
                });
                group[HI + VECTOR * p + QUAD * row..][..QUAD].copy_from_slice(&quad);
            }
        }
    }

    fn take(block: &[u8; layout::q6_k::BYTES], _: usize, row: usize) -> Option<[u8; 210]> {
        use layout::q6_k::{GROUP_BYTES, HI, LO, PAIR_0, PAIR_BYTES, PAIR_GROUPS};
        let mut unit = [0; 210];
        let d = f32::from_le_bytes(std::array::from_fn(|i| block[4 * row + i]));
        let narrow = f16::from_f32(d);
        if !d.is_finite() || narrow.to_f32().to_bits() != d.to_bits() {
            return None;
        }
        unit[208..].copy_from_slice(&narrow.to_le_bytes());
        let mut codes = [0_u8; 256];
        for (g, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let pair = &block[PAIR_0 + g / 2 * PAIR_BYTES..][..PAIR_BYTES];
            for h in 0..2 {
                unit[192 + 2 * g + h] = pair[(g % 2 * 2 + h) * ROWS + row];
            }
            let group = &pair[PAIR_GROUPS + g % 2 * GROUP_BYTES..][..GROUP_BYTES];
            for (e, code) in codes.iter_mut().enumerate() {
                let (quad, i) = (e / 4, QUAD * row + e % 4);
                let lo = group[LO + VECTOR * (quad % 4) + i] >> (quad / 4 * 4) & 15;
                let hi = group[HI + VECTOR * (quad / 4) + i] >> (quad % 4 * 2) & 3;
                *code = hi << 4 | lo;
            }
        }
        q6_k::set_codes(&mut unit, &codes);
        Some(unit)
    }
}
