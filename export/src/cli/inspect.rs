//! `lfmc inspect`: what is in a bundle.

use std::collections::BTreeMap;
use std::io::Write;

use lfm_export::bundle::{MemoryTable, roles};
use lfm_export::quantize::WeightRole;
use lfm_graphs::plan::WeightKind;
use lfm_runtime::Model;
use serde_json::{Value, json};

use super::args::InspectArgs;
use super::{Exit, Outcome, memory, output};

pub(super) fn run(args: &InspectArgs) -> Outcome {
    let model = Model::open(&args.bundle)?;
    let report = Report::new(&model);
    if let Some(path) = &args.html {
        let page = super::picture::page(&model);
        std::fs::write(path, page).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    }
    let mut stdout = std::io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", report.json(&model))?;
    } else {
        report.text(&model, &mut stdout)?;
    }
    Ok(Exit::Done)
}

fn table(model: &Model) -> MemoryTable {
    MemoryTable::of(model.graph(), model.plan(), model.target())
}

/// Bytes and number of the weights of one format.
#[derive(Clone, Copy, Default)]
struct Stored {
    tensors: u64,
    elements: u64,
    bytes: u64,
}

struct Section {
    name: &'static str,
    offset: u64,
    length: u64,
    hash: String,
}

struct Report {
    sections: Vec<Section>,
    formats: BTreeMap<&'static str, Stored>,
    /// Of every weight, in the graph's order.
    roles: Vec<WeightRole>,
    /// Formats of the weights of each use, with numbers of tensors.
    uses: BTreeMap<WeightRole, BTreeMap<&'static str, u64>>,
}

impl Report {
    fn new(model: &Model) -> Report {
        let sections = model
            .sections()
            .iter()
            .map(|section| Section {
                name: section.kind().name(),
                offset: section.offset(),
                length: section.length(),
                hash: section.hash().to_hex().to_string(),
            })
            .collect();
        let mut formats = BTreeMap::<&'static str, Stored>::new();
        for slot in &model.plan().weights {
            let stored = formats.entry(slot.format.name()).or_default();
            stored.tensors += 1;
            stored.elements += u64::from(slot.count) * u64::from(slot.rows) * u64::from(slot.k);
            stored.bytes += slot.bytes;
        }
        let roles = roles(model.graph());
        let mut uses = BTreeMap::<WeightRole, BTreeMap<&'static str, u64>>::new();
        for (slot, role) in model.plan().weights.iter().zip(&roles) {
            *uses.entry(*role).or_default().entry(slot.format.name()).or_default() += 1;
        }
        Report { sections, formats, roles, uses }
    }

    fn json(&self, model: &Model) -> Value {
        let manifest = model.manifest();
        let sections: Vec<Value> = self
            .sections
            .iter()
            .map(|s| json!({ "name": s.name, "offset": s.offset, "length": s.length, "blake3": s.hash }))
            .collect();
        let formats: BTreeMap<&str, Value> = self
            .formats
            .iter()
            .map(|(name, s)| {
                (*name, json!({ "tensors": s.tensors, "elements": s.elements, "bytes": s.bytes }))
            })
            .collect();
        let roles: BTreeMap<&str, _> = self.uses.iter().map(|(role, uses)| (role.name(), uses)).collect();
        let weights: Vec<Value> = model
            .plan()
            .weights
            .iter()
            .zip(&self.roles)
            .map(|(w, role)| {
                let shape = match w.kind {
                    WeightKind::Vector => vec![w.k],
                    WeightKind::Matrix if w.count > 1 => vec![w.count, w.rows, w.k],
                    WeightKind::Matrix => vec![w.rows, w.k],
                };
                json!({
                    "name": w.name,
                    "role": role.name(),
                    "format": w.format.name(),
                    "shape": shape,
                    "offset": w.offset,
                    "bytes": w.bytes,
                })
            })
            .collect();
        json!({
            "bundle": model.path().display().to_string(),
            "id": model.id(),
            "bytes": model.file_len(),
            "model": manifest.model,
            "arch": manifest.arch,
            "source": manifest.source.name(),
            "fingerprint": manifest.fingerprint,
            "lfmc": manifest.lfmc,
            "recipe": manifest.recipe,
            "parameters": { "total": manifest.parameters.total, "active": manifest.parameters.active },
            "target": model.target().name,
            "context": manifest.context,
            "chunk": manifest.chunk,
            "kv": manifest.kv.name(),
            "ops": model.graph().histogram(),
            "memory": memory::json(&table(model), model.plan()),
            "formats": formats,
            "roles": roles,
            "sections": sections,
            "weights": weights,
        })
    }

    fn text(&self, model: &Model, out: &mut impl Write) -> std::io::Result<()> {
        let manifest = model.manifest();
        writeln!(out, "{}", model.path().display())?;
        writeln!(
            out,
            "  model       {} ({}), {} parameters, {} active",
            manifest.model, manifest.arch, manifest.parameters.total, manifest.parameters.active
        )?;
        writeln!(
            out,
            "  made        by lfmc {} from {}, fingerprint {}",
            manifest.lfmc,
            manifest.source.name(),
            manifest.fingerprint
        )?;
        writeln!(
            out,
            "  for         {}: context {}, chunk {}, kv {}",
            model.target().name,
            manifest.context,
            manifest.chunk,
            manifest.kv.name()
        )?;
        writeln!(out, "  id          {}", model.id())?;
        writeln!(out, "\nmemory")?;
        for line in memory::lines(&table(model)) {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "\nweights")?;
        for (format, s) in &self.formats {
            let bits = 8.0 * s.bytes as f64 / s.elements.max(1) as f64;
            writeln!(
                out,
                "  {format:<10} {:>12}  {} tensors, {bits:.2} bits a weight",
                output::size(s.bytes),
                s.tensors
            )?;
        }
        writeln!(out, "\nroles")?;
        for (role, uses) in &self.uses {
            let uses: Vec<String> =
                uses.iter().map(|(format, tensors)| format!("{tensors} {format}")).collect();
            writeln!(out, "  {:<11} {}", role.name(), uses.join(", "))?;
        }
        writeln!(out, "\noperations")?;
        for (op, count) in model.graph().histogram() {
            writeln!(out, "  {op:<10} {count:>12}")?;
        }
        writeln!(out, "\nsections")?;
        for s in &self.sections {
            writeln!(out, "  {:<14} {:>12} {:>12}  {}", s.name, s.offset, s.length, s.hash)?;
        }
        Ok(())
    }
}
