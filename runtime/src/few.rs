//! Sorting a few things: a fraction of the code of the standard library's sorts, which a lean build would carry for
//! every type that is sorted.

/// Sorts by insertion, equal things in the order in which they stand.
pub(crate) fn sort<T>(things: &mut [T], before: impl Fn(&T, &T) -> bool) {
    for sorted in 1..things.len() {
        let mut at = sorted;
        while at > 0 && before(&things[at], &things[at - 1]) {
            things.swap(at, at - 1);
            at -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sorts_stably() {
        let mut pairs = [(3, 'a'), (1, 'b'), (3, 'c'), (2, 'd'), (1, 'e')];
        super::sort(&mut pairs, |a, b| a.0 < b.0);
        assert_eq!(pairs, [(1, 'b'), (1, 'e'), (2, 'd'), (3, 'a'), (3, 'c')]);
        super::sort::<u8>(&mut [], |a, b| a < b);
    }
}
