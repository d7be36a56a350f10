//! How a tier's entry points are made: each is a generic body compiled with the tier's CPU features.

/// Implements `Kernels` and `Tier` for a tier token whose existence proves the CPU features in `$features`, and which
/// implements `Lanes` and `Dot`.
macro_rules! implement_tier {
    ($token:ident, $name:literal, $features:literal) => {
        use crate::cpu::kernels::body::{attention, conv, dense, quantize, vector};
        use crate::cpu::kernels::driver::{self, Tier};
        use crate::cpu::kernels::quant::{self, Quant};
        use crate::cpu::kernels::{Attention, Cols, ConvGate, Input, Kernels, Matrix, PanelsMut};

        impl Tier for $token {
            #[inline]
            fn stream_ahead(self) -> usize {
                super::stream_ahead()
            }

            #[inline]
            fn quant_tile<Q: Quant, const T: usize, const AHEAD: bool>(
                self,
                row_block: &[u8],
                x: &[i32],
                ahead: usize,
                out: &mut [[f32; 16]; T],
            ) {
                #[target_feature(enable = $features)]
                fn run<Q: Quant, const T: usize, const AHEAD: bool>(
                    isa: $token,
                    row_block: &[u8],
                    x: &[i32],
                    ahead: usize,
                    out: &mut [[f32; 16]; T],
                ) {
                    quant::tile::<$token, Q, T, AHEAD>(isa, row_block, x, ahead, out);
                }
                // SAFETY: the token exists, so the CPU has these features.
                unsafe { run::<Q, T, AHEAD>(self, row_block, x, ahead, out) }
            }

            #[inline]
            fn quant_pair<Q: Quant, const AHEAD: bool>(
                self,
                row_blocks: [&[u8]; 2],
                x: &[i32],
                ahead: usize,
                out: &mut [[f32; 16]; 2],
            ) {
                #[target_feature(enable = $features)]
                fn run<Q: Quant, const AHEAD: bool>(
                    isa: $token,
                    row_blocks: [&[u8]; 2],
                    x: &[i32],
                    ahead: usize,
                    out: &mut [[f32; 16]; 2],
                ) {
                    quant::pair::<$token, Q, AHEAD>(isa, row_blocks, x, ahead, out);
                }
                // SAFETY: the token exists, so the CPU has these features.
                unsafe { run::<Q, AHEAD>(self, row_blocks, x, ahead, out) }
            }

            #[inline]
            fn dense_tile<W: dense::Dense, const R: usize, const T: usize>(
                self,
                row_blocks: [&[u8]; R],
                x: &[f32],
                k: usize,
                out: &mut [[[f32; 16]; T]; R],
            ) {
                #[target_feature(enable = $features)]
                fn run<W: dense::Dense, const R: usize, const T: usize>(
                    isa: $token,
                    row_blocks: [&[u8]; R],
                    x: &[f32],
                    k: usize,
                    out: &mut [[[f32; 16]; T]; R],
                ) {
                    dense::tile::<$token, W, R, T>(isa, row_blocks, x, k, out);
                }
                // SAFETY: the token exists, so the CPU has these features.
                unsafe { run::<W, R, T>(self, row_blocks, x, k, out) }
            }
        }

        impl Kernels for $token {
            fn name(&self) -> &'static str {
                $name
            }

            fn matmul(&self, w: &Matrix, row_blocks: std::ops::Range<usize>, x: Input, out: &mut Cols) {
                driver::matmul(*self, w, row_blocks, x, out);
            }

            fn matmul2(
                &self,
                w: [&Matrix; 2],
                row_blocks: std::ops::Range<usize>,
                x: Input,
                out: [&mut Cols; 2],
            ) {
                driver::matmul2(*self, w, row_blocks, x, out);
            }

            $crate::cpu::kernels::tier::forward! { $token, $features;
                quantize::quantize(x: &[f32], panels: &mut PanelsMut);
                vector::exp(x: &[f32], out: &mut [f32]);
                vector::sigmoid(x: &[f32], out: &mut [f32]);
                vector::silu_mul(gate: &[f32], up: &[f32], out: &mut [f32]);
                vector::add(a: &[f32], b: &[f32], out: &mut [f32]);
                vector::mul(a: &[f32], b: &[f32], out: &mut [f32]);
                vector::axpy(p: f32, y: &[f32], out: &mut [f32]);
                vector::rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]);
                vector::rope(x: &mut [f32], cos: &[f32], sin: &[f32]);
                vector::widen(x: &[u16], out: &mut [f32]);
                vector::narrow(x: &[f32], out: &mut [u16]);
                conv::conv_gate(arguments: &ConvGate, window: &mut Cols, out: &mut Cols);
                attention::attention(arguments: &Attention, out: &mut Cols);
            }
        }
    };
}

/// Methods that run `$module::$name` compiled with the tier's features.
macro_rules! forward {
    ($token:ident, $features:literal; $( $module:ident::$name:ident($($arg:ident: $type:ty),*); )*) => { $(
        fn $name(&self, $($arg: $type),*) {
            #[target_feature(enable = $features)]
            fn run(isa: $token, $($arg: $type),*) {
                $module::$name(isa, $($arg),*);
            }
            // SAFETY: the token exists, so the CPU has these features.
            unsafe { run(*self, $($arg),*) }
        }
    )* };
}

/// Methods of a tier token that are one intrinsic each, safe because the token proves its CPU feature.
macro_rules! intrinsics {
    ($token:ident; $( $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $intrinsic:expr; )*) => {
        impl $token { $(
            #[inline(always)]
            fn $name(self, $($arg: $type),*) -> $result {
                // SAFETY: the token exists, so the CPU has the intrinsic's feature; it takes values only.
                unsafe { $intrinsic($($arg),*) }
            }
        )* }
    };
}

pub(super) use {forward, implement_tier, intrinsics};
