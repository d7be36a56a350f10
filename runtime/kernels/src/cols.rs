//! Disjoint columns of a row-major matrix, so that threads can write different columns of the same rows.
#![allow(unsafe_code, reason = "columns of one buffer interleave in memory: no slice can express them")]

use std::marker::PhantomData;

/// Columns `first..first + width` of all rows of a row-major `[tokens, stride]` buffer of f32, held exclusively.
///
/// Made from a `&mut [f32]` and divided by [`Cols::split_at`] and [`Cols::split_tokens`], never duplicated: no two
/// live views share an element, so they may go to different threads.
#[derive(Debug)]
pub struct Cols<'a> {
    /// Element (0, first). Elements `t * stride + c` for t < tokens, c < width belong to this view alone.
    start: *mut f32,
    tokens: usize,
    stride: usize,
    width: usize,
    buffer: PhantomData<&'a mut [f32]>,
}

// SAFETY: a view is the only access to its elements, like the `&mut [f32]` it was made from.
unsafe impl Send for Cols<'_> {}
// SAFETY: through a shared view, elements can only be read.
unsafe impl Sync for Cols<'_> {}

impl<'a> Cols<'a> {
    /// All columns of `buffer`, `[tokens, stride]`.
    ///
    /// # Panics
    /// If `buffer` is not `tokens * stride` long.
    pub fn new(buffer: &'a mut [f32], tokens: usize, stride: usize) -> Cols<'a> {
        let len = tokens.checked_mul(stride);
        assert_eq!(Some(buffer.len()), len, "a buffer of {tokens} x {stride} floats");
        Cols { start: buffer.as_mut_ptr(), tokens, stride, width: stride, buffer: PhantomData }
    }

    /// Rows of the buffer.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns of this view.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Columns `..column` and `column..` of this view.
    ///
    /// # Panics
    /// If `column` is past the last column.
    pub fn split_at(self, column: usize) -> (Cols<'a>, Cols<'a>) {
        assert!(column <= self.width, "column {column} of {}", self.width);
        // An empty right part may start one past the buffer's end, where wrapping_add is still exact.
        let right = self.start.wrapping_add(column);
        (Cols { width: column, ..self }, Cols { start: right, width: self.width - column, ..self })
    }

    /// Rows `..token` and `token..` of this view.
    ///
    /// # Panics
    /// If `token` is past the last row.
    pub fn split_tokens(self, token: usize) -> (Cols<'a>, Cols<'a>) {
        assert!(token <= self.tokens, "token {token} of {}", self.tokens);
        let below = self.start.wrapping_add(token * self.stride);
        (Cols { tokens: token, ..self }, Cols { start: below, tokens: self.tokens - token, ..self })
    }

    /// The same view for a shorter time.
    pub fn reborrow(&mut self) -> Cols<'_> {
        Cols { buffer: PhantomData, ..*self }
    }

    /// This view's columns of row `token`.
    ///
    /// # Panics
    /// If there is no row `token`.
    pub fn row(&self, token: usize) -> &[f32] {
        assert!(token < self.tokens, "token {token} of {}", self.tokens);
        // SAFETY: inside the buffer by `new` and the splits; writers need `&mut self`, which this borrow excludes.
        unsafe { std::slice::from_raw_parts(self.start.add(token * self.stride), self.width) }
    }

    /// This view's columns of row `token`, to be written.
    ///
    /// # Panics
    /// If there is no row `token`.
    pub fn row_mut(&mut self, token: usize) -> &mut [f32] {
        assert!(token < self.tokens, "token {token} of {}", self.tokens);
        // SAFETY: inside the buffer by `new` and the splits; no other view has these elements, and `&mut self` no
        // other borrow.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(token * self.stride), self.width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_write_interleaved_columns() {
        let mut buffer = [0.0; 3 * 7];
        let (left, rest) = Cols::new(&mut buffer, 3, 7).split_at(2);
        let (middle, right) = rest.split_at(4);
        std::thread::scope(|scope| {
            for (mut part, value) in [(left, 1.0), (middle, 2.0), (right, 3.0)] {
                scope.spawn(move || (0..3).for_each(|t| part.row_mut(t).fill(value)));
            }
        });
        assert_eq!(buffer, [1., 1., 2., 2., 2., 2., 3.].repeat(3)[..]);
    }

    #[test]
    fn tokens_and_empty_parts() {
        let mut buffer = [0.0; 6];
        let mut all = Cols::new(&mut buffer, 3, 2);
        let (mut top, mut bottom) = all.reborrow().split_tokens(1);
        top.row_mut(0).fill(1.0);
        bottom.row_mut(1).fill(2.0);
        let (_, mut none) = all.split_at(2);
        assert!(none.row_mut(2).is_empty() && none.row(0).is_empty());
        assert_eq!(buffer, [1., 1., 0., 0., 2., 2.]);
    }
}
