//! Steps that treat rows one by one: norms, rotary embedding, sums, the choice of rows.

use crate::error::Result;
use crate::exec::{Rows, VectorAt, trig};
use crate::gpu::device::Gpu;
use crate::gpu::pipeline::Shader;
use crate::gpu::record::{Builder, Extent, Grid, Launch, When};

const RMS_NORM: Shader = Shader { name: "rms_norm", parts: &[include_str!("../shaders/rms_norm.wgsl")] };
const ROPE: Shader = Shader { name: "rope", parts: &[include_str!("../shaders/rope.wgsl")] };
const ROPE_TABLE: Shader =
    Shader { name: "rope_table", parts: &[include_str!("../shaders/rope_table.wgsl")] };
const ADD: Shader = Shader { name: "add", parts: &[include_str!("../shaders/add.wgsl")] };
const LAST_ROW: Shader = Shader { name: "last_row", parts: &[include_str!("../shaders/last_row.wgsl")] };

/// The shaders of this file.
#[cfg(test)]
pub(crate) const SHADERS: &[Shader] = &[RMS_NORM, ROPE, ROPE_TABLE, ADD, LAST_ROW];

/// One launch without weights or states, always.
fn launch(b: &mut Builder<'_>, shader: Shader, params: &[u32], grid: Grid) -> Result<()> {
    let when = When::Always;
    b.dispatch(Launch { shader, constants: &[], params, weights: &[], states: &[], grid, when })
}

/// Workgroups of 64 lanes for the elements of every row.
fn elements(width: usize) -> Grid {
    Grid::xy(Extent::Is(width.div_ceil(64) as u32), Extent::EACH_ROW)
}

/// `out = x / sqrt(mean(x²) + eps) * weight`, a workgroup a vector.
pub(crate) fn norm(b: &mut Builder<'_>, x: Rows, weight: &VectorAt, eps: f32, out: Rows) -> Result<()> {
    // Norms of heads are norms of parts of a row.
    let width = weight.len;
    let times = (out.width / width.max(1)) as u32;
    let params =
        [x.start as u32, b.memory.vector(weight), out.start as u32, width as u32, times, eps.to_bits()];
    launch(b, RMS_NORM, &params, Grid::xy(Extent::Is(times), Extent::EACH_ROW))
}

/// Every head of `x` turned by the angles of its row.
pub(crate) fn rope(b: &mut Builder<'_>, x: Rows, cos: Rows, sin: Rows, out: Rows) -> Result<()> {
    let params = [x.start, out.start, out.width, cos.start, sin.start, cos.width].map(|n| n as u32);
    launch(b, ROPE, &params, elements(out.width / 2))
}

/// `out = a + b`
pub(crate) fn add(b: &mut Builder<'_>, x: Rows, y: Rows, out: Rows) -> Result<()> {
    let params = [x.start, y.start, out.start, out.width].map(|n| n as u32);
    launch(b, ADD, &params, elements(out.width))
}

/// The rows of `x` that a call has chosen.
pub(crate) fn last_row(b: &mut Builder<'_>, x: Rows, out: Rows) -> Result<()> {
    let params = [x.start, out.start, out.width].map(|n| n as u32);
    launch(b, LAST_ROW, &params, elements(out.width))
}

/// Cosines and sines of a chunk, which the host computes and a call uploads.
#[derive(Debug)]
pub(crate) struct Table {
    /// `[rows][2][half]`
    buffer: wgpu::Buffer,
    inv_freq: Vec<f32>,
    values: Vec<f32>,
}

impl Table {
    /// Writes the angles of `rows` positions from `past` on.
    pub(crate) fn write(&mut self, gpu: &Gpu, past: usize, rows: usize) {
        let half = self.inv_freq.len();
        let values = self.values.chunks_exact_mut(2 * half.max(1));
        for (row, values) in values.take(rows).enumerate() {
            let (cos, sin) = values.split_at_mut(half);
            for ((cos, sin), frequency) in cos.iter_mut().zip(sin).zip(&self.inv_freq) {
                (*sin, *cos) = trig::sin_cos((past + row) as f32 * frequency);
            }
        }
        let used = &self.values[..self.values.len().min(2 * half * rows)];
        gpu.queue.write_buffer(&self.buffer, 0, bytemuck::cast_slice(used));
    }
}

/// Cosines and sines into the arena; the table is to be written before each call.
pub(crate) fn rope_table(b: &mut Builder<'_>, inv_freq: &[f32], cos: Rows, sin: Rows) -> Result<Table> {
    let half = inv_freq.len();
    let floats = 2 * half * b.most_rows;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
    let buffer = b.buffer("rotary angles", 4 * floats as u64, usage)?;
    b.dispatch(Launch {
        shader: ROPE_TABLE,
        constants: &[],
        params: &[cos.start, sin.start, half].map(|n| n as u32),
        weights: &[&buffer],
        states: &[],
        grid: elements(half),
        when: When::Always,
    })?;
    Ok(Table { buffer, inv_freq: inv_freq.to_vec(), values: vec![0.0; floats] })
}
