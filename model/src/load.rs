//! Checkpoint to burn module: every parameter in f32, on one device.

use burn::Tensor;
use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, TensorData};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::lfm2::Lfm2;
use crate::tensors::canonical_name;

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
        let mut loader = Loader { checkpoint, device, path: ParamPath::default(), failed: None };
        let model = Lfm2::new(checkpoint.config(), device).map(&mut loader);
        match loader.failed {
            Some(error) => Err(error),
            None => Ok(model),
        }
    }
}

/// Replaces parameters by the checkpoint's values, until the first failure.
struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    device: &'a Device,
    path: ParamPath,
    failed: Option<CheckpointError>,
}

impl Loader<'_> {
    /// The values of the current parameter.
    fn read(&self) -> Result<TensorData, CheckpointError> {
        let name = canonical_name(&self.path.name());
        let Some(info) = self.checkpoint.tensor(&name) else {
            return Err(CheckpointError::Unknown { name });
        };
        let values = self.checkpoint.read_f32(&name)?;
        Ok(match info.shape {
            &[rows, columns] if info.kind.transposed_in_module() => {
                TensorData::new(transposed(&values, rows, columns), [columns, rows])
            }
            shape => TensorData::new(values, shape.to_vec()),
        })
    }
}

impl ModuleMapper for Loader<'_> {
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
        match self.read() {
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
