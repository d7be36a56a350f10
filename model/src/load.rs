//! Checkpoint to burn module: every parameter in f32, on one device.

use std::collections::BTreeMap;

use burn::Tensor;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, TensorData};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::Config;
use crate::lfm2::Lfm2;
use crate::tensors::{TensorSpec, canonical_name};

/// The path of a parameter while a module is traversed, as burn's mappers and visitors report it.
///
/// Enum variants are left out: they say which kind a submodule is, not where it sits.
#[derive(Debug, Default)]
pub struct ParamPath(Vec<String>);

impl ParamPath {
    /// To be called from `enter_module`.
    pub fn enter(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.push(name.to_owned());
        }
    }

    /// To be called from `exit_module`.
    pub fn exit(&mut self, container: &str) {
        if !container.starts_with("Enum:") {
            self.0.pop();
        }
    }

    /// The path, parts joined by dots: `layers.0.conv.in_proj.weight`.
    pub fn name(&self) -> String {
        self.0.join(".")
    }
}

impl Lfm2 {
    /// Loads the model of `checkpoint` onto `device`.
    pub fn load(checkpoint: &Checkpoint, device: &Device) -> Result<Self, CheckpointError> {
        let mut read = |tensor: &TensorSpec| checkpoint.read_f32(&tensor.name);
        let config = checkpoint.config();
        Loader::new(config, device, &mut read).load(&[], Lfm2::new(config, device))
    }
}

/// Gives the values of a tensor, in the checkpoint's order.
pub(crate) type Read<'a, E> = &'a mut dyn FnMut(&TensorSpec) -> Result<Vec<f32>, E>;

/// Replaces parameters by values that are read, until the first failure.
pub(crate) struct Loader<'a, E> {
    tensors: BTreeMap<String, TensorSpec>,
    device: &'a Device,
    read: Read<'a, E>,
    path: ParamPath,
    failed: Option<E>,
}

impl<'a, E: From<CheckpointError>> Loader<'a, E> {
    /// A loader of the tensors of `config`.
    pub(crate) fn new(config: &Config, device: &'a Device, read: Read<'a, E>) -> Self {
        let tensors = config.tensors().into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        Self { tensors, device, read, path: ParamPath::default(), failed: None }
    }

    /// Loads the module that stands at `path` in the model.
    pub(crate) fn load<M: Module>(&mut self, path: &[&str], module: M) -> Result<M, E> {
        self.path = ParamPath(path.iter().map(|part| (*part).to_owned()).collect());
        let module = module.map(self);
        match self.failed.take() {
            Some(error) => Err(error),
            None => Ok(module),
        }
    }

    /// The values of the current parameter.
    fn value(&mut self) -> Result<TensorData, E> {
        let name = canonical_name(&self.path.name());
        let Some(tensor) = self.tensors.get(&name) else {
            return Err(CheckpointError::Unknown { name }.into());
        };
        let values = (self.read)(tensor)?;
        Ok(match tensor.shape[..] {
            [rows, columns] if tensor.kind.transposed_in_module() => {
                TensorData::new(transposed(&values, rows, columns), [columns, rows])
            }
            _ => TensorData::new(values, tensor.shape.clone()),
        })
    }
}

impl<E: From<CheckpointError>> ModuleMapper for Loader<'_, E> {
    fn enter_module(&mut self, name: &str, container_type: &str) {
        self.path.enter(name, container_type);
    }

    fn exit_module(&mut self, _name: &str, container_type: &str) {
        self.path.exit(container_type);
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.failed.is_some() {
            return param;
        }
        match self.value() {
            Ok(data) => Param::initialized(param.id, Tensor::from_data(data, self.device)),
            Err(error) => {
                self.failed = Some(error);
                param
            }
        }
    }
}

/// `values` [rows, columns] as [columns, rows].
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    /// Rows and columns of the squares in which both sides stay in cache.
    const TILE: usize = 32;
    let mut out = vec![0.0; values.len()];
    for row_start in (0..rows).step_by(TILE) {
        for column_start in (0..columns).step_by(TILE) {
            for row in row_start..rows.min(row_start + TILE) {
                for column in column_start..columns.min(column_start + TILE) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}
