//! From steps to dispatches: made once, replayed each call.

use super::buffers::{CALL_STRIDE, Memory};
use super::device::Gpu;
use super::pipeline::{Arithmetic, CALL_BYTES, Constant, PARAMS_BYTES, Shader, Shape};
use crate::error::Result;

/// Workgroups along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// As many.
    Is(u32),
    /// `rows * times / per`, rounded up.
    Rows {
        /// Items of a row.
        times: u32,
        /// Items of a workgroup.
        per: u32,
    },
}

impl Extent {
    /// One workgroup for every row.
    pub(crate) const EACH_ROW: Extent = Extent::Rows { times: 1, per: 1 };

    fn of(self, rows: u32) -> u32 {
        match self {
            Extent::Is(n) => n,
            Extent::Rows { times, per } => {
                let all = (u64::from(rows) * u64::from(times)).div_ceil(u64::from(per.max(1)));
                u32::try_from(all).unwrap_or(u32::MAX)
            }
        }
    }
}

/// How many workgroups a dispatch has.
#[derive(Clone, Debug)]
pub(crate) enum Grid {
    /// Along x, y and z.
    Of([Extent; 3]),
    /// Three numbers that an earlier dispatch has written, `offset` bytes into a buffer.
    Indirect { buffer: wgpu::Buffer, offset: u64 },
}

impl Grid {
    pub(crate) const fn x(x: Extent) -> Grid {
        Grid::Of([x, Extent::Is(1), Extent::Is(1)])
    }

    pub(crate) const fn xy(x: Extent, y: Extent) -> Grid {
        Grid::Of([x, y, Extent::Is(1)])
    }
}

/// For which calls a dispatch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Always,
    /// Of one row.
    One,
    /// Of more than one row.
    Many,
}

/// What is to run.
#[derive(Clone, Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) shader: Shader,
    pub(crate) constants: &'a [Constant],
    /// The bytes of the shader's `struct Params`: u32 and f32, in order.
    pub(crate) params: &'a [u32],
    /// Group 1.
    pub(crate) weights: &'a [&'a wgpu::Buffer],
    /// Group 2.
    pub(crate) states: &'a [&'a wgpu::Buffer],
    pub(crate) grid: Grid,
    pub(crate) when: When,
}

/// A dispatch that can be replayed.
#[derive(Debug)]
struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    weights: wgpu::BindGroup,
    states: wgpu::BindGroup,
    grid: Grid,
    when: When,
    params: u32,
}

/// Collects the dispatches of steps.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) memory: &'a Memory,
    /// Most rows of a call.
    pub(crate) most_rows: usize,
    /// Whether shaders may use subgroup operations.
    pub(crate) subgroups: bool,
    /// Whether all sums keep the order of the CPU, where that costs speed on hardware.
    pub(crate) ordered: bool,
    /// The node whose step is recorded, for messages.
    pub(crate) name: String,
    dispatches: Vec<Dispatch>,
    params: Vec<u32>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(gpu: &'a Gpu, memory: &'a Memory, most_rows: usize) -> Builder<'a> {
        let (subgroups, ordered) = (gpu.subgroups, gpu.arithmetic == Arithmetic::Exact);
        let (name, dispatches, params) = (String::new(), Vec::new(), Vec::new());
        Builder { gpu, memory, most_rows, subgroups, ordered, name, dispatches, params }
    }

    /// How many dispatches there are so far.
    pub(crate) fn len(&self) -> usize {
        self.dispatches.len()
    }

    /// An error at the node that is recorded.
    pub(crate) fn unable(&self, what: impl Into<String>) -> crate::error::Error {
        self.gpu.unable(&self.name, what)
    }

    /// State `index`.
    pub(crate) fn state(&self, index: usize) -> Result<&'a wgpu::Buffer> {
        self.memory.state(index).ok_or_else(|| self.unable("a state that is not on the device"))
    }

    /// A buffer of this step, not initialised.
    pub(crate) fn buffer(&self, label: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        self.gpu
            .allocate(label, bytes, usage)
            .ok_or_else(|| self.unable(format!("the device has no {bytes} bytes for {label}")))
    }

    /// Adds a dispatch.
    pub(crate) fn dispatch(&mut self, launch: Launch<'_>) -> Result<()> {
        let most = self.gpu.limits.max_compute_workgroups_per_dimension;
        if let Grid::Of(grid) = &launch.grid
            && let Some(found) = grid.iter().map(|e| e.of(self.most_rows as u32)).find(|n| *n > most)
        {
            return Err(self.unable(format!("it takes {found} workgroups, expected at most {most}")));
        }
        let shape = Shape { weights: launch.weights.len(), states: launch.states.len() };
        let pipeline =
            self.gpu.pipelines.get(self.gpu, launch.shader, launch.constants, shape).map_err(|what| {
                self.unable(format!("shader {} does not compile: {what}", launch.shader.name))
            })?;
        let group = |layouts: &[wgpu::BindGroupLayout], buffers: &[&wgpu::Buffer]| {
            let layout = layouts.get(buffers.len()).ok_or("too many bindings")?;
            let entries: Vec<_> = (0u32..)
                .zip(buffers)
                .map(|(binding, buffer)| wgpu::BindGroupEntry {
                    binding,
                    resource: buffer.as_entire_binding(),
                })
                .collect();
            let descriptor = wgpu::BindGroupDescriptor { label: None, layout, entries: &entries };
            self.gpu.checked(|| self.gpu.device.create_bind_group(&descriptor))
        };
        let weights = group(&self.gpu.pipelines.weights, launch.weights).map_err(|e| self.unable(e))?;
        let states = group(&self.gpu.pipelines.states, launch.states).map_err(|e| self.unable(e))?;
        let words = (PARAMS_BYTES / 4) as usize;
        if launch.params.len() > words {
            return Err(self.unable("parameters of more than 256 bytes"));
        }
        let params = 4 * self.params.len() as u32;
        self.params.extend_from_slice(launch.params);
        self.params.resize(self.params.len().next_multiple_of(words), 0);
        let (grid, when) = (launch.grid, launch.when);
        self.dispatches.push(Dispatch { pipeline, weights, states, grid, when, params });
        Ok(())
    }

    /// The recording.
    pub(crate) fn finish(self) -> Result<Recording> {
        let Builder { gpu, memory, params, dispatches, name, .. } = self;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let bytes = (4 * params.len() as u64).max(PARAMS_BYTES);
        let buffer = gpu
            .allocate("parameters", bytes, usage)
            .ok_or_else(|| gpu.unable(&name, "the device has no memory for parameters"))?;
        gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&params));
        let part = |buffer, size| {
            let size = std::num::NonZeroU64::new(size);
            wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset: 0, size })
        };
        let entries = [
            memory.arena.as_entire_binding(),
            part(&memory.call, CALL_BYTES),
            part(&buffer, PARAMS_BYTES),
            memory.small.as_entire_binding(),
        ];
        let entries: Vec<_> = (0u32..)
            .zip(entries)
            .map(|(binding, resource)| wgpu::BindGroupEntry { binding, resource })
            .collect();
        let common = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("common"),
            layout: &gpu.pipelines.common,
            entries: &entries,
        });
        Ok(Recording { common, dispatches })
    }
}

/// Dispatches that can be replayed.
#[derive(Debug)]
pub(crate) struct Recording {
    common: wgpu::BindGroup,
    dispatches: Vec<Dispatch>,
}

impl Recording {
    /// Encodes the dispatches `range` for a call of `rows` rows whose uniforms are in `slot`.
    pub(crate) fn encode(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        range: std::ops::Range<usize>,
        slot: u32,
        rows: u32,
    ) {
        for dispatch in self.dispatches.get(range).unwrap_or_default() {
            let runs = match dispatch.when {
                When::Always => true,
                When::One => rows == 1,
                When::Many => rows != 1,
            };
            if !runs {
                continue;
            }
            pass.set_pipeline(&dispatch.pipeline);
            pass.set_bind_group(0, &self.common, &[slot * CALL_STRIDE as u32, dispatch.params]);
            pass.set_bind_group(1, &dispatch.weights, &[]);
            pass.set_bind_group(2, &dispatch.states, &[]);
            match &dispatch.grid {
                Grid::Of(grid) => {
                    let [x, y, z] = grid.map(|extent| extent.of(rows));
                    pass.dispatch_workgroups(x, y, z);
                }
                Grid::Indirect { buffer, offset } => pass.dispatch_workgroups_indirect(buffer, *offset),
            }
        }
    }
}
