//! Places for buffers in the arena.
//!
//! The problem (dynamic storage allocation with known lives) is NP-hard. Buffers are placed one by one, each into the
//! smallest gap that it fits into between those already placed that live at the same time, lowest gap first among
//! equals. Three orders are tried (large first; large and long-lived first; as they come to life) and the smallest
//! arena is kept, the first of equals. Everything is decided by numbers and positions, so a graph has one plan.

use super::needs::Need;

/// Where the buffers lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arena {
    /// First byte of each buffer.
    pub(super) offsets: Vec<u64>,
    /// End of the last buffer.
    pub(super) bytes: u64,
    /// Most bytes alive at one step.
    pub(super) live: u64,
}

/// A place for each buffer; `None` if a sum overflows.
pub(super) fn place(needs: &[Need]) -> Option<Arena> {
    // If this fits, so does every end of a buffer.
    needs.iter().try_fold(0u64, |sum, need| sum.checked_add(need.bytes))?;
    let live = most_live(needs.iter().map(|need| (need.first, need.last, need.bytes)))?;
    let area = |i: &usize| needs[*i].bytes as u128 * (needs[*i].last - needs[*i].first + 1) as u128;
    let mut orders: [Vec<usize>; 3] = std::array::from_fn(|_| (0..needs.len()).collect());
    orders[0].sort_by_key(|i| (std::cmp::Reverse(needs[*i].bytes), needs[*i].first, *i));
    orders[1].sort_by_key(|i| (std::cmp::Reverse(area(i)), needs[*i].first, *i));
    orders[2].sort_by_key(|i| (needs[*i].first, std::cmp::Reverse(needs[*i].bytes), *i));
    let mut best: Option<(u64, Vec<u64>)> = None;
    for order in &orders {
        let (bytes, offsets) = first_come(needs, order);
        if best.as_ref().is_none_or(|(least, _)| bytes < *least) {
            best = Some((bytes, offsets));
        }
        if bytes == live {
            break;
        }
    }
    let (bytes, offsets) = best?;
    Some(Arena { offsets, bytes, live })
}

/// Most bytes alive at one step, of `(first, last, bytes)`; `None` if a sum overflows.
pub(super) fn most_live(lives: impl Iterator<Item = (u32, u32, u64)>) -> Option<u64> {
    let mut begin = Vec::new();
    let mut end = Vec::new();
    for (first, last, bytes) in lives {
        begin.push((first, bytes));
        end.push((last, bytes));
    }
    begin.sort_unstable();
    end.sort_unstable();
    let mut end = end.into_iter().peekable();
    let (mut live, mut most) = (0u64, 0u64);
    for (first, bytes) in begin {
        while let Some((_, gone)) = end.next_if(|(last, _)| *last < first) {
            live = live.checked_sub(gone)?;
        }
        live = live.checked_add(bytes)?;
        most = most.max(live);
    }
    Some(most)
}

/// Places buffers in the given order; the end of the last one, and their offsets.
fn first_come(needs: &[Need], order: &[usize]) -> (u64, Vec<u64>) {
    let mut offsets = vec![0; needs.len()];
    // Placed buffers by offset.
    let mut placed = Vec::<usize>::with_capacity(needs.len());
    let mut most = 0;
    for &i in order {
        let need = &needs[i];
        // Of the gaps below the highest neighbour: (size, offset) of the best so far.
        let mut best: Option<(u64, u64)> = None;
        let mut end = 0u64;
        for &j in &placed {
            let other = &needs[j];
            if other.last < need.first || need.last < other.first {
                continue;
            }
            let start: u64 = offsets[j];
            let gap = start.saturating_sub(end);
            if gap >= need.bytes && best.is_none_or(|(size, _)| gap < size) {
                best = Some((gap, end));
            }
            end = end.max(start + other.bytes);
        }
        let offset = best.map_or(end, |(_, offset)| offset);
        offsets[i] = offset;
        most = most.max(offset + need.bytes);
        let at = placed.partition_point(|j| (offsets[*j], *j) < (offset, i));
        placed.insert(at, i);
    }
    (most, offsets)
}

#[cfg(test)]
mod tests {
    use super::super::needs::Holds;
    use super::*;
    use crate::id::{Id, NodeId};

    fn need(first: u32, last: u32, bytes: u64) -> Need {
        Need { holds: Holds::Scratch(NodeId::new(0)), first, last, bytes }
    }

    #[test]
    fn a_chain_needs_two_buffers() {
        let needs: Vec<Need> = (0..10).map(|i| need(i, i + 1, 64)).collect();
        let arena = place(&needs).unwrap();
        assert_eq!((arena.bytes, arena.live), (128, 128));
    }

    #[test]
    fn a_gap_is_filled_by_what_fits_best() {
        // Two long-lived walls leave gaps of 192 and 64 bytes once what stood there has died.
        let needs = [need(0, 0, 192), need(0, 9, 64), need(0, 0, 64), need(0, 9, 64), need(1, 9, 64)];
        let arena = first_come(&needs, &[0, 1, 2, 3, 4]);
        assert_eq!(arena, (384, vec![0, 192, 256, 320, 256]));
    }

    #[test]
    fn overflow_and_nothing() {
        assert_eq!(place(&[need(0, 0, u64::MAX - 63), need(1, 1, 64)]), None);
        assert_eq!(place(&[]), Some(Arena { offsets: vec![], bytes: 0, live: 0 }));
    }
}
