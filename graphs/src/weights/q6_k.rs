//! The bit order of a canonical q6_k unit (210 bytes, see [`super::format`]).

/// The 256 six-bit codes of a canonical q6_k unit, in order of elements.
pub fn codes(unit: &[u8; 210]) -> [u8; 256] {
    let mut codes = [0; 256];
    for (h, codes) in codes.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let ql = &unit[64 * h..][..64];
        let qh = &unit[128 + 32 * h..][..32];
        for l in 0..32 {
            codes[l] = ql[l] & 15 | (qh[l] & 3) << 4;
            codes[32 + l] = ql[32 + l] & 15 | (qh[l] >> 2 & 3) << 4;
            codes[64 + l] = ql[l] >> 4 | (qh[l] >> 4 & 3) << 4;
            codes[96 + l] = ql[32 + l] >> 4 | (qh[l] >> 6) << 4;
        }
    }
    codes
}

/// Stores 256 six-bit codes (0..64) in a canonical q6_k unit, whose other fields stay.
pub fn set_codes(unit: &mut [u8; 210], codes: &[u8; 256]) {
    for (h, codes) in codes.as_chunks::<128>().0.iter().enumerate() {
        for l in 0..32 {
            let [a, b, c, d] = [codes[l], codes[32 + l], codes[64 + l], codes[96 + l]];
            unit[64 * h + l] = a & 15 | c << 4;
            unit[64 * h + 32 + l] = b & 15 | d << 4;
            unit[128 + 32 * h + l] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6;
        }
    }
}
