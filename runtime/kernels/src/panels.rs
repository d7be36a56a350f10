//! Activations quantised to int8, in the order in which matrix kernels read them.
//!
//! # Quantisation
//!
//! K is cut into groups of 32. For each group, `scale = amax / 127` and `q = round_ties_even(x * (127 / amax))`, with
//! `amax = max |x|`; where amax < 1e-30 the group is all zero. So |q| <= 127.
//!
//! # Layout
//!
//! Tokens are cut into the fewest *panels* of at most 6, as even as they go, the larger ones first: 9 tokens are 5 + 4, 16
//! are 6 + 5 + 5. K is padded to a multiple of 256 with zero
//! groups, so that every weight format can read every panel. A panel of T tokens holds, for each group, 12 T words of
//! 32 bits:
//!
//! ```text
//! [T][8]  words  the 32 int8 of the token, 4 to a word, first element in the low byte
//! [T]     f32    scale
//! [T]     i32    -8 * sum(q): what nibbles that are 8 too large add to a dot product, negated
//! [T]     2 i16  sum of q[0..16] (low half), sum of q[16..32] (high half)
//! [T]     f32    scale * f32(sum(q)), the product rounded: what a weight's minimum is multiplied by
//! ```
//!
//! Panels follow each other in token order.

use lfm_graphs::weights::layout::GROUP;

/// Most tokens in a panel.
pub const PANEL: usize = 6;

/// Words of one group of one token.
pub(super) const WORDS: usize = 12;

/// K is padded to a multiple of this: the longest block of any weight format.
const K_STEP: usize = 256;

/// Below this, a group's largest magnitude counts as zero: 127 / amax must stay finite.
pub(super) const TINY: f32 = 1e-30;

/// Groups of 32 in a panel over `k` elements, padding included.
pub(super) const fn groups(k: usize) -> usize {
    k.div_ceil(K_STEP) * (K_STEP / GROUP)
}

/// Words that the panels of `tokens` tokens of `k` elements occupy.
pub const fn words_needed(tokens: usize, k: usize) -> usize {
    tokens * groups(k) * WORDS
}

/// Panels that `tokens` tokens are cut into.
pub const fn panel_count(tokens: usize) -> usize {
    tokens.div_ceil(PANEL)
}

/// How some tokens are cut into panels.
#[derive(Clone, Copy, Debug)]
struct Cut {
    tokens: usize,
    panels: usize,
    /// Tokens of a panel, one more in the first `longer` panels.
    least: usize,
    longer: usize,
}

impl Cut {
    fn new(tokens: usize) -> Cut {
        let panels = panel_count(tokens);
        Cut { tokens, panels, least: tokens / panels.max(1), longer: tokens % panels.max(1) }
    }

    /// First token of panel `panel`; that of one past the last panel is `tokens`.
    #[inline]
    fn first(&self, panel: usize) -> usize {
        panel * self.least + panel.min(self.longer)
    }

    /// The panel that holds `token`.
    fn panel_of(&self, token: usize) -> usize {
        let in_longer = self.longer * (self.least + 1);
        if token < in_longer {
            token / (self.least + 1)
        } else {
            self.longer + (token - in_longer) / self.least.max(1)
        }
    }
}

/// Quantised activations of some tokens of `k` elements.
#[derive(Clone, Copy, Debug)]
pub struct Panels<'a> {
    cut: Cut,
    k: usize,
    words: &'a [i32],
}

/// One panel: its first token, how many it holds, and its words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel<'a> {
    pub(super) first: usize,
    pub(super) tokens: usize,
    pub(super) words: &'a [i32],
}

impl<'a> Panels<'a> {
    /// The panels at the start of `words`, written through [`PanelsMut`] with the same shape.
    ///
    /// # Panics
    /// If `words` is shorter than [`words_needed`].
    pub fn new(words: &'a [i32], tokens: usize, k: usize) -> Panels<'a> {
        let needed = words_needed(tokens, k);
        assert!(words.len() >= needed, "panels of {tokens} x {k}: {} words of {needed}", words.len());
        Panels { cut: Cut::new(tokens), k, words: &words[..needed] }
    }

    /// Tokens in all panels.
    pub fn tokens(&self) -> usize {
        self.cut.tokens
    }

    /// Elements of a token, without padding.
    pub fn k(&self) -> usize {
        self.k
    }

    /// How many panels there are.
    pub fn panel_count(&self) -> usize {
        self.cut.panels
    }

    /// Panel `n`, `n < panel_count()`.
    #[inline]
    pub(super) fn panel(&self, n: usize) -> Panel<'a> {
        let first = self.cut.first(n);
        let tokens = self.cut.first(n + 1) - first;
        let per_token = words_needed(1, self.k);
        Panel { first, tokens, words: &self.words[first * per_token..][..tokens * per_token] }
    }

    /// The panel that holds `token`.
    fn panel_of(&self, token: usize) -> Panel<'a> {
        assert!(token < self.cut.tokens, "token {token} of {}", self.cut.tokens);
        self.panel(self.cut.panel_of(token))
    }
}

/// Room for the panels of `tokens` tokens, or for a range of them, held exclusively.
#[derive(Debug)]
pub struct PanelsMut<'a> {
    /// The cut of all tokens, of which these may be some.
    cut: Cut,
    k: usize,
    /// Panels `first..end` are in `words`.
    first: usize,
    end: usize,
    words: &'a mut [i32],
}

impl<'a> PanelsMut<'a> {
    /// Room for all panels of `tokens` tokens of `k` elements at the start of `words`.
    ///
    /// # Panics
    /// If `words` is shorter than [`words_needed`].
    pub fn new(words: &'a mut [i32], tokens: usize, k: usize) -> PanelsMut<'a> {
        let needed = words_needed(tokens, k);
        assert!(words.len() >= needed, "panels of {tokens} x {k}: {} words of {needed}", words.len());
        let cut = Cut::new(tokens);
        PanelsMut { cut, k, first: 0, end: cut.panels, words: &mut words[..needed] }
    }

    /// The tokens of these panels, within the whole cut.
    pub fn tokens(&self) -> std::ops::Range<usize> {
        self.cut.first(self.first)..self.cut.first(self.end)
    }

    /// Elements of a token, without padding.
    pub fn k(&self) -> usize {
        self.k
    }

    /// How many panels these are.
    pub fn panel_count(&self) -> usize {
        self.end - self.first
    }

    /// The first `panels` panels and the others, for different threads.
    ///
    /// # Panics
    /// If there are fewer than `panels`.
    pub fn split_at(self, panels: usize) -> (PanelsMut<'a>, PanelsMut<'a>) {
        assert!(panels <= self.panel_count(), "panel {panels} of {}", self.panel_count());
        let PanelsMut { cut, k, first, end, words } = self;
        let middle = first + panels;
        let tokens = cut.first(middle) - cut.first(first);
        let (left, right) = words.split_at_mut(words_needed(tokens, k));
        (
            PanelsMut { cut, k, first, end: middle, words: left },
            PanelsMut { cut, k, first: middle, end, words: right },
        )
    }

    /// The same panels for a shorter time.
    pub fn reborrow(&mut self) -> PanelsMut<'_> {
        PanelsMut { words: self.words, ..*self }
    }

    /// Token count and words of panel `n`, `n < panel_count()`.
    #[inline]
    pub(super) fn panel_mut(&mut self, n: usize) -> (usize, &mut [i32]) {
        let start = self.cut.first(self.first);
        let first = self.cut.first(self.first + n);
        let tokens = self.cut.first(self.first + n + 1) - first;
        let per_token = words_needed(1, self.k);
        (tokens, &mut self.words[(first - start) * per_token..][..tokens * per_token])
    }

    /// Copies tokens of `source` here: token i of these panels becomes token `chosen(i)` of `source`, where i counts
    /// from 0 at the first token of [`PanelsMut::tokens`]. Nothing is quantised again.
    ///
    /// # Panics
    /// If the K of both differ, or a chosen token is not in `source`.
    pub fn gather(&mut self, source: &Panels, chosen: impl Fn(usize) -> usize) {
        assert_eq!(self.k, source.k, "elements of gathered tokens");
        let mut next = 0;
        for n in 0..self.panel_count() {
            let (tokens, words) = self.panel_mut(n);
            for t in 0..tokens {
                let token = chosen(next);
                let panel = source.panel_of(token);
                copy_token(panel.words, panel.tokens, token - panel.first, words, tokens, t);
                next += 1;
            }
        }
    }
}

/// Copies token `s` of a panel of `from` tokens to token `t` of a panel of `to` tokens, all groups.
fn copy_token(source: &[i32], from: usize, s: usize, target: &mut [i32], to: usize, t: usize) {
    let sources = source.chunks_exact(WORDS * from);
    for (target, source) in target.chunks_exact_mut(WORDS * to).zip(sources) {
        target[8 * t..8 * t + 8].copy_from_slice(&source[8 * s..8 * s + 8]);
        for field in 8..WORDS {
            target[field * to + t] = source[field * from + s];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_are_few_and_even() {
        let sizes = |tokens| {
            let words = vec![0; words_needed(tokens, 1)];
            let panels = Panels::new(&words, tokens, 1);
            (0..panels.panel_count()).map(|n| panels.panel(n).tokens).collect::<Vec<_>>()
        };
        assert_eq!(sizes(1), [1]);
        assert_eq!(sizes(6), [6]);
        assert_eq!(sizes(8), [4, 4]);
        assert_eq!(sizes(9), [5, 4]);
        assert_eq!(sizes(16), [6, 5, 5]);
        assert_eq!(sizes(60), [6; 10]);
        assert!(sizes(0).is_empty());
    }

    #[test]
    fn every_token_is_found() {
        for tokens in 1..200 {
            let words = vec![0; words_needed(tokens, 1)];
            let panels = Panels::new(&words, tokens, 1);
            for token in 0..tokens {
                let panel = panels.panel_of(token);
                assert!((panel.first..panel.first + panel.tokens).contains(&token), "{token} of {tokens}");
            }
        }
    }
}
