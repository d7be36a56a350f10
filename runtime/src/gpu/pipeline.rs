//! Shaders, bind group layouts, and pipelines that are compiled once.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::device::Gpu;

/// What every shader begins with.
const COMMON: &str = include_str!("shaders/common.wgsl");
const NATIVE: &str = include_str!("shaders/arithmetic_native.wgsl");
const F64: &str = include_str!("shaders/arithmetic_f64.wgsl");

/// How floats are computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    /// As the device does.
    Native,
    /// In f64, and every sum in the order of the CPU, so that the bits are the CPU's: for software devices.
    Exact,
}

/// Most weight bindings of a shader.
pub(crate) const MAX_WEIGHTS: usize = 4;
/// Most bindings of a shader that it writes, besides the arena.
pub(crate) const MAX_STATES: usize = 3;

/// The source of a shader. Its entry point is `main`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shader {
    /// A name of its own.
    pub(crate) name: &'static str,
    /// What follows [`COMMON`] and the arithmetic.
    pub(crate) parts: &'static [&'static str],
}

impl Shader {
    /// The whole source.
    pub(crate) fn source(&self, arithmetic: Arithmetic) -> String {
        let arithmetic = match arithmetic {
            Arithmetic::Native => NATIVE,
            Arithmetic::Exact => F64,
        };
        [COMMON, arithmetic].iter().chain(self.parts).copied().collect()
    }
}

/// A pipeline-overridable constant and its value.
pub(crate) type Constant = (&'static str, f64);

/// Bytes of the uniforms of a call: four numbers and the tokens of the largest chunk.
pub(crate) const CALL_BYTES: u64 = 16 + 4 * lfm_graphs::plan::MAX_CHUNK as u64;
/// Bytes of the parameters of a dispatch.
pub(crate) const PARAMS_BYTES: u64 = 256;

/// Which bindings of groups 1 and 2 a shader has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shape {
    pub(crate) weights: usize,
    pub(crate) states: usize,
}

/// The name of a shader, and its constants by name and bits.
type Key = (&'static str, Vec<(&'static str, u64)>);

/// Layouts, and the pipelines that exist.
#[derive(Debug)]
pub(crate) struct Pipelines {
    /// Group 0.
    pub(crate) common: wgpu::BindGroupLayout,
    /// Group 1, by the number of its bindings.
    pub(crate) weights: Vec<wgpu::BindGroupLayout>,
    /// Group 2, by the number of its bindings.
    pub(crate) states: Vec<wgpu::BindGroupLayout>,
    made: Mutex<BTreeMap<Key, wgpu::ComputePipeline>>,
}

fn entry(binding: u32, ty: wgpu::BufferBindingType, dynamic: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: dynamic, min_binding_size: None },
        count: None,
    }
}

impl Pipelines {
    pub(crate) fn new(device: &wgpu::Device) -> Pipelines {
        use wgpu::BufferBindingType::{Storage, Uniform};
        let layout = |label: &str, entries: &[wgpu::BindGroupLayoutEntry]| {
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(label), entries })
        };
        let many = |label: &str, most: usize, read_only: bool| {
            let entries: Vec<_> = (0..most as u32).map(|n| entry(n, Storage { read_only }, false)).collect();
            (0..=most).map(|n| layout(label, &entries[..n])).collect()
        };
        Pipelines {
            common: layout(
                "common",
                &[
                    entry(0, Storage { read_only: false }, false),
                    entry(1, Uniform, true),
                    entry(2, Uniform, true),
                    entry(3, Storage { read_only: true }, false),
                ],
            ),
            weights: many("weights", MAX_WEIGHTS, true),
            states: many("states", MAX_STATES, false),
            made: Mutex::new(BTreeMap::new()),
        }
    }

    /// The pipeline of a shader with constants. `Err` has what the driver said.
    pub(crate) fn get(
        &self,
        gpu: &Gpu,
        shader: Shader,
        constants: &[Constant],
        shape: Shape,
    ) -> Result<wgpu::ComputePipeline, String> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (shader.name, constants.iter().map(|(name, value)| (*name, value.to_bits())).collect());
        if let Some(pipeline) = made.get(&key) {
            return Ok(pipeline.clone());
        }
        let pipeline = gpu.checked(|| self.make(gpu, shader, constants, shape))?;
        made.insert(key, pipeline.clone());
        Ok(pipeline)
    }

    fn make(&self, gpu: &Gpu, shader: Shader, constants: &[Constant], shape: Shape) -> wgpu::ComputePipeline {
        let device = &gpu.device;
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(shader.name),
            source: wgpu::ShaderSource::Wgsl(shader.source(gpu.arithmetic).into()),
        });
        let groups = [Some(&self.common), self.weights.get(shape.weights), self.states.get(shape.states)];
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(shader.name),
            bind_group_layouts: &groups,
            immediate_size: 0,
        });
        device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader.name),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        })
    }
}
