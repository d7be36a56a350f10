//! Memory on the device: arena, uniforms, weights and states.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use lfm_graphs::weights::layout;

use super::device::Gpu;
use super::executor::Sizes;
use super::pipeline::{CALL_BYTES, PARAMS_BYTES};
use crate::error::{Error, Result};
use crate::exec::{Kind, MatrixAt, StateShape, Step, VectorAt};

/// Most bytes that are on their way to the device at a time.
pub(crate) const STAGING: usize = 16 << 20;
/// Bytes of one write.
const WRITE: usize = 4 << 20;

/// Bytes from one slot of the call uniforms to the next.
pub(crate) const CALL_STRIDE: u64 = CALL_BYTES.next_multiple_of(256);
/// Slots of the call uniforms: one for the body, one for the tail.
pub(crate) const CALL_SLOTS: u64 = 2;

/// A part of a matrix, or of a stack of matrices, that one binding can hold.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) buffer: wgpu::Buffer,
    /// Which matrices of the stack; matrix e starts `(e - matrices.start) * stride` bytes into the buffer.
    pub(crate) matrices: Range<usize>,
    /// Which rows of each. All, unless there is one matrix only. Starts at a multiple of 16.
    pub(crate) rows: Range<usize>,
}

/// Allocates what was laid out.
struct Allocator<'a> {
    gpu: &'a Gpu,
    needed: u64,
    had: u64,
}

impl Allocator<'_> {
    fn buffer(&mut self, at: &str, bytes: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let bytes = padded(bytes);
        let buffer = self.gpu.allocate(at, bytes, usage).ok_or_else(|| Error::DeviceMemory {
            adapter: self.gpu.adapter.to_string(),
            at: at.to_owned(),
            needed: self.needed,
            had: self.had,
            fits: None,
        })?;
        self.had += bytes;
        Ok(buffer)
    }
}

/// Bytes of a buffer for as many bytes.
fn padded(bytes: u64) -> u64 {
    bytes.max(64).next_multiple_of(64)
}

/// Everything that lies on the device.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) arena: wgpu::Buffer,
    /// [`CALL_SLOTS`] slots of uniforms.
    pub(crate) call: wgpu::Buffer,
    /// All vectors and convolution kernels.
    pub(crate) small: wgpu::Buffer,
    /// Where a vector or convolution kernel lies in `small`, in floats, by its offset in the weights.
    small_at: BTreeMap<usize, usize>,
    /// Matrices, by their offset in the weights.
    matrices: BTreeMap<usize, Vec<Piece>>,
    states: Vec<Option<wgpu::Buffer>>,
    /// The windows of earlier positions, by state: `[slots][rows][channels]`.
    kept: Vec<Option<wgpu::Buffer>>,
    shapes: Vec<StateShape>,
    pub(crate) context: usize,
    /// Bytes allocated.
    pub(crate) bytes: u64,
    /// What the upload of weights has taken.
    pub(crate) upload: Duration,
}

/// What a step reads from the weights.
#[derive(Default)]
struct Wanted<'a> {
    matrices: BTreeMap<usize, (&'a str, MatrixAt)>,
    /// Offset to floats.
    small: BTreeMap<usize, usize>,
    states: BTreeMap<usize, &'a str>,
}

impl<'a> Wanted<'a> {
    fn of(steps: impl Iterator<Item = &'a Step>) -> Wanted<'a> {
        let mut wanted = Wanted::default();
        for step in steps {
            let (matrices, vectors): (Vec<&MatrixAt>, Vec<Option<&VectorAt>>) = match &step.kind {
                Kind::Embed { table, .. } => (vec![table], vec![]),
                Kind::Norm { weight, .. } => (vec![], vec![Some(weight)]),
                Kind::Linear { w, bias, .. } => (vec![w], vec![bias.as_ref()]),
                Kind::SwiGlu { gate, up, .. } => (vec![gate, up], vec![]),
                Kind::ConvGate { kernel, bias, state, .. } => {
                    wanted.small.insert(kernel.offset, kernel.stride / 4);
                    wanted.states.insert(*state, &step.name);
                    (vec![], vec![bias.as_ref()])
                }
                Kind::Attention(attention) => {
                    wanted.states.extend([(attention.keys, &*step.name), (attention.values, &*step.name)]);
                    (vec![], vec![])
                }
                Kind::Moe(moe) => (vec![&moe.router, &moe.gate, &moe.up, &moe.down], vec![moe.bias.as_ref()]),
                Kind::Alias
                | Kind::RopeTable { .. }
                | Kind::Rope { .. }
                | Kind::Add { .. }
                | Kind::LastRow { .. } => (vec![], vec![]),
            };
            wanted.matrices.extend(matrices.into_iter().map(|m| (m.offset, (&*step.name, *m))));
            wanted.small.extend(vectors.into_iter().flatten().map(|v| (v.offset, v.len)));
        }
        wanted
    }
}

/// How a matrix, or a stack, is cut so that each part fits into `most` bytes: matrices and rows of each part.
/// `None` if one matrix of a stack, or one row-block, does not.
fn cut(at: &MatrixAt, most: u64) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    let each = usize::try_from(most).unwrap_or(usize::MAX);
    if at.count > 1 {
        let some = (each / at.stride.max(1)).min(at.count);
        let starts = (some > 0).then(|| (0..at.count).step_by(some))?;
        return Some(starts.map(|e| (e..at.count.min(e + some), 0..at.rows)).collect());
    }
    let row_block = layout::row_block_bytes(at.format, at.k)?;
    let some = each / row_block.max(1);
    // Parts of a matrix are cut where a binding may begin to be read: the size of a part is a multiple of 64 bytes
    // when it has an even number of row-blocks.
    let some = if at.stride <= each { layout::row_blocks(at.rows) } else { some / 2 * 2 };
    let starts = (some > 0).then(|| (0..at.rows).step_by(layout::ROWS * some))?;
    Some(starts.map(|row| (0..1, row..at.rows.min(row + layout::ROWS * some))).collect())
}

/// Bytes of a state. Rows of keys and values are padded to 8 elements, so that every row starts at a vec4.
pub(crate) fn state_bytes(shape: &StateShape, context: usize) -> Option<u64> {
    let product = |sizes: [usize; 4]| sizes.iter().try_fold(1u64, |all, size| all.checked_mul(*size as u64));
    match *shape {
        StateShape::Cache { kv, dim, half } => {
            product([kv, context, dim.next_multiple_of(8), if half { 2 } else { 4 }])
        }
        StateShape::Window { rows, channels } => product([rows, channels, 4, 1]),
    }
}

/// A matrix, or a stack, and how it is cut: matrices and rows of each part.
struct Cut<'a> {
    name: &'a str,
    at: MatrixAt,
    parts: Vec<(Range<usize>, Range<usize>)>,
}

/// What some steps keep on a device, before there is one.
pub(crate) struct Layout<'a> {
    arena: u64,
    /// Floats of each vector and convolution kernel, by offset, and their bytes in all.
    small: BTreeMap<usize, usize>,
    small_bytes: u64,
    states: Vec<State<'a>>,
    matrices: Vec<Cut<'a>>,
}

/// A state, and what is kept of it for going back.
struct State<'a> {
    index: usize,
    name: &'a str,
    bytes: u64,
    kept: u64,
}

/// What cannot lie on a device, and why.
pub(crate) type Obstacle = (String, String);

impl<'a> Layout<'a> {
    /// What `steps` keep on a device whose bindings have at most `most` bytes, with checkpoints. `arena` is in floats.
    ///
    /// # Errors
    /// When something is larger than a binding may be.
    pub(crate) fn new(
        steps: impl Iterator<Item = &'a Step>,
        arena: usize,
        states: &[StateShape],
        sizes: Sizes,
        most: u64,
    ) -> Result<Layout<'a>, Obstacle> {
        let wanted = Wanted::of(steps);
        let fits = |at: &str, bytes: Option<u64>| match bytes {
            Some(bytes) if padded(bytes) <= most => Ok(bytes),
            Some(bytes) => Err((
                at.to_owned(),
                format!("it takes {bytes} bytes, expected at most {most} in one binding"),
            )),
            None => Err((at.to_owned(), "its size overflows 64 bits".to_owned())),
        };
        let small = wanted.small.values().map(|len| 4 * len.next_multiple_of(16) as u64).sum();
        let Sizes { context, slots, .. } = sizes;
        let mut kept = Vec::new();
        for (index, name) in wanted.states {
            let bytes = states.get(index).and_then(|shape| state_bytes(shape, context));
            let bytes = fits(&format!("the state of {name}"), bytes)?;
            // Copied, never bound.
            let slots =
                if let Some(StateShape::Window { .. }) = states.get(index) { slots as u64 } else { 0 };
            kept.push(State { index, name, bytes, kept: bytes.saturating_mul(slots) });
        }
        let mut matrices = Vec::new();
        for (name, at) in wanted.matrices.into_values() {
            let parts = cut(&at, most).ok_or_else(|| {
                let what = if at.count > 1 { "one matrix of a stack" } else { "16 rows of a matrix" };
                (name.to_owned(), format!("{what} takes more than the {most} bytes of one binding"))
            })?;
            matrices.push(Cut { name, at, parts });
        }
        Ok(Layout {
            arena: fits("the arena", (arena as u64).checked_mul(4))?,
            small_bytes: fits("the vectors", Some(small))?,
            small: wanted.small,
            states: kept,
            matrices,
        })
    }

    /// Bytes in all.
    pub(crate) fn bytes(&self) -> u64 {
        let matrices = self.matrices.iter().map(|Cut { at, .. }| at.stride as u64 * at.count as u64);
        let states = self.states.iter().map(|state| padded(state.bytes).saturating_add(padded(state.kept)));
        matrices.chain(states).sum::<u64>() + padded(self.arena) + padded(self.small_bytes)
    }
}

impl Memory {
    /// Allocates what was laid out, and uploads weights.
    ///
    /// # Errors
    /// When the device has no room.
    pub(crate) fn new(
        gpu: &Gpu,
        layout: Layout<'_>,
        weights: &[u8],
        states: &[StateShape],
        context: usize,
    ) -> Result<Memory> {
        use wgpu::BufferUsages as U;
        let mut allocator = Allocator { gpu, needed: layout.bytes(), had: 0 };
        let storage = U::STORAGE | U::COPY_DST | U::COPY_SRC;
        let arena = allocator.buffer("the arena", layout.arena, storage)?;
        let call = allocator.buffer("a call", CALL_STRIDE * CALL_SLOTS, U::UNIFORM | U::COPY_DST)?;
        let (mut contents, mut kept) = (vec![None; states.len()], vec![None; states.len()]);
        for State { index, name, bytes, kept: past } in layout.states {
            if let Some(state) = contents.get_mut(index) {
                *state = Some(allocator.buffer(&format!("the state of {name}"), bytes, storage)?);
            }
            if let (Some(kept), true) = (kept.get_mut(index), past > 0) {
                let at = format!("the checkpoints of {name}");
                *kept = Some(allocator.buffer(&at, past, U::COPY_SRC | U::COPY_DST)?);
            }
        }

        let began = Instant::now();
        let mut upload = Upload { gpu, under_way: 0 };
        let small = allocator.buffer("small weights", layout.small_bytes, storage)?;
        let mut small_at = BTreeMap::new();
        let mut next = 0;
        for (offset, len) in layout.small {
            let bytes = weights.get(offset..offset + 4 * len);
            let bytes = bytes.ok_or_else(|| gpu.unable("a vector", "it lies outside the weights"))?;
            upload.write(&small, 4 * next as u64, bytes)?;
            small_at.insert(offset, next);
            next += len.next_multiple_of(16);
        }
        let mut matrices = BTreeMap::new();
        for cut in layout.matrices {
            let pieces = pieces(gpu, &mut allocator, &mut upload, &cut, weights)?;
            matrices.insert(cut.at.offset, pieces);
        }
        upload.finish()?;
        Ok(Memory {
            arena,
            call,
            small,
            small_at,
            matrices,
            states: contents,
            kept,
            shapes: states.to_vec(),
            context,
            bytes: allocator.had,
            upload: began.elapsed(),
        })
    }

    /// The pieces of a matrix or stack, ascending.
    pub(crate) fn pieces(&self, at: &MatrixAt) -> &[Piece] {
        self.matrices.get(&at.offset).map_or(&[], Vec::as_slice)
    }

    /// Where a vector lies in `small`, in floats.
    pub(crate) fn vector(&self, at: &VectorAt) -> u32 {
        self.small(at.offset)
    }

    /// Where a vector or convolution kernel lies in `small`, in floats, by its offset in the weights.
    pub(crate) fn small(&self, offset: usize) -> u32 {
        self.small_at.get(&offset).map_or(0, |at| *at as u32)
    }

    /// State `index`.
    pub(crate) fn state(&self, index: usize) -> Option<&wgpu::Buffer> {
        self.states.get(index)?.as_ref()
    }

    /// How state `index` is kept.
    pub(crate) fn shape(&self, index: usize) -> Option<StateShape> {
        self.shapes.get(index).copied()
    }

    /// The states that are on the device, by index.
    #[cfg(test)]
    pub(crate) fn states(&self) -> impl Iterator<Item = (usize, &wgpu::Buffer)> {
        self.states.iter().enumerate().filter_map(|(index, buffer)| Some((index, buffer.as_ref()?)))
    }

    /// The windows that are on the device, where earlier ones are kept, and the bytes of each.
    pub(crate) fn windows(&self) -> impl Iterator<Item = (&wgpu::Buffer, &wgpu::Buffer, u64)> {
        let buffers = self.states.iter().zip(&self.kept).zip(&self.shapes);
        buffers.filter_map(|((window, kept), shape)| {
            let bytes = state_bytes(shape, 0).filter(|bytes| *bytes > 0)?;
            Some((window.as_ref()?, kept.as_ref()?, bytes))
        })
    }
}

fn pieces(
    gpu: &Gpu,
    allocator: &mut Allocator<'_>,
    upload: &mut Upload<'_>,
    cut: &Cut<'_>,
    weights: &[u8],
) -> Result<Vec<Piece>> {
    let Cut { name, at, parts } = cut;
    let row_block = layout::row_block_bytes(at.format, at.k).unwrap_or(0);
    let mut pieces = Vec::new();
    for (matrices, rows) in parts.iter().cloned() {
        let start = at.offset + matrices.start * at.stride + rows.start / layout::ROWS * row_block;
        let whole = rows.len() == at.rows;
        let len = if whole { matrices.len() * at.stride } else { layout::row_blocks(rows.len()) * row_block };
        let bytes = weights.get(start..start + len);
        let bytes = bytes.ok_or_else(|| gpu.unable(name, "its weights lie outside their section"))?;
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
        let buffer = allocator.buffer(name, len as u64, usage)?;
        upload.write(&buffer, 0, bytes)?;
        pieces.push(Piece { buffer, matrices, rows });
    }
    Ok(pieces)
}

/// Writes to the device with at most [`STAGING`] bytes under way.
struct Upload<'a> {
    gpu: &'a Gpu,
    under_way: usize,
}

impl Upload<'_> {
    fn write(&mut self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<()> {
        for (index, part) in bytes.chunks(WRITE).enumerate() {
            if self.under_way + part.len() > STAGING {
                self.flush()?;
            }
            self.gpu.queue.write_buffer(buffer, offset + (index * WRITE) as u64, part);
            self.under_way += part.len();
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.gpu.queue.submit([]);
        self.gpu.wait()?;
        self.under_way = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

const _: () = assert!(PARAMS_BYTES == 256 && CALL_STRIDE.is_multiple_of(256));
