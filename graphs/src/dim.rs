//! Dimensions, affine in the two symbols of a graph.
//!
//! `seq` is the number of tokens in this call, `past` the number already in the state. Nothing else about a
//! traced model varies, so `base + seq·s + past·p` with non-negative coefficients is all that is needed, and
//! two dimensions are equal exactly when their fields are.

use std::fmt;
use std::str::FromStr;

/// `base + seq·s + past·p`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Dim {
    /// The constant part.
    pub base: u32,
    /// How many times `seq` is taken.
    pub seq: u32,
    /// How many times `past` is taken.
    pub past: u32,
}

impl Dim {
    /// The tokens of this call.
    pub const SEQ: Dim = Dim { base: 0, seq: 1, past: 0 };
    /// The tokens already in the state.
    pub const PAST: Dim = Dim { base: 0, seq: 0, past: 1 };
    /// All tokens after this call.
    pub const TOTAL: Dim = Dim { base: 0, seq: 1, past: 1 };
    /// One.
    pub const ONE: Dim = Dim::fixed(1);

    /// A dimension without symbols.
    pub const fn fixed(base: u32) -> Dim {
        Dim { base, seq: 0, past: 0 }
    }

    /// The number, if no symbol takes part.
    pub const fn as_fixed(self) -> Option<u32> {
        if self.seq == 0 && self.past == 0 { Some(self.base) } else { None }
    }

    /// The value at a concrete (seq, past); the largest number where it would not fit.
    pub const fn at(self, seq: u32, past: u32) -> u64 {
        let tokens = self.seq as u64 * seq as u64;
        tokens.saturating_add(self.past as u64 * past as u64).saturating_add(self.base as u64)
    }

    /// The sum, unless a coefficient overflows.
    pub fn checked_add(self, other: Dim) -> Option<Dim> {
        Some(Dim {
            base: self.base.checked_add(other.base)?,
            seq: self.seq.checked_add(other.seq)?,
            past: self.past.checked_add(other.past)?,
        })
    }

    /// The difference, unless a coefficient would become negative.
    pub fn checked_sub(self, other: Dim) -> Option<Dim> {
        Some(Dim {
            base: self.base.checked_sub(other.base)?,
            seq: self.seq.checked_sub(other.seq)?,
            past: self.past.checked_sub(other.past)?,
        })
    }

    /// The multiple, unless a coefficient overflows.
    pub fn checked_mul(self, by: u32) -> Option<Dim> {
        Some(Dim {
            base: self.base.checked_mul(by)?,
            seq: self.seq.checked_mul(by)?,
            past: self.past.checked_mul(by)?,
        })
    }

    /// The dimension whose values at three probes `(seq, past, value)` are given. The second probe differs
    /// from the first in `seq` alone, the third in `past` alone. `None` if no dimension fits.
    pub fn solve(probes: [(u32, u32, u64); 3]) -> Option<Dim> {
        let [(s0, p0, v0), (s1, _, v1), (_, p2, v2)] = probes;
        let slope = |value: u64, at: u32, from: u32| {
            let (dv, da) = (value as i128 - v0 as i128, at as i128 - from as i128);
            (da != 0 && dv % da == 0).then(|| dv / da)
        };
        let seq = u32::try_from(slope(v1, s1, s0)?).ok()?;
        let past = u32::try_from(slope(v2, p2, p0)?).ok()?;
        let base = v0 as i128 - seq as i128 * s0 as i128 - past as i128 * p0 as i128;
        Some(Dim { base: u32::try_from(base).ok()?, seq, past })
    }

    /// The dimension divided by the greatest common divisor of its coefficients, and that divisor.
    pub(crate) fn primitive(self) -> (Dim, u32) {
        fn gcd(a: u32, b: u32) -> u32 {
            if b == 0 { a } else { gcd(b, a % b) }
        }
        let by = gcd(gcd(self.base, self.seq), self.past).max(1);
        (Dim { base: self.base / by, seq: self.seq / by, past: self.past / by }, by)
    }
}

impl From<u32> for Dim {
    fn from(base: u32) -> Dim {
        Dim::fixed(base)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (name, times) in [("past", self.past), ("seq", self.seq)] {
            if times == 0 {
                continue;
            }
            if !first {
                f.write_str("+")?;
            }
            first = false;
            if times > 1 {
                write!(f, "{times}*")?;
            }
            f.write_str(name)?;
        }
        match (first, self.base) {
            (true, base) => write!(f, "{base}"),
            (false, 0) => Ok(()),
            (false, base) => write!(f, "+{base}"),
        }
    }
}

impl FromStr for Dim {
    type Err = String;
    fn from_str(text: &str) -> Result<Dim, String> {
        let bad = || format!("bad dimension `{text}`, expected such as `64`, `seq`, `past+seq`, `2*seq+1`");
        let mut sum = Dim::default();
        for term in text.split('+') {
            let (times, name) = match term.split_once('*') {
                Some((times, name)) => (times.parse().map_err(|_| bad())?, name),
                None => (1u32, term),
            };
            let unit = match name {
                "seq" => Dim::SEQ,
                "past" => Dim::PAST,
                number => Dim::fixed(number.parse().map_err(|_| bad())?),
            };
            sum = unit.checked_mul(times).and_then(|d| sum.checked_add(d)).ok_or_else(bad)?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses() {
        for text in ["0", "5", "seq", "past", "past+seq", "3*seq", "seq+2", "2*past+seq+1"] {
            assert_eq!(text.parse::<Dim>().unwrap().to_string(), text);
        }
        for text in ["", "-1", "seq-1", "x", "4294967296", "4294967295+1", "2*", "*seq"] {
            assert!(text.parse::<Dim>().is_err(), "{text}");
        }
    }

    #[test]
    fn solves_probes() {
        let dim = Dim { base: 2, seq: 1, past: 3 };
        let at = |s, p| (s, p, dim.at(s, p));
        assert_eq!(Dim::solve([at(7, 13), at(11, 13), at(7, 29)]), Some(dim));
        assert_eq!(Dim::solve([(7, 13, 49), (11, 13, 121), (7, 29, 49)]), None, "seq squared, base negative");
        assert_eq!(Dim::solve([(7, 13, 10), (11, 13, 13), (7, 29, 10)]), None, "slope is not whole");
    }
}
