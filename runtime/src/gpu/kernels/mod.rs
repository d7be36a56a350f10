//! One file for each kind of step: which shaders run, with what parameters.

pub(crate) mod attention;
pub(crate) mod conv_gate;
pub(crate) mod formats;
pub(crate) mod linear;
pub(crate) mod moe;
pub(crate) mod rows;

#[cfg(test)]
use super::pipeline::Shader;

/// Every shader, for tests that need no device.
#[cfg(test)]
pub(crate) fn shaders() -> Vec<Shader> {
    let few = [rows::SHADERS, conv_gate::SHADERS, attention::SHADERS, &moe::shaders()].concat();
    few.into_iter().chain(linear::shaders()).collect()
}
