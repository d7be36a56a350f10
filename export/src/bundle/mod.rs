//! From a source to a bundle: graph, storage, plan, weights, golden vectors, one file.
//!
//! The same source, options and version give the same bytes, wherever and on however many threads it runs.

mod golden;
mod pack;
mod retarget;
mod roles;
mod settle;
mod source;
mod statement;
mod table;

use std::path::{Path, PathBuf};

use lfm_graphs::bundle::{
    BundleError, BundleWriter, Kind, KvType, Manifest, Parameters, Published, Request, VERSION, WriteError,
};
use lfm_graphs::id::Id;
use lfm_graphs::plan::PlanError;
use lfm_graphs::target::{ByteSize, Target};
use lfm_graphs::weights::pack::PackError;
use lfm_graphs::{Graph, Op};
use lfm_model::{CheckpointError, ConfigError};
use lfm_runtime::text::{TextConfig, TextError};

pub use retarget::{Bundled, retarget};
pub use roles::roles;
pub use settle::{LEAST_CHUNK, LEAST_CONTEXT, Settled, Unfit};
pub use source::{Source, TextFiles, config_path};
pub use table::MemoryTable;

use crate::gguf::GgufError;
use crate::graph::{GraphError, Stage, graph_from_config};
use crate::quantize::QuantiseError;
use crate::quantize::recipe::{Recipe, RecipeError};
use settle::{Wish, ladder, settle};
use statement::Overhead;

/// What a bundle is exported for. What is `None` follows the target, the model and the memory that there is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The device profile.
    pub target: Target,
    /// Formats of the weights.
    pub recipe: Option<Recipe>,
    /// Most positions.
    pub context: Option<u32>,
    /// Most tokens of a pass.
    pub chunk: Option<u32>,
    /// Memory budget of the running model.
    pub ram: Option<ByteSize>,
    /// Element type of keys and values.
    pub kv: Option<KvType>,
}

impl Options {
    /// Everything as the target says.
    pub fn new(target: Target) -> Options {
        Options { target, recipe: None, context: None, chunk: None, ram: None, kv: None }
    }

    /// What a bundle remembers of it, for a model that was made for as many positions.
    fn request(&self, positions: u32) -> Request {
        let Options { target: _, recipe: _, context, chunk, ram, kv } = *self;
        Request { positions, context, chunk, ram, kv }
    }
}

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The path is no source.
    #[error("cannot export {}: expected {expected}", path.display())]
    Source {
        /// The path.
        path: PathBuf,
        /// What would do.
        expected: &'static str,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration is not that of an LFM2 model.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The checkpoint is not sound.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The GGUF file is not sound.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// Formats were asked for where the source has them already.
    #[error(
        "cannot export with weights in {0}: a GGUF file decides on its formats; export it without --weights"
    )]
    Formats(Recipe),
    /// The model could not be compiled to a graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// There is no memory plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The target names no recipe to quantise by.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// More positions than the model was made for.
    #[error("cannot export a context of {context} positions: the model was made for {positions}")]
    Context {
        /// Positions asked for.
        context: u32,
        /// `max_position_embeddings` of the configuration.
        positions: u32,
    },
    /// Nothing that may be chosen fits into the memory budget.
    #[error("cannot fit the model into the memory budget: {0}")]
    Unfit(Box<Unfit>),
    /// The bundle does not say what its export was asked for.
    #[error("{}: the bundle has no section `request`, expected one made by this version of lfmc", path.display())]
    NoRequest {
        /// The bundle.
        path: PathBuf,
    },
    /// Something that cannot be: a fault of this program.
    #[error("internal fault: {0}; please report it")]
    Internal(&'static str),
    /// A weight could not be quantised.
    #[error("tensor {name}")]
    Quantise {
        /// The parameter.
        name: String,
        /// Row, element, value.
        source: QuantiseError,
    },
    /// A weight could not be packed.
    #[error("tensor {name}")]
    Pack {
        /// The parameter.
        name: String,
        /// Row and element.
        source: PackError,
    },
    /// A vector holds a number that is none.
    #[error("tensor {name}: element {element} is {value}, expected a finite number")]
    NotFinite {
        /// The parameter.
        name: String,
        /// Which element.
        element: usize,
        /// What it is.
        value: f32,
    },
    /// A row of a weight cannot be addressed.
    #[error("tensor {0}: a row has more bytes than this machine can address")]
    TooLarge(String),
    /// The text side is malformed.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The bundle could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The written bundle is not sound: a fault of this program.
    #[error("the bundle just written cannot be read back")]
    ReadBack(#[from] BundleError),
    /// The bundle to be made for another target cannot be opened.
    #[error(transparent)]
    Open(lfm_runtime::Error),
    /// The bundle to be made for another target is damaged.
    #[error("cannot make the bundle for another target")]
    Damaged(#[source] BundleError),
    /// The written bundle does not run.
    #[error("computing golden vectors")]
    Run(#[from] lfm_runtime::Error),
}

/// What an export is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Weights are written: bytes done and in all.
    Weights(u64, u64),
    /// Golden vectors are computed.
    Golden,
}

/// What an export has made.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The file.
    pub published: Published,
    /// What it holds.
    pub manifest: Manifest,
    /// Its graph and plan, and what was decided.
    pub settled: Settled,
}

/// The graph that a source and options give, and its plan, without touching a weight.
pub fn compile(source: &Source, options: &Options) -> Result<Settled, ExportError> {
    Ok(compile_with_text(source, options)?.0)
}

/// The same, with the sections of the text side.
fn compile_with_text(source: &Source, options: &Options) -> Result<(Settled, Sections), ExportError> {
    let recipes = match (options.recipe, source.dominating()) {
        (Some(recipe), Some(_)) => return Err(ExportError::Formats(recipe)),
        (None, Some(dominating)) => vec![Recipe::new(dominating)],
        (Some(recipe), None) => vec![recipe],
        (None, None) => ladder(options.target.weights.parse()?),
    };
    let text = text_sections(source.text()?, &source.config().eos_token_ids)?;
    let positions = u32::try_from(source.config().max_positions).unwrap_or(u32::MAX);
    let wish = Wish {
        target: &options.target,
        request: options.request(positions),
        recipes,
        overhead: Overhead::of(&text, &options.target),
    };
    let settled = settle(wish, |recipe, kv| {
        let graph = graph_from_config(source.config(), Stage::Fused, kv)?;
        let roles = roles(&graph);
        Ok(graph.with_storage(|graph, id| {
            let (weight, role) = (&graph.weights()[id], roles[id.index()]);
            let k = weight.ty.last().and_then(|d| d.as_fixed()).unwrap_or(1);
            let stored = source.stored_format(&weight.param, role);
            stored.unwrap_or_else(|| recipe.format_for(role, k as usize))
        }))
    })?;
    Ok((settled, text))
}

/// Exports `source` to the file `path`.
pub fn export(
    source: &Source,
    options: &Options,
    path: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<Exported, ExportError> {
    let (settled, text) = compile_with_text(source, options)?;
    let (graph, plan) = (&settled.graph, &settled.plan);
    let roles = roles(graph);
    let arch = graph.model.clone();
    let parameters = parameters(graph);
    let manifest = Manifest {
        format: VERSION,
        lfmc: env!("CARGO_PKG_VERSION").into(),
        model: format!("{arch}-{}", billions(parameters)),
        arch,
        source: source.kind(),
        fingerprint: source.fingerprint(),
        recipe: settled.recipe.to_string(),
        parameters,
        context: plan.context,
        chunk: plan.chunk,
        kv: settled.kv,
    };
    let mut weights = begin(path, &manifest, &settled, text)?.weights_writer(plan.memory.weights)?;
    pack::write_weights(source, graph, &roles, plan, &mut weights, &mut |done, all| {
        progress(Progress::Weights(done, all));
    })?;
    let sealed = weights.seal_without_golden()?;
    progress(Progress::Golden);
    let golden = golden::compute(sealed.path(), source.config().bos_token_id)?;
    let published = sealed.add_golden(golden.to_ron())?.publish()?;
    Ok(Exported { published, manifest, settled })
}

/// Everything that comes before the weights.
fn begin(
    path: &Path,
    manifest: &Manifest,
    settled: &Settled,
    text: Sections,
) -> Result<BundleWriter, ExportError> {
    let mut writer = BundleWriter::create(path)?;
    writer.section(Kind::Manifest, manifest.to_ron())?;
    writer.section(Kind::Graph, settled.graph.text())?;
    writer.section(Kind::Plan, settled.plan.text())?;
    writer.section(Kind::Target, settled.target.text())?;
    writer.section(Kind::Request, settled.request.to_ron())?;
    for (kind, bytes) in text {
        writer.section(kind, bytes)?;
    }
    Ok(writer)
}

/// Sections, as they are written.
type Sections = Vec<(Kind, Vec<u8>)>;

/// The sections of the text side.
fn text_sections(text: TextFiles, eos: &[u32]) -> Result<Sections, ExportError> {
    let config = text.tokenizer_config.as_deref().unwrap_or(b"{}");
    let mut sections = Sections::new();
    if let Some(tokenizer) = text.tokenizer {
        let mut settings =
            TextConfig::from_hf(config, text.special_tokens.as_deref(), text.generation.as_deref())?;
        if settings.eos_ids.is_empty() {
            settings.eos_ids = eos.to_vec();
        }
        let settings = serde_json::to_string(&settings)
            .map_err(|e| TextError::Malformed { file: "tokenizer_config.json", problem: e.to_string() })?;
        sections.push((Kind::Tokenizer, tokenizer));
        sections.push((Kind::TextConfig, settings.into_bytes()));
    }
    let template = match text.chat_template {
        Some(template) => Some(template),
        None => TextConfig::templates_from_hf(config)?.default.map(String::into_bytes),
    };
    let optional =
        [(Kind::ChatTemplate, template), (Kind::Generation, text.generation), (Kind::Licence, text.licence)];
    let given = optional.into_iter().filter_map(|(kind, bytes)| Some((kind, bytes?)));
    sections.extend(given.filter(|(_, bytes)| !bytes.is_empty()));
    Ok(sections)
}

/// All weights, and those that one token reads: of a mixture the share of its chosen experts.
fn parameters(graph: &Graph) -> Parameters {
    let total = graph.parameters();
    let idle: u64 = graph
        .nodes()
        .values()
        .filter_map(|node| {
            let Op::Moe { top_k, bias, .. } = node.op else { return None };
            let stacks = &node.args[2 + bias as usize..][..3];
            let elements: u64 = stacks.iter().filter_map(|w| graph.ty(*w)?.elements(0, 0)).sum();
            let experts = u64::from(graph.ty(stacks[0])?.shape[0].base);
            Some(elements - elements / experts * u64::from(top_k))
        })
        .sum();
    Parameters { total, active: total - idle }
}

/// `8.3B-A1.6B`, `354.5M`.
fn billions(parameters: Parameters) -> String {
    let short = |n: u64| match n {
        1_000_000_000.. => format!("{:.1}B", n as f64 / 1e9),
        1_000_000.. => format!("{:.1}M", n as f64 / 1e6),
        _ => format!("{:.1}K", n as f64 / 1e3),
    };
    let total = short(parameters.total);
    if parameters.active == parameters.total {
        total
    } else {
        format!("{total}-A{}", short(parameters.active))
    }
}
