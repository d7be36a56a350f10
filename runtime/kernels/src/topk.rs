//! The router's choice: the largest scores.

/// The indices of the `chosen.len()` largest of `scores`, in ascending index; of equal scores the lower index wins.
///
/// NaN counts as smaller than everything.
///
/// # Panics
/// If more are wanted than there are, or there are more than 2^32.
pub fn top_k(scores: &[f32], chosen: &mut [u32]) {
    assert!(chosen.len() <= scores.len(), "the best {} of {}", chosen.len(), scores.len());
    let score = |i: u32| scores[i as usize];
    let above = |a: f32, b: f32| a > b || b.is_nan() && !a.is_nan();
    let mut count = 0;
    for (i, s) in (0u32..).zip(scores) {
        // `chosen[..count]` is in falling order of score; a later index goes behind its equals.
        let place = chosen[..count].iter().position(|&c| above(*s, score(c))).unwrap_or(count);
        if count < chosen.len() {
            count += 1;
        }
        if place < count {
            chosen[place..count].rotate_right(1);
            chosen[place] = i;
        }
    }
    for sorted in 1..chosen.len() {
        let place = chosen[..sorted].iter().position(|other| *other > chosen[sorted]).unwrap_or(sorted);
        chosen[place..=sorted].rotate_right(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lower_index() {
        let mut chosen = [0; 3];
        top_k(&[1.0, 2.0, 2.0, 0.5, 2.0, 2.0], &mut chosen);
        assert_eq!(chosen, [1, 2, 4]);
        top_k(&[f32::NAN, 0.0, -0.0, f32::NAN, -1.0], &mut chosen);
        assert_eq!(chosen, [1, 2, 4]);
        top_k(&[f32::NAN; 4], &mut chosen);
        assert_eq!(chosen, [0, 1, 2]);
    }

    #[test]
    fn equals_a_stable_sort() {
        let mut state = 1u32;
        for n in 1..40usize {
            let scores: Vec<f32> = (0..n)
                .map(|_| {
                    state = state.wrapping_mul(1664525).wrapping_add(1013904223);
                    (state >> 28) as f32
                })
                .collect();
            for k in 0..=n {
                let mut order: Vec<u32> = (0..n as u32).collect();
                order.sort_by(|a, b| scores[*b as usize].total_cmp(&scores[*a as usize]));
                let mut expected = order[..k].to_vec();
                expected.sort();
                let mut chosen = vec![0; k];
                top_k(&scores, &mut chosen);
                assert_eq!(chosen, expected);
            }
        }
    }
}
