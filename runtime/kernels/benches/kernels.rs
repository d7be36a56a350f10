//! Speed of every kernel on one thread, for each ISA tier of this CPU but the portable one: `just bench [FILTER]`.
//!
//! | group | throughput | operands |
//! |---|---|---|
//! | `matvec` | bytes of weights | one token, weights out of memory |
//! | `matmul` | multiply-adds | 8 and 64 tokens, 1792 rows of 2048 |
//! | `quantize`, `rms_norm`, `silu_mul` | elements | 64 tokens of 2048 |
//! | `attention` | keys times heads | one token at depths, and 64 of them; four heads of 64 to a key head, f16 cache |
//! | `conv_gate` | elements of the result | 1 and 64 tokens, 2048 channels, three taps |
#![allow(missing_docs, reason = "criterion's macros make items without")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use lfm_graphs::weights::Format;
use lfm_graphs::weights::layout::packed_bytes;
use lfm_kernels::{
    Attention, Cache, Cols, ConvGate, Input, Kernels, Matrix, Panels, PanelsMut, available, key_elements,
    words_needed,
};

/// Elements along K, and width of a token.
const K: usize = 2048;
/// Rows of a matrix that is multiplied with many tokens.
const ROWS: usize = 1792;
/// Bytes of weights that one token reads.
const STREAM: usize = 256 << 20;

fn tiers() -> Vec<&'static dyn Kernels> {
    available().into_iter().filter(|tier| tier.name() != "portable").collect()
}

/// Random bytes, below 64 each, whose f16 and f32 are positive and not subnormal (which would be slow).
fn weights(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut out = Vec::with_capacity(len + 4);
    while out.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend(((state >> 1) & 0x3f3f_3f3f | 0x3000_3000).to_le_bytes());
    }
    out
}

/// What begins on a cache line, as in a bundle.
fn aligned(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.as_ptr().align_offset(64)..]
}

/// Activations between -1 and 1.
fn activations(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect()
}

/// Multiplies a matrix of `rows` rows with `tokens` tokens.
fn product(tier: &dyn Kernels, format: Format, rows: usize, tokens: usize, bytes: &[u8]) -> impl FnMut() {
    let w = Matrix::new(format, rows, K, bytes).expect("enough bytes");
    let x = activations(tokens * K);
    let mut words = vec![0; words_needed(tokens, K)];
    tier.quantize(&x, &mut PanelsMut::new(&mut words, tokens, K));
    let mut y = vec![0.0; tokens * rows];
    move || {
        let panels = Panels::new(&words, tokens, K);
        let input = if format.is_quantised() { Input::Panels(panels) } else { Input::Rows(&x) };
        tier.matmul(&w, 0..w.row_blocks(), input, &mut Cols::new(&mut y, tokens, rows));
        black_box(&y);
    }
}

fn matvec(criterion: &mut Criterion) {
    let buffer = weights(STREAM + 64);
    let bytes = aligned(&buffer);
    let mut group = criterion.benchmark_group("matvec");
    for tier in tiers() {
        for format in Format::ALL {
            let row_block = packed_bytes(format, 16, K).expect("a size") as usize;
            let blocks = STREAM / row_block;
            group.throughput(Throughput::Bytes((blocks * row_block) as u64));
            let mut run = product(tier, format, blocks * 16, 1, bytes);
            group.bench_function(BenchmarkId::new(format.name(), tier.name()), |bench| bench.iter(&mut run));
        }
    }
}

fn matmul(criterion: &mut Criterion) {
    let buffer = weights(4 * ROWS * K + 64);
    let bytes = aligned(&buffer);
    let mut group = criterion.benchmark_group("matmul");
    for tier in tiers() {
        for format in Format::ALL {
            for tokens in [8, 64] {
                group.throughput(Throughput::Elements((tokens * ROWS * K) as u64));
                let mut run = product(tier, format, ROWS, tokens, bytes);
                let id = BenchmarkId::new(format!("{}/{tokens}", format.name()), tier.name());
                group.bench_function(id, |bench| bench.iter(&mut run));
            }
        }
    }
}

fn elements(criterion: &mut Criterion) {
    const TOKENS: usize = 64;
    let (x, weight) = (activations(TOKENS * K), activations(K));
    let mut out = vec![0.0; TOKENS * K];
    let mut words = vec![0; words_needed(TOKENS, K)];
    let mut group = criterion.benchmark_group("elements");
    group.throughput(Throughput::Elements((TOKENS * K) as u64));
    for tier in tiers() {
        group.bench_function(BenchmarkId::new("quantize", tier.name()), |bench| {
            bench.iter(|| tier.quantize(black_box(&x), &mut PanelsMut::new(&mut words, TOKENS, K)));
        });
        group.bench_function(BenchmarkId::new("rms_norm", tier.name()), |bench| {
            bench.iter(|| {
                for (x, out) in black_box(&x).chunks_exact(K).zip(out.chunks_exact_mut(K)) {
                    tier.rms_norm(x, &weight, 1e-5, out);
                }
            });
        });
        group.bench_function(BenchmarkId::new("silu_mul", tier.name()), |bench| {
            bench.iter(|| tier.silu_mul(black_box(&x), &x, &mut out));
        });
    }
}

fn attention(criterion: &mut Criterion) {
    const HEADS: usize = 4;
    const DIM: usize = 64;
    const MOST: usize = 4096 + 64;
    let q = activations(64 * HEADS * DIM);
    let cache: Vec<u16> = (0..MOST * DIM).map(|i| 0x3000 | ((i * 7919) & 0x87ff) as u16).collect();
    let mut out = vec![0.0; 64 * HEADS * DIM];
    let mut group = criterion.benchmark_group("attention");
    for tier in tiers() {
        for tokens in [1, 64] {
            for past in [0, 512, 4096] {
                // Each token sees what lies before it, and itself.
                let seen = tokens * past + tokens * (tokens + 1) / 2;
                group.throughput(Throughput::Elements((seen * HEADS) as u64));
                let keys = &cache[..key_elements(past + tokens, DIM)];
                let values = &cache[..(past + tokens) * DIM];
                let arguments = Attention {
                    q: &q,
                    stride: HEADS * DIM,
                    heads: HEADS,
                    dim: DIM,
                    past,
                    scale: 0.125,
                    window: None,
                    cache: Cache::F16 { keys, values },
                };
                let out = &mut out[..tokens * HEADS * DIM];
                let id = BenchmarkId::new(format!("{tokens} at {past}"), tier.name());
                group.bench_function(id, |bench| {
                    bench.iter(|| tier.attention(&arguments, &mut Cols::new(out, tokens, HEADS * DIM)));
                });
            }
        }
    }
}

fn conv_gate(criterion: &mut Criterion) {
    const TAPS: usize = 3;
    let buffer = weights(K * TAPS * 4 + 64);
    let kernel = Matrix::new(Format::F32, K, TAPS, aligned(&buffer)).expect("enough bytes");
    let bcx = activations(64 * 3 * K);
    let mut out = vec![0.0; 64 * K];
    let mut window = vec![0.0; (TAPS - 1) * K];
    let mut group = criterion.benchmark_group("conv_gate");
    for tier in tiers() {
        for tokens in [1, 64] {
            group.throughput(Throughput::Elements((tokens * K) as u64));
            let conv = ConvGate { bcx: &bcx[..tokens * 3 * K], kernel, bias: None, channels: 0..K };
            let out = &mut out[..tokens * K];
            group.bench_function(BenchmarkId::new(tokens.to_string(), tier.name()), |bench| {
                bench.iter(|| {
                    let mut window = Cols::new(&mut window, TAPS - 1, K);
                    tier.conv_gate(&conv, &mut window, &mut Cols::new(out, tokens, K));
                });
            });
        }
    }
}

/// Short runs: there are many kernels, and each does the same work every time.
fn config() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(500))
}

criterion_group! {
    name = kernels;
    config = config();
    targets = matvec, matmul, elements, attention, conv_gate
}
criterion_main!(kernels);
