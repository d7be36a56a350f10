//! Device profiles: what a bundle is made for.
//!
//! A profile is a RON file of a few lines. Those in `graphs/targets/` are built in: one for each ISA tier, and boards
//! that people own. What a profile is for, and why it has its budget, stands in comments above it:
//!
//! ```text
//! // Raspberry Pi 5, 8 GB: four Cortex-A76 cores.
//! // The system says 7.9 GiB; 1.4 GiB are left to it and a desktop.
//! (
//!     name: "raspberry-pi-5-8gb",
//!     isa: "aarch64-dotprod",
//!     cores: 4,
//!     ram: "6656MiB",
//!     context: 8192,
//!     chunk: 512,
//!     weights: "q4_0",
//!     kv: auto,
//! )
//! ```

use std::fmt;
use std::str::FromStr;

use ron::ser::PrettyConfig;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::graph::is_name;
use crate::plan::{MAX_CHUNK, MAX_CONTEXT};

/// Most cores of a profile.
pub const MAX_CORES: u32 = 1024;
/// Largest text that is read, in bytes.
pub const MAX_TEXT: usize = 64 << 10;

/// What the kernels run on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// Any CPU.
    Portable,
    /// x86-64 with AVX2, FMA and F16C.
    X86V3,
    /// x86-64 with AVX-VNNI besides: 256-bit `vpdpbusd`.
    X86AvxVnni,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    X86Avx512Vnni,
    /// AArch64, whose Advanced SIMD every such CPU has.
    Aarch64Neon,
    /// AArch64 with `sdot`.
    Aarch64Dotprod,
    /// AArch64 with `smmla`.
    Aarch64I8mm,
    /// A GPU, through WebGPU.
    Wgpu,
}

impl Isa {
    /// Every tier.
    pub const ALL: [Isa; 8] = [
        Isa::Portable,
        Isa::X86V3,
        Isa::X86AvxVnni,
        Isa::X86Avx512Vnni,
        Isa::Aarch64Neon,
        Isa::Aarch64Dotprod,
        Isa::Aarch64I8mm,
        Isa::Wgpu,
    ];

    /// The name, as in files and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::X86V3 => "x86-64-v3",
            Isa::X86AvxVnni => "x86-64-avxvnni",
            Isa::X86Avx512Vnni => "x86-64-avx512vnni",
            Isa::Aarch64Neon => "aarch64-neon",
            Isa::Aarch64Dotprod => "aarch64-dotprod",
            Isa::Aarch64I8mm => "aarch64-i8mm",
            Isa::Wgpu => "wgpu",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = TargetError;
    fn from_str(name: &str) -> Result<Isa, TargetError> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| TargetError::Unknown {
            what: "ISA tier",
            found: printable(name),
            known: Isa::ALL.map(Isa::name).join(", "),
        })
    }
}

/// Element type of keys and values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kv {
    /// What the exporter thinks best.
    #[default]
    Auto,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

/// A number of bytes that people read: `3GiB`, `512MiB`, `1500000000`. It prints exactly, in the largest of `GiB`,
/// `MiB` and `KiB` that divides it; [`approx`](ByteSize::approx) rounds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, unit)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => f.pad(&format!("{}{name}", self.0 / unit)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl FromStr for ByteSize {
    type Err = TargetError;
    fn from_str(text: &str) -> Result<ByteSize, TargetError> {
        let bad = || TargetError::Size { found: printable(text) };
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| text.strip_suffix(name).map(|number| (number, *unit)))
            .unwrap_or((text, 1));
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(bad());
        }
        number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit)).map(ByteSize).ok_or_else(bad)
    }
}

impl ByteSize {
    /// The size rounded to three digits or so, such as `4.69 GiB`.
    pub fn approx(self) -> String {
        match UNITS.iter().find(|(_, unit)| self.0 >= *unit) {
            Some((name, unit)) => format!("{:.2} {name}", self.0 as f64 / *unit as f64),
            None => format!("{} B", self.0),
        }
    }
}

macro_rules! serde_as_text {
    ($($type:ty),*) => { $(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )* };
}
serde_as_text!(Isa, ByteSize);

/// A device profile.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// The kernels that weights are packed for.
    pub isa: Isa,
    /// Threads that run.
    pub cores: u32,
    /// Memory that a running model may take, what the system and others need left out; no limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ram: Option<ByteSize>,
    /// Most positions, unless the export says otherwise or memory does not allow it.
    pub context: u32,
    /// Most tokens of a call, unless the export says otherwise or memory does not allow it.
    pub chunk: u32,
    /// Name of the weight recipe, unless the export says otherwise or memory does not allow it.
    pub weights: String,
    /// Element type of keys and values.
    #[serde(default)]
    pub kv: Kv,
}

/// What is wrong with a profile or a part of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TargetError {
    /// No such name.
    #[error("unknown {what} `{found}`, expected one of {known}")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// The name as given.
        found: String,
        /// The names that exist.
        known: String,
    },
    /// No number of bytes.
    #[error(
        "bad size `{found}`, expected bytes such as `1500000000` or whole units such as `512MiB` or `3GiB`"
    )]
    Size {
        /// The text as given.
        found: String,
    },
    /// The text does not parse.
    #[error("profile, line {line}, column {column}: {message}")]
    Syntax {
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
        /// What was found and expected.
        message: String,
    },
    /// A field is out of range.
    #[error("profile: {field} is {found}, expected {expected}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: String,
    },
}

/// The profiles of `graphs/targets/`, in the order in which they are listed: ISA tiers, then boards.
const BUILTIN: [&str; 23] = [
    include_str!("../targets/x86-64-v3.ron"),
    include_str!("../targets/x86-64-avxvnni.ron"),
    include_str!("../targets/x86-64-avx512vnni.ron"),
    include_str!("../targets/aarch64-neon.ron"),
    include_str!("../targets/aarch64-dotprod.ron"),
    include_str!("../targets/aarch64-i8mm.ron"),
    include_str!("../targets/portable.ron"),
    include_str!("../targets/wgpu.ron"),
    include_str!("../targets/raspberry-pi-4-2gb.ron"),
    include_str!("../targets/raspberry-pi-4-4gb.ron"),
    include_str!("../targets/raspberry-pi-4-8gb.ron"),
    include_str!("../targets/raspberry-pi-5-2gb.ron"),
    include_str!("../targets/raspberry-pi-5-4gb.ron"),
    include_str!("../targets/raspberry-pi-5-8gb.ron"),
    include_str!("../targets/raspberry-pi-5-16gb.ron"),
    include_str!("../targets/rk3588-4gb.ron"),
    include_str!("../targets/rk3588-8gb.ron"),
    include_str!("../targets/rk3588-16gb.ron"),
    include_str!("../targets/rk3588-32gb.ron"),
    include_str!("../targets/jetson-orin-nano-8gb.ron"),
    include_str!("../targets/x86-mini-pc-8gb.ron"),
    include_str!("../targets/x86-mini-pc-16gb.ron"),
    include_str!("../targets/x86-mini-pc-32gb.ron"),
];

impl Target {
    /// The built-in profiles.
    pub fn builtins() -> Vec<Target> {
        BUILTIN.iter().map(|text| Target::parse(text).expect("a test parses the built-in profiles")).collect()
    }

    /// What the built-in profile of that name is for: the comments above it, one line after another.
    pub fn about(name: &str) -> Option<String> {
        let at = Target::builtins().iter().position(|target| target.name == name)?;
        let comments = BUILTIN.get(at)?.lines().map_while(|line| line.strip_prefix("// "));
        Some(comments.collect::<Vec<_>>().join(" "))
    }

    /// The built-in profile of that name.
    pub fn builtin(name: &str) -> Result<Target, TargetError> {
        let all = Target::builtins();
        let known = || all.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ");
        all.iter().find(|target| target.name == name).cloned().ok_or_else(|| TargetError::Unknown {
            what: "target",
            found: printable(name),
            known: known(),
        })
    }

    /// The profile as text: one field a line.
    pub fn text(&self) -> String {
        let config = PrettyConfig::new().new_line("\n").struct_names(false);
        let mut text = options().to_string_pretty(self, config).expect("strings and numbers serialise");
        text.push('\n');
        text
    }

    /// Parses and checks the text of a profile.
    pub fn parse(text: &str) -> Result<Target, TargetError> {
        if text.len() > MAX_TEXT {
            let message = format!("the text has {} bytes, at most {MAX_TEXT} are read", text.len());
            return Err(TargetError::Syntax { line: 1, column: 1, message });
        }
        let target: Target = options().from_str(text).map_err(|error| TargetError::Syntax {
            line: error.span.start.line,
            column: error.span.start.col,
            message: error.code.to_string(),
        })?;
        target.check()?;
        Ok(target)
    }

    /// Whether all fields are in range.
    pub fn check(&self) -> Result<(), TargetError> {
        let range = |field, found: u32, most: u32| match (1..=most).contains(&found) {
            true => Ok(()),
            false => {
                Err(TargetError::Field { field, found: found.to_string(), expected: format!("1 to {most}") })
            }
        };
        for (field, name) in [("name", &self.name), ("weights", &self.weights)] {
            if !is_name(name) {
                let expected = "letters, digits, `_`, `-` and single dots, at most 128 bytes".into();
                return Err(TargetError::Field { field, found: format!("`{}`", printable(name)), expected });
            }
        }
        range("cores", self.cores, MAX_CORES)?;
        range("context", self.context, MAX_CONTEXT)?;
        range("chunk", self.chunk, MAX_CHUNK)?;
        if self.ram == Some(ByteSize(0)) {
            let (found, expected) = ("0".into(), "at least 1 byte, or no field for no limit".into());
            return Err(TargetError::Field { field: "ram", found, expected });
        }
        Ok(())
    }
}

/// Optional fields are written without `Some`.
fn options() -> ron::Options {
    ron::Options::default().with_default_extension(ron::extensions::Extensions::IMPLICIT_SOME)
}

/// A name as given, cut and escaped for a terminal.
fn printable(text: &str) -> String {
    text.chars().take(100).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtins_are_named_as_their_files_and_say_what_they_are_for() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), BUILTIN.len(), "every file is built in");
        for (target, text) in Target::builtins().iter().zip(BUILTIN) {
            let file = std::fs::read_to_string(folder.join(format!("{}.ron", target.name))).unwrap();
            assert_eq!(file, text);
            let printed: String =
                text.lines().filter(|l| !l.starts_with("//")).map(|l| format!("{l}\n")).collect();
            assert_eq!(target.text(), printed, "below its comments the file is as it would be printed");
            assert!(Target::about(&target.name).is_some_and(|about| about.ends_with('.')), "{}", target.name);
            assert_eq!(Target::builtin(&target.name).as_ref(), Ok(target));
            assert_eq!((target.weights.as_str(), target.kv), ("q4_0", Kv::Auto));
        }
        assert_eq!(Target::about("pdp11"), None);
    }

    #[test]
    fn every_tier_has_a_profile_and_every_board_a_budget() {
        let all = Target::builtins();
        let (tiers, boards) = all.split_at(Isa::ALL.len());
        for tier in tiers {
            assert_eq!(tier.isa.name(), tier.name);
            assert_eq!((tier.context, tier.chunk), (4096, 512));
        }
        for isa in Isa::ALL {
            assert!(tiers.iter().any(|tier| tier.isa == isa), "{isa}");
        }
        for board in boards {
            // The name ends in what is on the box: `-8gb`. Some of it is the system's.
            let (_, size) = board.name.rsplit_once('-').unwrap();
            let size: u64 = size.strip_suffix("gb").unwrap().parse().unwrap();
            let ByteSize(ram) = board.ram.unwrap();
            assert!(ram >= size << 29 && ram <= (size << 30) - (512 << 20), "{}: {ram}", board.name);
        }
    }

    #[test]
    fn unknown_names_list_the_known_ones() {
        let error = Target::builtin("pdp11\x1b").unwrap_err().to_string();
        let start = "unknown target `pdp11\\u{1b}`, expected one of x86-64-v3, x86-64-avxvnni, ";
        assert!(error.starts_with(start) && error.contains(", raspberry-pi-5-8gb, "), "{error}");
        let error = "sse2".parse::<Isa>().unwrap_err().to_string();
        assert!(
            error.starts_with("unknown ISA tier `sse2`, expected one of portable, x86-64-v3, "),
            "{error}"
        );
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
        }
    }

    #[test]
    fn profiles_are_checked() {
        let good = Target::builtin("x86-64-v3").unwrap().text();
        for (from, to, message) in [
            ("cores: 4", "cores: 0", "profile: cores is 0, expected 1 to 1024"),
            ("chunk: 512", "chunk: 70000", "profile: chunk is 70000, expected 1 to "),
            ("context: 4096", "context: 0", "profile: context is 0, expected 1 to "),
            ("weights: \"q4_0\"", "weights: \"\"", "profile: weights is ``, expected letters, digits, "),
            ("\"16GiB\"", "\"0\"", "profile: ram is 0, expected at least 1 byte, or no field for no limit"),
            ("\"16GiB\"", "\"lots\"", "profile, line 5, column "),
            ("isa: \"x86-64-v3\"", "isa: \"x87\"", "profile, line 3, column "),
            ("kv: auto", "kv: bf16", "profile, line 9, column "),
            ("cores", "corse", "profile, line 4, column "),
        ] {
            assert!(good.contains(from), "{from} in {good}");
            let error = Target::parse(&good.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let long = " ".repeat(MAX_TEXT + 1);
        assert!(Target::parse(&long).is_err());
    }

    #[test]
    fn optional_fields() {
        let text = "(name: \"box\", isa: \"portable\", cores: 2, context: 100, chunk: 10, weights: \"q8_0\")";
        let target = Target::parse(text).unwrap();
        assert_eq!((target.ram, target.kv), (None, Kv::Auto));
        let target = Target { ram: Some(ByteSize(1_500_000_000)), kv: Kv::F16, ..target };
        assert!(target.text().contains("ram: \"1500000000\",") && target.text().contains("kv: f16,"));
        assert_eq!(Target::parse(&target.text()), Ok(target));
    }

    #[test]
    fn byte_sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("3GiB", 3 << 30),
            ("512MiB", 512 << 20),
            ("4KiB", 4096),
            ("2TiB", 2 << 40),
            ("1500000000", 1_500_000_000),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)));
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        for text in
            ["", "GiB", "-1", "+1", "1.5GiB", "3 GiB", "3gib", "3GB", "99999999TiB", "18446744073709551616"]
        {
            let error = text.parse::<ByteSize>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{text}`")), "{error}");
        }
        assert_eq!(ByteSize(5_034_217_472).approx(), "4.69 GiB");
        assert_eq!(ByteSize(1023).approx(), "1023 B");
        assert_eq!(ByteSize(0).approx(), "0 B");
    }
}
