//! The gated short convolution with its window.

use crate::error::Result;
use crate::exec::{MatrixAt, Rows, VectorAt};
use crate::gpu::pipeline::Shader;
use crate::gpu::record::{Builder, Extent, Grid, Launch, When};

const CONV_GATE: Shader = Shader { name: "conv_gate", parts: &[include_str!("../shaders/conv_gate.wgsl")] };

/// The shaders of this file.
#[cfg(test)]
pub(crate) const SHADERS: &[Shader] = &[CONV_GATE];

/// Channels of a workgroup.
const CHANNELS: u32 = 64;
/// Tokens of a workgroup: a longer call moves the window on by itself.
const TOKENS: u32 = 8;

/// `out = C * conv(B * x)`; the window moves on.
pub(crate) fn conv_gate(
    b: &mut Builder<'_>,
    bcx: Rows,
    kernel: &MatrixAt,
    bias: Option<&VectorAt>,
    state: usize,
    out: Rows,
) -> Result<()> {
    let hidden = out.width as u32;
    let params = [
        bcx.start as u32,
        out.start as u32,
        hidden,
        kernel.k as u32,
        b.memory.small(kernel.offset),
        bias.map_or(0, |bias| b.memory.vector(bias)),
        bias.is_some() as u32,
    ];
    let states = [b.state(state)?];
    let mut part = |remember: f64, y: Extent, when: When| {
        b.dispatch(Launch {
            shader: CONV_GATE,
            constants: &[("REMEMBER", remember)],
            params: &params,
            weights: &[],
            states: &states,
            grid: Grid::xy(Extent::Is(hidden.div_ceil(CHANNELS)), y),
            when,
        })
    };
    part(0.0, Extent::Rows { times: 1, per: TOKENS }, When::Always)?;
    part(1.0, Extent::Is(1), When::Many)
}
