//! The devices on which the model runs eagerly.

use burn::tensor::Device;

/// The CPU, through burn-ndarray.
#[allow(
    deprecated,
    reason = "the only backend of this burn release that runs everywhere without a JIT or GPU"
)]
pub fn cpu() -> Device {
    Device::ndarray()
}

/// The best GPU that wgpu finds.
#[cfg(feature = "wgpu")]
pub fn gpu() -> Device {
    Device::wgpu(burn::tensor::DeviceKind::default())
}
