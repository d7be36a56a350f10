//! Sizes that the planner and the kernels must agree on.

use std::ops::Range;

use super::align;

/// K is padded to a multiple of this in panels: the longest block of any weight format.
const PANEL_K: u64 = 256;
/// Groups of 32 in [`PANEL_K`].
const PANEL_GROUPS: u64 = 8;
/// Words of one token's group: 8 of int8, then scale, correction, the sums of both halves, and the scaled sum.
const GROUP_WORDS: u64 = 12;

/// 32-bit words of the panels of `tokens` tokens of `k` elements, however they are cut into panels; `None` on overflow.
///
/// Per token and group of 32 elements: 8 words of int8, the scale, a correction, a pair of sums and the scaled sum. K is
/// padded to a multiple of 256.
pub const fn panel_words(tokens: u64, k: u64) -> Option<u64> {
    match k.div_ceil(PANEL_K).checked_mul(PANEL_GROUPS * GROUP_WORDS) {
        Some(words) => words.checked_mul(tokens),
        None => None,
    }
}

/// The scratch of a `Moe` node for a number of tokens: byte ranges from the start of its buffer, each starting at a
/// multiple of 64. A slot is a pair of a token and one of its experts. Fewer tokens never need more bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoeScratch {
    /// `[tokens, experts]` f32: what the router gives.
    pub logits: Range<u64>,
    /// `[tokens, top_k]` u32: the chosen experts.
    pub ids: Range<u64>,
    /// `[tokens, top_k]` f32: their weights.
    pub weights: Range<u64>,
    /// `[tokens * top_k]` u32: slots sorted by expert.
    pub order: Range<u64>,
    /// `[experts + 1]` u32: where each expert's slots start in `order`.
    pub starts: Range<u64>,
    /// `[tokens * top_k, hidden]`: the slots' input rows in the order of `order`, as panels if the experts are
    /// quantised (a new panel starts with each expert, which takes no more words), else as f32.
    pub x: Range<u64>,
    /// `[tokens * top_k, inner]` f32: `silu(gate) * up`.
    pub hidden: Range<u64>,
    /// The same as panels; empty if the experts are not quantised.
    pub hidden_panels: Range<u64>,
    /// `[tokens * top_k, hidden]` f32: what the experts give.
    pub y: Range<u64>,
    /// All bytes, a multiple of 64.
    pub total: u64,
}

impl MoeScratch {
    /// The scratch of `tokens` tokens of `hidden` elements, of which each goes to `top_k` of `experts` experts that
    /// are `inner` wide. `None` on overflow.
    pub fn new(
        tokens: u64,
        hidden: u64,
        inner: u64,
        experts: u64,
        top_k: u64,
        quantised: bool,
    ) -> Option<MoeScratch> {
        let slots = tokens.checked_mul(top_k)?;
        let rows = |k: u64| slots.checked_mul(k)?.checked_mul(4);
        let panels = |k: u64| panel_words(slots, k)?.checked_mul(4);
        let mut total = 0u64;
        let mut take = |bytes: u64| {
            let start = total;
            let end = start.checked_add(bytes)?;
            total = align(end)?;
            Some(start..end)
        };
        Some(MoeScratch {
            logits: take(tokens.checked_mul(experts)?.checked_mul(4)?)?,
            ids: take(rows(1)?)?,
            weights: take(rows(1)?)?,
            order: take(rows(1)?)?,
            starts: take(experts.checked_add(1)?.checked_mul(4)?)?,
            x: take(if quantised { panels(hidden)? } else { rows(hidden)? })?,
            hidden: take(rows(inner)?)?,
            hidden_panels: take(if quantised { panels(inner)? } else { 0 })?,
            y: take(rows(hidden)?)?,
            total,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_pad_k_to_256() {
        assert_eq!(panel_words(1, 1), Some(96));
        assert_eq!(panel_words(3, 256), Some(288));
        assert_eq!(panel_words(9, 2048), Some(9 * 768));
        assert_eq!(panel_words(9, 2049), Some(9 * 864));
        assert_eq!(panel_words(0, 2048), Some(0));
        assert_eq!(panel_words(u64::MAX, 1), None);
    }

    #[test]
    fn moe_ranges_follow_each_other() {
        for quantised in [false, true] {
            let mut before = 0;
            for tokens in [1, 2, 7, 512] {
                let s = MoeScratch::new(tokens, 2048, 1792, 32, 4, quantised).unwrap();
                let ranges = [
                    &s.logits,
                    &s.ids,
                    &s.weights,
                    &s.order,
                    &s.starts,
                    &s.x,
                    &s.hidden,
                    &s.hidden_panels,
                    &s.y,
                ];
                let mut end = 0u64;
                for range in ranges {
                    assert_eq!(range.start, end.next_multiple_of(64));
                    end = range.end;
                }
                assert_eq!(s.total, end.next_multiple_of(64));
                assert!(s.total > before, "more tokens need more bytes");
                before = s.total;
                let slots = tokens * 4;
                assert_eq!(s.logits.end - s.logits.start, tokens * 32 * 4);
                assert_eq!(s.starts.end - s.starts.start, 33 * 4);
                assert_eq!(s.x.end - s.x.start, if quantised { slots * 768 * 4 } else { slots * 2048 * 4 });
                assert_eq!(s.hidden.end - s.hidden.start, slots * 1792 * 4);
                assert_eq!(
                    s.hidden_panels.end - s.hidden_panels.start,
                    if quantised { slots * 672 * 4 } else { 0 }
                );
                assert_eq!(s.y.end - s.y.start, slots * 2048 * 4);
            }
        }
        assert_eq!(MoeScratch::new(u64::MAX, 2048, 1792, 32, 4, true), None);
        assert_eq!(MoeScratch::new(1, u64::MAX / 8, 1792, 32, 4, false), None);
    }
}
