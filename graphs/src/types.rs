//! Tensor types: an element type and a shape.
//!
//! Types are logical. A weight stored in 4 bits has type `f32`; how its bytes are kept is its
//! [`Format`](crate::weights::Format).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Dim;

/// Most axes of a tensor.
pub const MAX_RANK: usize = 6;

/// Element type of a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE half: only states are kept in it.
    F16,
    /// Indices.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub const fn bytes(self) -> u64 {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::I32 => "i32",
        })
    }
}

/// Element type and shape. Prints as `f32[seq, 64]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Sizes of the axes, outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A type from anything that converts to dimensions.
    pub fn new<D: Into<Dim>>(dtype: DType, shape: impl IntoIterator<Item = D>) -> TensorType {
        TensorType { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// An `f32` tensor of symbolic shape.
    pub fn f32(shape: impl IntoIterator<Item = Dim>) -> TensorType {
        TensorType::new(DType::F32, shape)
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Size of the innermost axis.
    pub fn last(&self) -> Option<Dim> {
        self.shape.last().copied()
    }

    /// The sizes, if no axis is symbolic.
    pub fn fixed(&self) -> Option<Vec<u32>> {
        self.shape.iter().map(|d| d.as_fixed()).collect()
    }

    /// Number of elements at a concrete (seq, past), unless it overflows.
    pub fn elements(&self, seq: u32, past: u32) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |n, d| n.checked_mul(d.at(seq, past)))
    }

    /// Bytes at a concrete (seq, past), unless it overflows.
    pub fn bytes(&self, seq: u32, past: u32) -> Option<u64> {
        self.elements(seq, past)?.checked_mul(self.dtype.bytes())
    }

    /// The concrete sizes at (seq, past).
    pub fn at(&self, seq: u32, past: u32) -> Vec<usize> {
        self.shape.iter().map(|d| d.at(seq, past) as usize).collect()
    }

    /// The number of elements in a form in which equal counts are equal: the product of the fixed parts, and
    /// the symbolic factors, ascending. `None` if the fixed part overflows.
    pub(crate) fn count(&self) -> Option<(u64, Vec<Dim>)> {
        let mut fixed = 1u64;
        let mut symbolic = Vec::<Dim>::new();
        for dim in &self.shape {
            match dim.as_fixed() {
                Some(n) => fixed = fixed.checked_mul(n as u64)?,
                None => {
                    let (dim, by) = dim.primitive();
                    fixed = fixed.checked_mul(by as u64)?;
                    let at = symbolic.iter().position(|other| *other > dim).unwrap_or(symbolic.len());
                    symbolic.insert(at, dim);
                }
            }
        }
        Some((fixed, symbolic))
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, dim) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

impl FromStr for TensorType {
    type Err = String;
    fn from_str(text: &str) -> Result<TensorType, String> {
        let bad = || format!("bad type `{text}`, expected such as `f32[seq, 64]`");
        let (dtype, rest) = text.split_once('[').ok_or_else(bad)?;
        let dtype = match dtype {
            "f32" => DType::F32,
            "f16" => DType::F16,
            "i32" => DType::I32,
            other => return Err(format!("bad element type `{other}` in `{text}`, expected f32, f16 or i32")),
        };
        let body = rest.strip_suffix(']').ok_or_else(bad)?;
        let shape = match body {
            "" => Vec::new(),
            body => body.split(", ").map(str::parse).collect::<Result<Vec<Dim>, String>>()?,
        };
        if shape.len() > MAX_RANK {
            return Err(format!("`{text}` has {} axes, at most {MAX_RANK} are allowed", shape.len()));
        }
        Ok(TensorType { dtype, shape })
    }
}

impl Serialize for TensorType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TensorType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TensorType, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.as_fixed() {
            Some(n) => serializer.serialize_u32(n),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Dim, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Dim;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a text such as \"past+seq\"")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Dim, E> {
                u32::try_from(n).map(Dim::fixed).map_err(|_| E::custom(format!("dimension {n} is too large")))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Dim, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
