//! What the machine can do at most: bytes read from memory and multiply-adds, each a second.

use std::hint::black_box;
use std::io;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use crate::cpu::kernels;
use crate::cpu::pool::Pool;

/// Largest buffer that is read, in bytes: several times as large as caches.
const MOST: u64 = 1 << 30;
/// How long each of the two is measured.
const LONG_ENOUGH: Duration = Duration::from_millis(250);
/// How long one pass of multiply-adds takes at least.
const PASS: Duration = Duration::from_millis(3);

/// The limits of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes a second that all threads together read from memory.
    pub read_bytes_s: f64,
    /// Int8 multiply-adds a second of all threads together, by the best instructions of a tier, from registers.
    pub dot_mac_s: f64,
}

/// Measures the limits of this machine, as often as asked; the best counts.
#[derive(Debug)]
pub struct Gauge {
    pool: Pool,
    isa: &'static str,
    bytes: usize,
    best: Limits,
}

impl Gauge {
    /// Measures with `threads` threads and the instructions of the tier `isa`.
    ///
    /// # Errors
    /// When threads cannot be had.
    pub fn new(threads: usize, isa: &'static str) -> io::Result<Gauge> {
        let bytes = super::ram().map_or(MOST, |ram| (ram / 8).min(MOST)) as usize;
        Ok(Gauge { pool: Pool::new(threads)?, isa, bytes, best: Limits::default() })
    }

    /// Measures, and gives the best so far.
    ///
    /// # Errors
    /// When there is no memory for a buffer.
    pub fn measure(&mut self) -> io::Result<Limits> {
        let read = self.read()?;
        let dots = self.dots();
        self.best.read_bytes_s = self.best.read_bytes_s.max(read);
        self.best.dot_mac_s = self.best.dot_mac_s.max(dots);
        Ok(self.best)
    }

    /// The best of several passes over a buffer of huge pages, where the system has them.
    fn read(&mut self) -> io::Result<f64> {
        let mut map = MmapMut::map_anon(self.bytes)?;
        #[cfg(target_os = "linux")]
        // Without huge pages it is measured with small ones.
        let _ = map.advise(memmap2::Advice::HugePage);
        let threads = self.pool.threads();
        let share = self.bytes.div_ceil(threads);
        // Only what has been written is memory.
        let mut shares = map.chunks_mut(share);
        self.pool.each(threads, || shares.next(), |mine| mine.fill(1));
        let parts: Vec<&[u8]> = map.chunks(share).collect();
        let least = fastest(LONG_ENOUGH, || {
            self.pool.run(&|index| {
                black_box(parts.get(index).map(|part| sum(part)));
            });
        });
        Ok(self.bytes as f64 / least)
    }

    /// The best of several passes of multiply-adds.
    fn dots(&mut self) -> f64 {
        let isa = self.isa;
        let threads = self.pool.threads() as u64;
        let mut rounds = 1 << 12;
        let mut pass = |rounds: u32| {
            self.pool.run(&|_| {
                black_box(dots(isa, rounds));
            });
        };
        while rounds < 1 << 30 && fastest(Duration::ZERO, || pass(rounds)) < PASS.as_secs_f64() {
            rounds *= 2;
        }
        let least = fastest(LONG_ENOUGH, || pass(rounds));
        // What one round does is the same in each.
        (dots(isa, 1) * u64::from(rounds) * threads) as f64 / least
    }
}

/// The shortest of the runs that `time` has room for, at least one, in seconds.
fn fastest(time: Duration, mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut least = f64::INFINITY;
    loop {
        let pass = Instant::now();
        run();
        least = least.min(pass.elapsed().as_secs_f64().max(1e-9));
        if start.elapsed() >= time {
            return least;
        }
    }
}

/// Does the multiply-adds of `rounds` rounds, and says how many these are.
fn dots(isa: &str, rounds: u32) -> u64 {
    kernels::peak::dots(isa, rounds).unwrap_or_else(|| portable_dots(rounds))
}

/// Plain loops, as the compiler turns them into instructions.
fn portable_dots(rounds: u32) -> u64 {
    let (weights, mut x) = (black_box([3i8; 64]), [-5i8; 64]);
    let mut sums = [0i32; 16];
    for _ in 0..rounds {
        x = black_box(x);
        for (sum, (w, x)) in sums.iter_mut().zip(weights.as_chunks::<4>().0.iter().zip(x.as_chunks::<4>().0))
        {
            let dot = w.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(*x)).sum();
            *sum = sum.wrapping_add(dot);
        }
    }
    black_box(sums);
    u64::from(rounds) * 64
}

/// A number that depends on all of `bytes` but for a few at the ends. Only memory limits how fast it is computed.
fn sum(bytes: &[u8]) -> u64 {
    if let Some(sum) = kernels::peak::read(bytes) {
        return sum as u64;
    }
    let mut sums = [0u64; 8];
    for line in bytes.as_chunks::<64>().0 {
        for (sum, word) in sums.iter_mut().zip(line.as_chunks::<8>().0) {
            *sum = sum.wrapping_add(u64::from_le_bytes(*word));
        }
    }
    sums.iter().fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_has_a_limit() {
        for tier in kernels::available() {
            assert!(dots(tier.name(), 1) > 0);
            assert_eq!(dots(tier.name(), 7), 7 * dots(tier.name(), 1), "{}", tier.name());
        }
        let mut gauge = Gauge { bytes: 1 << 20, ..Gauge::new(2, kernels::best().name()).unwrap() };
        let (first, second) = (gauge.measure().unwrap(), gauge.measure().unwrap());
        assert!(first.read_bytes_s > 0.0 && first.dot_mac_s > 0.0, "{first:?}");
        assert!(second.read_bytes_s >= first.read_bytes_s && second.dot_mac_s >= first.dot_mac_s);
    }
}
