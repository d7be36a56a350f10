use lfm_graphs::weights::{Format, layout, pack};

use super::super::{Cols, ConvGate, Kernels, Matrix, Portable};
use super::{Rng, assert_bits, available};

struct Case {
    hidden: usize,
    taps: usize,
    weights: Vec<f32>,
    packed: Vec<u8>,
    bias: Option<Vec<f32>>,
    bcx: Vec<f32>,
    window: Vec<f32>,
}

fn case(rng: &mut Rng, tokens: usize, hidden: usize, taps: usize, bias: bool) -> Case {
    let weights = rng.units(hidden * taps);
    let canonical: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    let mut packed = vec![0; layout::packed_bytes(Format::F32, hidden, taps).unwrap() as usize];
    pack::pack(Format::F32, hidden, taps, &canonical, &mut packed).unwrap();
    Case {
        hidden,
        taps,
        weights,
        packed,
        bias: bias.then(|| rng.units(hidden)),
        bcx: rng.units(tokens * 3 * hidden),
        window: rng.units((taps - 1) * hidden),
    }
}

/// Output and window after the tokens in calls of `chunks`, channels cut at the multiples of 16 in `cuts`.
fn run(kernels: &dyn Kernels, case: &Case, chunks: &[usize], cuts: &[usize]) -> Vec<f32> {
    let (hidden, past) = (case.hidden, case.taps - 1);
    let kernel = Matrix::new(Format::F32, hidden, case.taps, &case.packed).unwrap();
    let (mut window, mut y) = (case.window.clone(), Vec::new());
    let mut bcx = &case.bcx[..];
    for tokens in chunks {
        let (now, later) = bcx.split_at(tokens * 3 * hidden);
        let mut part = vec![f32::NAN; tokens * hidden];
        let mut out = Cols::new(&mut part, *tokens, hidden);
        let mut state = Cols::new(&mut window, past, hidden);
        let mut start = 0;
        for end in cuts.iter().copied().chain([hidden]) {
            let (mut mine, others) = out.split_at(end - start);
            let (mut my_state, other_states) = state.split_at(end - start);
            let channels = start..end;
            let conv = ConvGate { bcx: now, kernel, bias: case.bias.as_deref(), channels };
            kernels.conv_gate(&conv, &mut my_state, &mut mine);
            (out, state, start) = (others, other_states, end);
        }
        y.extend(part);
        bcx = later;
    }
    [y, window].concat()
}

/// The definition, on z with the window before it.
fn reference(case: &Case) -> Vec<f32> {
    let (hidden, past) = (case.hidden, case.taps - 1);
    let mut z = case.window.clone();
    for bcx in case.bcx.chunks_exact(3 * hidden) {
        z.extend((0..hidden).map(|h| bcx[h] * bcx[2 * hidden + h]));
    }
    let mut y = Vec::new();
    for (t, bcx) in case.bcx.chunks_exact(3 * hidden).enumerate() {
        for h in 0..hidden {
            let mut sum = 0.0f32;
            for j in 0..case.taps {
                sum = case.weights[h * case.taps + j].mul_add(z[(t + j) * hidden + h], sum);
            }
            if let Some(bias) = &case.bias {
                sum += bias[h];
            }
            y.push(bcx[hidden + h] * sum);
        }
    }
    y.extend(&z[z.len() - past * hidden..]);
    y
}

#[test]
fn every_tier_and_split_equals_the_definition() {
    let mut rng = Rng::new(20);
    for (hidden, taps) in
        [8, 16, 40, 64].into_iter().flat_map(|hidden| [1, 2, 3, 4, 7].map(|taps| (hidden, taps)))
    {
        let case = case(&mut rng, 12, hidden, taps, taps % 2 == 0);
        let expected = reference(&case);
        let cuts: &[usize] = if hidden > 16 { &[16, 32] } else { &[] };
        for tier in available().into_iter().chain([&Portable as &dyn Kernels]) {
            for (chunks, cuts) in
                [(&[12][..], &[][..]), (&[1; 12], cuts), (&[5, 7], cuts), (&[2, 1, 6, 3], &[])]
            {
                let found = run(tier, &case, chunks, cuts);
                assert_bits(&found, &expected, || format!("{} {hidden} x {taps}, {chunks:?}", tier.name()));
            }
        }
    }
}
