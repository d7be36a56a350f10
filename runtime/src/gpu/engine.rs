//! What a session runs on a GPU: all layers, or the last ones with the first on the CPU.

use std::ops::Range;

use super::device::{Adapter, Gpu};
use super::executor::{GpuExecutor, Sizes};
use super::needs;
use crate::error::{Error, Result};
use crate::exec::{Lap, Program, Route};
use crate::model::Model;
use crate::session::{Cpu, Options, planned};

/// A program on a device, its first steps perhaps on the CPU.
#[derive(Debug)]
pub(crate) struct Engine {
    first: Option<First>,
    gpu: GpuExecutor,
    layers: usize,
    all_layers: usize,
}

/// The steps before the device's.
#[derive(Debug)]
struct First {
    program: Program,
    cpu: Cpu,
}

/// An error for want of memory, with how many layers there was room for.
fn with_room(error: Error, model: &Model, about: &Adapter, layers: usize, sizes: Sizes) -> Error {
    match error {
        Error::DeviceMemory { adapter, at, needed, had, .. } => {
            let has_room =
                |n: &usize| needs::of(model.program(), about, *n, sizes).is_ok_and(|bytes| bytes <= had);
            Error::DeviceMemory { adapter, at, needed, had, fits: (0..layers).rev().find(has_room) }
        }
        error => error,
    }
}

impl Engine {
    pub(crate) fn new(
        model: &Model,
        options: &Options,
        adapter: Option<&str>,
        wanted: Option<usize>,
        chunk: usize,
        context: usize,
    ) -> Result<Engine> {
        let program = model.program();
        let all = needs::layers(program);
        let layers = match wanted {
            None => all,
            Some(n) if n <= all => n,
            Some(n) => return Err(Error::Argument(format!("GPU layers are {n}, expected 0 to {all}"))),
        };
        let split = needs::split(program, layers);
        let (slots, _) = planned(model);
        let sizes = Sizes { chunk, head_rows: model.plan().head_rows as usize, context, slots };
        let gpu = Gpu::open(adapter)?;
        let about = gpu.adapter.clone();
        let gpu = GpuExecutor::new(gpu, program, split, model.weights(), sizes)
            .map_err(|error| with_room(error, model, &about, layers, sizes))?;
        let first = if split == 0 {
            None
        } else {
            let mut program = program.clone();
            program.body.truncate(split);
            Some(First { program, cpu: Cpu::new(model, options, context)? })
        };
        Ok(Engine { first, gpu, layers, all_layers: all })
    }

    pub(crate) fn cpu(&self) -> Option<&Cpu> {
        self.first.as_ref().map(|first| &first.cpu)
    }

    /// The adapter, what it holds and how many layers it runs.
    pub(crate) fn describe(&self) -> String {
        let (adapter, layers, all) = (self.gpu.adapter(), self.layers, self.all_layers);
        let bytes = lfm_graphs::target::ByteSize(self.gpu.bytes()).approx();
        format!("{adapter}, {layers} of {all} layers, {bytes}")
    }

    /// Bytes on the device, and what the upload of weights has taken.
    pub(crate) fn memory(&self) -> (u64, std::time::Duration) {
        (self.gpu.bytes(), self.gpu.upload())
    }

    pub(crate) fn past(&self) -> usize {
        self.gpu.past()
    }

    pub(crate) fn context(&self) -> usize {
        self.gpu.context()
    }

    pub(crate) fn submissions(&self) -> u64 {
        self.gpu.submissions
    }

    /// Keeps the windows in `slot`.
    pub(crate) fn keep(&mut self, slot: usize) {
        if let Some(First { cpu, .. }) = &mut self.first {
            cpu.states.keep(slot);
        }
        self.gpu.keep(slot);
    }

    /// Goes back to `past` positions, whose windows are in `slot`; to the beginning without one.
    pub(crate) fn go_back(&mut self, past: usize, slot: Option<usize>) -> Result<()> {
        if let Some(First { cpu, .. }) = &mut self.first {
            cpu.states.go_back(past, slot);
        }
        self.gpu.go_back(past, slot)
    }

    /// As [`GpuExecutor::pass`].
    pub(crate) fn pass(
        &mut self,
        weights: &[u8],
        tokens: &[u32],
        wanted: Range<usize>,
        sink: impl FnMut(Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if let Some(First { program, cpu }) = &mut self.first {
            cpu.executor.body(program, weights, &mut cpu.states, tokens)?;
            for rows in self.gpu.crossing() {
                let fault =
                    || Error::Internal { at: "the first layers".into(), what: "a value outside the arena" };
                let values = cpu.executor.floats(rows.range(tokens.len())).ok_or_else(fault)?;
                self.gpu.put(rows.start, values);
            }
        }
        self.gpu.pass(tokens, wanted, sink)
    }

    pub(crate) fn logits(&self, rows: usize) -> Result<&[f32]> {
        self.gpu.logits(rows)
    }

    pub(crate) fn record_routes(&mut self, on: bool) {
        if let Some(First { cpu, .. }) = &mut self.first {
            cpu.executor.routes = on.then(Vec::new);
        }
        self.gpu.record_routes(on);
    }

    pub(crate) fn take_routes(&mut self) -> Vec<Route> {
        let cpu = self.first.as_mut().and_then(|first| first.cpu.executor.routes.as_mut());
        let mut routes = cpu.map(std::mem::take).unwrap_or_default();
        routes.append(&mut self.gpu.take_routes());
        routes
    }

    #[cfg(feature = "observe")]
    pub(crate) fn record_values(&mut self, on: bool) {
        if let Some(First { cpu, .. }) = &mut self.first {
            cpu.executor.values = on.then(crate::exec::Values::default);
        }
        self.gpu.values = on.then(crate::exec::Values::default);
    }

    #[cfg(feature = "observe")]
    pub(crate) fn take_values(&mut self) -> Vec<crate::exec::NodeRows> {
        let mut values =
            self.first.as_mut().map(|first| first.cpu.executor.take_values()).unwrap_or_default();
        values.extend(
            self.gpu.values.as_mut().map(|values| std::mem::take(&mut values.kept)).unwrap_or_default(),
        );
        values
    }

    pub(crate) fn record_laps(&mut self, laps: Vec<Lap>) {
        if let Some(First { cpu, .. }) = &mut self.first {
            cpu.executor.laps = Some(laps.clone());
        }
        self.gpu.laps = Some(laps);
    }

    pub(crate) fn take_laps(&mut self) -> Vec<Lap> {
        let mut laps = self.gpu.laps.take().unwrap_or_default();
        if let Some(First { program, cpu }) = &mut self.first {
            let first = cpu.executor.laps.take().unwrap_or_default();
            for (lap, first) in laps.iter_mut().zip(first).take(program.body.len()) {
                *lap = first;
            }
        }
        laps
    }
}
