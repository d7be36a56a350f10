//! Element-wise kernels, RMS norm, rotary embedding, f16 conversion.

use crate::half;
use crate::lanes::{Lanes, load_part, store_part};
use crate::math;

/// `out[i] = value` where the value is computed from the vectors at i of the named slices.
macro_rules! map {
    ($isa:ident, $out:ident = [$($x:ident),+] => $value:expr) => {{
        $( assert_eq!($x.len(), $out.len(), "lengths of element-wise operands"); )+
        let (whole, rest) = $out.as_chunks_mut::<16>();
        let done = 16 * whole.len();
        for (i, out) in whole.iter_mut().enumerate() {
            $( let $x = $isa.load(&$x.as_chunks().0[i]); )+
            $isa.store($value, out);
        }
        if !rest.is_empty() {
            $( let $x = load_part($isa, &$x[done..]); )+
            store_part($isa, $value, rest);
        }
    }};
}

#[inline(always)]
pub(crate) fn exp<I: Lanes>(isa: I, x: &[f32], out: &mut [f32]) {
    map!(isa, out = [x] => math::exp(isa, x));
}

#[inline(always)]
pub(crate) fn sigmoid<I: Lanes>(isa: I, x: &[f32], out: &mut [f32]) {
    map!(isa, out = [x] => math::sigmoid(isa, x));
}

#[inline(always)]
pub(crate) fn silu_mul<I: Lanes>(isa: I, gate: &[f32], up: &[f32], out: &mut [f32]) {
    map!(isa, out = [gate, up] => isa.mul(math::silu(isa, gate), up));
}

#[inline(always)]
pub(crate) fn add<I: Lanes>(isa: I, a: &[f32], b: &[f32], out: &mut [f32]) {
    map!(isa, out = [a, b] => isa.add(a, b));
}

#[inline(always)]
pub(crate) fn mul<I: Lanes>(isa: I, a: &[f32], b: &[f32], out: &mut [f32]) {
    map!(isa, out = [a, b] => isa.mul(a, b));
}

#[inline(always)]
pub(crate) fn axpy<I: Lanes>(isa: I, p: f32, y: &[f32], out: &mut [f32]) {
    assert_eq!(y.len(), out.len(), "lengths of element-wise operands");
    let p = isa.splat(p);
    let ((y, y_rest), (out, out_rest)) = (y.as_chunks(), out.as_chunks_mut());
    for (y, out) in y.iter().zip(out) {
        let sum = isa.fma(p, isa.load(y), isa.load(out));
        isa.store(sum, out);
    }
    let sum = isa.fma(p, load_part(isa, y_rest), load_part(isa, out_rest));
    store_part(isa, sum, out_rest);
}

#[inline(always)]
pub(crate) fn rms_norm<I: Lanes>(isa: I, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let mut squares = isa.splat(0.0);
    let (whole, rest) = x.as_chunks();
    for x in whole {
        let x = isa.load(x);
        squares = isa.fma(x, x, squares);
    }
    let last = load_part(isa, rest);
    squares = isa.fma(last, last, squares);
    let mean = isa.sum(squares) / x.len() as f32;
    let scale = isa.splat(1.0 / (mean + eps).sqrt());
    map!(isa, out = [x, weight] => isa.mul(isa.mul(x, scale), weight));
}

#[inline(always)]
pub(crate) fn rope<I: Lanes>(isa: I, x: &mut [f32], cos: &[f32], sin: &[f32]) {
    let half = cos.len();
    assert!(
        half > 0 && sin.len() == half && x.len().is_multiple_of(2 * half),
        "rope: {} of {half} pairs",
        x.len()
    );
    for head in x.chunks_exact_mut(2 * half) {
        let (first, second) = head.split_at_mut(half);
        let (first, first_rest) = first.as_chunks_mut();
        let (second, second_rest) = second.as_chunks_mut();
        let ((cos, cos_rest), (sin, sin_rest)) = (cos.as_chunks(), sin.as_chunks());
        for (((x1, x2), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
            let (y1, y2) = rotate(isa, isa.load(x1), isa.load(x2), isa.load(cos), isa.load(sin));
            isa.store(y1, x1);
            isa.store(y2, x2);
        }
        if !first_rest.is_empty() {
            let (x1, x2) = (load_part(isa, first_rest), load_part(isa, second_rest));
            let (y1, y2) = rotate(isa, x1, x2, load_part(isa, cos_rest), load_part(isa, sin_rest));
            store_part(isa, y1, first_rest);
            store_part(isa, y2, second_rest);
        }
    }
}

/// `(fma(x1, cos, -(x2 * sin)), fma(x2, cos, x1 * sin))`
#[inline(always)]
fn rotate<I: Lanes>(isa: I, x1: I::V, x2: I::V, cos: I::V, sin: I::V) -> (I::V, I::V) {
    let minus = isa.mul(isa.mul(x2, sin), isa.splat(-1.0));
    (isa.fma(x1, cos, minus), isa.fma(x2, cos, isa.mul(x1, sin)))
}

#[inline(always)]
pub(crate) fn widen<I: Lanes>(isa: I, x: &[u16], out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "lengths of a conversion from f16");
    let ((x, x_rest), (out, out_rest)) = (x.as_chunks(), out.as_chunks_mut());
    for (x, out) in x.iter().zip(out) {
        isa.store(isa.widen(x), out);
    }
    for (x, out) in x_rest.iter().zip(out_rest) {
        *out = half::widen(*x);
    }
}

#[inline(always)]
pub(crate) fn narrow<I: Lanes>(isa: I, x: &[f32], out: &mut [u16]) {
    assert_eq!(x.len(), out.len(), "lengths of a conversion to f16");
    let ((x, x_rest), (out, out_rest)) = (x.as_chunks(), out.as_chunks_mut());
    for (x, out) in x.iter().zip(out) {
        *out = isa.narrow(isa.load(x));
    }
    for (x, out) in x_rest.iter().zip(out_rest) {
        *out = half::narrow(*x);
    }
}
