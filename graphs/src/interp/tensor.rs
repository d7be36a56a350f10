//! Concrete tensors, row-major.

use half::f16;

use crate::{DType, TensorType};

/// Most elements of a tensor that the interpreter makes: 1 GiB of `f32`.
pub const MAX_ELEMENTS: usize = 1 << 28;

/// The elements of a tensor. Those of an `f16` value are `f32` numbers that `f16` can hold.
#[derive(Clone, PartialEq, Debug)]
pub enum Data {
    /// Numbers.
    F32(Vec<f32>),
    /// Indices.
    I32(Vec<i32>),
}

impl Data {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            Data::F32(data) => data.len(),
            Data::I32(data) => data.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A tensor of known shape.
#[derive(Clone, PartialEq, Debug)]
pub struct Tensor {
    /// Sizes of the axes, outermost first.
    pub shape: Vec<usize>,
    /// Row-major elements, as many as the product of the sizes.
    pub data: Data,
}

impl Tensor {
    /// A tensor of numbers.
    pub fn f32(shape: impl Into<Vec<usize>>, data: Vec<f32>) -> Tensor {
        Tensor { shape: shape.into(), data: Data::F32(data) }
    }

    /// A tensor of indices.
    pub fn i32(shape: impl Into<Vec<usize>>, data: Vec<i32>) -> Tensor {
        Tensor { shape: shape.into(), data: Data::I32(data) }
    }

    /// The numbers, if it is a tensor of numbers.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            Data::F32(data) => Some(data),
            Data::I32(_) => None,
        }
    }

    /// The indices, if it is a tensor of indices.
    pub fn as_i32(&self) -> Option<&[i32]> {
        match &self.data {
            Data::I32(data) => Some(data),
            Data::F32(_) => None,
        }
    }

    /// Whether it is a value of a type at (seq, past), with all its elements.
    pub fn is(&self, ty: &TensorType, seq: u32, past: u32) -> bool {
        let kind = matches!(
            (&self.data, ty.dtype),
            (Data::F32(_), DType::F32 | DType::F16) | (Data::I32(_), DType::I32)
        );
        kind && ty.elements(seq, past) == Some(self.data.len() as u64) && self.shape == ty.at(seq, past)
    }

    /// A short description for messages, such as `f32[3, 64]`.
    pub(crate) fn describe(&self) -> String {
        let kind = match self.data {
            Data::F32(_) => "f32",
            Data::I32(_) => "i32",
        };
        let product = self.shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
        if product == Some(self.data.len()) {
            format!("{kind}{:?}", self.shape)
        } else {
            format!("{kind}{:?} of {} elements", self.shape, self.data.len())
        }
    }
}

/// The nearest number that `f16` can hold.
pub(crate) fn round_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// The index of each axis for element `flat` of a shape.
pub(super) fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len()];
    for (i, size) in index.iter_mut().zip(shape).rev() {
        *i = flat % size;
        flat /= size;
    }
    index
}

/// The element of a shape that stands at `index`, which has an entry for each axis.
pub(super) fn ravel(index: &[usize], shape: &[usize]) -> usize {
    index.iter().zip(shape).fold(0, |flat, (i, size)| flat * size + i)
}

/// As [`ravel`] for a shape that is stretched to that of the index: axes are aligned at the end, and the one
/// element of an axis of size one stands everywhere.
pub(super) fn ravel_stretched(index: &[usize], shape: &[usize]) -> usize {
    let index = &index[index.len() - shape.len()..];
    index.iter().zip(shape).fold(0, |flat, (i, size)| flat * size + if *size == 1 { 0 } else { *i })
}
