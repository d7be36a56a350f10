//! Plans that lie. Each is caught by the rule that says so.

use proptest::prelude::*;

use super::*;
use crate::testing::Mixer;

fn rules(graph: &Graph, plan: &Plan) -> Vec<u8> {
    let mut rules: Vec<u8> = verify_plan(graph, plan).iter().map(|fault| fault.rule.0).collect();
    rules.dedup();
    rules
}

#[test]
fn each_rule_is_checked() {
    let graph = tiny();
    let good = plan(&graph, limits(32, 256)).unwrap();
    let mut failures = Vec::new();
    let mut check = |what: &str, expected: u8, change: &dyn Fn(&mut Plan)| {
        let mut bad = good.clone();
        change(&mut bad);
        let found = rules(&graph, &bad);
        if !found.contains(&expected) {
            failures.push(format!("{what}: expected P{expected:02}, found {found:?}"));
        }
    };
    check("chunk 0", 2, &|p| p.chunk = 0);
    check("chunk above the context", 2, &|p| p.chunk = p.context + 1);
    check("context", 2, &|p| p.context = u32::MAX);
    check("head rows", 2, &|p| p.head_rows = 17);
    check("a missing weight", 3, &|p| drop(p.weights.pop()));
    check("a renamed weight", 3, &|p| p.weights[1].name = "x".repeat(1 << 20));
    check("a format", 3, &|p| p.weights[1].format = Format::F16);
    check("exchanged weights", 3, &|p| p.weights.swap(2, 4));
    check("a kind", 4, &|p| p.weights[0].kind = WeightKind::Vector);
    check("rows", 4, &|p| p.weights[0].rows += 1);
    check("a stride", 4, &|p| p.weights[0].stride += 64);
    check("bytes", 4, &|p| p.weights[0].bytes -= 64);
    check("a weight's offset", 5, &|p| p.weights[1].offset += 64);
    check("overlapping weights", 5, &|p| p.weights[1].offset = 0);
    check("a missing state", 6, &|p| drop(p.states.pop()));
    check("a state's bytes", 6, &|p| p.states[0].bytes += 1);
    check("a longer context", 6, &|p| p.context *= 2);
    check("overlapping states", 7, &|p| p.states[1].offset = p.states[0].offset);
    check("a missing buffer", 8, &|p| drop(p.buffers.pop()));
    check("one buffer more", 8, &|p| p.buffers.push(p.buffers[0].clone()));
    check("a renamed buffer", 8, &|p| p.buffers[0].name = "head".into());
    check("another kind", 8, &|p| p.buffers[0].kind = BufferKind::Scratch);
    check("a shorter life", 9, &|p| p.buffers[0].last = p.buffers[0].first);
    check("a larger chunk", 10, &|p| p.chunk += 1);
    check("fewer bytes", 10, &|p| p.buffers[0].bytes -= 64);
    check("an odd offset", 11, &|p| p.buffers[0].offset += 4);
    check("past the end", 11, &|p| p.buffers[0].offset = p.memory.arena);
    check("an offset that overflows", 11, &|p| p.buffers[0].offset = u64::MAX - 63);
    check("a smaller arena", 11, &|p| p.memory.arena -= 64);
    check("an overlap", 12, &|p| p.buffers[1].offset = p.buffers[0].offset);
    check("a larger arena", 13, &|p| p.memory.arena += 64);
    check("a hole", 13, &|p| {
        p.buffers[0].offset = 1 << 50;
        p.memory.arena = (1 << 50) + p.buffers[0].bytes;
    });
    check("weights' sum", 14, &|p| p.memory.weights -= 64);
    check("states' sum", 14, &|p| p.memory.states += 64);
    check("live bytes", 14, &|p| p.memory.live -= 1);
    check("the total", 14, &|p| p.memory.total -= 1);
    check("text that is no overhead", 14, &|p| p.memory.text = p.memory.overhead + 1);
    check("a total that overflows", 14, &|p| p.memory.overhead = u64::MAX);
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn messages_name_what_and_where() {
    let graph = tiny();
    let mut bad = plan(&graph, limits(32, 256)).unwrap();
    let x = bad.buffers.iter().position(|b| b.name == "l0.operator_norm").unwrap();
    bad.buffers[x].offset = bad.buffers[0].offset;
    bad.weights[0].stride = 1;
    bad.states[0].offset = 3;
    let faults: Vec<String> = verify_plan(&graph, &bad).iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(faults.join("\n"));
}

#[test]
fn faults_are_capped() {
    let graph = tiny_graph(&Tiny { layers: vec![Mixer::Conv; 50], ..Tiny::moe() });
    let mut bad = plan(&graph, limits(32, 256)).unwrap();
    bad.buffers.iter_mut().for_each(|b| (b.first, b.offset) = (9, u64::MAX));
    assert_eq!(verify_plan(&graph, &bad).len(), MAX_FAULTS);
}

#[test]
fn a_plan_of_another_graph_is_refused() {
    let good = plan(&tiny(), limits(32, 256)).unwrap();
    let other = tiny_graph(&Tiny::dense());
    assert_ne!(verify_plan(&other, &good), []);
    assert!(matches!(Places::new(&other, &good), Err(PlanError::Mismatch { .. })));
}

#[test]
fn many_buffers_at_once_take_no_quadratic_time() {
    // 30 000 values that all live to the end: every pair would be 450 million comparisons in the verifier.
    let mut text = String::from(
        "(format: 1, model: \"wide\", inputs: [(name: \"tokens\", ty: \"i32[seq]\")], consts: [],
        weights: [(name: \"w\", ty: \"f32[4, 4]\", storage: f32, param: \"w\")], states: [], nodes: [
        (name: \"x0\", op: Select, args: [\"%w\", \"$tokens\"], out: [\"f32[seq, 4]\"]),",
    );
    let count = 30_000u32;
    let node = |i: u32, a: u32, b: u32| {
        format!("(name: \"x{i}\", op: Add, args: [\"x{a}\", \"x{b}\"], out: [\"f32[seq, 4]\"]),\n")
    };
    (1..count).for_each(|i| text.push_str(&node(i, i - 1, i - 1)));
    (1..count).for_each(|i| text.push_str(&node(count + i - 1, count + i - 2, count - 1 - i)));
    let last = 2 * count - 2;
    text.push_str(&format!("(name: \"last\", op: LastRow, args: [\"x{last}\"], out: [\"f32[1, 4]\"])],"));
    text.push_str("outputs: [\"last\"])");
    let graph = Graph::parse(&text).unwrap();
    let needs = needs::Needs::of(&graph, 4, 4).unwrap();
    assert_eq!(needs.buffers.len() as u32, last + 2);
    // Side by side: a sound plan without the planner's search.
    let mut end = 0;
    let buffers = needs.buffers.iter().map(|need| {
        end += need.bytes;
        Buffer {
            name: need.holds.name(&graph),
            kind: need.holds.kind(),
            first: need.first,
            last: need.last,
            offset: end - need.bytes,
            bytes: need.bytes,
        }
    });
    let buffers = buffers.collect();
    let live = arena::most_live(needs.buffers.iter().map(|n| (n.first, n.last, n.bytes))).unwrap();
    let (weights, bytes) = make::place_weights(&graph).unwrap();
    let memory =
        Memory { weights: bytes, states: 0, arena: end, live, overhead: 0, total: bytes + end, text: 0 };
    let mut plan = Plan { chunk: 4, context: 8, head_rows: 4, memory, weights, states: vec![], buffers };
    assert_eq!(verify_plan(&graph, &plan), []);
    plan.buffers.iter_mut().for_each(|b| b.offset = 0);
    assert_eq!(verify_plan(&graph, &plan).len(), MAX_FAULTS);
}

/// Whether any two buffers that live together overlap, or one leaves the arena, by comparing all pairs.
fn broken(plan: &Plan) -> bool {
    let end = |b: &Buffer| b.offset.checked_add(b.bytes);
    plan.buffers.iter().enumerate().any(|(i, a)| {
        let outside = end(a).is_none_or(|end| end > plan.memory.arena) || a.offset % 64 != 0;
        outside
            || plan.buffers[..i].iter().any(|b| {
                let together = a.first <= b.last && b.first <= a.last;
                together && a.offset < end(b).unwrap_or(u64::MAX) && b.offset < end(a).unwrap_or(u64::MAX)
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn moved_buffers_are_caught(seed in any::<u64>(), moves in proptest::collection::vec(
        (any::<prop::sample::Index>(), prop_oneof![0u64..200_000, any::<u64>()], any::<bool>()), 1..4)
    ) {
        let graph = random(seed);
        let mut plan = plan(&graph, limits(16, 64)).unwrap();
        for (which, to, aligned) in moves {
            let which = which.index(plan.buffers.len());
            plan.buffers[which].offset = if aligned { to / 64 * 64 } else { to };
        }
        let faults = verify_plan(&graph, &plan);
        let serious = faults.iter().any(|fault| [11, 12].contains(&fault.rule.0));
        prop_assert_eq!(serious, broken(&plan), "{:?}", faults);
    }

    #[test]
    fn changed_numbers_are_caught(seed in any::<u64>(), which in any::<prop::sample::Index>(), by in 1u64..=u64::MAX) {
        let graph = random(seed);
        let good = plan(&graph, limits(16, 64)).unwrap();
        let mut bad = good.clone();
        let mut numbers: Vec<&mut u64> = Vec::new();
        let m = &mut bad.memory;
        numbers.extend([&mut m.weights, &mut m.states, &mut m.arena, &mut m.live, &mut m.overhead, &mut m.total]);
        for w in &mut bad.weights {
            numbers.extend([&mut w.stride, &mut w.offset, &mut w.bytes]);
        }
        for s in &mut bad.states {
            numbers.extend([&mut s.offset, &mut s.bytes]);
        }
        for b in &mut bad.buffers {
            numbers.push(&mut b.bytes);
        }
        let which = which.index(numbers.len());
        *numbers[which] = numbers[which].wrapping_add(by);
        prop_assert!(!verify_plan(&graph, &bad).is_empty());
    }

    #[test]
    fn parsing_never_panics(text in "\\PC{0,200}", cut in any::<prop::sample::Index>()) {
        let _ = Plan::parse(&text);
        let good = plan(&tiny(), limits(16, 64)).unwrap().text();
        let at = cut.index(good.len());
        prop_assert!(Plan::parse(&good[..at]).is_err());
        let _ = Plan::parse(&format!("{}{text}{}", &good[..at], &good[at..]));
    }
}
