//! Going back: whatever a session went through, its logits are those of one that took the same tokens in at once.

mod common;

use std::sync::LazyLock;

use common::{Made, Recipe, tokens};
use lfm_graphs::DType;
use lfm_graphs::testing::Tiny;
use lfm_graphs::weights::Format;
use lfm_runtime::{Error, Model, Options, Session};
use proptest::prelude::*;

fn model(made: &Made) -> Model {
    Model::open(&made.path).unwrap_or_else(|e| panic!("{e}"))
}

fn options(threads: usize, chunk: usize) -> Options {
    Options { threads: Some(threads), chunk: Some(chunk), ..Options::default() }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// The logits of a new session.
fn cold(model: &Model, tokens: &[u32]) -> Vec<u32> {
    bits(model.session(&Options { threads: Some(2), ..Options::default() }).unwrap().prefill(tokens).unwrap())
}

#[test]
fn a_shared_prefix_is_reused_up_to_the_last_chunk() {
    for tiny in [Tiny::dense(), Tiny { kv: DType::F16, ..Tiny::moe() }] {
        let made = Recipe { context: 300, chunk: 32, ..Recipe::new(tiny, Format::Q4_0) }.make();
        let model = model(&made);
        let first = tokens(210, 96);
        let mut second = first.clone();
        second[200] ^= 1;
        let mut session = model.session(&Options::default()).unwrap();
        let start = session.start(&first).unwrap();
        assert_eq!((start.reused, bits(start.logits)), (0, cold(&model, &first)));
        let start = session.start(&second).unwrap();
        assert_eq!((start.reused, bits(start.logits)), (192, cold(&model, &second)));
        assert_eq!(session.tokens(), second);
        assert_eq!(session.checkpoints(), [32, 64, 96, 128, 160, 192, 210]);

        // The same again costs nothing; what begins as it costs what is behind a boundary, and the last token.
        let start = session.start(&second).unwrap();
        assert_eq!((start.reused, bits(start.logits)), (210, cold(&model, &second)));
        for (n, reused) in [(209, 192), (193, 192), (192, 160), (1, 0)] {
            let start = session.start(&second[..n]).unwrap();
            assert_eq!((start.reused, bits(start.logits)), (reused, cold(&model, &second[..n])), "{n}");
        }
        let start = session.start(&first).unwrap();
        assert_eq!((start.reused, bits(start.logits)), (1, cold(&model, &first)));
    }
}

#[test]
fn turns_of_a_conversation_are_taken_back() {
    let made = Recipe::new(Tiny::moe(), Format::Q8_0).make();
    let model = model(&made);
    let ids = tokens(60, 96);
    let mut session = model.session(&Options::default()).unwrap();
    // A prompt of 20, an answer of 10, another prompt of 15, an answer of 5.
    session.start(&ids[..20]).unwrap();
    ids[20..30].iter().for_each(|id| drop(session.decode(*id).unwrap().to_vec()));
    assert_eq!(session.start(&ids[..45]).unwrap().reused, 30);
    ids[45..50].iter().for_each(|id| drop(session.decode(*id).unwrap().to_vec()));
    assert_eq!(session.checkpoints(), [20, 30, 45]);
    // Another answer to the second prompt: its logits are still there.
    let start = session.start(&ids[..45]).unwrap();
    assert_eq!((start.reused, bits(start.logits)), (45, cold(&model, &ids[..45])));
    // Another second prompt.
    let other = [&ids[..30], &[7, 8, 9]].concat();
    let start = session.start(&other).unwrap();
    assert_eq!((start.reused, bits(start.logits)), (30, cold(&model, &other)));
    assert_eq!(session.rewind(29).unwrap(), 20);
    assert_eq!(session.rewind(400).unwrap(), 20, "nothing is behind");
    assert_eq!(bits(session.decode(5).unwrap()), cold(&model, &[&ids[..20], &[5]].concat()));
    assert_eq!(session.rewind(19).unwrap(), 0);
    assert_eq!((session.past(), session.tokens().len(), session.checkpoints().len()), (0, 0, 0));
}

#[test]
fn what_cannot_be_taken_in_changes_nothing() {
    let made = Recipe::new(Tiny::dense(), Format::F32).make();
    let mut session = model(&made).session(&Options::default()).unwrap();
    session.start(&tokens(100, 96)).unwrap();
    assert!(matches!(session.start(&[]), Err(Error::Argument(_))));
    assert!(matches!(session.start(&[5, 96]), Err(Error::Token { id: 96, .. })));
    assert!(matches!(session.start(&[5; 161]), Err(Error::ContextFull { past: 0, wanted: 161, .. })));
    assert_eq!(session.past(), 100);
    // Where the one who takes the logits fails, the session goes back to a checkpoint, and still computes what is right.
    let failed = session.prefill_all(&tokens(50, 96), |first, _| {
        if first > 0 { Err(Error::Argument("enough".into())) } else { Ok(()) }
    });
    assert!(failed.is_err());
    assert_eq!(session.past(), *session.checkpoints().last().unwrap());
    let all = [session.tokens(), &[3, 1, 4]].concat();
    let made = model(&made);
    assert_eq!(bits(session.prefill(&[3, 1, 4]).unwrap()), cold(&made, &all));
}

/// Models that differ in what they keep, and in how.
static MODELS: LazyLock<Vec<(Model, Made)>> = LazyLock::new(|| {
    let shapes = [
        (Tiny::dense(), Format::Q4_0),
        (Tiny { kv: DType::F16, ..Tiny::moe() }, Format::Q8_0),
        (Tiny { kv: DType::F16, window: Some(5), taps: 4, ..Tiny::moe() }, Format::F32),
        (Tiny { taps: 1, ..Tiny::dense() }, Format::F16),
    ];
    let made = shapes.map(|(tiny, format)| Recipe { chunk: 16, ..Recipe::new(tiny, format) }.make());
    made.into_iter().map(|made| (Model::open(&made.path).unwrap(), made)).collect()
});

/// Something that is done to a session.
#[derive(Clone, Debug)]
enum Act {
    /// Take so many tokens in, from one of two texts.
    Prefill(usize, bool),
    Decode(u32),
    Rewind(prop::sample::Index),
    /// Start again with what shares so much, and goes on with so many.
    Start(prop::sample::Index, usize),
    Clear,
    /// Write it, and read it into another session with so many threads and such a chunk.
    Move(usize, usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (1usize..50, any::<bool>()).prop_map(|(n, other)| Act::Prefill(n, other)),
        4 => (0u32..96).prop_map(Act::Decode),
        3 => any::<prop::sample::Index>().prop_map(Act::Rewind),
        3 => (any::<prop::sample::Index>(), 0usize..40).prop_map(|(at, n)| Act::Start(at, n)),
        1 => Just(Act::Clear),
        2 => (1usize..=3, 1usize..=16).prop_map(|(threads, chunk)| Act::Move(threads, chunk)),
    ]
}

fn moved(model: &Model, session: &mut Session, threads: usize, chunk: usize) -> Session {
    let mut bytes = Vec::new();
    session.write_to(&mut bytes, b"note").unwrap();
    let mut other = model.session(&options(threads, chunk)).unwrap();
    // What it held before does not matter.
    other.prefill(&tokens(30, 96)).unwrap();
    let note = other.read_from(&mut &bytes[..], bytes.len() as u64).unwrap();
    assert_eq!((note.as_slice(), other.checkpoints()), (&b"note"[..], session.checkpoints()));
    let mut again = Vec::new();
    other.write_to(&mut again, b"note").unwrap();
    assert!(bytes == again, "what was read is written as it was");
    other
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_way_to_some_tokens_gives_their_logits(
        which in 0usize..4, threads in 1usize..=3, chunk in 1usize..=16, acts in prop::collection::vec(act(), 1..14)
    ) {
        let (model, _) = &MODELS[which];
        let mut session = model.session(&options(threads, chunk)).unwrap();
        let mut taken: Vec<u32> = Vec::new();
        for act in acts {
            let room = session.context() - taken.len();
            match act {
                Act::Prefill(n, other) => {
                    let text = tokens(50, 96);
                    let ids: Vec<u32> = text[..n.min(room)].iter().map(|id| id ^ u32::from(other)).filter(|id| *id < 96).collect();
                    if ids.is_empty() { continue }
                    taken.extend_from_slice(&ids);
                    prop_assert_eq!(bits(session.prefill(&ids).unwrap()), cold(model, &taken));
                }
                Act::Decode(id) => {
                    if room == 0 { continue }
                    taken.push(id);
                    prop_assert_eq!(bits(session.decode(id).unwrap()), cold(model, &taken));
                }
                Act::Rewind(to) => {
                    let to = to.index(taken.len() + 1);
                    let before = session.checkpoints();
                    let at = session.rewind(to).unwrap();
                    let last = before.iter().copied().filter(|position| *position <= to).max().unwrap_or(0);
                    prop_assert_eq!(at, if to == taken.len() { to } else { last });
                    taken.truncate(at);
                }
                Act::Start(at, n) => {
                    taken.truncate(at.index(taken.len() + 1));
                    taken.extend(tokens(n.min(session.context() - taken.len()), 95).iter().map(|id| id + 1));
                    if taken.is_empty() { continue }
                    let start = session.start(&taken).unwrap();
                    prop_assert!(start.reused <= taken.len());
                    prop_assert_eq!(bits(start.logits), cold(model, &taken));
                }
                Act::Clear => {
                    session.clear();
                    taken.clear();
                }
                Act::Move(threads, chunk) => session = moved(model, &mut session, threads, chunk),
            }
            prop_assert_eq!(session.tokens(), &taken);
            prop_assert_eq!(session.past(), taken.len());
        }
    }
}
