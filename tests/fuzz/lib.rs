//! What every target is: a body of `lfm_tests::fuzz`, under an allocator that holds it to the memory it may take.

pub use lfm_tests::fuzz::body;
pub use lfm_tests::heap::Heap;
pub use libfuzzer_sys;

/// The program of one target.
#[macro_export]
macro_rules! target {
    ($name:literal) => {
        #[global_allocator]
        static HEAP: $crate::Heap = $crate::Heap;

        $crate::libfuzzer_sys::fuzz_target!(|bytes: &[u8]| $crate::body($name)(bytes));
    };
}
