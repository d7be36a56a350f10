//! CPU kernels: one trait, one implementation per ISA tier, the same bits from all of them.
//!
//! # The contract
//!
//! The result of every kernel is a fixed sequence of IEEE 754 operations and exact integer arithmetic per output
//! element. It depends on neither the tier, nor how rows, columns or tokens are divided between calls or threads.
//!
//! * Quantised products: activations are int8 in groups of 32 ([`Panels`]). From +0, for groups ascending,
//!   `acc = fma(f32(isum), w_scale * x_scale, acc)` with the exact integer dot product `isum`; q6_k:
//!   `isum = sub0 * dot16 + sub1 * dot16'`, `w_scale = d`.
//! * Float products: from +0, for k ascending, `acc = fma(w[k], x[k], acc)`, f16 weights widened.
//! * Reductions along a vector: element i in lane i % 16, ascending; then lane i + lane i + 8, + 4, + 2, + 1. Missing
//!   elements of the last 16 count as +0.
//! * exp, sigmoid, silu: one polynomial with a fixed order of operations.
//!
//! [`Portable`] is the definition, in plain loops. A tier for an ISA is one file that says how 16 lanes are held and
//! how a block of quantised weights meets a panel.
//!
//! Kernels do not allocate, and have no state. They panic if the shapes of their operands disagree.
#![cfg_attr(
    not(any(target_arch = "aarch64", target_arch = "x86_64")),
    allow(
        dead_code,
        unused_macros,
        unused_imports,
        reason = "no tier but portable for this architecture yet"
    )
)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod body;
mod cols;
mod driver;
mod half;
mod lanes;
mod math;
mod matrix;
mod ops;
mod panels;
pub mod peak;
mod portable;
mod quant;
#[cfg(test)]
mod tests;
mod tier;
mod tiers;
mod tile;
mod topk;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::ops::Range;

#[cfg(target_arch = "aarch64")]
pub use aarch64::{Dotprod, I8mm, Neon};
pub use cols::Cols;
pub use matrix::{Matrix, MatrixError};
pub use ops::{Attention, Cache, ConvGate, Input, KEY_GROUP, MAX_HEAD, key_elements, put_key};
pub use panels::{PANEL, Panels, PanelsMut, panel_count, words_needed};
pub use portable::Portable;
pub use tiers::{UnknownTier, available, best, by_name};
pub use topk::top_k;
#[cfg(target_arch = "x86_64")]
pub use x86_64::{Avx512Vnni, AvxVnni, X86V3};

/// The kernels of one tier. The default of every method is its definition.
///
/// Slices are row-major; `[a, b]` is a rows of b elements. Where a method takes `out`, it overwrites it.
pub trait Kernels: Send + Sync {
    /// The tier's name, as in device profiles.
    fn name(&self) -> &'static str;

    /// Quantises `x`, `[panels.tokens().len(), panels.k()]`, into its panels.
    fn quantize(&self, x: &[f32], panels: &mut PanelsMut) {
        body::quantize::quantize(Portable, x, panels);
    }

    /// `out[t][r] = row 16 * row_blocks.start + r of w . x[t]`, for all tokens of `x`.
    ///
    /// `out` is as wide as there are real rows in `row_blocks` ([`Matrix::rows_in`]).
    fn matmul(&self, w: &Matrix, row_blocks: Range<usize>, x: Input, out: &mut Cols) {
        portable::matmul(w, row_blocks, x, out);
    }

    /// [`Kernels::matmul`] with two matrices of one shape and the same input: for one token, both are read as parallel
    /// streams.
    fn matmul2(&self, w: [&Matrix; 2], row_blocks: Range<usize>, x: Input, out: [&mut Cols; 2]) {
        let [first, second] = out;
        self.matmul(w[0], row_blocks.clone(), x, first);
        self.matmul(w[1], row_blocks, x, second);
    }

    /// Dequantises row `r` of `w`: `out` is `[k]`.
    fn row(&self, w: &Matrix, r: usize, out: &mut [f32]) {
        portable::row(w, r, out);
    }

    /// `out = e^x`: 0 below -87, e^88 above 88.
    fn exp(&self, x: &[f32], out: &mut [f32]) {
        body::vector::exp(Portable, x, out);
    }

    /// `out = 1 / (1 + e^-x)`
    fn sigmoid(&self, x: &[f32], out: &mut [f32]) {
        body::vector::sigmoid(Portable, x, out);
    }

    /// `out = gate / (1 + e^-gate) * up`
    fn silu_mul(&self, gate: &[f32], up: &[f32], out: &mut [f32]) {
        body::vector::silu_mul(Portable, gate, up, out);
    }

    /// `out = a + b`
    fn add(&self, a: &[f32], b: &[f32], out: &mut [f32]) {
        body::vector::add(Portable, a, b, out);
    }

    /// `out = a * b`
    fn mul(&self, a: &[f32], b: &[f32], out: &mut [f32]) {
        body::vector::mul(Portable, a, b, out);
    }

    /// `out = fma(p, y, out)`
    fn axpy(&self, p: f32, y: &[f32], out: &mut [f32]) {
        body::vector::axpy(Portable, p, y, out);
    }

    /// `out = x * scale * weight` with `scale = 1 / sqrt(mean(x^2) + eps)`; one row.
    fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        body::vector::rms_norm(Portable, x, weight, eps, out);
    }

    /// Rotates every head of one token in place: `x` is `[heads, 2 D]`, `cos` and `sin` are `[D]`. With x1, x2 the
    /// halves of a head: `x1' = fma(x1, cos, -(x2 * sin))`, `x2' = fma(x2, cos, x1 * sin)`.
    fn rope(&self, x: &mut [f32], cos: &[f32], sin: &[f32]) {
        body::vector::rope(Portable, x, cos, sin);
    }

    /// f16 bits to f32, exactly.
    fn widen(&self, x: &[u16], out: &mut [f32]) {
        body::vector::widen(Portable, x, out);
    }

    /// f32 to f16 bits, ties to even.
    fn narrow(&self, x: &[f32], out: &mut [u16]) {
        body::vector::narrow(Portable, x, out);
    }

    /// Gated causal depthwise convolution of the channels in `conv`: with K taps w, per channel
    ///
    /// ```text
    /// z[t] = B[t] * x[t]              z[-1], z[-2], ... are the rows of `window`, newest last
    /// s = +0;  for j in 0..K: s = fma(w[j], z[t - (K - 1) + j], s);  s = s + bias, if there is one
    /// out[t] = C[t] * s
    /// ```
    ///
    /// `out` is `[tokens, channels]`; `window` is `[K - 1, channels]` and ends as the newest K - 1 of z.
    fn conv_gate(&self, conv: &ConvGate, window: &mut Cols, out: &mut Cols) {
        body::conv::conv_gate(Portable, conv, window, out);
    }

    /// Causal attention of the heads of one key/value head; `out` is `[tokens, heads * dim]`.
    ///
    /// Per query, over tiles of 64 positions that begin at multiples of 64, ascending, the positions it sees:
    ///
    /// ```text
    /// s[j] = scale * (q . key[j])                  from +0, for d ascending: s = fma(q[d], key[j][d], s)
    /// m' = max(m, max s);  c = e^(m - m');  p[j] = e^(s[j] - m')          m starts at -inf
    /// l = fma(l, c, sum p)                         position j in lane j % 16, then the tree
    /// acc = fma(acc, c, a)  with  a = +0;  for j ascending: a = fma(p[j], value[j], a)
    /// out = acc / l
    /// ```
    fn attention(&self, attention: &Attention, out: &mut Cols) {
        body::attention::attention(Portable, attention, out);
    }
}

impl std::fmt::Debug for dyn Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
