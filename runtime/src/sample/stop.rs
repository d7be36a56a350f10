//! When a generation ends by itself.

/// The ids that end a generation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stop {
    /// Ascending, few.
    ids: Vec<u32>,
}

impl Stop {
    /// Ends at any of these ids.
    pub fn at(ids: &[u32]) -> Stop {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        Stop { ids }
    }

    /// Never ends by itself.
    pub fn never() -> Stop {
        Stop::default()
    }

    /// Whether the id ends the generation.
    pub fn ends(&self, id: u32) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    /// The ids, ascending.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_the_ids_ends() {
        let stop = Stop::at(&[7, 2, 7]);
        assert_eq!(stop.ids(), [2, 7]);
        assert!(stop.ends(2) && stop.ends(7) && !stop.ends(3));
        assert!(!Stop::never().ends(0));
    }
}
