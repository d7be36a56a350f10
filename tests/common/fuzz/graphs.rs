//! Bodies of the graph language: graphs, plans and device profiles as text.

use std::sync::OnceLock;

use lfm_graphs::interp::{Interp, States};
use lfm_graphs::plan::{Limits, Places, Plan, plan as make_plan, verify_plan};
use lfm_graphs::target::Target;
use lfm_graphs::testing::{Tiny, random_weights, tiny_graph};
use lfm_graphs::{Graph, verify as rules, verify_executable};

use super::{Room, utf8};

/// A line of text becomes a node with its names, arguments and types.
const PARSED: Room = Room { per_byte: 60, on_top: 1 << 20 };

/// What the interpreter takes: elements of all weights, and bytes of all buffers of a plan.
const WEIGHTS: u64 = 1 << 14;
const ARENA: u64 = 1 << 18;

/// A graph: parsed, verified, printed; planned and interpreted where it is sound and small.
pub(super) fn graph(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    let Ok(graph) = PARSED.hold(bytes.len(), || Graph::parse(text)) else { return };
    let printed = graph.text();
    let again = Graph::parse(&printed).unwrap_or_else(|e| panic!("{e} in {printed}"));
    assert_eq!(again.text(), printed);
    let errors = rules(&graph);
    if !errors.is_empty() {
        graph.annotated(&errors);
        return;
    }
    let executable = verify_executable(&graph).is_empty();
    let limits = Limits { chunk: 4, context: 16, overhead: 0, ram: Some(1 << 30) };
    let Ok(plan) = make_plan(&graph, limits) else { return };
    assert!(executable, "a plan of a graph that cannot be executed");
    let faults = verify_plan(&graph, &plan);
    assert!(faults.is_empty(), "{faults:?}");
    assert_eq!(Plan::parse(&plan.text()).unwrap_or_else(|e| panic!("{e}")), plan);
    Places::new(&graph, &plan).unwrap();
    if graph.parameters() > WEIGHTS || plan.memory.arena > ARENA || plan.memory.states > ARENA {
        return;
    }
    let weights = random_weights(&graph, 1);
    let interp = Interp::new(&graph, &|name| weights.get(name).cloned()).unwrap();
    let mut states = States::new(&graph);
    // Ids beyond the vocabulary are an error.
    let _ = interp.run_tokens(&[0, 1, 2], &mut states);
}

/// A plan: parsed, printed, and compared with a graph.
pub(super) fn plan(bytes: &[u8]) {
    static GRAPH: OnceLock<Graph> = OnceLock::new();
    let graph = GRAPH.get_or_init(|| tiny_graph(&Tiny::moe()));
    let Some(text) = utf8(bytes) else { return };
    let Ok(plan) = PARSED.hold(bytes.len(), || Plan::parse(text)) else { return };
    assert_eq!(Plan::parse(&plan.text()).unwrap_or_else(|e| panic!("{e}")), plan);
    if PARSED.hold(bytes.len(), || verify_plan(graph, &plan)).is_empty() {
        Places::new(graph, &plan).unwrap();
    }
}

/// A device profile.
pub(super) fn target(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    let Ok(target) = PARSED.hold(bytes.len(), || Target::parse(text)) else { return };
    assert_eq!(Target::parse(&target.text()).unwrap_or_else(|e| panic!("{e}")), target);
}
