//! How many threads to compute with: one for each core of the fastest kind that this process may run on.
//!
//! Threads wait for each other many times a token, so a slow core among fast ones holds these up more than it helps.
//! Neither does a second thread of a core help, as it shares the units that multiply.
//!
//! | file below `/sys/devices` | says |
//! |---|---|
//! | `system/cpu/cpu*/online` | 0 for a CPU that is switched off |
//! | `system/cpu/cpu*/topology/thread_siblings_list` | the CPUs of its core |
//! | `cpu_core/cpus` | those of the fast kind, on Intel CPUs with two kinds |
//! | `system/cpu/cpu*/cpu_capacity` | how fast its core is, 1024 being the fastest |
//! | `system/cpu/cpu*/cpufreq/cpuinfo_max_freq` | its highest clock, which is asked where capacities are missing |
//!
//! Any of them may be missing or hold anything.

use std::ops::RangeInclusive;

use crate::cpu::pool::MAX_THREADS;

/// Most CPUs that are looked at, and ranges of a list.
const MOST: usize = 1024;

/// How many threads, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// Cores that this process may run on, if the system says.
    pub(super) cores: Option<usize>,
    /// Threads to compute with.
    pub(super) threads: usize,
    /// Why as many.
    pub(super) why: &'static str,
}

/// A core: the first CPU of it, and how fast it is, 0 if the system does not say.
#[derive(Clone, Copy)]
struct Core {
    first: u32,
    capacity: u32,
    clock: u32,
}

/// Chooses by the tree below the folder `devices`, of the CPUs in the list `allowed`, at most `limit`.
pub(super) fn choose(devices: &str, allowed: &str, limit: usize) -> Choice {
    let cores = cores(devices, allowed);
    let limit = limit.clamp(1, MAX_THREADS);
    let (threads, why) = match fastest(&cores, devices) {
        (0, _) => (limit, AS_MANY),
        (threads, _) if threads > limit => (limit, AS_MANY),
        (threads, why) if threads < cores.len() => (threads, why),
        (threads, _) => (threads, "one for each core"),
    };
    Choice { cores: Some(cores.len()).filter(|cores| *cores > 0), threads, why }
}

const AS_MANY: &str = "as many as can run at once";

/// The cores that may be used.
fn cores(devices: &str, allowed: &str) -> Vec<Core> {
    let mut cores: Vec<Core> = Vec::new();
    for cpu in ranges(allowed).into_iter().flatten().take(MOST) {
        let text = |file: &str| super::read(&format!("{devices}/system/cpu/cpu{cpu}/{file}"));
        let number = |file: &str| text(file).and_then(|text| text.trim().parse::<u32>().ok());
        // Every CPU has this file, whatever else it says.
        if text("uevent").is_none() || number("online") == Some(0) {
            continue;
        }
        let siblings = ranges(&text("topology/thread_siblings_list").unwrap_or_default());
        let known = siblings.first().filter(|_| contains(&siblings, cpu));
        let first = known.map_or(cpu, |range| *range.start());
        if cores.iter().all(|core| core.first != first) {
            let speed = |file| number(file).unwrap_or(0);
            cores.push(Core {
                first,
                capacity: speed("cpu_capacity"),
                clock: speed("cpufreq/cpuinfo_max_freq"),
            });
        }
    }
    cores
}

/// How many cores are of the fastest kind, and by what they are known.
fn fastest(cores: &[Core], devices: &str) -> (usize, &'static str) {
    let kind = ranges(&super::read(&format!("{devices}/cpu_core/cpus")).unwrap_or_default());
    let count = cores.iter().filter(|core| contains(&kind, core.first)).count();
    // A capacity says what a core does; a clock says that of cores of one kind only, whose highest differ little.
    let by: [(usize, &str); 3] = [
        (count, "the cores of the fast kind"),
        (at_least(cores, |core| core.capacity, 50), "the fastest cores, by capacity"),
        (at_least(cores, |core| core.clock, 85), "the fastest cores, by clock"),
    ];
    by.into_iter().find(|(count, _)| *count > 0).unwrap_or((cores.len(), ""))
}

/// How many cores have at least `percent` of the fastest one's speed; 0 unless all have one.
fn at_least(cores: &[Core], speed: impl Fn(&Core) -> u32, percent: u64) -> usize {
    let speeds = || cores.iter().map(|core| u64::from(speed(core)));
    let most = speeds().max().unwrap_or(0);
    if speeds().any(|speed| speed == 0) {
        return 0;
    }
    speeds().filter(|speed| speed * 100 >= most * percent).count()
}

/// The ranges of a list such as `0-3,8`. What is no range is left out.
fn ranges(list: &str) -> Vec<RangeInclusive<u32>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    list.split(',').filter_map(range).take(MOST).collect()
}

fn contains(ranges: &[RangeInclusive<u32>], cpu: u32) -> bool {
    ranges.iter().any(|range| range.contains(&cpu))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// A made-up `/sys/devices`.
    struct Tree(TempDir);

    impl Tree {
        fn new() -> Tree {
            Tree(tempfile::tempdir().unwrap())
        }

        fn write(&self, path: &str, text: impl AsRef<[u8]>) {
            let path = self.0.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        /// CPUs that say the same in `file`.
        fn cpus(&self, cpus: std::ops::Range<usize>, file: &str, text: &str) -> &Tree {
            for cpu in cpus {
                self.write(&format!("system/cpu/cpu{cpu}/uevent"), "");
                self.write(&format!("system/cpu/cpu{cpu}/{file}"), format!("{text}\n"));
            }
            self
        }

        /// Cores of two CPUs that follow each other.
        fn pairs(&self, cpus: std::ops::Range<usize>) -> &Tree {
            for cpu in cpus {
                let first = cpu / 2 * 2;
                self.cpus(cpu..cpu + 1, SIBLINGS, &format!("{first}-{}", first + 1));
            }
            self
        }

        /// Cores of one CPU.
        fn singles(&self, cpus: std::ops::Range<usize>) -> &Tree {
            for cpu in cpus {
                self.cpus(cpu..cpu + 1, SIBLINGS, &cpu.to_string());
            }
            self
        }

        fn choose(&self, allowed: &str, limit: usize) -> Choice {
            choose(self.0.path().to_str().unwrap(), allowed, limit)
        }
    }

    const SIBLINGS: &str = "topology/thread_siblings_list";
    const CLOCK: &str = "cpufreq/cpuinfo_max_freq";

    const EACH: &str = "one for each core";
    const CAPACITY: &str = "the fastest cores, by capacity";
    const BY_CLOCK: &str = "the fastest cores, by clock";

    fn is(cores: usize, threads: usize, why: &'static str) -> Choice {
        Choice { cores: Some(cores), threads, why }
    }

    #[test]
    fn equal_cores() {
        let pi5 = Tree::new();
        pi5.singles(0..4).cpus(0..4, "cpu_capacity", "1024").cpus(0..4, CLOCK, "2400000");
        assert_eq!(pi5.choose("0-3", 4), is(4, 4, EACH));
        let orin_nano = Tree::new();
        orin_nano.singles(0..6).cpus(0..6, "cpu_capacity", "1024");
        assert_eq!(orin_nano.choose("0-5", 6), is(6, 6, EACH));
        let n100 = Tree::new();
        n100.singles(0..4).cpus(0..4, CLOCK, "3400000");
        assert_eq!(n100.choose("0-3", 4), is(4, 4, EACH));
    }

    #[test]
    fn little_cores_are_left_out() {
        let rk3588 = Tree::new();
        rk3588.singles(0..8).cpus(0..4, "cpu_capacity", "414").cpus(4..8, "cpu_capacity", "1024");
        assert_eq!(rk3588.choose("0-7", 8), is(8, 4, CAPACITY));
        assert_eq!(rk3588.choose("0-5", 6), is(6, 2, CAPACITY));
        assert_eq!(rk3588.choose("0-3", 4), is(4, 4, EACH));
        // An older kernel: clocks alone.
        let clocks = Tree::new();
        clocks.singles(0..8).cpus(0..4, CLOCK, "1800000").cpus(4..6, CLOCK, "2256000");
        clocks.cpus(6..8, CLOCK, "2400000");
        assert_eq!(clocks.choose("0-7", 8), is(8, 4, BY_CLOCK));
        // One prime core is no team.
        let phone = Tree::new();
        phone.singles(0..8).cpus(0..3, "cpu_capacity", "330").cpus(3..7, "cpu_capacity", "800");
        phone.cpus(7..8, "cpu_capacity", "1024");
        assert_eq!(phone.choose("0-7", 8), is(8, 5, CAPACITY));
    }

    #[test]
    fn a_core_gets_one_thread() {
        let desktop = Tree::new();
        desktop.pairs(0..16).cpus(0..16, CLOCK, "5000000");
        assert_eq!(desktop.choose("0-15", 16), is(8, 8, EACH));
        assert_eq!(desktop.choose("0,1,4", 3), is(2, 2, EACH));
        // Preferred cores differ a little.
        desktop.cpus(4..8, CLOCK, "5500000");
        assert_eq!(desktop.choose("0-15", 16).threads, 8);
        // CPUs of a core need not be neighbours.
        let server = Tree::new();
        for cpu in 0..96 {
            server.cpus(cpu..cpu + 1, SIBLINGS, &format!("{},{}", cpu % 48, cpu % 48 + 48));
        }
        assert_eq!(server.choose("0-95", 96).cores, Some(48));
        assert_eq!(server.choose("0-95", 96).threads, MAX_THREADS);
    }

    #[test]
    fn two_kinds_of_intel_cores() {
        // i7-1280P: six cores of two threads, eight of one.
        let hybrid = Tree::new();
        hybrid.pairs(0..12).singles(12..20).cpus(0..12, CLOCK, "4800000").cpus(12..20, CLOCK, "3600000");
        let expected = is(14, 6, BY_CLOCK);
        assert_eq!(hybrid.choose("0-19", 20), expected);
        hybrid.write("cpu_core/cpus", "0-11\n");
        hybrid.write("cpu_atom/cpus", "12-19\n");
        hybrid.cpus(0..20, CLOCK, "4800000");
        assert_eq!(hybrid.choose("0-19", 20), is(14, 6, "the cores of the fast kind"));
        assert_eq!(hybrid.choose("12-19", 8), is(8, 8, EACH));
    }

    #[test]
    fn machines_that_say_little() {
        let container = Tree::new();
        let expected = Choice { cores: None, threads: 3, why: AS_MANY };
        assert_eq!(container.choose("0-7", 3), expected);
        assert_eq!(container.choose("", 0).threads, 1);
        // No topology: every CPU is a core.
        let vm = Tree::new();
        vm.cpus(0..2, "uevent", "");
        assert_eq!(vm.choose("0-1", 2), is(2, 2, EACH));
        assert_eq!(vm.choose(" 0-1\n", 2).threads, 2);
        // More is allowed than there is.
        assert_eq!(vm.choose("0-63", 2), is(2, 2, EACH));
        // A quota.
        assert_eq!(vm.choose("0-1", 1), is(2, 1, AS_MANY));
        // Switched off.
        vm.cpus(1..2, "online", "0").cpus(0..1, "online", "1");
        assert_eq!(vm.choose("0-1", 2), is(1, 1, EACH));
    }

    #[test]
    fn nonsense_is_survived() {
        let nonsense: [&[u8]; 10] = [
            b"",
            b"\n",
            b"-",
            b"0-",
            b"-1",
            b"3-1",
            b"0-4294967295",
            b"99999999999999999999",
            b"\xff\xfe\0",
            &[b','; 100_000],
        ];
        for text in nonsense {
            let tree = Tree::new();
            for cpu in 0..3 {
                for file in [SIBLINGS, CLOCK, "cpu_capacity", "online", "uevent"] {
                    tree.write(&format!("system/cpu/cpu{cpu}/{file}"), text);
                }
            }
            tree.write("cpu_core/cpus", text);
            for allowed in nonsense.iter().filter_map(|text| std::str::from_utf8(text).ok()) {
                let choice = tree.choose(allowed, 2);
                assert!((1..=2).contains(&choice.threads), "{text:?}, {allowed:?}: {choice:?}");
            }
        }
        // A folder in place of a file.
        let tree = Tree::new();
        tree.cpus(0..2, "uevent", "").write("system/cpu/cpu0/cpu_capacity/x", "");
        assert_eq!(tree.choose("0-1", 2).threads, 2);
    }
}
