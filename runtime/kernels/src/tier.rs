//! How a tier's entry points are made: each is a generic body compiled with the tier's CPU features.

/// Implements `Products` for a tier token whose existence proves the CPU features in `$features`, and which implements
/// `Dot`. `$floats` is the token, or a field of it, that implements `Floats`.
macro_rules! implement_products {
    ($token:ident, $features:literal, $floats:ty, $isa:ident => $of:expr) => {
        impl $crate::driver::Products for $token {
            type Floats = $floats;

            #[inline]
            fn floats(self) -> $floats {
                let $isa = self;
                $of
            }

            #[inline]
            fn stream_ahead(self) -> usize {
                super::stream_ahead()
            }

            #[inline]
            fn quant_unpack<Q: Quant>(self, row_block: &[u8], to: &mut [Unpacked; CHUNK]) -> usize {
                #[target_feature(enable = $features)]
                fn run<Q: Quant>(isa: $token, row_block: &[u8], to: &mut [Unpacked; CHUNK]) -> usize {
                    tile::unpack::<$token, Q>(isa, row_block, to)
                }
                // SAFETY: the token exists, so the CPU has these features.
                unsafe { run::<Q>(self, row_block, to) }
            }

            #[inline]
            fn quant_strip<W: Weights<$token>>(
                self,
                unpacked: [&[Unpacked]; 2],
                group: usize,
                x: &Panels,
                panels: std::ops::Range<usize>,
                coming: Coming,
                sums: &mut Sums,
            ) {
                #[target_feature(enable = $features)]
                fn run<W: Weights<$token>>(
                    isa: $token,
                    unpacked: [&[Unpacked]; 2],
                    group: usize,
                    x: &Panels,
                    panels: std::ops::Range<usize>,
                    coming: Coming,
                    sums: &mut Sums,
                ) {
                    tile::strip::<$token, W>(isa, unpacked, group, x, panels, coming, sums);
                }
                // SAFETY: the token exists, so the CPU has these features.
                unsafe { run::<W>(self, unpacked, group, x, panels, coming, sums) }
            }

            #[inline]
            fn quant_pair<Q: Quant>(
                self,
                row_blocks: [&[u8]; 2],
                x: &[i32],
                ahead: usize,
                out: &mut [[f32; 16]; 2],
            ) {
                #[target_feature(enable = $features)]
                fn run<Q: Quant>(
                    isa: $token,
                    row_blocks: [&[u8]; 2],
                    x: &[i32],
                    ahead: usize,
                    out: &mut [[f32; 16]; 2],
                ) {
                    tile::pair::<$token, Q>(isa, row_blocks, x, ahead, out);
                }
                // SAFETY: the token exists, so the CPU has these features.
                unsafe { run::<Q>(self, row_blocks, x, ahead, out) }
            }
        }
    };
}

/// Implements `Floats` for a tier token whose existence proves the CPU features in `$features`, and which implements
/// `Lanes`.
macro_rules! implement_floats {
    ($token:ident, $features:literal) => {
        impl $crate::driver::Floats for $token {
            #[inline]
            fn dense_tile<W: Dense, const R: usize, const T: usize>(
                self,
                row_blocks: [&[u8]; R],
                x: &[f32],
                k: usize,
                out: &mut [[[f32; 16]; T]; R],
            ) {
                #[target_feature(enable = $features)]
                fn run<W: Dense, const R: usize, const T: usize>(
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
    };
}

/// Implements `Kernels` for a tier token that implements `Products`; the kernels that are no products by `$how`, which
/// is [`forward`] with the token's features or [`pass_on`].
macro_rules! implement_kernels {
    ($token:ident, $name:literal, $how:ident($($features:literal)?)) => {
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

            $crate::tier::$how! { $token $(, $features)?;
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

/// Methods that call those of the tier in the token's field.
macro_rules! pass_on {
    ($token:ident; $( $module:ident::$name:ident($($arg:ident: $type:ty),*); )*) => { $(
        fn $name(&self, $($arg: $type),*) {
            self.0.$name($($arg),*);
        }
    )* };
}

/// Methods of a tier token that are one intrinsic each, safe because the token proves its CPU feature: its own, or those
/// of a trait, which are followed by the trait's associated items.
macro_rules! intrinsics {
    ($token:ident; $($methods:tt)*) => {
        impl $token { $crate::tier::intrinsics! { @ pub(super) $($methods)* } }
    };
    ($trait:ident for $token:ident; $($methods:tt)*) => {
        impl $trait for $token { $crate::tier::intrinsics! { @ $($methods)* } }
    };
    (@ $visibility:vis $( $name:ident($($arg:ident: $type:ty),*) -> $result:ty = $intrinsic:expr; )*) => { $(
        #[inline(always)]
        $visibility fn $name(self, $($arg: $type),*) -> $result {
            // SAFETY: the token exists, so the CPU has the intrinsic's feature; it takes values only.
            unsafe { $intrinsic($($arg),*) }
        }
    )* };
}

pub(super) use {forward, implement_floats, implement_kernels, implement_products, intrinsics, pass_on};
