//! A bench for one kernel: data goes up, dispatches run, the arena comes back.

use std::cell::Cell;
use std::sync::OnceLock;

use half::f16;
use lfm_graphs::weights::{Format, layout, pack};

use crate::exec::{Kind, MatrixAt, Rows, StateShape, Step, VectorAt};
use crate::gpu::buffers::{Layout, Memory};
use crate::gpu::device::Gpu;
use crate::gpu::executor::Sizes;
use crate::gpu::pipeline::Arithmetic;
use crate::gpu::record::{Builder, Recording};

/// The devices of all tests, one with its own arithmetic and one with that of hardware; `None` where there is none and
/// none is required.
fn gpus() -> Option<&'static [Gpu; 2]> {
    static GPUS: OnceLock<Option<[Gpu; 2]>> = OnceLock::new();
    let open = || Ok::<_, crate::Error>([Gpu::open(None)?, Gpu::native()?]);
    GPUS.get_or_init(|| match open() {
        Ok(gpus) => Some(gpus),
        Err(error) if std::env::var("REQUIRE_GPU").is_ok_and(|value| value == "1") => {
            panic!("REQUIRE_GPU=1, but {error}")
        }
        Err(_) => None,
    })
    .as_ref()
}

thread_local! {
    /// Benches that this test has had.
    static BENCHES: Cell<usize> = const { Cell::new(0) };
}

/// What a run leaves behind.
pub(crate) struct Ran {
    /// The whole arena.
    pub(crate) arena: Vec<u32>,
    /// The content of every state.
    pub(crate) states: Vec<Vec<u32>>,
}

impl Ran {
    /// Rows of the arena as floats.
    pub(crate) fn floats(&self, at: Rows, rows: usize) -> Vec<f32> {
        self.arena[at.range(rows)].iter().map(|word| f32::from_bits(*word)).collect()
    }
}

/// Data for a kernel. Everything is added before the first [`Bench::run`]; states stay from run to run.
pub(crate) struct Bench {
    pub(crate) gpu: &'static Gpu,
    pub(crate) arena: Vec<u32>,
    pub(crate) weights: Vec<u8>,
    pub(crate) states: Vec<StateShape>,
    pub(crate) context: usize,
    memory: Option<Memory>,
}

impl Bench {
    /// Of every three benches of a test, the second has the arithmetic of hardware. `None` where there is no device:
    /// the test is skipped, and says so.
    #[expect(clippy::print_stderr, reason = "nothing is skipped silently")]
    pub(crate) fn new() -> Option<Bench> {
        let index = BENCHES.replace(BENCHES.get() + 1) % 3;
        let Some([own, native]) = gpus() else {
            eprintln!("skipped: there is no GPU adapter (REQUIRE_GPU=1 makes this a failure)");
            return None;
        };
        let gpu = if index == 1 { native } else { own };
        Some(Bench { gpu, arena: vec![], weights: vec![], states: vec![], context: 64, memory: None })
    }

    /// With a device that binds at most `most` bytes at a time.
    pub(crate) fn small_bindings(most: u64) -> Option<Bench> {
        let mut bench = Bench::new()?;
        let mut gpu = Gpu::open(None).unwrap();
        gpu.limits.max_storage_buffer_binding_size = most;
        bench.gpu = Box::leak(Box::new(gpu));
        Some(bench)
    }

    /// How far from the CPU a result may be, `most` being for hardware.
    pub(crate) fn within(&self, most: f32) -> f32 {
        if self.gpu.arithmetic == Arithmetic::Exact { 0.0 } else { most }
    }

    /// Room for `words` words in the arena, filled with NaN.
    pub(crate) fn room(&mut self, words: usize) -> usize {
        let start = self.arena.len();
        self.arena.resize((start + words).next_multiple_of(16), f32::NAN.to_bits());
        start
    }

    /// Rows of `width` with room for `rows` of them.
    pub(crate) fn empty(&mut self, rows: usize, width: usize) -> Rows {
        Rows { start: self.room(rows * width), width }
    }

    /// Rows of `width` with content.
    pub(crate) fn rows(&mut self, width: usize, values: &[f32]) -> Rows {
        let start = self.room(values.len());
        for (word, value) in self.arena[start..].iter_mut().zip(values) {
            *word = value.to_bits();
        }
        Rows { start, width }
    }

    /// Writes the first of rows that have room.
    pub(crate) fn write(&mut self, at: Rows, values: &[f32]) {
        for (word, value) in self.arena[at.start..].iter_mut().zip(values) {
            *word = value.to_bits();
        }
    }

    /// A vector of weights.
    pub(crate) fn vector(&mut self, values: &[f32]) -> VectorAt {
        let offset = self.place(bytemuck::cast_slice(values));
        VectorAt { offset, len: values.len() }
    }

    /// A stack of packed matrices from canonical rows.
    pub(crate) fn matrix(
        &mut self,
        format: Format,
        count: usize,
        rows: usize,
        k: usize,
        canonical: &[u8],
    ) -> MatrixAt {
        let stride = layout::packed_bytes(format, rows, k).unwrap() as usize;
        let mut packed = vec![0; count * stride];
        let each = rows * format.row_bytes(k).unwrap();
        for (canonical, packed) in canonical.chunks(each).zip(packed.chunks_mut(stride)) {
            pack::pack(format, rows, k, canonical, packed).unwrap();
        }
        let offset = self.place(&packed);
        MatrixAt { format, rows, k, offset, stride, count }
    }

    /// Seeded matrices.
    pub(crate) fn random_matrix(
        &mut self,
        rng: &mut Rng,
        format: Format,
        count: usize,
        rows: usize,
        k: usize,
    ) -> MatrixAt {
        let canonical = rng.canonical(format, count * rows, k);
        self.matrix(format, count, rows, k, &canonical)
    }

    fn place(&mut self, bytes: &[u8]) -> usize {
        let offset = self.weights.len();
        self.weights.extend_from_slice(bytes);
        self.weights.resize(self.weights.len().next_multiple_of(64), 0);
        offset
    }

    /// The CPU's view of matrix `index` of a stack.
    pub(crate) fn view(&self, at: &MatrixAt, index: usize) -> crate::cpu::kernels::Matrix<'_> {
        let start = at.offset + index * at.stride;
        crate::cpu::kernels::Matrix::new(at.format, at.rows, at.k, &self.weights[start..start + at.stride])
            .unwrap()
    }

    /// Runs the dispatches that `build` records for a step: `kind` says which weights and states are uploaded.
    /// The arena begins as [`Bench::arena`].
    pub(crate) fn run(
        &mut self,
        kind: Kind,
        rows: usize,
        past: usize,
        build: impl FnOnce(&mut Builder<'_>) -> crate::Result<()>,
    ) -> Ran {
        self.run_call(kind, [rows as u32, past as u32, 0], &[], build)
    }

    /// [`Bench::run`] with rows, past and first chosen row, and token ids.
    pub(crate) fn run_call(
        &mut self,
        kind: Kind,
        call: [u32; 3],
        tokens: &[u32],
        build: impl FnOnce(&mut Builder<'_>) -> crate::Result<()>,
    ) -> Ran {
        let gpu = self.gpu;
        let step = Step { name: "test".into(), kind };
        let memory = self.memory.get_or_insert_with(|| {
            let steps = std::iter::once(&step);
            let sizes = Sizes { chunk: 1, head_rows: 1, context: self.context, slots: 1 };
            let layout = Layout::new(steps, self.arena.len(), &self.states, sizes, gpu.most_bound()).unwrap();
            Memory::new(gpu, layout, &self.weights, &self.states, self.context).unwrap()
        });
        let mut builder = Builder::new(gpu, memory, call[0] as usize);
        builder.name = "test".into();
        build(&mut builder).unwrap();
        let count = builder.len();
        let recording = builder.finish().unwrap();
        let mut uniforms = call.to_vec();
        uniforms.push(self.context as u32);
        uniforms.extend_from_slice(tokens);
        gpu.queue.write_buffer(&memory.call, 0, bytemuck::cast_slice(&uniforms));
        gpu.queue.write_buffer(&memory.arena, 0, bytemuck::cast_slice(&self.arena));
        submit(gpu, &recording, count, call[0]);
        let states = memory.states().map(|(_, buffer)| read(gpu, buffer)).collect();
        let mut arena = read(gpu, &memory.arena);
        arena.truncate(self.arena.len());
        Ran { arena, states }
    }
}

fn submit(gpu: &Gpu, recording: &Recording, count: usize, rows: u32) {
    let said = gpu.checked(|| {
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        recording.encode(&mut pass, 0..count, 0, rows);
        drop(pass);
        gpu.queue.submit([encoder.finish()]);
    });
    said.unwrap();
    gpu.wait().unwrap();
}

/// The words of a buffer.
fn read(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u32> {
    let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
    let back = gpu.allocate("back", buffer.size(), usage).unwrap();
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &back, 0, buffer.size());
    gpu.queue.submit([encoder.finish()]);
    back.slice(..).map_async(wgpu::MapMode::Read, |mapped| mapped.unwrap());
    gpu.wait().unwrap();
    bytemuck::pod_collect_to_vec(&back.slice(..).get_mapped_range().unwrap())
}

/// All elements within `most` of the largest magnitude expected.
#[track_caller]
pub(crate) fn assert_near(found: &[f32], expected: &[f32], most: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(1e-6f32, |largest, x| largest.max(x.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        let error = (f - e).abs() / largest;
        assert!(
            error <= most,
            "{what}: element {i}: found {f:e}, expected {e:e}, error {error:e} of the range"
        );
    }
}

/// A small generator (xorshift64*).
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() & 0xff_ffff) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }

    /// Canonical rows with random codes and scales around 0.01.
    pub(crate) fn canonical(&mut self, format: Format, rows: usize, k: usize) -> Vec<u8> {
        let units = rows * format.units(k);
        let mut bytes = Vec::new();
        for _ in 0..units {
            let mut unit: Vec<u8> = (0..format.unit_bytes()).map(|_| self.bits() as u8).collect();
            let scale = f16::from_f32(self.unit() * 0.01).to_le_bytes();
            match format {
                Format::F32 => unit.copy_from_slice(&self.unit().to_le_bytes()),
                Format::F16 => unit.copy_from_slice(&f16::from_f32(self.unit()).to_le_bytes()),
                Format::Q8_0 | Format::Q4_0 => unit[..2].copy_from_slice(&scale),
                Format::Q6K => unit[208..].copy_from_slice(&f16::from_f32(self.unit() * 1e-4).to_le_bytes()),
                Format::Q4K | Format::Q5K => {
                    unit[..2].copy_from_slice(&scale);
                    unit[2..4].copy_from_slice(&f16::from_f32(self.unit() * 0.01).to_le_bytes());
                }
            }
            bytes.extend(unit);
        }
        bytes
    }
}
