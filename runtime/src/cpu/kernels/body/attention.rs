//! Attention of the query heads that share one key/value head, over tiles of the cache in ascending order.

use std::ops::Range;

use crate::cpu::kernels::cols::Cols;
use crate::cpu::kernels::lanes::{Lanes, load_part, store_part};
use crate::cpu::kernels::math;
use crate::cpu::kernels::ops::{Attention, Cache};

/// Positions in a tile; tiles begin at its multiples.
const TILE: usize = 64;

#[inline(always)]
pub(crate) fn attention<I: Lanes>(isa: I, a: &Attention, out: &mut Cols) {
    match a.cache {
        Cache::F16 { keys, values } => all(isa, a, keys, values, out),
        Cache::F32 { keys, values } => all(isa, a, keys, values, out),
    }
}

#[inline(always)]
fn all<I: Lanes, S: Stored>(isa: I, a: &Attention, keys: &[S], values: &[S], out: &mut Cols) {
    let (tokens, dim) = (out.tokens(), a.dim);
    assert!(dim > 0 && out.width() == a.heads * dim, "attention of {} heads of {dim}", a.heads);
    let held = keys.len().min(values.len()) / dim;
    assert!(a.past + tokens <= held, "attention up to position {} in a cache of {held}", a.past + tokens);
    for t in 0..tokens {
        let position = a.past + t;
        let first = match a.window {
            Some(window) => (position + 1).saturating_sub(window.get()),
            None => 0,
        };
        let cache = Seen { keys, values, dim, positions: first..position + 1 };
        let mut q = &a.q[t * a.stride..][..a.heads * dim];
        let mut out = out.row_mut(t);
        while !q.is_empty() {
            let count = match (q.len() / dim).min(I::HEADS).min(S::HEADS) {
                4.. => 4,
                2 | 3 => 2,
                _ => 1,
            };
            let (some, others) = q.split_at(count * dim);
            let (y, out_others) = out.split_at_mut(count * dim);
            match count {
                4 => heads::<I, S, 4>(isa, some, &cache, a.scale, y),
                2 => heads::<I, S, 2>(isa, some, &cache, a.scale, y),
                _ => heads::<I, S, 1>(isa, some, &cache, a.scale, y),
            }
            (q, out) = (others, out_others);
        }
    }
}

/// The cache as one token sees it.
struct Seen<'a, S> {
    keys: &'a [S],
    values: &'a [S],
    dim: usize,
    positions: Range<usize>,
}

/// An element of the cache.
trait Stored: Copy {
    /// Most query heads that are computed together.
    const HEADS: usize;
    fn load<I: Lanes>(isa: I, x: &[Self; 16]) -> I::V;
    fn load_part<I: Lanes>(isa: I, x: &[Self]) -> I::V;
}

impl Stored for f32 {
    // Nothing is widened, so less is saved by sharing; it keeps code small.
    const HEADS: usize = 1;

    #[inline(always)]
    fn load<I: Lanes>(isa: I, x: &[f32; 16]) -> I::V {
        isa.load(x)
    }

    #[inline(always)]
    fn load_part<I: Lanes>(isa: I, x: &[f32]) -> I::V {
        load_part(isa, x)
    }
}

impl Stored for u16 {
    const HEADS: usize = 4;

    #[inline(always)]
    fn load<I: Lanes>(isa: I, x: &[u16; 16]) -> I::V {
        isa.widen(x)
    }

    #[inline(always)]
    fn load_part<I: Lanes>(isa: I, x: &[u16]) -> I::V {
        let mut lanes = [0; 16];
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = *x;
        }
        isa.widen(&lanes)
    }
}

/// N query heads of one token: `q` and `out` are `[N, dim]`. `out` holds the running sums between tiles.
#[inline(always)]
fn heads<I: Lanes, S: Stored, const N: usize>(
    isa: I,
    q: &[f32],
    cache: &Seen<S>,
    scale: f32,
    out: &mut [f32],
) {
    let mut max = [f32::NEG_INFINITY; N];
    let mut total = [0.0f32; N];
    out.fill(0.0);
    let Range { start, end } = cache.positions;
    let mut next = start;
    while next < end {
        let base = next - next % TILE;
        let seen = next - base..(end - base).min(TILE);
        let mut p = [[f32::NEG_INFINITY; TILE]; N];
        scores(isa, q, cache, scale, base, seen.clone(), &mut p);
        let mut shrink = [0.0; N];
        for n in 0..N {
            let (row, _) = p[n].as_chunks_mut::<16>();
            let mut top = isa.load(&row[0]);
            for s in &row[1..] {
                top = isa.max(isa.load(s), top);
            }
            let top = isa.highest(top);
            let top = if top > max[n] { top } else { max[n] };
            shrink[n] = one(isa, math::exp(isa, isa.splat(max[n] - top)));
            let mut sum = isa.splat(0.0);
            for s in row {
                let e = math::exp(isa, isa.sub(isa.load(s), isa.splat(top)));
                sum = isa.add(sum, e);
                isa.store(e, s);
            }
            total[n] = total[n].mul_add(shrink[n], isa.sum(sum));
            max[n] = top;
        }
        weigh_all(isa, cache, base, seen, &p, &shrink, out);
        next = (base + TILE).min(end);
    }
    for (n, row) in out.chunks_exact_mut(cache.dim).enumerate() {
        let total = isa.splat(total[n]);
        let (whole, rest) = row.as_chunks_mut();
        for y in whole {
            isa.store(isa.div(isa.load(y), total), y);
        }
        let y = isa.div(load_part(isa, rest), total);
        store_part(isa, y, rest);
    }
}

/// Lane 0.
#[inline(always)]
fn one<I: Lanes>(isa: I, v: I::V) -> f32 {
    let mut lanes = [0.0; 16];
    isa.store(v, &mut lanes);
    lanes[0]
}

/// `s[n][j] = scale * (q[n] . key[base + j])` for j in `seen`; the others stay.
#[inline(always)]
fn scores<I: Lanes, S: Stored, const N: usize>(
    isa: I,
    q: &[f32],
    cache: &Seen<S>,
    scale: f32,
    base: usize,
    seen: Range<usize>,
    s: &mut [[f32; TILE]; N],
) {
    let dim = cache.dim;
    for g in seen.start / 16..seen.end.div_ceil(16) {
        let mut dots = [[isa.splat(0.0); 16]; N];
        let keys = seen.start.max(16 * g)..seen.end.min(16 * g + 16);
        for j in keys.clone() {
            let (key, key_rest) = cache.keys[(base + j) * dim..][..dim].as_chunks();
            let mut dot = [isa.splat(0.0); N];
            for (i, key) in key.iter().enumerate() {
                let key = S::load(isa, key);
                for n in 0..N {
                    let q = q[n * dim..][..dim].as_chunks().0;
                    dot[n] = isa.fma(isa.load(&q[i]), key, dot[n]);
                }
            }
            if !key_rest.is_empty() {
                let key = S::load_part(isa, key_rest);
                for n in 0..N {
                    let rest = &q[(n + 1) * dim - key_rest.len()..(n + 1) * dim];
                    dot[n] = isa.fma(load_part(isa, rest), key, dot[n]);
                }
            }
            for n in 0..N {
                dots[n][j % 16] = dot[n];
            }
        }
        for n in 0..N {
            let mut lanes = [0.0; 16];
            isa.store(isa.mul(isa.sums(&dots[n]), isa.splat(scale)), &mut lanes);
            let seen = keys.start - 16 * g..keys.end - 16 * g;
            s[n][keys.clone()].copy_from_slice(&lanes[seen]);
        }
    }
}

/// `out[n] = out[n] * shrink[n] + sum over j in seen of p[n][j] * value[base + j]`, the sum ascending from +0.
#[inline(always)]
fn weigh_all<I: Lanes, S: Stored, const N: usize>(
    isa: I,
    cache: &Seen<S>,
    base: usize,
    seen: Range<usize>,
    p: &[[f32; TILE]; N],
    shrink: &[f32; N],
    out: &mut [f32],
) {
    let dim = cache.dim;
    let whole = dim - dim % 16;
    let values = &cache.values[base * dim..];
    let mut d = 0;
    while d < whole {
        if N * 4 <= I::ACCUMULATORS && d + 64 <= whole {
            weigh::<I, S, N, 4>(isa, values, dim, d, seen.clone(), p, shrink, out);
            d += 64;
        } else if N * 2 <= I::ACCUMULATORS && d + 32 <= whole {
            weigh::<I, S, N, 2>(isa, values, dim, d, seen.clone(), p, shrink, out);
            d += 32;
        } else {
            weigh::<I, S, N, 1>(isa, values, dim, d, seen.clone(), p, shrink, out);
            d += 16;
        }
    }
    if d < dim {
        let mut sums = [isa.splat(0.0); N];
        for j in seen {
            let value = S::load_part(isa, &values[j * dim + d..][..dim - d]);
            for n in 0..N {
                sums[n] = isa.fma(isa.splat(p[n][j]), value, sums[n]);
            }
        }
        for n in 0..N {
            let out = &mut out[n * dim + d..][..dim - d];
            let y = isa.fma(load_part(isa, out), isa.splat(shrink[n]), sums[n]);
            store_part(isa, y, out);
        }
    }
}

/// Elements `d..d + 16 W` of [`weigh_all`].
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the loop of one caller, separate for its constants")]
fn weigh<I: Lanes, S: Stored, const N: usize, const W: usize>(
    isa: I,
    values: &[S],
    dim: usize,
    d: usize,
    seen: Range<usize>,
    p: &[[f32; TILE]; N],
    shrink: &[f32; N],
    out: &mut [f32],
) {
    let mut sums = [[isa.splat(0.0); W]; N];
    for j in seen {
        let value = values[j * dim + d..][..16 * W].as_chunks().0;
        for w in 0..W {
            let value = S::load(isa, &value[w]);
            for n in 0..N {
                sums[n][w] = isa.fma(isa.splat(p[n][j]), value, sums[n][w]);
            }
        }
    }
    for n in 0..N {
        let out = out[n * dim + d..][..16 * W].as_chunks_mut().0;
        for w in 0..W {
            let y = isa.fma(isa.load(&out[w]), isa.splat(shrink[n]), sums[n][w]);
            isa.store(y, &mut out[w]);
        }
    }
}
