//! A session: one conversation with a model.
//!
//! A session knows the tokens that it has taken in, and keeps checkpoints: at chunk boundaries, and where the last few
//! prompts begin and end. It goes back to any of them ([`Session::rewind`]), so a prompt that begins as an earlier one
//! costs only what differs ([`Session::start`]). Going back is exact: logits are those of a session that never went
//! further.

mod checkpoints;
pub mod file;

use std::ops::Range;

use checkpoints::Checkpoints;
#[cfg(feature = "wgpu")]
pub(crate) use checkpoints::planned;

use crate::cpu::kernels::{self, Kernels};
use crate::cpu::pool::{MAX_THREADS, Pool};
use crate::error::{Error, Result};
#[cfg(feature = "observe")]
use crate::exec::NodeRows;
use crate::exec::{Executor, Lap, Route, States};
use crate::machine;
use crate::model::Model;

/// What computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The CPU.
    #[default]
    Cpu,
    /// A GPU through wgpu (feature `wgpu`).
    Wgpu {
        /// Its index in the list of adapters, or a part of its name; by default the first.
        adapter: Option<String>,
        /// How many layers run there, the last ones, with the head; by default all, with the embedding.
        layers: Option<usize>,
    },
}

/// How a session runs. What is `None` follows the machine or the bundle.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Threads, 1 to 32; by default one for each of the machine's fastest cores, at most those of the bundle's
    /// profile.
    pub threads: Option<usize>,
    /// ISA tier; by default the fastest that this CPU runs.
    pub isa: Option<String>,
    /// Most tokens of one pass of a prompt, up to the planned number.
    pub chunk: Option<usize>,
    /// Positions, up to the planned number.
    pub context: Option<usize>,
    /// What computes.
    pub backend: Backend,
}

/// States, arena and threads of one conversation.
///
/// Tokens go in by [`prefill`](Session::prefill) and [`decode`](Session::decode); each gives the logits of what
/// follows. On the CPU, logits depend on the tokens alone: not on threads, ISA tier, or how tokens are divided between
/// calls. On a GPU they are near those of the CPU.
#[derive(Debug)]
pub struct Session {
    model: Model,
    engine: Engine,
    chunk: usize,
    /// What was taken in.
    tokens: Vec<u32>,
    checkpoints: Checkpoints,
    /// The logits after the last prompt, and its end; 0 when there is none.
    after: Vec<f32>,
    after_position: usize,
}

/// A prompt taken in from the beginning.
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// How many of its tokens were not computed again.
    pub reused: usize,
    /// The logits after its last token.
    pub logits: &'a [f32],
}

/// What runs the program.
#[derive(Debug)]
enum Engine {
    Cpu(Box<Cpu>),
    #[cfg(feature = "wgpu")]
    Gpu(Box<crate::gpu::Engine>),
}

/// A program on the CPU, with its states.
#[derive(Debug)]
pub(crate) struct Cpu {
    pub(crate) executor: Executor,
    pub(crate) states: States,
}

impl Cpu {
    /// States and arena of `program`.
    pub(crate) fn new(model: &Model, options: &Options, context: usize) -> Result<Cpu> {
        let plan = model.plan();
        let planned = || match (model.target().cores, machine::threads()) {
            (0, fast) => fast,
            (cores, fast) => fast.min(cores as usize),
        };
        let threads =
            within("threads", options.threads, MAX_THREADS, options.threads.unwrap_or_else(planned))?;
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
        let (slots, _) = checkpoints::planned(model);
        let states = States::new(&model.program().states, context, slots).ok_or_else(no_room)?;
        let executor = Executor::new(model.program(), plan, pool, kernels).ok_or_else(no_room)?;
        let executor = executor.with_pager(model.pager().cloned());
        Ok(Cpu { executor, states })
    }
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
        if let Some(pager) = model.pager() {
            pager.admits(context, options.backend == Backend::Cpu)?;
        }
        let engine = match &options.backend {
            Backend::Cpu => Engine::Cpu(Box::new(Cpu::new(&model, options, context)?)),
            #[cfg(feature = "wgpu")]
            Backend::Wgpu { adapter, layers } => {
                let gpu =
                    crate::gpu::Engine::new(&model, options, adapter.as_deref(), *layers, chunk, context)?;
                Engine::Gpu(Box::new(gpu))
            }
            #[cfg(not(feature = "wgpu"))]
            Backend::Wgpu { .. } => {
                return Err(Error::Argument(
                    "this build has no wgpu backend, expected backend cpu or a build with feature `wgpu`"
                        .into(),
                ));
            }
        };
        let checkpoints = Checkpoints::new(checkpoints::planned(&model), chunk, context);
        let after = vec![0.0; model.vocab()];
        let tokens = Vec::with_capacity(context);
        Ok(Session { engine, chunk, model, tokens, checkpoints, after, after_position: 0 })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Positions taken so far.
    pub fn past(&self) -> usize {
        match &self.engine {
            Engine::Cpu(cpu) => cpu.states.past,
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.past(),
        }
    }

    /// Positions there are.
    pub fn context(&self) -> usize {
        match &self.engine {
            Engine::Cpu(cpu) => cpu.states.context,
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.context(),
        }
    }

    /// The part that runs on the CPU, if there is one.
    fn cpu(&self) -> Option<&Cpu> {
        match &self.engine {
            Engine::Cpu(cpu) => Some(cpu),
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.cpu(),
        }
    }

    /// Threads that compute: one where all runs on a GPU.
    pub fn threads(&self) -> usize {
        self.cpu().map_or(1, |cpu| cpu.executor.pool.threads())
    }

    /// The ISA tier of the CPU's kernels.
    pub fn isa(&self) -> &'static str {
        self.cpu().map_or_else(|| kernels::best().name(), |cpu| cpu.executor.kernels.name())
    }

    /// The GPU that computes, if one does.
    pub fn device(&self) -> Option<String> {
        match &self.engine {
            Engine::Cpu(_) => None,
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => Some(gpu.describe()),
        }
    }

    /// Bytes of GPU memory held, and the seconds that the upload of weights has taken; nothing on the CPU.
    pub fn device_memory(&self) -> Option<(u64, f64)> {
        match &self.engine {
            Engine::Cpu(_) => None,
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => {
                let (bytes, upload) = gpu.memory();
                Some((bytes, upload.as_secs_f64()))
            }
        }
    }

    /// Submissions to the GPU since the session began, uploads of weights left out; none on the CPU.
    pub fn submissions(&self) -> u64 {
        match &self.engine {
            Engine::Cpu(_) => 0,
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.submissions(),
        }
    }

    /// Most tokens of one pass.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// The tokens taken in so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The positions to which the session can go back, ascending, without 0 and where it is.
    pub fn checkpoints(&self) -> Vec<usize> {
        self.checkpoints.used().into_iter().map(|(position, _)| position).collect()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        // Nothing is left to be wrong on a device that fails here: the next pass says so.
        let _ = self.go_back(0, None);
    }

    /// Goes back to the last checkpoint up to `position`, and says where that is. A position that is not behind the
    /// session changes nothing.
    ///
    /// # Errors
    /// When a GPU fails.
    pub fn rewind(&mut self, position: usize) -> Result<usize> {
        if position < self.past() {
            let (position, slot) = self.checkpoints.last(position);
            self.go_back(position, slot)?;
        }
        Ok(self.past())
    }

    /// Goes back to the position whose windows are in `slot`.
    fn go_back(&mut self, position: usize, slot: Option<usize>) -> Result<()> {
        self.tokens.truncate(position);
        self.checkpoints.forget_after(position);
        if self.after_position > position {
            self.after_position = 0;
        }
        match &mut self.engine {
            Engine::Cpu(cpu) => {
                cpu.states.go_back(position, slot);
                Ok(())
            }
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.go_back(position, slot),
        }
    }

    /// Keeps a checkpoint here.
    fn keep(&mut self) {
        if let Some(slot) = self.checkpoints.take(self.past()) {
            match &mut self.engine {
                Engine::Cpu(cpu) => cpu.states.keep(slot),
                #[cfg(feature = "wgpu")]
                Engine::Gpu(gpu) => gpu.keep(slot),
            }
        }
    }

    /// Takes `tokens` in from the beginning, and gives the logits after the last of them, `[vocab]`. What the session
    /// holds already is not computed again: it goes back to the last checkpoint up to which its tokens are those.
    ///
    /// # Errors
    /// As [`Session::prefill`].
    pub fn start(&mut self, tokens: &[u32]) -> Result<Start<'_>> {
        self.check(0, tokens)?;
        let shared = self.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        if shared == tokens.len()
            && self.after_position == shared
            && (shared == self.past() || self.checkpoints.last(shared).0 == shared)
        {
            self.rewind(shared)?;
            return Ok(Start { reused: shared, logits: &self.after });
        }
        // Logits come from the last token, so that is always computed.
        let reused = self.rewind(shared.min(tokens.len() - 1))?;
        Ok(Start { reused, logits: self.prefill(&tokens[reused..])? })
    }

    /// Takes `tokens` in and gives the logits after the last of them, `[vocab]`.
    ///
    /// # Errors
    /// When there are none, one is outside the vocabulary, or the context is too small: the session is then as before.
    /// When anything else fails, it goes back to a checkpoint.
    pub fn prefill(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.check(self.past(), tokens)?;
        let mark = tokens.len() > 1;
        if mark {
            self.keep();
        }
        self.passes(tokens, false, |_, _| Ok(()))?;
        if mark {
            self.keep();
        }
        let (program, past) = (self.model.program(), self.past());
        let logits = match &mut self.engine {
            Engine::Cpu(cpu) => cpu.executor.logits(program, 1)?,
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.logits(1)?,
        };
        if mark {
            self.after.copy_from_slice(logits);
            self.after_position = past;
        }
        Ok(logits)
    }

    /// Takes tokens in, and hands logits to `sink`: those of all rows, or only of the last: the index of the first
    /// token of a group, and its rows.
    fn passes(
        &mut self,
        mut tokens: &[u32],
        all: bool,
        mut sink: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let mut done = 0;
        while !tokens.is_empty() {
            let rows = tokens.len().min(self.chunk).min(self.checkpoints.room(self.past()));
            let (chunk, rest) = tokens.split_at(rows);
            let first = if all { 0 } else { rows - usize::from(rest.is_empty()) };
            if let Err(error) = self.pass(chunk, first..rows, |rows, logits| sink(done + rows.start, logits))
            {
                // Some windows may have moved on, others not.
                let (position, slot) = self.checkpoints.last(self.tokens.len());
                let _ = self.go_back(position, slot);
                return Err(error);
            }
            self.tokens.extend_from_slice(chunk);
            if self.checkpoints.keeps(self.past()) {
                self.keep();
            }
            done += rows;
            tokens = rest;
        }
        Ok(())
    }

    /// Takes one chunk in, and hands the logits of the rows `wanted` of it to `sink`, some rows at a time.
    fn pass(
        &mut self,
        chunk: &[u32],
        wanted: Range<usize>,
        mut sink: impl FnMut(Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let model = &self.model;
        let (program, weights) = (model.program(), model.weights());
        model.check_file()?;
        let sink = |rows, logits: &[f32]| model.check_file().and_then(|()| sink(rows, logits));
        match &mut self.engine {
            Engine::Cpu(cpu) => {
                let Cpu { executor, states } = cpu.as_mut();
                executor.body(program, weights, states, chunk)?;
                executor.tail(program, weights, states, wanted, sink)?;
            }
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.pass(weights, chunk, wanted, sink)?,
        }
        model.check_file()
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
        sink: impl FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        self.check(self.past(), tokens)?;
        self.passes(tokens, true, sink)
    }

    /// Starts or stops to record which experts are chosen.
    pub fn record_routes(&mut self, on: bool) {
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.executor.routes = on.then(Vec::new),
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.record_routes(on),
        }
    }

    /// The routes since the last call, by layer and position in the order in which they were computed.
    pub fn take_routes(&mut self) -> Vec<Route> {
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.executor.routes.as_mut().map(std::mem::take).unwrap_or_default(),
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.take_routes(),
        }
    }

    /// Starts or stops to record the values of all nodes. A GPU then runs each step by itself.
    #[cfg(feature = "observe")]
    pub fn record_values(&mut self, on: bool) {
        let values = on.then(crate::exec::Values::default);
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.executor.values = values,
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.record_values(on),
        }
    }

    /// The values since the last call, in the order in which they were computed. Nodes that only give another shape to
    /// their argument have none.
    #[cfg(feature = "observe")]
    pub fn take_values(&mut self) -> Vec<NodeRows> {
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.executor.take_values(),
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.take_values(),
        }
    }

    /// Starts to record what steps take, in the order of [`Program::steps`](crate::exec::Program::steps), on top of
    /// `laps`. A GPU then runs each step by itself.
    pub(crate) fn record_laps(&mut self, mut laps: Vec<Lap>) {
        laps.resize(self.model.program().steps().count(), Lap::default());
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.executor.laps = Some(laps),
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.record_laps(laps),
        }
    }

    /// Stops to, and gives what was recorded.
    pub(crate) fn take_laps(&mut self) -> Vec<Lap> {
        match &mut self.engine {
            Engine::Cpu(cpu) => cpu.executor.laps.take().unwrap_or_default(),
            #[cfg(feature = "wgpu")]
            Engine::Gpu(gpu) => gpu.take_laps(),
        }
    }

    /// Whether `tokens` can be taken in behind `past` positions.
    fn check(&self, past: usize, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::Argument("there are no tokens, expected at least one".into()));
        }
        let vocab = self.model.embeddings();
        if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::Token { id: *id, vocab });
        }
        let context = self.context();
        if tokens.len() > context - past {
            return Err(Error::ContextFull { past, wanted: tokens.len(), context });
        }
        Ok(())
    }
}
