//! Generation: what is given out, what ends it, and what the session has then taken in.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::Recipe;
use lfm_graphs::testing::Tiny;
use lfm_graphs::weights::Format;
use lfm_runtime::golden::{self, Difference};
use lfm_runtime::perplexity;
use lfm_runtime::sample::{Sampler, Settings};
use lfm_runtime::{Finish, Generation, Limits, Model, Options, Session};

/// A model, and the 20 tokens that follow [1, 2, 3] greedily.
fn model() -> (common::Made, Model, Vec<u32>) {
    let made = Recipe::new(Tiny::moe(), Format::Q8_0).make();
    let model = Model::open(&made.path).unwrap();
    let mut session = model.session(&Options::default()).unwrap();
    let tokens = golden::vector(&mut session, &[1, 2, 3], 20).unwrap().greedy;
    (made, model, tokens)
}

fn generate(session: &mut Session, limits: Limits<'_>) -> (Vec<u32>, Vec<u32>, Option<Finish>) {
    let mut sampler = Sampler::new(Settings::greedy(), session.model().vocab()).unwrap();
    let mut generation = Generation::new(session, &mut sampler, vec![1, 2, 3], 3, limits);
    let given: Vec<u32> = generation.by_ref().map(Result::unwrap).collect();
    let finish = generation.finish();
    assert!(generation.next().is_none());
    (given, generation.tokens().to_vec(), finish)
}

#[test]
fn length_stop_context_and_cancel_end_it() {
    let (_made, model, greedy) = model();
    let session = || model.session(&Options::default()).unwrap();

    let length = Limits { tokens: Some(20), ..Limits::default() };
    let (given, tokens, finish) = generate(&mut session(), length);
    assert_eq!((&given, &tokens, finish), (&greedy, &greedy, Some(Finish::Length)));

    let stop = [greedy[5]];
    let at = greedy.iter().position(|id| *id == stop[0]).unwrap();
    let (given, tokens, finish) = generate(&mut session(), Limits { stop: &stop, ..length });
    assert_eq!(given, greedy[..at], "the id that stops is not given out");
    assert_eq!((tokens.as_slice(), finish), (&greedy[..=at], Some(Finish::Stop)));

    let options = Options { context: Some(10), ..Options::default() };
    let mut small = model.session(&options).unwrap();
    let (given, _, finish) = generate(&mut small, length);
    // The last one needs no position.
    assert_eq!((given.as_slice(), finish), (&greedy[..8], Some(Finish::Context)));

    let cancel = AtomicBool::new(true);
    let (given, _, finish) = generate(&mut session(), Limits { cancel: Some(&cancel), ..length });
    assert_eq!((given.len(), finish), (0, Some(Finish::Cancelled)));
    cancel.store(false, Ordering::Relaxed);

    let (given, _, finish) = generate(&mut session(), Limits { tokens: Some(0), ..length });
    assert_eq!((given.len(), finish), (0, Some(Finish::Length)));
}

#[test]
fn what_is_pending_continues_the_conversation() {
    let (_made, model, greedy) = model();
    let mut session = model.session(&Options::default()).unwrap();
    let mut sampler = Sampler::new(Settings::greedy(), model.vocab()).unwrap();
    let limits = Limits { tokens: Some(7), ..Limits::default() };
    let mut generation = Generation::new(&mut session, &mut sampler, vec![1, 2, 3], 3, limits);
    assert!(generation.by_ref().all(|id| id.is_ok()));
    let (history, pending) = generation.into_history();
    assert_eq!((history.len(), pending), (10, 1));
    assert_eq!(session.past(), 9);
    let limits = Limits { tokens: Some(13), ..Limits::default() };
    let rest: Vec<u32> =
        Generation::new(&mut session, &mut sampler, history, pending, limits).map(Result::unwrap).collect();
    assert_eq!(rest, greedy[7..]);
}

#[test]
fn golden_vectors_are_checked_bit_for_bit() {
    let (_made, model, _) = model();
    let options = Options::default();
    let prompts = [vec![1, 2, 3], vec![5]];
    let golden = golden::run(&model, &options, &prompts, 6).unwrap();
    assert_eq!(golden.vectors.len(), 2);
    assert_eq!(golden::check(&model, &options, &golden).unwrap(), []);

    let mut other = golden.clone();
    other.vectors[0].digest = "0".repeat(64);
    other.vectors[1].greedy[4] ^= 1;
    let differences = golden::check(&model, &options, &other).unwrap();
    assert!(matches!(differences[0], Difference::Digest { vector: 0, .. }));
    assert!(matches!(differences[1], Difference::Token { vector: 1, at: 4, .. }));
    assert_eq!(differences.len(), 2);
}

#[test]
fn perplexity_is_that_of_single_steps() {
    let (_made, model, _) = model();
    let ids = common::tokens(50, model.vocab());
    let (bos, window) = (1, 20);
    let mut session = model.session(&Options::default()).unwrap();
    let score = perplexity::score(&mut session, None, bos, &ids, window, |_, _| {}).unwrap();
    let mut nll = 0.0;
    for piece in ids.chunks(window - 1) {
        session.clear();
        let mut input = bos;
        for id in piece {
            let logits = session.decode(input).unwrap();
            let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            nll += sum.ln() - f64::from(logits[*id as usize]);
            input = *id;
        }
    }
    assert_eq!(score.tokens, 50);
    assert!((score.nll - nll / 50.0).abs() < 1e-9, "{} {}", score.nll, nll / 50.0);

    let mut same = model.session(&Options { chunk: Some(3), ..Options::default() }).unwrap();
    let compared = perplexity::score(&mut session, Some(&mut same), bos, &ids, window, |_, _| {}).unwrap();
    let reference = compared.reference.unwrap();
    assert_eq!((compared.nll, reference.perplexity), (score.nll, score.perplexity));
    assert_eq!((reference.kl, reference.top1), (0.0, 1.0));

    let message = |ids: &[u32], window| {
        let mut session = model.session(&Options::default()).unwrap();
        perplexity::score(&mut session, None, bos, ids, window, |_, _| {}).unwrap_err().to_string()
    };
    assert_eq!(message(&ids, 1), "window is 1, expected 2 to 160");
    assert_eq!(message(&[], 20), "the text has no tokens, expected at least one");
    assert_eq!(message(&[1000], 20), "token id 1000 is outside the vocabulary of 96");
}
