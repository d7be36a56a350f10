//! Every shader parses, validates, and keeps to what every device has.

use std::collections::BTreeSet;

use wgpu::naga::front::wgsl;
use wgpu::naga::proc::Layouter;
use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};
use wgpu::naga::{AddressSpace, Module};

use crate::gpu::kernels;
use crate::gpu::pipeline::Arithmetic;

/// What every device of WebGPU has: invocations of a workgroup, and bytes of its memory.
const INVOCATIONS: u32 = 256;
const WORKGROUP_BYTES: u32 = 16384;

/// Bytes of workgroup memory.
fn workgroup_bytes(module: &Module) -> u32 {
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).unwrap();
    let variables = module.global_variables.iter().map(|(_, variable)| variable);
    let shared = variables.filter(|variable| variable.space == AddressSpace::WorkGroup);
    shared.map(|variable| layouter[variable.ty].to_stride()).sum()
}

#[test]
fn every_shader_validates() {
    let mut names = BTreeSet::new();
    for shader in kernels::shaders() {
        assert!(names.insert(shader.name), "two shaders called {}", shader.name);
        for arithmetic in [Arithmetic::Native, Arithmetic::Exact] {
            let source = shader.source(arithmetic);
            let module = wgsl::parse_str(&source).unwrap_or_else(|e| panic!("{}", e.emit_to_string(&source)));
            let mut capabilities = Capabilities::SUBGROUP | Capabilities::SHADER_FLOAT16_IN_FLOAT32;
            capabilities.set(Capabilities::FLOAT64, arithmetic == Arithmetic::Exact);
            Validator::new(ValidationFlags::all(), capabilities)
                .validate(&module)
                .unwrap_or_else(|e| panic!("{}: {}", shader.name, e.emit_to_string(&source)));
            let bytes = workgroup_bytes(&module);
            assert!(bytes <= WORKGROUP_BYTES, "{}: {bytes} bytes of workgroup memory", shader.name);
            for entry in &module.entry_points {
                let invocations: u32 = entry.workgroup_size.iter().product();
                assert!(invocations <= INVOCATIONS, "{}: {invocations} invocations", shader.name);
            }
        }
    }
}

#[test]
fn every_file_is_a_shader_of_some_kernel() {
    let both = [Arithmetic::Native, Arithmetic::Exact];
    let sources: String = kernels::shaders()
        .iter()
        .flat_map(|shader| both.map(|arithmetic| shader.source(arithmetic)))
        .collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gpu/shaders");
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(sources.contains(&text), "{} is in no shader", path.display());
    }
}
