use super::super::{PANEL, Panels, PanelsMut, Portable, panel_count, words_needed};
use super::{Kernels, Rng, available, tiers};

/// One token's groups out of its panel: 32 int8, scale, correction, pair, scaled sum.
fn token(panels: &Panels, token: usize) -> Vec<([i8; 32], f32, i32, i32, f32)> {
    let panel =
        (0..panels.panel_count()).map(|n| panels.panel(n)).find(|p| token < p.first + p.tokens).unwrap();
    let (t, tokens) = (token - panel.first, panel.tokens);
    let groups = panel.words.chunks_exact(12 * tokens);
    groups
        .map(|words| {
            let q = std::array::from_fn(|e| words[8 * t + e / 4].to_le_bytes()[e % 4] as i8);
            let scale = f32::from_bits(words[8 * tokens + t] as u32);
            let scaled_sum = f32::from_bits(words[11 * tokens + t] as u32);
            (q, scale, words[9 * tokens + t], words[10 * tokens + t], scaled_sum)
        })
        .collect()
}

#[test]
fn panels_hold_what_the_formula_says() {
    let mut rng = Rng::new(5);
    for (k, tokens) in [1, 16, 31, 32, 40, 256, 300].into_iter().flat_map(|k| [(k, 1), (k, 9), (k, 20)]) {
        let mut x: Vec<f32> = (0..tokens * k).map(|_| rng.wild()).collect();
        for (i, x) in x.iter_mut().enumerate() {
            // Ties of the rounding, zero groups, subnormal groups, the smallest group that counts.
            match i / 32 % 9 {
                1 => *x = [127.0, 0.5, 1.5, -2.5, 126.5][i % 5],
                2 => *x = 0.0,
                3 => *x *= 1e-36,
                4 => *x = 1e-30 * [1.0, -0.5, 0.25][i % 3],
                _ => {}
            }
        }
        for tier in available() {
            let mut words = vec![-1; words_needed(tokens, k)];
            tier.quantize(&x, &mut PanelsMut::new(&mut words, tokens, k));
            let panels = Panels::new(&words, tokens, k);
            for (t, row) in x.chunks_exact(k).enumerate() {
                let mut expected = row.to_vec();
                expected.resize(k.next_multiple_of(256), 0.0);
                let groups = expected.chunks_exact(32).zip(token(&panels, t));
                for (group, (q, scale, correction, pair, scaled_sum)) in groups {
                    let amax = group.iter().fold(0.0f32, |m, x| m.max(x.abs()));
                    let amax = if amax < 1e-30 { 0.0 } else { amax };
                    assert_eq!(scale.to_bits(), (amax / 127.0).to_bits(), "{}", tier.name());
                    let inverse = if amax > 0.0 { 127.0 / amax } else { 0.0 };
                    let bytes: Vec<i8> =
                        group.iter().map(|x| (x * inverse).round_ties_even() as i8).collect();
                    assert_eq!(q[..], bytes, "{}", tier.name());
                    let sum = |q: &[i8]| q.iter().map(|q| i32::from(*q)).sum::<i32>();
                    assert_eq!(correction, -8 * sum(&q));
                    assert_eq!((pair as i16, pair >> 16), (sum(&q[..16]) as i16, sum(&q[16..])));
                    assert_eq!(scaled_sum.to_bits(), (scale * sum(&q) as f32).to_bits());
                }
            }
        }
    }
}

#[test]
fn parts_equal_the_whole() {
    let mut rng = Rng::new(6);
    for tokens in [1, 8, 9, 20, 33] {
        let k = 100;
        let x = rng.units(tokens * k);
        let mut whole = vec![0; words_needed(tokens, k)];
        Portable.quantize(&x, &mut PanelsMut::new(&mut whole, tokens, k));
        for tier in available() {
            let mut parts = vec![0; words_needed(tokens, k)];
            let mut rest = PanelsMut::new(&mut parts, tokens, k);
            for _ in 0..panel_count(tokens) {
                let (mut one, others) = rest.split_at(1);
                assert!(one.tokens().len() <= PANEL);
                tier.quantize(&x[one.tokens().start * k..one.tokens().end * k], &mut one);
                rest = others;
            }
            assert_eq!(parts, whole);
        }
    }
}

#[test]
fn gathered_tokens_are_those_quantised_alone() {
    let mut rng = Rng::new(7);
    let (tokens, k) = (29, 300);
    let x = rng.units(tokens * k);
    let mut words = vec![0; words_needed(tokens, k)];
    Portable.quantize(&x, &mut PanelsMut::new(&mut words, tokens, k));
    let source = Panels::new(&words, tokens, k);
    for count in 1..25 {
        let chosen: Vec<usize> = (0..count).map(|_| rng.below(tokens)).collect();
        let rows: Vec<f32> = chosen.iter().flat_map(|t| &x[t * k..(t + 1) * k]).copied().collect();
        let mut expected = vec![0; words_needed(count, k)];
        Portable.quantize(&rows, &mut PanelsMut::new(&mut expected, count, k));
        let mut found = vec![-1; words_needed(count, k)];
        PanelsMut::new(&mut found, count, k).gather(&source, |i| chosen[i]);
        assert_eq!(found, expected, "{chosen:?}");
    }
}

#[test]
fn no_value_quantises_to_minus_128() {
    let odd = [f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -f32::MAX, 1e-45, -0.0, 3e38];
    let mut rng = Rng::new(8);
    for _ in 0..200 {
        let x: Vec<f32> = (0..32).map(|_| odd[rng.below(odd.len())]).collect();
        let mut expected = vec![0; words_needed(1, 32)];
        Portable.quantize(&x, &mut PanelsMut::new(&mut expected, 1, 32));
        assert!(token(&Panels::new(&expected, 1, 32), 0).iter().all(|(q, ..)| !q.contains(&-128)));
        for tier in tiers() {
            let mut words = vec![0; words_needed(1, 32)];
            tier.quantize(&x, &mut PanelsMut::new(&mut words, 1, 32));
            assert_eq!(words[..8], expected[..8], "{} of {x:?}", tier.name());
        }
    }
    for tier in available() {
        // No meaning, and no panic either.
        tier.quantize(&[f32::NAN; 32], &mut PanelsMut::new(&mut vec![0; words_needed(1, 32)], 1, 32));
    }
}
