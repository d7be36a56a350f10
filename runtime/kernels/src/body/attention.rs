//! Attention of the query heads that share one key/value head, over tiles of the cache in ascending order.
//!
//! Both products of a tile are small matrix products: N queries times 64 keys, and N rows of 64 probabilities times the
//! values. Keys lie in lanes (see [`Cache`]), so no sum crosses lanes but that of the probabilities.

use std::ops::Range;

use crate::cols::Cols;
use crate::lanes::{Lanes, load_part, store_part};
use crate::math;
use crate::ops::{Attention, Cache, MAX_HEAD, key_elements};

/// Positions in a tile; tiles begin at its multiples.
const TILE: usize = 64;

/// Queries that walk over the cache together: each tile is widened once for all of them.
const TOGETHER: usize = 96;

/// Elements of a head that has room in the small scratch; what is larger takes longer to clear.
const USUAL: usize = 64;

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

impl<'a, S> Tile<'a, S> {
    /// The tile at `base` of a cache of which `end` positions are seen.
    #[inline(always)]
    fn of(keys: &'a [S], values: &'a [S], base: usize, end: usize, dim: usize) -> Tile<'a, S> {
        let positions = (end - base).min(TILE);
        let keys = &keys[base * dim..][..key_elements(positions, dim)];
        Tile { base, keys, values: &values[base * dim..][..positions * dim] }
    }
}

#[inline(always)]
fn widen<I: Lanes>(isa: I, from: &[u16], to: &mut [f32]) {
    let ((from, from_rest), (to, to_rest)) = (from.as_chunks(), to.as_chunks_mut());
    for (from, to) in from.iter().zip(to) {
        isa.store(isa.widen(from), to);
    }
    let mut rest = [0; 16];
    for (lane, x) in rest.iter_mut().zip(from_rest) {
        *lane = *x;
    }
    store_part(isa, isa.widen(&rest), to_rest);
}

#[inline(always)]
pub(crate) fn attention<I: Lanes>(isa: I, a: &Attention, out: &mut Cols) {
    let (tokens, dim, heads) = (out.tokens(), a.dim, a.heads);
    assert!(
        (1..=MAX_HEAD).contains(&dim) && heads > 0 && out.width() == heads * dim,
        "attention of {heads} heads of {dim}"
    );
    let held = a.past + tokens;
    let (keys, values) = match a.cache {
        Cache::F16 { keys, values } => (keys.len(), values.len()),
        Cache::F32 { keys, values } => (keys.len(), values.len()),
    };
    assert!(
        keys >= key_elements(held, dim) && values >= held * dim,
        "attention up to position {held} in a cache of {keys} and {values} elements",
    );
    let (queries, count) = (Queries { a }, tokens * heads);
    // Room for a tile as f32. Behind its keys there is what an earlier tile has left, which no query sees.
    let (mut small, mut large);
    let scratch: &mut [f32] = if dim <= USUAL {
        small = [0.0; 2 * TILE * USUAL];
        &mut small
    } else {
        large = [0.0; 2 * TILE * MAX_HEAD];
        &mut large
    };
    let (wide_keys, wide_values) = scratch[..2 * TILE * dim].split_at_mut(TILE * dim);
    for first in (0..count).step_by(TOGETHER) {
        let some = first..count.min(first + TOGETHER);
        let mut running = Running { max: [f32::NEG_INFINITY; TOGETHER], total: [0.0; TOGETHER] };
        for n in some.clone() {
            queries.out(n, out).fill(0.0);
        }
        let seen = queries.seen(some.start).start..queries.seen(some.end - 1).end;
        for base in (seen.start / TILE * TILE..seen.end).step_by(TILE) {
            match a.cache {
                Cache::F16 { keys, values } => {
                    let tile = Tile::of(keys, values, base, seen.end, dim);
                    widen(isa, tile.keys, &mut wide_keys[..tile.keys.len()]);
                    widen(isa, tile.values, &mut wide_values[..tile.values.len()]);
                }
                Cache::F32 { keys, values } => {
                    let tile = Tile::of(keys, values, base, seen.end, dim);
                    wide_keys[..tile.keys.len()].copy_from_slice(tile.keys);
                    wide_values[..tile.values.len()].copy_from_slice(tile.values);
                }
            }
            let tile = Tile { base, keys: &*wide_keys, values: &*wide_values };
            blocks(isa, queries, &tile, some.clone(), &mut running, out);
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

/// One tile for the queries `some`, as many together as registers hold.
#[inline(always)]
fn blocks<I: Lanes>(
    isa: I,
    queries: Queries,
    tile: &Tile<f32>,
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
            (6, 6..) => block::<I, 6, 4>(isa, queries, tile, next, max, total, out),
            (6, 2..) => block::<I, 2, 4>(isa, queries, tile, next, max, total, out),
            (6, _) => block::<I, 1, 4>(isa, queries, tile, next, max, total, out),
            (3, 3..) => block::<I, 3, 2>(isa, queries, tile, next, max, total, out),
            (3, _) => block::<I, 1, 2>(isa, queries, tile, next, max, total, out),
            (4, 4..) => block::<I, 4, 1>(isa, queries, tile, next, max, total, out),
            (4, 2..) => block::<I, 2, 2>(isa, queries, tile, next, max, total, out),
            (4, _) => block::<I, 1, 2>(isa, queries, tile, next, max, total, out),
            _ => block::<I, 1, 1>(isa, queries, tile, next, max, total, out),
        };
    }
}

/// One tile for N queries from query `first` on; gives N. W vectors of lanes are held for each query.
#[inline(always)]
fn block<I: Lanes, const N: usize, const W: usize>(
    isa: I,
    queries: Queries,
    tile: &Tile<f32>,
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
    scores::<I, N, W>(isa, queries, tile, first, any.end, &mut p);
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
        weigh::<I, N, W>(isa, queries, tile, d, any.clone(), (&p, &shrink), first, out);
    }
    for d in (whole..dim - dim % 16).step_by(16) {
        weigh::<I, N, 1>(isa, queries, tile, d, any.clone(), (&p, &shrink), first, out);
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
fn scores<I: Lanes, const N: usize, const W: usize>(
    isa: I,
    queries: Queries,
    tile: &Tile<f32>,
    first: usize,
    end: usize,
    s: &mut [[f32; TILE]; N],
) {
    let (dim, scale) = (queries.a.dim, isa.splat(queries.a.scale));
    let q: [&[f32]; N] = std::array::from_fn(|n| queries.get(first + n));
    // All W groups of a step, of which the last may lie behind `end`: their scores are not looked at.
    for g in (0..end.div_ceil(16)).step_by(W) {
        let keys = std::array::from_fn(|w| &tile.keys[(g + w) * 16 * dim..][..16 * dim]);
        let sums = chains::<I, N, W>(isa, q, keys);
        put(isa, &sums, scale, g, s);
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
fn chains<I: Lanes, const N: usize, const W: usize>(
    isa: I,
    q: [&[f32]; N],
    keys: [&[f32]; W],
) -> [[I::V; W]; N] {
    let mut sums = [[isa.splat(0.0); W]; N];
    let keys = keys.map(|keys| keys.as_chunks::<16>().0);
    let dim = keys[0].len();
    let (q, keys) = (q.map(|q| &q[..dim]), keys.map(|keys| &keys[..dim]));
    for d in 0..dim {
        let keys: [I::V; W] = std::array::from_fn(|w| isa.load(&keys[w][d]));
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
fn weigh<I: Lanes, const N: usize, const W: usize>(
    isa: I,
    queries: Queries,
    tile: &Tile<f32>,
    d: usize,
    seen: Range<usize>,
    (p, shrink): (&[[f32; TILE]; N], &[f32; N]),
    first: usize,
    out: &mut Cols,
) {
    let mut sums = [[isa.splat(0.0); W]; N];
    for j in seen.start..seen.end.min(TILE) {
        let value = tile.values[j * queries.a.dim + d..][..16 * W].as_chunks().0;
        let value: [I::V; W] = std::array::from_fn(|w| isa.load(&value[w]));
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
fn weigh_part<I: Lanes, const N: usize>(
    isa: I,
    queries: Queries,
    tile: &Tile<f32>,
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
        let value = load_part(isa, &tile.values[j * dim + d..(j + 1) * dim]);
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
