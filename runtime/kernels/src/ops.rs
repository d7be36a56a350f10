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
    /// Elements of a head, at most [`MAX_HEAD`].
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

/// Keys and values of one head, at least `past + tokens` positions.
///
/// Values are `[positions, dim]`. Keys are cut into groups of 16 positions, `[groups, dim, 16]`: the same element of 16
/// keys is one vector, so dot products need no sum across lanes. The last group is whole, its unused lanes are not looked at.
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

/// Elements that the keys of `positions` positions of `dim` elements take in a [`Cache`].
pub const fn key_elements(positions: usize, dim: usize) -> usize {
    positions.next_multiple_of(KEY_GROUP) * dim
}

/// Most elements of a head.
pub const MAX_HEAD: usize = 256;

/// Positions in a group of keys.
pub const KEY_GROUP: usize = 16;

/// Writes the key of `position` into its place in a [`Cache`].
///
/// # Panics
/// If the place is outside of `keys`.
pub fn put_key<T: Copy>(keys: &mut [T], position: usize, key: &[T]) {
    let group = position / KEY_GROUP * KEY_GROUP * key.len();
    let places = keys[group..][..KEY_GROUP * key.len()].as_chunks_mut::<KEY_GROUP>().0;
    for (place, element) in places.iter_mut().zip(key) {
        place[position % KEY_GROUP] = *element;
    }
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
