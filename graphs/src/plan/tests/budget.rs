//! Budgets: what is refused, and what is suggested instead.

use super::*;

fn with_ram(graph: &Graph, chunk: u32, context: u32, ram: u64) -> Result<Plan, PlanError> {
    plan(graph, Limits { ram: Some(ram), ..limits(chunk, context) })
}

fn hint(graph: &Graph, chunk: u32, context: u32, ram: u64) -> Fit {
    match with_ram(graph, chunk, context, ram) {
        Err(PlanError::Ram { hint, .. }) => hint,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_fits_exactly_fits() {
    let graph = tiny();
    let needed = plan(&graph, limits(32, 4096)).unwrap();
    assert_eq!(with_ram(&graph, 32, 4096, needed.memory.total), Ok(needed.clone()));
    let error = with_ram(&graph, 32, 4096, needed.memory.total - 1).unwrap_err();
    insta::assert_snapshot!(error);
}

#[test]
fn suggestions_fit_and_are_the_nearest() {
    let graph = tiny();
    let total = |chunk, context| plan(&graph, limits(chunk, context)).unwrap().memory.total;
    assert_eq!(hint(&graph, 32, 4096, total(32, 4096) - 1), Fit::Context(3840));
    assert_eq!(hint(&graph, 32, 4096, total(32, 3000)), Fit::Context(2816));
    assert_eq!(
        hint(&graph, 32, 200, total(32, 150)),
        Fit::Context(160),
        "no round number, but keys come in groups of 16 positions"
    );
    // With the arena of a large chunk no context fits, with a smaller one the whole context does.
    let ram = total(512, 512) - 1;
    assert_eq!(hint(&graph, 512, 512, ram), Fit::Chunk(256));
    let Fit::Both { chunk, context } = hint(&graph, 512, 512, total(1, 300)) else {
        panic!("both must shrink")
    };
    let ram = total(1, 300);
    assert!(total(chunk, context) <= ram && total(chunk, context + 1) > ram, "the longest context");
    assert!(
        context >= 128 && total(2 * chunk, 128) > ram,
        "the largest chunk that leaves half of what 1 leaves"
    );
    assert_eq!(hint(&graph, 32, 4096, total(1, 1) - 1), Fit::None);
    assert_eq!(hint(&graph, 1, 1, total(1, 1) - 1), Fit::None);
}

#[test]
fn checkpoints_are_part_of_the_overhead() {
    let graph = tiny();
    let of = |chunk, context| Checkpoints::of(&graph, chunk, context).unwrap();
    let plan = plan(&graph, limits(32, 1000)).unwrap();
    assert_eq!(plan.memory.overhead, limits(32, 1000).overhead + of(32, 1000).bytes);
    // 2 windows of 2 x 32 floats, a position each; the logits after a prompt, and its tokens.
    let Checkpoints { boundaries, count, bytes } = of(32, 1000);
    assert_eq!((boundaries, count, bytes), (32, 40, 40 * (2 * 256 + 4) + 4 * 96 + 4 * 1008));
    assert_eq!([of(1, 1000), of(8, 4096), of(512, 1 << 17)].map(|kept| kept.boundaries), [64, 64, 256]);
}

#[test]
fn overflow_is_an_error() {
    let graph = tiny();
    let error = plan(&graph, Limits { overhead: u64::MAX, ..limits(4, 8) }).unwrap_err();
    assert_eq!(error.to_string(), "cannot plan: the bytes of all together overflow 64 bits");
}
