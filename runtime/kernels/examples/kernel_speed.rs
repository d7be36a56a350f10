//! Speed of the kernels on one thread: weights read per second for one token, multiply-adds per second for many.
//!
//! ```text
//! cargo run --release --example kernel_speed [TIER | FORMAT]...
//! ```
#![allow(clippy::print_stdout, reason = "a program's output")]

use std::hint::black_box;
use std::time::Instant;

use lfm_graphs::weights::Format;
use lfm_graphs::weights::layout::packed_bytes;
use lfm_kernels::{
    Attention, Cache, Cols, Input, Kernels, Matrix, Panels, PanelsMut, available, by_name, words_needed,
};

/// Elements along K.
const K: usize = 2048;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (formats, names): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|name| name.parse::<Format>().is_ok());
    let mut formats: Vec<Format> = formats.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
    if formats.is_empty() {
        formats.extend(Format::ALL);
    }
    let tiers: Vec<&dyn Kernels> = if names.is_empty() {
        available().into_iter().filter(|tier| tier.name() != "portable").collect()
    } else {
        names.iter().map(|name| by_name(name)).collect::<Result<_, _>>()?
    };
    let buffer = weights((256 << 20) + 64);
    // As in a bundle: on a cache line.
    let bytes = &buffer[buffer.as_ptr().align_offset(64)..][..256 << 20];
    let read = best(5, || checksum(bytes));
    println!("plain read: {:.1} GB/s", bytes.len() as f64 / read / 1e9);
    for tier in tiers {
        println!("\n{}", tier.name());
        for format in &formats {
            products(tier, *format, bytes)?;
        }
        if formats.len() > 1 {
            others(tier);
        }
    }
    Ok(())
}

/// Random bytes whose every f16 is in 0.125..2 and every f32 in 2^-31..2, with no subnormal (they are slow).
fn weights(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend((state & 0x3fff_3fff | 0x3000_3000).to_le_bytes());
    }
    out
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; 8];
    for chunk in bytes.as_chunks::<64>().0 {
        for (sum, word) in sums.iter_mut().zip(chunk.as_chunks().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |a, b| a ^ b)
}

/// The shortest of some runs, in seconds.
fn best<T>(rounds: usize, mut run: impl FnMut() -> T) -> f64 {
    let mut least = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        black_box(run());
        least = least.min(start.elapsed().as_secs_f64());
    }
    least
}

fn products(tier: &dyn Kernels, format: Format, bytes: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let row_bytes = packed_bytes(format, 16, K).ok_or("size")? as usize / 16;
    let run = |rows: usize, tokens: usize, rounds| -> Result<f64, Box<dyn std::error::Error>> {
        let w = Matrix::new(format, rows, K, bytes)?;
        let x: Vec<f32> = (0..tokens * K).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
        let mut words = vec![0; words_needed(tokens, K)];
        tier.quantize(&x, &mut PanelsMut::new(&mut words, tokens, K));
        let panels = Panels::new(&words, tokens, K);
        let input = if format.is_quantised() { Input::Panels(panels) } else { Input::Rows(&x) };
        let mut y = vec![0.0; tokens * rows];
        Ok(best(rounds, || tier.matmul(&w, 0..w.row_blocks(), input, &mut Cols::new(&mut y, tokens, rows))))
    };
    let rows = bytes.len() / row_bytes / 16 * 16;
    let memory = run(rows, 1, 5)?;
    let cache = run(256, 1, 2000)?;
    print!(
        "{:<5} 1 token: {:5.1} GB/s from memory, {:5.1} from L2; GMAC/s, 1792 rows:",
        format.name(),
        (rows * row_bytes) as f64 / memory / 1e9,
        (256 * row_bytes) as f64 / cache / 1e9
    );
    for tokens in [1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 14, 15, 16, 64, 512] {
        let seconds = run(1792, tokens, (4096 / tokens).clamp(10, 200))?;
        print!(" {tokens}: {:.0}", (1792 * K * tokens) as f64 / seconds / 1e9);
    }
    println!();
    experts(tier, format, bytes)
}

/// Matrices of an expert's shape, each read once from memory, for few tokens each.
fn experts(tier: &dyn Kernels, format: Format, bytes: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    let rows = 1792;
    let size = packed_bytes(format, rows, K).ok_or("size")? as usize;
    print!("      GMAC/s from memory, one panel set for each 1792 rows:");
    for tokens in [1, 2, 4, 6, 8, 9, 10, 12, 14, 16, 20, 24, 32] {
        let x: Vec<f32> = (0..tokens * K).map(|i| (i * 7919 % 1000) as f32 / 500.0 - 1.0).collect();
        let mut words = vec![0; words_needed(tokens, K)];
        tier.quantize(&x, &mut PanelsMut::new(&mut words, tokens, K));
        let panels = Panels::new(&words, tokens, K);
        let input = if format.is_quantised() { Input::Panels(panels) } else { Input::Rows(&x) };
        let mut y = vec![0.0; tokens * rows];
        let matrices: Vec<Matrix> = bytes
            .chunks_exact(size)
            .take(24)
            .map(|bytes| Matrix::new(format, rows, K, bytes))
            .collect::<Result<_, _>>()?;
        let seconds = best(5, || {
            for w in &matrices {
                tier.matmul(w, 0..w.row_blocks(), input, &mut Cols::new(&mut y, tokens, rows));
            }
        });
        print!(" {tokens}: {:.0}", (matrices.len() * rows * K * tokens) as f64 / seconds / 1e9);
    }
    println!();
    Ok(())
}

/// Element-wise kernels in L1, in elements per second; attention in keys per second and head.
fn others(tier: &dyn Kernels) {
    let (a, b, mut out) = (vec![0.5; K], vec![0.25; K], vec![0.0; K]);
    let mut words = vec![0; words_needed(1, K)];
    let giga = |seconds: f64| K as f64 / seconds / 1e9;
    print!("G elements/s: exp {:.1}", giga(best(1000, || tier.exp(&a, &mut out))));
    print!(", silu_mul {:.1}", giga(best(1000, || tier.silu_mul(&a, &b, &mut out))));
    print!(", rms_norm {:.1}", giga(best(1000, || tier.rms_norm(&a, &b, 1e-5, &mut out))));
    print!(", axpy {:.1}", giga(best(1000, || tier.axpy(0.5, &a, &mut out))));
    let quantize = best(1000, || tier.quantize(&a, &mut PanelsMut::new(&mut words, 1, K)));
    println!(", quantize {:.1}", giga(quantize));
    let (heads, dim, positions) = (4, 64, 512);
    let cache = vec![0x3000; positions * dim];
    let attention = Attention {
        q: &a[..heads * dim],
        stride: heads * dim,
        heads,
        dim,
        past: positions - 1,
        scale: 0.125,
        window: None,
        cache: Cache::F16 { keys: &cache, values: &cache },
    };
    let mut y = vec![0.0; heads * dim];
    let seconds = best(1000, || tier.attention(&attention, &mut Cols::new(&mut y, 1, heads * dim)));
    println!(
        "attention, 4 heads of 64: {:.2} ns per key and head",
        seconds * 1e9 / (heads * positions) as f64
    );
}
