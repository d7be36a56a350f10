//! Activation quantisation into panels: the formula and the layout are in [`crate::panels`].

use lfm_graphs::weights::layout::GROUP;

use crate::lanes::{Lanes, load_part};
use crate::panels::{PanelsMut, TINY, WORDS};

#[inline(always)]
pub(crate) fn quantize<I: Lanes>(isa: I, x: &[f32], panels: &mut PanelsMut) {
    let k = panels.k();
    assert_eq!(x.len(), panels.tokens().len() * k, "floats of quantised tokens");
    let mut rows = x.chunks_exact(k.max(1));
    for n in 0..panels.panel_count() {
        let (tokens, words) = panels.panel_mut(n);
        for (t, row) in rows.by_ref().take(tokens).enumerate() {
            token(isa, row, t, tokens, words);
        }
    }
}

/// One token, `row`, as token t of a panel of `tokens`.
#[inline(always)]
fn token<I: Lanes>(isa: I, row: &[f32], t: usize, tokens: usize, words: &mut [i32]) {
    let (whole, rest) = row.as_chunks::<GROUP>();
    for (g, words) in words.chunks_exact_mut(WORDS * tokens).enumerate() {
        let (a, b) = match whole.get(g) {
            Some(x) => {
                let x = x.as_chunks().0;
                (isa.load(&x[0]), isa.load(&x[1]))
            }
            None if g == whole.len() => {
                let (a, b) = rest.split_at(rest.len().min(16));
                (load_part(isa, a), load_part(isa, b))
            }
            None => (isa.splat(0.0), isa.splat(0.0)),
        };
        let (bytes, scale, sums) = group(isa, a, b);
        let quads = bytes.as_flattened().as_chunks().0;
        for (word, quad) in words[8 * t..8 * t + 8].iter_mut().zip(quads) {
            *word = i32::from_le_bytes(*quad);
        }
        words[8 * tokens + t] = scale.to_bits().cast_signed();
        // Infinities and NaN make sums that mean nothing, but a scale that shows.
        words[9 * tokens + t] = sums[0].wrapping_add(sums[1]).wrapping_mul(-8);
        words[10 * tokens + t] = sums[0] & 0xffff | sums[1] << 16;
        let minimum = scale * sums[0].wrapping_add(sums[1]) as f32;
        words[11 * tokens + t] = minimum.to_bits().cast_signed();
    }
}

/// The bytes, scale and sums of the two halves of one group.
#[inline(always)]
fn group<I: Lanes>(isa: I, a: I::V, b: I::V) -> ([[u8; 16]; 2], f32, [i32; 2]) {
    /// 1.5 * 2^23: added to a small number it rounds it to an integer, ties to even, found in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let amax = isa.highest(isa.max(isa.abs(a), isa.abs(b)));
    let amax = if amax >= TINY { amax } else { 0.0 };
    let inverse = isa.splat(if amax > 0.0 { 127.0 / amax } else { 0.0 });
    let a = isa.add(isa.mul(a, inverse), isa.splat(MAGIC));
    let b = isa.add(isa.mul(b, inverse), isa.splat(MAGIC));
    let offset = MAGIC.to_bits().cast_signed().wrapping_mul(16);
    let sums = [isa.bit_sum(a).wrapping_sub(offset), isa.bit_sum(b).wrapping_sub(offset)];
    ([isa.low_bytes(a), isa.low_bytes(b)], amax / 127.0, sums)
}
