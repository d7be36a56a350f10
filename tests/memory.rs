//! The memory that a plan states is the memory that a session takes.

use lfm_runtime::{Model, Options};
use lfm_tests::heap::{Heap, peak};
use lfm_tests::{Bundle, demo, fixture};

#[global_allocator]
static HEAP: Heap = Heap;

/// Weights are mapped and so not on the heap; everything else is.
#[test]
fn plans_cover_what_is_allocated() {
    for (source, recipe) in [(demo(), "q4_0"), (fixture("tiny-moe"), "f32"), (fixture("all-conv"), "q8_0")] {
        let bundle = Bundle::export(&source, recipe);
        let options = Options { threads: Some(2), ..Options::default() };
        let (memory, held) = peak(|| {
            let model = Model::open(&bundle.path).unwrap();
            let text = model.section(lfm_graphs::bundle::Kind::Tokenizer).map(|_| model.text().unwrap());
            let mut session = model.session(&options).unwrap();
            let tokens: Vec<u32> = (0..500).map(|i| i % model.embeddings() as u32).collect();
            session.prefill(&tokens).unwrap();
            session.decode(1).unwrap();
            drop(text);
            model.plan().memory
        });
        let (least, most) = (memory.states + memory.arena, memory.states + memory.arena + memory.overhead);
        let held = held as u64;
        assert!(
            (least..=most).contains(&held),
            "{} {recipe}: {held} bytes, planned {least} to {most}",
            source.display()
        );
    }
}
