//! Text → graph → text is the identity, whatever the graph.

use lfm_graphs::testing::{Tiny, random_graph, tiny_graph};
use lfm_graphs::weights::Format;
use lfm_graphs::{Graph, verify};
use proptest::prelude::*;

fn round_trip(graph: &Graph) {
    let text = graph.text();
    let parsed = Graph::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(parsed.text(), text);
    assert_eq!(parsed, *graph);
    assert_eq!(verify(&parsed), verify(graph));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn random_graphs(seed: u64) {
        round_trip(&random_graph(seed));
    }

    #[test]
    fn tiny_models_in_any_format(seed: u64, formats in prop::collection::vec(0usize..5, 1..8)) {
        let mut next = formats.into_iter().cycle();
        let graph = tiny_graph(&Tiny::random(seed)).with_storage(|graph, id| {
            let matrix = (2..=3).contains(&graph.weights()[id].ty.rank());
            if matrix { Format::ALL[next.next().unwrap_or(0)] } else { Format::F32 }
        });
        prop_assert_eq!(verify(&graph), []);
        round_trip(&graph);
    }

    /// A text with a piece missing, doubled or replaced is refused or is the graph that it prints as.
    #[test]
    fn damaged_text_is_refused_or_means_itself(seed in 0u64..50, from: prop::sample::Index, len in 0usize..30, what: u8) {
        let text = random_graph(seed).text();
        let from = from.index(text.len());
        let to = (from + len).min(text.len());
        let middle = match what % 3 {
            0 => String::new(),
            1 => text[from..to].repeat(2),
            _ => "9".repeat(to - from),
        };
        let damaged = format!("{}{middle}{}", &text[..from], &text[to..]);
        if let Ok(graph) = Graph::parse(&damaged) {
            let errors = verify(&graph);
            let annotated = graph.annotated(&errors);
            let again = Graph::parse(&annotated).unwrap_or_else(|error| panic!("{error}\n{annotated}"));
            prop_assert_eq!(again.text(), graph.text());
            prop_assert_eq!(verify(&again), errors);
        }
    }
}
