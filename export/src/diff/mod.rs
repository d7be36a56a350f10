//! What two bundles, or two graphs, have not in common. Things are told apart by their names, never by their numbers.
//!
//! | part | compared |
//! |---|---|
//! | graph | inputs, constants, states, nodes and outputs, by name; a node under another name only is a renamed one |
//! | weights | shape, format, parameter; of equal formats bytes and rows |
//! | target, plan, manifest | field by field; sizes and places of weights are left out, they follow from the formats |
//! | text | tokenizer, chat template and so on, by hash |
//! | golden vectors | by prompt; other answers of other weights or graphs are no difference of their own |
//!
//! Of two graph files, or a graph file and a bundle, graph and formats of weights are all there is to compare.

mod graph;
mod layers;
mod list;
mod records;
mod side;
mod text;
mod weights;

use serde::Serialize;

pub use graph::GraphDiff;
pub use list::{Change, Field, Item};
pub use records::{GoldenDiff, Places, SectionDiff};
pub use side::{Side, SideError};
pub use weights::{FormatDiff, ValuesDiff, WeightsDiff};

/// How two sides differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// The graphs, but for weights.
    pub graph: GraphDiff,
    /// The weights.
    pub weights: WeightsDiff,
    /// The rest, where both are bundles.
    #[serde(flatten)]
    pub bundle: Option<BundleDiff>,
}

/// How two bundles differ in what graphs alone do not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BundleDiff {
    /// The device profile.
    pub target: Vec<Field>,
    /// The memory plan. Memory in bytes.
    pub plan: Vec<Field>,
    /// Buffers and states of the plan.
    pub places: Places,
    /// What the bundles were made from and for.
    pub manifest: Vec<Field>,
    /// Sections of the text side.
    pub sections: Vec<SectionDiff>,
    /// The golden vectors.
    pub golden: GoldenDiff,
}

impl Diff {
    /// Compares two sides. `progress` gets bytes of weights of A done and in all.
    ///
    /// # Errors
    /// When the golden vectors of a bundle are malformed.
    pub fn of(a: &Side, b: &Side, mut progress: impl FnMut(u64, u64)) -> Result<Diff, lfm_runtime::Error> {
        let bundles = (a.bundle(), b.bundle());
        let bundle = match bundles {
            (Some(a), Some(b)) => {
                let plan = records::plans(a.plan(), b.plan());
                Some(BundleDiff {
                    target: records::targets(a.target(), b.target()),
                    places: Places::of(a.plan(), b.plan()),
                    manifest: records::manifests(a.manifest(), b.manifest(), &plan),
                    sections: records::sections(a, b),
                    golden: GoldenDiff::of(a.golden()?.as_ref(), b.golden()?.as_ref()),
                    plan,
                })
            }
            _ => None,
        };
        Ok(Diff {
            graph: graph::diff(a.graph(), b.graph()),
            weights: weights::diff(a.graph(), b.graph(), bundles, &mut progress),
            bundle,
        })
    }

    /// Whether nothing differs.
    pub fn is_same(&self) -> bool {
        self.computes_alike()
            && self.bundle.as_ref().is_none_or(|rest| rest.is_empty() && rest.golden.is_empty())
    }

    /// Whether graphs and weights are the same.
    pub fn computes_alike(&self) -> bool {
        self.graph.is_empty() && self.weights.is_empty()
    }

    /// Whether golden vectors differ in a way that graph and weights do not explain.
    pub fn golden_is_odd(&self) -> bool {
        self.bundle.as_ref().is_some_and(|rest| {
            !rest.golden.prompts_alike() || (self.computes_alike() && !rest.golden.is_empty())
        })
    }
}

impl BundleDiff {
    /// Whether nothing but golden vectors differs.
    pub fn is_empty(&self) -> bool {
        let BundleDiff { target, plan, places, manifest, sections, golden: _ } = self;
        target.is_empty()
            && plan.is_empty()
            && places.differ == 0
            && manifest.is_empty()
            && sections.is_empty()
    }
}
