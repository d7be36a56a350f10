//! Adapters, the device of a session, and what goes wrong on it.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use super::pipeline::{Arithmetic, Pipelines};
use crate::error::{Error, Result};

/// A GPU, as listed by `lfm-run info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapter {
    /// Its name.
    pub name: String,
    /// What it is: a discrete GPU, an integrated one, software, ...
    pub kind: &'static str,
    /// The interface: Vulkan, Metal or DX12.
    pub interface: String,
    /// The driver and its version.
    pub driver: String,
    /// Most bytes of one binding.
    pub binding: u64,
    /// Whether its logits are those of the CPU bit for bit, not just near: so it is with software devices with f64.
    pub exact: bool,
}

impl std::fmt::Display for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {})", self.name, self.kind, self.interface)
    }
}

const BACKENDS: wgpu::Backends = wgpu::Backends::PRIMARY;

/// What to do when there is no adapter.
const INSTALL: &str =
    "install a Vulkan driver (software Vulkan: Debian's mesa-vulkan-drivers) or use --backend cpu";
const LIST: &str = "`lfm-run info` lists adapters";

fn kind(kind: wgpu::DeviceType) -> (u8, &'static str) {
    match kind {
        wgpu::DeviceType::DiscreteGpu => (0, "discrete GPU"),
        wgpu::DeviceType::IntegratedGpu => (1, "integrated GPU"),
        wgpu::DeviceType::VirtualGpu => (2, "virtual GPU"),
        wgpu::DeviceType::Other => (3, "other"),
        wgpu::DeviceType::Cpu => (4, "software"),
    }
}

/// All adapters, best first.
fn enumerate() -> Vec<(Adapter, wgpu::Adapter)> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = BACKENDS;
    // Sizes of indirect dispatches are written by shaders of this program.
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let mut found: Vec<_> = block_on(instance.enumerate_adapters(BACKENDS))
        .into_iter()
        .map(|adapter| {
            let info = adapter.get_info();
            let (rank, kind) = kind(info.device_type);
            let software = info.device_type == wgpu::DeviceType::Cpu;
            let about = Adapter {
                name: info.name,
                kind,
                interface: format!("{:?}", info.backend),
                driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
                binding: most_bound(&adapter.limits()),
                exact: software && adapter.features().contains(wgpu::Features::SHADER_F64),
            };
            (rank, about, adapter)
        })
        .collect();
    found.sort_by_key(|(rank, ..)| *rank);
    found.into_iter().map(|(_, about, adapter)| (about, adapter)).collect()
}

/// The adapters of this machine, best first: the order of `--adapter INDEX`.
pub fn adapters() -> Vec<Adapter> {
    enumerate().into_iter().map(|(about, _)| about).collect()
}

/// The adapter of that index or whose name contains `wanted`; the first when nothing is.
fn choose(wanted: Option<&str>) -> Result<(Adapter, wgpu::Adapter)> {
    let all = enumerate();
    let found: Vec<_> = all.iter().enumerate().map(|(index, (a, _))| format!("{index}: {a}")).collect();
    let hint = if all.is_empty() { INSTALL } else { LIST };
    let index = wanted.and_then(|wanted| wanted.parse::<usize>().ok());
    let fits = |index_of: usize, adapter: &Adapter| match (wanted, index) {
        (None, _) => true,
        (Some(_), Some(index)) => index == index_of,
        (Some(name), None) => adapter.name.to_lowercase().contains(&name.to_lowercase()),
    };
    let mut all = all.into_iter().enumerate();
    match all.find(|(index, (adapter, _))| fits(*index, adapter)) {
        Some((_, chosen)) => Ok(chosen),
        None => {
            let wanted = wanted.map_or("adapter".to_owned(), |wanted| format!("adapter `{wanted}`"));
            Err(Error::NoAdapter { wanted, found, hint })
        }
    }
}

/// An open device.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) adapter: Adapter,
    pub(crate) limits: wgpu::Limits,
    /// Whether shaders may use subgroup operations, on subgroups of 4 to 64 lanes.
    pub(crate) subgroups: bool,
    /// Whether the device is a CPU.
    pub(crate) software: bool,
    pub(crate) arithmetic: Arithmetic,
    pub(crate) pipelines: Pipelines,
    /// The first thing that went wrong outside any error scope.
    fault: Arc<Mutex<Option<String>>>,
}

impl Gpu {
    /// Opens the adapter of an index or name, or the best.
    ///
    /// # Errors
    /// When there is none, or its driver fails.
    pub(crate) fn open(wanted: Option<&str>) -> Result<Gpu> {
        let (about, adapter) = choose(wanted)?;
        let arithmetic = if about.exact { Arithmetic::Exact } else { Arithmetic::Native };
        Gpu::with(about, &adapter, arithmetic)
    }

    /// The best adapter, with the arithmetic of hardware.
    #[cfg(test)]
    pub(crate) fn native() -> Result<Gpu> {
        let (about, adapter) = choose(None)?;
        Gpu::with(about, &adapter, Arithmetic::Native)
    }

    fn with(about: Adapter, adapter: &wgpu::Adapter, arithmetic: Arithmetic) -> Result<Gpu> {
        let (limits, info) = (adapter.limits(), adapter.get_info());
        let mut features = adapter.features() & wgpu::Features::SUBGROUP;
        if arithmetic == Arithmetic::Exact {
            features |= wgpu::Features::SHADER_F64;
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("lfm-run"),
            required_features: features,
            required_limits: limits.clone(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = block_on(adapter.request_device(&descriptor))
            .map_err(|e| Error::DeviceLost { adapter: about.to_string(), what: e.to_string() })?;
        let fault = Arc::new(Mutex::new(None));
        let note = |fault: &Arc<Mutex<Option<String>>>| {
            let fault = Arc::clone(fault);
            move |what: String| {
                fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
            }
        };
        let (uncaptured, lost) = (note(&fault), note(&fault));
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| uncaptured(error.to_string())));
        device.set_device_lost_callback(move |reason, what| {
            // Dropping a device loses it too.
            if reason != wgpu::DeviceLostReason::Destroyed {
                lost(what);
            }
        });
        let pipelines = Pipelines::new(&device);
        Ok(Gpu {
            software: info.device_type == wgpu::DeviceType::Cpu,
            arithmetic,
            subgroups: features.contains(wgpu::Features::SUBGROUP)
                && info.subgroup_min_size >= 4
                && info.subgroup_max_size <= 64,
            adapter: about,
            limits,
            pipelines,
            fault,
            device,
            queue,
        })
    }

    /// An error of something that cannot be done on this device.
    pub(crate) fn unable(&self, at: &str, what: impl Into<String>) -> Error {
        Error::Device { at: at.to_owned(), adapter: self.adapter.to_string(), what: what.into() }
    }

    fn lost(&self, what: impl Into<String>) -> Error {
        Error::DeviceLost { adapter: self.adapter.to_string(), what: what.into() }
    }

    /// What the device has complained about, if it has.
    ///
    /// # Errors
    /// That.
    pub(crate) fn check(&self) -> Result<()> {
        match self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(what) => Err(self.lost(what)),
            None => Ok(()),
        }
    }

    /// Waits until the device has done everything that was submitted.
    ///
    /// # Errors
    /// When it is lost.
    pub(crate) fn wait(&self) -> Result<()> {
        let done = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        done.map(|_| ()).map_err(|e| self.lost(e.to_string()))
    }

    /// Waits, and reads the first `bytes` bytes of a buffer that can be mapped; `at` is what they are.
    ///
    /// # Errors
    /// When the device is lost or the buffer cannot be mapped.
    pub(crate) fn read<T>(
        &self,
        buffer: &wgpu::Buffer,
        bytes: u64,
        at: &str,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Result<T> {
        let slice = buffer.slice(..bytes);
        slice.map_async(wgpu::MapMode::Read, |_| ());
        self.wait()?;
        let fault = |_| Error::Internal { at: at.to_owned(), what: "it cannot be mapped" };
        let taken = take(&slice.get_mapped_range().map_err(fault)?);
        buffer.unmap();
        Ok(taken)
    }

    /// Does what a driver checks: `Err` has what it said.
    pub(crate) fn checked<T>(&self, make: impl FnOnce() -> T) -> Result<T, String> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make();
        let errors = [block_on(validation.pop()), block_on(scope.pop())];
        match errors.into_iter().flatten().next() {
            Some(error) => Err(error.to_string()),
            None => Ok(made),
        }
    }

    /// A buffer, or `None` if the device has no memory for it.
    pub(crate) fn allocate(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Option<wgpu::Buffer> {
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage,
            mapped_at_creation: false,
        });
        match block_on(scope.pop()) {
            Some(_) => None,
            None => Some(buffer),
        }
    }

    /// Most bytes of one storage binding.
    pub(crate) fn most_bound(&self) -> u64 {
        most_bound(&self.limits)
    }
}

fn most_bound(limits: &wgpu::Limits) -> u64 {
    limits.max_storage_buffer_binding_size.min(limits.max_buffer_size) / 64 * 64
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
