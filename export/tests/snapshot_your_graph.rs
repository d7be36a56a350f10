//! How to keep the graph of a module of your own as a snapshot: trace it, and give its text to insta. The text is
//! the same on every host, so a snapshot that changes is a model that changed.

use burn::module::{Module, Param};
use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{Device, Tensor};
use lfm_export::capture::{Traceable, Tracer, capture};
use lfm_export::lower::{LowerError, lower};
use lfm_graphs::{Dim, Update};

#[derive(Module, Debug)]
struct Counter {
    embed: Embedding,
    decay: Param<Tensor<1>>,
}

impl Counter {
    fn new(device: &Device) -> Counter {
        Counter {
            embed: EmbeddingConfig::new(10, 4).init(device),
            decay: Initializer::Ones.init([4], device),
        }
    }
}

/// Carries the sum of all embeddings so far, and gives each token's share of it.
struct Traced;

impl Traceable for Traced {
    fn name(&self) -> String {
        "counter".into()
    }

    fn trace(&self, tracer: &mut Tracer) {
        let counter = tracer.module(Counter::new(tracer.device()));
        let sum: Tensor<2> = tracer.state("sum", [1, 4].map(Dim::fixed), Update::Window);
        let rows = counter.embed.forward(tracer.input("tokens").unsqueeze()).squeeze_dim::<2>(0);
        let next = sum * counter.decay.val().unsqueeze() + rows.clone().sum_dim(0);
        tracer.output(rows / (next.clone() + 1.0));
        tracer.next("sum", next);
    }
}

#[test]
fn snapshot() {
    let graph = lower(&capture(&Traced).unwrap()).unwrap();
    insta::assert_snapshot!(graph.text());
}

/// A module that uses an operation without a counterpart in the graph language.
struct Unknown;

impl Traceable for Unknown {
    fn name(&self) -> String {
        "unknown".into()
    }

    fn trace(&self, tracer: &mut Tracer) {
        let counter = tracer.module(Counter::new(tracer.device()));
        let rows = counter.embed.forward(tracer.input("tokens").unsqueeze()).squeeze_dim::<2>(0);
        tracer.output(rows.abs() * counter.decay.val().unsqueeze());
    }
}

#[test]
fn an_unknown_operation_is_named_with_its_place() {
    let error = lower(&capture(&Unknown).unwrap()).unwrap_err();
    assert!(matches!(error, LowerError::Unsupported { .. }));
    insta::assert_snapshot!(error, @"lowering unknown: operation 3 (Abs) in embed is not supported: the graph language has no such operation");
}

/// A module that is not the same at all lengths.
struct Lengths(fn(Tensor<2>, &Tracer) -> Tensor<2>);

impl Traceable for Lengths {
    fn name(&self) -> String {
        "lengths".into()
    }

    fn trace(&self, tracer: &mut Tracer) {
        let counter = tracer.module(Counter::new(tracer.device()));
        let rows = counter.embed.forward(tracer.input("tokens").unsqueeze()).squeeze_dim::<2>(0);
        tracer.output((self.0)(rows, tracer));
    }
}

#[test]
fn what_is_not_the_same_at_all_lengths_is_named() {
    let squares = Lengths(|x, _| {
        let [seq, _] = x.dims();
        x.repeat_dim(0, seq)
    });
    insta::assert_snapshot!(capture(&squares).unwrap_err(), @"capturing lengths: axis 0 of the result of operation 3 (RepeatDim) is [49, 121, 49, 1] at (seq, past) = [(7, 13), (11, 13), (7, 29), (1, 40)], which is no sum of a number and multiples of seq and past");
    let branch = Lengths(|x, tracer| if tracer.seq() > 1 { x.clone() * x } else { x.sqrt() });
    insta::assert_snapshot!(capture(&branch).unwrap_err(), @"capturing lengths: operation 3 (Mul) differs between (seq, past) = (7, 13) and (1, 40): CapturedOp { kind: Mul, inputs: [6, 6], outputs: [7] } and CapturedOp { kind: Sqrt, inputs: [6], outputs: [7] }");
    let literal = Lengths(|x, tracer| x + tracer.seq() as f32);
    insta::assert_snapshot!(capture(&literal).unwrap_err(), @"capturing lengths: operation 3 (AddScalar) differs between (seq, past) = (7, 13) and (11, 13): CapturedOp { kind: AddScalar(7.0), inputs: [6], outputs: [7] } and CapturedOp { kind: AddScalar(11.0), inputs: [6], outputs: [7] }");
}

/// A module that forgets its state.
struct Forgetful;

impl Traceable for Forgetful {
    fn name(&self) -> String {
        "forgetful".into()
    }

    fn trace(&self, tracer: &mut Tracer) {
        let _: Tensor<1> = tracer.state("sum", [Dim::fixed(4)], Update::Window);
        let counter = tracer.module(Counter::new(tracer.device()));
        let rows = counter.embed.forward(tracer.input("tokens").unsqueeze());
        tracer.output(rows.squeeze_dim::<2>(0));
    }
}

#[test]
fn a_state_without_a_next_content_is_named() {
    insta::assert_snapshot!(capture(&Forgetful).unwrap_err(), @"tracing forgetful: state `sum` gets no next content");
}
