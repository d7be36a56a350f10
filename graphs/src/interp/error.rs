//! What can go wrong when a sound graph meets its inputs.

use thiserror::Error;

use crate::{BuildError, VerifyError};

/// Why a graph could not be run.
#[derive(Clone, PartialEq, Debug, Error)]
pub enum InterpError {
    /// The graph is not sound.
    #[error("the graph does not verify: {0}")]
    Unsound(VerifyError),
    /// A fused operation cannot be expanded.
    #[error("expanding a fused operation: {0}")]
    Expand(#[from] BuildError),
    /// A weight was not given.
    #[error("weight `{name}` was not given, expected {expected}")]
    MissingWeight {
        /// Its name.
        name: String,
        /// Its type.
        expected: String,
    },
    /// A weight has another type.
    #[error("weight `{name}` is {found}, expected {expected}")]
    Weight {
        /// Its name.
        name: String,
        /// What was given.
        found: String,
        /// Its type.
        expected: String,
    },
    /// An input was not given.
    #[error("input `{name}` was not given")]
    MissingInput {
        /// Its name.
        name: String,
    },
    /// Something that the graph does not read was given.
    #[error("input `{name}` was given, but the graph has no such input")]
    UnknownInput {
        /// Its name.
        name: String,
    },
    /// Inputs differ in their length, which is `seq`.
    #[error("input `{name}` has {found} elements, expected {expected} like the inputs before it")]
    InputLength {
        /// Its name.
        name: String,
        /// Its length.
        found: usize,
        /// The length of the others.
        expected: usize,
    },
    /// A call without a token.
    #[error("the call has no tokens, expected at least one")]
    Empty,
    /// Too many tokens.
    #[error("the call has {seq} tokens after {past}, at most {most} in all are interpreted")]
    TooLong {
        /// Tokens in the call.
        seq: usize,
        /// Tokens before it.
        past: u32,
        /// The limit.
        most: usize,
    },
    /// The states are not those of this graph at their `past`.
    #[error("state `{name}` is {found}, expected {expected} after {past} tokens")]
    State {
        /// Its name.
        name: String,
        /// What the states hold.
        found: String,
        /// Its type.
        expected: String,
        /// Tokens so far.
        past: u32,
    },
    /// A node could not be evaluated.
    #[error("at {name}: {fault}")]
    Node {
        /// Its name.
        name: String,
        /// What went wrong.
        fault: Fault,
    },
}

/// Why an operation has no result.
#[derive(Clone, PartialEq, Debug, Error)]
pub enum Fault {
    /// An index points outside.
    #[error("index {index} at element {at}, expected 0 to {size}, exclusive")]
    Index {
        /// The index.
        index: i32,
        /// Where it stands among the indices.
        at: usize,
        /// How many things there are.
        size: usize,
    },
    /// The result is too large.
    #[error("the result {found} has more than {most} elements")]
    TooLarge {
        /// Its type.
        found: String,
        /// The limit.
        most: usize,
    },
    /// An argument or a result is not what inference says: the graph was not made by this crate.
    #[error("{what} is {found}, expected {expected}")]
    Type {
        /// Which value.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it ought to be.
        expected: String,
    },
}
