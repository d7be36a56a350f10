//! The bit order of canonical q4_k and q5_k units (144 and 176 bytes, see [`super::format`]).

/// Scale and minimum of one group of 32 elements, six bits each.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GroupScale {
    /// What `d` is multiplied by.
    pub sc: u8,
    /// What `dmin` is multiplied by.
    pub m: u8,
}

/// First of the 12 bytes of scales in either unit; `d` and `dmin` lie before.
pub const SCALES: usize = 4;
/// First of the 32 bytes of high bits in a q5_k unit.
pub const Q5_K_HIGH: usize = 16;

/// The scales of the eight groups. Every byte pattern has a meaning, and its own: [`set_scales`] is the inverse.
pub fn scales(s: &[u8; 12]) -> [GroupScale; 8] {
    std::array::from_fn(|g| {
        if g < 4 {
            GroupScale { sc: s[g] & 63, m: s[4 + g] & 63 }
        } else {
            GroupScale { sc: s[4 + g] & 15 | s[g - 4] >> 6 << 4, m: s[4 + g] >> 4 | s[g] >> 6 << 4 }
        }
    })
}

/// The 12 bytes of eight groups' scales, of which the lower six bits count.
pub fn set_scales(scales: &[GroupScale; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i].sc & 63 | scales[4 + i].sc >> 4 << 6,
        4..8 => scales[i - 4].m & 63 | scales[i].m >> 4 << 6,
        _ => scales[i - 4].sc & 15 | scales[i - 4].m << 4,
    })
}

/// The 256 four-bit codes of a canonical q4_k unit, in order of elements.
pub fn q4_k_codes(unit: &[u8; 144]) -> [u8; 256] {
    let mut codes = [0; 256];
    low_bits(&unit[16..], &mut codes);
    codes
}

/// Stores 256 four-bit codes (0..16) in a canonical q4_k unit, whose other fields stay.
pub fn set_q4_k_codes(unit: &mut [u8; 144], codes: &[u8; 256]) {
    set_low_bits(&mut unit[16..], codes);
}

/// The 256 five-bit codes of a canonical q5_k unit, in order of elements.
pub fn q5_k_codes(unit: &[u8; 176]) -> [u8; 256] {
    let mut codes = [0; 256];
    low_bits(&unit[48..], &mut codes);
    for (g, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, high) in codes.iter_mut().zip(&unit[Q5_K_HIGH..48]) {
            *code |= (high >> g & 1) << 4;
        }
    }
    codes
}

/// Stores 256 five-bit codes (0..32) in a canonical q5_k unit, whose other fields stay.
pub fn set_q5_k_codes(unit: &mut [u8; 176], codes: &[u8; 256]) {
    set_low_bits(&mut unit[48..], codes);
    for (l, high) in unit[Q5_K_HIGH..48].iter_mut().enumerate() {
        *high = (0..8).fold(0, |bits, g| bits | (codes[32 * g + l] >> 4 & 1) << g);
    }
}

/// Bits 0-3 of 256 codes out of 128 bytes: 32 bytes hold a group in their low nibbles and the next in their high ones.
fn low_bits(qs: &[u8], codes: &mut [u8; 256]) {
    for (qs, codes) in qs.as_chunks::<32>().0.iter().zip(codes.as_chunks_mut::<64>().0) {
        for (l, byte) in qs.iter().enumerate() {
            codes[l] = byte & 15;
            codes[32 + l] = byte >> 4;
        }
    }
}

/// The inverse of [`low_bits`].
fn set_low_bits(qs: &mut [u8], codes: &[u8; 256]) {
    for (qs, codes) in qs.as_chunks_mut::<32>().0.iter_mut().zip(codes.as_chunks::<64>().0) {
        for (l, byte) in qs.iter_mut().enumerate() {
            *byte = codes[l] & 15 | codes[32 + l] << 4;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes without a pattern.
    fn noise<const N: usize>(seed: u64) -> [u8; N] {
        let mut state = seed;
        std::array::from_fn(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
    }

    #[test]
    fn scales_are_a_bijection_on_every_byte() {
        for at in 0..12 {
            for byte in 0..=255 {
                let mut bytes: [u8; 12] = noise(at as u64);
                bytes[at] = byte;
                let scales = scales(&bytes);
                assert!(scales.iter().all(|scale| scale.sc < 64 && scale.m < 64), "{scales:?}");
                assert_eq!(set_scales(&scales), bytes);
            }
        }
        for g in 0..8 {
            for value in 0..64 {
                let mut expected = [GroupScale { sc: 21, m: 42 }; 8];
                expected[g] = GroupScale { sc: value, m: 63 - value };
                assert_eq!(scales(&set_scales(&expected)), expected);
            }
        }
    }

    #[test]
    fn scales_of_a_known_block() {
        // Groups 0 and 4: byte 0 is sc 0 and the top of sc 4, byte 4 m 0 and the top of m 4, byte 8 the rest.
        let mut bytes = [0; 12];
        bytes[0] = 0b10_000011;
        bytes[4] = 0b01_000101;
        bytes[8] = 0b0111_1001;
        let scales = scales(&bytes);
        assert_eq!(scales[0], GroupScale { sc: 3, m: 5 });
        assert_eq!(scales[4], GroupScale { sc: 0b10_1001, m: 0b01_0111 });
        assert_eq!(scales[1], GroupScale::default());
    }

    #[test]
    fn codes_are_a_bijection() {
        for seed in 0..50 {
            let (q4, q5): ([u8; 144], [u8; 176]) = (noise(seed), noise(seed));
            let (codes4, codes5) = (q4_k_codes(&q4), q5_k_codes(&q5));
            assert!(codes4.iter().all(|code| *code < 16) && codes5.iter().all(|code| *code < 32));
            let (mut back4, mut back5) = ([0; 144], [0; 176]);
            back4[..16].copy_from_slice(&q4[..16]);
            back5[..16].copy_from_slice(&q5[..16]);
            set_q4_k_codes(&mut back4, &codes4);
            set_q5_k_codes(&mut back5, &codes5);
            assert_eq!((back4, back5), (q4, q5));
        }
    }

    #[test]
    fn codes_of_a_known_block() {
        let (q4, q5): ([u8; 144], [u8; 176]) = (noise(1), noise(2));
        let (codes4, codes5) = (q4_k_codes(&q4), q5_k_codes(&q5));
        // Element 100 = 32 * 3 + 4: byte 32 + 4 of the nibbles, the high one, and bit 3 of high byte 4.
        assert_eq!(codes4[100], q4[16 + 36] >> 4);
        assert_eq!(codes5[100], q5[48 + 36] >> 4 | (q5[16 + 4] >> 3 & 1) << 4);
        // Element 223 = 32 * 6 + 31: byte 96 + 31, the low one, and bit 6 of high byte 31.
        assert_eq!(codes4[223], q4[16 + 127] & 15);
        assert_eq!(codes5[223], q5[48 + 127] & 15 | (q5[16 + 31] >> 6 & 1) << 4);
    }
}
