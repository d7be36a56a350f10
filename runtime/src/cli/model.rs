//! Flags of every command that runs a model, and opening it by them.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::{Args, ValueEnum};
use lfm_graphs::target::ByteSize;
use lfm_runtime::paging::Stats;
use lfm_runtime::{Budget, Model, Options, Session, machine};

use super::error::{CliError, Result};
use super::output::{Progress, note};

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// The CPU.
    Cpu,
    /// A GPU through WebGPU.
    Wgpu,
}

/// How a model runs.
#[derive(Args, Debug)]
#[command(next_help_heading = "Execution")]
pub(crate) struct RunOptions {
    /// Threads [default: one for each of the fastest cores, at most those of the bundle's profile]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// ISA tier of the kernels [default: the fastest of this CPU]
    #[arg(long, value_name = "TIER")]
    isa: Option<String>,
    /// What computes
    #[arg(long, default_value = "cpu")]
    backend: Backend,
    /// GPU of backend wgpu: a part of its name, or its number in `lfm-run info` [default: the first]
    #[arg(long, value_name = "NAME|INDEX")]
    adapter: Option<String>,
    /// Layers that backend wgpu runs on the GPU, the last ones; the others run on the CPU [default: all]
    #[arg(long, value_name = "N")]
    gpu_layers: Option<usize>,
    /// Most tokens of one pass of a prompt [default: as planned]
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
    /// Positions [default: as planned]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Most memory of the process, such as 3GiB: experts are read from the file when they are chosen
    #[arg(long, value_name = "SIZE")]
    ram: Option<ByteSize>,
    /// Copy the weights into huge pages first: faster, but the start takes as long as reading the file
    #[arg(long, conflicts_with = "ram")]
    huge_pages: bool,
    /// Compare the weights with their hash first
    #[arg(long)]
    verify: bool,
    /// Run only what is signed by this public key, a file or 64 hex digits, and compare all bytes with their hashes
    #[arg(long, value_name = "KEY")]
    require_signature: Option<String>,
}

/// A public key, in a build that can check signatures.
#[cfg(feature = "sign")]
pub(crate) type Key = lfm_runtime::signature::PublicKey;
/// There is none in a build that cannot.
#[cfg(not(feature = "sign"))]
pub(crate) type Key = std::convert::Infallible;

impl RunOptions {
    /// The options of a session.
    pub(crate) fn session(&self) -> Options {
        let backend = match self.backend {
            Backend::Cpu => lfm_runtime::Backend::Cpu,
            Backend::Wgpu => {
                lfm_runtime::Backend::Wgpu { adapter: self.adapter.clone(), layers: self.gpu_layers }
            }
        };
        let isa = self.isa.clone();
        Options { threads: self.threads, isa, chunk: self.chunk, context: self.context, backend }
    }

    /// The key by which bundles must be signed, if there is one.
    #[cfg(feature = "sign")]
    pub(crate) fn key(&self) -> Result<Option<Key>> {
        Ok(self.require_signature.as_deref().map(Key::find).transpose()?)
    }

    /// The key by which bundles must be signed, if there is one.
    #[cfg(not(feature = "sign"))]
    pub(crate) fn key(&self) -> Result<Option<Key>> {
        match self.require_signature {
            None => Ok(None),
            Some(_) => Err(CliError::argument(
                "this build of lfm-run cannot check signatures, expected no --require-signature or a build with \
                 feature `sign`",
            )),
        }
    }

    /// Opens a bundle. What is demanded of it is proved.
    pub(crate) fn open(&self, bundle: &Path) -> Result<Model> {
        let key = self.key()?;
        let mut model = self.open_unproved(bundle)?;
        let mut progress = Progress::new("hashing weights");
        match key {
            #[cfg(feature = "sign")]
            Some(key) => {
                lfm_runtime::signature::require(&model, &key, |done, all| progress.show(done, all))?;
            }
            #[cfg(not(feature = "sign"))]
            Some(never) => match never {},
            None if self.verify => model.verify_weights(|done, all| progress.show(done, all))?,
            None => {}
        }
        drop(progress);
        if self.huge_pages {
            model =
                model.with_huge_pages(std::thread::available_parallelism().map_or(1, usize::from).min(4))?;
        }
        Ok(model)
    }

    /// Opens a bundle, whatever `--verify` and `--require-signature` demand.
    pub(crate) fn open_unproved(&self, bundle: &Path) -> Result<Model> {
        if self.backend == Backend::Wgpu && !cfg!(feature = "wgpu") {
            return Err(CliError::argument(
                "this build of lfm-run has no wgpu backend, expected `--backend cpu` or a build with feature `wgpu`",
            ));
        }
        let of_a_gpu = [("--adapter", self.adapter.is_some()), ("--gpu-layers", self.gpu_layers.is_some())];
        if let (Backend::Cpu, Some((flag, _))) = (self.backend, of_a_gpu.iter().find(|(_, given)| *given)) {
            return Err(CliError::argument(format!(
                "{flag} is given with backend cpu, expected `--backend wgpu`"
            )));
        }
        if self.ram.is_some() && self.backend == Backend::Wgpu {
            return Err(CliError::argument(
                "--ram is given with backend wgpu, expected `--backend cpu`: a GPU keeps all weights",
            ));
        }
        let paged = |ram: u64| Model::open_with(bundle, &Budget::ram(ram).with_context(self.context));
        let model = match self.ram {
            Some(ram) => paged(ram.0)?,
            None => {
                let model = Model::open(bundle)?;
                match self.planned_budget(&model) {
                    Some(ram) => paged(ram)?,
                    None => {
                        if self.backend == Backend::Cpu {
                            let least = model.least_memory(self.context).ok().filter(|least| least.cache > 0);
                            let least = least.map(|least| least.total);
                            let warning = tight(model.plan().memory.total, least, machine::spare());
                            warning.iter().for_each(|warning| note(warning));
                        }
                        model
                    }
                }
            }
        };
        let isa = model.target().isa.name();
        if self.backend == Backend::Cpu
            && self.isa.is_none()
            && lfm_runtime::cpu::kernels::by_name(isa).is_err()
        {
            let tier = lfm_runtime::cpu::kernels::best().name();
            note(&format!(
                "warning: the bundle is made for {isa}, which this CPU does not run; using {tier}"
            ));
        }
        Ok(model)
    }

    /// The budget of a bundle whose profile has less memory than all its weights need: then its experts are paged, as
    /// the export planned. The least that can be run with is not refused.
    fn planned_budget(&self, model: &Model) -> Option<u64> {
        let ram = model.target().ram?.0;
        if ram >= model.plan().memory.total || self.backend == Backend::Wgpu || self.huge_pages {
            return None;
        }
        let least = model.least_memory(self.context).ok().filter(|least| least.cache > 0)?;
        // The process holds a little more by the time that it is opened again.
        Some(ram.max(least.total.next_multiple_of(1 << 20) + (1 << 20)))
    }

    /// Opens a bundle and a session of it, and says how long that took, in seconds. `more` is part of it.
    pub(crate) fn start<T>(
        &self,
        bundle: &Path,
        more: impl FnOnce(&Model) -> Result<T>,
    ) -> Result<(Session, T, f64)> {
        let start = Instant::now();
        let model = self.open(bundle)?;
        let more = more(&model)?;
        let session = model.session(&self.session())?;
        Ok((session, more, start.elapsed().as_secs_f64()))
    }
}

/// What to say of a model of `total` bytes where `spare` are to be had: left to itself, the system then reads weights again
/// and again. `paged` is the least that it takes with experts paged, if it has any.
fn tight(total: u64, paged: Option<u64>, spare: Option<u64>) -> Option<String> {
    let spare = spare.filter(|spare| *spare < total)?;
    let (needed, had) = (ByteSize(total).approx(), ByteSize(spare).approx());
    let found = format!("warning: the model takes {needed}, and this machine has {had} to spare for it");
    Some(match paged {
        Some(least) if least <= spare => {
            format!(
                "{found}; `--ram {}MiB` reads experts when they are chosen, which is faster where it does not fit",
                spare >> 20
            )
        }
        Some(_) | None => format!("{found}: it may be slow"),
    })
}

/// What paging has done, for a summary; nothing if all weights are in memory.
pub(crate) fn paged(model: &Model, stats: Stats, tokens: usize) -> String {
    let Some(layout) = model.paging() else { return String::new() };
    let rate = stats.hit_rate().map_or(String::new(), |rate| format!("{:.1} % of them hit, ", 100.0 * rate));
    format!(
        "{} of {} experts fit into memory, {rate}{} read, {} a token",
        layout.slots,
        layout.experts,
        ByteSize(stats.bytes_read).approx(),
        ByteSize(stats.bytes_read / tokens.max(1) as u64).approx(),
    )
}

/// The bundle to run.
#[derive(Args, Debug)]
pub(crate) struct BundleArgument {
    /// The bundle
    #[arg(value_name = "BUNDLE")]
    pub(crate) bundle: PathBuf,
}

/// A token id, for lists separated by commas.
pub(crate) fn token(text: &str) -> std::result::Result<u32, String> {
    let text = text.trim();
    text.parse().map_err(|_| format!("found `{text}`, expected token ids such as 1,2,3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_larger_than_the_memory_is_warned_of() {
        let gib = |n: u64| n << 30;
        assert_eq!(tight(gib(4), Some(gib(1)), None), None);
        assert_eq!(tight(gib(4), Some(gib(1)), Some(gib(4))), None);
        let said = |paged, spare| tight(gib(4), paged, Some(spare)).unwrap();
        insta::assert_snapshot!(said(Some(gib(1)), gib(3)), @"warning: the model takes 4.00 GiB, and this machine has 3.00 GiB to spare for it; `--ram 3072MiB` reads experts when they are chosen, which is faster where it does not fit");
        insta::assert_snapshot!(said(Some(gib(1)), gib(1) - 1), @"warning: the model takes 4.00 GiB, and this machine has 1024.00 MiB to spare for it: it may be slow");
        insta::assert_snapshot!(said(None, gib(3)), @"warning: the model takes 4.00 GiB, and this machine has 3.00 GiB to spare for it: it may be slow");
    }
}
