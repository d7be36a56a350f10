//! The element types of GGUF tensors.

use lfm_graphs::weights::Format;

/// A tensor type that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of a single.
    Bf16,
    /// Blocks of [`Format::Q8_0`].
    Q8_0,
    /// Blocks of [`Format::Q4_0`].
    Q4_0,
    /// Blocks of [`Format::Q4K`].
    Q4K,
    /// Blocks of [`Format::Q5K`].
    Q5K,
    /// Blocks of [`Format::Q6K`].
    Q6K,
}

impl Type {
    /// Every type, in declaration order.
    pub const ALL: [Type; 8] =
        [Type::F32, Type::F16, Type::Bf16, Type::Q8_0, Type::Q4_0, Type::Q4K, Type::Q5K, Type::Q6K];

    /// The type with a number of the file format; the name of one that is not read.
    pub(super) fn from_number(number: u32) -> Result<Type, String> {
        let name = match number {
            0 => return Ok(Type::F32),
            1 => return Ok(Type::F16),
            2 => return Ok(Type::Q4_0),
            8 => return Ok(Type::Q8_0),
            12 => return Ok(Type::Q4K),
            13 => return Ok(Type::Q5K),
            14 => return Ok(Type::Q6K),
            30 => return Ok(Type::Bf16),
            3 => "Q4_1",
            6 => "Q5_0",
            7 => "Q5_1",
            9 => "Q8_1",
            10 => "Q2_K",
            11 => "Q3_K",
            15 => "Q8_K",
            16 => "IQ2_XXS",
            17 => "IQ2_XS",
            18 => "IQ3_XXS",
            19 => "IQ1_S",
            20 => "IQ4_NL",
            21 => "IQ3_S",
            22 => "IQ2_S",
            23 => "IQ4_XS",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            28 => "F64",
            29 => "IQ1_M",
            34 => "TQ1_0",
            35 => "TQ2_0",
            39 => "MXFP4",
            other => return Err(format!("number {other}")),
        };
        Err(name.to_owned())
    }

    /// The name in the file format's own spelling.
    pub const fn name(self) -> &'static str {
        match self {
            Type::F32 => "F32",
            Type::F16 => "F16",
            Type::Bf16 => "BF16",
            Type::Q8_0 => "Q8_0",
            Type::Q4_0 => "Q4_0",
            Type::Q4K => "Q4_K",
            Type::Q5K => "Q5_K",
            Type::Q6K => "Q6_K",
        }
    }

    /// Whether elements can be read one by one.
    pub const fn is_float(self) -> bool {
        match self {
            Type::F32 | Type::F16 | Type::Bf16 => true,
            Type::Q8_0 | Type::Q4_0 | Type::Q4K | Type::Q5K | Type::Q6K => false,
        }
    }

    /// The format in which a bundle holds a matrix of this type, without loss.
    pub const fn format(self) -> Format {
        match self {
            Type::F32 | Type::Bf16 => Format::F32,
            Type::F16 => Format::F16,
            Type::Q8_0 => Format::Q8_0,
            Type::Q4_0 => Format::Q4_0,
            Type::Q4K => Format::Q4K,
            Type::Q5K => Format::Q5K,
            Type::Q6K => Format::Q6K,
        }
    }

    /// Elements of a block.
    pub const fn block(self) -> u64 {
        self.format().unit_k() as u64
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> u64 {
        match self {
            Type::Bf16 => 2,
            Type::F32 | Type::F16 | Type::Q8_0 | Type::Q4_0 | Type::Q4K | Type::Q5K | Type::Q6K => {
                self.format().unit_bytes() as u64
            }
        }
    }
}
