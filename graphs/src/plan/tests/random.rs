//! Random graphs: every plan is proven twice, by the verifier and by comparing all pairs of buffers.

use proptest::prelude::*;

use super::*;
use crate::id::Id;

/// Who reads and writes which bytes, worked out from the graph without the planner's code.
fn brute_force(graph: &Graph, plan: &Plan) {
    let places = Places::new(graph, plan).unwrap();
    let tail = graph.tail();
    let end = graph.nodes().len() - 1;
    // A value's first and last use, following reshapes by recursion.
    fn last_use(graph: &Graph, value: Value, end: usize) -> usize {
        let mut last = if graph.outputs().contains(&value) { end } else { 0 };
        for (id, node) in graph.nodes().iter().filter(|(_, node)| node.args.contains(&value)) {
            last = last.max(match node.op {
                Op::Reshape { .. } => last_use(graph, Value::Node(id, 0), end).max(id.index()),
                Op::LastRow => end,
                _ => id.index(),
            });
        }
        last
    }
    let mut alive = Vec::new();
    for (id, node) in graph.nodes().iter() {
        for out in 0..node.out.len() {
            let value = Value::Node(id, out as u8);
            let next = graph.states().values().any(|s| s.next == value);
            assert_eq!(places.rows(value).is_none(), next);
            let Some(place) = places.rows(value) else { continue };
            let rows = if tail.contains(&id) { plan.head_rows } else { plan.chunk };
            let sizes = node.out[out].at(rows, 0);
            let elements =
                sizes.iter().product::<usize>() * if tail.contains(&id) { rows as usize } else { 1 };
            assert!(place.bytes >= elements * 4);
            if !matches!(node.op, Op::Reshape { .. }) {
                alive.push((id.index(), last_use(graph, value, end).max(id.index()), place));
            }
        }
        if let Some(place) = places.scratch(id) {
            alive.push((id.index(), id.index(), place));
        }
    }
    for value in graph.readers().keys() {
        let quantised = |w: &Value| match w {
            Value::Weight(id) => !matches!(graph.weights()[*id].storage, Format::F32 | Format::F16),
            _ => false,
        };
        let steps: Vec<usize> = graph
            .nodes()
            .iter()
            .filter(|(_, n)| n.args[0] == *value && n.args[1..].iter().any(quantised))
            .filter(|(_, n)| !matches!(n.op, Op::Select))
            .map(|(id, _)| id.index())
            .collect();
        assert_eq!(places.panels(*value).is_some(), !steps.is_empty());
        if let Some(place) = places.panels(*value) {
            alive.push((steps[0], steps[steps.len() - 1], place));
        }
    }
    assert_eq!(alive.len(), plan.buffers.len());
    for (i, (first, last, a)) in alive.iter().enumerate() {
        assert!((a.offset + a.bytes) as u64 <= plan.memory.arena && a.offset % 64 == 0 && a.bytes % 64 == 0);
        for (from, to, b) in &alive[..i] {
            let together = first <= to && from <= last;
            let apart = a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset;
            assert!(!together || apart, "{a:?} and {b:?}");
        }
    }
    let live = (0..=end).map(|step| {
        alive
            .iter()
            .filter(|(first, last, _)| (*first..=*last).contains(&step))
            .map(|(_, _, p)| p.bytes as u64)
            .sum()
    });
    assert_eq!(plan.memory.live, live.max().unwrap_or(0u64));
    assert!(plan.memory.live <= plan.memory.arena);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_sound(seed in any::<u64>(), chunk in 1u32..600, context in 1u32..5000) {
        let graph = random(seed);
        let plan = plan(&graph, limits(chunk, context)).unwrap();
        prop_assert_eq!(verify_plan(&graph, &plan), []);
        brute_force(&graph, &plan);
        prop_assert_eq!(Plan::parse(&plan.text()).unwrap(), plan);
    }
}
