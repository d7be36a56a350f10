//! The weights of the reference: those of a source, or those of the bundle itself, widened to f32.

use std::collections::BTreeMap;

use lfm_graphs::bundle::Kind;
use lfm_graphs::plan::{WeightKind, WeightSlot};
use lfm_graphs::weights::dequant::dequantise_packed_row;
use lfm_model::{Config, TensorSpec, canonical_name};
use lfm_runtime::Model;

use super::CompareError;
use crate::bundle::{Source, roles};
use crate::quantize::recipe::WeightRole;

/// The values of tensors, by their names in a checkpoint.
pub(super) struct Weights<'a> {
    model: &'a Model,
    /// None: the bundle's own weights.
    source: Option<&'a Source>,
    tensors: BTreeMap<String, Tensor<'a>>,
}

/// A tensor as the graph has it.
struct Tensor<'a> {
    param: &'a str,
    role: WeightRole,
    slot: &'a WeightSlot,
}

impl<'a> Weights<'a> {
    /// The weights of a bundle's graph, which must be all the tensors of `config`, in their sizes.
    pub(super) fn new(
        model: &'a Model,
        config: &Config,
        source: Option<&'a Source>,
    ) -> Result<Weights<'a>, CompareError> {
        let graph = model.graph();
        let mut tensors = BTreeMap::new();
        for ((weight, slot), role) in graph.weights().values().zip(&model.plan().weights).zip(roles(graph)) {
            tensors.insert(canonical_name(&weight.param), Tensor { param: &weight.param, role, slot });
        }
        let other = |what| Err(CompareError::OtherModel { what });
        let expected = config.tensors();
        for tensor in &expected {
            let (name, shape) = (&tensor.name, &tensor.shape);
            match tensors.get(name).map(|found| elements(found.slot)) {
                None => return other(format!("it has no {name}")),
                Some(found) if found != tensor.elements() as u64 => {
                    return other(format!("{name} has {found} elements, expected {shape:?}"));
                }
                Some(_) => {}
            }
        }
        if tensors.len() != expected.len() {
            return other(format!("it has {} tensors, expected {}", tensors.len(), expected.len()));
        }
        Ok(Weights { model, source, tensors })
    }

    /// All values of a tensor, in the order of a checkpoint.
    pub(super) fn read(&self, tensor: &TensorSpec) -> Result<Vec<f32>, CompareError> {
        let missing = || CompareError::OtherModel { what: format!("it has no {}", tensor.name) };
        let Tensor { param, role, slot } = self.tensors.get(&tensor.name).ok_or_else(missing)?;
        let mut values = vec![0.0; tensor.elements()];
        match self.source {
            Some(source) => source.read(param, *role, slot.k as usize, 0, &mut values)?,
            None => self.stored(slot, &mut values).ok_or_else(missing)?,
        }
        Ok(values)
    }

    /// The values of the bundle. None if the plan does not describe it.
    fn stored(&self, slot: &WeightSlot, values: &mut [f32]) -> Option<()> {
        let bytes = self.model.section(Kind::Weights)?.get(usize::try_from(slot.offset).ok()?..)?;
        let (rows, k) = (slot.rows as usize, slot.k as usize);
        if slot.kind == WeightKind::Vector {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*bytes);
            }
            return Some(());
        }
        for (index, row) in values.chunks_exact_mut(k).enumerate() {
            let start = (index / rows).checked_mul(usize::try_from(slot.stride).ok()?)?;
            dequantise_packed_row(
                slot.format,
                rows,
                bytes.get(start..)?.get(..slot.stride as usize)?,
                index % rows,
                row,
            )
            .ok()?;
        }
        Some(())
    }
}

fn elements(slot: &WeightSlot) -> u64 {
    match slot.kind {
        WeightKind::Vector => u64::from(slot.k),
        WeightKind::Matrix => u64::from(slot.count) * u64::from(slot.rows) * u64::from(slot.k),
    }
}
