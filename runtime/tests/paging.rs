//! Models whose experts are paged: the same bits as in memory, whatever the budget.

mod common;

use common::{FORMATS, Made, Recipe, tokens};
use lfm_graphs::bundle::LogitsDigest;
use lfm_graphs::testing::Tiny;
use lfm_graphs::weights::Format;
use lfm_runtime::{Backend, Budget, Error, Model, Options};

/// Three layers with experts.
fn shape() -> Tiny {
    Tiny { experts: 8, top_k: 3, ..Tiny::moe() }
}

fn open(made: &Made, budget: &Budget) -> Model {
    Model::open_with(&made.path, budget).unwrap_or_else(|e| panic!("{e}"))
}

/// Digest of the logits of all positions.
fn digest(model: &Model, options: &Options, tokens: &[u32]) -> String {
    let mut digest = LogitsDigest::new();
    let mut session = model.session(options).unwrap();
    session
        .prefill_all(tokens, |_, rows| {
            digest.update(rows);
            Ok(())
        })
        .unwrap();
    digest.finish()
}

/// Bytes of the smallest cache, and of one that holds everything.
fn caches(made: &Made) -> (u64, u64) {
    let model = Model::open(&made.path).unwrap();
    let least = model.least_memory(None).unwrap().cache;
    let all = open(made, &Budget::cache(1 << 40)).paging().unwrap();
    assert_eq!(all.slots, all.experts);
    (least, all.cache)
}

#[test]
fn logits_are_those_of_a_run_in_memory() {
    for format in FORMATS {
        let made = Recipe::new(shape(), format).make();
        let ids = tokens(70, 96);
        let expected = digest(&Model::open(&made.path).unwrap(), &Options::default(), &ids);
        let (least, all) = caches(&made);
        for (cache, readers) in [(least, 1), (least + all / 8, 2), (all / 2, 4), (all, 3)] {
            let model = open(&made, &Budget::cache(cache).with_readers(Some(readers)));
            for threads in 1..=4 {
                for chunk in [1, 7, 64] {
                    let options =
                        Options { threads: Some(threads), chunk: Some(chunk), ..Options::default() };
                    assert_eq!(digest(&model, &options, &ids), expected, "{format} {cache} {options:?}");
                }
            }
        }
    }
}

#[test]
fn shapes_of_all_kinds() {
    let paged = (0..40).map(Tiny::random).filter(|tiny| tiny.experts > 0);
    let mut with_experts = 0;
    for tiny in paged {
        let made = Recipe::new(tiny.clone(), Format::Q8_0).make();
        let ids = tokens(40, tiny.vocab as usize);
        let expected = digest(&Model::open(&made.path).unwrap(), &Options::default(), &ids);
        let (least, _) = caches(&made);
        with_experts += usize::from(least > 0);
        let model = open(&made, &Budget::cache(least));
        assert_eq!(digest(&model, &Options::default(), &ids), expected, "{tiny:?}");
    }
    assert!(with_experts >= 10, "{with_experts}");
}

#[test]
fn sessions_share_the_cache() {
    let made = Recipe::new(shape(), Format::Q4_0).make();
    let ids = tokens(50, 96);
    let expected = digest(&Model::open(&made.path).unwrap(), &Options::default(), &ids);
    let model = open(&made, &Budget::cache(caches(&made).0));
    std::thread::scope(|scope| {
        for chunk in [1, 3, 64] {
            let (model, ids, expected) = (&model, &ids, &expected);
            let options = Options { threads: Some(1), chunk: Some(chunk), ..Options::default() };
            scope.spawn(move || assert_eq!(&digest(model, &options, ids), expected));
        }
    });
}

#[test]
fn what_is_read_is_counted() {
    let made = Recipe::new(shape(), Format::Q4_0).make();
    let (least, _) = caches(&made);
    let all = open(&made, &Budget::cache(1 << 40));
    let few = open(&made, &Budget::cache(least));
    let ids = tokens(64, 96);
    for model in [&all, &few] {
        let mut session = model.session(&Options::default()).unwrap();
        assert_eq!(model.paging_stats().unwrap().hit_rate(), None);
        session.prefill(&ids).unwrap();
        let first = model.paging_stats().unwrap();
        assert!(first.misses > 0 && first.bytes_read > 0);
        session.clear();
        session.prefill(&ids).unwrap();
        let second = model.paging_stats().unwrap().since(first);
        assert_eq!(second.hits + second.misses, first.hits + first.misses);
        let layout = model.paging().unwrap();
        if layout.slots == layout.experts {
            assert_eq!((second.misses, second.bytes_read), (0, 0));
        } else {
            assert!(second.misses > 0 && second.bytes_read > 0, "{second:?}");
        }
    }
    assert!(Model::open(&made.path).unwrap().paging_stats().is_none());
}

#[test]
fn a_budget_that_is_too_small_says_what_is_needed() {
    let made = Recipe::new(shape(), Format::Q4_0).make();
    let error = |budget: Budget| Model::open_with(&made.path, &budget).unwrap_err().to_string();
    let small = error(Budget::ram(1 << 20));
    assert!(small.starts_with("a budget of 1.00 MiB is too small, expected at least "), "{small}");
    for part in ["weights other than experts ", "one layer ", "states ", "arena ", "program "] {
        assert!(small.contains(part), "{small}");
    }
    let (least, _) = caches(&made);
    let small = error(Budget::cache(least - 1));
    assert!(small.ends_with(&format!("({least} bytes), the experts of one token in one layer")), "{small}");
    let wrong = error(Budget::cache(least).with_readers(Some(0)));
    assert_eq!(wrong, "0 threads that read, expected 1 to 16");
    assert_eq!(error(Budget::cache(least).with_context(Some(161))), "context is 161, expected 1 to 160");

    let model = open(&made, &Budget::cache(least).with_context(Some(32)));
    let error = model.session(&Options::default()).unwrap_err().to_string();
    assert_eq!(error, "a context of 160 positions does not fit into the budget, which was made for 32");
    let mut session = model.session(&Options { context: Some(32), ..Options::default() }).unwrap();
    session.prefill(&tokens(32, 96)).unwrap();
    let gpu = Options { backend: Backend::Wgpu { adapter: None, layers: None }, ..Options::default() };
    assert!(model.session(&gpu).is_err());
    assert!(model.with_huge_pages(1).is_err());
}

#[test]
fn a_dense_model_has_nothing_to_page() {
    let made = Recipe::new(Tiny::dense(), Format::Q8_0).make();
    let ids = tokens(30, 96);
    let expected = digest(&Model::open(&made.path).unwrap(), &Options::default(), &ids);
    let model = open(&made, &Budget::cache(0));
    assert_eq!(digest(&model, &Options::default(), &ids), expected);
    assert_eq!(model.paging().unwrap().experts, 0);
}

#[test]
fn weights_are_verified_by_reading() {
    let made = Recipe::new(shape(), Format::Q4_0).make();
    let budget = Budget::cache(caches(&made).0);
    let mut last = (0, 1);
    open(&made, &budget).verify_weights(|done, all| last = (done, all)).unwrap();
    assert_eq!(last.0, last.1);
    let mut file = std::fs::read(&made.path).unwrap();
    let at = Model::open(&made.path).unwrap();
    let weights = at.sections().iter().find(|s| s.kind() == lfm_graphs::bundle::Kind::Weights).unwrap();
    file[weights.range().end - 1] ^= 1;
    std::fs::write(&made.path, file).unwrap();
    assert!(matches!(open(&made, &budget).verify_weights(|_, _| {}), Err(Error::Bundle { .. })));
}

/// A file that is cut while it is in use gives an error, and no wrong logits.
#[test]
fn a_file_that_shrinks_is_an_error() {
    let made = Recipe::new(shape(), Format::Q4_0).make();
    let model = open(&made, &Budget::cache(caches(&made).0));
    let mut session = model.session(&Options::default()).unwrap();
    session.prefill(&tokens(5, 96)).unwrap();
    let file = std::fs::File::options().write(true).open(&made.path).unwrap();
    file.set_len(8192).unwrap();
    let error = (0..20).find_map(|id| session.decode(id).err()).expect("an error");
    assert!(matches!(error, Error::Read { .. } | Error::Changed { .. }), "{error}");
    assert!(session.decode(1).is_err());
}

/// A session whose pass failed goes back to a checkpoint, and on from there once the file is as it was.
#[test]
fn after_a_failed_read_a_session_goes_on_from_a_checkpoint() {
    let made = Recipe::new(shape(), Format::Q4_0).make();
    let bytes = std::fs::read(&made.path).unwrap();
    let file = std::fs::File::options().write(true).open(&made.path).unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    let model = open(&made, &Budget::cache(caches(&made).0));
    let mut session = model.session(&Options { chunk: Some(4), ..Options::default() }).unwrap();
    let ids = tokens(40, 96);
    let expected = session.prefill(&ids).unwrap().to_vec();
    session.clear();

    let mut groups = 0;
    let result = session.prefill_all(&ids, |_, _| {
        groups += 1;
        if groups == 3 {
            file.set_len(8192).unwrap();
        }
        Ok(())
    });
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Read { .. } | Error::Changed { .. }), "{error}");
    let past = session.past();
    assert_eq!(past % 4, 0, "a boundary of chunks");
    assert!(past < 3 * 4, "the failed chunk is not counted");

    std::fs::write(&made.path, bytes).unwrap();
    file.set_modified(written).unwrap();
    assert_eq!(session.prefill(&ids[past..]).unwrap(), expected);
}
