//! Which expert is missed least.
//!
//! Layers run in a fixed order, again and again. If an expert is chosen in a pass with probability `p`, then from layer
//! `now` on it will be needed after
//!
//! ```text
//! wait = (layers to go to its own) + layers * (1 / p - 1)      layers, on average
//! ```
//!
//! and the expert with the longest wait goes. Where every pass uses every expert (a prompt), that is the layer that has
//! just run: the best choice for a cycle that does not fit, where least-recently-used never hits. Where a pass uses few of
//! them (one token), it is the expert that is chosen least often.
//!
//! `p` follows from the expert's share of tokens, an average over about the last [`WINDOW`] of them, and from the number of
//! tokens of the pass.

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
    /// Probability that a pass like the last one uses it.
    probability: Vec<f32>,
}

impl Policy {
    /// `shares` has each expert's share before anything is known.
    pub(super) fn new(layers: usize, shares: Vec<f32>) -> Policy {
        Policy { layers, probability: shares.clone(), share: shares }
    }

    /// A pass of `rows` tokens, `tokens` of which choose an expert.
    pub(super) fn observe(&mut self, expert: usize, tokens: usize, rows: usize) {
        let (rows_f, share) = (rows as f32, &mut self.share[expert]);
        *share += rows_f / (rows_f + WINDOW) * (tokens as f32 / rows_f - *share);
        let none = (1.0 - *share).clamp(0.0, 1.0).powi(rows as i32);
        self.probability[expert] = (1.0 - none).max(RARE);
    }

    /// Probability that a pass like the last one uses an expert.
    pub(super) fn probability(&self, expert: usize) -> f32 {
        self.probability[expert]
    }

    /// After how many layers from `now` an expert of `layer` will be needed, on average.
    pub(super) fn wait(&self, expert: usize, layer: usize, now: usize) -> f32 {
        let ahead = if layer > now { layer - now } else { self.layers + layer - now };
        ahead as f32 + self.layers as f32 * (1.0 / self.probability[expert] - 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_prompt_the_layer_that_has_just_run_goes() {
        let mut policy = Policy::new(4, vec![0.25; 8]);
        (0..8).for_each(|expert| policy.observe(expert, 128, 512));
        let wait = |layer: usize| policy.wait(2 * layer, layer, 2).round() as usize;
        assert_eq!([0, 1, 2, 3].map(wait), [2, 3, 4, 1]);
    }

    #[test]
    fn token_by_token_the_rarest_goes() {
        let mut policy = Policy::new(2, vec![0.5; 4]);
        for token in 0..100 {
            // Experts of one layer: always, every second time, every tenth time, never.
            for (expert, chosen) in [true, token % 2 == 0, token % 10 == 0, false].into_iter().enumerate() {
                policy.observe(expert, usize::from(chosen), 1);
            }
        }
        let waits = [0, 1, 2, 3].map(|expert| policy.wait(expert, 0, 1));
        assert!(waits.is_sorted() && waits[0] < 1.6 && waits[3] > 10.0, "{waits:?}");
        assert!(policy.probability(1) > 0.4 && policy.probability(1) < 0.6);
    }
}
