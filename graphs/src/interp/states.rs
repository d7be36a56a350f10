//! What is carried from call to call.

use std::collections::BTreeMap;

use super::tensor::{Data, Tensor};
use crate::{DType, Graph};

/// The contents of a graph's states and the number of tokens in them. Windows start as zeros, appended states
/// empty.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct States {
    pub(super) past: u32,
    pub(super) tensors: BTreeMap<String, Tensor>,
}

impl States {
    /// The states before the first call. States larger than the interpreter holds stay out, and a call names them.
    pub fn new(graph: &Graph) -> States {
        let mut tensors = BTreeMap::new();
        for state in graph.states().values() {
            let elements = state.ty.elements(0, 0).and_then(|n| usize::try_from(n).ok());
            let Some(elements) = elements.filter(|n| *n <= super::MAX_ELEMENTS) else { continue };
            let data = match state.ty.dtype {
                DType::F32 | DType::F16 => Data::F32(vec![0.0; elements]),
                DType::I32 => Data::I32(vec![0; elements]),
            };
            tensors.insert(state.name.clone(), Tensor { shape: state.ty.at(0, 0), data });
        }
        States { past: 0, tensors }
    }

    /// States after `past` tokens, with these contents by name.
    pub fn with(past: u32, tensors: BTreeMap<String, Tensor>) -> States {
        States { past, tensors }
    }

    /// How many tokens have been seen.
    pub fn past(&self) -> u32 {
        self.past
    }

    /// The content of the state of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }
}
