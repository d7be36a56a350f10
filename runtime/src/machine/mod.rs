//! The machine that this runs on: what the system says about it, how many threads suit it, and what its memory and
//! its multipliers can do.

mod cores;
mod speed;

use lfm_graphs::target::{ByteSize, Isa, Kv, Target};
use serde::Serialize;

use crate::cpu::kernels;

pub use speed::{Gauge, Limits};

/// Context and chunk of a profile, as in those of ISA tiers that are built in.
const CONTEXT: u32 = 4096;
const CHUNK: u32 = 512;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// The CPU's name, or its architecture where the system does not say.
    pub cpu: String,
    /// Cores that this process may run on, if the system says.
    pub physical: Option<usize>,
    /// Threads that can run at once.
    pub logical: usize,
    /// Threads to compute with: one for each of the fastest cores.
    pub threads: usize,
    /// Why as many.
    pub why: &'static str,
    /// Bytes of memory, if the system says: of the machine or of the group of processes, whichever is less.
    pub ram: Option<u64>,
    /// The ISA tiers that it runs, slowest first.
    pub tiers: Vec<&'static str>,
}

impl Machine {
    /// This machine.
    pub fn detect() -> Machine {
        let (logical, choice) = choice();
        Machine {
            cpu: cpu_name(),
            physical: choice.cores,
            logical,
            threads: choice.threads,
            why: choice.why,
            ram: ram(),
            tiers: kernels::available().iter().map(|tier| tier.name()).collect(),
        }
    }

    /// A device profile of this machine, as `lfmc export --target` reads it.
    pub fn target(&self) -> Target {
        let isa = self.tiers.last().and_then(|name| name.parse().ok()).unwrap_or(Isa::Portable);
        let cores = self.threads as u32;
        Target {
            name: format!("{isa}-{cores}c"),
            isa,
            cores,
            ram: self.ram.map(|bytes| ByteSize(budget(bytes))).filter(|ram| ram.0 > 0),
            context: CONTEXT,
            chunk: CHUNK,
            weights: "q4_0".to_owned(),
            kv: Kv::Auto,
        }
    }
}

/// What a model may take of a memory of `bytes`, in whole MiB: an eighth of it, but 512 MiB where it has them, is left
/// to the system and other programs.
fn budget(bytes: u64) -> u64 {
    let others = (bytes / 8).max((512 << 20).min(bytes / 2));
    (bytes - others) >> 20 << 20
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

/// Name of the CPU, or what the system says instead.
pub(crate) fn cpu_name() -> String {
    let x86 = read("/proc/cpuinfo").and_then(|text| field(&text, "model name"));
    let board = || read("/proc/device-tree/model").map(|text| text.trim_end_matches('\0').to_owned());
    let name = x86.or_else(board).unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    name.chars().filter(|c| !c.is_control()).take(100).collect()
}

/// Threads that can run at once, and the choice among them. The system's count of them respects the affinity of this
/// process and the CPU quota of its group.
fn choice() -> (usize, cores::Choice) {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let allowed = read("/proc/self/status").and_then(|text| field(&text, "Cpus_allowed_list"));
    (logical, cores::choose("/sys/devices", &allowed.unwrap_or_default(), logical))
}

/// Threads to compute with on this machine: one for each of the fastest cores that this process may use.
pub fn threads() -> usize {
    choice().1.threads
}

fn ram() -> Option<u64> {
    let total = read("/proc/meminfo").and_then(|text| kilobytes(&text, "MemTotal"));
    let group = read("/sys/fs/cgroup/memory.max").and_then(|text| text.trim().parse().ok());
    match (total, group) {
        (Some(total), Some(group)) => Some(total.min(group)),
        (total, group) => total.or(group),
    }
}

/// Bytes of memory that a model may take on this machine, or in the control group of this process, if the system says:
/// all but what is left to the system and other programs.
pub fn spare() -> Option<u64> {
    ram().map(budget)
}

/// Most bytes of memory that this process has held at once, mapped files included, if the system says.
pub fn peak_rss() -> Option<u64> {
    kilobytes(&read("/proc/self/status")?, "VmHWM")
}

/// Bytes of memory that this process holds, mapped files included, if the system says.
pub fn rss() -> Option<u64> {
    kilobytes(&read("/proc/self/status")?, "VmRSS")
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
        assert_eq!(target.cores as usize, threads());
        let nothing = Machine { ram: None, physical: None, tiers: vec!["portable"], ..machine };
        assert_eq!(nothing.target().ram, None);
        assert_eq!(Target::parse(&nothing.target().text()), Ok(nothing.target()));
    }

    #[test]
    fn a_budget_leaves_room_for_others() {
        for (mib, most) in [(31 << 10, 27776), (7900, 6912), (1800, 1288), (900, 450), (1, 0), (0, 0)] {
            assert_eq!(budget(mib << 20) >> 20, most, "{mib}");
        }
    }

    #[test]
    fn fields_of_proc_files() {
        let text = "Name:\tx\nVmHWM:\t   12 kB\nmodel name\t: A (R) B\n";
        assert_eq!(kilobytes(text, "VmHWM"), Some(12 << 10));
        assert_eq!(kilobytes(text, "Name"), None);
        assert_eq!(field(text, "model name").as_deref(), Some("A (R) B"));
    }
}
