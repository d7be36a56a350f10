//! A session: one conversation with a model.

use std::ops::Range;

use crate::cpu::kernels::{self, Kernels};
use crate::cpu::pool::{MAX_THREADS, Pool};
use crate::error::{Error, Result};
use crate::exec::{Executor, Route, States};
use crate::model::Model;

/// How a session runs. What is `None` follows the machine or the bundle.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads, 1 to 32; by default those of the bundle's profile, or one for each core.
    pub threads: Option<usize>,
    /// ISA tier; by default the fastest that this CPU runs.
    pub isa: Option<String>,
    /// Most tokens of one pass of a prompt, up to the planned number.
    pub chunk: Option<usize>,
    /// Positions, up to the planned number.
    pub context: Option<usize>,
}

/// States, arena and threads of one conversation.
///
/// Tokens go in by [`prefill`](Session::prefill) and [`decode`](Session::decode); each gives the logits of what
/// follows. Logits depend on the tokens alone: not on threads, ISA tier, or how tokens are divided between calls.
#[derive(Debug)]
pub struct Session {
    model: Model,
    executor: Executor,
    states: States,
    chunk: usize,
}

fn within(name: &str, wanted: Option<usize>, most: usize, default: usize) -> Result<usize> {
    match wanted {
        None => Ok(default.min(most)),
        Some(n) if n >= 1 && n <= most => Ok(n),
        Some(n) => Err(Error::Argument(format!("{name} is {n}, expected 1 to {most}"))),
    }
}

impl Session {
    pub(crate) fn new(model: Model, options: &Options) -> Result<Session> {
        let plan = model.plan();
        let chunk = within("chunk", options.chunk, plan.chunk as usize, plan.chunk as usize)?;
        let context = within("context", options.context, plan.context as usize, plan.context as usize)?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let planned = match model.target().cores {
            0 => cores,
            n => (n as usize).min(cores),
        };
        let threads = within("threads", options.threads, MAX_THREADS, planned)?;
        let kernels: &'static dyn Kernels = match &options.isa {
            None => kernels::best(),
            Some(name) => kernels::by_name(name).map_err(|e| Error::Argument(e.to_string()))?,
        };
        let pool = Pool::new(threads)
            .map_err(|source| Error::System { attempt: format!("cannot start {threads} threads"), source })?;
        let no_room = || {
            let attempt = format!(
                "cannot get {} bytes for states and arena",
                plan.memory.states.saturating_add(plan.memory.arena)
            );
            Error::System { attempt, source: std::io::ErrorKind::OutOfMemory.into() }
        };
        let states = States::new(&model.program().states, context).ok_or_else(no_room)?;
        let executor = Executor::new(model.program(), plan, pool, kernels).ok_or_else(no_room)?;
        Ok(Session { executor, states, chunk, model })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Positions taken so far.
    pub fn past(&self) -> usize {
        self.states.past
    }

    /// Positions there are.
    pub fn context(&self) -> usize {
        self.states.context
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        self.executor.pool.threads()
    }

    /// The ISA tier of the kernels.
    pub fn isa(&self) -> &'static str {
        self.executor.kernels.name()
    }

    /// Most tokens of one pass.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.states.clear(&self.model.program().states);
    }

    /// Takes `tokens` in and gives the logits after the last of them, `[vocab]`.
    ///
    /// # Errors
    /// When there are none, one is outside the vocabulary, or the context is too small. The session is then as before.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.check(tokens)?;
        let model = self.model.clone();
        let (program, weights) = (model.program(), model.weights());
        let mut rows = 0;
        for chunk in tokens.chunks(self.chunk) {
            self.executor.body(program, weights, &mut self.states, chunk)?;
            rows = chunk.len();
        }
        self.executor.tail(program, weights, &mut self.states, rows - 1..rows, |_, _| Ok(()))?;
        self.executor.logits(program, 1)
    }

    /// Takes one token in and gives the logits after it, `[vocab]`. Does not allocate.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn decode(&mut self, token: u32) -> Result<&[f32]> {
        self.prefill(&[token])
    }

    /// Takes `tokens` in and hands the logits after each of them to `sink`: the index of the first token of a
    /// group, and its rows of logits, `[rows, vocab]`.
    ///
    /// # Errors
    /// As [`Session::prefill`], and what `sink` gives.
    pub fn prefill_all(
        &mut self,
        tokens: &[u32],
        mut sink: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.check(tokens)?;
        let model = self.model.clone();
        let (program, weights) = (model.program(), model.weights());
        let mut done = 0;
        for chunk in tokens.chunks(self.chunk) {
            self.executor.body(program, weights, &mut self.states, chunk)?;
            let sink = |rows: Range<usize>, logits: &[f32]| sink(done + rows.start, logits);
            self.executor.tail(program, weights, &mut self.states, 0..chunk.len(), sink)?;
            done += chunk.len();
        }
        Ok(())
    }

    /// Starts or stops to record which experts are chosen.
    pub fn record_routes(&mut self, on: bool) {
        self.executor.routes = on.then(Vec::new);
    }

    /// The routes since the last call, by layer and position in the order in which they were computed.
    pub fn take_routes(&mut self) -> Vec<Route> {
        self.executor.routes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::Argument("there are no tokens, expected at least one".into()));
        }
        let vocab = self.model.embeddings();
        if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::Token { id: *id, vocab });
        }
        if tokens.len() > self.states.context - self.states.past {
            return Err(Error::ContextFull {
                past: self.states.past,
                wanted: tokens.len(),
                context: self.states.context,
            });
        }
        Ok(())
    }
}
