//! Packing against the layout definition, and its inverse.

use half::f16;
use proptest::prelude::*;

use super::super::dequant::{dequantise_packed_row, dequantise_row};
use super::*;

/// Canonical rows of arbitrary bytes, made finite.
fn canonical(format: Format, rows: usize, k: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes: Vec<u8> = (0..rows * format.row_bytes(k).unwrap())
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    for unit in bytes.chunks_mut(format.unit_bytes()) {
        match format {
            Format::F32 => unit[3] &= 0x3f,
            Format::F16 | Format::Q8_0 | Format::Q4_0 => unit[1] &= 0x3f,
            Format::Q6K => unit[209] &= 0x3f,
            Format::Q4K | Format::Q5K => {
                unit[1] &= 0x3f;
                unit[3] &= 0x3f;
            }
        }
    }
    bytes
}

fn packed(format: Format, rows: usize, k: usize, canonical: &[u8]) -> Vec<u8> {
    let mut out = vec![0xee; layout::packed_bytes(format, rows, k).unwrap() as usize];
    pack(format, rows, k, canonical, &mut out).unwrap();
    out
}

/// One element of a packed matrix, read as the pictures of the layout module say.
fn element(format: Format, packed: &[u8], k_total: usize, row: usize, k: usize) -> f32 {
    let (r, block_k) = (row % 16, layout::block_k(format));
    let start = row / 16 * layout::row_block_bytes(format, k_total).unwrap()
        + k / block_k * layout::block_bytes(format);
    let block = &packed[start..][..layout::block_bytes(format)];
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let float = |at: usize| f32::from_le_bytes(block[at..at + 4].try_into().unwrap());
    let (g, e) = (k % block_k / 32, k % 32);
    match format {
        Format::F32 => float(4 * r),
        Format::F16 => half(2 * r),
        Format::Q8_0 => {
            half(32 * g + 2 * r) * f32::from(block[64 + 512 * g + 64 * (e / 4) + 4 * r + e % 4] as i8)
        }
        Format::Q4_0 => {
            let byte = block[64 + 256 * g + 64 * (e % 16 / 4) + 4 * r + e % 4];
            half(32 * g + 2 * r) * (f32::from(byte >> (e / 16 * 4) & 15) - 8.0)
        }
        Format::Q6K => {
            let pair = 64 + 832 * (g / 2);
            let sub = block[pair + 32 * (g % 2) + 16 * (e / 16) + r] as i8;
            let group = pair + 64 + 384 * (g % 2);
            let lo = block[group + 128 + 64 * (e % 16 / 4) + 4 * r + e % 4] >> (e / 16 * 4) & 15;
            let hi = block[group + 64 * (e / 16) + 4 * r + e % 4] >> (e % 16 / 4 * 2) & 3;
            float(4 * r) * (f32::from(sub) * (f32::from(hi << 4 | lo) - 32.0))
        }
        Format::Q4K | Format::Q5K => {
            let high = if format == Format::Q5K { 64 } else { 0 };
            let pair = 64 + (64 + 2 * (high + 256)) * (g / 2);
            let [sc, m] = [0, 16].map(|at| f32::from(block[pair + 32 * (g % 2) + at + r]));
            let group = pair + 64 + (high + 256) * (g % 2);
            let lo = block[group + high + 64 * (e % 16 / 4) + 4 * r + e % 4] >> (e / 16 * 4) & 15;
            let hi = if high > 0 { block[group + 4 * r + e % 4] >> (e / 4) & 1 } else { 0 };
            half(2 * r) * sc * f32::from(hi << 4 | lo) - half(32 + 2 * r) * m
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn unpacking_is_the_inverse(index in 0..Format::ALL.len(), rows in 0..40_usize, k in 0..600_usize, seed: u64) {
        let format = Format::ALL[index];
        let source = canonical(format, rows, k, seed);
        let packed = packed(format, rows, k, &source);
        let mut back = vec![0xee; source.len()];
        unpack(format, rows, k, &packed, &mut back).unwrap();
        prop_assert_eq!(&back, &source);
        if let Some(row) = rows.checked_sub(1) {
            let bytes = format.row_bytes(k).unwrap();
            let mut one = vec![0xee; bytes];
            unpack_row(format, rows, k, &packed, row, &mut one).unwrap();
            prop_assert_eq!(&one, &source[row * bytes..]);
        }
    }

    #[test]
    fn every_element_lies_where_the_layout_says(
        index in 0..Format::ALL.len(), rows in 1..35_usize, k in 1..520_usize, seed: u64,
    ) {
        let format = Format::ALL[index];
        let source = canonical(format, rows, k, seed);
        let packed = packed(format, rows, k, &source);
        let (mut expected, mut found) = (vec![0.0; k], vec![0.0; k]);
        let bytes = format.row_bytes(k).unwrap();
        for row in 0..rows {
            dequantise_row(format, &source[row * bytes..][..bytes], &mut expected).unwrap();
            dequantise_packed_row(format, rows, &packed, row, &mut found).unwrap();
            prop_assert_eq!(&found, &expected);
            for (i, value) in expected.iter().enumerate() {
                prop_assert_eq!(element(format, &packed, k, row, i).to_bits(), value.to_bits(), "{}, {}", row, i);
            }
        }
        // What is added to fill the last blocks is worth nothing.
        let (full_rows, full_k) = (rows.next_multiple_of(16), layout::packed_k(format, k).unwrap());
        for row in 0..full_rows {
            let from = if row < rows { format.padded_k(k).unwrap() } else { 0 };
            for i in from..full_k {
                prop_assert_eq!(element(format, &packed, k, row, i).abs(), 0.0, "{}, {}", row, i);
            }
        }
        let data = layout::row_block_bytes(format, k).unwrap() * layout::row_blocks(rows);
        prop_assert!(packed[data..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn padding_has_its_byte_pattern() {
    let q4 = packed(Format::Q4_0, 1, 32, &canonical(Format::Q4_0, 1, 32, 1));
    assert!(q4[32..64].iter().all(|byte| *byte == 0), "scales of the missing group");
    assert!(q4[320..].iter().all(|byte| *byte == 0x88), "codes of the missing group");
    assert!(q4[68..128].iter().all(|byte| *byte == 0x88), "codes of the missing rows");
    let q6 = packed(Format::Q6K, 1, 1, &canonical(Format::Q6K, 1, 1, 1));
    assert!(q6[4..64].iter().all(|byte| *byte == 0), "d of the missing rows");
    assert!(q6[64 + 64 + 4..][..60].iter().all(|byte| *byte == 0xaa), "high bits of the missing rows");
    for format in [Format::Q4K, Format::Q5K] {
        let k = packed(format, 1, 1, &canonical(format, 1, 1, 1));
        assert!(k[2..32].iter().chain(&k[34..64]).all(|byte| *byte == 0), "d and dmin of the missing rows");
        assert!(k[65..80].iter().all(|byte| *byte == 0), "sc of the missing rows");
        assert!(k[64 + 64 + 4..][..60].iter().all(|byte| *byte == 0), "codes of the missing rows");
    }
    let q8 = packed(Format::Q8_0, 1, 32, &canonical(Format::Q8_0, 1, 32, 1));
    assert!(q8[576..].iter().all(|byte| *byte == 0));
}

#[test]
fn row_blocks_are_independent_of_each_other() {
    for format in Format::ALL {
        let (rows, k) = (37, 300);
        let source = canonical(format, rows, k, 5);
        let whole = packed(format, rows, k, &source);
        let (row_bytes, block_bytes) =
            (format.row_bytes(k).unwrap(), layout::row_block_bytes(format, k).unwrap());
        for (n, rows) in [(0, 16), (1, 16), (2, 5)] {
            let mut block = vec![0xee; block_bytes];
            pack_row_block(format, rows, k, &source[n * 16 * row_bytes..][..rows * row_bytes], &mut block)
                .unwrap();
            assert_eq!(block, whole[n * block_bytes..][..block_bytes], "{format}");
        }
    }
}

#[test]
fn infinite_scales_are_refused_where_they_are() {
    for format in Format::ALL {
        let (rows, k) = (20, 512);
        let mut source = canonical(format, rows, k, 3);
        let unit = source.chunks_mut(format.unit_bytes()).nth_back(0).unwrap();
        match format {
            Format::F32 => unit.copy_from_slice(&f32::NAN.to_le_bytes()),
            Format::F16 | Format::Q8_0 | Format::Q4_0 => unit[1] |= 0x7c,
            Format::Q6K => unit[209] |= 0x7c,
            Format::Q4K | Format::Q5K => unit[1] |= 0x7c,
        }
        let mut out = vec![0; layout::packed_bytes(format, rows, k).unwrap() as usize];
        let error = pack(format, rows, k, &source, &mut out).unwrap_err();
        assert_eq!(error, PackError::NotFinite { format, row: 19, k: k - format.unit_k() });
    }
    for format in [Format::Q4K, Format::Q5K] {
        let mut source = canonical(format, 2, 256, 3);
        source[format.unit_bytes() + 3] |= 0x7c;
        let mut out = vec![0; layout::packed_bytes(format, 2, 256).unwrap() as usize];
        let error = pack(format, 2, 256, &source, &mut out).unwrap_err();
        assert_eq!(error, PackError::NotFinite { format, row: 1, k: 0 }, "dmin");
    }
}

#[test]
fn wrong_lengths_and_hostile_bytes_are_errors() {
    let mut out = vec![0; 576];
    let short = pack(Format::Q4_0, 1, 32, &[0; 17], &mut out).unwrap_err();
    assert_eq!(short.to_string(), "canonical matrix of 1 x 32 in q4_0: found 17 bytes, expected 18");
    assert!(matches!(pack(Format::Q4_0, 1, 32, &[0; 18], &mut out[1..]), Err(PackError::Length { .. })));
    assert!(matches!(
        pack_row_block(Format::F32, 17, 1, &[0; 68], &mut [0; 64]),
        Err(PackError::Rows { found: 17 })
    ));
    assert!(matches!(
        pack(Format::F32, usize::MAX, usize::MAX, &[], &mut out),
        Err(PackError::TooLarge { .. })
    ));
    assert!(matches!(
        unpack_row(Format::Q4_0, 1, 32, &out, 1, &mut [0; 18]),
        Err(PackError::NoSuchRow { row: 1, rows: 1 })
    ));
    assert!(dequantise_packed_row(Format::Q8_0, 1, &out, 0, &mut [0.0; 32]).is_err());
    let mut q6 = packed(Format::Q6K, 3, 256, &canonical(Format::Q6K, 3, 256, 9));
    q6[8..12].copy_from_slice(&0.1_f32.to_le_bytes());
    let error = unpack(Format::Q6K, 3, 256, &q6, &mut [0; 630]).unwrap_err();
    assert_eq!(error, PackError::NotCanonical { format: Format::Q6K, row: 2, k: 0 });
    for format in [Format::Q4K, Format::Q5K] {
        // The minimum of row 17 in the second group of the second unit.
        let mut k = packed(format, 18, 512, &canonical(format, 18, 512, 9));
        k[3 * layout::block_bytes(format) + 64 + 48 + 1] = 64;
        let mut out = vec![0; 18 * format.row_bytes(512).unwrap()];
        let error = unpack(format, 18, 512, &k, &mut out).unwrap_err();
        assert_eq!(error, PackError::NotCanonical { format, row: 17, k: 256 });
    }
}
