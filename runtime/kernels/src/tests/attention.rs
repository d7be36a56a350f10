use std::num::NonZeroUsize;

use super::super::{Attention, Cache, Cols, Kernels, Portable, key_elements, put_key};
use super::{Rng, assert_bits, available, tiers};

struct Case {
    heads: usize,
    dim: usize,
    past: usize,
    tokens: usize,
    window: Option<NonZeroUsize>,
    /// `[tokens, heads * dim + 5]`
    q: Vec<f32>,
    /// `[positions, dim]`
    keys: Vec<f32>,
    values: Vec<f32>,
    halves: [Vec<u16>; 2],
}

fn case(rng: &mut Rng, heads: usize, dim: usize, past: usize, tokens: usize, window: Option<usize>) -> Case {
    let floats: [Vec<f32>; 2] =
        [0, 1].map(|_| (0..(past + tokens) * dim).map(|_| 3.0 * rng.unit()).collect());
    let halves = floats.each_ref().map(|x| {
        let mut half = vec![0; x.len()];
        Portable.narrow(x, &mut half);
        half
    });
    let [keys, values] = floats;
    let q = (0..tokens * (heads * dim + 5)).map(|_| 2.0 * rng.unit()).collect();
    Case { heads, dim, past, tokens, window: window.and_then(NonZeroUsize::new), q, keys, values, halves }
}

/// `keys`, `[positions, dim]`, as a cache has them.
fn grouped<T: Copy>(keys: &[T], dim: usize, unused: T) -> Vec<T> {
    let mut groups = vec![unused; key_elements(keys.len() / dim, dim)];
    for (position, key) in keys.chunks_exact(dim).enumerate() {
        put_key(&mut groups, position, key);
    }
    groups
}

/// All tokens in calls of `chunk`, `[tokens, heads * dim]`; the cache never holds more than a call may see.
fn run(kernels: &dyn Kernels, case: &Case, half: bool, chunk: usize) -> Vec<f32> {
    let (width, stride) = (case.heads * case.dim, case.heads * case.dim + 5);
    let mut y = vec![f32::NAN; case.tokens * width];
    let mut done = 0;
    let mut out = Cols::new(&mut y, case.tokens, width);
    while done < case.tokens {
        let tokens = chunk.min(case.tokens - done);
        let (mut now, later) = out.split_tokens(tokens);
        let held = (case.past + done + tokens) * case.dim;
        // What no query may see is not a number.
        let halves = grouped(&case.halves[0][..held], case.dim, 0x7e00);
        let floats = grouped(&case.keys[..held], case.dim, f32::NAN);
        let cache = if half {
            Cache::F16 { keys: &halves, values: &case.halves[1][..held] }
        } else {
            Cache::F32 { keys: &floats, values: &case.values[..held] }
        };
        let attention = Attention {
            q: &case.q[done * stride..],
            stride,
            heads: case.heads,
            dim: case.dim,
            past: case.past + done,
            scale: 1.0 / (case.dim as f32).sqrt(),
            window: case.window,
            cache,
        };
        kernels.attention(&attention, &mut now);
        (out, done) = (later, done + tokens);
    }
    y
}

fn reference(case: &Case, half: bool) -> Vec<f64> {
    let stored = |x: &[f32], bits: &[u16]| -> Vec<f64> {
        if half {
            bits.iter().map(|h| half::f16::from_bits(*h).to_f64()).collect()
        } else {
            x.iter().map(|x| f64::from(*x)).collect()
        }
    };
    let (keys, values) = (stored(&case.keys, &case.halves[0]), stored(&case.values, &case.halves[1]));
    let mut y = Vec::new();
    for (t, q) in case.q.chunks_exact(case.heads * case.dim + 5).enumerate() {
        let end = case.past + t + 1;
        let start = case.window.map_or(0, |window| end.saturating_sub(window.get()));
        for q in q[..case.heads * case.dim].chunks_exact(case.dim) {
            let row = |x: &'_ [f64], j: usize| x[j * case.dim..(j + 1) * case.dim].to_vec();
            let dot = |j| row(&keys, j).iter().zip(q).map(|(k, q)| k * f64::from(*q)).sum::<f64>();
            let p: Vec<f64> = (start..end).map(|j| (dot(j) / (case.dim as f64).sqrt()).exp()).collect();
            let total: f64 = p.iter().sum();
            for d in 0..case.dim {
                let sum: f64 = (start..end).zip(&p).map(|(j, p)| p * values[j * case.dim + d]).sum();
                y.push(sum / total);
            }
        }
    }
    y
}

#[test]
fn every_tier_and_split_equals_portable_and_is_near_f64() {
    let mut rng = Rng::new(30);
    let dims = [2, 6, 16, 24, 32, 48, 64, 66, 80, 128, 256];
    let pasts = [0, 1, 15, 60, 64, 130];
    for (i, dim) in dims.into_iter().enumerate() {
        for (n, past) in pasts.into_iter().enumerate() {
            let heads = 1 + (i + n) % 8;
            let window = [None, Some(1), None, Some(40), Some(64), None, Some(100)][(2 * i + n) % 7];
            let case = case(&mut rng, heads, dim, past, 9, window);
            for half in [false, true] {
                let what =
                    |name: &str| format!("{name} {heads} heads of {dim}, past {past}, window {window:?}");
                let expected = run(&Portable, &case, half, 9);
                for (found, exact) in expected.iter().zip(reference(&case, half)) {
                    assert!(
                        (f64::from(*found) - exact).abs() < 2e-5,
                        "{}: {found} {exact}",
                        what("portable")
                    );
                }
                for tier in tiers() {
                    assert_bits(&run(tier, &case, half, 9), &expected, || what(tier.name()));
                }
                for tier in available() {
                    assert_bits(&run(tier, &case, half, 1), &expected, || what(tier.name()) + " one by one");
                    assert_bits(&run(tier, &case, half, 4), &expected, || what(tier.name()) + " by four");
                }
            }
        }
    }
}

#[test]
fn heads_do_not_see_each_other() {
    let mut rng = Rng::new(31);
    let all = case(&mut rng, 7, 16, 70, 2, None);
    let expected = run(&Portable, &all, true, 2);
    for tier in available() {
        for head in 0..7 {
            let one = Case {
                heads: 1,
                q: all.q.chunks_exact(7 * 16 + 5).flat_map(|q| &q[head * 16..][..16 + 5]).copied().collect(),
                keys: all.keys.clone(),
                values: all.values.clone(),
                halves: all.halves.clone(),
                ..all
            };
            let found = run(tier, &one, true, 2);
            let expected: Vec<f32> =
                expected.chunks_exact(7 * 16).flat_map(|y| &y[head * 16..][..16]).copied().collect();
            assert_bits(&found, &expected, || format!("{} head {head}", tier.name()));
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let mut rng = Rng::new(32);
    let mut case = case(&mut rng, 4, 64, 200, 1, None);
    case.q.iter_mut().for_each(|q| *q *= 1e4);
    let expected = run(&Portable, &case, false, 1);
    assert!(expected.iter().all(|y| y.is_finite()));
    for tier in tiers() {
        assert_bits(&run(tier, &case, false, 1), &expected, || tier.name().to_owned());
    }
}
