//! Where a canonical q4_k or q5_k unit of one row goes inside a packed block.

use super::super::format::Format;
use super::super::k_quant::{self, GroupScale, SCALES};
use super::super::layout::{self, ROWS};
use super::units::{QUAD, Units, VECTOR, finite_half};

/// One unit of 256 nibbles per row.
pub(super) struct Q4K;
/// One unit of 256 five-bit codes per row.
pub(super) struct Q5K;

/// Stores `d` and `dmin`, the first four bytes of a unit.
fn put_scale(block: &mut [u8], row: usize, unit: &[u8]) {
    block[2 * row..][..2].copy_from_slice(&unit[..2]);
    block[layout::q4_k::DMIN + 2 * row..][..2].copy_from_slice(&unit[2..SCALES]);
}

/// The inverse of [`put_scale`].
fn take_scale(block: &[u8], row: usize, unit: &mut [u8]) {
    unit[..2].copy_from_slice(&block[2 * row..][..2]);
    unit[2..SCALES].copy_from_slice(&block[layout::q4_k::DMIN + 2 * row..][..2]);
}

/// Stores scale and minimum of group `g` (0 or 1) of a pair.
fn put_group_scale(pair: &mut [u8], g: usize, row: usize, scale: GroupScale) {
    pair[2 * ROWS * g + row] = scale.sc;
    pair[2 * ROWS * g + ROWS + row] = scale.m;
}

/// The inverse of [`put_group_scale`]; `None` if a byte has more than six bits.
fn take_group_scale(pair: &[u8], g: usize, row: usize) -> Option<GroupScale> {
    let scale = GroupScale { sc: pair[2 * ROWS * g + row], m: pair[2 * ROWS * g + ROWS + row] };
    (scale.sc < 64 && scale.m < 64).then_some(scale)
}

/// Stores bits 0-3 of a group's codes in four vectors.
fn put_low(group: &mut [u8], row: usize, codes: &[u8; 32]) {
    for j in 0..4 {
        let quad: [u8; QUAD] =
            std::array::from_fn(|i| codes[QUAD * j + i] & 15 | codes[16 + QUAD * j + i] << 4);
        group[VECTOR * j + QUAD * row..][..QUAD].copy_from_slice(&quad);
    }
}

/// The inverse of [`put_low`].
fn take_low(group: &[u8], row: usize, codes: &mut [u8; 32]) {
    for e in 0..16 {
        let byte = group[VECTOR * (e / QUAD) + QUAD * row + e % QUAD];
        codes[e] = byte & 15;
        codes[16 + e] = byte >> 4;
    }
}

impl Units<144, { layout::q4_k::BYTES }> for Q4K {
    const FORMAT: Format = Format::Q4K;
    const PER_BLOCK: usize = 1;
    const ZERO: [u8; 144] = [0; 144];

    fn is_finite(unit: &[u8; 144]) -> bool {
        finite_half(unit[1]) && finite_half(unit[3])
    }

    fn put(block: &mut [u8; layout::q4_k::BYTES], _: usize, row: usize, unit: &[u8; 144]) {
        use layout::q4_k::{GROUP_BYTES, PAIR_0, PAIR_BYTES, PAIR_GROUPS};
        put_scale(block, row, unit);
        let scales = k_quant::scales(&std::array::from_fn(|i| unit[SCALES + i]));
        let codes = k_quant::q4_k_codes(unit);
        for (g, (codes, scale)) in codes.as_chunks::<32>().0.iter().zip(scales).enumerate() {
            let pair = &mut block[PAIR_0 + g / 2 * PAIR_BYTES..][..PAIR_BYTES];
            put_group_scale(pair, g % 2, row, scale);
            put_low(&mut pair[PAIR_GROUPS + g % 2 * GROUP_BYTES..][..GROUP_BYTES], row, codes);
        }
    }

    fn take(block: &[u8; layout::q4_k::BYTES], _: usize, row: usize) -> Option<[u8; 144]> {
        use layout::q4_k::{GROUP_BYTES, PAIR_0, PAIR_BYTES, PAIR_GROUPS};
        let mut unit = [0; 144];
        take_scale(block, row, &mut unit);
        let (mut scales, mut codes) = ([GroupScale::default(); 8], [0; 256]);
        for (g, (codes, scale)) in codes.as_chunks_mut::<32>().0.iter_mut().zip(&mut scales).enumerate() {
            let pair = &block[PAIR_0 + g / 2 * PAIR_BYTES..][..PAIR_BYTES];
            *scale = take_group_scale(pair, g % 2, row)?;
            take_low(&pair[PAIR_GROUPS + g % 2 * GROUP_BYTES..][..GROUP_BYTES], row, codes);
        }
        unit[SCALES..][..12].copy_from_slice(&k_quant::set_scales(&scales));
        k_quant::set_q4_k_codes(&mut unit, &codes);
        Some(unit)
    }
}

impl Units<176, { layout::q5_k::BYTES }> for Q5K {
    const FORMAT: Format = Format::Q5K;
    const PER_BLOCK: usize = 1;
    const ZERO: [u8; 176] = [0; 176];

    fn is_finite(unit: &[u8; 176]) -> bool {
        finite_half(unit[1]) && finite_half(unit[3])
    }

    fn put(block: &mut [u8; layout::q5_k::BYTES], _: usize, row: usize, unit: &[u8; 176]) {
        use layout::q5_k::{GROUP_BYTES, HI, LO, PAIR_0, PAIR_BYTES, PAIR_GROUPS};
        put_scale(block, row, unit);
        let scales = k_quant::scales(&std::array::from_fn(|i| unit[SCALES + i]));
        let codes = k_quant::q5_k_codes(unit);
        for (g, (codes, scale)) in codes.as_chunks::<32>().0.iter().zip(scales).enumerate() {
            let pair = &mut block[PAIR_0 + g / 2 * PAIR_BYTES..][..PAIR_BYTES];
            put_group_scale(pair, g % 2, row, scale);
            let group = &mut pair[PAIR_GROUPS + g % 2 * GROUP_BYTES..][..GROUP_BYTES];
            let high: [u8; QUAD] =
                std::array::from_fn(|i| (0..8).fold(0, |bits, j| bits | (codes[QUAD * j + i] >> 4 & 1) << j));
            group[HI + QUAD * row..][..QUAD].copy_from_slice(&high);
            put_low(&mut group[LO..], row, codes);
        }
    }

    fn take(block: &[u8; layout::q5_k::BYTES], _: usize, row: usize) -> Option<[u8; 176]> {
        use layout::q5_k::{GROUP_BYTES, HI, LO, PAIR_0, PAIR_BYTES, PAIR_GROUPS};
        let mut unit = [0; 176];
        take_scale(block, row, &mut unit);
        let (mut scales, mut codes) = ([GroupScale::default(); 8], [0; 256]);
        for (g, (codes, scale)) in codes.as_chunks_mut::<32>().0.iter_mut().zip(&mut scales).enumerate() {
            let pair = &block[PAIR_0 + g / 2 * PAIR_BYTES..][..PAIR_BYTES];
            *scale = take_group_scale(pair, g % 2, row)?;
            let group = &pair[PAIR_GROUPS + g % 2 * GROUP_BYTES..][..GROUP_BYTES];
            take_low(&group[LO..], row, codes);
            for (e, code) in codes.iter_mut().enumerate() {
                *code |= (group[HI + QUAD * row + e % QUAD] >> (e / QUAD) & 1) << 4;
            }
        }
        unit[SCALES..][..12].copy_from_slice(&k_quant::set_scales(&scales));
        k_quant::set_q5_k_codes(&mut unit, &codes);
        Some(unit)
    }
}
