//! The gated short convolution and its window.

use lfm_graphs::weights::Format;

use super::{Bench, Rng, assert_near};
use crate::cpu::kernels::{Cols, ConvGate, Kernels, Portable};
use crate::exec::{Kind, StateShape};
use crate::gpu::kernels::conv_gate::conv_gate;

/// Runs chunks one after another on both sides.
fn check(rng: &mut Rng, hidden: usize, taps: usize, has_bias: bool, chunks: &[usize]) {
    let Some(mut bench) = Bench::new() else { return };
    let what = format!("{hidden} channels, {taps} taps, bias {has_bias}, chunks {chunks:?}");
    let most = chunks.iter().copied().max().unwrap();
    let bcx = bench.empty(most, 3 * hidden);
    let out = bench.empty(most, hidden);
    let kernel = bench.random_matrix(rng, Format::F32, 1, hidden, taps);
    let bias_values = rng.units(hidden);
    let bias = has_bias.then(|| bench.vector(&bias_values));
    bench.states = vec![StateShape::Window { rows: taps - 1, channels: hidden }];
    let mut window = vec![0.0; (taps - 1) * hidden];
    for &rows in chunks {
        let values = rng.units(rows * 3 * hidden);
        bench.write(bcx, &values);
        let kind = Kind::ConvGate { bcx, kernel, bias, state: 0, out };
        let ran = bench.run(kind, rows, 0, |b| conv_gate(b, bcx, &kernel, bias.as_ref(), 0, out));
        let mut expected = vec![0.0; rows * hidden];
        let conv = ConvGate {
            bcx: &values,
            kernel: bench.view(&kernel, 0),
            bias: has_bias.then_some(&bias_values),
            channels: 0..hidden,
        };
        let mut cols = Cols::new(&mut window, taps - 1, hidden);
        Portable.conv_gate(&conv, &mut cols, &mut Cols::new(&mut expected, rows, hidden));
        assert_near(&ran.floats(out, rows), &expected, 1e-6, &what);
        let kept: Vec<f32> =
            ran.states[0].iter().take(window.len()).map(|word| f32::from_bits(*word)).collect();
        assert_near(&kept, &window, 1e-6, &format!("window of {what}"));
    }
}

#[test]
fn convolutions_are_the_portable_ones() {
    let mut rng = Rng::new(10);
    for (hidden, taps) in [(16, 3), (40, 1), (80, 4), (36, 7), (64, 2), (130, 3)] {
        for has_bias in [false, true] {
            check(&mut rng, hidden, taps, has_bias, &[1, 2, 7, 1, 8, 9, 1, 33, 3]);
        }
    }
}
