//! Gated short convolution.

use lfm_graphs::weights::Format;
use lfm_graphs::weights::layout::ROWS;

use crate::cols::Cols;
use crate::lanes::{Lanes, load_part, store_part};
use crate::ops::ConvGate;

#[inline(always)]
pub(crate) fn conv_gate<I: Lanes>(isa: I, conv: &ConvGate, window: &mut Cols, out: &mut Cols) {
    let (hidden, taps, tokens) = (conv.kernel.rows(), conv.kernel.k(), out.tokens());
    let width = conv.channels.len();
    assert_eq!(conv.kernel.format(), Format::F32, "convolution kernel");
    assert!(
        conv.channels.start.is_multiple_of(ROWS) && conv.channels.end <= hidden,
        "channels {:?}",
        conv.channels
    );
    assert_eq!(conv.bcx.len(), tokens * 3 * hidden, "B, C and x of {tokens} tokens of {hidden}");
    assert!(
        out.width() == width && window.width() == width && window.tokens() == taps - 1,
        "window and output"
    );
    assert!(conv.bias.is_none_or(|bias| bias.len() == hidden), "convolution bias");
    for first in (0..width).step_by(ROWS) {
        let lanes = (width - first).min(ROWS);
        if lanes == ROWS {
            sixteen::<I, true>(isa, conv, first, lanes, window, out)
        } else {
            sixteen::<I, false>(isa, conv, first, lanes, window, out)
        }
    }
}

/// Channels `first..first + lanes` of the range; `WHOLE` if these are 16.
#[inline(always)]
fn sixteen<I: Lanes, const WHOLE: bool>(
    isa: I,
    conv: &ConvGate,
    first: usize,
    lanes: usize,
    window: &mut Cols,
    out: &mut Cols,
) {
    let (hidden, taps, tokens) = (conv.kernel.rows(), conv.kernel.k(), out.tokens());
    let channel = conv.channels.start + first;
    let kernel = conv.kernel.row_block(channel / ROWS).as_chunks().0;
    #[expect(clippy::manual_map, reason = "a closure would not take the tier's CPU features")]
    let bias = match conv.bias {
        Some(bias) => Some(load::<I, WHOLE>(isa, &bias[channel..channel + lanes])),
        None => None,
    };
    let bcx = Bcx { values: conv.bcx, hidden, channel, lanes };
    let past = taps - 1;
    for t in 0..tokens {
        let mut sum = isa.splat(0.0);
        for (j, tap) in kernel[..taps].iter().enumerate() {
            // Token t - past + j; before the first, what the window remembers.
            let z = match (t + j).checked_sub(past) {
                Some(token) => bcx.z::<I, WHOLE>(isa, token),
                None => load::<I, WHOLE>(isa, &window.row(t + j)[first..first + lanes]),
            };
            sum = isa.fma(isa.load_bytes(tap), z, sum);
        }
        if let Some(bias) = bias {
            sum = isa.add(sum, bias);
        }
        let y = isa.mul(bcx.third::<I, WHOLE>(isa, t, 1), sum);
        store::<I, WHOLE>(isa, y, &mut out.row_mut(t)[first..first + lanes]);
    }
    // The last `past` values of z; ascending, so that a kept value is read before its place is taken.
    for row in 0..past {
        let z = match (tokens + row).checked_sub(past) {
            Some(token) => bcx.z::<I, WHOLE>(isa, token),
            None => load::<I, WHOLE>(isa, &window.row(tokens + row)[first..first + lanes]),
        };
        store::<I, WHOLE>(isa, z, &mut window.row_mut(row)[first..first + lanes]);
    }
}

/// Some channels of B, C and x, `[tokens, 3, hidden]`.
struct Bcx<'a> {
    values: &'a [f32],
    hidden: usize,
    channel: usize,
    lanes: usize,
}

impl Bcx<'_> {
    /// Third 0, 1, 2 of token t: B, C, x.
    #[inline(always)]
    fn third<I: Lanes, const WHOLE: bool>(&self, isa: I, t: usize, n: usize) -> I::V {
        load::<I, WHOLE>(isa, &self.values[(3 * t + n) * self.hidden + self.channel..][..self.lanes])
    }

    /// B * x of token t.
    #[inline(always)]
    fn z<I: Lanes, const WHOLE: bool>(&self, isa: I, t: usize) -> I::V {
        isa.mul(self.third::<I, WHOLE>(isa, t, 0), self.third::<I, WHOLE>(isa, t, 2))
    }
}

#[inline(always)]
fn load<I: Lanes, const WHOLE: bool>(isa: I, x: &[f32]) -> I::V {
    if WHOLE { isa.load(&x.as_chunks().0[0]) } else { load_part(isa, x) }
}

#[inline(always)]
fn store<I: Lanes, const WHOLE: bool>(isa: I, v: I::V, out: &mut [f32]) {
    if WHOLE { isa.store(v, &mut out.as_chunks_mut().0[0]) } else { store_part(isa, v, out) }
}
