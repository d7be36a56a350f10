//! Attention of the query heads that share one key/value head, over tiles of the cache in ascending order.
//!
//! Both products of a tile are small matrix products: N queries times 64 keys, and N rows of 64 probabilities times the
//! values. Keys lie in lanes (see [`Cache`]), so no sum crosses lanes but that of the probabilities.

use std::ops::Range;

use crate::cpu::kernels::cols::Cols;
use crate::cpu::kernels::lanes::{Lanes, load_part, store_part};
use crate::cpu::kernels::math;
use crate::cpu::kernels::ops::{Attention, Cache, key_elements};

/// Positions in a tile; tiles begin at its multiples.
const TILE: usize = 64;

/// Queries that walk over the cache together: each tile is widened once for all of them.
const TOGETHER: usize = 96;

/// Elements of the largest head whose tiles are widened into a scratch.
const WIDE: usize = 128;

/// So few queries read the cache as it is.
const FEW: usize = 4;

#[inline(always)]
pub(crate) fn attention<I: Lanes>(isa: I, a: &Attention, out: &mut Cols) {
    match a.cache {
        Cache::F16 { keys, values } => all(isa, a, keys, values, out),
        Cache::F32 { keys, values } => all(isa, a, keys, values, out),
    }
}

/// An element of the cache.
trait Stored: Copy {
    /// Whether sixteen of them are a vector as they are.
    const IS_F32: bool;
    fn load<I: Lanes>(isa: I, x: &[Self; 16]) -> I::V;
    fn load_part<I: Lanes>(isa: I, x: &[Self]) -> I::V;
}

impl Stored for f32 {
    const IS_F32: bool = true;

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
    const IS_F32: bool = false;

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

/// The query heads of all tokens, numbered token by token.
#[derive(Clone, Copy)]
struct Queries<'a> {
    a: &'a Attention<'a>,
}

impl<'a> Queries<'a> {
    /// Query `n`, `[dim]`.
    #[inline(always)]
    fn get(self, n: usize) -> &'a [f32] {
        let Attention { q, stride, heads, dim, .. } = self.a;
        &q[n / heads * stride + n % heads * dim..][..*dim]
    }

    /// The positions that query `n` sees.
    #[inline(always)]
    fn seen(self, n: usize) -> Range<usize> {
        let end = self.a.past + n / self.a.heads + 1;
        self.a.window.map_or(0, |window| end.saturating_sub(window.get()))..end
    }

    /// Where the result of query `n` goes.
    #[inline(always)]
    fn out<'o>(self, n: usize, out: &'o mut Cols) -> &'o mut [f32] {
        let Attention { heads, dim, .. } = self.a;
        &mut out.row_mut(n / heads)[n % heads * dim..][..*dim]
    }
}

/// What a query carries from tile to tile, beside the weighted sum in the output.
struct Running {
    max: [f32; TOGETHER],
    total: [f32; TOGETHER],
}

/// Keys and values of the positions from `base` on, a tile at most.
struct Tile<'a, S> {
    base: usize,
    /// `[groups of 16 positions][dim][16]`
    keys: &'a [S],
    /// `[positions][dim]`
    values: &'a [S],
}

#[inline(always)]
fn all<I: Lanes, S: Stored>(isa: I, a: &Attention, keys: &[S], values: &[S], out: &mut Cols) {
    let (tokens, dim, heads) = (out.tokens(), a.dim, a.heads);
    assert!(dim > 0 && heads > 0 && out.width() == heads * dim, "attention of {heads} heads of {dim}");
    let held = a.past + tokens;
    assert!(
        keys.len() >= key_elements(held, dim) && values.len() >= held * dim,
        "attention up to position {held} in a cache of {} and {} elements",
        keys.len(),
        values.len()
    );
    let (queries, count) = (Queries { a }, tokens * heads);
    for first in (0..count).step_by(TOGETHER) {
        let some = first..count.min(first + TOGETHER);
        let mut running = Running { max: [f32::NEG_INFINITY; TOGETHER], total: [0.0; TOGETHER] };
        for n in some.clone() {
            queries.out(n, out).fill(0.0);
        }
        let seen = queries.seen(some.start).start..queries.seen(some.end - 1).end;
        let tiles = (seen.start / TILE..seen.end.div_ceil(TILE)).map(|tile| {
            let base = tile * TILE;
            let positions = (seen.end - base).min(TILE);
            let keys = &keys[base * dim..][..key_elements(positions, dim)];
            Tile { base, keys, values: &values[base * dim..][..positions * dim] }
        });
        if S::IS_F32 || count <= FEW || dim > WIDE {
            for tile in tiles {
                blocks(isa, queries, &tile, some.clone(), &mut running, out);
            }
        } else {
            widened(isa, queries, tiles, some.clone(), &mut running, out);
        }
        for n in some.clone() {
            let total = isa.splat(running.total[n - some.start]);
            let (whole, rest) = queries.out(n, out).as_chunks_mut();
            for y in whole {
                isa.store(isa.div(isa.load(y), total), y);
            }
            let y = isa.div(load_part(isa, rest), total);
            store_part(isa, y, rest);
        }
    }
}

/// [`blocks`] for each tile, made f32 first.
#[inline(always)]
fn widened<'a, I: Lanes, S: Stored + 'a>(
    isa: I,
    queries: Queries,
    tiles: impl Iterator<Item = Tile<'a, S>>,
    some: Range<usize>,
    running: &mut Running,
    out: &mut Cols,
) {
    let (mut keys, mut values) = ([0.0; TILE * WIDE], [0.0; TILE * WIDE]);
    for tile in tiles {
        let widen = |from: &[S], to: &mut [f32]| {
            let ((from, from_rest), (to, to_rest)) = (from.as_chunks(), to.as_chunks_mut());
            for (from, to) in from.iter().zip(to) {
                isa.store(S::load(isa, from), to);
            }
            store_part(isa, S::load_part(isa, from_rest), to_rest);
        };
        let (keys, values) = (&mut keys[..tile.keys.len()], &mut values[..tile.values.len()]);
        widen(tile.keys, keys);
        widen(tile.values, values);
        blocks(isa, queries, &Tile { base: tile.base, keys, values }, some.clone(), running, out);
    }
}

/// One tile for the queries `some`, as many together as registers hold.
#[inline(always)]
fn blocks<I: Lanes, S: Stored>(
    isa: I,
    queries: Queries,
    tile: &Tile<S>,
    some: Range<usize>,
    running: &mut Running,
    out: &mut Cols,
) {
    let mut next = some.start;
    while next < some.end {
        let (max, total) = (&mut running.max[next - some.start..], &mut running.total[next - some.start..]);
        let left = some.end - next;
        // Each arm but those of the tier's own shapes is compiled away.
        next += match (I::QUERIES, left) {
            (6, 6..) if S::IS_F32 => block::<I, S, 6, 4>(isa, queries, tile, next, max, total, out),
            (6, 4..) => block::<I, S, 4, 4>(isa, queries, tile, next, max, total, out),
            (6, 2..) => block::<I, S, 2, 4>(isa, queries, tile, next, max, total, out),
            (6, _) => block::<I, S, 1, 4>(isa, queries, tile, next, max, total, out),
            (3, 3..) => block::<I, S, 3, 2>(isa, queries, tile, next, max, total, out),
            (3, 2) => block::<I, S, 2, 2>(isa, queries, tile, next, max, total, out),
            (3, _) => block::<I, S, 1, 2>(isa, queries, tile, next, max, total, out),
            _ => block::<I, S, 1, 1>(isa, queries, tile, next, max, total, out),
        };
    }
}

/// One tile for N queries from query `first` on; gives N. W vectors of lanes are held for each query.
#[inline(always)]
fn block<I: Lanes, S: Stored, const N: usize, const W: usize>(
    isa: I,
    queries: Queries,
    tile: &Tile<S>,
    first: usize,
    max: &mut [f32],
    total: &mut [f32],
    out: &mut Cols,
) -> usize {
    let in_tile = |position: usize| position.saturating_sub(tile.base).min(TILE);
    let seen: [Range<usize>; N] = std::array::from_fn(|n| {
        let seen = queries.seen(first + n);
        in_tile(seen.start)..in_tile(seen.end)
    });
    // Both ends ascend with the query.
    let any = seen[0].start..seen[N - 1].end;
    if any.is_empty() {
        return N;
    }
    let mut p = [[0.0; TILE]; N];
    scores::<I, S, N, W>(isa, queries, tile, first, any.end, &mut p);
    let mut shrink = [1.0; N];
    for n in 0..N {
        if seen[n].is_empty() {
            p[n] = [0.0; TILE];
            continue;
        }
        p[n][..seen[n].start].fill(f32::NEG_INFINITY);
        p[n][seen[n].end..].fill(f32::NEG_INFINITY);
        let row = p[n].as_chunks_mut::<16>().0;
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
    // Where one query of the block sees a position and another does not, p is +0: a link of the chain that changes
    // nothing but, at most, the sign of a zero.
    let dim = queries.a.dim;
    let whole = dim - dim % (16 * W);
    for d in (0..whole).step_by(16 * W) {
        weigh::<I, S, N, W>(isa, queries, tile, d, any.clone(), (&p, &shrink), first, out);
    }
    for d in (whole..dim - dim % 16).step_by(16) {
        weigh::<I, S, N, 1>(isa, queries, tile, d, any.clone(), (&p, &shrink), first, out);
    }
    weigh_part(isa, queries, tile, any, (&p, &shrink), first, out);
    N
}

/// Lane 0.
#[inline(always)]
fn one<I: Lanes>(isa: I, v: I::V) -> f32 {
    let mut lanes = [0.0; 16];
    isa.store(v, &mut lanes);
    lanes[0]
}

/// `s[n][j] = scale * (q[first + n] . key[base + j])` for all groups of 16 positions that begin below `end`.
#[inline(always)]
fn scores<I: Lanes, S: Stored, const N: usize, const W: usize>(
    isa: I,
    queries: Queries,
    tile: &Tile<S>,
    first: usize,
    end: usize,
    s: &mut [[f32; TILE]; N],
) {
    let (dim, scale) = (queries.a.dim, isa.splat(queries.a.scale));
    let q: [&[f32]; N] = std::array::from_fn(|n| queries.get(first + n));
    let groups = end.div_ceil(16);
    let mut g = 0;
    while g < groups {
        if W > 1 && g + W <= groups {
            let keys = std::array::from_fn(|w| &tile.keys[(g + w) * 16 * dim..][..16 * dim]);
            let sums = chains::<I, S, N, W>(isa, q, keys);
            put(isa, &sums, scale, g, s);
            g += W;
        } else {
            let sums = chains::<I, S, N, 1>(isa, q, [&tile.keys[g * 16 * dim..][..16 * dim]]);
            put(isa, &sums, scale, g, s);
            g += 1;
        }
    }
}

#[inline(always)]
fn put<I: Lanes, const N: usize, const W: usize>(
    isa: I,
    sums: &[[I::V; W]; N],
    scale: I::V,
    g: usize,
    s: &mut [[f32; TILE]; N],
) {
    for n in 0..N {
        let row = s[n].as_chunks_mut::<16>().0;
        for w in 0..W {
            isa.store(isa.mul(sums[n][w], scale), &mut row[g + w]);
        }
    }
}

/// From +0, for d ascending, `sum[n][w] = fma(q[n][d], key[w][d], sum[n][w])`: 16 keys in the lanes of each.
#[inline(always)]
fn chains<I: Lanes, S: Stored, const N: usize, const W: usize>(
    isa: I,
    q: [&[f32]; N],
    keys: [&[S]; W],
) -> [[I::V; W]; N] {
    let mut sums = [[isa.splat(0.0); W]; N];
    let keys = keys.map(|keys| keys.as_chunks::<16>().0);
    let dim = keys[0].len();
    let (q, keys) = (q.map(|q| &q[..dim]), keys.map(|keys| &keys[..dim]));
    for d in 0..dim {
        let keys: [I::V; W] = std::array::from_fn(|w| S::load(isa, &keys[w][d]));
        for n in 0..N {
            let q = isa.splat(q[n][d]);
            for w in 0..W {
                sums[n][w] = isa.fma(q, keys[w], sums[n][w]);
            }
        }
    }
    sums
}

/// `out[n] = out[n] * shrink[n] + sum over j in seen of p[n][j] * value[base + j]`, the sum ascending from +0, for elements
/// `d..d + 16 W`.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the loop of one caller, separate for its constants")]
fn weigh<I: Lanes, S: Stored, const N: usize, const W: usize>(
    isa: I,
    queries: Queries,
    tile: &Tile<S>,
    d: usize,
    seen: Range<usize>,
    (p, shrink): (&[[f32; TILE]; N], &[f32; N]),
    first: usize,
    out: &mut Cols,
) {
    let mut sums = [[isa.splat(0.0); W]; N];
    for j in seen.start..seen.end.min(TILE) {
        let value = tile.values[j * queries.a.dim + d..][..16 * W].as_chunks().0;
        let value: [I::V; W] = std::array::from_fn(|w| S::load(isa, &value[w]));
        for n in 0..N {
            let p = isa.splat(p[n][j]);
            for w in 0..W {
                sums[n][w] = isa.fma(p, value[w], sums[n][w]);
            }
        }
    }
    for n in 0..N {
        let out = queries.out(first + n, out)[d..][..16 * W].as_chunks_mut().0;
        for w in 0..W {
            let y = isa.fma(isa.load(&out[w]), isa.splat(shrink[n]), sums[n][w]);
            isa.store(y, &mut out[w]);
        }
    }
}

/// [`weigh`] for the elements behind the last whole 16.
#[inline(always)]
fn weigh_part<I: Lanes, S: Stored, const N: usize>(
    isa: I,
    queries: Queries,
    tile: &Tile<S>,
    seen: Range<usize>,
    (p, shrink): (&[[f32; TILE]; N], &[f32; N]),
    first: usize,
    out: &mut Cols,
) {
    let dim = queries.a.dim;
    let d = dim - dim % 16;
    if d == dim {
        return;
    }
    let mut sums = [isa.splat(0.0); N];
    for j in seen {
        let value = S::load_part(isa, &tile.values[j * dim + d..(j + 1) * dim]);
        for n in 0..N {
            sums[n] = isa.fma(isa.splat(p[n][j]), value, sums[n]);
        }
    }
    for n in 0..N {
        let out = &mut queries.out(first + n, out)[d..];
        let y = isa.fma(load_part(isa, out), isa.splat(shrink[n]), sums[n]);
        store_part(isa, y, out);
    }
}
