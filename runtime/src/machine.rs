//! The machine that this runs on: what the system says about it, and how fast its memory is.

use std::hint::black_box;
use std::time::{Duration, Instant};

use lfm_graphs::target::{ByteSize, Isa, Kv, Target};
use serde::Serialize;

use crate::cpu::kernels;
use crate::cpu::pool::{Pool, part};

/// Largest buffer that is read to measure bandwidth, in bytes.
const MOST: u64 = 1 << 30;
/// How long bandwidth is measured.
const LONG_ENOUGH: Duration = Duration::from_millis(600);
/// Context of a profile, as in those that are built in.
const CONTEXT: u32 = 4096;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The CPU's name, or its architecture where the system does not say.
    pub cpu: String,
    /// Cores, if the system says.
    pub physical: Option<usize>,
    /// Threads that can run at once.
    pub logical: usize,
    /// Bytes of memory, if the system says: of the machine or of the group of processes, whichever is less.
    pub ram: Option<u64>,
    /// The ISA tiers that it runs, slowest first.
    pub tiers: Vec<&'static str>,
}

impl Machine {
    /// This machine.
    pub fn detect() -> Machine {
        Machine {
            cpu: cpu_name(),
            physical: physical_cores(),
            logical: std::thread::available_parallelism().map_or(1, usize::from),
            ram: ram(),
            tiers: kernels::available().iter().map(|tier| tier.name()).collect(),
        }
    }

    /// A device profile of this machine, as `lfmc export --target` reads it. An eighth of the memory is left to
    /// other programs.
    pub fn target(&self) -> Target {
        let isa = self.tiers.last().and_then(|name| name.parse().ok()).unwrap_or(Isa::Portable);
        let like = Target::builtin(isa.name()).ok();
        let cores = self.physical.unwrap_or(self.logical).min(self.logical).max(1);
        let cores = cores.min(crate::cpu::pool::MAX_THREADS) as u32;
        Target {
            name: format!("{isa}-{cores}c"),
            isa,
            cores,
            ram: self.ram.map(|bytes| ByteSize((bytes - bytes / 8) >> 20 << 20)).filter(|ram| ram.0 > 0),
            context: CONTEXT,
            chunk: like.as_ref().map_or(256, |target| target.chunk),
            weights: like.map_or_else(|| "q4_0".to_owned(), |target| target.weights),
            kv: Kv::Auto,
        }
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The value of the first line `key : value`.
fn field(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim())
    })?;
    Some(value.to_owned())
}

/// The bytes that `key: n kB` says.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    field(text, key)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn cpu_name() -> String {
    let x86 = read("/proc/cpuinfo").and_then(|text| field(&text, "model name"));
    let board = || read("/proc/device-tree/model").map(|text| text.trim_end_matches('\0').to_owned());
    let name = x86.or_else(board).unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    name.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// Sets of threads that share a core.
fn physical_cores() -> Option<usize> {
    let mut cores = Vec::new();
    for entry in std::fs::read_dir("/sys/devices/system/cpu").ok()?.flatten() {
        let siblings = std::fs::read_to_string(entry.path().join("topology/thread_siblings_list"));
        if let Some(siblings) = siblings.ok().filter(|siblings| !cores.contains(siblings)) {
            cores.push(siblings);
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

fn ram() -> Option<u64> {
    let total = read("/proc/meminfo").and_then(|text| kilobytes(&text, "MemTotal"));
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    match (total, group) {
        (Some(total), Some(group)) => Some(total.min(group)),
        (total, group) => total.or(group),
    }
}

/// Most bytes of memory that this process has held at once, mapped files included, if the system says.
pub fn peak_rss() -> Option<u64> {
    kilobytes(&read("/proc/self/status")?, "VmHWM")
}

/// Bytes a second that `threads` threads read from a buffer much larger than caches: the best of several passes.
///
/// # Errors
/// When threads cannot be had.
pub fn read_bandwidth(threads: usize) -> std::io::Result<f64> {
    let mut pool = Pool::new(threads)?;
    let bytes = ram().map_or(MOST, |ram| (ram / 8).min(MOST));
    let words = vec![1u64; (bytes / 8) as usize];
    let parts: Vec<&[u64]> =
        (0..pool.threads()).map(|index| &words[part(words.len(), index, pool.threads())]).collect();
    let start = Instant::now();
    let mut best = 0.0f64;
    while best == 0.0 || start.elapsed() < LONG_ENOUGH {
        let pass = Instant::now();
        pool.run(&|index| {
            black_box(sum(parts[index]));
        });
        best = best.max(size_of_val(words.as_slice()) as f64 / pass.elapsed().as_secs_f64().max(1e-9));
    }
    Ok(best)
}

/// The sum of all words: several streams, as prefetchers follow more than one, and independent chains, so that only
/// memory limits it.
fn sum(words: &[u64]) -> u64 {
    const STREAMS: usize = 4;
    let length = words.len() / STREAMS;
    let streams: [&[[u64; 32]]; STREAMS] =
        std::array::from_fn(|stream| words[stream * length..(stream + 1) * length].as_chunks().0);
    let mut sums = [0u64; 32];
    for block in 0..length / 32 {
        for stream in streams {
            for (sum, word) in sums.iter_mut().zip(&stream[block]) {
                *sum = sum.wrapping_add(*word);
            }
        }
    }
    let rest =
        (0..STREAMS).flat_map(|stream| &words[stream * length + length / 32 * 32..(stream + 1) * length]);
    let rest = rest.chain(&words[STREAMS * length..]);
    sums.iter().chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_of_this_machine_is_a_profile() {
        let machine = Machine::detect();
        assert!(machine.logical > 0 && machine.tiers.first() == Some(&"portable"), "{machine:?}");
        let target = machine.target();
        assert_eq!(Target::parse(&target.text()).as_ref(), Ok(&target));
        let nothing = Machine { ram: None, physical: None, tiers: vec!["portable"], ..machine };
        assert_eq!(nothing.target().ram, None);
        assert_eq!(Target::parse(&nothing.target().text()), Ok(nothing.target()));
    }

    #[test]
    fn fields_of_proc_files() {
        let text = "Name:\tx\nVmHWM:\t   12 kB\nmodel name\t: A (R) B\n";
        assert_eq!(kilobytes(text, "VmHWM"), Some(12 << 10));
        assert_eq!(kilobytes(text, "Name"), None);
        assert_eq!(field(text, "model name").as_deref(), Some("A (R) B"));
    }

    #[test]
    fn sums_are_sums() {
        for n in [0, 1, 5, 127, 128, 131, 1000] {
            let words: Vec<u64> = (0..n).collect();
            assert_eq!(sum(&words), words.iter().sum::<u64>());
        }
    }
}
