use super::super::Portable;
use super::{Kernels, Rng, assert_bits, available, tiers};

/// Every length up to 70, and some tokens' worth.
fn lengths() -> impl Iterator<Item = usize> {
    (1..70).chain([128, 2048, 2049])
}

#[test]
fn every_tier_equals_portable() {
    let mut rng = Rng::new(10);
    for n in lengths() {
        let (a, b): (Vec<f32>, Vec<f32>) = (0..n).map(|_| (rng.wild(), rng.wild())).unzip();
        let run = |kernels: &dyn Kernels| {
            let mut out = vec![vec![0.0; n]; 7];
            kernels.exp(&a, &mut out[0]);
            kernels.sigmoid(&a, &mut out[1]);
            kernels.silu_mul(&a, &b, &mut out[2]);
            kernels.add(&a, &b, &mut out[3]);
            kernels.mul(&a, &b, &mut out[4]);
            out[5].copy_from_slice(&b);
            kernels.axpy(0.37, &a, &mut out[5]);
            kernels.rms_norm(&a, &b, 1e-5, &mut out[6]);
            out.concat()
        };
        let expected = run(&Portable);
        for tier in tiers() {
            assert_bits(&run(tier), &expected, || format!("{} of {n}", tier.name()));
        }
    }
}

#[test]
fn element_wise_kernels_are_their_formulas() {
    let mut rng = Rng::new(11);
    let (a, b) = (rng.units(37), rng.units(37));
    let mut out = vec![0.0; 37];
    Portable.add(&a, &b, &mut out);
    assert!((0..37).all(|i| out[i] == a[i] + b[i]));
    Portable.mul(&a, &b, &mut out);
    assert!((0..37).all(|i| out[i] == a[i] * b[i]));
    out.copy_from_slice(&b);
    Portable.axpy(0.3, &a, &mut out);
    assert!((0..37).all(|i| out[i] == 0.3f32.mul_add(a[i], b[i])));
    Portable.rms_norm(&a, &b, 1e-5, &mut out);
    let mean = a.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 37.0;
    for i in 0..37 {
        let expected = f64::from(a[i]) * f64::from(b[i]) / (mean + 1e-5).sqrt();
        assert!((f64::from(out[i]) - expected).abs() <= 4e-7 * expected.abs());
    }
}

/// exp, sigmoid and silu on every `step`-th of all floats, in batches.
fn sweep(step: usize, mut check: impl FnMut(&[f32])) {
    let all: Vec<u32> = (0..=u32::MAX).step_by(step).collect();
    for batch in all.chunks(4096) {
        let x: Vec<f32> = batch.iter().map(|bits| f32::from_bits(*bits)).filter(|x| !x.is_nan()).collect();
        check(&x);
    }
}

#[test]
fn exp_and_silu_agree_on_all_magnitudes() {
    sweep(3001, |x| {
        let ones = vec![1.0; x.len()];
        let run = |kernels: &dyn Kernels| {
            let mut out = vec![vec![0.0; x.len()]; 3];
            kernels.exp(x, &mut out[0]);
            kernels.sigmoid(x, &mut out[1]);
            kernels.silu_mul(x, &ones, &mut out[2]);
            out.concat()
        };
        let expected = run(&Portable);
        for tier in tiers() {
            assert_bits(&run(tier), &expected, || format!("{} from {:e}", tier.name(), x[0]));
        }
    });
}

#[test]
fn exp_and_sigmoid_are_accurate() {
    let (mut worst_exp, mut worst_sigmoid) = (0.0f64, 0.0f64);
    let ulp = |x: f64| f64::from((x as f32).next_up()) - f64::from(x as f32);
    sweep(9973, |x| {
        let (mut e, mut s) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        Portable.exp(x, &mut e);
        Portable.sigmoid(x, &mut s);
        for (i, x) in x.iter().enumerate() {
            let x = f64::from(*x);
            if (-87.0..=88.0).contains(&x) {
                worst_exp = worst_exp.max((f64::from(e[i]) - x.exp()).abs() / ulp(x.exp()));
                let exact = 1.0 / (1.0 + (-x).exp());
                worst_sigmoid = worst_sigmoid.max((f64::from(s[i]) - exact).abs() / ulp(exact));
            } else if x < -87.0 {
                assert_eq!(e[i].to_bits(), 0, "exp({x})");
            }
        }
    });
    assert!(worst_exp < 0.9 && worst_sigmoid < 2.4, "ulps: exp {worst_exp}, sigmoid {worst_sigmoid}");
}

#[test]
fn rope_rotates_halves() {
    let mut rng = Rng::new(12);
    for half in [1, 2, 7, 8, 16, 20, 32, 64] {
        let (angles, x) = (rng.units(half), rng.units(3 * 2 * half));
        let cos: Vec<f32> = angles.iter().map(|a| a.cos()).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin()).collect();
        for tier in available() {
            let mut y = x.clone();
            tier.rope(&mut y, &cos, &sin);
            for (x, y) in x.chunks_exact(2 * half).zip(y.chunks_exact(2 * half)) {
                for i in 0..half {
                    let (a, b) = (x[i], x[half + i]);
                    assert_eq!(y[i], a.mul_add(cos[i], -(b * sin[i])), "{}", tier.name());
                    assert_eq!(y[half + i], b.mul_add(cos[i], a * sin[i]), "{}", tier.name());
                }
            }
        }
    }
}

#[test]
fn halves_convert_as_portable_does() {
    let all: Vec<u16> = (0..=u16::MAX).collect();
    let mut rng = Rng::new(13);
    let mut x: Vec<f32> = (0..=u32::MAX).step_by(65_521).map(f32::from_bits).collect();
    x.extend((0..5000).map(|_| rng.unit() * 2.0f32.powi(rng.below(44) as i32 - 27)));
    // Ties between all neighbours.
    x.extend(
        (0..0x7bff_u16)
            .map(|h| f32::from(half::f16::from_bits(h)).midpoint(f32::from(half::f16::from_bits(h + 1)))),
    );
    let run = |kernels: &dyn Kernels| {
        let (mut wide, mut narrow) = (vec![0.0; all.len()], vec![0; x.len()]);
        kernels.widen(&all, &mut wide);
        kernels.narrow(&x, &mut narrow);
        (wide.iter().map(|x| x.to_bits()).collect::<Vec<_>>(), narrow)
    };
    let expected = run(&Portable);
    for tier in tiers() {
        assert!(run(tier) == expected, "{}", tier.name());
    }
    for n in 0..40 {
        let mut out = vec![0; n];
        available().iter().for_each(|tier| tier.narrow(&x[70_000..70_000 + n], &mut out));
        assert_eq!(out, expected.1[70_000..70_000 + n]);
    }
}
