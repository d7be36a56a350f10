//! The positions to which a session can go back, and where their convolution windows are kept.

use lfm_graphs::plan;

use crate::model::Model;

/// The slots of a session's checkpoints. Position 0 needs none.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// The position of each slot; 0 where it is free.
    slots: Vec<usize>,
    /// Multiples of this are kept for good.
    every: usize,
}

/// Slots that the plan of a model has: in all, and for chunk boundaries.
pub(crate) fn planned(model: &Model) -> (usize, usize) {
    let plan = model.plan();
    // A verified plan has a size for them.
    let planned = plan::Checkpoints::of(model.graph(), plan.chunk, plan.context);
    planned.map_or((0, 0), |planned| (planned.count as usize, planned.boundaries as usize))
}

impl Checkpoints {
    /// `slots` free ones, `boundaries` of which are enough for the multiples of `chunk` in `context`, or of a multiple
    /// of `chunk`.
    pub(super) fn new((slots, boundaries): (usize, usize), chunk: usize, context: usize) -> Checkpoints {
        let every = chunk * context.div_ceil(chunk * boundaries.max(1)).max(1);
        Checkpoints { slots: vec![0; slots], every }
    }

    /// Positions from `past` to the next that is kept for good.
    pub(super) fn room(&self, past: usize) -> usize {
        self.every - past % self.every
    }

    /// Whether `position` is kept for good.
    pub(super) fn keeps(&self, position: usize) -> bool {
        position.is_multiple_of(self.every)
    }

    /// A slot for `position`: a free one, or that of the first position that is not kept for good. `None` if there is
    /// nothing to keep.
    pub(super) fn take(&mut self, position: usize) -> Option<usize> {
        if position == 0 || self.slots.contains(&position) {
            return None;
        }
        let boundary = |position: usize| position != 0 && self.keeps(position);
        let slot =
            (0..self.slots.len()).min_by_key(|slot| (boundary(self.slots[*slot]), self.slots[*slot]))?;
        self.slots[slot] = position;
        Some(slot)
    }

    /// The last position up to `most`, and its slot.
    pub(super) fn last(&self, most: usize) -> (usize, Option<usize>) {
        let within = |slot: &usize| (1..=most).contains(&self.slots[*slot]);
        let slot = (0..self.slots.len()).filter(within).max_by_key(|slot| self.slots[*slot]);
        slot.map_or((0, None), |slot| (self.slots[slot], Some(slot)))
    }

    /// Frees the slots of positions behind `position`.
    pub(super) fn forget_after(&mut self, position: usize) {
        for slot in self.slots.iter_mut().filter(|slot| **slot > position) {
            *slot = 0;
        }
    }

    /// The slots in use, by position.
    pub(super) fn used(&self) -> Vec<(usize, usize)> {
        let slots = self.slots.iter().enumerate().filter(|(_, position)| **position > 0);
        let mut used: Vec<(usize, usize)> = slots.map(|(slot, position)| (*position, slot)).collect();
        crate::few::sort(&mut used, |a, b| a.0 < b.0);
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_stay_and_marks_go() {
        let mut kept = Checkpoints::new((4 + 2, 4), 10, 40);
        assert_eq!((kept.every, kept.room(0), kept.room(7), kept.room(10)), (10, 10, 3, 10));
        assert_eq!(kept.last(100), (0, None));
        for position in [0, 10, 10, 13, 20, 24, 27, 30, 31, 40] {
            kept.take(position);
        }
        let positions = |kept: &Checkpoints| kept.used().iter().map(|(p, _)| *p).collect::<Vec<_>>();
        assert_eq!(positions(&kept), [10, 20, 27, 30, 31, 40]);
        assert_eq!((kept.last(9), kept.last(29).0, kept.last(400).0), ((0, None), 27, 40));
        kept.forget_after(27);
        assert_eq!(positions(&kept), [10, 20, 27]);
    }

    #[test]
    fn every_boundary_finds_a_slot() {
        for (planned, chunk, context) in [(4, 10, 40), (4, 3, 40), (4, 1, 40), (4, 10, 5), (64, 512, 4096)] {
            let mut kept = Checkpoints::new((planned + 1, planned), chunk, context);
            assert!(kept.every.is_multiple_of(chunk));
            for position in 1..=context {
                kept.take(position);
            }
            let boundaries = kept.used().iter().filter(|(p, _)| p.is_multiple_of(kept.every)).count();
            assert_eq!(boundaries, context / kept.every);
        }
        assert_eq!(Checkpoints::new((0, 0), 4, 8).take(3), None);
    }
}
