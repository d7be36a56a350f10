//! Every node of a run of a bundle against the burn model that it was made from.
//!
//! The runtime takes some tokens in and shows the rows of every node. The burn model runs the same tokens, one layer
//! in memory at a time, with the weights of the source or with those of the bundle, and each value that it shows is
//! compared with its node. It takes the experts that the bundle has chosen: another choice is another computation, and after
//! a near tie neither is wrong. Where its own router would have chosen others, that is reported with the node.

mod points;
mod reference;
mod tolerance;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use burn::tensor::{Device, TensorReadError};
use lfm_graphs::id::Id;
use lfm_model::{CheckpointError, Config, Lfm2, Part, Point, Value};
use lfm_runtime::{Model, NodeRows, Options, Route};
use serde::Serialize;

use crate::bundle::{ExportError, Source};
use reference::Weights;
pub use tolerance::Tolerance;

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The bundle does not run.
    #[error("running the bundle")]
    Run(#[from] lfm_runtime::Error),
    /// The reference is the model of another bundle.
    #[error("the reference is not the model of the bundle: {what}")]
    OtherModel {
        /// What the bundle has, and what was expected.
        what: String,
    },
    /// A weight of the reference could not be read.
    #[error(transparent)]
    Source(#[from] ExportError),
    /// The checkpoint is not sound.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The device of the reference failed.
    #[error("reading {point} of the reference")]
    Read {
        /// The value.
        point: String,
        /// What the device said.
        source: TensorReadError,
    },
}

/// What the burn model computes with.
#[derive(Debug)]
pub struct Reference<'a> {
    /// Its configuration.
    pub config: &'a Config,
    /// Where its weights come from: by default the bundle, dequantised.
    pub weights: Option<&'a Source>,
    /// Where it runs.
    pub device: &'a Device,
}

/// Where a node is farthest from the reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Worst {
    /// The absolute difference.
    pub difference: f32,
    /// Position of the token.
    pub position: usize,
    /// Element of the row.
    pub element: usize,
    /// What the bundle gives.
    pub found: f32,
    /// What the reference gives.
    pub expected: f32,
}

/// How a router decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Routing {
    /// Positions at which the reference would have chosen other experts.
    pub differ: usize,
    /// The widest gap, at these, between the scores of an expert that it would have chosen and one that it would not.
    pub widest_gap: f32,
}

/// A node and its reference.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeReport {
    /// Name of the node.
    pub node: String,
    /// Which of its results.
    pub result: usize,
    /// The value of the burn model.
    pub reference: String,
    /// How many rows were compared.
    pub rows: usize,
    /// Normalised mean squared error; infinite if something is not a number.
    pub nmse: f64,
    /// The largest difference, if there is one.
    pub worst: Option<Worst>,
    /// For a mixture, how its router decided.
    pub routing: Option<Routing>,
    /// Whether error and routing are within tolerance.
    pub within: bool,
}

/// All nodes, in the order of the graph.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The tokens that were run.
    pub tokens: Vec<u32>,
    /// What computed, if not the CPU.
    pub device: Option<String>,
    /// What a node may differ by.
    pub tolerance: Tolerance,
    /// The nodes.
    pub nodes: Vec<NodeReport>,
    /// Nodes that have no counterpart in the burn model.
    pub without_reference: Vec<String>,
}

impl Comparison {
    /// The first node that is outside of the tolerance.
    pub fn first_outside(&self) -> Option<&NodeReport> {
        self.nodes.iter().find(|node| !node.within)
    }
}

/// Some tokens that meet different rows, experts and positions: what is compared by default.
pub fn default_tokens(config: &Config, model: &Model) -> Vec<u32> {
    let vocab = model.embeddings() as u32;
    let first = config.bos_token_id.filter(|id| *id < vocab).unwrap_or(0);
    let walk = (1..32u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) % vocab.max(1));
    std::iter::once(first).chain(walk).take(model.plan().context as usize).collect()
}

/// Runs `tokens` through the bundle and through the reference.
///
/// # Errors
/// When one of the two does not run, or the reference is another model.
pub fn compare(
    model: &Model,
    options: &Options,
    reference: &Reference<'_>,
    tokens: &[u32],
    tolerance: Tolerance,
) -> Result<Comparison, CompareError> {
    let Reference { config, weights: source, device } = *reference;
    let weights = Weights::new(model, config, source)?;
    let mut session = model.session(options)?;
    session.record_values(true);
    session.record_routes(true);
    session.prefill_all(tokens, |_, _| Ok(()))?;
    let mut sides = Sides::new(model, config, session.take_values(), session.take_routes());
    let computed = session.device();
    drop(session);
    let chosen = sides.routes.clone();
    let experts = |layer: usize, positions: Range<usize>| -> Option<Vec<u32>> {
        let ids: Vec<&Vec<u32>> = positions.map(|at| chosen.get(&(layer, at))).collect::<Option<_>>()?;
        Some(ids.into_iter().flatten().copied().collect())
    };
    let show = |first: usize, point: Point, value: Value<'_>| {
        let failed = |source| CompareError::Read { point: point.to_string(), source };
        sides.show(first, point, &value).map_err(failed)
    };
    Lfm2::run_by_layer(config, device, tokens, &mut |tensor| weights.read(tensor), experts, show)?;
    Ok(sides.finish(tokens, computed, tolerance))
}

/// A node of the bundle while its reference comes in.
struct Node {
    name: String,
    result: usize,
    point: Point,
    width: usize,
    /// All rows.
    values: Vec<f32>,
    rows: usize,
    /// Sums of squares of differences and of expected values.
    error: f64,
    size: f64,
    worst: Option<Worst>,
    routing: Option<Routing>,
}

impl Node {
    /// Compares rows that begin at position `first`.
    fn compare(&mut self, first: usize, expected: &[f32]) {
        let width = self.width.max(1);
        let found = self.values.get(first * width..).unwrap_or_default();
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let difference = (found - expected).abs();
            self.error += f64::from(difference).powi(2);
            self.size += f64::from(*expected).powi(2);
            // A difference that is no number is the largest.
            if !self.worst.is_some_and(|worst| worst.difference.is_nan() || difference <= worst.difference) {
                let (position, element) = (first + index / width, index % width);
                self.worst =
                    Some(Worst { difference, position, element, found: *found, expected: *expected });
            }
        }
        self.rows += found.len().min(expected.len()) / width;
    }

    fn report(self, tolerance: Tolerance) -> NodeReport {
        let nmse = match self.error {
            0.0 => 0.0,
            error if error.is_finite() => error / self.size,
            _ => f64::INFINITY,
        };
        let Node { name, result, point, rows, worst, routing, .. } = self;
        let reference = point.to_string();
        let gap = routing.map_or(0.0, |routing| routing.widest_gap);
        let within = nmse <= tolerance.nmse && gap <= tolerance.gap;
        NodeReport { node: name, result, reference, rows, nmse, worst, routing, within }
    }
}

/// The bundle's side, and what has been compared.
struct Sides {
    nodes: Vec<Node>,
    /// The nodes of a value.
    by_point: BTreeMap<Point, Vec<usize>>,
    without_reference: Vec<String>,
    /// Chosen experts by layer and position.
    routes: BTreeMap<(usize, usize), Vec<u32>>,
    /// What the reference ranks experts by: first position, experts of a row, rows.
    ranks: (usize, usize, Vec<f32>),
}

impl Sides {
    fn new(model: &Model, config: &Config, values: Vec<NodeRows>, routes: Vec<Route>) -> Sides {
        let graph = model.graph();
        let order: BTreeMap<&str, _> =
            graph.nodes().iter().map(|(id, node)| (node.name.as_str(), (id.index(), node))).collect();
        let mut found: BTreeMap<(usize, usize), NodeRows> = BTreeMap::new();
        let mut without_reference = Vec::new();
        for rows in values {
            let Some((index, _)) = order.get(rows.node.as_str()) else { continue };
            found
                .entry((*index, rows.result))
                .and_modify(|all| all.values.extend_from_slice(&rows.values))
                .or_insert(rows);
        }
        let (mut nodes, mut by_point) = (Vec::new(), BTreeMap::<Point, Vec<usize>>::new());
        for NodeRows { node, result, width, values, .. } in found.into_values() {
            let point = order.get(node.as_str()).and_then(|(_, n)| points::point(graph, config, n, result));
            let Some(point) = point else {
                without_reference.push(node);
                continue;
            };
            by_point.entry(point).or_default().push(nodes.len());
            let (worst, routing) = (None, None);
            nodes.push(Node {
                name: node,
                result,
                point,
                width,
                values,
                rows: 0,
                error: 0.0,
                size: 0.0,
                worst,
                routing,
            });
        }
        let layer = |name: &str| name.strip_prefix('l')?.split_once('.')?.0.parse().ok();
        let routes =
            routes.into_iter().filter_map(|r| Some(((layer(&r.layer)?, r.position), r.ids))).collect();
        Sides { nodes, by_point, without_reference, routes, ranks: (0, 0, Vec::new()) }
    }

    /// Takes a value of the reference, of tokens from position `first` on.
    fn show(&mut self, first: usize, point: Point, value: &Value<'_>) -> Result<(), TensorReadError> {
        match (point.layer, value) {
            (Some(layer), Value::Int(ids)) if point.part == Part::RouterIds => {
                let [_, _, top] = ids.dims();
                let ids: Vec<u32> = value.floats()?.iter().map(|id| *id as u32).collect();
                self.decided(layer, first, &ids, top);
            }
            (Some(_), Value::Float(ranks)) if point.part == Part::RouterRanks => {
                let [_, _, experts] = ranks.dims();
                self.ranks = (first, experts, value.floats()?);
            }
            _ => {
                let Some(nodes) = self.by_point.get(&point) else { return Ok(()) };
                let expected = value.floats()?;
                for node in nodes {
                    if let Some(node) = self.nodes.get_mut(*node) {
                        node.compare(first, &expected);
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares decisions of a router: `top` ids for each token from position `first` on.
    fn decided(&mut self, layer: usize, first: usize, ids: &[u32], top: usize) {
        let mut routing = Routing::default();
        for (position, expected) in (first..).zip(ids.chunks_exact(top.max(1))) {
            let Some(found) = self.routes.get(&(layer, position)) else { continue };
            let found: BTreeSet<u32> = found.iter().copied().collect();
            if !expected.iter().all(|id| found.contains(id)) {
                routing.differ += 1;
                routing.widest_gap = routing.widest_gap.max(self.gap(position, expected, &found));
            }
        }
        let is_mixture = |node: &&mut Node| {
            node.point.layer == Some(layer) && matches!(node.point.part, Part::Out | Part::Ffn)
        };
        if let Some(node) = self.nodes.iter_mut().find(is_mixture) {
            let all = node.routing.get_or_insert_default();
            all.differ += routing.differ;
            all.widest_gap = all.widest_gap.max(routing.widest_gap);
        }
    }

    /// How far the reference ranks the best of its experts that the bundle has not chosen above the worst that it has
    /// instead.
    fn gap(&self, position: usize, expected: &[u32], found: &BTreeSet<u32>) -> f32 {
        let (first, experts, ranks) = &self.ranks;
        let at = position.saturating_sub(*first) * experts;
        let row = ranks.get(at..at + experts).unwrap_or_default();
        let rank = |id: &u32| row.get(*id as usize).copied().unwrap_or(f32::INFINITY);
        let missed = expected.iter().filter(|id| !found.contains(*id)).map(rank);
        let instead = found.iter().filter(|id| !expected.contains(id)).map(rank);
        missed.fold(f32::NEG_INFINITY, f32::max) - instead.fold(f32::INFINITY, f32::min)
    }

    fn finish(self, tokens: &[u32], device: Option<String>, tolerance: Tolerance) -> Comparison {
        let (compared, missing): (Vec<Node>, Vec<Node>) =
            self.nodes.into_iter().partition(|node| node.rows > 0);
        let mut without_reference = self.without_reference;
        without_reference.extend(missing.into_iter().map(|node| node.name));
        Comparison {
            tokens: tokens.to_vec(),
            device,
            tolerance,
            nodes: compared.into_iter().map(|node| node.report(tolerance)).collect(),
            without_reference,
        }
    }
}
