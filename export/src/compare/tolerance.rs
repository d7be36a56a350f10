//! How far a node may be from the reference, by the formats of the bundle.
//!
//! Bounds are on the NMSE of a node, `Σ(found - expected)² / Σ expected²` over all tokens, and on how clearly the reference
//! rejects an expert that the bundle has chosen: the gap of their scores. They leave room above what sound bundles of
//! trained and random models show:
//!
//! | coarsest format | NMSE | gap |
//! |---|---|---|
//! | f32, keys and values too | 1e-9 | 1e-4 |
//! | f16, or keys and values in f16 | 1e-4 | 0.01 |
//! | q8_0, or `--stored-weights` in any of these | 0.02 | 0.1 |
//! | q6_k | 0.05 | 0.2 |
//! | q5_k | 0.3 | any |
//! | q4_k, q4_0 | 1 | any |
//!
//! What those of quantised formats bound is the rounding of weights, which grows with every layer: four bits make 0.7 of a
//! random model of six narrow layers. Against the weights as stored only activations and caches are rounded, which makes 0.006
//! and 0.03 there.

use lfm_graphs::bundle::KvType;
use lfm_graphs::weights::Format;
use lfm_runtime::Model;
use serde::Serialize;

/// What a node may differ by.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Tolerance {
    /// Largest NMSE.
    pub nmse: f64,
    /// Largest gap between the scores of an expert of the reference and one of the bundle.
    pub gap: f32,
}

impl Tolerance {
    /// What the formats of a bundle allow; `stored` if the reference computes with its weights.
    pub fn of(model: &Model, stored: bool) -> Tolerance {
        let cache = if model.manifest().kv == KvType::F16 { Format::F16 } else { Format::F32 };
        let formats = model.plan().weights.iter().map(|slot| slot.format);
        let all = formats.chain([cache]).map(|format| of(format, stored));
        let start = Tolerance { nmse: 0.0, gap: 0.0 };
        all.fold(start, |a, b| Tolerance { nmse: a.nmse.max(b.nmse), gap: a.gap.max(b.gap) })
    }
}

fn of(format: Format, stored: bool) -> Tolerance {
    let (nmse, gap) = match format {
        Format::F32 => (1e-9, 1e-4),
        Format::F16 => (1e-4, 0.01),
        Format::Q8_0 => (0.02, 0.1),
        _ if stored => (0.02, 0.1),
        Format::Q6K => (0.05, 0.2),
        Format::Q5K => (0.3, f32::INFINITY),
        Format::Q4K | Format::Q4_0 => (1.0, f32::INFINITY),
    };
    Tolerance { nmse, gap }
}
