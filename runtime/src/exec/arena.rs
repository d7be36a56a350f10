//! The arena: one block of memory in which the planner has placed every intermediate value.

use std::ops::Range;

use crate::few;

/// Floats in a cache line.
const LINE: usize = 16;

/// Memory that starts on a cache line. Offsets are in floats.
#[derive(Debug)]
pub(crate) struct Arena {
    floats: Vec<f32>,
    start: usize,
    len: usize,
}

impl Arena {
    /// `len` floats, zero. `None` if the system does not have them.
    pub(crate) fn new(len: usize) -> Option<Arena> {
        let floats: Vec<f32> = bytemuck::allocation::try_zeroed_vec(len.checked_add(LINE)?).ok()?;
        let start = floats.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        Some(Arena { floats, start, len })
    }

    /// The values to be written, exclusively, and everything else to be read. `None` when two of the written
    /// ranges overlap or one lies outside: a plan that passes its verifier never does that.
    pub(crate) fn split<const N: usize>(
        &mut self,
        written: [Range<usize>; N],
    ) -> Option<([&mut [f32]; N], Rest<'_, N>)> {
        let mut order: [usize; N] = std::array::from_fn(|i| i);
        few::sort(&mut order, |a, b| {
            (written[*a].start, written[*a].end) < (written[*b].start, written[*b].end)
        });
        let mut out: [&mut [f32]; N] = std::array::from_fn(|_| <&mut [f32]>::default());
        let mut gaps = [const { Gap { start: 0, floats: &[] } }; N];
        let mut rest = &mut self.floats[self.start..self.start + self.len];
        let mut at = 0;
        for (gap, index) in gaps.iter_mut().zip(order) {
            let range = &written[index];
            let (before, from) = rest.split_at_mut_checked(range.start.checked_sub(at)?)?;
            let (mine, after) = from.split_at_mut_checked(range.end.checked_sub(range.start)?)?;
            *gap = Gap { start: at, floats: before };
            out[index] = mine;
            (rest, at) = (after, range.end);
        }
        Some((out, Rest { gaps, last: Gap { start: at, floats: rest } }))
    }
}

/// Floats between written ranges.
#[derive(Clone, Copy, Debug)]
struct Gap<'a> {
    start: usize,
    floats: &'a [f32],
}

/// What of the arena is read while `N` ranges are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest<'a, const N: usize> {
    gaps: [Gap<'a>; N],
    last: Gap<'a>,
}

impl<'a, const N: usize> Rest<'a, N> {
    /// A value, unless it overlaps a written one.
    pub(crate) fn get(&self, range: Range<usize>) -> Option<&'a [f32]> {
        self.gaps.iter().chain([&self.last]).find_map(|gap| {
            let from = range.start.checked_sub(gap.start)?;
            gap.floats.get(from..from + range.len())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read_values_are_apart() {
        let mut arena = Arena::new(100).unwrap();
        assert_eq!(arena.floats[arena.start..].as_ptr().align_offset(64), 0);
        let ([b, a], rest) = arena.split([50..60, 10..20]).unwrap();
        (a[0], b[9]) = (1.0, 2.0);
        assert_eq!(rest.get(0..10).map(<[f32]>::len), Some(10));
        assert_eq!(rest.get(60..100).map(<[f32]>::len), Some(40));
        assert_eq!(rest.get(20..50).map(<[f32]>::len), Some(30));
        for overlapping in [9..11, 19..21, 15..16, 0..100, 95..101] {
            assert!(rest.get(overlapping).is_none());
        }
        let ([], rest) = arena.split([]).unwrap();
        assert_eq!((rest.get(10..11), rest.get(59..60)), (Some(&[1.0][..]), Some(&[2.0][..])));
        assert!(arena.split([0..10, 5..15]).is_none());
        let outside = 90..101;
        assert!(arena.split([outside]).is_none());
    }
}
