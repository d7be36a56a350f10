//! From one bundle to the bundle that the same export would have made for another target.
//!
//! One layout of weights serves every ISA tier, so weights are copied as they are; profile, plan, manifest and what
//! depends on the profile is made again from what the export was asked for ([`Request`]). Golden vectors are computed
//! again only where their prompts or the storage of keys and values change: logits depend on nothing else.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use lfm_graphs::DType;
use lfm_graphs::bundle::{BundleError, Kind, KvType, Manifest, Request, Sealed, Section, WeightsWriter};
use lfm_graphs::weights::Format;
use lfm_runtime::Model;

use super::settle::{Settled, Wish, settle};
use super::statement::Overhead;
use super::{ExportError, Exported, Options, Progress, Sections, begin, golden};
use crate::passes::{KvDtype, Pass};
use crate::quantize::recipe::Recipe;

/// Bytes of weights that are read at once.
const PIECE: usize = 4 << 20;

/// A bundle to be made for another target.
#[derive(Debug)]
pub struct Bundled {
    model: Model,
    request: Request,
    recipe: Recipe,
}

impl Bundled {
    /// Opens a bundle.
    ///
    /// # Errors
    /// When it is not sound, or does not say what its export was asked for.
    pub fn open(path: &Path) -> Result<Bundled, ExportError> {
        let model = Model::open(path).map_err(ExportError::Open)?;
        let entry = model.sections().iter().find(|section| section.kind() == Kind::Request);
        let (Some(entry), Some(text)) = (entry, model.section(Kind::Request)) else {
            return Err(ExportError::NoRequest { path: path.to_path_buf() });
        };
        let request =
            Request::parse(&String::from_utf8_lossy(text), entry.offset()).map_err(ExportError::Damaged)?;
        let name = &model.manifest().recipe;
        let format: Format =
            name.parse().map_err(|_| crate::quantize::RecipeError::Unknown { found: name.clone() })?;
        Ok(Bundled { model, request, recipe: Recipe::new(format) })
    }

    /// What its export was asked for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// Its weight recipe, which stays.
    pub fn recipe(&self) -> Recipe {
        self.recipe
    }

    /// The opened bundle.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The sections of the text side.
    fn text(&self) -> Sections {
        let kinds = [Kind::Tokenizer, Kind::ChatTemplate, Kind::TextConfig, Kind::Generation, Kind::Licence];
        let found = kinds.into_iter().filter_map(|kind| Some((kind, self.model.section(kind)?.to_vec())));
        found.collect()
    }
}

/// Makes `bundled` for the target of `options`, as the file `path`. What `options` leave open is as the bundle's export
/// was asked for, and what was not asked for is decided anew. The recipe of `options` is not looked at.
///
/// The result has the bytes that an export for the target with the same flags and with `--weights` of the bundle's
/// recipe has.
pub fn retarget(
    bundled: &Bundled,
    options: &Options,
    path: &Path,
    mut progress: impl FnMut(Progress),
) -> Result<Exported, ExportError> {
    let Bundled { model, request, recipe } = bundled;
    let text = bundled.text();
    let wish = Wish {
        target: &options.target,
        request: Request {
            positions: request.positions,
            context: options.context.or(request.context),
            chunk: options.chunk.or(request.chunk),
            ram: options.ram.or(request.ram),
            kv: options.kv.or(request.kv),
        },
        recipes: vec![*recipe],
        overhead: Overhead::of(&text, &options.target),
    };
    let old = model.manifest();
    let settled = settle(wish, |_, kv| match kv == old.kv {
        true => Ok(model.graph().clone()),
        false => with_kv(model, kv),
    })?;
    let plan = &settled.plan;
    let manifest = Manifest {
        lfmc: env!("CARGO_PKG_VERSION").into(),
        context: plan.context,
        chunk: plan.chunk,
        kv: settled.kv,
        ..old.clone()
    };
    let mut weights = begin(path, &manifest, &settled, text)?.weights_writer(plan.memory.weights)?;
    copy_weights(model, &mut weights, &mut progress)?;
    let sealed = weights.seal_without_golden()?;
    check_weights(model, &sealed)?;
    progress(Progress::Golden);
    let text = golden_text(model, &settled, &sealed)?;
    let published = sealed.add_golden(text)?.publish()?;
    Ok(Exported { published, manifest, settled })
}

/// The model's graph with keys and values stored otherwise.
fn with_kv(model: &Model, kv: KvType) -> Result<lfm_graphs::Graph, ExportError> {
    let dtype = match kv {
        KvType::F16 => DType::F16,
        KvType::F32 => DType::F32,
    };
    let pass = KvDtype(dtype).run(model.graph());
    Ok(pass
        .map_err(|_| ExportError::Internal("keys and values of a sound graph cannot be stored otherwise"))?
        .graph)
}

/// The entry of the weights.
fn weights_entry(model: &Model) -> Result<&Section, ExportError> {
    let entry = model.sections().iter().find(|section| section.kind() == Kind::Weights);
    entry.ok_or(ExportError::Damaged(BundleError::Missing { section: Kind::Weights }))
}

/// Copies all weights. They are read and not mapped, so that they do not pile up in memory.
fn copy_weights(
    model: &Model,
    writer: &mut WeightsWriter,
    progress: &mut impl FnMut(Progress),
) -> Result<(), ExportError> {
    let entry = weights_entry(model)?;
    let failed = |source| ExportError::Read { path: model.path().to_path_buf(), source };
    let mut file = File::open(model.path()).map_err(failed)?;
    file.seek(SeekFrom::Start(entry.offset())).map_err(failed)?;
    let mut rest = file.take(entry.length());
    let mut piece = Vec::with_capacity(PIECE);
    while writer.position() < entry.length() {
        piece.clear();
        let count = rest.by_ref().take(PIECE as u64).read_to_end(&mut piece).map_err(failed)?;
        if count == 0 {
            return Err(failed(std::io::Error::other("the file has become shorter since it was opened")));
        }
        writer.append(&piece)?;
        progress(Progress::Weights(writer.position(), entry.length()));
    }
    Ok(())
}

/// Whether what was copied is what the bundle's table says.
fn check_weights(model: &Model, sealed: &Sealed) -> Result<(), ExportError> {
    let expected = weights_entry(model)?;
    match sealed.hash(Kind::Weights) {
        Some(found) if found != expected.hash() => Err(ExportError::Damaged(BundleError::SectionHash {
            section: Kind::Weights,
            start: expected.offset(),
            end: expected.offset() + expected.length(),
            found,
            expected: expected.hash(),
        })),
        Some(_) => Ok(()),
        None => Err(ExportError::Internal("the weights were not written")),
    }
}

/// The golden vectors of the new bundle.
fn golden_text(model: &Model, settled: &Settled, sealed: &Sealed) -> Result<String, ExportError> {
    let old = model.golden()?;
    let runs = golden::runs(&settled.plan);
    let start = old.as_ref().and_then(|golden| golden.vectors.first()?.prompt.first()).copied();
    match old {
        Some(old) if settled.kv == model.manifest().kv && golden::shape(&old) == runs => Ok(old.to_ron()),
        Some(_) | None => Ok(golden::compute(sealed.path(), start)?.to_ron()),
    }
}
