//! Chunks through the body, wanted rows through the tail: one submission for both.

use std::collections::BTreeSet;
use std::ops::Range;

use super::buffers::{CALL_STRIDE, Layout, Memory};
use super::device::Gpu;
use super::kernels::{attention, conv_gate, linear, moe, rows};
use super::record::{Builder, Recording};
use super::routes::{Routes, Routing};
use crate::error::{Error, Result};
use crate::exec::{Kind, Lap, MoeStep, Operand, PanelsAt, Program, Route, Rows, Step, VectorAt};

/// What a device needs to run the steps of a program from `split` on.
#[derive(Debug)]
pub(crate) struct GpuExecutor {
    memory: Memory,
    recording: Recording,
    /// The first step here.
    split: usize,
    /// Where the dispatches of each step end, those of the body first.
    ends: Vec<usize>,
    /// Dispatches of body and tail.
    body: Range<usize>,
    tail: Range<usize>,
    /// The routers of the body.
    routing: Vec<Routing>,
    routes: Option<Routes>,
    routes_wanted: bool,
    /// What every step of the program has taken, if that is wanted.
    pub(crate) laps: Option<Vec<Lap>>,
    /// The values of the steps here, if they are wanted.
    #[cfg(feature = "observe")]
    pub(crate) values: Option<crate::exec::Values>,
    /// The steps here.
    #[cfg(feature = "observe")]
    steps: Vec<Step>,
    chunk: usize,
    tables: Vec<rows::Table>,
    /// Values that steps before `split` leave in the arena for those after.
    crossing: Vec<Rows>,
    /// Logits on their way to the host, `[head_rows][vocab]`.
    back: wgpu::Buffer,
    logits: Vec<f32>,
    at: Rows,
    head_rows: usize,
    past: usize,
    /// Submissions so far, those of uploads and checkpoints left out.
    pub(crate) submissions: u64,
    /// Dropped last: buffers go before their device.
    gpu: Gpu,
}

/// The values that `steps` read and none of them has written.
fn crossing<'a>(steps: impl Iterator<Item = &'a Step>) -> Vec<Rows> {
    let mut written = BTreeSet::new();
    let mut found: Vec<Rows> = Vec::new();
    for step in steps {
        let (reads, writes) = step.kind.rows();
        for read in reads {
            if !written.contains(&read.start) && found.iter().all(|rows| rows.start != read.start) {
                found.push(read);
            }
        }
        written.extend(writes.iter().map(|rows| rows.start));
    }
    found
}

/// Records the dispatches of steps.
struct Recorder<'a> {
    builder: Builder<'a>,
    tables: Vec<rows::Table>,
    /// Int8 forms that were made on the device: of which rows, where.
    made: BTreeSet<(usize, usize)>,
}

impl Recorder<'_> {
    /// The operand, whose int8 form is to be made unless the device has made it.
    fn operand(&mut self, x: Operand) -> Operand {
        let panels = x.panels.map(|panels| {
            let first = self.made.insert((x.rows.start, panels.start));
            PanelsAt { make: panels.make || first, ..panels }
        });
        Operand { panels, ..x }
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        self.builder.name.clone_from(&step.name);
        match &step.kind {
            Kind::Alias => Ok(()),
            Kind::Embed { table, out } => linear::embed(&mut self.builder, table, *out),
            Kind::Norm { x, weight, eps, out } => rows::norm(&mut self.builder, *x, weight, *eps, *out),
            Kind::RopeTable { inv_freq, cos, sin } => {
                self.tables.push(rows::rope_table(&mut self.builder, inv_freq, *cos, *sin)?);
                Ok(())
            }
            Kind::Rope { x, cos, sin, out } => rows::rope(&mut self.builder, *x, *cos, *sin, *out),
            Kind::Linear { x, w, bias, residual, out } => {
                let x = self.operand(*x);
                linear::linear(&mut self.builder, x, w, bias.as_ref(), *residual, *out)
            }
            Kind::SwiGlu { x, gate, up, out } => {
                let x = self.operand(*x);
                linear::swiglu(&mut self.builder, x, gate, up, *out)
            }
            Kind::ConvGate { bcx, kernel, bias, state, out } => {
                conv_gate::conv_gate(&mut self.builder, *bcx, kernel, bias.as_ref(), *state, *out)
            }
            Kind::Attention(attention) => attention::attention(&mut self.builder, attention),
            Kind::Moe(step) => {
                let x = self.operand(step.x);
                moe::moe(&mut self.builder, &crate::exec::MoeStep { x, ..step.clone() })
            }
            Kind::Add { a, b, out } => rows::add(&mut self.builder, *a, *b, *out),
            Kind::LastRow { x, out } => rows::last_row(&mut self.builder, *x, *out),
        }
    }
}

/// What is added to the scores of experts, `[experts]`.
fn selection_bias(weights: &[u8], step: &MoeStep) -> Option<Vec<f32>> {
    match step.bias {
        None => Some(vec![0.0; step.gate.count]),
        Some(VectorAt { offset, len }) => {
            Some(bytemuck::pod_collect_to_vec(weights.get(offset..offset.checked_add(4 * len)?)?))
        }
    }
}

/// Sizes of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) chunk: usize,
    pub(crate) head_rows: usize,
    pub(crate) context: usize,
    /// Earlier windows that are kept.
    pub(crate) slots: usize,
}

impl GpuExecutor {
    /// Uploads what the steps from `split` of the body on need, and compiles them.
    ///
    /// # Errors
    /// When the device cannot hold or run them.
    pub(crate) fn new(
        gpu: Gpu,
        program: &Program,
        split: usize,
        weights: &[u8],
        sizes: Sizes,
    ) -> Result<GpuExecutor> {
        let steps = || program.body.iter().skip(split).chain(&program.tail);
        let crossing = crossing(steps());
        let Sizes { chunk, head_rows, context, .. } = sizes;
        let layout = Layout::new(steps(), program.arena, &program.states, sizes, gpu.most_bound())
            .map_err(|(at, what)| gpu.unable(&at, what))?;
        let memory = Memory::new(&gpu, layout, weights, &program.states, context)?;
        let builder = Builder::new(&gpu, &memory, chunk);
        let mut recorder = Recorder { builder, tables: Vec::new(), made: BTreeSet::new() };
        let (mut ends, mut routing) = (Vec::new(), Vec::new());
        let mut middle = 0;
        for (index, step) in steps().enumerate() {
            if index == program.body.len() - split {
                middle = recorder.builder.len();
            }
            recorder.step(step)?;
            ends.push(recorder.builder.len());
            if let Kind::Moe(moe) = &step.kind {
                let bias = selection_bias(weights, moe)
                    .ok_or_else(|| gpu.unable(&step.name, "no selection bias"))?;
                routing.extend(Routing::new(&step.name, moe, bias, chunk, recorder.builder.len()));
            }
        }
        let end = recorder.builder.len();
        let Recorder { builder, tables, .. } = recorder;
        let bytes = 4 * (head_rows * program.vocab) as u64;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let back = builder.buffer("logits", bytes, usage)?;
        let recording = builder.finish()?;
        Ok(GpuExecutor {
            memory,
            recording,
            split,
            ends,
            routing,
            routes: None,
            routes_wanted: false,
            laps: None,
            #[cfg(feature = "observe")]
            values: None,
            #[cfg(feature = "observe")]
            steps: steps().cloned().collect(),
            chunk,
            body: 0..middle,
            tail: middle..end,
            tables,
            crossing,
            back,
            logits: vec![0.0; head_rows * program.vocab],
            at: program.logits,
            head_rows,
            past: 0,
            submissions: 0,
            gpu,
        })
    }

    /// The adapter.
    pub(crate) fn adapter(&self) -> &super::Adapter {
        &self.gpu.adapter
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> u64 {
        self.memory.bytes
    }

    /// What the upload of weights has taken.
    pub(crate) fn upload(&self) -> std::time::Duration {
        self.memory.upload
    }

    /// Positions taken.
    pub(crate) fn past(&self) -> usize {
        self.past
    }

    /// Positions there are.
    pub(crate) fn context(&self) -> usize {
        self.memory.context
    }

    /// Keeps the windows in `slot`.
    pub(crate) fn keep(&mut self, slot: usize) {
        let mut encoder = self.encoder();
        for (window, kept, bytes) in self.memory.windows() {
            encoder.copy_buffer_to_buffer(window, 0, kept, slot as u64 * bytes, bytes);
        }
        self.gpu.queue.submit([encoder.finish()]);
    }

    /// Goes back to `past` positions, whose windows are in `slot`; to the beginning without one.
    pub(crate) fn go_back(&mut self, past: usize, slot: Option<usize>) -> Result<()> {
        self.past = past;
        let mut encoder = self.encoder();
        for (window, kept, bytes) in self.memory.windows() {
            match slot {
                Some(slot) => encoder.copy_buffer_to_buffer(kept, slot as u64 * bytes, window, 0, bytes),
                None => encoder.clear_buffer(window, 0, None),
            }
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.check()
    }

    /// The values that steps before the first one here leave in the arena, as rows.
    pub(crate) fn crossing(&self) -> &[Rows] {
        &self.crossing
    }

    /// Puts a value into the arena, at its offset in floats.
    pub(crate) fn put(&self, start: usize, values: &[f32]) {
        self.gpu.queue.write_buffer(&self.memory.arena, 4 * start as u64, bytemuck::cast_slice(values));
    }

    /// Runs a chunk through the body and its rows `wanted` through the tail, and hands their logits on, some rows at
    /// a time. States move on by `tokens.len()` positions.
    pub(crate) fn pass(
        &mut self,
        tokens: &[u32],
        wanted: Range<usize>,
        mut sink: impl FnMut(Range<usize>, &[f32]) -> Result<()>,
    ) -> Result<()> {
        if self.routes_wanted && self.routes.is_none() {
            return Err(self.gpu.unable("the routes", "the device has no memory for them"));
        }
        self.call(0, tokens.len(), 0, tokens);
        for table in &mut self.tables {
            table.write(&self.gpu, self.past, tokens.len());
        }
        let mut body = Some(tokens.len() as u32);
        let mut next = wanted.start;
        while body.is_some() || next < wanted.end {
            let some = next..wanted.end.min(next + self.head_rows).max(next);
            let rows = body.take();
            self.submit(rows, some.clone())?;
            if let (Some(routes), Some(rows)) = (&mut self.routes, rows) {
                routes.read(&self.gpu, &self.routing, self.past, rows as usize)?;
            }
            if !some.is_empty() {
                self.read(some.len())?;
                sink(some.clone(), self.logits(some.len())?)?;
            }
            next = some.end;
        }
        self.past += tokens.len();
        self.gpu.check()
    }

    /// The first `rows` rows of logits that came back last.
    pub(crate) fn logits(&self, rows: usize) -> Result<&[f32]> {
        let fault = Error::Internal { at: "the logits".into(), what: "there are fewer rows" };
        self.logits.get(..rows * self.at.width).ok_or(fault)
    }

    /// Writes the uniforms of a call.
    fn call(&self, slot: u64, rows: usize, first: usize, tokens: &[u32]) {
        let numbers = [rows, self.past, first, self.memory.context].map(|n| n as u32);
        let at = slot * CALL_STRIDE;
        self.gpu.queue.write_buffer(&self.memory.call, at, bytemuck::cast_slice(&numbers));
        if !tokens.is_empty() {
            self.gpu.queue.write_buffer(&self.memory.call, at + 16, bytemuck::cast_slice(tokens));
        }
    }

    /// Submits the body for as many rows, if any, and the tail for some rows of the last chunk.
    fn submit(&mut self, body: Option<u32>, some: Range<usize>) -> Result<()> {
        if !some.is_empty() {
            self.call(1, some.len(), some.start, &[]);
        }
        if self.is_watched() {
            return self.submit_each(body, some);
        }
        let mut encoder = self.encoder();
        if let Some(rows) = body {
            let mut next = self.body.start;
            // Behind each router the pass ends, and its routes are copied.
            for (index, layer) in self.routing.iter().enumerate().take_while(|_| self.routes.is_some()) {
                self.encode(&mut encoder, next..layer.end, 0, rows);
                if let Some(routes) = &self.routes {
                    routes.encode(&mut encoder, &self.memory.arena, &self.routing, index, rows as usize);
                }
                next = layer.end;
            }
            self.encode(&mut encoder, next..self.body.end, 0, rows);
        }
        if !some.is_empty() {
            self.encode(&mut encoder, self.tail.clone(), 1, some.len() as u32);
            self.copy_logits(&mut encoder, some.len());
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.submissions += 1;
        Ok(())
    }

    fn encoder(&self) -> wgpu::CommandEncoder {
        self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default())
    }

    /// Encodes dispatches as one pass.
    fn encode(&self, encoder: &mut wgpu::CommandEncoder, range: Range<usize>, slot: u32, rows: u32) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        self.recording.encode(&mut pass, range, slot, rows);
    }

    fn copy_logits(&self, encoder: &mut wgpu::CommandEncoder, rows: usize) {
        let bytes = 4 * (rows * self.at.width) as u64;
        encoder.copy_buffer_to_buffer(&self.memory.arena, 4 * self.at.start as u64, &self.back, 0, bytes);
    }

    /// Whether something is to be known about each step.
    fn is_watched(&self) -> bool {
        #[cfg(feature = "observe")]
        if self.values.is_some() {
            return true;
        }
        self.laps.is_some()
    }

    /// The same with a submission for each step, and how long each takes or what it gives.
    fn submit_each(&mut self, body: Option<u32>, some: Range<usize>) -> Result<()> {
        let mut start = 0;
        for index in 0..self.ends.len() {
            let range = start..self.ends.get(index).copied().unwrap_or(start);
            let tail = range.end > self.body.end;
            start = range.end;
            let (slot, rows) = if tail { (1, some.clone()) } else { (0, 0..body.unwrap_or(0) as usize) };
            if rows.is_empty() || range.is_empty() {
                continue;
            }
            let began = std::time::Instant::now();
            let mut encoder = self.encoder();
            self.encode(&mut encoder, range.clone(), slot, rows.len() as u32);
            let layer = self.routing.iter().position(|layer| layer.end == range.end);
            if let (Some(routes), Some(layer)) = (&self.routes, layer) {
                routes.encode(&mut encoder, &self.memory.arena, &self.routing, layer, rows.len());
            }
            self.gpu.queue.submit([encoder.finish()]);
            self.gpu.wait()?;
            self.submissions += 1;
            if let Some(lap) = self.laps.as_mut().and_then(|laps| laps.get_mut(self.split + index)) {
                lap.time += began.elapsed();
            }
            #[cfg(feature = "observe")]
            self.keep_values(index, rows)?;
        }
        if !some.is_empty() {
            let mut encoder = self.encoder();
            self.copy_logits(&mut encoder, some.len());
            self.gpu.queue.submit([encoder.finish()]);
            self.submissions += 1;
        }
        Ok(())
    }

    /// Keeps what step `index` gave for rows of the chunk, if that is wanted.
    #[cfg(feature = "observe")]
    fn keep_values(&mut self, index: usize, rows: Range<usize>) -> Result<()> {
        let Some(mut values) = self.values.take() else { return Ok(()) };
        values.past = self.past;
        let kept = match self.steps.get(index) {
            Some(step) => values.keep(step, rows.start, |out| self.floats(out.range(rows.len()))),
            None => Ok(()),
        };
        self.values = Some(values);
        kept
    }

    /// Floats of the arena, copied back.
    #[cfg(feature = "observe")]
    fn floats(&self, range: Range<usize>) -> Result<Vec<f32>> {
        let bytes = 4 * range.len() as u64;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let no_room = || self.gpu.unable("a value", format!("the device has no {bytes} bytes for it"));
        let back = self.gpu.allocate("a value", bytes.max(4), usage).ok_or_else(no_room)?;
        let mut encoder = self.encoder();
        encoder.copy_buffer_to_buffer(&self.memory.arena, 4 * range.start as u64, &back, 0, bytes);
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.read(&back, bytes, "a value", bytemuck::pod_collect_to_vec)
    }

    /// Starts or stops to record which experts are chosen.
    pub(crate) fn record_routes(&mut self, on: bool) {
        self.routes_wanted = on;
        self.routes = if on { Routes::new(&self.gpu, &self.routing, self.chunk) } else { None };
    }

    /// The routes since the last call.
    pub(crate) fn take_routes(&mut self) -> Vec<Route> {
        self.routes.as_mut().map(Routes::take).unwrap_or_default()
    }

    /// Waits for logits and takes them.
    fn read(&mut self, rows: usize) -> Result<()> {
        let floats = rows * self.at.width;
        let fault = || Error::Internal { at: "the logits".into(), what: "there are fewer rows" };
        let into = self.logits.get_mut(..floats).ok_or_else(fault)?;
        self.gpu.read(&self.back, 4 * floats as u64, "the logits", |bytes| {
            bytemuck::cast_slice_mut(into).copy_from_slice(bytes);
        })
    }
}
