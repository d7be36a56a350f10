//! What a bundle holds besides graph and weights: device profile, plan, manifest, text, golden vectors.

use std::collections::BTreeMap;

use lfm_graphs::bundle::{Golden, Kind, Manifest, Source};
use lfm_graphs::plan::{BufferKind, Plan};
use lfm_graphs::target::Target;
use lfm_runtime::Model;
use serde::Serialize;

use super::graph::line;
use super::list::Field;

fn fields(list: impl IntoIterator<Item = Option<Field>>) -> Vec<Field> {
    list.into_iter().flatten().collect()
}

/// Device profiles.
pub(super) fn targets(a: &Target, b: &Target) -> Vec<Field> {
    let ram = |target: &Target| target.ram.map_or_else(|| "no limit".to_owned(), |ram| ram.to_string());
    fields([
        Field::new("name", &a.name, &b.name),
        Field::new("isa", a.isa, b.isa),
        Field::new("cores", a.cores, b.cores),
        Field::new("ram", ram(a), ram(b)),
        Field::new("context", a.context, b.context),
        Field::new("chunk", a.chunk, b.chunk),
        Field::new("weights", &a.weights, &b.weights),
        Field::new("kv", line(&a.kv), line(&b.kv)),
    ])
}

/// Memory plans, without what the weights take and where they lie: that follows from their formats.
pub(super) fn plans(a: &Plan, b: &Plan) -> Vec<Field> {
    let (m, n) = (&a.memory, &b.memory);
    let rest = |plan: &Plan| plan.memory.total.saturating_sub(plan.memory.weights);
    fields([
        Field::new("chunk", a.chunk, b.chunk),
        Field::new("context", a.context, b.context),
        Field::new("head_rows", a.head_rows, b.head_rows),
        Field::new("states", m.states, n.states),
        Field::new("arena", m.arena, n.arena),
        Field::new("live", m.live, n.live),
        Field::new("program", m.overhead, n.overhead),
        Field::new("total without weights", rest(a), rest(b)),
    ])
}

/// How many buffers and states of two plans differ in size or place, of how many in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Places {
    /// Buffers and states that one side lacks or that lie elsewhere, live otherwise or have another size.
    pub differ: usize,
    /// All of them.
    pub all: usize,
}

impl Places {
    pub(super) fn of(a: &Plan, b: &Plan) -> Places {
        type Place = (u32, u32, u64, u64);
        fn places(plan: &Plan) -> BTreeMap<(&str, Option<BufferKind>), Place> {
            let buffers = plan.buffers.iter();
            let buffers =
                buffers.map(|b| ((b.name.as_str(), Some(b.kind)), (b.first, b.last, b.offset, b.bytes)));
            let states = plan.states.iter().map(|s| ((s.name.as_str(), None), (0, 0, s.offset, s.bytes)));
            buffers.chain(states).collect()
        }
        let (a, b) = (places(a), places(b));
        let only_b = b.keys().filter(|key| !a.contains_key(*key)).count();
        let other = a.iter().filter(|(key, place)| b.get(*key) != Some(*place)).count();
        Places { differ: other + only_b, all: a.len() + only_b }
    }
}

/// Manifests. What the plan says too is said there.
pub(super) fn manifests(a: &Manifest, b: &Manifest, plan: &[Field]) -> Vec<Field> {
    let source = |source: &Source| match source {
        Source::Hf | Source::Gguf => source.name().to_owned(),
        Source::Random { seed } => format!("random, seed {seed}"),
    };
    let all = fields([
        Field::new("format", a.format, b.format),
        Field::new("lfmc", &a.lfmc, &b.lfmc),
        Field::new("model", &a.model, &b.model),
        Field::new("arch", &a.arch, &b.arch),
        Field::new("source", source(&a.source), source(&b.source)),
        Field::new("fingerprint", &a.fingerprint, &b.fingerprint),
        Field::new("recipe", &a.recipe, &b.recipe),
        Field::new("parameters", a.parameters.total, b.parameters.total),
        Field::new("active parameters", a.parameters.active, b.parameters.active),
        Field::new("context", a.context, b.context),
        Field::new("chunk", a.chunk, b.chunk),
        Field::new("kv", a.kv.name(), b.kv.name()),
    ]);
    all.into_iter().filter(|field| !plan.contains(field)).collect()
}

/// A section that one bundle lacks or that has other bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SectionDiff {
    /// Its name.
    pub name: &'static str,
    /// Its length and BLAKE3 in A, if A has it.
    pub a: Option<(u64, String)>,
    /// Its length and BLAKE3 in B, if B has it.
    pub b: Option<(u64, String)>,
}

/// The sections of the text side and what was asked for, by their hashes, which were checked when the bundles were opened.
pub(super) fn sections(a: &Model, b: &Model) -> Vec<SectionDiff> {
    let texts = [
        Kind::Tokenizer,
        Kind::ChatTemplate,
        Kind::TextConfig,
        Kind::Generation,
        Kind::Licence,
        Kind::Request,
    ];
    let entry = |model: &Model, kind| {
        let section = model.sections().iter().find(|section| section.kind() == kind)?;
        Some((section.length(), section.hash().to_hex().to_string()))
    };
    let all = texts.map(|kind| SectionDiff { name: kind.name(), a: entry(a, kind), b: entry(b, kind) });
    all.into_iter().filter(|section| section.a != section.b).collect()
}

/// How golden vectors differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GoldenDiff {
    /// Prompts that only A has.
    pub removed: usize,
    /// Prompts that only B has.
    pub added: usize,
    /// Prompts that are answered with other tokens.
    pub tokens: usize,
    /// Prompts that are answered with the same tokens from other logits.
    pub logits: usize,
    /// Prompts in both.
    pub common: usize,
}

impl GoldenDiff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.prompts_alike() && self.tokens + self.logits == 0
    }

    /// Whether both have the same prompts.
    pub fn prompts_alike(&self) -> bool {
        self.removed + self.added == 0
    }

    pub(super) fn of(a: Option<&Golden>, b: Option<&Golden>) -> GoldenDiff {
        // Several runs of one prompt are told apart by how many tokens they make.
        let runs = |golden: Option<&Golden>| {
            let vectors = golden.map_or_else(Vec::new, |golden| golden.vectors.clone()).into_iter();
            vectors.map(|v| ((v.prompt, v.greedy.len()), (v.greedy, v.digest))).collect::<BTreeMap<_, _>>()
        };
        let (a, b) = (runs(a), runs(b));
        let mut diff = GoldenDiff::default();
        for (prompt, (tokens, digest)) in &a {
            match b.get(prompt) {
                None => diff.removed += 1,
                Some((other, _)) if other != tokens => diff.tokens += 1,
                Some((_, other)) if other != digest => diff.logits += 1,
                Some(_) => {}
            }
        }
        diff.common = a.len() - diff.removed;
        diff.added = b.keys().filter(|prompt| !a.contains_key(*prompt)).count();
        diff
    }
}
