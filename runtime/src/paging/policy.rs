//! Which expert is missed least.
//!
//! Layers run in a fixed order, again and again. If an expert is chosen in a pass with probability `p`, then from layer
//! `now` on it will be needed after
//!
//! ```text
//! wait = (layers to go to its own) + layers * (1 / p - 1)      layers, on average
//! ```
//!
//! and the expert with the longest wait goes. Where a pass uses few experts (one token), it is the one that is chosen least
//! often. Where every pass uses every expert (a prompt), it is one of the layer that has just run: the best choice for a
//! cycle that does not fit, where least-recently-used never hits. There, all choices that keep what is needed sooner
//! miss equally often in a cycle, and the one that keeps equally many experts of every layer is taken: then
//! every layer has as much to read as the others, and all reading runs beside computing. With all of some layers kept and
//! none of others, the disk would rest in the first and the processor in the second.
//!
//! `p` follows from the expert's share of tokens, an average over about the last [`WINDOW`] of them, and from the number of
//! tokens of the pass that runs: a prompt that comes after single tokens is known for what it is from its first layer on.

/// Tokens over which an expert's share is averaged.
const WINDOW: f32 = 64.0;

/// Smallest probability that is counted with.
const RARE: f32 = 1e-4;

/// How often each expert is used. Experts are numbered through all layers.
#[derive(Debug)]
pub(super) struct Policy {
    layers: usize,
    /// Of all tokens.
    share: Vec<f32>,
    /// Tokens of the pass that runs.
    rows: usize,
}

impl Policy {
    /// `shares` has each expert's share before anything is known.
    pub(super) fn new(layers: usize, shares: Vec<f32>) -> Policy {
        Policy { layers, share: shares, rows: 1 }
    }

    /// A layer of a pass of `rows` tokens begins; [`observe`](Self::observe) says which experts they choose.
    pub(super) fn begin(&mut self, rows: usize) {
        self.rows = rows;
    }

    /// `tokens` of the pass choose an expert.
    pub(super) fn observe(&mut self, expert: usize, tokens: usize) {
        let (rows, share) = (self.rows as f32, &mut self.share[expert]);
        *share += rows / (rows + WINDOW) * (tokens as f32 / rows - *share);
    }

    /// Probability that a pass like this one uses an expert.
    pub(super) fn probability(&self, expert: usize) -> f32 {
        let none = (1.0 - self.share[expert]).clamp(0.0, 1.0).powi(self.rows as i32);
        (1.0 - none).max(RARE)
    }

    /// After how many layers from `now` an expert of `layer` will be needed, on average.
    pub(super) fn wait(&self, expert: usize, layer: usize, now: usize) -> f32 {
        let ahead = if layer > now { layer - now } else { self.layers + layer - now };
        ahead as f32 + self.layers as f32 * (1.0 / self.probability(expert) - 1.0)
    }

    /// The order in which experts go in a prompt, the greatest first: those that the next pass is not expected to use, then
    /// those of the layer that has most experts in memory, `held`.
    pub(super) fn rank(&self, wait: f32, held: u32) -> (bool, f32, f32) {
        let rare = wait > 2.0 * self.layers as f32;
        (rare, if rare { wait } else { held as f32 }, wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_prompt_the_layer_that_has_just_run_goes() {
        let mut policy = Policy::new(4, vec![0.25; 8]);
        policy.begin(512);
        (0..8).for_each(|expert| policy.observe(expert, 128));
        let wait = |layer: usize| policy.wait(2 * layer, layer, 2).round() as usize;
        assert_eq!([0, 1, 2, 3].map(wait), [2, 3, 4, 1]);
    }

    #[test]
    fn in_a_prompt_all_layers_keep_equally_many() {
        let mut policy = Policy::new(4, vec![0.25; 16]);
        policy.begin(512);
        (0..15).for_each(|expert| policy.observe(expert, 128));
        // Nobody has chosen the last one for long.
        (0..9).for_each(|_| policy.observe(15, 0));
        let rank = |expert: usize, held| policy.rank(policy.wait(expert, expert / 4, 1), held);
        assert!(rank(0, 4) > rank(4, 3), "the layer that holds most");
        assert!(rank(4, 3) > rank(0, 3) && rank(0, 3) > rank(8, 3), "then the longest wait");
        assert!(rank(15, 1) > rank(0, 4), "what is hardly used goes before");
    }

    #[test]
    fn token_by_token_the_rarest_goes() {
        let mut policy = Policy::new(2, vec![0.5; 4]);
        for token in 0..100 {
            // Experts of one layer: always, every second time, every tenth time, never.
            for (expert, chosen) in [true, token % 2 == 0, token % 10 == 0, false].into_iter().enumerate() {
                policy.observe(expert, usize::from(chosen));
            }
        }
        let waits = [0, 1, 2, 3].map(|expert| policy.wait(expert, 0, 1));
        assert!(waits.is_sorted() && waits[0] < 1.6 && waits[3] > 10.0, "{waits:?}");
        assert!(policy.probability(1) > 0.4 && policy.probability(1) < 0.6);
        policy.begin(64);
        assert!(policy.probability(1) > 0.99, "a prompt comes");
    }
}
