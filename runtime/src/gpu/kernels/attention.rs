//! Attention: new keys and values go into the cache, then queries read it.

use crate::error::Result;
use crate::exec::{AttentionStep, StateShape};
use crate::gpu::pipeline::Shader;
use crate::gpu::record::{Builder, Extent, Grid, Launch, When};

const CACHE: &str = include_str!("../shaders/attention_cache.wgsl");
const APPEND: Shader =
    Shader { name: "attention_append", parts: &[CACHE, include_str!("../shaders/attention_append.wgsl")] };
const ATTENTION: Shader =
    Shader { name: "attention", parts: &[CACHE, include_str!("../shaders/attention.wgsl")] };
const ORDERED: Shader =
    Shader { name: "attention_ordered", parts: &[CACHE, include_str!("../shaders/attention_ordered.wgsl")] };
const MERGE: Shader =
    Shader { name: "attention_merge", parts: &[CACHE, include_str!("../shaders/attention_merge.wgsl")] };

/// The shaders of this file.
#[cfg(test)]
pub(crate) const SHADERS: &[Shader] = &[APPEND, ATTENTION, MERGE, ORDERED];

/// Longest head.
const MAX_DIM: usize = 256;
/// Query rows of a quad.
const QUAD: u32 = 4;
/// Vectors of queries in workgroup memory.
const QUERIES: usize = 512;
/// Positions of a share, when workgroups divide the positions of one token.
const SHARE: usize = 256;
/// Most shares.
const MAX_SHARES: usize = 32;

/// How the work is divided.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Division {
    /// Invocations of a workgroup: 64, 128 or 256.
    pub(crate) threads: u32,
    /// How many workgroups divide the positions of one token at most.
    pub(crate) shares: u32,
}

impl Division {
    /// For a device: software has few cores, and pays for every invocation that has nothing to do.
    fn of(b: &Builder<'_>, step: &AttentionStep) -> Division {
        if b.gpu.software {
            Division { threads: 64, shares: 1 }
        } else {
            Division { threads: 256, shares: Division::most_shares(b, step) }
        }
    }

    /// As many shares as there are positions for. What they leave lies in the rows of the result that one token does
    /// not need.
    pub(crate) fn most_shares(b: &Builder<'_>, step: &AttentionStep) -> u32 {
        let room = b.most_rows.saturating_sub(1) * step.dim / (step.dim + 2);
        b.memory.context.div_ceil(SHARE).min(MAX_SHARES).min(room).max(1) as u32
    }
}

/// Attention of one call.
pub(crate) fn attention(b: &mut Builder<'_>, step: &AttentionStep) -> Result<()> {
    let ordered = b.ordered;
    record(b, step, Division::of(b, step), ordered)
}

/// The same for hardware, in a given division.
#[cfg(test)]
pub(crate) fn divided(b: &mut Builder<'_>, step: &AttentionStep, division: Division) -> Result<()> {
    record(b, step, division, false)
}

fn record(b: &mut Builder<'_>, step: &AttentionStep, division: Division, ordered: bool) -> Result<()> {
    let Division { threads, shares } = division;
    if step.dim > MAX_DIM {
        return Err(b.unable(format!("heads of {} elements, expected at most {MAX_DIM}", step.dim)));
    }
    let half = match (b.memory.shape(step.keys), b.memory.shape(step.values)) {
        (Some(StateShape::Cache { half, .. }), Some(StateShape::Cache { half: same, .. }))
            if half == same =>
        {
            half
        }
        _ => return Err(b.unable("keys and values that are not two caches of one type")),
    };
    let states = [b.state(step.keys)?, b.state(step.values)?];
    let (kv, group) = (step.kv as u32, (step.heads / step.kv) as u32);
    let window = step.window.map_or(u32::MAX, |window| u32::try_from(window.get()).unwrap_or(u32::MAX));
    let params = |shares: u32| {
        [
            step.q.start as u32,
            step.k.start as u32,
            step.v.start as u32,
            step.out.start as u32,
            kv,
            group,
            step.dim as u32,
            window,
            shares,
            (step.out.start + step.out.width) as u32,
            step.scale.to_bits(),
        ]
    };
    let padded = step.dim.next_multiple_of(8);
    // The largest power of two of which the queries fit, and that leaves 16 positions to a tile.
    let quads = 1u32 << (QUERIES / padded).min(threads as usize / 16).min(8).ilog2();
    let threads = ("THREADS", f64::from(threads));
    let half = ("HALF", f64::from(u8::from(half)));
    let units = kv * (padded / 8) as u32;
    b.dispatch(Launch {
        shader: APPEND,
        constants: &[half],
        params: &params(1),
        weights: &[],
        states: &states,
        grid: Grid::xy(Extent::Is(units.div_ceil(64)), Extent::EACH_ROW),
        when: When::Always,
    })?;
    if ordered {
        return b.dispatch(Launch {
            shader: ORDERED,
            constants: &[half],
            params: &params(1),
            weights: &[],
            states: &states,
            grid: Grid::xy(Extent::Is(kv), Extent::Rows { times: group, per: QUAD }),
            when: When::Always,
        });
    }
    b.dispatch(Launch {
        shader: ATTENTION,
        constants: &[half, threads, ("QUADS", 1.0)],
        params: &params(shares),
        weights: &[],
        states: &states,
        grid: Grid::Of([Extent::Is(kv), Extent::Is(group.div_ceil(QUAD)), Extent::Is(shares)]),
        when: When::One,
    })?;
    if shares > 1 {
        b.dispatch(Launch {
            shader: MERGE,
            constants: &[half],
            params: &params(shares),
            weights: &[],
            states: &states,
            grid: Grid::x(Extent::Is((step.out.width as u32).div_ceil(64))),
            when: When::One,
        })?;
    }
    b.dispatch(Launch {
        shader: ATTENTION,
        constants: &[half, threads, ("QUADS", f64::from(quads))],
        params: &params(1),
        weights: &[],
        states: &states,
        grid: Grid::xy(Extent::Is(kv), Extent::Rows { times: group, per: QUAD * quads }),
        when: When::Many,
    })
}
