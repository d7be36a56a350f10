//! Execution on the CPU.

pub mod pool;

pub use lfm_kernels as kernels;
