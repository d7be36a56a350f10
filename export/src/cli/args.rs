//! The arguments of all commands.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use lfm_export::bundle::Options;
use lfm_export::quantize::recipe::Recipe;
use lfm_graphs::bundle::KvType;
use lfm_graphs::target::{ByteSize, Target};
use lfm_runtime::cpu::kernels;

/// Compiles LFM2 checkpoints into bundles for small computers.
#[derive(Debug, Parser)]
#[command(name = "lfmc", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Export the demo checkpoint for this machine and let it answer a question.
    Demo(DemoArgs),
    /// Compile a checkpoint into a bundle.
    Export(ExportArgs),
    /// Print a graph or a plan as text.
    Graph(GraphArgs),
    /// Show what is in a bundle.
    Inspect(InspectArgs),
    /// Compare two bundles or graph files; exit 1 where they differ.
    Diff(DiffArgs),
    /// Compare every node of a run with the burn model; exit 1 where one leaves tolerance.
    Compare(CompareArgs),
    /// Make a bundle for another target, without its checkpoint.
    Retarget(RetargetArgs),
    /// Make a pair of keys to sign bundles with.
    Keygen(KeygenArgs),
    /// Sign a bundle, in a file beside it.
    Sign(SignArgs),
    /// Prove a bundle: hashes, rules, plan, golden vectors, signature.
    Verify(VerifyArgs),
    /// List the device profiles.
    Targets(TargetsArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The question.
    #[arg(default_value = "What is `Vec`?")]
    pub(crate) prompt: String,
    /// Where the bundle goes.
    #[arg(short, long, value_name = "FILE", default_value = "demo.lfmb")]
    pub(crate) output: PathBuf,
}

/// What a bundle is made for.
#[derive(Debug, Args)]
pub(crate) struct TargetOptions {
    /// Device profile: a name (see `lfmc targets`) or a RON file.
    #[arg(long, value_name = "NAME|FILE", default_value = "portable")]
    pub(crate) target: String,
    /// Weight format: q4_0, q8_0, q6_k, f16 or f32. Default: the profile's, or a smaller one that fits. A GGUF file has
    /// its own.
    #[arg(long, value_name = "FORMAT")]
    pub(crate) weights: Option<String>,
    /// Most positions of a conversation. Default: the profile's, up to the model's, or the most that fit.
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<u32>,
    /// Most tokens of one pass over a prompt. Default: the profile's, or fewer that fit.
    #[arg(long, value_name = "N")]
    pub(crate) chunk: Option<u32>,
    /// Memory budget, such as 3GiB: what cannot run within it is an error. Default: the profile's.
    #[arg(long, value_name = "SIZE")]
    pub(crate) ram: Option<ByteSize>,
    /// Element type of keys and values. Default: f32 for f32 weights, else f16.
    #[arg(long, value_name = "TYPE")]
    pub(crate) kv: Option<KvArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KvArg {
    F16,
    F32,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Checkpoint folder or GGUF file; with --random-weights a config.json.
    pub(crate) source: PathBuf,
    /// The bundle to write.
    #[arg(short, long, value_name = "FILE.lfmb")]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
    /// Random weights in the shapes of SOURCE, a config.json; the bundle has no tokenizer.
    #[arg(long, value_name = "SEED")]
    pub(crate) random_weights: Option<u64>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// Checkpoint folder, GGUF file, config.json, or bundle.
    pub(crate) source: PathBuf,
    /// Which text.
    #[arg(long, value_enum, default_value = "fused")]
    pub(crate) stage: StageArg,
    #[command(flatten)]
    pub(crate) target: TargetOptions,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum StageArg {
    /// The recorded operations of the burn model.
    Captured,
    /// The same in core operations.
    Lowered,
    /// After all passes: what a bundle holds.
    Fused,
    /// Where everything lies in memory.
    Plan,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The bundle.
    pub(crate) bundle: PathBuf,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub(crate) json: bool,
    /// Write a page with a picture of the graph.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// A bundle, or a graph as `lfmc graph` prints it in a file named *.ron.
    pub(crate) a: PathBuf,
    /// Another one.
    pub(crate) b: PathBuf,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The bundle.
    pub(crate) bundle: PathBuf,
    /// What it was made from: checkpoint folder, GGUF file, or for random weights a config.json.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) reference: PathBuf,
    /// Let the reference compute with the weights of the bundle, dequantised: what is left is not quantisation. SOURCE
    /// may then be a config.json.
    #[arg(long)]
    pub(crate) stored_weights: bool,
    /// Where the reference runs; wgpu needs a build with feature burn-wgpu.
    #[arg(long, value_enum, default_value = "ndarray")]
    pub(crate) device: DeviceArg,
    /// Where the bundle runs; wgpu needs a build with feature wgpu.
    #[arg(long, value_enum, default_value = "cpu")]
    pub(crate) backend: BackendArg,
    /// GPU of backend wgpu: a part of its name, or its number in `lfm-run info`. Default: the first.
    #[arg(long, value_name = "NAME|INDEX")]
    pub(crate) adapter: Option<String>,
    /// Layers that backend wgpu runs on the GPU, the last ones. Default: all.
    #[arg(long, value_name = "N")]
    pub(crate) gpu_layers: Option<usize>,
    /// Token ids. Default: 32 of them, some walk through the vocabulary.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub(crate) tokens: Option<Vec<u32>>,
    /// Largest NMSE of a node. Default: by the formats of the bundle.
    #[arg(long, value_name = "NMSE")]
    pub(crate) tolerance: Option<f64>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DeviceArg {
    /// The CPU, by burn-ndarray.
    Ndarray,
    /// A GPU, by burn-wgpu.
    Wgpu,
}

impl DeviceArg {
    pub(crate) fn name(self) -> &'static str {
        match self {
            DeviceArg::Ndarray => "ndarray",
            DeviceArg::Wgpu => "wgpu",
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BackendArg {
    /// The CPU.
    Cpu,
    /// A GPU.
    Wgpu,
}

#[derive(Debug, Args)]
pub(crate) struct RetargetArgs {
    /// The bundle.
    pub(crate) bundle: PathBuf,
    /// Device profile: a name (see `lfmc targets`) or a RON file.
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) target: String,
    /// The bundle to write.
    #[arg(short, long, value_name = "FILE.lfmb")]
    pub(crate) output: PathBuf,
    /// Most positions. Default: as the export was asked for, else as it would decide.
    #[arg(long, value_name = "N")]
    pub(crate) context: Option<u32>,
    /// Most tokens of one pass over a prompt. Default: the same.
    #[arg(long, value_name = "N")]
    pub(crate) chunk: Option<u32>,
    /// Memory budget. Default: the same.
    #[arg(long, value_name = "SIZE")]
    pub(crate) ram: Option<ByteSize>,
    /// Element type of keys and values. Default: the same.
    #[arg(long, value_name = "TYPE")]
    pub(crate) kv: Option<KvArg>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The bundle.
    pub(crate) bundle: PathBuf,
    /// Demand a signature by this public key: a file, or 64 hex digits.
    #[arg(long, value_name = "KEY")]
    pub(crate) require_signature: Option<String>,
    /// Print one JSON object on stdout.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct KeygenArgs {
    /// Where the secret key goes; the public one goes to FILE.pub.
    #[arg(short, long, value_name = "FILE", default_value = "lfm.key")]
    pub(crate) output: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SignArgs {
    /// The bundle.
    pub(crate) bundle: PathBuf,
    /// The secret key, as `lfmc keygen` makes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// Where the signature goes. Default: BUNDLE.sig, where it is looked for.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct TargetsArgs {
    /// Print this profile as RON, to start one of your own.
    pub(crate) name: Option<String>,
}

/// The profile of the machine at hand.
pub(crate) fn host_target() -> Result<Target, Box<dyn std::error::Error>> {
    let mut target = Target::builtin(kernels::best().name())?;
    target.cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    Ok(target)
}

/// The profile of that name, or in the file of that name.
pub(crate) fn profile(name: &str) -> Result<Target, Box<dyn std::error::Error>> {
    if !(name.ends_with(".ron") || name.contains(std::path::MAIN_SEPARATOR)) {
        return Ok(Target::builtin(name)?);
    }
    let text = std::fs::read_to_string(name).map_err(|e| format!("cannot read the profile {name}: {e}"))?;
    Ok(Target::parse(&text).map_err(|e| format!("{name}: {e}"))?)
}

impl TargetOptions {
    /// The options as the exporter takes them. Nothing comes from the machine at hand: the same flags give the
    /// same bytes everywhere.
    pub(crate) fn resolve(&self) -> Result<Options, Box<dyn std::error::Error>> {
        let target = profile(&self.target)?;
        Ok(Options {
            recipe: self.weights.as_deref().map(str::parse::<Recipe>).transpose()?,
            context: self.context,
            chunk: self.chunk,
            ram: self.ram,
            kv: self.kv.map(KvArg::kv_type),
            target,
        })
    }
}

impl KvArg {
    pub(crate) fn kv_type(self) -> KvType {
        match self {
            KvArg::F16 => KvType::F16,
            KvArg::F32 => KvType::F32,
        }
    }
}
