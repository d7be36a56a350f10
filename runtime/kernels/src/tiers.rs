//! Which tiers there are, and which of them this CPU runs.

use thiserror::Error;

use super::{Kernels, Portable};

/// A name that stands for no tier of this CPU.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("no kernels for ISA tier `{name}`: this CPU runs {available}")]
pub struct UnknownTier {
    /// The name asked for.
    pub name: String,
    /// The names that would have been found, separated by commas.
    pub available: String,
}

/// The tiers that this CPU runs, slowest first: `portable` and what the CPU's features allow.
pub fn available() -> Vec<&'static dyn Kernels> {
    static PORTABLE: Portable = Portable;
    let mut tiers: Vec<&'static dyn Kernels> = vec![&PORTABLE];
    #[cfg(target_arch = "x86_64")]
    {
        tiers.extend(super::X86V3::detect().map(|tier| tier as &dyn Kernels));
        #[cfg(feature = "avxvnni")]
        tiers.extend(super::AvxVnni::detect().map(|tier| tier as &dyn Kernels));
        tiers.extend(super::Avx512Vnni::detect().map(|tier| tier as &dyn Kernels));
    }
    #[cfg(target_arch = "aarch64")]
    {
        tiers.extend(super::Neon::detect().map(|tier| tier as &dyn Kernels));
        tiers.extend(super::Dotprod::detect().map(|tier| tier as &dyn Kernels));
        tiers.extend(super::I8mm::detect().map(|tier| tier as &dyn Kernels));
    }
    tiers
}

/// The fastest tier of this CPU.
pub fn best() -> &'static dyn Kernels {
    available().pop().unwrap_or(&Portable)
}

/// The tier called `name`, if this CPU runs it.
pub fn by_name(name: &str) -> Result<&'static dyn Kernels, UnknownTier> {
    let tiers = available();
    tiers.iter().find(|tier| tier.name() == name).copied().ok_or_else(|| UnknownTier {
        name: name.to_owned(),
        available: tiers.iter().map(|tier| tier.name()).collect::<Vec<_>>().join(", "),
    })
}
