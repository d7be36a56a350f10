//! Opening a bundle: everything is checked before anything is used.

#[cfg(target_os = "linux")]
mod bus;
mod generation;
mod map;
#[cfg(feature = "text")]
mod text;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lfm_graphs::bundle::{Bundle, BundleError, Golden, Kind, Manifest, Section};
use lfm_graphs::plan::memory::PagedMemory;
use lfm_graphs::plan::{Plan, verify_plan};
use lfm_graphs::target::Target;
use lfm_graphs::{Graph, verify_executable};
use memmap2::Mmap;

pub use generation::GenerationDefaults;

use crate::error::{Error, Result};
use crate::exec::{Program, compile};
use crate::paging::{Budget, Layout, Pager, Stats};
use crate::session::{Options, Session};
use map::Mapped;

/// How many broken rules a message lists.
const FAULTS: usize = 5;

/// Handles bus errors in the mapped files of models from now on: a file that is cut in the middle of a pass gives an
/// error in place of the end of the program. All other bus errors go to whoever handled them before.
///
/// A process has one handler for a signal, so this is for programs to call, not for libraries. Without it a file is
/// still compared with what was opened, before and after each pass.
///
/// # Errors
/// When the system refuses, or is not Linux.
pub fn handle_bus_errors() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    return bus::handle_bus_errors();
    #[cfg(not(target_os = "linux"))]
    return Err(std::io::ErrorKind::Unsupported.into());
}

/// An opened bundle: verified graph and plan, and the mapped weights. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Model {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    map: Mapped,
    weights: Range<usize>,
    /// The weights once more, if they were copied.
    copy: Option<Mmap>,
    /// What reads them, if they are not used where they are mapped.
    pager: Option<Arc<Pager>>,
    table: Vec<Section>,
    sections: BTreeMap<Kind, Range<usize>>,
    graph: Graph,
    plan: Plan,
    target: Target,
    manifest: Manifest,
    program: Program,
    id: String,
}

impl Inner {
    /// What the tokenizer takes in memory, about: it builds hash maps of its vocabulary.
    fn text_bytes(&self) -> u64 {
        let tokenizer = self.sections.get(&Kind::Tokenizer).filter(|_| cfg!(feature = "text"));
        tokenizer.map_or(0, |range| 9 * range.len() as u64)
    }
}

impl Model {
    /// Opens a bundle by mapping it. Header, text sections, graph and plan are verified; the hash of the
    /// weights is not ([`Model::verify_weights`]), which would cost more than starting.
    ///
    /// # Errors
    /// When the file cannot be read, or is not a sound bundle: the message names section, byte and rule.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        Ok(Model { inner: Arc::new(Model::read(path.as_ref())?) })
    }

    /// Opens a bundle to run it within a budget of memory: experts are read from the file when they are chosen, all other
    /// weights at once. Logits are the same bits.
    ///
    /// The budget is for one session. Others share the cache of experts, and each adds states, arena and threads.
    ///
    /// # Errors
    /// As [`Model::open`], and when the budget is too small: the message says how large it has to be, and why.
    pub fn open_with(path: impl AsRef<Path>, budget: &Budget) -> Result<Model> {
        let mut inner = Model::read(path.as_ref())?;
        let at = (inner.path.as_path(), inner.map.file(), inner.weights.start as u64);
        let text = inner.text_bytes();
        let pager = Pager::open(at, (&inner.graph, &inner.plan), &mut inner.program, budget, text)?;
        inner.pager = Some(Arc::new(pager));
        Ok(Model { inner: Arc::new(inner) })
    }

    /// Everything of a bundle.
    fn read(path: &Path) -> Result<Inner> {
        let path = path.to_path_buf();
        if cfg!(target_endian = "big") {
            return Err(Error::Argument("bundles are little-endian, and this machine is big-endian".into()));
        }
        let map = Mapped::open(&path)?;
        let unsound = |source| Error::Bundle { path: path.clone(), source };
        let faults = |section, faults: Vec<String>| Error::Unsound { path: path.clone(), section, faults };
        // What a cut has made of it is no fault of the bundle.
        let bundle = Bundle::parse(&map).or_else(|error| map.check().and(Err(unsound(error))))?;
        let manifest = bundle.manifest().map_err(unsound)?;

        let text = bundle.text(Kind::Graph).map_err(unsound)?;
        let graph = Graph::parse(text).map_err(|e| faults("graph", vec![e.to_string()]))?;
        let errors = verify_executable(&graph);
        if !errors.is_empty() {
            return Err(faults("graph", errors.iter().take(FAULTS).map(ToString::to_string).collect()));
        }
        let text = bundle.text(Kind::Plan).map_err(unsound)?;
        let plan = Plan::parse(text).map_err(|e| faults("plan", vec![e.to_string()]))?;
        let errors = verify_plan(&graph, &plan);
        if !errors.is_empty() {
            return Err(faults("plan", errors.iter().take(FAULTS).map(ToString::to_string).collect()));
        }
        if plan.memory.weights != bundle.weights().len() as u64 {
            let found = format!(
                "the plan places {} bytes of weights, the section has {}",
                plan.memory.weights,
                bundle.weights().len()
            );
            return Err(faults("weights", vec![found]));
        }
        let text = bundle.text(Kind::Target).map_err(unsound)?;
        let target = Target::parse(text).map_err(|e| faults("target", vec![e.to_string()]))?;
        let program = compile(&graph, &plan)
            .map_err(|(at, what)| faults("graph", vec![format!("{at} cannot be run: {what}")]))?;

        let mut sections = BTreeMap::new();
        for entry in Kind::ALL.into_iter().filter_map(|kind| bundle.entry(kind)) {
            sections.insert(entry.kind(), entry.range());
        }
        let weights = sections.get(&Kind::Weights).cloned().unwrap_or(0..0);
        let table = bundle.sections().to_vec();
        let id = bundle.id().to_hex().to_string();
        map.check()?;
        let inner = Inner {
            path,
            weights,
            copy: None,
            pager: None,
            table,
            sections,
            graph,
            plan,
            target,
            manifest,
            program,
            id,
            map,
        };
        Ok(inner)
    }

    /// Copies the weights into memory of huge pages (2 MiB on most CPUs), read by `threads` threads.
    ///
    /// A processor that looks up fewer pages reads weights faster, but the start takes as long as reading the whole file, and
    /// other processes no longer share the memory. Where the system has no huge pages, nothing is won.
    ///
    /// # Errors
    /// When there is not that much memory, the file cannot be read, or the model is in use already.
    pub fn with_huge_pages(self, threads: usize) -> Result<Model> {
        let mut inner = Arc::try_unwrap(self.inner)
            .map_err(|_| Error::Argument("the model is in use, expected to copy its weights first".into()))?;
        if inner.pager.is_some() {
            return Err(Error::Argument("weights that are paged cannot be copied into huge pages".into()));
        }
        inner.copy = Some(map::copy(&inner.map, inner.weights.clone(), threads)?);
        Ok(Model { inner: Arc::new(inner) })
    }

    /// A session: states, arena and threads for this model.
    ///
    /// # Errors
    /// When an option is out of range, or threads or memory cannot be had.
    pub fn session(&self, options: &Options) -> Result<Session> {
        Session::new(self.clone(), options)
    }

    /// Where the bundle lies.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The fused graph.
    pub fn graph(&self) -> &Graph {
        &self.inner.graph
    }

    /// The memory plan.
    pub fn plan(&self) -> &Plan {
        &self.inner.plan
    }

    /// The device profile that the bundle was made for.
    pub fn target(&self) -> &Target {
        &self.inner.target
    }

    /// What the bundle was made from.
    pub fn manifest(&self) -> &Manifest {
        &self.inner.manifest
    }

    /// The identity of the bundle: the hash of its header in hex, which covers the hashes of all sections.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Size of the vocabulary: the width of the logits.
    pub fn vocab(&self) -> usize {
        self.inner.program.vocab
    }

    /// Rows of the embedding: ids below this can be taken in.
    pub fn embeddings(&self) -> usize {
        self.inner.program.embeddings
    }

    /// Size of the file in bytes.
    pub fn file_len(&self) -> usize {
        self.inner.map.len()
    }

    /// The section table.
    pub fn sections(&self) -> &[Section] {
        &self.inner.table
    }

    /// The bytes of a section, if the bundle has it.
    pub fn section(&self, kind: Kind) -> Option<&[u8]> {
        self.inner.map.get(self.inner.sections.get(&kind)?.clone())
    }

    /// The golden vectors, if the bundle has them.
    ///
    /// # Errors
    /// When their section is malformed.
    pub fn golden(&self) -> Result<Option<Golden>> {
        let unsound = |source| Error::Bundle { path: self.inner.path.clone(), source };
        self.inner.map.check()?;
        let golden = Bundle::parse(&self.inner.map).and_then(|bundle| bundle.golden());
        self.inner.map.check()?;
        golden.map_err(unsound)
    }

    /// Compares the weights with their hash. `progress` gets bytes done and bytes in all.
    ///
    /// # Errors
    /// When they differ.
    pub fn verify_weights(&self, progress: impl FnMut(u64, u64)) -> Result<()> {
        let unsound = |source| Error::Bundle { path: self.inner.path.clone(), source };
        self.inner.map.check()?;
        // Mapped weights would not stay within a budget.
        let section = self.inner.table.iter().find(|section| section.kind() == Kind::Weights);
        let verified = match self.inner.pager.as_ref().zip(section) {
            Some((pager, section)) => {
                let (start, end) = (section.offset(), section.offset() + section.length());
                let (found, expected) = (pager.hash(section.length(), progress)?, section.hash());
                let differ = BundleError::SectionHash { section: Kind::Weights, start, end, found, expected };
                if found == expected { Ok(()) } else { Err(differ) }
            }
            None => Bundle::parse(&self.inner.map).and_then(|bundle| bundle.verify_weights_with(progress)),
        };
        self.inner.map.check()?;
        verified.map_err(unsound)
    }

    pub(crate) fn program(&self) -> &Program {
        &self.inner.program
    }

    /// An error if the file of the weights was cut or written to since it was opened.
    pub(crate) fn check_file(&self) -> Result<()> {
        if self.inner.copy.is_some() { Ok(()) } else { self.inner.map.check() }
    }

    /// What reads experts, if the model was opened with a budget.
    pub(crate) fn pager(&self) -> Option<&Arc<Pager>> {
        self.inner.pager.as_ref()
    }

    /// How memory is divided, if the model was opened with a budget.
    pub fn paging(&self) -> Option<Layout> {
        self.inner.pager.as_ref().map(|pager| pager.layout())
    }

    /// What paging has done since the model was opened, if it was opened with a budget.
    pub fn paging_stats(&self) -> Option<Stats> {
        self.inner.pager.as_ref().map(|pager| pager.stats())
    }

    /// The least memory of a run of this model in this process, by parts: what a [`Budget`] must allow.
    ///
    /// # Errors
    /// When the context is none that the model was planned for.
    pub fn least_memory(&self, context: Option<usize>) -> Result<PagedMemory> {
        crate::paging::least(&self.inner.graph, &self.inner.plan, context, self.inner.text_bytes())
    }

    /// The weights that the program's offsets mean.
    pub(crate) fn weights(&self) -> &[u8] {
        if let Some(pager) = &self.inner.pager {
            return pager.hot();
        }
        match &self.inner.copy {
            Some(copy) => &copy[..self.inner.weights.len()],
            None => &self.inner.map[self.inner.weights.clone()],
        }
    }
}
