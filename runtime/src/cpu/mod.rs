//! Execution on the CPU.

pub mod kernels;
pub mod pool;
