//! Candidates and the filters over them, without allocation.

use std::cmp::Ordering;

/// A token that may be drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) id: u32,
    /// Penalised logit, finite.
    pub(super) logit: f32,
    /// e^((logit - the largest logit) / temperature), not normalised.
    pub(super) weight: f32,
}

/// Larger logit first, lower id first among equal ones: a total order, as ids differ.
pub(super) fn by_rank(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Keeps the k best, in rank order.
pub(super) fn top_k(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, by_rank);
        candidates.truncate(k);
    }
    candidates.sort_unstable_by(by_rank);
}

/// Keeps the shortest rank-ordered prefix whose share of the weight is at least `p`: a token stays
/// when what is before it falls short of `p`. The best one always stays.
///
/// Ranks only as many candidates as it needs to look at, in growing runs: sorting a vocabulary
/// takes milliseconds.
pub(super) fn top_p(candidates: &mut Vec<Candidate>, p: f32) {
    let needed = f64::from(p) * total(candidates);
    let (mut kept, mut before, mut run) = (0, 0.0, 64);
    let mut rest = candidates.as_mut_slice();
    'ranking: while !rest.is_empty() {
        if run < rest.len() {
            rest.select_nth_unstable_by(run, by_rank);
        }
        let (ranked, after) = rest.split_at_mut(run.min(rest.len()));
        ranked.sort_unstable_by(by_rank);
        for candidate in ranked {
            if before >= needed {
                break 'ranking;
            }
            before += f64::from(candidate.weight);
            kept += 1;
        }
        rest = after;
        run *= 8;
    }
    candidates.truncate(kept.max(1));
}

/// Keeps candidates with at least `p` times the best weight, which is 1.
pub(super) fn min_p(candidates: &mut Vec<Candidate>, p: f32) {
    candidates.retain(|candidate| candidate.weight >= p);
}

/// The sum of the weights in f64, in the order in which they stand.
pub(super) fn total(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|candidate| f64::from(candidate.weight)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(candidates: &[Candidate]) -> Vec<u32> {
        candidates.iter().map(|candidate| candidate.id).collect()
    }

    fn of(weights: &[f32]) -> Vec<Candidate> {
        (0..).zip(weights).map(|(id, &weight)| Candidate { id, logit: weight, weight }).collect()
    }

    #[test]
    fn top_k_is_ranked_and_prefers_low_ids() {
        let mut some = of(&[0.5, 1.0, 0.5, 0.25, 1.0]);
        top_k(&mut some, 3);
        assert_eq!(ids(&some), [1, 4, 0]);
        let mut all = of(&[0.5, 1.0]);
        top_k(&mut all, 9);
        assert_eq!(ids(&all), [1, 0]);
    }

    #[test]
    fn top_p_is_the_shortest_sufficient_prefix() {
        // Shares 0.5, 0.25, 0.125, 0.125.
        for (p, kept) in [(1e-9, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (1.0, 4)] {
            let mut candidates = of(&[1.0, 0.5, 0.25, 0.25]);
            top_p(&mut candidates, p);
            assert_eq!(candidates.len(), kept, "{p}");
        }
    }

    #[test]
    fn top_p_ranks_in_runs_as_in_one() {
        // 1000 weights in no order; the reference sorts them all.
        let weights: Vec<f32> = (0..1000u32).map(|i| (i * 617 % 1000) as f32 / 1000.0).collect();
        for p in [0.01, 0.1, 0.3, 0.9, 0.999] {
            let mut sorted = of(&weights);
            sorted.sort_unstable_by(by_rank);
            let needed = f64::from(p) * total(&of(&weights));
            let mut before = 0.0;
            sorted.retain(|candidate| {
                let stays = before < needed;
                before += f64::from(candidate.weight);
                stays
            });
            let mut candidates = of(&weights);
            top_p(&mut candidates, p);
            assert_eq!(candidates, sorted, "{p}");
        }
    }

    #[test]
    fn min_p_is_relative_to_the_best() {
        let mut candidates = of(&[1.0, 0.5, 0.05, 0.1]);
        min_p(&mut candidates, 0.1);
        assert_eq!(ids(&candidates), [0, 1, 3]);
    }
}
