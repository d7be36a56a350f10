//! Products with weight matrices, their int8 operands, and the rows of embedding tables.

use lfm_graphs::weights::Format;

use super::formats::{by_format, panel_groups, row_block, token_words, weight_groups};
use crate::error::Result;
use crate::exec::{MatrixAt, Operand, Rows, VectorAt};
use crate::gpu::pipeline::Shader;
use crate::gpu::record::{Builder, Extent, Grid, Launch, When};

const PRODUCT: &str = include_str!("../shaders/product.wgsl");
const MATVEC: &str = include_str!("../shaders/matvec.wgsl");
const MATVEC_SUBGROUP: &str = include_str!("../shaders/matvec_subgroup.wgsl");
const MATVEC_ORDERED: &str = include_str!("../shaders/matvec_ordered.wgsl");
const MATVEC_QUANTISED: &str = include_str!("../shaders/matvec_quantised.wgsl");
const MATVEC_FLOAT: &str = include_str!("../shaders/matvec_float.wgsl");
const MATMUL_QUANTISED: &str = include_str!("../shaders/matmul_quantised.wgsl");
const MATMUL_FLOAT: &str = include_str!("../shaders/matmul_float.wgsl");
const EMBED: &str = include_str!("../shaders/embed.wgsl");
const EMBED_QUANTISED: &str = include_str!("../shaders/embed_quantised.wgsl");
const EMBED_FLOAT: &str = include_str!("../shaders/embed_float.wgsl");
const QUANTISE: Shader = Shader { name: "quantise", parts: &[include_str!("../shaders/quantise.wgsl")] };

/// Row-blocks and rows of x of a workgroup of matmul_*.wgsl.
const TILE_BLOCKS: usize = 4;
const TILE_ROWS: u32 = 32;

/// How one row meets a float matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sums {
    /// Every sum in the order of the CPU, on one lane.
    Ordered,
    /// Divided between lanes, added in workgroup memory.
    Workgroup,
    /// Divided between lanes, added in subgroups first.
    Subgroup,
}

/// Products with quantised matrices are exact in groups of 32, so their sums keep the order of the CPU at no cost.
fn matvec(format: Format, pair: bool, sums: Sums) -> Shader {
    match (pair, if format.is_quantised() { Sums::Ordered } else { sums }) {
        (false, Sums::Ordered) => by_format!(
            format, "matvec", ONE,
            quantised: [PRODUCT, MATVEC_QUANTISED], float: [PRODUCT, MATVEC_FLOAT, MATVEC_ORDERED]
        ),
        (true, Sums::Ordered) => by_format!(
            format, "matvec2", TWO,
            quantised: [PRODUCT, MATVEC_QUANTISED], float: [PRODUCT, MATVEC_FLOAT, MATVEC_ORDERED]
        ),
        (false, Sums::Workgroup) => by_format!(
            format, "matvec_workgroup", ONE, quantised: [], float: [PRODUCT, MATVEC_FLOAT, MATVEC]
        ),
        (true, Sums::Workgroup) => by_format!(
            format, "matvec2_workgroup", TWO, quantised: [], float: [PRODUCT, MATVEC_FLOAT, MATVEC]
        ),
        (false, Sums::Subgroup) => by_format!(
            format, "matvec_subgroup", ONE, quantised: [], float: [PRODUCT, MATVEC_FLOAT, MATVEC_SUBGROUP]
        ),
        (true, Sums::Subgroup) => by_format!(
            format, "matvec2_subgroup", TWO, quantised: [], float: [PRODUCT, MATVEC_FLOAT, MATVEC_SUBGROUP]
        ),
    }
}

fn matmul(format: Format, pair: bool) -> Shader {
    if pair {
        by_format!(format, "matmul2", TWO, quantised: [PRODUCT, MATMUL_QUANTISED], float: [PRODUCT, MATMUL_FLOAT])
    } else {
        by_format!(format, "matmul", ONE, quantised: [PRODUCT, MATMUL_QUANTISED], float: [PRODUCT, MATMUL_FLOAT])
    }
}

fn table(format: Format) -> Shader {
    by_format!(format, "embed", ONE, quantised: [EMBED_QUANTISED, EMBED], float: [EMBED_FLOAT, EMBED])
}

/// The shaders of this file.
#[cfg(test)]
pub(crate) fn shaders() -> Vec<Shader> {
    let pairs = [false, true];
    let sums = |format: Format| {
        let all = [Sums::Ordered, Sums::Workgroup, Sums::Subgroup];
        all.into_iter().take(if format.is_quantised() { 1 } else { 3 })
    };
    let each = |format| {
        let vector = sums(format).flat_map(move |sums| pairs.map(|pair| matvec(format, pair, sums)));
        vector.chain(pairs.map(|pair| matmul(format, pair))).chain([table(format)])
    };
    Format::ALL.into_iter().flat_map(each).chain([QUANTISE]).collect()
}

/// The int8 form of `x` at `panels`; `times` rows of `x` for every row of a call.
pub(crate) fn quantise(b: &mut Builder<'_>, x: Rows, panels: usize, times: u32) -> Result<()> {
    let groups = panel_groups(x.width);
    b.dispatch(Launch {
        shader: QUANTISE,
        constants: &[],
        params: &[x.start as u32, panels as u32, x.width as u32, groups, token_words(x.width)],
        weights: &[],
        states: &[],
        grid: Grid::xy(Extent::Is(groups / 8), Extent::Rows { times, per: 1 }),
        when: When::Always,
    })
}

/// Makes the int8 form of an operand, if this step is the first that reads it.
pub(crate) fn prepare(b: &mut Builder<'_>, x: Operand) -> Result<()> {
    match x.panels {
        Some(panels) if panels.make => quantise(b, x.rows, panels.start, 1),
        _ => Ok(()),
    }
}

/// What happens to a product.
#[derive(Clone, Copy, Default)]
struct Finish<'a> {
    bias: Option<&'a VectorAt>,
    residual: Option<Rows>,
}

/// `out = x · wᵀ`, of two matrices `silu(x · w₀ᵀ) * (x · w₁ᵀ)`.
fn product(b: &mut Builder<'_>, x: Operand, w: &[&MatrixAt], finish: Finish<'_>, out: Rows) -> Result<()> {
    let Some(first) = w.first() else { return Ok(()) };
    let memory = b.memory;
    let (start, token, k) = match x.panels {
        Some(panels) => (panels.start as u32, token_words(x.rows.width), panel_groups(x.rows.width)),
        None => (x.rows.start as u32, x.rows.width as u32, x.rows.width as u32),
    };
    let flag = |on: bool| f64::from(u8::from(on));
    let constants = [
        ("PAIR", flag(w.len() > 1)),
        ("BIAS", flag(finish.bias.is_some())),
        ("RESIDUAL", flag(finish.residual.is_some())),
    ];
    let sums = match (b.ordered, b.subgroups) {
        (true, _) => Sums::Ordered,
        (false, true) => Sums::Subgroup,
        (false, false) => Sums::Workgroup,
    };
    // Row-blocks of a workgroup of matvec_*.wgsl.
    let together = if sums == Sums::Ordered && !first.format.is_quantised() { 16 } else { 1 };
    for (index, piece) in memory.pieces(first).iter().enumerate() {
        let mut buffers = Vec::with_capacity(w.len());
        for w in w {
            let piece =
                memory.pieces(w).get(index).ok_or_else(|| b.unable("a matrix that is not on the device"))?;
            buffers.push(&piece.buffer);
        }
        let blocks = piece.rows.len().div_ceil(16);
        let params = [
            start,
            token,
            k,
            weight_groups(first),
            row_block(first),
            blocks as u32,
            piece.rows.start as u32,
            piece.rows.end as u32,
            out.start as u32,
            out.width as u32,
            finish.bias.map_or(0, |bias| memory.vector(bias)),
            finish.residual.map_or(0, |residual| residual.start as u32),
        ];
        let pair = w.len() > 1;
        b.dispatch(Launch {
            shader: matvec(first.format, pair, sums),
            constants: &constants,
            params: &params,
            weights: &buffers,
            states: &[],
            grid: Grid::x(Extent::Is(blocks.div_ceil(together) as u32)),
            when: When::One,
        })?;
        b.dispatch(Launch {
            shader: matmul(first.format, pair),
            constants: &constants,
            params: &params,
            weights: &buffers,
            states: &[],
            grid: Grid::xy(
                Extent::Is(blocks.div_ceil(TILE_BLOCKS) as u32),
                Extent::Rows { times: 1, per: TILE_ROWS },
            ),
            when: When::Many,
        })?;
    }
    Ok(())
}

/// `out = x · wᵀ (+ bias) (+ residual)`
pub(crate) fn linear(
    b: &mut Builder<'_>,
    x: Operand,
    w: &MatrixAt,
    bias: Option<&VectorAt>,
    residual: Option<Rows>,
    out: Rows,
) -> Result<()> {
    prepare(b, x)?;
    product(b, x, &[w], Finish { bias, residual }, out)
}

/// `out = silu(x · gateᵀ) * (x · upᵀ)`
pub(crate) fn swiglu(
    b: &mut Builder<'_>,
    x: Operand,
    gate: &MatrixAt,
    up: &MatrixAt,
    out: Rows,
) -> Result<()> {
    prepare(b, x)?;
    product(b, x, &[gate, up], Finish::default(), out)
}

/// The rows of the table that the tokens name.
pub(crate) fn embed(b: &mut Builder<'_>, at: &MatrixAt, out: Rows) -> Result<()> {
    let memory = b.memory;
    for piece in memory.pieces(at) {
        let rows = [piece.rows.start, piece.rows.end].map(|n| n as u32);
        b.dispatch(Launch {
            shader: table(at.format),
            constants: &[],
            params: &[out.start as u32, at.k as u32, row_block(at), rows[0], rows[1]],
            weights: &[&piece.buffer],
            states: &[],
            grid: Grid::xy(Extent::Is(at.k.div_ceil(256) as u32), Extent::EACH_ROW),
            when: When::Always,
        })?;
    }
    Ok(())
}
