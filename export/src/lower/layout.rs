//! Lowering of operations that move elements without computing.

use lfm_graphs::graph::Value;
use lfm_graphs::{DType, Dim, Op};

use super::{Fault, Lowering, unsupported};
use crate::capture::ops::CapturedOp;

impl Lowering<'_> {
    /// Refuses an axis that is not the last one of `x`.
    pub(super) fn last_axis(&self, axis: usize, x: Value) -> Result<(), Fault> {
        let rank = self.ty(x).rank();
        if axis + 1 == rank {
            Ok(())
        } else {
            unsupported(format!("axis {axis} of {rank}, expected the last one"))
        }
    }

    /// A change of element type; one from float to float changes nothing, because models are traced in `f32`.
    pub(super) fn cast(&mut self, op: &CapturedOp<Dim>, x: Value) -> Result<Value, Fault> {
        let to = op.outputs.first().and_then(|id| self.captured_type(*id));
        match to.map(|ty| ty.dtype) {
            Some(to) if to == self.ty(x).dtype => Ok(x),
            Some(DType::F32) => Ok(self.emit(&Op::Cast { to: DType::F32 }, &[x])?),
            _ => unsupported("only casts to floats are known"),
        }
    }

    pub(super) fn swap(&mut self, x: Value, a: usize, b: usize) -> Result<Value, Fault> {
        let mut order: Vec<u8> = (0..self.ty(x).rank() as u8).collect();
        if a >= order.len() || b >= order.len() {
            return unsupported(format!("axes {a} and {b} of {}", order.len()));
        }
        order.swap(a, b);
        Ok(self.emit(&Op::Permute { order }, &[x])?)
    }

    /// One `Slice` for every axis that is cut.
    pub(super) fn slice(&mut self, x: Value, ranges: &[(Dim, Dim)]) -> Result<Value, Fault> {
        let mut x = x;
        for (axis, (from, to)) in ranges.iter().enumerate() {
            let whole = *from == Dim::fixed(0) && self.shape(x).get(axis) == Some(to);
            if !whole {
                x = self.emit(&Op::Slice { axis: axis as u8, from: *from, to: *to }, &[x])?;
            }
        }
        Ok(x)
    }

    /// Slices along any axis by index: the axis is brought to the front and back.
    pub(super) fn select(&mut self, x: Value, indices: Value, axis: usize) -> Result<Value, Fault> {
        if axis == 0 {
            return Ok(self.emit(&Op::Select, &[x, indices])?);
        }
        let front = self.swap(x, 0, axis)?;
        let rows = self.emit(&Op::Select, &[front, indices])?;
        self.swap(rows, 0, axis)
    }

    /// Rows of a table for indices of any shape.
    pub(super) fn embedding(&mut self, table: Value, indices: Value) -> Result<Value, Fault> {
        let mut shape = self.shape(indices);
        let Some(count) = product(&shape) else {
            return unsupported("the number of indices is no multiple of seq");
        };
        let flat = self.emit(&Op::Reshape { to: vec![count] }, &[indices])?;
        let rows = self.emit_as("embed", &Op::Select, &[table, flat])?;
        shape.extend(self.shape(table).into_iter().skip(1));
        Ok(self.emit(&Op::Reshape { to: shape }, &[rows])?)
    }
}

/// The number of elements, if at most one size has symbols.
pub(super) fn product(shape: &[Dim]) -> Option<Dim> {
    shape.iter().try_fold(Dim::ONE, |n, dim| match (n.as_fixed(), dim.as_fixed()) {
        (_, Some(by)) => n.checked_mul(by),
        (Some(by), None) => dim.checked_mul(by),
        (None, None) => None,
    })
}
