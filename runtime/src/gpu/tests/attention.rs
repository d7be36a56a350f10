//! Attention: the cache, prefill and decode.

use std::num::NonZeroUsize;

use super::{Bench, Rng, assert_near};
use crate::cpu::kernels::{Attention, Cache, Cols, Kernels, Portable, key_elements, put_key};
use crate::exec::{AttentionStep, Kind, StateShape};
use crate::gpu::kernels::attention::{Division, attention, divided};

#[derive(Clone, Copy, Debug)]
struct Case {
    kv: usize,
    group: usize,
    dim: usize,
    window: Option<usize>,
    half: bool,
    context: usize,
}

/// Runs chunks one after another, in workgroups of `threads`; each has to be what the portable kernel makes of everything so far.
fn check(rng: &mut Rng, case: Case, threads: u32, chunks: &[usize]) {
    let Some(mut bench) = Bench::new() else { return };
    let Case { kv, group, dim, window, half, context } = case;
    let heads = kv * group;
    // Decode leaves the sums of shares in rows that it does not need.
    let most = chunks.iter().copied().max().unwrap().max(40);
    let step = AttentionStep {
        q: bench.empty(most, heads * dim),
        k: bench.empty(most, kv * dim),
        v: bench.empty(most, kv * dim),
        keys: 0,
        values: 1,
        heads,
        kv,
        dim,
        scale: 1.0 / (dim as f32).sqrt(),
        window: window.and_then(NonZeroUsize::new),
        out: bench.empty(most, heads * dim),
    };
    bench.context = context;
    bench.states = vec![StateShape::Cache { kv, dim, half }; 2];
    // [kv][positions][dim]
    let mut keys = vec![Vec::new(); kv];
    let mut values = vec![Vec::new(); kv];
    let mut past = 0;
    for &rows in chunks {
        let [q, k, v] = [heads, kv, kv].map(|heads| rng.units(rows * heads * dim));
        let q: Vec<f32> = q.iter().map(|x| 4.0 * x).collect();
        bench.write(step.q, &q);
        bench.write(step.k, &k);
        bench.write(step.v, &v);
        let ran = bench.run(Kind::Attention(step.clone()), rows, past, |b| {
            b.most_rows = most;
            divided(b, &step, Division { threads, shares: Division::most_shares(b, &step) })
        });
        let mut expected = vec![0.0; rows * heads * dim];
        let mut rest = Cols::new(&mut expected, rows, heads * dim);
        for head in 0..kv {
            for row in 0..rows {
                let at = (row * kv + head) * dim;
                keys[head].extend_from_slice(&k[at..at + dim]);
                values[head].extend_from_slice(&v[at..at + dim]);
            }
            let narrow = |x: &[f32]| {
                let mut bits = vec![0u16; x.len()];
                Portable.narrow(x, &mut bits);
                bits
            };
            let mut grouped = vec![0.0; key_elements(past + rows, dim)];
            for (position, key) in keys[head].chunks_exact(dim).enumerate() {
                put_key(&mut grouped, position, key);
            }
            let halves = [narrow(&grouped), narrow(&values[head])];
            let cache = if half {
                Cache::F16 { keys: &halves[0], values: &halves[1] }
            } else {
                Cache::F32 { keys: &grouped, values: &values[head] }
            };
            let (mut mine, others) = rest.split_at(group * dim);
            let q = &q[head * group * dim..];
            let (stride, scale, window) = (heads * dim, step.scale, step.window);
            Portable.attention(
                &Attention { q, stride, heads: group, dim, past, scale, window, cache },
                &mut mine,
            );
            rest = others;
        }
        let what = format!("{case:?}, {rows} tokens after {past}");
        assert_near(&ran.floats(step.out, rows), &expected, 1e-5, &what);
        past += rows;
    }
    assert!(past <= context);
}

#[test]
fn attention_is_the_portable_one() {
    let mut rng = Rng::new(20);
    let dims = [4, 12, 16, 24, 32, 48, 64, 80, 128, 200, 256];
    let groups = [1, 2, 3, 4, 5, 8];
    for (i, dim) in dims.into_iter().enumerate() {
        for half in [false, true] {
            let group = groups[(i + usize::from(half)) % groups.len()];
            let case = Case { kv: 1 + i % 3, group, dim, window: None, half, context: 100 };
            check(&mut rng, case, 64 << (i % 3), &[1, 2, 7, 1, 8, 9, 33, 1, 3, 1, 30]);
        }
    }
}

#[test]
fn a_window_hides_what_is_older() {
    let mut rng = Rng::new(21);
    for window in [1, 2, 40, 63, 64, 65] {
        for half in [false, true] {
            let case = Case { kv: 2, group: 4, dim: 16, window: Some(window), half, context: 200 };
            check(&mut rng, case, 256, &[33, 1, 31, 1, 9, 64, 1]);
        }
    }
}

#[test]
fn positions_are_divided_between_workgroups() {
    let mut rng = Rng::new(22);
    for (half, window, group) in
        [(true, None, 4), (false, None, 2), (true, Some(300), 6), (false, Some(255), 1)]
    {
        let case = Case { kv: 2, group, dim: 32, window, half, context: 1200 };
        check(&mut rng, case, if half { 256 } else { 64 }, &[254, 1, 1, 1, 254, 1, 1, 1, 250, 300, 1, 1]);
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut rng = Rng::new(23);
    let Some(mut bench) = Bench::new() else { return };
    let step = AttentionStep {
        q: bench.empty(3, 32),
        k: bench.empty(3, 16),
        v: bench.empty(3, 16),
        keys: 0,
        values: 1,
        heads: 2,
        kv: 1,
        dim: 16,
        scale: 1e4,
        window: None,
        out: bench.empty(3, 32),
    };
    bench.states = vec![StateShape::Cache { kv: 1, dim: 16, half: false }; 2];
    for (at, width) in [(step.q, 32), (step.k, 16), (step.v, 16)] {
        bench.write(at, &rng.units(3 * width));
    }
    let ran = bench.run(Kind::Attention(step.clone()), 3, 0, |b| attention(b, &step));
    assert!(ran.floats(step.out, 3).iter().all(|y| y.is_finite()));
}

#[test]
fn the_cache_is_rounded_as_on_the_cpu() {
    let mut rng = Rng::new(24);
    let Some(mut bench) = Bench::new() else { return };
    let (rows, dim) = (40, 256);
    let mut values: Vec<f32> = vec![0.0, -0.0, 1.0, 65504.0, 65519.9, 65520.0, 1e6, f32::INFINITY];
    values.extend([6.1035e-5, 6.0976e-5, 6.1e-5, 5.96e-8, 2.98e-8, 2.9803e-8, 2.97e-8, 8.94e-8, 1e-20]);
    // Half-way between two f16, a little less and a little more.
    for exponent in 0x38..0x48u32 {
        for low in [0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001] {
            values.push(f32::from_bits(exponent << 24 | low));
        }
    }
    while values.len() < rows * dim / 2 {
        let exponent = rng.below(60) as i32 - 40;
        values.push(rng.unit() * 2f32.powi(exponent));
    }
    let negative: Vec<f32> = values.iter().map(|x| -x).collect();
    values.extend(negative);
    let step = AttentionStep {
        q: bench.rows(dim, &vec![0.0; rows * dim]),
        k: bench.rows(dim, &values),
        v: bench.rows(dim, &values),
        keys: 0,
        values: 1,
        heads: 1,
        kv: 1,
        dim,
        scale: 1.0,
        window: None,
        out: bench.empty(rows, dim),
    };
    bench.context = rows;
    bench.states = vec![StateShape::Cache { kv: 1, dim, half: true }; 2];
    let ran = bench.run(Kind::Attention(step.clone()), rows, 0, |b| attention(b, &step));
    let mut bits = vec![0u16; values.len()];
    Portable.narrow(&values, &mut bits);
    for state in &ran.states {
        let found = state.iter().flat_map(|word| [*word as u16, (*word >> 16) as u16]);
        for ((found, expected), value) in found.zip(&bits).zip(&values) {
            assert_eq!(found, *expected, "{value:e}");
        }
    }
}
