//! The portable tier: the definition of every kernel, in plain loops.

use std::ops::Range;

use lfm_graphs::weights::Format;
use lfm_graphs::weights::layout::{self, GROUP, ROWS, q4_0, q4_k, q5_k, q6_k, q8_0};

use super::Kernels;
use super::cols::Cols;
use super::driver::check;
use super::half;
use super::lanes::{Lanes, tree};
use super::matrix::Matrix;
use super::ops::Input;
use super::panels::{Panel, WORDS};

/// Kernels for every CPU.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Kernels for Portable {
    fn name(&self) -> &'static str {
        "portable"
    }
}

/// The definition of [`Kernels::matmul`].
pub(super) fn matmul(w: &Matrix, row_blocks: Range<usize>, x: Input, out: &mut Cols) {
    check(w, &row_blocks, &x, out);
    for (n, row_block) in row_blocks.enumerate() {
        let block = w.row_block(row_block);
        let rows = (out.width() - n * ROWS).min(ROWS);
        match x {
            Input::Rows(x) => {
                for (t, x) in x.chunks_exact(w.k()).enumerate() {
                    for r in 0..rows {
                        out.row_mut(t)[n * ROWS + r] = float_chain(w.format(), block, r, x);
                    }
                }
            }
            Input::Panels(x) => {
                for panel in (0..x.panel_count()).map(|p| x.panel(p)) {
                    for t in 0..panel.tokens {
                        for r in 0..rows {
                            let y = quantised_chain(w.format(), block, r, w.k(), &panel, t);
                            out.row_mut(panel.first + t)[n * ROWS + r] = y;
                        }
                    }
                }
            }
        }
    }
}

/// Row r of a row-block of f32 or f16 weights times x.
fn float_chain(format: Format, block: &[u8], r: usize, x: &[f32]) -> f32 {
    let mut acc = 0.0f32;
    for (k, x) in x.iter().enumerate() {
        acc = float(format, block, r, k).mul_add(*x, acc);
    }
    acc
}

/// Row r of a row-block of quantised weights times token t of a panel.
fn quantised_chain(format: Format, block: &[u8], r: usize, k: usize, x: &Panel, t: usize) -> f32 {
    let mut acc = 0.0f32;
    for (g, words) in x.words.chunks_exact(WORDS * x.tokens).take(k.div_ceil(GROUP)).enumerate() {
        let q = |e: usize| i32::from(words[8 * t + e / 4].to_le_bytes()[e % 4].cast_signed());
        let x_scale = f32::from_bits(words[8 * x.tokens + t].cast_unsigned());
        let mut isum = 0;
        for e in 0..GROUP {
            isum += integer(format, block, r, GROUP * g + e) * q(e);
        }
        acc = (isum as f32).mul_add(scale(format, block, r, g) * x_scale, acc);
        if let Some(minimum) = minimum(format, block, r, g) {
            acc = (-minimum).mul_add(f32::from_bits(words[11 * x.tokens + t].cast_unsigned()), acc);
        }
    }
    acc
}

/// Element k of row r of a row-block of f32 or f16 weights.
fn float(format: Format, block: &[u8], r: usize, k: usize) -> f32 {
    let at = |bytes: usize| (ROWS * k + r) * bytes;
    match format {
        Format::F32 => f32::from_le_bytes(array(block, at(4))),
        Format::F16 | Format::Q8_0 | Format::Q4_0 | Format::Q6K | Format::Q4K | Format::Q5K => {
            half::widen(u16::from_le_bytes(array(block, at(2))))
        }
    }
}

/// The integer of element k of row r; of q6_k, its sub-scale times its code.
fn integer(format: Format, block: &[u8], r: usize, k: usize) -> i32 {
    let (sub, code) = factors(format, block, r, k);
    i32::from(sub) * i32::from(code)
}

/// The sub-scale (1 but for q6_k) and the signed code of element k of row r.
fn factors(format: Format, block: &[u8], r: usize, k: usize) -> (i8, i8) {
    let (g, e) = (k / GROUP, k % GROUP);
    let (quad, lane) = (e / 4, 4 * r + e % 4);
    let nibble = |vectors: usize| block[vectors + 64 * (quad % 4) + lane] >> (quad / 4 * 4) & 15;
    let signed = |code: u8, offset: u8| code.wrapping_sub(offset).cast_signed();
    match format {
        Format::Q4_0 => {
            let group = g / q4_0::GROUPS * q4_0::BYTES + q4_0::CODES + g % q4_0::GROUPS * q4_0::GROUP_BYTES;
            (1, signed(nibble(group), q4_0::OFFSET))
        }
        Format::Q8_0 => {
            let group = g / q8_0::GROUPS * q8_0::BYTES + q8_0::CODES + g % q8_0::GROUPS * q8_0::GROUP_BYTES;
            (1, block[group + 64 * quad + lane].cast_signed())
        }
        Format::Q6K => {
            let pair = g / 8 * q6_k::BYTES + q6_k::PAIR_0 + g % 8 / 2 * q6_k::PAIR_BYTES;
            let group = pair + q6_k::PAIR_GROUPS + g % 2 * q6_k::GROUP_BYTES;
            let sub = block[pair + 32 * (g % 2) + 16 * (e / 16) + r].cast_signed();
            let high = block[group + q6_k::HI + 64 * (quad / 4) + lane] >> (quad % 4 * 2) & 3;
            (sub, signed(nibble(group + q6_k::LO) | high << 4, q6_k::OFFSET))
        }
        Format::Q4K => {
            let group = k_pair(format, g) + q4_k::PAIR_GROUPS + g % 2 * q4_k::GROUP_BYTES;
            (1, nibble(group).cast_signed())
        }
        Format::Q5K => {
            let group = k_pair(format, g) + q5_k::PAIR_GROUPS + g % 2 * q5_k::GROUP_BYTES;
            let high = block[group + q5_k::HI + lane] >> quad & 1;
            (1, (nibble(group + q5_k::LO) | high << 4).cast_signed())
        }
        Format::F32 | Format::F16 => (0, 0),
    }
}

/// Where the pair of group g of q4_k or q5_k starts.
fn k_pair(format: Format, g: usize) -> usize {
    let pair = if format == Format::Q4K { q4_k::PAIR_BYTES } else { q5_k::PAIR_BYTES };
    g / 8 * layout::block_bytes(format) + q4_k::PAIR_0 + g % 8 / 2 * pair
}

/// The scale (field 0) or the minimum (field 1) of group g of row r of q4_k or q5_k: six bits times the block's f16.
fn six_bits(format: Format, block: &[u8], r: usize, g: usize, field: usize) -> f32 {
    let half = g / 8 * layout::block_bytes(format) + field * q4_k::DMIN + 2 * r;
    let byte = block[k_pair(format, g) + 32 * (g % 2) + 16 * field + r];
    half::widen(u16::from_le_bytes(array(block, half))) * f32::from(byte)
}

/// What every element of group g of row r is less than its scale times its code, where the format has such a thing.
fn minimum(format: Format, block: &[u8], r: usize, g: usize) -> Option<f32> {
    match format {
        Format::Q4K | Format::Q5K => Some(six_bits(format, block, r, g, 1)),
        Format::F32 | Format::F16 | Format::Q8_0 | Format::Q4_0 | Format::Q6K => None,
    }
}

/// The scale that [`integer`] of group g of row r is in units of.
fn scale(format: Format, block: &[u8], r: usize, g: usize) -> f32 {
    let at = match format {
        Format::Q4_0 => g / q4_0::GROUPS * q4_0::BYTES + 32 * (g % q4_0::GROUPS) + 2 * r,
        Format::Q8_0 => g / q8_0::GROUPS * q8_0::BYTES + 32 * (g % q8_0::GROUPS) + 2 * r,
        Format::Q6K => return f32::from_le_bytes(array(block, g / 8 * q6_k::BYTES + 4 * r)),
        Format::Q4K | Format::Q5K => return six_bits(format, block, r, g, 0),
        Format::F32 | Format::F16 => return 1.0,
    };
    half::widen(u16::from_le_bytes(array(block, at)))
}

/// N bytes of a row-block.
fn array<const N: usize>(block: &[u8], at: usize) -> [u8; N] {
    std::array::from_fn(|i| block[at + i])
}

/// The definition of [`Kernels::row`].
pub(super) fn row(w: &Matrix, r: usize, out: &mut [f32]) {
    assert!(
        r < w.rows() && out.len() == w.k(),
        "row {r} of {} x {}, to {} floats",
        w.rows(),
        w.k(),
        out.len()
    );
    let (block, r) = (w.row_block(r / ROWS), r % ROWS);
    for (g, out) in out.chunks_mut(GROUP).enumerate() {
        match w.format() {
            Format::F32 | Format::F16 => {
                for (e, out) in out.iter_mut().enumerate() {
                    *out = float(w.format(), block, r, GROUP * g + e);
                }
            }
            Format::Q8_0 | Format::Q4_0 | Format::Q6K | Format::Q4K | Format::Q5K => {
                let scale = scale(w.format(), block, r, g);
                let minimum = minimum(w.format(), block, r, g);
                for (e, out) in out.iter_mut().enumerate() {
                    let (sub, code) = factors(w.format(), block, r, GROUP * g + e);
                    let value = scale * (f32::from(sub) * f32::from(code));
                    *out = minimum.map_or(value, |minimum| value - minimum);
                }
            }
        }
    }
}

impl Lanes for Portable {
    type V = [f32; 16];

    const DENSE_TOKENS: usize = 8;
    const QUERIES: usize = 1;

    fn splat(self, x: f32) -> [f32; 16] {
        [x; 16]
    }

    fn load(self, x: &[f32; 16]) -> [f32; 16] {
        *x
    }

    fn load_bytes(self, x: &[u8; 64]) -> [f32; 16] {
        std::array::from_fn(|i| f32::from_le_bytes(array(x, 4 * i)))
    }

    fn store(self, v: [f32; 16], out: &mut [f32; 16]) {
        *out = v;
    }

    #[inline(never)]
    fn widen(self, half: &[u16; 16]) -> [f32; 16] {
        half.map(half::widen)
    }

    #[inline(never)]
    fn widen_bytes(self, half: &[u8; 32]) -> [f32; 16] {
        std::array::from_fn(|i| half::widen(u16::from_le_bytes(array(half, 2 * i))))
    }

    #[inline(never)]
    fn narrow(self, v: [f32; 16]) -> [u16; 16] {
        v.map(half::narrow)
    }

    // Not inlined, as what else is long: every kernel has many of them, and small is what this tier is to be.
    #[inline(never)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] - b[i])
    }

    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(never)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(never)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(never)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    fn abs(self, a: [f32; 16]) -> [f32; 16] {
        a.map(f32::abs)
    }

    #[inline(never)]
    fn exponent(self, v: [f32; 16], t: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| f32::from_bits(v[i].to_bits().wrapping_add(t[i].to_bits() << 23)))
    }

    #[inline(never)]
    fn zero_below(self, v: [f32; 16], x: [f32; 16], bound: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if x[i] >= bound[i] { v[i] } else { 0.0 })
    }

    fn low_bytes(self, v: [f32; 16]) -> [u8; 16] {
        v.map(|x| x.to_bits() as u8)
    }

    fn bit_sum(self, v: [f32; 16]) -> i32 {
        v.iter().fold(0, |sum, x| sum.wrapping_add(x.to_bits().cast_signed()))
    }

    fn highest(self, v: [f32; 16]) -> f32 {
        v.iter().fold(v[0], |top, x| if *x > top { *x } else { top })
    }

    fn sum(self, v: [f32; 16]) -> f32 {
        tree(&v)
    }
}
