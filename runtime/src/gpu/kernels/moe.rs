//! The router and its experts.
//!
//! ```text
//!            one token                              several tokens
//! route      scores, chosen experts and their weights of each token
//! sort                                              slots sorted by expert, cut into tiles; sizes of grids
//! gate, up   expand: a group of rows of an expert   tiles: 64 rows of an expert and 32 slots
//!            silu(gate) * up, and its int8 form
//! down       combine: weighted, summed, + residual  tiles, then sum: weighted, summed, + residual
//! ```
//!
//! Products run once for each part of a stack that one binding holds; workgroups of an expert elsewhere return at once.

use lfm_graphs::plan::MoeScratch;
use lfm_graphs::weights::Format;

use super::formats::{by_format, panel_groups, row_block, stride, token_words};
use super::linear;
use crate::error::Result;
use crate::exec::{MatrixAt, MoeStep};
use crate::gpu::buffers::Piece;
use crate::gpu::pipeline::{Constant, Shader};
use crate::gpu::record::{Builder, Extent, Grid, Launch, When};

const ROUTE: Shader = Shader { name: "moe_route", parts: &[include_str!("../shaders/moe_route.wgsl")] };
const SORT: Shader = Shader { name: "moe_sort", parts: &[include_str!("../shaders/moe_sort.wgsl")] };
const SUM: Shader = Shader { name: "moe_sum", parts: &[include_str!("../shaders/moe_sum.wgsl")] };

const STACK: &str = include_str!("../shaders/moe_stack.wgsl");
const INT8: &str = include_str!("../shaders/moe_int8.wgsl");
const EXPAND: &str = include_str!("../shaders/moe_expand.wgsl");
const EXPAND_FLOAT: &str = include_str!("../shaders/moe_expand_float.wgsl");
const COMBINE: &str = include_str!("../shaders/moe_combine.wgsl");
const COMBINE_FLOAT: &str = include_str!("../shaders/moe_combine_float.wgsl");
const TILES: &str = include_str!("../shaders/moe_tiles.wgsl");
const TILES_FLOAT: &str = include_str!("../shaders/moe_tiles_float.wgsl");

/// silu(gate) * up of one token's experts.
fn expand(format: Format) -> Shader {
    by_format!(format, "moe_expand", TWO, quantised: [STACK, INT8, EXPAND], float: [STACK, EXPAND_FLOAT])
}

/// The weighted sum of one token's experts.
fn combine(format: Format) -> Shader {
    by_format!(format, "moe_combine", ONE, quantised: [STACK, INT8, COMBINE], float: [STACK, COMBINE_FLOAT])
}

/// Tiles of slots times two stacks.
fn tiles2(format: Format) -> Shader {
    by_format!(format, "moe_tiles2", TWO, quantised: [STACK, INT8, TILES], float: [STACK, TILES_FLOAT])
}

/// Tiles of slots times one stack.
fn tiles(format: Format) -> Shader {
    by_format!(format, "moe_tiles", ONE, quantised: [STACK, INT8, TILES], float: [STACK, TILES_FLOAT])
}

/// The shaders of this file.
#[cfg(test)]
pub(crate) fn shaders() -> Vec<Shader> {
    let each = |format| [expand(format), combine(format), tiles2(format), tiles(format)];
    Format::ALL.into_iter().flat_map(each).chain([ROUTE, SORT, SUM]).collect()
}

/// A constant that is true or false.
fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

/// Whether `combine` adds the residual.
const RESIDUAL: &str = "RESIDUAL";

/// Bytes from one indirect grid to the next.
const GRID_BYTES: u64 = 16;

/// Where the parts of a step's scratch lie in the arena, in words.
struct Scratch {
    logits: u32,
    ids: u32,
    weights: u32,
    order: u32,
    starts: u32,
    /// Tiles, in the room that the CPU has for gathered inputs.
    tiles: u32,
    hidden: u32,
    hidden_panels: u32,
    y: u32,
}

impl Scratch {
    /// For calls of up to `rows` tokens. `None` when the plan's scratch is too small.
    fn new(step: &MoeStep, rows: usize) -> Option<Scratch> {
        let (hidden, inner) = (step.down.rows as u64, step.down.k as u64);
        let quantised = step.x.panels.is_some();
        let (experts, top) = (step.gate.count as u64, step.top_k as u64);
        let at = MoeScratch::new(rows as u64, hidden, inner, experts, top, quantised)?;
        if at.total > 4 * step.scratch.len() as u64 || at.x.end - at.x.start < 8 * rows as u64 * top {
            return None;
        }
        let word = |bytes: u64| u32::try_from(step.scratch.start as u64 + bytes / 4).ok();
        Some(Scratch {
            logits: word(at.logits.start)?,
            ids: word(at.ids.start)?,
            weights: word(at.weights.start)?,
            order: word(at.order.start)?,
            starts: word(at.starts.start)?,
            tiles: word(at.x.start)?,
            hidden: word(at.hidden.start)?,
            hidden_panels: word(at.hidden_panels.start)?,
            y: word(at.y.start)?,
        })
    }
}

/// The experts of a call of up to `b.most_rows` tokens.
pub(crate) fn moe(b: &mut Builder<'_>, step: &MoeStep) -> Result<()> {
    let at = Scratch::new(step, b.most_rows).ok_or_else(|| b.unable("scratch that is too small"))?;
    let most = b.gpu.limits.max_compute_workgroups_per_dimension as usize;
    let slots = b.most_rows.saturating_mul(step.top_k);
    if slots > most {
        return Err(b.unable(format!("{slots} experts of tokens, expected at most {most}")));
    }
    linear::prepare(b, step.x)?;
    route(b, step, &at)?;
    let sizes = sort(b, step, &at)?;
    let memory = b.memory;
    let (gate, down) = (&step.gate, &step.down);
    let x = Words::of(step.x.panels.map_or(step.x.rows.start, |panels| panels.start), gate);
    let hidden = if step.x.panels.is_some() { at.hidden_panels } else { at.hidden };
    let hidden = Words::of(hidden as usize, down);

    // A workgroup of `expand` makes a group of 32 int8, or the floats of a row-block.
    let width = gate.rows.div_ceil(if gate.format.is_quantised() { 32 } else { 16 }) as u32;
    let one = Grid::xy(Extent::Is(width), Extent::Is(step.top_k as u32));
    let many = Grid::Indirect { buffer: sizes.clone(), offset: 0 };
    let stacks = Stacks { step, at: &at, matrix: gate, x, out: hidden };
    let pieces: &[&[Piece]] = &[memory.pieces(gate), memory.pieces(&step.up)];
    stacks.launch(b, expand(gate.format), None, pieces, &one, When::One)?;
    stacks.launch(b, tiles2(gate.format), Some(("PAIR", 1.0)), pieces, &many, When::Many)?;

    let one = Grid::x(Extent::Is(down.rows.div_ceil(16) as u32));
    let many = Grid::Indirect { buffer: sizes, offset: GRID_BYTES };
    let floats = |start| Words { start, token: down.rows as u32, groups: 0 };
    let stacks = Stacks { step, at: &at, matrix: down, x: hidden, out: floats(step.out.start as u32) };
    let pieces: &[&[Piece]] = &[memory.pieces(down)];
    let residual = step.residual.map(|_| (RESIDUAL, 1.0));
    stacks.launch(b, combine(down.format), residual, pieces, &one, When::One)?;
    let stacks = Stacks { out: floats(at.y), ..stacks };
    stacks.launch(b, tiles(down.format), None, pieces, &many, When::Many)?;
    sum(b, step, &at)
}

fn route(b: &mut Builder<'_>, step: &MoeStep, at: &Scratch) -> Result<()> {
    let [Piece { buffer: router, .. }] = b.memory.pieces(&step.router) else {
        return Err(b.unable("a router that does not fit into one binding"));
    };
    b.dispatch(Launch {
        shader: ROUTE,
        constants: &[("HALF", flag(step.router.format == Format::F16)), ("ORDERED", flag(b.ordered))],
        params: &[
            step.x.rows.start as u32,
            step.x.rows.width as u32,
            step.gate.count as u32,
            step.top_k as u32,
            step.bias.map_or(0, |bias| b.memory.vector(&bias)),
            step.bias.is_some() as u32,
            step.renorm.is_some() as u32,
            step.renorm.unwrap_or(0.0).to_bits(),
            step.scale.to_bits(),
            at.logits,
            at.ids,
            at.weights,
        ],
        weights: &[router],
        states: &[],
        grid: Grid::x(Extent::EACH_ROW),
        when: When::Always,
    })
}

/// Sorts slots; returns the buffer with the grids of both products.
fn sort(b: &mut Builder<'_>, step: &MoeStep, at: &Scratch) -> Result<wgpu::Buffer> {
    use wgpu::BufferUsages as U;
    let sizes = b.buffer("sizes of grids", 2 * GRID_BYTES, U::STORAGE | U::INDIRECT)?;
    b.dispatch(Launch {
        shader: SORT,
        constants: &[],
        params: &[
            step.gate.count as u32,
            step.top_k as u32,
            at.ids,
            at.order,
            at.starts,
            at.tiles,
            (step.gate.rows as u32).div_ceil(64),
            (step.down.rows as u32).div_ceil(64),
        ],
        weights: &[],
        states: &[&sizes],
        grid: Grid::x(Extent::Is(1)),
        when: When::Many,
    })?;
    Ok(sizes)
}

/// Rows in the arena: panels, or floats.
#[derive(Clone, Copy)]
struct Words {
    start: u32,
    /// From one row to the next.
    token: u32,
    /// Of a row of panels.
    groups: u32,
}

impl Words {
    /// What a matrix is multiplied with.
    fn of(start: usize, matrix: &MatrixAt) -> Words {
        let (k, start) = (matrix.k, start as u32);
        if matrix.format.is_quantised() {
            Words { start, token: token_words(k), groups: panel_groups(k) }
        } else {
            Words { start, token: k as u32, groups: 0 }
        }
    }
}

/// A stack of matrices, or two of one shape, with what is read and written.
#[derive(Clone, Copy)]
struct Stacks<'a> {
    step: &'a MoeStep,
    at: &'a Scratch,
    matrix: &'a MatrixAt,
    x: Words,
    out: Words,
}

impl Stacks<'_> {
    /// One dispatch for each part of the stacks.
    fn launch(
        &self,
        b: &mut Builder<'_>,
        shader: Shader,
        constant: Option<Constant>,
        stacks: &[&[Piece]],
        grid: &Grid,
        when: When,
    ) -> Result<()> {
        let Stacks { step, at, matrix, x, out } = *self;
        let parts = stacks.first().map_or(0, |pieces| pieces.len());
        for part in 0..parts {
            let pieces: Vec<&Piece> = stacks.iter().filter_map(|pieces| pieces.get(part)).collect();
            let [first, ..] = pieces.as_slice() else { continue };
            if pieces.len() < stacks.len() || first.rows != (0..matrix.rows) {
                return Err(b.unable("an expert that does not fit into one binding"));
            }
            // The sum over experts ends, and takes the residual, with the last part.
            let ends = first.matrices.end == matrix.count;
            let constant = constant.filter(|(name, _)| *name != RESIDUAL || ends);
            let constants: Vec<Constant> =
                constant.into_iter().chain([("ORDERED", flag(b.ordered))]).collect();
            let buffers: Vec<&wgpu::Buffer> = pieces.iter().map(|piece| &piece.buffer).collect();
            b.dispatch(Launch {
                shader,
                constants: &constants,
                params: &[
                    matrix.k as u32,
                    matrix.rows as u32,
                    step.top_k as u32,
                    at.ids,
                    at.weights,
                    at.order,
                    at.starts,
                    at.tiles,
                    x.start,
                    x.token,
                    x.groups,
                    out.start,
                    out.token,
                    out.groups,
                    step.residual.map_or(0, |residual| residual.start as u32),
                    first.matrices.start as u32,
                    first.matrices.end as u32,
                    stride(matrix),
                    row_block(matrix),
                ],
                weights: &buffers,
                states: &[],
                grid: grid.clone(),
                when,
            })?;
        }
        Ok(())
    }
}

fn sum(b: &mut Builder<'_>, step: &MoeStep, at: &Scratch) -> Result<()> {
    let width = step.out.width as u32;
    b.dispatch(Launch {
        shader: SUM,
        constants: &[],
        params: &[
            width,
            step.top_k as u32,
            at.y,
            at.weights,
            step.out.start as u32,
            step.residual.map_or(0, |residual| residual.start as u32),
            step.residual.is_some() as u32,
        ],
        weights: &[],
        states: &[],
        grid: Grid::xy(Extent::Is(width.div_ceil(64)), Extent::EACH_ROW),
        when: When::Many,
    })
}
