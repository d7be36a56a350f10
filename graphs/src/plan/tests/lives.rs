//! How long buffers live and how large they are, case by case.

use super::*;
use crate::testing::Mixer;

fn buffer<'a>(plan: &'a Plan, kind: BufferKind, name: &str) -> &'a Buffer {
    plan.buffers
        .iter()
        .find(|b| b.kind == kind && b.name == name)
        .unwrap_or_else(|| panic!("{kind:?} of {name}"))
}

fn step(graph: &Graph, name: &str) -> u32 {
    use crate::id::Id;
    graph.node_named(name).unwrap().index() as u32
}

#[test]
fn what_the_last_row_is_taken_from_lives_to_the_end() {
    let graph = tiny();
    let plan = plan(&graph, limits(32, 256)).unwrap();
    let end = graph.nodes().len() as u32 - 1;
    let read = buffer(&plan, BufferKind::Rows, "l2.ffn.moe");
    assert_eq!((read.first, read.last), (step(&graph, "l2.ffn.moe"), end));
    assert_eq!(buffer(&plan, BufferKind::Rows, "head").last, end);
    assert_eq!(buffer(&plan, BufferKind::Rows, "last").last, step(&graph, "embedding_norm"));
}

#[test]
fn a_reshape_is_its_argument() {
    let graph = tiny();
    let plan = plan(&graph, limits(32, 256)).unwrap();
    assert!(plan.buffers.iter().all(|b| !b.name.ends_with(".heads")));
    let q = buffer(&plan, BufferKind::Rows, "l1.attn.q");
    assert_eq!(q.last, step(&graph, "l1.attn.q_layernorm"));
    let v = buffer(&plan, BufferKind::Rows, "l1.attn.v");
    assert_eq!(v.last, step(&graph, "l1.attn.attend"));
    let places = Places::new(&graph, &plan).unwrap();
    let value = |name: &str| Value::Node(graph.node_named(name).unwrap(), 0);
    let place = places.rows(value("l1.attn.q.heads")).unwrap();
    assert_eq!(places.rows(value("l1.attn.q")), Some(place));
    assert_eq!(place.range(), q.offset as usize..(q.offset + q.bytes) as usize);
    assert!(
        places.panels(value("l1.operator_norm")).is_some() && places.panels(value("l1.attn.q")).is_none()
    );
    let moe = graph.node_named("l2.ffn.moe").unwrap();
    assert!(places.scratch(moe).is_some());
    assert_eq!(
        places.rows(Value::Node(graph.node_named("l1.attn.attend").unwrap(), 1)),
        None,
        "it lies in the states"
    );
}

#[test]
fn panels_live_from_the_first_quantised_reader_to_the_last() {
    let graph = tiny();
    let plan = plan(&graph, limits(32, 256)).unwrap();
    let norm = buffer(&plan, BufferKind::Panels, "l1.operator_norm");
    assert_eq!((norm.first, norm.last), (step(&graph, "l1.attn.q"), step(&graph, "l1.attn.v")));
    // 32 tokens, one block of 256, 8 groups of 12 words.
    assert_eq!(norm.bytes, 32 * 8 * 12 * 4);
    let head = buffer(&plan, BufferKind::Panels, "embedding_norm");
    assert_eq!(
        (head.first, head.last, head.bytes),
        (step(&graph, "head"), step(&graph, "head"), 16 * 8 * 12 * 4)
    );

    let floats = stored(&Tiny::moe(), Format::F16, Format::F16, Format::F32);
    let plan = super::plan(&floats, limits(32, 256)).unwrap();
    assert!(plan.buffers.iter().all(|b| b.kind != BufferKind::Panels));
}

#[test]
fn sizes_are_those_of_the_chunk_and_of_the_head_rows() {
    let graph = tiny();
    for (chunk, rows) in [(1, 1), (8, 8), (100, 16)] {
        let plan = plan(&graph, limits(chunk, 256)).unwrap();
        assert_eq!(plan.head_rows, rows);
        assert_eq!(buffer(&plan, BufferKind::Rows, "l0.conv.in").bytes, chunk as u64 * 3 * 32 * 4);
        assert_eq!(
            buffer(&plan, BufferKind::Rows, "head").bytes,
            (rows as u64 * 96 * 4).next_multiple_of(64)
        );
        let scratch = MoeScratch::new(chunk as u64, 32, 32, 4, 2, true).unwrap();
        assert_eq!(buffer(&plan, BufferKind::Scratch, "l2.ffn.moe").bytes, scratch.total);
        assert_eq!(plan.memory.states, 2 * (32 * 2 * 4) + 2 * (2 * 256 * 8 * 2));
    }
}

#[test]
fn the_arena_of_a_large_model_is_near_the_bound() {
    let layers = [Mixer::Conv, Mixer::Conv, Mixer::Attention].repeat(10);
    let graph = stored(&Tiny { layers, ..Tiny::moe() }, Format::Q6K, Format::Q4_0, Format::Q4_0);
    let plan = plan(&graph, limits(512, 4096)).unwrap();
    assert_eq!(verify_plan(&graph, &plan), []);
    assert!(plan.memory.arena <= plan.memory.live * 11 / 10, "{:?}", plan.memory);
}

#[test]
fn what_cannot_be_planned_is_named() {
    let refused = |graph: &Graph| plan(graph, limits(4, 8)).unwrap_err().to_string();
    let graph = tiny();
    let kernel = graph.clone().with_storage(|g, id| match g.weights()[id].name.as_str() {
        "l0.conv.conv" => Format::F16,
        _ => g.weights()[id].storage,
    });
    assert_eq!(refused(&kernel), "cannot plan l0.conv.gate: the kernel is stored as f16, expected f32");
    let mixed = graph.clone().with_storage(|g, id| match g.weights()[id].name.as_str() {
        "l2.ffn.experts.down" => Format::F16,
        _ => g.weights()[id].storage,
    });
    let expected = "cannot plan l2.ffn.moe: the experts are stored as q4_0, q4_0 and f16, expected all quantised or none";
    assert_eq!(refused(&mixed), expected);
    for (up, node) in [("l2.ffn.experts.up", "l2.ffn.moe"), ("l0.ffn.w3", "l0.ffn.swiglu")] {
        let mixed = graph.clone().with_storage(|g, id| {
            let weight = &g.weights()[id];
            if weight.name == up { Format::Q6K } else { weight.storage }
        });
        assert_ne!(mixed, graph, "{up}");
        let expected = "gate and up are stored as q4_0 and q6_k, expected one format for both";
        assert_eq!(refused(&mixed), format!("cannot plan {node}: {expected}"));
    }
    assert!(refused(&Graph::default()).starts_with("cannot plan: the graph breaks 1 rules, the first: V10 "));
    for (chunk, context, what, found, most) in [
        (0, 8, "chunk", 0, MAX_CHUNK),
        (MAX_CHUNK + 1, MAX_CONTEXT, "chunk", MAX_CHUNK + 1, MAX_CHUNK),
        (4, 0, "context", 0, MAX_CONTEXT),
        (4, u32::MAX, "context", u32::MAX, MAX_CONTEXT),
    ] {
        let expected = format!("cannot plan with a {what} of {found}, expected 1 to {most}");
        assert_eq!(plan(&graph, limits(chunk, context)).unwrap_err().to_string(), expected);
    }
}

#[test]
fn the_tail_stands_at_the_end() {
    let text = tiny().text();
    // The last row first, then a body node that does not need it.
    let mut lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|l| l.contains("(name: \"last\", op: LastRow")).unwrap();
    let line = "        (name: \"late\", op: Add, args: [\"embed\", \"embed\"], out: [\"f32[seq, 32]\"]),";
    lines.insert(at + 1, line);
    let graph = Graph::parse(&lines.join("\n")).unwrap();
    let expected = "cannot plan late: it follows a node after LastRow, but does not depend on it";
    assert_eq!(plan(&graph, limits(4, 8)).unwrap_err().to_string(), expected);
    let sound = tiny();
    let good = plan(&sound, limits(4, 8)).unwrap();
    assert_eq!(verify_plan(&graph, &good)[0].rule, PlanRule(1));
}
