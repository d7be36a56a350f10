//! Running with less memory than the weights take: experts are read from the file when they are chosen.
//!
//! ```text
//! hot      all weights that are no experts: read once, locked in memory where the system allows it
//! cache    slots of one expert each; a few threads read experts into them          cache, readers, policy
//! ```
//!
//! The weights are not mapped in such a run, and reads leave nothing in the page cache (`source`), so a budget is what
//! the process takes, and what the machine has to give. Results are the same bits as those of a run in memory.

mod budget;
mod cache;
mod place;
mod policy;
mod readers;
mod source;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lfm_graphs::Graph;
use lfm_graphs::plan::Plan;
use lfm_graphs::plan::memory::{self, PagedMemory};
use memmap2::MmapMut;
use serde::Serialize;

pub use budget::Budget;
pub(crate) use budget::least;
pub(crate) use cache::Cache;

use crate::error::{Error, Result};
use crate::exec::Program;
use cache::LayerAt;
use readers::Readers;
use source::Source;

/// A page, as [`memory::PAGE`].
const PAGE: usize = memory::PAGE as usize;

/// Threads that read, unless the caller says otherwise.
const READERS: usize = 4;

/// Most threads that read.
const MOST_READERS: usize = 16;

/// Bytes of hot weights that are read at a time.
const PIECE: usize = 8 << 20;

/// What paging has done since the model was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Experts that were in memory when a layer needed them. A pass needs an expert once, for all of its tokens.
    pub hits: u64,
    /// Experts that were not, or only on their way.
    pub misses: u64,
    /// Bytes of experts that were read.
    pub bytes_read: u64,
}

impl std::ops::AddAssign for Stats {
    fn add_assign(&mut self, other: Stats) {
        self.hits = self.hits.saturating_add(other.hits);
        self.misses = self.misses.saturating_add(other.misses);
        self.bytes_read = self.bytes_read.saturating_add(other.bytes_read);
    }
}

impl Stats {
    /// What was done after `before`.
    pub fn since(self, before: Stats) -> Stats {
        Stats {
            hits: self.hits.saturating_sub(before.hits),
            misses: self.misses.saturating_sub(before.misses),
            bytes_read: self.bytes_read.saturating_sub(before.bytes_read),
        }
    }

    /// Share of the needed experts that were in memory; nothing if none was needed.
    pub fn hit_rate(self) -> Option<f64> {
        let needed = self.hits + self.misses;
        (needed > 0).then(|| self.hits as f64 / needed as f64)
    }
}

/// How a model is paged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// Bytes of hot weights in memory.
    pub hot: u64,
    /// Bytes of the cache.
    pub cache: u64,
    /// Experts that the cache has room for.
    pub slots: usize,
    /// Experts that there are.
    pub experts: usize,
    /// Bytes of all together, at most: hot weights, cache, states, arena, and everything else.
    pub total: u64,
    /// Whether hot weights could be locked in memory.
    pub locked: bool,
    /// Whether the file is read past the system's page cache.
    pub direct: bool,
}

/// The weights of a model that is paged.
#[derive(Debug)]
pub(crate) struct Pager {
    path: PathBuf,
    hot: MmapMut,
    cache: Mutex<Cache>,
    layout: Layout,
    /// Positions that the budget has room for.
    context: usize,
}

impl Pager {
    /// Reads the hot weights of a bundle and makes a cache for the rest of the budget. The program's weights move to
    /// where they are then.
    pub(crate) fn open(
        (path, file, base): (&Path, &File, u64),
        (graph, plan): (&Graph, &Plan),
        program: &mut Program,
        budget: &Budget,
        text: u64,
    ) -> Result<Pager> {
        let unreadable = |source| Error::Read { path: path.to_path_buf(), source };
        let no_room = |what: &str, bytes: u64, source| Error::System {
            attempt: format!("cannot get {bytes} bytes for {what}"),
            source,
        };
        let paging = memory::Paging::of(graph, plan);
        let context = budget.context(plan)?;
        let memory = budget::memory(graph, plan, context, text)?;
        let PagedMemory { cache: bytes, total, .. } = budget.share(&paging, &memory)?;
        let source = Source::open(path, file, base).map_err(unreadable)?;
        let hot = read_hot(&source, &paging, plan.memory.weights).map_err(unreadable)?;
        let locked = lock(&hot);
        place::relocate(program, &paging).ok_or(Error::Internal {
            at: "the weights".into(),
            what: "one that is neither read at the start nor an expert",
        })?;

        let classes = budget::slots(&paging, bytes);
        let mut layers = Vec::with_capacity(paging.layers.len());
        let (mut shares, mut first) = (Vec::new(), 0);
        for layer in &paging.layers {
            let mut at = 0;
            let mut slots = 0..0;
            for class in &classes {
                if class.pages == layer.pages {
                    slots = at..at + class.slots;
                }
                at += class.slots;
            }
            let matrices =
                layer.matrices.map(|index| (plan.weights[index].offset, plan.weights[index].stride));
            let count = layer.count as usize;
            layers.push(LayerAt { matrices, count, first, slots });
            shares.extend(std::iter::repeat_n(layer.top_k as f32 / layer.count as f32, count));
            first += count;
        }
        let sizes: Vec<[usize; 3]> = classes
            .iter()
            .flat_map(|class| std::iter::repeat_n(class.pages.map(|bytes| bytes as usize), class.slots))
            .collect();
        let readers = Readers::new(source, budget.readers()?, 3 * sizes.len(), locked)
            .map_err(|source| Error::System { attempt: "cannot start threads that read".into(), source })?;
        let (experts, slots) = (shares.len(), sizes.len());
        let cache = Cache::new(layers, &sizes, shares, readers)
            .map_err(|source| no_room("a cache of experts", bytes, source))?;
        let layout = Layout {
            hot: hot.len() as u64,
            cache: bytes,
            slots,
            experts,
            total,
            locked,
            direct: cache.source().direct(),
        };
        Ok(Pager { path: path.to_path_buf(), hot, cache: Mutex::new(cache), layout, context })
    }

    /// Whether a session may use it.
    pub(crate) fn admits(&self, context: usize, on_cpu: bool) -> Result<()> {
        if !on_cpu {
            return Err(Error::Argument("a budget of memory is for backend cpu, found wgpu".into()));
        }
        if context > self.context {
            return Err(Error::Argument(format!(
                "a context of {context} positions does not fit into the budget, which was made for {}",
                self.context
            )));
        }
        Ok(())
    }

    /// The hot weights, where the relocated program finds them.
    pub(crate) fn hot(&self) -> &[u8] {
        &self.hot
    }

    /// The cache. A session holds it while a layer runs.
    pub(crate) fn cache(&self) -> MutexGuard<'_, Cache> {
        // Whatever a panic left behind is forgotten when the next layer begins.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn stats(&self) -> Stats {
        self.cache().stats
    }

    /// The hash of the weights, `len` bytes, read once more. `progress` gets bytes done and bytes in all.
    pub(crate) fn hash(&self, len: u64, progress: impl FnMut(u64, u64)) -> Result<blake3::Hash> {
        hash(self.cache().source(), len, progress).map_err(|source| self.unreadable(source))
    }

    /// An expert could not be read.
    pub(crate) fn unreadable(&self, source: io::Error) -> Error {
        Error::Read { path: self.path.clone(), source }
    }
}

/// The pages of hot weights, one after another, of weights that end at `end`.
fn read_hot(source: &Source, paging: &memory::Paging, end: u64) -> io::Result<MmapMut> {
    let bytes = usize::try_from(paging.hot_bytes()).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut hot = MmapMut::map_anon(bytes.max(PAGE))?;
    #[cfg(target_os = "linux")]
    // Fewer pages to look up; without, only a little speed is lost.
    let _ = hot.advise(memmap2::Advice::HugePage);
    let mut rest = &mut hot[..];
    for pages in &paging.hot_pages {
        let (mine, others) = rest.split_at_mut((pages.end - pages.start) as usize);
        rest = others;
        for (index, piece) in mine.chunks_mut(PIECE).enumerate() {
            let at = pages.start + (index * PIECE) as u64;
            // The last page may end behind the weights, even behind the file.
            let needed = piece.len().min(end.saturating_sub(at) as usize);
            source.read(at, piece, needed)?;
        }
    }
    Ok(hot)
}

fn hash(source: &Source, len: u64, mut progress: impl FnMut(u64, u64)) -> io::Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let mut pages = MmapMut::map_anon(PIECE)?;
    while hasher.count() < len {
        let some = (len - hasher.count()).min(PIECE as u64) as usize;
        source.read(hasher.count(), &mut pages, some)?;
        hasher.update(&pages[..some]);
        progress(hasher.count(), len);
    }
    Ok(hasher.finalize())
}

/// Locks memory, if the system allows it.
#[cfg(unix)]
fn lock(memory: &MmapMut) -> bool {
    memory.lock().is_ok()
}

#[cfg(not(unix))]
fn lock(_: &MmapMut) -> bool {
    false
}
