//! Arguments of the larger kernels.

use std::num::NonZeroUsize;
use std::ops::Range;

use super::matrix::Matrix;
use super::panels::Panels;

/// What a matrix is multiplied with, `[tokens, k]`.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Quantised activations, for quantised weights.
    Panels(Panels<'a>),
    /// Row-major f32, for f32 and f16 weights.
    Rows(&'a [f32]),
}

/// Attention of `heads` query heads that share one key/value head.
///
/// The tokens of a call are at positions `past, past + 1, ...`; their own keys and values are already in the cache.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Head h of token t is at `t * stride + h * dim`, `dim` floats.
    pub q: &'a [f32],
    /// Floats from one token's queries to the next one's.
    pub stride: usize,
    /// Query heads of this key/value head.
    pub heads: usize,
    /// Elements of a head.
    pub dim: usize,
    /// Position of the first token.
    pub past: usize,
    /// Factor on `q . k`.
    pub scale: f32,
    /// How many positions a query sees, its own included; `None`: all up to its own.
    pub window: Option<NonZeroUsize>,
    /// Keys and values of this head.
    pub cache: Cache<'a>,
}

/// Keys and values of one head, each `[positions, dim]`, at least `past + tokens` positions.
#[derive(Clone, Copy, Debug)]
pub enum Cache<'a> {
    /// f16 bits.
    F16 {
        /// Keys after rotary embedding.
        keys: &'a [u16],
        /// Values.
        values: &'a [u16],
    },
    /// f32.
    F32 {
        /// Keys after rotary embedding.
        keys: &'a [f32],
        /// Values.
        values: &'a [f32],
    },
}

/// A gated depthwise convolution over some channels.
#[derive(Clone, Debug)]
pub struct ConvGate<'a> {
    /// `[tokens, 3, hidden]`: B, C and x of each token.
    pub bcx: &'a [f32],
    /// `hidden` rows of K taps, [`lfm_graphs::weights::Format::F32`]; the last tap meets the current token.
    pub kernel: Matrix<'a>,
    /// `[hidden]`
    pub bias: Option<&'a [f32]>,
    /// The channels to compute; starts at a multiple of 16.
    pub channels: Range<usize>,
}
