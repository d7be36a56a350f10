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
}

impl States {
    /// Empty states with room for `context` positions. `None` if the system does not have the memory.
    pub(crate) fn new(shapes: &[StateShape], context: usize) -> Option<States> {
        fn zeroed<T: bytemuck::Zeroable>(sizes: [usize; 3]) -> Option<Vec<T>> {
            let len = sizes.into_iter().try_fold(1usize, usize::checked_mul)?;
            bytemuck::allocation::try_zeroed_vec(len).ok()
        }
        let positions = context.checked_next_multiple_of(KEY_GROUP)?;
        let contents = shapes
            .iter()
            .map(|shape| {
                // Zeroed memory comes from the system as it is touched: an unused context costs nothing.
                Some(match *shape {
                    // Room for values is enough for keys too: see `positions`.
                    StateShape::Cache { kv, dim, half: true } => Content::Half(zeroed([kv, positions, dim])?),
                    StateShape::Cache { kv, dim, half: false } => {
                        Content::Single(zeroed([kv, positions, dim])?)
                    }
                    StateShape::Window { rows, channels } => Content::Single(zeroed([rows, channels, 1])?),
                })
            })
            .collect::<Option<Vec<_>>>()?;
        Some(States { contents, past: 0, context })
    }

    /// Forgets everything. Keys and values beyond `past` are never read, so only windows are cleared.
    pub(crate) fn clear(&mut self, shapes: &[StateShape]) {
        self.past = 0;
        for (content, shape) in self.contents.iter_mut().zip(shapes) {
            if let (Content::Single(window), StateShape::Window { .. }) = (content, shape) {
                window.fill(0.0);
            }
        }
    }
}
