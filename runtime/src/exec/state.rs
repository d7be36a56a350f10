//! What a session carries from call to call: keys, values and convolution windows.

use super::program::StateShape;
use crate::cpu::kernels::KEY_GROUP;

/// The content of one state.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Keys or values as f16 bits, head by head: keys as [`Cache`](crate::cpu::kernels::Cache) has them, with room for
    /// `context` positions, values `[context][dim]`.
    Half(Vec<u16>),
    /// The same as f32, or a window, `[rows][channels]`.
    Single(Vec<f32>),
}

/// All states, and how many positions they hold.
#[derive(Clone, Debug)]
pub(crate) struct States {
    pub(crate) contents: Vec<Content>,
    pub(crate) past: usize,
    pub(crate) context: usize,
    /// Which contents are windows.
    windows: Vec<usize>,
    /// The windows of earlier positions, `[slots][windows]`.
    kept: Vec<f32>,
    slots: usize,
    /// Whether a pass failed halfway: some windows have moved on, others have not.
    pub(crate) torn: bool,
}

impl States {
    /// Empty states with room for `context` positions, and `slots` earlier windows. `None` if the system does not have
    /// the memory.
    pub(crate) fn new(shapes: &[StateShape], context: usize, slots: usize) -> Option<States> {
        fn zeroed<T: bytemuck::Zeroable>(sizes: [usize; 3]) -> Option<Vec<T>> {
            let len = sizes.into_iter().try_fold(1usize, usize::checked_mul)?;
            bytemuck::allocation::try_zeroed_vec(len).ok()
        }
        let positions = context.checked_next_multiple_of(KEY_GROUP)?;
        let (mut windows, mut floats) = (Vec::new(), 0usize);
        let contents = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| {
                // Zeroed memory comes from the system as it is touched: an unused context costs nothing.
                Some(match *shape {
                    // Room for values is enough for keys too: see `positions`.
                    StateShape::Cache { kv, dim, half: true } => Content::Half(zeroed([kv, positions, dim])?),
                    StateShape::Cache { kv, dim, half: false } => {
                        Content::Single(zeroed([kv, positions, dim])?)
                    }
                    StateShape::Window { rows, channels } => {
                        windows.push(index);
                        floats = floats.checked_add(rows.checked_mul(channels)?)?;
                        Content::Single(zeroed([rows, channels, 1])?)
                    }
                })
            })
            .collect::<Option<Vec<_>>>()?;
        let kept = zeroed([slots, floats, 1])?;
        Some(States { contents, past: 0, context, windows, kept, slots, torn: false })
    }

    /// The windows in `slot`, one after another.
    pub(crate) fn kept(&mut self, slot: usize) -> &mut [f32] {
        let floats = self.kept.len() / self.slots.max(1);
        &mut self.kept[slot * floats..(slot + 1) * floats]
    }

    /// Keeps the windows in `slot`.
    pub(crate) fn keep(&mut self, slot: usize) {
        self.exchange(slot, |window, kept| kept.copy_from_slice(window));
    }

    /// Goes back to `past` positions, whose windows are in `slot`; to the beginning without one. Keys and values beyond
    /// are never read.
    pub(crate) fn go_back(&mut self, past: usize, slot: Option<usize>) {
        self.past = past;
        self.torn = false;
        match slot {
            Some(slot) => self.exchange(slot, |window, kept| window.copy_from_slice(kept)),
            None => self.windows().for_each(|window| window.fill(0.0)),
        }
    }

    /// The windows, in order.
    pub(crate) fn windows(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let States { contents, windows, .. } = self;
        contents.iter_mut().enumerate().filter_map(|(index, content)| match content {
            Content::Single(window) if windows.contains(&index) => Some(&mut window[..]),
            _ => None,
        })
    }

    /// Hands every window and its place in `slot` to `copy`.
    fn exchange(&mut self, slot: usize, copy: impl Fn(&mut [f32], &mut [f32])) {
        let States { contents, windows, kept, slots, .. } = self;
        let floats = kept.len() / (*slots).max(1);
        let mut kept = &mut kept[slot * floats..(slot + 1) * floats];
        for index in windows.iter() {
            if let Content::Single(window) = &mut contents[*index] {
                let (mine, rest) = kept.split_at_mut(window.len());
                copy(window, mine);
                kept = rest;
            }
        }
    }
}
