//! What no kernel can exceed on this machine, to be timed beside them.

/// Does the int8 multiply-adds of `rounds` rounds with the instructions of tier `isa`, in registers alone, and says how
/// many these are; `None` if there is nothing of its own for the tier.
pub fn dots(isa: &str, rounds: u32) -> Option<u64> {
    #[cfg(target_arch = "x86_64")]
    return super::x86_64::dots(isa, rounds);
    #[cfg(target_arch = "aarch64")]
    return super::aarch64::dots(isa, rounds);
    #[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
    {
        let _ = (isa, rounds);
        None
    }
}

/// A number that depends on all of `bytes` but for a few at the ends, read with wide loads and prefetches as the products
/// do: only memory limits how fast it is computed. `None` if there is nothing of its own for this CPU.
pub fn read(bytes: &[u8]) -> Option<i32> {
    #[cfg(target_arch = "x86_64")]
    return super::x86_64::read(bytes);
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = bytes;
        None
    }
}
