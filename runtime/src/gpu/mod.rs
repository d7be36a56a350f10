//! The wgpu backend: the program of `crate::exec` on a Vulkan, Metal or DX12 device.
//!
//! | module | what |
//! |---|---|
//! | `device` | adapters, the device, its errors |
//! | `pipeline` | shaders, layouts, pipelines made once |
//! | `buffers` | arena, uniforms, weights, states; upload through bounded staging |
//! | `record` | from a step to its dispatches, made once, replayed each call |
//! | `kernels` | one file for each kind of step: which shaders, with what parameters |
//! | `executor` | chunks through the body, wanted rows through the tail, logits back |
//! | `engine` | what a session runs: all layers, or the last ones with the first on the CPU |
//! | `routes` | which experts were chosen |
//! | `needs` | what layers take on a device |
//!
//! # Conventions
//!
//! A kernel is one file of `shaders/` and its wrapper in `kernels/`. The source of a shader is `common.wgsl`, then its
//! parts, one after another. All offsets are in 4-byte elements, as in the plan, unless a name says otherwise.
//!
//! ```text
//! group 0  binding 0  arena   array<u32>   read_write  the plan's arena; load(at), store(at, x) are its f32 view
//!          binding 1  call    uniform      what this call is about: rows, past, first, context, tokens
//!          binding 2  p       uniform      the shader's own `struct Params`, constant, at most 256 bytes
//!          binding 3  small   array<f32>   read        all vectors and convolution kernels
//! group 1  binding n  w       read         packed matrices as in the bundle, at most four bindings
//! group 2  binding n          read_write   states (and what else a step writes that is not in the arena)
//! ```
//!
//! * The arena is bound once and as a whole, so nothing aliases and WebGPU orders the dispatches of a pass.
//! * A wrapper resolves a step into dispatches by `record::Builder::dispatch`: shader, pipeline constants,
//!   parameters, buffers, `record::Grid`, and `record::When` (one row, more, or both). Grids depend on the rows of a
//!   call only through `record::Extent::Rows`; a shader must return where its row is `>= call.rows`.
//! * Matrices are bound as `array<vec4<u32>>`: a vec4 is one dword of each of four rows (`layout`). One too large for a
//!   binding lies in `buffers::Piece`s, each with one dispatch: of rows for a matrix, of matrices for a stack.
//! * The int8 form of rows lies in the arena's panels, in the device's own order. For each token, `words_needed(1, k)`
//!   words:
//!
//!   ```text
//!   [groups][8]  words  the 32 int8 of a group, 4 to a word, first element in the low byte
//!   [groups]     f32    scale
//!   [groups]     2 i16  sum of the first 16 int8 (low half), of the last 16 (high half)
//!   ```
//!
//!   `groups` is K padded to a multiple of 256, by 32, and padding is zero.
//! * What a format is, its file says (`q4_0.wgsl`, ...), for whichever kernel: after `one.wgsl` or `two.wgsl`, which bind
//!   the matrices and define `word(m, at)`. Quantised: `codes`, `scales`, `link`, `value`; floats: `weight`.
//! * Arithmetic. Quantised products are exact in groups of 32, and their sums keep the order of the CPU. On hardware,
//!   sums of floats are divided between lanes, and a device may fuse or divide as it likes, so results are near those of
//!   the CPU: an int8 code that rounds the other way is what shows. On software devices with f64
//!   (`pipeline::Arithmetic::Exact`, `record::Builder::ordered`) every sum keeps the order of the CPU and every
//!   operation rounds as there, so logits are the CPU's bit for bit: what tests can hold a shader to. Shaders use
//!   `fused`, `divide`, `root`, `exp4`, `gated` in place of the language's own.

pub(crate) mod buffers;
pub(crate) mod device;
pub(crate) mod engine;
pub(crate) mod executor;
pub(crate) mod kernels;
pub(crate) mod needs;
pub(crate) mod pipeline;
pub(crate) mod record;
pub(crate) mod routes;
#[cfg(test)]
mod tests;

pub use device::{Adapter, adapters};
pub(crate) use engine::Engine;
pub use needs::{model_layers, needed};
