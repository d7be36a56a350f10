//! The sampler: settings, buffers and the random state of one generation.

use super::filter::{Candidate, min_p, top_k, top_p, total};
use super::{Rng, SampleError, Settings};

/// Chooses tokens.
///
/// Built for a vocabulary; afterwards choosing a token allocates nothing.
#[derive(Debug, Clone)]
pub struct Sampler {
    settings: Settings,
    rng: Rng,
    /// Capacity: the vocabulary.
    candidates: Vec<Candidate>,
    /// One bit a token: whether it is in the history.
    seen: Vec<u64>,
    vocab: usize,
}

impl Sampler {
    /// A sampler for a vocabulary of `vocab` tokens.
    pub fn new(settings: Settings, vocab: usize) -> Result<Sampler, SampleError> {
        settings.check()?;
        Ok(Sampler {
            rng: Rng::new(settings.seed),
            settings,
            candidates: Vec::with_capacity(vocab),
            seen: vec![0; vocab.div_ceil(64)],
            vocab,
        })
    }

    /// What the sampler was built with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Starts over with the seed's first draw.
    pub fn reset(&mut self) {
        self.rng = Rng::new(self.settings.seed);
    }

    /// The next token.
    ///
    /// `logits`: `[vocab]`, -inf masks a token. `history`: prompt and generated ids, for the
    /// repetition penalty; ids outside of the vocabulary are ignored.
    pub fn sample(&mut self, logits: &[f32], history: &[u32]) -> Result<u32, SampleError> {
        if logits.len() != self.vocab {
            return Err(SampleError::Length { found: logits.len(), expected: self.vocab });
        }
        self.mark(history);
        if self.settings.temperature == 0.0 {
            return self.greedy(logits);
        }
        self.fill(logits)?;
        self.filter();
        Ok(self.draw())
    }

    /// Sets the bits of the history.
    fn mark(&mut self, history: &[u32]) {
        if self.settings.repetition_penalty == 1.0 {
            return;
        }
        self.seen.fill(0);
        for &id in history {
            if (id as usize) < self.vocab
                && let Some(word) = self.seen.get_mut(id as usize / 64)
            {
                *word |= 1 << (id % 64);
            }
        }
    }

    /// The logit after the repetition penalty; an error when it is no number.
    fn penalised(&self, id: u32, logit: f32) -> Result<f32, SampleError> {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(SampleError::NotANumber { id, value: logit });
        }
        let penalty = self.settings.repetition_penalty;
        let word = self.seen.get(id as usize / 64).copied().unwrap_or(0);
        if penalty == 1.0 || word >> (id % 64) & 1 == 0 {
            return Ok(logit);
        }
        if logit == f32::NEG_INFINITY {
            return Ok(logit);
        }
        // Only -inf masks: what overflows stays a number.
        let logit = if logit > 0.0 { logit / penalty } else { logit * penalty };
        Ok(logit.clamp(f32::MIN, f32::MAX))
    }

    fn greedy(&self, logits: &[f32]) -> Result<u32, SampleError> {
        let mut best = None;
        for (id, &logit) in (0u32..).zip(logits) {
            let logit = self.penalised(id, logit)?;
            if logit > best.map_or(f32::NEG_INFINITY, |(_, most)| most) {
                best = Some((id, logit));
            }
        }
        best.map(|(id, _)| id).ok_or(SampleError::NothingLeft)
    }

    /// Fills the candidates with all tokens that are not masked.
    fn fill(&mut self, logits: &[f32]) -> Result<(), SampleError> {
        self.candidates.clear();
        for (id, &logit) in (0u32..).zip(logits) {
            let logit = self.penalised(id, logit)?;
            if logit > f32::NEG_INFINITY {
                self.candidates.push(Candidate { id, logit, weight: 0.0 });
            }
        }
        if self.candidates.is_empty() {
            return Err(SampleError::NothingLeft);
        }
        Ok(())
    }

    /// Weighs the candidates and drops those that the settings exclude.
    fn filter(&mut self) {
        let Settings { temperature, top_k: k, top_p: p, min_p: share, .. } = self.settings;
        if k > 0 {
            top_k(&mut self.candidates, k);
        }
        let most =
            self.candidates.iter().fold(f32::NEG_INFINITY, |most, candidate| most.max(candidate.logit));
        for candidate in &mut self.candidates {
            // The difference first: a quotient of its own could overflow.
            candidate.weight = exp((candidate.logit - most) / temperature);
        }
        if p < 1.0 {
            top_p(&mut self.candidates, p);
        }
        if share > 0.0 {
            min_p(&mut self.candidates, share);
        }
    }

    /// One candidate, in proportion to its weight.
    fn draw(&mut self) -> u32 {
        let mut left = self.rng.next_f64() * total(&self.candidates);
        let mut last = 0;
        for candidate in self.candidates.iter().filter(|candidate| candidate.weight > 0.0) {
            last = candidate.id;
            left -= f64::from(candidate.weight);
            if left < 0.0 {
                break;
            }
        }
        last
    }
}

/// e^x for x <= 0: the polynomial of the CPU kernels, a fixed sequence of rounded operations.
fn exp(x: f32) -> f32 {
    const LOWEST: f32 = -87.0;
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    if x < LOWEST {
        return 0.0;
    }
    let t = x.mul_add(std::f32::consts::LOG2_E, MAGIC);
    let n = t - MAGIC;
    let r = n.mul_add(-355.0 / 512.0, x); // 9 bits of ln 2: exact
    let r = n.mul_add(2.121_944_4e-4, r);
    let q = f32::from_bits(0x3ab5_11a8);
    let q = q.mul_add(r, f32::from_bits(0x3c09_1d36));
    let q = q.mul_add(r, f32::from_bits(0x3d2a_ac7a));
    let q = q.mul_add(r, f32::from_bits(0x3e2a_aa48));
    let q = q.mul_add(r, f32::from_bits(0x3eff_fffe));
    let q = q.mul_add(r, 1.0);
    let q = q.mul_add(r, 1.0);
    f32::from_bits(q.to_bits().wrapping_add(t.to_bits() << 23))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sampler(settings: Settings, vocab: usize) -> Sampler {
        Sampler::new(settings, vocab).unwrap()
    }

    /// How often each token is drawn in `n` draws.
    fn histogram(settings: Settings, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = sampler(settings, logits.len());
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(logits, &[]).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_lower_id_of_equal_logits() {
        let mut greedy = sampler(Settings::greedy(), 4);
        assert_eq!(greedy.sample(&[0.0, 2.0, 2.0, -1.0], &[]), Ok(1));
        assert_eq!(greedy.sample(&[f32::NEG_INFINITY, -5.0, -9.0, -5.0], &[]), Ok(1));
    }

    #[test]
    fn the_penalty_divides_positive_and_multiplies_negative_logits() {
        let settings = Settings { repetition_penalty: 2.0, ..Settings::greedy() };
        let mut greedy = sampler(settings, 3);
        assert_eq!(greedy.sample(&[3.0, 2.0, 0.0], &[]), Ok(0));
        assert_eq!(greedy.sample(&[3.0, 2.0, 0.0], &[0, 0, 9]), Ok(1));
        assert_eq!(greedy.sample(&[-1.0, -1.5, -1.75], &[0]), Ok(1));
        assert_eq!(greedy.sample(&[-1.0, -1.5, -3.0], &[0, 1]), Ok(0));
    }

    #[test]
    fn draws_follow_the_softmax() {
        let logits = [0.0f32, 1.0, 2.0, -1.0];
        for temperature in [0.5f32, 1.0, 2.0] {
            let n = 40_000;
            let counts = histogram(Settings { temperature, ..Settings::default() }, &logits, n);
            let weights: Vec<f64> = logits.iter().map(|&l| f64::from(l / temperature).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(&weights) {
                let (found, expected) = (*count as f64 / n as f64, weight / sum);
                assert!((found - expected).abs() < 0.01, "{found} {expected}");
            }
        }
    }

    #[test]
    fn filters_bound_what_is_drawn() {
        // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625, in another order.
        let logits = [0.125f32, 0.5, 0.0625, 0.25, 0.0625].map(f32::ln);
        let drawn = |settings: Settings| -> Vec<usize> {
            let counts = histogram(settings, &logits, 4000);
            (0..counts.len()).filter(|&id| counts[id] > 0).collect()
        };
        let neutral = Settings::default;
        assert_eq!(drawn(neutral()), [0, 1, 2, 3, 4]);
        assert_eq!(drawn(Settings { top_k: 2, ..neutral() }), [1, 3]);
        assert_eq!(drawn(Settings { top_k: 4, ..neutral() }), [0, 1, 2, 3]);
        assert_eq!(drawn(Settings { top_p: 0.7, ..neutral() }), [1, 3]);
        assert_eq!(drawn(Settings { top_p: 0.8, ..neutral() }), [0, 1, 3]);
        assert_eq!(drawn(Settings { min_p: 0.2, ..neutral() }), [0, 1, 3]);
        assert_eq!(drawn(Settings { min_p: 1.0, ..neutral() }), [1]);
        // top-p of what top-k left: 2/3 and 1/3.
        assert_eq!(drawn(Settings { top_k: 2, top_p: 0.6, ..neutral() }), [1]);
    }

    #[test]
    fn a_seed_is_a_sequence() {
        let logits: Vec<f32> = (0..100u8).map(|i| f32::from(i % 7)).collect();
        let run = |seed: u64| -> Vec<u32> {
            let mut sampler = sampler(Settings { seed, ..Settings::default() }, 100);
            (0..32).map(|_| sampler.sample(&logits, &[]).unwrap()).collect()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
        // Pinned: these ids may not depend on the machine or the build.
        assert_eq!(run(42)[..8], PINNED);
        let mut again = sampler(Settings { seed: 42, ..Settings::default() }, 100);
        let first = again.sample(&logits, &[]);
        again.reset();
        assert_eq!(again.sample(&logits, &[]), first);
    }

    const PINNED: [u32; 8] = [12, 40, 69, 90, 97, 76, 74, 83];

    #[test]
    fn bad_logits_are_errors() {
        for settings in [Settings::default(), Settings::greedy()] {
            let mut sampler = sampler(settings, 2);
            assert_eq!(sampler.sample(&[0.0], &[]), Err(SampleError::Length { found: 1, expected: 2 }));
            assert!(matches!(
                sampler.sample(&[0.0, f32::NAN], &[]),
                Err(SampleError::NotANumber { id: 1, .. })
            ));
            assert!(matches!(
                sampler.sample(&[f32::INFINITY, 0.0], &[]),
                Err(SampleError::NotANumber { id: 0, .. })
            ));
            assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 2], &[]), Err(SampleError::NothingLeft));
        }
        assert!(Sampler::new(Settings { top_p: 2.0, ..Settings::default() }, 2).is_err());
    }

    #[test]
    fn exp_is_close() {
        for i in 0..=87_000 {
            let x = -(i as f32) / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= exact * 2e-7, "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }

    proptest! {
        #[test]
        fn any_finite_logits_give_a_token_that_is_not_masked(
            logits in proptest::collection::vec(
                prop_oneof![any::<f32>().prop_filter("finite", |x| x.is_finite()),
                            Just(f32::NEG_INFINITY), -5f32..5f32], 1..60),
            temperature in prop_oneof![Just(0f32), 1e-30f32..1e30],
            top_k in 0usize..70,
            top_p in 1e-6f32..=1.0,
            min_p in 0f32..=1.0,
            repetition_penalty in 1e-3f32..1e3,
            seed: u64,
            history in proptest::collection::vec(0u32..80, 0..20),
        ) {
            let settings =
                Settings { temperature, top_k, top_p, min_p, repetition_penalty, seed };
            let mut sampler = Sampler::new(settings, logits.len()).unwrap();
            match sampler.sample(&logits, &history) {
                Ok(id) => prop_assert!(logits[id as usize] > f32::NEG_INFINITY),
                Err(SampleError::NothingLeft) => {}
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }
}
