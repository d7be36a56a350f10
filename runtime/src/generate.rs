//! Token after token: an iterator over what a model writes.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Result;
use crate::sample::Sampler;
use crate::session::{Session, Start};

/// Why a generation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Finish {
    /// The model wrote a token that ends its answer.
    Stop,
    /// The wanted number of tokens is reached.
    Length,
    /// The context is full.
    Context,
    /// It was asked to stop.
    Cancelled,
}

impl Finish {
    /// The name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Finish::Stop => "stop",
            Finish::Length => "length",
            Finish::Context => "context",
            Finish::Cancelled => "cancelled",
        }
    }
}

/// When a generation ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits<'a> {
    /// Most tokens; as many as fit the context when `None`.
    pub tokens: Option<usize>,
    /// Ids that end the answer. They are not given out.
    pub stop: &'a [u32],
    /// Looked at before each token: true ends the generation.
    pub cancel: Option<&'a AtomicBool>,
}

/// An iterator over generated token ids.
///
/// A token is taken into the session when the next one is asked for, so the state of the session is that before
/// the last token given out.
#[derive(Debug)]
pub struct Generation<'a> {
    session: &'a mut Session,
    sampler: &'a mut Sampler,
    limits: Limits<'a>,
    /// Prompt and generated ids: what the repetition penalty looks at.
    history: Vec<u32>,
    prompt: usize,
    /// Tokens that the session has not taken in yet.
    pending: usize,
    /// Whether the session is to start with the whole prompt, and how much of it was not computed again.
    start: bool,
    reused: usize,
    finish: Option<Finish>,
}

impl<'a> Generation<'a> {
    /// Continues `history`, of which the session has taken in all but the last `pending` tokens.
    ///
    /// # Panics
    /// When `pending` is more than there is.
    pub fn new(
        session: &'a mut Session,
        sampler: &'a mut Sampler,
        mut history: Vec<u32>,
        pending: usize,
        limits: Limits<'a>,
    ) -> Generation<'a> {
        assert!(pending <= history.len(), "{pending} pending tokens of {}", history.len());
        let room = session.context().saturating_sub(session.past());
        history.reserve(limits.tokens.unwrap_or(room).min(room) + 1);
        let prompt = history.len();
        let (start, reused, finish) = (false, 0, None);
        Generation { session, sampler, limits, history, prompt, pending, start, reused, finish }
    }

    /// Continues `prompt`, of which the session takes in what it does not hold: see [`Session::start`].
    pub fn start(
        session: &'a mut Session,
        sampler: &'a mut Sampler,
        mut prompt: Vec<u32>,
        limits: Limits<'a>,
    ) -> Generation<'a> {
        let room = session.context().saturating_sub(prompt.len());
        prompt.reserve(limits.tokens.unwrap_or(room).min(room) + 1);
        let pending = prompt.len();
        Generation { start: true, ..Generation::new(session, sampler, prompt, pending, limits) }
    }

    /// How many tokens of the prompt were not computed again.
    pub fn reused(&self) -> usize {
        self.reused
    }

    /// Why it ended; `None` while it goes on or after an error.
    pub fn finish(&self) -> Option<Finish> {
        self.finish
    }

    /// The ids generated so far.
    pub fn tokens(&self) -> &[u32] {
        &self.history[self.prompt..]
    }

    /// Prompt and generated ids, and how many at the end the session has not taken in.
    pub fn into_history(self) -> (Vec<u32>, usize) {
        (self.history, self.pending)
    }

    fn step(&mut self) -> Result<Option<u32>> {
        if self.limits.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
            self.finish = Some(Finish::Cancelled);
        } else if self.limits.tokens.is_some_and(|most| self.tokens().len() >= most) {
            self.finish = Some(Finish::Length);
        } else if self.pending > self.session.context() - self.session.past() && !self.tokens().is_empty() {
            self.finish = Some(Finish::Context);
        }
        if self.finish.is_some() {
            return Ok(None);
        }
        let new = &self.history[self.history.len() - self.pending..];
        let logits = if std::mem::take(&mut self.start) {
            let Start { reused, logits } = self.session.start(new)?;
            self.reused = reused;
            logits
        } else {
            self.session.prefill(new)?
        };
        self.pending = 0;
        let id = self.sampler.sample(logits, &self.history)?;
        self.history.push(id);
        self.pending = 1;
        if self.limits.stop.contains(&id) {
            self.finish = Some(Finish::Stop);
            return Ok(None);
        }
        Ok(Some(id))
    }
}

impl Iterator for Generation<'_> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Result<u32>> {
        if self.finish.is_some() {
            return None;
        }
        self.step().transpose()
    }
}
