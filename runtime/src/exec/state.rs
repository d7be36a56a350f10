//! What a session carries from call to call: keys, values and convolution windows.

use super::program::StateShape;

/// The content of one state.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// `[kv][context][dim]` f16 bits.
    Half(Vec<u16>),
    /// `[kv][context][dim]` or `[rows][channels]` f32.
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
    /// Empty states with room for `context` positions. `None` if that is more than can be addressed.
    pub(crate) fn new(shapes: &[StateShape], context: usize) -> Option<States> {
        let contents = shapes
            .iter()
            .map(|shape| {
                // Zeroed memory comes from the system as it is touched: an unused context costs nothing.
                Some(match *shape {
                    StateShape::Cache { kv, dim, half: true } => {
                        Content::Half(vec![0; kv.checked_mul(context)?.checked_mul(dim)?])
                    }
                    StateShape::Cache { kv, dim, half: false } => {
                        Content::Single(vec![0.0; kv.checked_mul(context)?.checked_mul(dim)?])
                    }
                    StateShape::Window { rows, channels } => Content::Single(vec![0.0; rows.checked_mul(channels)?]),
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
