//! Seeded graphs, weights and numbers for tests, here and in the crates that read graphs. Not part of the contract.

mod random;
mod tiny;

use std::collections::BTreeMap;

pub use random::random_graph;
pub use tiny::{Mixer, Tiny, tiny_graph};

use crate::Graph;
use crate::interp::Tensor;

/// Reproducible numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not zero.
    pub fn below(&mut self, n: u32) -> u32 {
        (self.bits() % n as u64) as u32
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// One of some things.
    pub fn pick<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len() as u32) as usize]
    }

    /// A number from -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Any finite number, of any magnitude.
    pub fn finite(&mut self) -> f32 {
        loop {
            let x = f32::from_bits(self.bits() as u32);
            if x.is_finite() {
                return x;
            }
        }
    }

    /// Numbers from -scale to scale.
    pub fn tensor(&mut self, shape: impl Into<Vec<usize>>, scale: f32) -> Tensor {
        let shape = shape.into();
        let data = (0..shape.iter().product()).map(|_| self.unit() * scale).collect();
        Tensor::f32(shape, data)
    }
}

/// A tensor for each weight, such that activations keep their size from layer to layer: norms are near one, other
/// vectors small, rows of matrices short.
pub fn random_weights(graph: &Graph, seed: u64) -> BTreeMap<String, Tensor> {
    let mut weights = BTreeMap::new();
    for weight in graph.weights().values() {
        let salt = weight.name.bytes().fold(seed, |h, b| (h ^ b as u64).wrapping_mul(0x0000_0100_0000_01b3));
        let mut rng = Rng::new(salt);
        let shape = weight.ty.at(0, 0);
        let last = shape.last().copied().unwrap_or(1).max(1) as f32;
        let mut tensor = rng.tensor(shape, if weight.ty.rank() > 1 { (3.0 / last).sqrt() } else { 0.2 });
        if weight.name.ends_with("norm")
            && let crate::interp::Data::F32(data) = &mut tensor.data
        {
            data.iter_mut().for_each(|x| *x += 1.0);
        }
        weights.insert(weight.name.clone(), tensor);
    }
    weights
}
