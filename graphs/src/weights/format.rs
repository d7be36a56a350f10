//! The weight formats: their names, and their canonical (row-major, as in a GGUF file) sizes.
//!
//! A canonical row is a sequence of *units*, each covering [`Format::unit_k`] elements along K:
//!
//! ```text
//! f32   1 element      4 B   [f32]
//! f16   1 element      2 B   [f16]
//! q8_0  32 elements   34 B   [f16 scale][32 x i8]               value = scale * q
//! q4_0  32 elements   18 B   [f16 scale][16 B]                  value = scale * (nibble - 8)
//!                            byte i: element i in the low nibble, element 16 + i in the high one
//! q6_k  256 elements 210 B   [ql 128 B][qh 64 B][16 x i8 sub][f16 d]   value = d * sub * (q - 32)
//!                            sub-scale s belongs to elements 16 s .. 16 s + 16; for h = 0, 1 (128 elements each)
//!                            and l = 0..32, element 128 h + 32 c + l has
//!                              bits 0-3  ql[64 h + 32 (c % 2) + l], low nibble for c < 2, else high nibble
//!                              bits 4-5  qh[32 h + l] >> 2 c
//! q4_k  256 elements 144 B  [f16 d][f16 dmin][12 B scales][qs 128 B]   value = d * sc * q - dmin * m
//!                            group g (0..8) is elements 32 g .. 32 g + 32, with a scale sc and a minimum m of six bits
//!                            each, in the scales' bytes s:
//!                              g < 4   sc  s[g] & 63                             m  s[4 + g] & 63
//!                              g >= 4  sc  s[4 + g] & 15 | s[g - 4] >> 6 << 4    m  s[4 + g] >> 4 | s[g] >> 6 << 4
//!                            element 32 g + l: qs[32 (g / 2) + l], low nibble for even g, else high nibble
//! q5_k  256 elements 176 B  [f16 d][f16 dmin][12 B scales][qh 32 B][qs 128 B]   value = d * sc * q - dmin * m
//!                            the same, and bit 4 of element 32 g + l is bit g of qh[l]
//! ```
//!
//! All numbers are little-endian. A row whose K is not a multiple of the unit ends with a unit whose missing
//! elements are zero.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How the elements of a weight matrix are stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Format {
    /// IEEE 754 single precision.
    #[serde(rename = "f32")]
    F32,
    /// IEEE 754 half precision.
    #[serde(rename = "f16")]
    F16,
    /// Groups of 32 signed bytes with one f16 scale.
    #[serde(rename = "q8_0")]
    Q8_0,
    /// Groups of 32 nibbles (offset 8) with one f16 scale.
    #[serde(rename = "q4_0")]
    Q4_0,
    /// Blocks of 256 six-bit codes (offset 32), one signed byte of scale per 16 and one f16 scale per 256.
    #[serde(rename = "q6_k")]
    Q6K,
    /// Blocks of 256 nibbles, a scale and a minimum of six bits each per 32, and an f16 for all scales and one for all
    /// minima.
    #[serde(rename = "q4_k")]
    Q4K,
    /// The same with five-bit codes.
    #[serde(rename = "q5_k")]
    Q5K,
}

impl Format {
    /// Every format, in declaration order.
    pub const ALL: [Format; 7] =
        [Format::F32, Format::F16, Format::Q8_0, Format::Q4_0, Format::Q6K, Format::Q4K, Format::Q5K];

    /// The name used in files and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Format::F32 => "f32",
            Format::F16 => "f16",
            Format::Q8_0 => "q8_0",
            Format::Q4_0 => "q4_0",
            Format::Q6K => "q6_k",
            Format::Q4K => "q4_k",
            Format::Q5K => "q5_k",
        }
    }

    /// Elements along K in one canonical unit.
    pub const fn unit_k(self) -> usize {
        match self {
            Format::F32 | Format::F16 => 1,
            Format::Q8_0 | Format::Q4_0 => 32,
            Format::Q6K | Format::Q4K | Format::Q5K => 256,
        }
    }

    /// Bytes of one canonical unit.
    pub const fn unit_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 => 2,
            Format::Q8_0 => 34,
            Format::Q4_0 => 18,
            Format::Q6K => 210,
            Format::Q4K => 144,
            Format::Q5K => 176,
        }
    }

    /// Elements that share the finest scale: 16 for q6_k, 32 for the other quantised formats, 1 for floats.
    pub const fn scale_group(self) -> usize {
        match self {
            Format::F32 | Format::F16 => 1,
            Format::Q8_0 | Format::Q4_0 | Format::Q4K | Format::Q5K => 32,
            Format::Q6K => 16,
        }
    }

    /// Whether a product with this weight quantises its activations to int8.
    pub const fn is_quantised(self) -> bool {
        match self {
            Format::F32 | Format::F16 => false,
            Format::Q8_0 | Format::Q4_0 | Format::Q6K | Format::Q4K | Format::Q5K => true,
        }
    }

    /// Storage cost of one weight in the canonical form, scales included.
    pub fn bits_per_weight(self) -> f64 {
        (self.unit_bytes() * 8) as f64 / self.unit_k() as f64
    }

    /// Canonical units in a row of `k` elements, the last one padded.
    pub const fn units(self, k: usize) -> usize {
        k.div_ceil(self.unit_k())
    }

    /// `k` rounded up to whole canonical units; `None` on overflow.
    pub const fn padded_k(self, k: usize) -> Option<usize> {
        self.units(k).checked_mul(self.unit_k())
    }

    /// Bytes of one canonical row of `k` elements; `None` on overflow.
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        self.units(k).checked_mul(self.unit_bytes())
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no weight format.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("unknown weight format `{found}`, expected one of f32, f16, q8_0, q4_0, q6_k, q4_k, q5_k")]
pub struct UnknownFormat {
    /// The name as given.
    pub found: String,
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Format, UnknownFormat> {
        let known = Format::ALL.into_iter().find(|format| format.name() == name);
        known.ok_or_else(|| UnknownFormat { found: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_in_every_spelling() {
        for format in Format::ALL {
            assert_eq!(format.to_string().parse(), Ok(format));
            let text = ron::to_string(&format).unwrap();
            assert_eq!(ron::from_str::<Format>(&text).unwrap(), format);
        }
        let error = "q4_1".parse::<Format>().unwrap_err().to_string();
        for format in Format::ALL {
            assert!(error.contains(format.name()), "{error}");
        }
    }

    #[test]
    fn sizes_are_those_of_the_file_formats() {
        assert_eq!(Format::Q4_0.bits_per_weight(), 4.5);
        assert_eq!(Format::Q8_0.bits_per_weight(), 8.5);
        assert_eq!(Format::Q6K.bits_per_weight(), 6.5625);
        assert_eq!(Format::Q4K.bits_per_weight(), 4.5);
        assert_eq!(Format::Q5K.bits_per_weight(), 5.5);
        assert_eq!(Format::Q4_0.row_bytes(2048), Some(1152));
        assert_eq!(Format::Q4_0.row_bytes(33), Some(36));
        assert_eq!(Format::Q6K.row_bytes(257), Some(420));
        assert_eq!(Format::F16.row_bytes(3), Some(6));
        assert_eq!(Format::F32.row_bytes(usize::MAX), None);
        assert_eq!(Format::Q6K.padded_k(1), Some(256));
        assert_eq!(Format::Q6K.padded_k(usize::MAX), None);
    }
}
