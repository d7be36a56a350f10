//! Weights, from source to bundle: read, quantised unless the source has them in blocks, and packed some rows at a
//! time, so that memory does not grow with the model.

use lfm_graphs::Graph;
use lfm_graphs::bundle::WeightsWriter;
use lfm_graphs::plan::{Plan, WeightKind, WeightSlot};
use lfm_graphs::weights::layout::{ROWS, row_block_bytes, row_blocks};
use lfm_graphs::weights::pack::pack_row_block;
use rayon::prelude::*;

use super::ExportError;
use super::source::Source;
use crate::quantize::quantise_rows;
use crate::quantize::recipe::WeightRole;

/// Elements of a matrix in memory at once, in `f32`.
const BATCH: usize = 4 << 20;
/// Elements that one thread takes at a time.
const PIECE: usize = 256 << 10;

/// Writes all weights of a plan. `progress` gets bytes done and bytes in all.
pub(super) fn write_weights(
    source: &Source,
    graph: &Graph,
    roles: &[WeightRole],
    plan: &Plan,
    writer: &mut WeightsWriter,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), ExportError> {
    for ((weight, slot), role) in graph.weights().values().zip(&plan.weights).zip(roles) {
        let tensor = Tensor { source, param: &weight.param, role: *role, slot };
        match slot.kind {
            WeightKind::Vector => tensor.vector(writer)?,
            WeightKind::Matrix => tensor.matrices(writer, plan.memory.weights, progress)?,
        }
        progress(slot.offset + slot.bytes, plan.memory.weights);
    }
    writer.pad_to(plan.memory.weights)?;
    Ok(())
}

struct Tensor<'a> {
    source: &'a Source,
    param: &'a str,
    role: WeightRole,
    slot: &'a WeightSlot,
}

impl Tensor<'_> {
    fn read(&self, first: usize, out: &mut [f32]) -> Result<(), ExportError> {
        self.source.read(self.param, self.role, self.slot.k as usize, first, out)
    }

    fn vector(&self, writer: &mut WeightsWriter) -> Result<(), ExportError> {
        let mut values = vec![0.0; self.slot.k as usize];
        self.read(0, &mut values)?;
        if let Some(element) = values.iter().position(|x| !x.is_finite()) {
            return Err(ExportError::NotFinite { name: self.param.into(), element, value: values[element] });
        }
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        Ok(writer.write_at(self.slot.offset, &bytes)?)
    }

    fn matrices(
        &self,
        writer: &mut WeightsWriter,
        total: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), ExportError> {
        let WeightSlot { format, count, rows, k, stride, offset, .. } = *self.slot;
        let (rows, k) = (rows as usize, k as usize);
        let block_bytes =
            row_block_bytes(format, k).ok_or_else(|| ExportError::TooLarge(self.param.into()))?;
        let blocks = row_blocks(rows);
        let batch = (BATCH / (ROWS * k)).max(1);
        let piece = (PIECE / (ROWS * k)).max(1);
        let mut packed = vec![0u8; batch.min(blocks) * block_bytes];
        for index in 0..count as usize {
            let start = offset + index as u64 * stride;
            for first in (0..blocks).step_by(batch) {
                let packed = &mut packed[..batch.min(blocks - first) * block_bytes];
                packed.par_chunks_mut(piece * block_bytes).enumerate().try_for_each(|(n, out)| {
                    self.pack(index, (first + n * piece) * ROWS, rows, k, block_bytes, out)
                })?;
                let at = start + (first * block_bytes) as u64;
                writer.write_at(at, packed)?;
                progress(at, total);
            }
            writer.pad_to(start + stride)?;
        }
        Ok(())
    }

    /// Packs the row-blocks of matrix `index` from `row` on that fit into `out`.
    fn pack(
        &self,
        index: usize,
        row: usize,
        rows: usize,
        k: usize,
        block_bytes: usize,
        out: &mut [u8],
    ) -> Result<(), ExportError> {
        let format = self.slot.format;
        let count = (out.len() / block_bytes * ROWS).min(rows - row);
        let row_bytes = format.row_bytes(k).ok_or_else(|| ExportError::TooLarge(self.param.into()))?;
        let mut canonical = vec![0u8; count * row_bytes];
        let first = index * rows + row;
        if !self.source.read_rows(self.param, self.role, k, first, &mut canonical)? {
            let mut values = vec![0.0; count * k];
            self.read(first * k, &mut values)?;
            quantise_rows(format, &values, k, &mut canonical)
                .map_err(|e| ExportError::Quantise { name: self.param.into(), source: e.below(first) })?;
        }
        for (canonical, out) in canonical.chunks(ROWS * row_bytes).zip(out.chunks_exact_mut(block_bytes)) {
            pack_row_block(format, canonical.len() / row_bytes, k, canonical, out)
                .map_err(|source| ExportError::Pack { name: self.param.into(), source })?;
        }
        Ok(())
    }
}
