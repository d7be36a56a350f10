//! The most that the instructions of a tier can do: int8 multiply-adds in registers, nothing from memory; and reading
//! memory, nothing done with it.

use std::arch::asm;
use std::arch::x86_64::*;
use std::hint::black_box;

#[cfg(feature = "avxvnni")]
use super::AvxVnni;
use super::{Avx512Vnni, X86V3};
use crate::Kernels;

/// Does `rounds` rounds of the densest int8 products of the tier called `isa`, and says how many multiply-adds these
/// were; `None` if this CPU has no such tier.
pub(crate) fn dots(isa: &str, rounds: u32) -> Option<u64> {
    if Avx512Vnni::detect().is_some_and(|tier| tier.name() == isa) {
        // SAFETY: the tier was detected, so the CPU has AVX-512 VNNI.
        return Some(unsafe { vnni512(rounds) });
    }
    #[cfg(feature = "avxvnni")]
    if AvxVnni::detect().is_some_and(|tier| tier.name() == isa) {
        // SAFETY: the tier was detected, so the CPU has AVX-VNNI.
        return Some(unsafe { vnni256(rounds) });
    }
    if X86V3::detect().is_some_and(|tier| tier.name() == isa) {
        // SAFETY: the tier was detected, so the CPU has AVX2.
        return Some(unsafe { maddubs256(rounds) });
    }
    None
}

/// Chains of `vpdpbusd`, as many as hide its latency on two ports: 64 multiply-adds each.
#[target_feature(enable = "avx512f,avx512vnni")]
fn vnni512(rounds: u32) -> u64 {
    const CHAINS: usize = 16;
    let unsigned = _mm512_set1_epi8(black_box(3));
    let signed = _mm512_set1_epi8(black_box(-5));
    let mut sums: [__m512i; CHAINS] = std::array::from_fn(|chain| _mm512_set1_epi32(chain as i32));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, unsigned, signed);
        }
    }
    let total = sums.into_iter().fold(_mm512_setzero_si512(), |total, sum| _mm512_add_epi32(total, sum));
    black_box(_mm512_reduce_add_epi32(total));
    u64::from(rounds) * (CHAINS * 64) as u64
}

/// The same with registers of half the size.
#[cfg(feature = "avxvnni")]
#[target_feature(enable = "avx2,avxvnni")]
fn vnni256(rounds: u32) -> u64 {
    const CHAINS: usize = 12;
    let unsigned = _mm256_set1_epi8(black_box(3));
    let signed = _mm256_set1_epi8(black_box(-5));
    let mut sums: [__m256i; CHAINS] = std::array::from_fn(|chain| _mm256_set1_epi32(chain as i32));
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm256_dpbusd_avx_epi32(*sum, unsigned, signed);
        }
    }
    let total = sums.into_iter().fold(_mm256_setzero_si256(), |total, sum| _mm256_add_epi32(total, sum));
    black_box(_mm256_extract_epi32::<0>(total));
    u64::from(rounds) * (CHAINS * 32) as u64
}

/// Four `vpmaddubsw`, whose sums of 4-bit weights fit 16 bits, then `vpmaddwd`: 128 multiply-adds for each chain.
#[target_feature(enable = "avx2")]
fn maddubs256(rounds: u32) -> u64 {
    const CHAINS: usize = 4;
    let weights: [__m256i; 4] = std::array::from_fn(|n| _mm256_set1_epi8(black_box(n as i8 + 3)));
    let ones = _mm256_set1_epi16(1);
    let mut x = _mm256_set1_epi8(black_box(-5));
    let mut sums = [_mm256_setzero_si256(); CHAINS];
    for _ in 0..rounds {
        for sum in &mut sums {
            // SAFETY: no instruction; it only hides that `x` stays the same, so that products are not reused.
            unsafe { asm!("/* {0} */", inout(ymm_reg) x, options(nomem, nostack, preserves_flags)) };
            let products = weights.map(|w| _mm256_maddubs_epi16(w, x));
            let first = _mm256_add_epi16(products[0], products[1]);
            let second = _mm256_add_epi16(products[2], products[3]);
            let both = _mm256_madd_epi16(_mm256_add_epi16(first, second), ones);
            *sum = _mm256_add_epi32(*sum, both);
        }
    }
    let total = sums.into_iter().fold(_mm256_setzero_si256(), |total, sum| _mm256_add_epi32(total, sum));
    black_box(_mm256_extract_epi32::<0>(total));
    u64::from(rounds) * (CHAINS * 128) as u64
}

/// Bytes that are read of one stream, then of the next.
const STEP: usize = 256;
/// How far ahead is prefetched, in steps.
const AHEAD: usize = 16;

/// Reads all of `bytes` but for a few at the ends, and gives a number that depends on all that was read; `None` without
/// AVX2.
///
/// 1 GiB in huge pages, one thread of an Intel Xeon with AVX-512 FP16: 17 GB/s, with loads of 64 bytes the same. Small
/// pages take 4 % of that, one stream 6 %, no prefetch 2 %; words of 8 bytes with none of these gave 14 GB/s.
pub(crate) fn read(bytes: &[u8]) -> Option<i32> {
    let steps = bytes.as_chunks::<STEP>().0;
    let length = steps.len() / 4;
    let streams = std::array::from_fn(|stream| &steps[stream * length..(stream + 1) * length]);
    // SAFETY: the tier was detected, so the CPU has AVX2.
    X86V3::detect().map(|_| unsafe { read256(streams) })
}

/// Asks for the cache lines of the step [`AHEAD`] of step `n`.
fn prefetch(stream: &[[u8; STEP]], n: usize) {
    for line in stream.get(n + AHEAD).iter().flat_map(|step| step.as_chunks::<64>().0) {
        // SAFETY: SSE, part of x86-64; a prefetch cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
}

#[target_feature(enable = "avx2")]
fn read256(streams: [&[[u8; STEP]]; 4]) -> i32 {
    let mut sums = [_mm256_setzero_si256(); 4];
    for n in 0..streams[0].len() {
        for stream in streams {
            prefetch(stream, n);
            for vectors in stream[n].as_chunks::<32>().0.as_chunks::<4>().0 {
                for (sum, vector) in sums.iter_mut().zip(vectors) {
                    // SAFETY: 32 readable bytes, no alignment needed.
                    let vector = unsafe { _mm256_loadu_si256(vector.as_ptr().cast()) };
                    *sum = _mm256_add_epi32(*sum, vector);
                }
            }
        }
    }
    let total = sums.into_iter().fold(_mm256_setzero_si256(), |total, sum| _mm256_add_epi32(total, sum));
    let halves = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256::<1>(total));
    let pairs = _mm_add_epi32(halves, _mm_shuffle_epi32::<0b01_00_11_10>(halves));
    _mm_cvtsi128_si32(_mm_add_epi32(pairs, _mm_shuffle_epi32::<0b10_11_00_01>(pairs)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted() {
        assert_eq!(dots("portable", 1), None);
        if X86V3::detect().is_some() {
            assert_eq!(dots("x86-64-v3", 10), Some(10 * 4 * 4 * 32));
        }
        #[cfg(feature = "avxvnni")]
        if AvxVnni::detect().is_some() {
            assert_eq!(dots("x86-64-avxvnni", 10), Some(10 * 12 * 32));
        }
        if Avx512Vnni::detect().is_some() {
            assert_eq!(dots("x86-64-avx512vnni", 10), Some(10 * 16 * 64));
        }
    }

    #[test]
    fn everything_is_read() {
        let bytes: Vec<u8> = (0..40 * STEP).map(|i| (i * i % 251) as u8).collect();
        let words = bytes.as_chunks::<4>().0;
        let sum = words.iter().fold(0i32, |sum, word| sum.wrapping_add(i32::from_le_bytes(*word)));
        assert!(read(&bytes).is_none_or(|read| read == sum));
    }
}
