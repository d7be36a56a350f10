//! The most bytes that a piece of work holds at once.

pub use peak_alloc::PeakAlloc as Heap;

/// Runs `work` and gives, beside its result, the most bytes that it held beyond what was held before. A test program
/// makes [`Heap`] its `#[global_allocator]`. Other threads count too, so it measures in one test at a time.
pub fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = Heap.current_usage();
    Heap.reset_peak_usage();
    let result = work();
    (result, Heap.peak_usage().saturating_sub(before))
}
