//! Memory of runs with paged experts.

use super::memory::{OVERHEAD, PAGE, Paging};
use super::*;

/// What of the weights region is neither in a page of hot weights nor in a matrix of an expert.
fn uncovered(plan: &Plan, paging: &Paging) -> Vec<String> {
    let expert = |index: usize| paging.layers.iter().any(|layer| layer.matrices.contains(&index));
    let hot = |slot: &WeightSlot| {
        let within = |pages: &std::ops::Range<u64>| {
            pages.start <= slot.offset && slot.offset + slot.bytes <= pages.end
        };
        paging.hot_pages.iter().any(within)
    };
    let slots = plan.weights.iter().enumerate();
    slots.filter(|(index, slot)| !expert(*index) && !hot(slot)).map(|(_, slot)| slot.name.clone()).collect()
}

#[test]
fn every_weight_is_hot_or_an_expert() {
    for seed in 0..50 {
        let graph = random(seed);
        let plan = plan(&graph, limits(8, 64)).unwrap();
        let paging = Paging::of(&graph, &plan);
        assert_eq!(uncovered(&plan, &paging), Vec::<String>::new(), "seed {seed}");
        let bytes: u64 = plan.weights.iter().map(|slot| slot.bytes).sum();
        assert_eq!(paging.hot + paging.experts, bytes, "seed {seed}");
        assert!(paging.hot_pages.windows(2).all(|pages| pages[0].end < pages[1].start), "seed {seed}");
        assert!(paging.hot_pages.iter().all(|pages| pages.start % PAGE == 0 && pages.end % PAGE == 0));
        let moe = graph.nodes().values().filter(|node| matches!(node.op, Op::Moe { .. })).count();
        assert_eq!(paging.layers.len(), moe, "seed {seed}");
    }
}

#[test]
fn a_slot_holds_any_expert_from_the_page_in_which_it_starts() {
    for seed in 0..50 {
        let graph = random(seed);
        let plan = plan(&graph, limits(8, 64)).unwrap();
        for layer in Paging::of(&graph, &plan).layers {
            for (index, pages) in layer.matrices.into_iter().zip(layer.pages) {
                let slot = &plan.weights[index];
                for expert in 0..u64::from(layer.count) {
                    let start = slot.offset + expert * slot.stride;
                    assert!(start % PAGE + slot.stride <= pages, "seed {seed}, {}", slot.name);
                }
            }
        }
    }
}

#[test]
fn the_least_memory_has_room_for_the_experts_of_one_token() {
    let graph = tiny();
    let plan = plan(&graph, limits(32, 256)).unwrap();
    let paging = Paging::of(&graph, &plan);
    let least = paging.least(&plan.memory);
    let Op::Moe { top_k, .. } = graph.nodes()[paging.layers[0].node].op else { panic!("no experts") };
    assert_eq!(paging.kinds().iter().map(|layer| layer.slot() * u64::from(top_k)).sum::<u64>(), least.cache);
    assert_eq!(least.overhead, plan.memory.overhead + OVERHEAD);
    assert_eq!(
        least.total,
        least.hot + least.cache + plan.memory.states + plan.memory.arena + least.overhead
    );
}

#[test]
fn without_experts_all_is_hot() {
    let graph = stored(&Tiny::dense(), Format::Q6K, Format::Q4_0, Format::Q4_0);
    let plan = plan(&graph, limits(32, 256)).unwrap();
    let paging = Paging::of(&graph, &plan);
    assert_eq!((paging.experts, paging.layers.len(), paging.least(&plan.memory).cache), (0, 0, 0));
    assert_eq!(paging.hot_pages.len(), 1);
    assert_eq!(paging.hot_pages[0], 0..plan.memory.weights.next_multiple_of(PAGE));
}
