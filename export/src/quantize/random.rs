//! Random weights for `--random-weights`: timing a model needs its shapes and sane numbers, not its training.
//!
//! Element i of tensor NAME is a function of the seed, NAME and i alone, so tensors can be made in any order, in any
//! pieces and on any number of threads, with the same bytes. The distribution is nearly normal (the sum of four uniform
//! numbers, within 3.5 standard deviations). Matrices have the standard deviation 1 / sqrt(K), so a vector of
//! components around 1 keeps that size through a product; norm weights lie near 1; selection biases are small, but
//! large enough to matter between experts of similar score.

use rayon::prelude::*;

use super::recipe::WeightRole;

/// Elements that one thread makes at a time.
const PIECE: usize = 1 << 14;

/// The source of all random weights of one model.
#[derive(Clone, Copy, Debug)]
pub struct RandomWeights {
    seed: u64,
}

/// Mean and standard deviation of the elements of one tensor.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Distribution {
    /// Mean.
    pub mean: f32,
    /// Standard deviation.
    pub deviation: f32,
}

impl Distribution {
    /// Of the matrices and convolution kernels with `k` elements per output.
    pub fn matrix(k: usize) -> Distribution {
        Distribution { mean: 0.0, deviation: 1.0 / (k.max(1) as f32).sqrt() }
    }

    /// Of norm weights.
    pub const NORM: Distribution = Distribution { mean: 1.0, deviation: 0.05 };

    /// Of biases, `expert_bias` included.
    pub const BIAS: Distribution = Distribution { mean: 0.0, deviation: 0.05 };

    /// Of the tensor `name`, which is used as `role` and has `k` elements per row. Vectors are told apart by name:
    /// those that end in `bias` are biases, the others norm weights.
    pub fn of(role: WeightRole, name: &str, k: usize) -> Distribution {
        match role {
            WeightRole::Embedding
            | WeightRole::Matrix
            | WeightRole::Expert
            | WeightRole::Router
            | WeightRole::ConvKernel => Distribution::matrix(k),
            WeightRole::Vector if name.trim_end_matches(".weight").ends_with("bias") => Distribution::BIAS,
            WeightRole::Vector => Distribution::NORM,
        }
    }
}

impl RandomWeights {
    /// All weights of one seed.
    pub const fn new(seed: u64) -> RandomWeights {
        RandomWeights { seed }
    }

    /// Elements `first .. first + out.len()` of tensor `name`. Runs on the current rayon pool.
    pub fn fill(self, name: &str, distribution: Distribution, first: u64, out: &mut [f32]) {
        let key = self.key(name);
        // A sum of four 16-bit numbers has the mean 2 * 65535 and the variance 4 * (2^32 - 1) / 12.
        let scale = distribution.deviation / (f64::from(u32::MAX) / 3.0).sqrt() as f32;
        out.par_chunks_mut(PIECE).enumerate().for_each(|(n, piece)| {
            let mut at = first.wrapping_add((n * PIECE) as u64);
            for value in piece {
                let bits = mix(key, at);
                let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
                *value = distribution.mean + scale * (sum as i32 - 2 * 0xffff) as f32;
                at = at.wrapping_add(1);
            }
        });
    }

    /// What tells the tensors of a model apart.
    fn key(self, name: &str) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// 64 random bits of a counter: the SplitMix64 generator at a position.
#[inline]
fn mix(key: u64, at: u64) -> u64 {
    let z = key.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(seed: u64, name: &str, first: u64, count: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; count];
        RandomWeights::new(seed).fill(name, Distribution::matrix(64), first, &mut out);
        out
    }

    #[test]
    fn an_element_depends_on_seed_name_and_index_alone() {
        let whole = fill(1, "a", 0, 100_000);
        for (first, count) in [(0, 10), (7, 40_000), (99_999, 1)] {
            assert_eq!(fill(1, "a", first as u64, count), whole[first..][..count]);
        }
        for threads in [1, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            assert_eq!(pool.install(|| fill(1, "a", 0, 100_000)), whole);
        }
        for (seed, name) in [(2, "a"), (1, "b"), (1, "")] {
            let other = fill(seed, name, 0, 1000);
            assert!(other.iter().zip(&whole).filter(|(a, b)| a == b).count() < 10);
        }
    }

    #[test]
    fn the_numbers_are_pinned() {
        let bits: Vec<u32> = fill(42, "l0.ffn.up", 0, 4).iter().map(|value| value.to_bits()).collect();
        assert_eq!(bits, PINNED);
    }

    #[test]
    fn moments_are_those_asked_for() {
        let count = 200_000;
        let values = fill(3, "x", 0, count);
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count as f64;
        let power = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / count as f64;
        assert!(mean.abs() < 2e-3, "mean {mean}");
        assert!((power.sqrt() - 0.125).abs() < 1e-3, "deviation {}", power.sqrt());
        assert!(values.iter().all(|v| v.abs() < 3.5 * 0.125));
        let neighbours = values.windows(2).map(|w| f64::from(w[0] * w[1])).sum::<f64>() / count as f64;
        assert!(neighbours.abs() < 2e-4, "correlation of neighbours {neighbours}");
    }

    #[test]
    fn vectors_are_told_apart_by_name() {
        let of = |name| Distribution::of(WeightRole::Vector, name, 32);
        assert_eq!(of("l2.ffn.expert_bias"), Distribution::BIAS);
        assert_eq!(of("model.layers.2.feed_forward.expert_bias.weight"), Distribution::BIAS);
        assert_eq!(of("l2.ffn.norm"), Distribution::NORM);
        assert_eq!(Distribution::of(WeightRole::Router, "l2.ffn.gate", 64).deviation, 0.125);
    }

    const PINNED: [u32; 4] = [1_028_589_762, 3_179_526_033, 3_182_605_481, 3_171_549_792];
}
