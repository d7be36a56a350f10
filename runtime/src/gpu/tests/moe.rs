//! The router and its experts: choice, sorting, products, sums.

use lfm_graphs::plan::MoeScratch;
use lfm_graphs::weights::Format;

use super::{Bench, Rng, assert_near};
use crate::cpu::kernels::{Kernels, Portable, top_k};
use crate::exec::{Kind, MatrixAt, MoeStep, Operand, PanelsAt};
use crate::gpu::kernels::formats;
use crate::gpu::kernels::moe::moe;

#[derive(Clone, Copy, Debug)]
struct Shape {
    hidden: usize,
    inner: usize,
    experts: usize,
    top: usize,
    router: Format,
    pair: Format,
    down: Format,
    /// Most rows of a call, for which the scratch is laid out.
    most: usize,
    renorm: Option<f32>,
    scale: f32,
    residual: bool,
}

const SHAPE: Shape = Shape {
    hidden: 64,
    inner: 48,
    experts: 8,
    top: 2,
    router: Format::F32,
    pair: Format::F32,
    down: Format::F32,
    most: 33,
    renorm: Some(1e-6),
    scale: 1.0,
    residual: true,
};

/// A layer of experts in a bench.
struct Layer {
    bench: Bench,
    shape: Shape,
    step: MoeStep,
    bias: Option<Vec<f32>>,
}

impl Layer {
    fn new(mut bench: Bench, rng: &mut Rng, shape: Shape, bias: Option<Vec<f32>>) -> Layer {
        let Shape { hidden, inner, experts, top, most, .. } = shape;
        let quantised = shape.pair.is_quantised();
        let router = bench.random_matrix(rng, shape.router, 1, experts, hidden);
        let [gate, up] = [(); 2].map(|_| bench.random_matrix(rng, shape.pair, experts, inner, hidden));
        let down = bench.random_matrix(rng, shape.down, experts, hidden, inner);
        let bias_at = bias.as_ref().map(|bias| bench.vector(bias));
        let rows = bench.empty(most, hidden);
        let panels =
            quantised.then(|| PanelsAt { start: bench.room(most * token_words(hidden)), make: false });
        let [m, h, i, e, t] = [most, hidden, inner, experts, top].map(|n| n as u64);
        let words = MoeScratch::new(m, h, i, e, t, quantised).unwrap().total as usize / 4;
        let start = bench.room(words);
        let step = MoeStep {
            x: Operand { rows, panels },
            router,
            bias: bias_at,
            gate,
            up,
            down,
            residual: shape.residual.then(|| bench.empty(most, hidden)),
            top_k: top,
            renorm: shape.renorm,
            scale: shape.scale,
            paged: None,
            scratch: start..start + words,
            out: bench.empty(most, hidden),
        };
        Layer { bench, shape, step, bias }
    }

    fn scratch(&self) -> MoeScratch {
        let Shape { hidden, inner, experts, top, most, .. } = self.shape;
        let [m, h, i, e, t] = [most, hidden, inner, experts, top].map(|n| n as u64);
        MoeScratch::new(m, h, i, e, t, self.shape.pair.is_quantised()).unwrap()
    }

    /// Runs rows and compares everything that they leave behind. Gives the tokens of each expert.
    fn check(&mut self, rng: &mut Rng, rows: usize) -> Vec<usize> {
        let what = format!("{:?}, {rows} rows", self.shape);
        let Shape { hidden, inner, experts, top, .. } = self.shape;
        let x = rng.units(rows * hidden);
        let residual = rng.units(rows * hidden);
        self.bench.write(self.step.x.rows, &x);
        if let Some(at) = self.step.residual {
            self.bench.write(at, &residual);
        }
        // What products read: rows, or what int8 makes of them.
        let read = match self.step.x.panels {
            Some(panels) => {
                let (words, values) = quantise(&x, hidden);
                self.bench.arena[panels.start..][..words.len()].copy_from_slice(&words);
                values
            }
            None => x.iter().map(|x| f64::from(*x)).collect(),
        };
        let (step, most) = (self.step.clone(), self.shape.most);
        let ran = self.bench.run(Kind::Moe(step.clone()), rows, 0, |b| {
            b.most_rows = most;
            moe(b, &step)
        });
        let at = self.scratch();
        let words = |start: u64, len: usize| &ran.arena[step.scratch.start + start as usize / 4..][..len];
        let floats =
            |start: u64, len: usize| words(start, len).iter().map(|w| f32::from_bits(*w)).collect::<Vec<_>>();

        let all: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let logits = self.product(&step.router, 0, &all);
        assert_near(&floats(at.logits.start, rows * experts), &narrow(&logits), 1e-5, &what);
        let mut counts = vec![0; experts];
        let mut chosen = Vec::new();
        for row in 0..rows {
            let scores: Vec<f64> =
                logits[row * experts..][..experts].iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
            let bias = |e: usize| self.bias.as_ref().map_or(0.0, |bias| f64::from(bias[e]));
            let biased: Vec<f32> =
                scores.iter().enumerate().map(|(e, score)| (score + bias(e)) as f32).collect();
            let mut ids = vec![0; top];
            top_k(&biased, &mut ids);
            assert_eq!(words(at.ids.start, rows * top)[row * top..][..top], ids, "row {row} of {what}");
            let sum: f64 = ids.iter().map(|id| scores[*id as usize]).sum();
            let divisor = step.renorm.map_or(1.0, |eps| sum + f64::from(eps));
            for id in ids {
                counts[id as usize] += 1;
                chosen.push((id as usize, scores[id as usize] / divisor * f64::from(step.scale)));
            }
        }
        let weights: Vec<f64> = chosen.iter().map(|(_, weight)| *weight).collect();
        assert_near(&floats(at.weights.start, rows * top), &narrow(&weights), 1e-5, &what);
        if rows > 1 {
            let mut order: Vec<u32> = (0..(rows * top) as u32).collect();
            order.sort_by_key(|slot| chosen[*slot as usize].0);
            assert_eq!(words(at.order.start, rows * top), order, "{what}");
        }

        let mut expected: Vec<f64> = match step.residual {
            Some(_) => residual.iter().map(|x| f64::from(*x)).collect(),
            None => vec![0.0; rows * hidden],
        };
        for (slot, (expert, weight)) in chosen.iter().enumerate() {
            let x = &read[slot / top * hidden..][..hidden];
            let (gate, up) = (self.product(&step.gate, *expert, x), self.product(&step.up, *expert, x));
            let inside: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            let inside = match step.x.panels {
                Some(_) => {
                    // An element half-way between two codes may become either: the sum goes on from what it became.
                    let found = words(
                        at.hidden_panels.start + (4 * slot * token_words(inner)) as u64,
                        token_words(inner),
                    );
                    let found = dequantise(found, inner);
                    let largest = inside.iter().fold(0.0f64, |most, x| most.max(x.abs()));
                    for (found, exact) in found.iter().zip(&inside) {
                        assert!(
                            (found - exact).abs() <= largest / 250.0,
                            "{found} {exact} in slot {slot} of {what}"
                        );
                    }
                    found
                }
                None => inside,
            };
            let y = self.product(&step.down, *expert, &inside);
            for (out, y) in expected[slot / top * hidden..][..hidden].iter_mut().zip(y) {
                *out += weight * y;
            }
        }
        assert_near(&ran.floats(step.out, rows), &narrow(&expected), 1e-5, &what);
        counts
    }

    /// Rows of `x` times matrix `index`.
    fn product(&self, at: &MatrixAt, index: usize, x: &[f64]) -> Vec<f64> {
        let matrix = self.bench.view(at, index);
        let mut y = vec![0.0; x.len() / at.k * at.rows];
        let mut row = vec![0.0; at.k];
        for r in 0..at.rows {
            Portable.row(&matrix, r, &mut row);
            for (t, x) in x.chunks(at.k).enumerate() {
                y[t * at.rows + r] = row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
            }
        }
        y
    }
}

fn narrow(x: &[f64]) -> Vec<f32> {
    x.iter().map(|x| *x as f32).collect()
}

/// Words of the int8 form of a row.
fn token_words(k: usize) -> usize {
    formats::token_words(k) as usize
}

/// The int8 form of rows, and its values.
fn quantise(x: &[f32], k: usize) -> (Vec<u32>, Vec<f64>) {
    let groups = 8 * k.div_ceil(256);
    let (mut words, mut values) = (Vec::new(), Vec::new());
    for row in x.chunks(k) {
        let start = words.len();
        words.resize(start + token_words(k), 0);
        for (g, group) in row.chunks(32).enumerate() {
            let amax = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            let mut sums = [0i32; 2];
            for (i, x) in group.iter().enumerate() {
                let q = (x * (127.0 / amax)).round_ties_even() as i32;
                sums[i / 16] += q;
                words[start + 8 * g + i / 4] |= u32::from(q as u8) << (8 * (i % 4));
                values.push(f64::from(q) * f64::from(amax / 127.0));
            }
            words[start + 8 * groups + g] = (amax / 127.0).to_bits();
            words[start + 9 * groups + g] = packed(sums);
        }
    }
    (words, values)
}

/// The sums of the halves of a group in one word.
fn packed(sums: [i32; 2]) -> u32 {
    (sums[0] as u32 & 0xffff) | (sums[1] as u32) << 16
}

/// The values of a row from its int8 form.
fn dequantise(words: &[u32], k: usize) -> Vec<f64> {
    let groups = 8 * k.div_ceil(256);
    let byte = |i: usize| (words[i / 4] >> (8 * (i % 4))) as u8 as i8;
    for g in 0..k.div_ceil(32) {
        let sums = [0, 1].map(|h| (0..16).map(|i| i32::from(byte(32 * g + 16 * h + i))).sum());
        assert_eq!(words[9 * groups + g], packed(sums), "sums of group {g}");
    }
    (0..k).map(|i| f64::from(byte(i)) * f64::from(f32::from_bits(words[8 * groups + i / 32]))).collect()
}

#[test]
fn float_experts_are_the_exact_ones() {
    let mut rng = Rng::new(30);
    for (pair, down) in [(Format::F32, Format::F32), (Format::F16, Format::F16), (Format::F16, Format::F32)] {
        for (hidden, inner) in [(64, 48), (36, 20), (33, 70)] {
            let Some(bench) = Bench::new() else { return };
            let shape = Shape { hidden, inner, pair, down, ..SHAPE };
            let bias = rng.units(shape.experts);
            let mut layer = Layer::new(bench, &mut rng, shape, Some(bias));
            for rows in [1, 2, 7, 8, 9, 33] {
                layer.check(&mut rng, rows);
            }
        }
    }
}

#[test]
fn quantised_experts_are_the_exact_ones() {
    let mut rng = Rng::new(31);
    for (pair, down) in [
        (Format::Q8_0, Format::Q8_0),
        (Format::Q4_0, Format::Q4_0),
        (Format::Q6K, Format::Q6K),
        (Format::Q4K, Format::Q6K),
        (Format::Q5K, Format::Q4K),
        (Format::Q4_0, Format::Q5K),
    ] {
        for (hidden, inner) in [(64, 96), (36, 20), (288, 272)] {
            let Some(bench) = Bench::new() else { return };
            let shape = Shape { hidden, inner, pair, down, router: Format::F16, ..SHAPE };
            let mut layer = Layer::new(bench, &mut rng, shape, None);
            for rows in [1, 2, 9, 33] {
                layer.check(&mut rng, rows);
            }
        }
    }
}

#[test]
fn weights_are_renormalised_and_scaled_as_asked() {
    let mut rng = Rng::new(32);
    for (renorm, scale, residual) in [(None, 2.5, false), (Some(1e-2), 0.5, true), (None, 1.0, true)] {
        let Some(bench) = Bench::new() else { return };
        let mut layer = Layer::new(bench, &mut rng, Shape { renorm, scale, residual, ..SHAPE }, None);
        for rows in [1, 5] {
            layer.check(&mut rng, rows);
        }
    }
}

#[test]
fn experts_may_have_no_tokens_or_all() {
    let mut rng = Rng::new(33);
    for pair in [Format::F32, Format::Q4_0] {
        let Some(bench) = Bench::new() else { return };
        let shape = Shape { pair, down: pair, most: 70, ..SHAPE };
        let mut bias = vec![0.0; 8];
        (bias[3], bias[0], bias[7]) = (10.0, -10.0, -10.0);
        let mut layer = Layer::new(bench, &mut rng, shape, Some(bias));
        for rows in [1, 31, 32, 33, 64, 70] {
            let counts = layer.check(&mut rng, rows);
            assert_eq!((counts[0], counts[3], counts[7]), (0, rows, 0));
        }
    }
}

#[test]
fn any_number_of_experts_may_be_chosen() {
    let mut rng = Rng::new(34);
    for (experts, top) in [(1, 1), (5, 5), (17, 1), (33, 16), (100, 7), (300, 3), (1024, 40)] {
        let Some(bench) = Bench::new() else { return };
        let shape = Shape { hidden: 20, inner: 12, experts, top, most: 9, ..SHAPE };
        let bias = rng.units(experts);
        let mut layer = Layer::new(bench, &mut rng, shape, Some(bias));
        for rows in [1, 9] {
            layer.check(&mut rng, rows);
        }
    }
}

#[test]
fn ties_go_to_the_lower_index() {
    let mut rng = Rng::new(35);
    let Some(bench) = Bench::new() else { return };
    let mut layer = Layer::new(bench, &mut rng, Shape { experts: 40, top: 5, ..SHAPE }, None);
    // Every row of the router is the same: in a row-block, and row-blocks.
    let router = layer.step.router;
    let bytes = &mut layer.bench.weights[router.offset..][..router.stride];
    for k in bytes.chunks_mut(64) {
        k.copy_within(..4, 4);
        k.copy_within(..8, 8);
        k.copy_within(..16, 16);
        k.copy_within(..32, 32);
    }
    let first = bytes[..64 * router.k].to_vec();
    bytes.chunks_mut(first.len()).for_each(|block| block.copy_from_slice(&first));
    for rows in [1, 6] {
        let counts = layer.check(&mut rng, rows);
        assert_eq!(counts[..6], [rows, rows, rows, rows, rows, 0]);
    }
}

#[test]
fn a_stack_may_lie_in_several_buffers() {
    let mut rng = Rng::new(36);
    for pair in [Format::F32, Format::F16, Format::Q4_0] {
        let Some(bench) = Bench::small_bindings(96 << 10) else { return };
        let shape = Shape { hidden: 96, inner: 144, pair, down: pair, experts: 20, top: 3, most: 9, ..SHAPE };
        let bias = rng.units(shape.experts);
        let mut layer = Layer::new(bench, &mut rng, shape, Some(bias));
        for rows in [1, 9] {
            layer.check(&mut rng, rows);
        }
    }
}
