//! Sine and cosine of rotary angles: one sequence of IEEE f64 operations, so every machine gives the same f32.
//!
//! A table of `seq x head_dim / 2` values is computed once a call and shared by all layers, so this is scalar.

/// 2 / π.
const TWO_OVER_PI: f64 = std::f64::consts::FRAC_2_PI;
/// The leading 33 bits of π / 2: times a whole number below 2^20 exact in f64.
const HALF_PI_HIGH: f64 = f64::from_bits(0x3ff9_21fb_5440_0000);
/// What π / 2 has beyond them.
const HALF_PI_LOW: f64 = f64::from_bits(0x3dd0_b461_1a62_6331);

/// `(sin x, cos x)`, x in radians, |x| up to 2^20: the f64 Taylor polynomials on [-π/4, π/4] (error below
/// 1e-16), rounded to f32.
pub(crate) fn sin_cos(x: f32) -> (f32, f32) {
    let x = f64::from(x);
    let n = (x * TWO_OVER_PI).round_ties_even();
    let r = (x - n * HALF_PI_HIGH) - n * HALF_PI_LOW;
    let r2 = r * r;
    // Plain multiplications and additions: `mul_add` is a library call where a CPU has no such instruction.
    let horner = |coefficients: &[f64]| coefficients.iter().fold(0.0, |sum, c| sum * r2 + c);
    let sin = r * horner(&[
        -1.0 / 1_307_674_368_000.0,
        1.0 / 6_227_020_800.0,
        -1.0 / 39_916_800.0,
        1.0 / 362_880.0,
        -1.0 / 5040.0,
        1.0 / 120.0,
        -1.0 / 6.0,
        1.0,
    ]);
    let cos = horner(&[
        1.0 / 20_922_789_888_000.0,
        -1.0 / 87_178_291_200.0,
        1.0 / 479_001_600.0,
        -1.0 / 3_628_800.0,
        1.0 / 40_320.0,
        -1.0 / 720.0,
        1.0 / 24.0,
        -0.5,
        1.0,
    ]);
    let (sin, cos) = match (n as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    };
    (sin as f32, cos as f32)
}

#[cfg(test)]
mod tests {
    use super::sin_cos;

    #[test]
    fn agrees_with_the_standard_library() {
        let mut x = 1e-6f32;
        while x < 200_000.0 {
            for x in [x, -x] {
                let (sin, cos) = sin_cos(x);
                assert!((f64::from(sin) - f64::from(x).sin()).abs() < 6e-8, "sin {x}");
                assert!((f64::from(cos) - f64::from(x).cos()).abs() < 6e-8, "cos {x}");
            }
            x *= 1.000_37;
        }
        assert_eq!(sin_cos(0.0), (0.0, 1.0));
    }
}
