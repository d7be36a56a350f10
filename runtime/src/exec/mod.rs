//! Running a program: chunks of tokens through the body, wanted rows through the tail.
//!
//! Every parallel section divides output columns or rows of tokens between threads, never a sum, so results do
//! not depend on how many threads there are.

mod arena;
mod attention;
mod linear;
mod moe;
mod program;
mod rows;
mod state;
pub(crate) mod trig;
#[cfg(feature = "observe")]
mod values;

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lfm_graphs::plan::Plan;

pub(crate) use program::StateShape;
#[cfg(feature = "wgpu")]
pub(crate) use program::{AttentionStep, MoeStep, PanelsAt};
pub(crate) use program::{Kind, MatrixAt, Operand, Program, Rows, Step, VectorAt, compile};
pub(crate) use state::Content;
pub(crate) use state::States;
#[cfg(feature = "observe")]
pub use values::NodeRows;
#[cfg(feature = "observe")]
pub(crate) use values::Values;

use crate::cpu::kernels::{Kernels, Matrix};
use crate::cpu::pool::Pool;
use crate::error::{Error, Result};
use crate::paging::Pager;
use arena::Arena;

/// Everything that one thread of control needs to run a program.
#[derive(Debug)]
pub(crate) struct Executor {
    pub(crate) pool: Pool,
    pub(crate) kernels: &'static dyn Kernels,
    arena: Arena,
    head_rows: usize,
    /// What reads experts that are not in memory.
    pager: Option<Arc<Pager>>,
    /// The routes of the chunk that is running, if they are wanted.
    pub(crate) routes: Option<Vec<Route>>,
    /// What every step has taken, those of the body first, if that is wanted.
    pub(crate) laps: Option<Vec<Lap>>,
    /// The values of every step, if they are wanted.
    #[cfg(feature = "observe")]
    pub(crate) values: Option<Values>,
}

/// What all runs of one step have taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lap {
    pub(crate) time: Duration,
    /// Parallel sections.
    pub(crate) sections: u64,
}

/// Which experts one layer chose for one position.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Name of the node.
    pub layer: String,
    /// Position in the context.
    pub position: usize,
    /// The experts, best first.
    pub ids: Vec<u32>,
    /// Their weights.
    pub weights: Vec<f32>,
}

/// What the steps of one call share.
#[derive(Clone, Copy, Debug)]
struct Call<'a> {
    weights: &'a [u8],
    tokens: &'a [u32],
    past: usize,
}

/// The float view of a weight vector.
fn vector<'a>(weights: &'a [u8], at: &VectorAt) -> Result<&'a [f32], &'static str> {
    let bytes = weights.get(at.offset..at.offset + 4 * at.len).ok_or("a vector outside the weights")?;
    bytemuck::try_cast_slice(bytes).map_err(|_| "a vector that is not aligned")
}

/// Matrix `index` of a stack.
fn matrix<'a>(weights: &'a [u8], at: &MatrixAt, index: usize) -> Result<Matrix<'a>, &'static str> {
    let start = at.offset + index * at.stride;
    let bytes = weights.get(start..start + at.stride).filter(|_| index < at.count);
    let bytes = bytes.ok_or("a matrix outside the weights")?;
    Matrix::new(at.format, at.rows, at.k, bytes).map_err(|_| "a matrix that is too short")
}

impl Executor {
    /// `None` if the system does not have the memory of the arena.
    pub(crate) fn new(
        program: &Program,
        plan: &Plan,
        pool: Pool,
        kernels: &'static dyn Kernels,
    ) -> Option<Executor> {
        let arena = Arena::new(program.arena)?;
        Some(Executor {
            pool,
            kernels,
            arena,
            head_rows: plan.head_rows as usize,
            pager: None,
            routes: None,
            laps: None,
            #[cfg(feature = "observe")]
            values: None,
        })
    }

    /// Takes experts from a pager.
    pub(crate) fn with_pager(self, pager: Option<Arc<Pager>>) -> Executor {
        Executor { pager, ..self }
    }

    /// Runs one chunk through the body. States move on by `tokens.len()` positions.
    pub(crate) fn body(
        &mut self,
        program: &Program,
        weights: &[u8],
        states: &mut States,
        tokens: &[u32],
    ) -> Result<()> {
        if std::mem::replace(&mut states.torn, true) {
            return Err(Error::Torn);
        }
        let call = Call { weights, tokens, past: states.past };
        #[cfg(feature = "observe")]
        if let Some(values) = &mut self.values {
            values.past = states.past;
        }
        for (index, step) in program.body.iter().enumerate() {
            self.timed(index, step, call, states, tokens.len(), 0..0)?;
            #[cfg(feature = "observe")]
            self.keep(step, 0..tokens.len())?;
        }
        states.past += tokens.len();
        states.torn = false;
        Ok(())
    }

    /// Runs `rows` of the last chunk through the tail and hands their logits on, some rows at a time.
    pub(crate) fn tail(
        &mut self,
        program: &Program,
        weights: &[u8],
        states: &mut States,
        rows: Range<usize>,
        mut sink: impl FnMut(Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let call = Call { weights, tokens: &[], past: states.past };
        let mut next = rows.start;
        while next < rows.end {
            let some = next..rows.end.min(next + self.head_rows);
            for (index, step) in (program.body.len()..).zip(&program.tail) {
                self.timed(index, step, call, states, some.len(), some.clone())?;
                #[cfg(feature = "observe")]
                self.keep(step, some.clone())?;
            }
            sink(some.clone(), self.logits(program, some.len())?)?;
            next = some.end;
        }
        Ok(())
    }

    /// The logits of the first `rows` rows of the last run of the tail.
    pub(crate) fn logits(&mut self, program: &Program, rows: usize) -> Result<&[f32]> {
        let fault = |what| Error::Internal { at: "the logits".into(), what };
        let (_, rest) = self.arena.split([]).ok_or_else(|| fault("there is no arena"))?;
        rest.get(program.logits.range(rows)).ok_or_else(|| fault("they lie outside the arena"))
    }

    /// Floats of the arena.
    #[cfg(any(feature = "wgpu", feature = "observe"))]
    pub(crate) fn floats(&mut self, range: Range<usize>) -> Option<&[f32]> {
        self.arena.split([])?.1.get(range)
    }

    /// Runs step `index`, and notes what it takes if that is wanted.
    fn timed(
        &mut self,
        index: usize,
        step: &Step,
        call: Call<'_>,
        states: &mut States,
        rows: usize,
        chosen: Range<usize>,
    ) -> Result<()> {
        if self.laps.is_none() {
            return self.step(step, call, states, rows, chosen);
        }
        let (start, sections) = (Instant::now(), self.pool.sections());
        self.step(step, call, states, rows, chosen)?;
        if let Some(lap) = self.laps.as_mut().and_then(|laps| laps.get_mut(index)) {
            lap.time += start.elapsed();
            lap.sections += self.pool.sections() - sections;
        }
        Ok(())
    }

    /// The values that were kept since the last call.
    #[cfg(feature = "observe")]
    pub(crate) fn take_values(&mut self) -> Vec<NodeRows> {
        self.values.as_mut().map(|values| std::mem::take(&mut values.kept)).unwrap_or_default()
    }

    /// Keeps what a step gave for rows of the last chunk, if that is wanted.
    #[cfg(feature = "observe")]
    fn keep(&mut self, step: &Step, rows: Range<usize>) -> Result<()> {
        let Some(mut values) = self.values.take() else { return Ok(()) };
        let kept = values.keep(step, rows.start, |out| {
            let outside = || Error::Internal { at: step.name.clone(), what: "a value outside the arena" };
            self.floats(out.range(rows.len())).map(<[f32]>::to_vec).ok_or_else(outside)
        });
        self.values = Some(values);
        kept
    }

    fn step(
        &mut self,
        step: &Step,
        call: Call<'_>,
        states: &mut States,
        rows: usize,
        chosen: Range<usize>,
    ) -> Result<()> {
        let done = match &step.kind {
            Kind::Alias => Ok(()),
            Kind::Embed { table, out } => self.embed(call, table, *out),
            Kind::Norm { x, weight, eps, out } => self.norm(call, *x, weight, *eps, *out, rows),
            Kind::RopeTable { inv_freq, cos, sin } => self.rope_table(call, inv_freq, *cos, *sin, rows),
            Kind::Rope { x, cos, sin, out } => self.rope(*x, *cos, *sin, *out, rows),
            Kind::Linear { x, w, bias, residual, out } => {
                self.linear(call, *x, w, bias.as_ref(), *residual, *out, rows)
            }
            Kind::SwiGlu { x, gate, up, out } => self.swiglu(call, *x, gate, up, *out, rows),
            Kind::ConvGate { bcx, kernel, bias, state, out } => {
                self.conv_gate(call, *bcx, kernel, bias.as_ref(), &mut states.contents[*state], *out, rows)
            }
            Kind::Attention(attention) => self.attention(call, attention, states, rows),
            Kind::Moe(moe) => return self.moe(call, &step.name, moe, rows),
            Kind::Add { a, b, out } => self.add(*a, *b, *out, rows),
            Kind::LastRow { x, out } => self.choose_rows(*x, *out, chosen),
        };
        done.map_err(|what| Error::Internal { at: step.name.clone(), what })
    }
}
