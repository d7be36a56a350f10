//! Which shader parts a weight format has, and the sizes that shaders take.

use lfm_graphs::weights::layout;

use crate::cpu::kernels::words_needed;
use crate::exec::MatrixAt;

pub(crate) const ONE: &str = include_str!("../shaders/one.wgsl");
pub(crate) const TWO: &str = include_str!("../shaders/two.wgsl");
pub(crate) const QUANTISED: &str = include_str!("../shaders/quantised.wgsl");
pub(crate) const F32: &str = include_str!("../shaders/f32.wgsl");
pub(crate) const F16: &str = include_str!("../shaders/f16.wgsl");
pub(crate) const Q8_0: &str = include_str!("../shaders/q8_0.wgsl");
pub(crate) const Q4_0: &str = include_str!("../shaders/q4_0.wgsl");
pub(crate) const Q6_K: &str = include_str!("../shaders/q6_k.wgsl");
pub(crate) const Q4_K: &str = include_str!("../shaders/q4_k.wgsl");
pub(crate) const Q5_K: &str = include_str!("../shaders/q5_k.wgsl");

/// One shader for each format, out of `$name` and the parts `[$one or $two, format, ...]`: an expression of a format.
macro_rules! by_format {
    ($format:expr, $name:literal, $bind:ident, quantised: [$($quantised:expr),*], float: [$($float:expr),*]) => {{
        use $crate::gpu::kernels::formats as parts;
        use $crate::gpu::pipeline::Shader;
        use ::lfm_graphs::weights::Format;
        match $format {
            Format::F32 => Shader {
                name: concat!($name, "_f32"),
                parts: &[parts::$bind, parts::F32, $($float),*],
            },
            Format::F16 => Shader {
                name: concat!($name, "_f16"),
                parts: &[parts::$bind, parts::F16, $($float),*],
            },
            Format::Q8_0 => Shader {
                name: concat!($name, "_q8_0"),
                parts: &[parts::$bind, parts::QUANTISED, parts::Q8_0, $($quantised),*],
            },
            Format::Q4_0 => Shader {
                name: concat!($name, "_q4_0"),
                parts: &[parts::$bind, parts::QUANTISED, parts::Q4_0, $($quantised),*],
            },
            Format::Q6K => Shader {
                name: concat!($name, "_q6_k"),
                parts: &[parts::$bind, parts::QUANTISED, parts::Q6_K, $($quantised),*],
            },
            Format::Q4K => Shader {
                name: concat!($name, "_q4_k"),
                parts: &[parts::$bind, parts::QUANTISED, parts::Q4_K, $($quantised),*],
            },
            Format::Q5K => Shader {
                name: concat!($name, "_q5_k"),
                parts: &[parts::$bind, parts::QUANTISED, parts::Q5_K, $($quantised),*],
            },
        }
    }};
}
pub(crate) use by_format;

/// Groups of 32 that the panels of `k` elements have.
pub(crate) fn panel_groups(k: usize) -> u32 {
    (k.div_ceil(256) * 8) as u32
}

/// Words from one token to the next in the panels of `k` elements.
pub(crate) fn token_words(k: usize) -> u32 {
    words_needed(1, k) as u32
}

/// Groups of 32 that a row of a quantised matrix has, those of its padding included.
pub(crate) fn weight_groups(w: &MatrixAt) -> u32 {
    (layout::blocks(w.format, w.k) * layout::block_k(w.format) / layout::GROUP) as u32
}

/// vec4 of a row-block.
pub(crate) fn row_block(w: &MatrixAt) -> u32 {
    (layout::row_block_bytes(w.format, w.k).unwrap_or(0) / 16) as u32
}

/// vec4 of a matrix of a stack.
pub(crate) fn stride(w: &MatrixAt) -> u32 {
    (w.stride / 16) as u32
}
