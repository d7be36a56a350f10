//! Nothing is allocated while tokens are computed and chosen, after the first.

mod common;

use std::alloc::System;

use common::{FORMATS, Recipe};
use lfm_graphs::testing::Tiny;
use lfm_runtime::sample::{Sampler, Settings};
use lfm_runtime::{Budget, Generation, Limits, Model, Options};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations of all threads so far.
fn allocations() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

/// One test: another one on another thread would be counted too.
#[test]
fn decoding_does_not_allocate() {
    let before = allocations();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert_eq!(allocations() - before, 1, "allocations are counted");
    for format in FORMATS {
        for threads in [1, 2] {
            let made = Recipe::new(Tiny::moe(), format).make();
            let least = Model::open(&made.path).unwrap().least_memory(None).unwrap().cache;
            // One thread that reads: it has started when the first experts are there.
            let paged = Model::open_with(&made.path, &Budget::cache(least).with_readers(Some(1))).unwrap();
            let mut paged = paged.session(&Options::default()).unwrap();
            paged.prefill(&[1, 2, 3]).unwrap();
            paged.decode(4).unwrap();
            let before = allocations();
            for id in 0..40 {
                paged.decode(id).unwrap();
            }
            assert_eq!(allocations() - before, 0, "decode with paged experts: {format}");

            let model = Model::open(&made.path).unwrap();
            let options = Options { threads: Some(threads), ..Options::default() };
            let mut session = model.session(&options).unwrap();
            session.prefill(&[1, 2, 3]).unwrap();
            session.decode(4).unwrap();
            let before = allocations();
            for id in 0..40 {
                session.decode(id).unwrap();
            }
            assert_eq!(allocations() - before, 0, "decode: {format}, {threads} threads");

            let sampled = Settings {
                temperature: 0.7,
                top_k: 20,
                top_p: 0.9,
                min_p: 0.01,
                repetition_penalty: 1.1,
                seed: 3,
            };
            let unsorted = Settings { temperature: 1.0, min_p: 0.1, ..Settings::default() };
            let nucleus = Settings { temperature: 1.0, top_p: 0.5, ..Settings::default() };
            for settings in [Settings::greedy(), sampled, unsorted, nucleus] {
                session.clear();
                let mut sampler = Sampler::new(settings.clone(), model.vocab()).unwrap();
                let limits = Limits { tokens: Some(60), stop: &[], cancel: None };
                let mut generation = Generation::new(&mut session, &mut sampler, vec![1, 2, 3], 3, limits);
                generation.next().unwrap().unwrap();
                let before = allocations();
                for id in generation.by_ref() {
                    id.unwrap();
                }
                assert_eq!(allocations() - before, 0, "{settings:?}: {format}, {threads} threads");
                assert_eq!(generation.tokens().len(), 60);
            }
        }
    }
}
