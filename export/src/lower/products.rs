//! Lowering of matrix products, convolution and attention.

use lfm_graphs::graph::Value;
use lfm_graphs::{Dim, Op};

use super::{Fault, Lowering, unsupported};

impl Lowering<'_> {
    /// A batched product. burn stretches leading axes of size one, `MatMul` does not.
    pub(super) fn matmul(&mut self, a: Value, b: Value) -> Result<Value, Fault> {
        let (sa, sb) = (self.shape(a), self.shape(b));
        let (Some(na), Some(nb)) = (sa.len().checked_sub(2), sb.len().checked_sub(2)) else {
            return unsupported("a factor has fewer than two axes");
        };
        let mut lead = Vec::new();
        for (x, y) in sa[..na].iter().zip(&sb[..nb]) {
            lead.push(match (*x, *y) {
                (x, y) if x == y => x,
                (Dim::ONE, y) => y,
                (x, Dim::ONE) => x,
                (x, y) => return unsupported(format!("leading axes of {x} and {y}")),
            });
        }
        let a = self.stretch(a, &lead, &sa[na..])?;
        let b = self.stretch(b, &lead, &sb[nb..])?;
        Ok(self.emit(&Op::MatMul, &[a, b])?)
    }

    fn stretch(&mut self, x: Value, lead: &[Dim], matrix: &[Dim]) -> Result<Value, Fault> {
        let to = [lead, matrix].concat();
        if self.shape(x) == to { Ok(x) } else { Ok(self.emit(&Op::Broadcast { to }, &[x])?) }
    }

    /// `x · w (+ bias)` with `w` [in, out].
    pub(super) fn linear(&mut self, args: &[Value]) -> Result<Value, Fault> {
        let [x, w, bias @ ..] = args else {
            return unsupported("it has fewer than two arguments");
        };
        let w = self.swap(*w, 0, 1)?;
        Ok(self.emit(&Op::Linear, &[&[*x, w], bias].concat())?)
    }

    /// A depthwise convolution of one batch: `x` `[1, c, l]`, weight `[c, 1, taps]` (and bias `[c]`).
    pub(super) fn conv(&mut self, args: &[Value], groups: usize) -> Result<Value, Fault> {
        let [x, w, bias @ ..] = args else {
            return unsupported("it has fewer than two arguments");
        };
        let (shape, kernel) = (self.shape(*x), self.shape(*w));
        let ([Dim::ONE, c, l], [out, Dim::ONE, taps]) = (shape.as_slice(), kernel.as_slice()) else {
            return unsupported("only depthwise convolutions of one batch are known");
        };
        if c != out || c.as_fixed().map(|c| c as usize) != Some(groups) {
            return unsupported(format!("{groups} groups of {c} channels, expected one for each channel"));
        }
        let Some(width) = taps.as_fixed() else {
            return unsupported("the kernel has no fixed width");
        };
        let x = self.emit(&Op::Reshape { to: vec![*c, *l] }, &[*x])?;
        let w = self.emit(&Op::Reshape { to: vec![*c, *taps] }, &[*w])?;
        let y = self.emit(&Op::DepthwiseConv { taps: width }, &[&[x, w], bias].concat())?;
        let to = [&[Dim::ONE], self.shape(y).as_slice()].concat();
        Ok(self.emit(&Op::Reshape { to }, &[y])?)
    }

    /// `softmax(mask(q · kᵀ · scale)) · v` on [1, heads, n, d].
    pub(super) fn attention(
        &mut self,
        args: &[Value],
        scale: Option<f64>,
        causal: bool,
    ) -> Result<Value, Fault> {
        let [q, k, v] = args else {
            return unsupported("it has not three arguments");
        };
        let shape = self.shape(*q);
        let scale = match (scale, shape.last().and_then(|d| d.as_fixed())) {
            (Some(scale), _) => scale,
            (None, Some(d)) => f64::from(d).powf(-0.5),
            (None, None) => return unsupported("the width of a head is not fixed"),
        };
        let rank = shape.len();
        let keys = self.swap(*k, rank.saturating_sub(2), rank.saturating_sub(1))?;
        let mut scores = self.matmul(*q, keys)?;
        scores = self.emit(&Op::MulScalar { by: scale as f32 }, &[scores])?;
        if causal {
            scores = self.emit(&Op::CausalMask { window: None }, &[scores])?;
        }
        let weights = self.emit(&Op::Softmax, &[scores])?;
        self.matmul(weights, *v)
    }
}
