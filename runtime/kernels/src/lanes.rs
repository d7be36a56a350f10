//! Sixteen f32 lanes: the vector that every kernel but the integer dot products is written in.
//!
//! All operations are correctly rounded IEEE 754 or act on bits, so a body written over [`Lanes`] gives the same bits
//! in every tier, whatever registers hold the lanes. Reductions across lanes follow one tree: lane i + lane i + 8,
//! then + 4, + 2, + 1.

/// A tier's way to hold and compute sixteen f32. Implemented by tier tokens, whose existence proves CPU support.
pub(super) trait Lanes: Copy {
    /// Sixteen f32.
    type V: Copy;

    /// Tokens that one tile of a float matrix product computes together (1..=8): what registers hold.
    const DENSE_TOKENS: usize;
    /// Most queries that attention computes together, by what registers hold: 6 (with 4 vectors of keys or values),
    /// 3 (with 2), 4 or 1 (with 1).
    const QUERIES: usize;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, x: &[f32; 16]) -> Self::V;
    /// Little-endian f32.
    fn load_bytes(self, x: &[u8; 64]) -> Self::V;
    fn store(self, v: Self::V, out: &mut [f32; 16]);

    /// f16 bits, exactly.
    fn widen(self, half: &[u16; 16]) -> Self::V;
    /// Little-endian f16 bits, exactly.
    fn widen_bytes(self, half: &[u8; 32]) -> Self::V;
    /// To f16 bits, ties to even.
    fn narrow(self, v: Self::V) -> [u16; 16];

    /// a * b + c, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// a > b ? a : b
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// a < b ? a : b
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn abs(self, a: Self::V) -> Self::V;

    /// v * 2^n where t = 1.5 * 2^23 + n: adds n to the exponent field.
    fn exponent(self, v: Self::V, t: Self::V) -> Self::V;
    /// v where x >= bound, else +0.
    fn zero_below(self, v: Self::V, x: Self::V, bound: Self::V) -> Self::V;

    /// The low byte of each lane's bits.
    fn low_bytes(self, v: Self::V) -> [u8; 16];
    /// The wrapping sum of the lanes' bits as integers.
    fn bit_sum(self, v: Self::V) -> i32;
    /// The largest lane.
    fn highest(self, v: Self::V) -> f32;
    /// The sum of the lanes, by the tree.
    fn sum(self, v: Self::V) -> f32;
}

/// The lanes of `x`, fewer than 16 possible, then +0.
#[inline(always)]
pub(super) fn load_part<I: Lanes>(isa: I, x: &[f32]) -> I::V {
    let mut lanes = [0.0; 16];
    for (lane, x) in lanes.iter_mut().zip(x) {
        *lane = *x;
    }
    isa.load(&lanes)
}

/// The first lanes of `v` to `out`, 16 at most.
#[inline(always)]
pub(super) fn store_part<I: Lanes>(isa: I, v: I::V, out: &mut [f32]) {
    let mut lanes = [0.0; 16];
    isa.store(v, &mut lanes);
    for (out, lane) in out.iter_mut().zip(lanes) {
        *out = lane;
    }
}

/// The sum of sixteen lanes by the tree.
#[inline(always)]
pub(super) fn tree(lanes: &[f32; 16]) -> f32 {
    let mut l = *lanes;
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            l[i] += l[i + half];
        }
    }
    l[0]
}
