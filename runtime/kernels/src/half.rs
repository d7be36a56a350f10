//! Half precision in integer arithmetic, equal to what CPUs with conversion instructions do.

/// Widens f16 bits: exact; a signalling NaN becomes quiet.
#[inline(always)]
pub(super) fn widen(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let (exponent, mantissa) = (half >> 10 & 0x1f, u32::from(half & 0x3ff));
    let magnitude = match exponent {
        0 => (mantissa as f32 * f32::from_bits(0x3380_0000)).to_bits(), // mantissa * 2^-24
        31 if mantissa == 0 => 0x7f80_0000,
        31 => 0x7fc0_0000 | mantissa << 13,
        _ => (u32::from(exponent) + 112) << 23 | mantissa << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// Narrows to f16 bits, to nearest, ties to even; a NaN keeps the top of its payload and becomes quiet.
#[inline(always)]
pub(super) fn narrow(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let half = if magnitude > 0x7f80_0000 {
        0x7e00 | magnitude >> 13 & 0x3ff
    } else if magnitude >= 0x477f_f000 {
        0x7c00 // 65520 and above
    } else if magnitude < 0x3880_0000 {
        // A subnormal half: the ulp of 0.5 is 2^-24, so adding it rounds to where a half ends.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0x3f00_0000
    } else {
        (magnitude - 0x3800_0000 + 0xfff + (magnitude >> 13 & 1)) >> 13
    };
    sign | half as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_widens_and_comes_back() {
        for bits in 0..=u16::MAX {
            let exact = half::f16::from_bits(bits).to_f64();
            let x = widen(bits);
            if exact.is_nan() {
                assert!(x.is_nan());
                assert_eq!(narrow(x), bits | 0x200);
            } else {
                assert_eq!((f64::from(x), narrow(x)), (exact, bits));
            }
        }
    }

    #[test]
    fn neighbours_of_every_tie_round_as_ieee_says() {
        for bits in 0..0x7bffu16 {
            let middle = (widen(bits) + widen(bits + 1)) / 2.0;
            assert_eq!(narrow(middle), bits + (bits & 1), "tie above {bits:#x}");
            assert_eq!(narrow(middle.next_down()), bits);
            assert_eq!(narrow(-middle.next_up()), 0x8000 | (bits + 1));
        }
        assert_eq!([narrow(65519.996), narrow(65520.0), narrow(f32::INFINITY)], [0x7bff, 0x7c00, 0x7c00]);
        assert_eq!([narrow(1e-30), narrow(-0.0), narrow(2.0f32.powi(-25))], [0, 0x8000, 0]);
    }
}
