//! Bundles for tests: tiny models with seeded weights, quantised plainly and packed.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use lfm_graphs::bundle::{BundleWriter, Kind, KvType, Manifest, Parameters, Source, VERSION};
use lfm_graphs::id::{Id, WeightId};
use lfm_graphs::interp::Tensor;
use lfm_graphs::plan::{Limits, WeightKind, plan};
use lfm_graphs::target::Target;
use lfm_graphs::testing::{Tiny, random_weights, tiny_graph};
use lfm_graphs::weights::dequant::dequantise_row;
use lfm_graphs::weights::{Format, k_quant, layout, pack, q6_k};
use lfm_graphs::{DType, Graph};
use tempfile::TempDir;

/// A bundle in a folder of its own, and what it was made from.
pub(crate) struct Made {
    pub(crate) folder: TempDir,
    pub(crate) path: PathBuf,
    pub(crate) graph: Graph,
    /// The weights before quantisation.
    pub(crate) weights: BTreeMap<String, Tensor>,
    /// The weights as the bundle holds them, widened to f32.
    pub(crate) stored: BTreeMap<String, Tensor>,
}

/// How a test bundle is made.
pub(crate) struct Recipe<'a> {
    pub(crate) tiny: Tiny,
    pub(crate) format: Format,
    pub(crate) context: u32,
    pub(crate) chunk: u32,
    /// Name of the folder of `tests/fixtures` whose tokenizer and template go in.
    pub(crate) text: Option<&'a str>,
    /// The sampling defaults.
    pub(crate) generation: Option<&'a str>,
}

impl Recipe<'_> {
    pub(crate) fn new(tiny: Tiny, format: Format) -> Recipe<'static> {
        Recipe { tiny, format, context: 160, chunk: 64, text: None, generation: None }
    }

    /// Writes the bundle.
    pub(crate) fn make(&self) -> Made {
        let graph = tiny_graph(&self.tiny).with_storage(|graph, id| storage(graph, id, self.format));
        let limits = Limits { chunk: self.chunk, context: self.context, overhead: 1 << 20, ram: None };
        let plan = plan(&graph, limits).unwrap();
        let weights = random_weights(&graph, 7);
        let mut stored = BTreeMap::new();

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.lfmb");
        let mut writer = BundleWriter::create(&path).unwrap();
        writer.section(Kind::Manifest, self.manifest(&graph).to_ron()).unwrap();
        writer.section(Kind::Graph, graph.text()).unwrap();
        writer.section(Kind::Plan, plan.text()).unwrap();
        let target = Target { cores: 2, ..Target::builtin("portable").unwrap() };
        writer.section(Kind::Target, target.text()).unwrap();
        if let Some(fixture) = self.text {
            self.add_text(&mut writer, fixture);
        }
        if let Some(generation) = self.generation {
            writer.section(Kind::Generation, generation).unwrap();
        }
        let mut writer = writer.weights_writer(plan.memory.weights).unwrap();
        for slot in &plan.weights {
            let tensor = &weights[&slot.name];
            let data = tensor.as_f32().unwrap();
            let (rows, k) = (slot.rows as usize, slot.k as usize);
            let mut kept = Vec::new();
            for (index, matrix) in data.chunks(rows * k).enumerate() {
                let canonical: Vec<u8> =
                    matrix.chunks(k).flat_map(|row| quantise_row(slot.format, row)).collect();
                for row in canonical.chunks(slot.format.row_bytes(k).unwrap()) {
                    let mut values = vec![0.0; k];
                    dequantise_row(slot.format, row, &mut values).unwrap();
                    kept.extend(values);
                }
                let bytes = match slot.kind {
                    WeightKind::Vector => canonical,
                    WeightKind::Matrix => {
                        let mut packed =
                            vec![0; layout::packed_bytes(slot.format, rows, k).unwrap() as usize];
                        pack::pack(slot.format, rows, k, &canonical, &mut packed).unwrap();
                        packed
                    }
                };
                writer.write_at(slot.offset + index as u64 * slot.stride, &bytes).unwrap();
            }
            stored.insert(slot.name.clone(), Tensor::f32(tensor.shape.clone(), kept));
        }
        writer.pad_to(plan.memory.weights).unwrap();
        writer.seal_without_golden().unwrap().publish().unwrap();
        Made { folder, path, graph, weights, stored }
    }

    fn manifest(&self, graph: &Graph) -> Manifest {
        let total = graph.parameters();
        Manifest {
            format: VERSION,
            lfmc: "0.1.0".into(),
            model: "tiny".into(),
            arch: graph.model.clone(),
            source: Source::Random { seed: 7 },
            fingerprint: "0".repeat(64),
            recipe: self.format.name().into(),
            parameters: Parameters { total, active: total },
            context: self.context,
            chunk: self.chunk,
            kv: if self.tiny.kv == DType::F16 { KvType::F16 } else { KvType::F32 },
        }
    }

    #[cfg(feature = "text")]
    fn add_text(&self, writer: &mut BundleWriter, fixture: &str) {
        use lfm_runtime::text::TextConfig;
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(fixture);
        let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
        let generation = read("generation_config.json");
        let config = TextConfig::from_hf(&read("tokenizer_config.json"), None, Some(&generation)).unwrap();
        writer.section(Kind::Tokenizer, read("tokenizer.json")).unwrap();
        writer.section(Kind::ChatTemplate, read("chat_template.jinja")).unwrap();
        writer.section(Kind::TextConfig, serde_json::to_string(&config).unwrap()).unwrap();
    }

    #[cfg(not(feature = "text"))]
    fn add_text(&self, _: &mut BundleWriter, _: &str) {}
}

/// Adds golden vectors to a bundle, in a second file.
pub(crate) fn with_golden(made: &Made, golden: &lfm_graphs::bundle::Golden) -> PathBuf {
    let path = made.folder.path().join("golden.lfmb");
    let file = std::fs::read(&made.path).unwrap();
    let bundle = lfm_graphs::bundle::Bundle::parse(&file).unwrap();
    let mut writer = BundleWriter::create(&path).unwrap();
    for section in bundle.sections().iter().filter(|s| s.kind() != Kind::Weights) {
        writer.section(section.kind(), bundle.section(section.kind()).unwrap()).unwrap();
    }
    let mut writer = writer.weights_writer(bundle.weights().len() as u64).unwrap();
    writer.append(bundle.weights()).unwrap();
    writer.seal_without_golden().unwrap().add_golden(golden.to_ron()).unwrap().publish().unwrap();
    path
}

/// Matrices in `format`, but for what is never quantised: routers and convolution kernels.
fn storage(graph: &Graph, id: WeightId, format: Format) -> Format {
    let weight = graph.weights().values().nth(id.index()).unwrap();
    let kept = weight.name.ends_with("ffn.gate") || weight.name.ends_with("conv.conv");
    if weight.ty.rank() < 2 || kept { Format::F32 } else { format }
}

/// One canonical row.
fn quantise_row(format: Format, row: &[f32]) -> Vec<u8> {
    let mut row = row.to_vec();
    row.resize(format.padded_k(row.len()).unwrap(), 0.0);
    row.chunks(format.unit_k()).flat_map(|unit| quantise_unit(format, unit)).collect()
}

fn quantise_unit(format: Format, x: &[f32]) -> Vec<u8> {
    let most = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    match format {
        Format::F32 => x[0].to_le_bytes().to_vec(),
        Format::F16 => f16::from_f32(x[0]).to_le_bytes().to_vec(),
        Format::Q8_0 => {
            let scale = f16::from_f32(most / 127.0);
            let code = |x: &f32| (x / scale.to_f32().max(1e-9)).round().clamp(-127.0, 127.0) as i8 as u8;
            scale.to_le_bytes().into_iter().chain(x.iter().map(code)).collect()
        }
        Format::Q4_0 => {
            let scale = f16::from_f32(most / 7.0);
            let code = |x: f32| ((x / scale.to_f32().max(1e-9)).round() + 8.0).clamp(0.0, 15.0) as u8;
            let codes = (0..16).map(|i| code(x[i]) | code(x[16 + i]) << 4);
            scale.to_le_bytes().into_iter().chain(codes).collect()
        }
        Format::Q6K => {
            let d = f16::from_f32(most / 31.0 / 127.0).to_f32().max(1e-9);
            let mut unit = [0u8; 210];
            let mut codes = [32u8; 256];
            for (s, group) in x.chunks(16).enumerate() {
                let most = group.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let sub = (most / 31.0 / d).ceil().clamp(1.0, 127.0);
                unit[192 + s] = sub as i8 as u8;
                for (i, x) in group.iter().enumerate() {
                    codes[16 * s + i] = ((x / (d * sub)).round() + 32.0).clamp(0.0, 63.0) as u8;
                }
            }
            q6_k::set_codes(&mut unit, &codes);
            unit[208..].copy_from_slice(&f16::from_f32(d).to_le_bytes());
            unit.to_vec()
        }
        Format::Q4K => {
            let (head, codes) = quantise_by_minimum(x, 15.0);
            let mut unit = [0u8; 144];
            unit[..16].copy_from_slice(&head);
            k_quant::set_q4_k_codes(&mut unit, &codes);
            unit.to_vec()
        }
        Format::Q5K => {
            let (head, codes) = quantise_by_minimum(x, 31.0);
            let mut unit = [0u8; 176];
            unit[..16].copy_from_slice(&head);
            k_quant::set_q5_k_codes(&mut unit, &codes);
            unit.to_vec()
        }
    }
}

/// `d`, `dmin` and scales, and codes up to `top`, of 256 elements that are `d * sc * code - dmin * m`.
fn quantise_by_minimum(x: &[f32], top: f32) -> ([u8; 16], [u8; 256]) {
    let least = |group: &[f32]| group.iter().fold(0.0f32, |least, x| least.min(*x));
    let range = |group: &[f32]| group.iter().fold(0.0f32, |most, x| most.max(*x)) - least(group);
    let round_up = |x: f32| f16::from_f32(x * 1.001).to_f32().max(1e-7);
    let d = round_up(x.chunks(32).map(range).fold(0.0, f32::max) / top / 63.0);
    let dmin = round_up(x.chunks(32).map(|group| -least(group)).fold(0.0, f32::max) / 63.0);
    let (mut codes, mut scales) = ([0u8; 256], [k_quant::GroupScale::default(); 8]);
    for ((group, scale), codes) in x.chunks(32).zip(&mut scales).zip(codes.chunks_mut(32)) {
        scale.sc = (range(group) / top / d).ceil().clamp(1.0, 63.0) as u8;
        scale.m = (-least(group) / dmin).ceil().clamp(0.0, 63.0) as u8;
        for (x, code) in group.iter().zip(codes) {
            let above = x + dmin * f32::from(scale.m);
            *code = (above / (d * f32::from(scale.sc))).round().clamp(0.0, top) as u8;
        }
    }
    let mut head = [0; 16];
    head[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    head[2..4].copy_from_slice(&f16::from_f32(dmin).to_le_bytes());
    head[4..].copy_from_slice(&k_quant::set_scales(&scales));
    (head, codes)
}

/// The formats of weights that kernels exist for.
pub(crate) const FORMATS: [Format; 5] = [Format::F32, Format::F16, Format::Q8_0, Format::Q4_0, Format::Q6K];

/// Some token ids of a vocabulary.
pub(crate) fn tokens(n: usize, vocab: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 7 + i * 13 + 5) % vocab) as u32).collect()
}

/// The name of a path, for command lines.
pub(crate) fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}
