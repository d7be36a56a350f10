//! Decides what neither flags nor source say, so that the model fits into the memory budget of its target.
//!
//! Tried in this order, until something fits:
//!
//! 1. the profile's weight recipe, then smaller ones; with each
//! 2. the profile's context, then the longest that is at least [`LEAST_CONTEXT`]; with each
//! 3. the profile's chunk, then halves of it down to [`LEAST_CHUNK`];
//! 4. the smallest recipe with experts paged: hot weights in memory, experts read as they are needed, in the same order
//!    of contexts and chunks.
//!
//! What was asked for explicitly stays. The same profile, model and flags give the same answer everywhere.

use std::fmt;

use lfm_graphs::Graph;
use lfm_graphs::bundle::{KvType, Request};
use lfm_graphs::plan::memory::Paging;
use lfm_graphs::plan::{Limits, Memory, Plan, plan};
use lfm_graphs::target::{ByteSize, Kv, Target};
use lfm_graphs::weights::Format;

use super::ExportError;
use super::statement::Overhead;
use crate::quantize::recipe::Recipe;

/// Contexts are not made shorter than this.
pub const LEAST_CONTEXT: u32 = 1024;
/// Chunks are not made smaller than this.
pub const LEAST_CHUNK: u32 = 64;
/// Contexts that are chosen are multiples of this.
const CONTEXT_STEP: u32 = 256;
/// Recipes from large to small.
const LADDER: [Format; 5] = [Format::F32, Format::F16, Format::Q8_0, Format::Q6K, Format::Q4_0];

/// A model with everything decided.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The fused graph with the storage of each weight.
    pub graph: Graph,
    /// Its memory plan, for all weights in memory.
    pub plan: Plan,
    /// The weight recipe.
    pub recipe: Recipe,
    /// Storage of keys and values.
    pub kv: KvType,
    /// The device profile, with the budget that counts.
    pub target: Target,
    /// What was asked for.
    pub request: Request,
}

/// What is to be decided on.
pub(super) struct Wish<'a> {
    pub(super) target: &'a Target,
    pub(super) request: Request,
    /// The recipes that may be, most wanted first.
    pub(super) recipes: Vec<Recipe>,
    pub(super) overhead: Overhead,
}

/// The recipe of a profile and all smaller ones.
pub(super) fn ladder(wanted: Recipe) -> Vec<Recipe> {
    let smaller = LADDER.into_iter().map(Recipe::new).skip_while(|recipe| *recipe != wanted);
    let all: Vec<Recipe> = smaller.collect();
    if all.is_empty() { vec![wanted] } else { all }
}

/// Decides. `graph` gives the graph for a recipe and a storage of keys and values.
pub(super) fn settle(
    wish: Wish<'_>,
    mut graph: impl FnMut(Recipe, KvType) -> Result<Graph, ExportError>,
) -> Result<Settled, ExportError> {
    let Wish { target, request, recipes, overhead } = wish;
    if let Some(context) = request.context.filter(|context| *context > request.positions) {
        return Err(ExportError::Context { context, positions: request.positions });
    }
    let target = Target { ram: request.ram.or(target.ram), ..target.clone() };
    let mut models = Vec::new();
    for recipe in recipes {
        let kv = kv_type(request.kv, target.kv, recipe);
        let model = Model { graph: graph(recipe, kv)?, recipe, kv, overhead, budget: target.ram };
        if let Some(plan) = model.fit(&target, &request, Mode::Resident)? {
            return Ok(model.settled(plan, target, request));
        }
        models.push(model);
    }
    let Some(model) = models.last() else { return Err(ExportError::Internal("no recipe was tried")) };
    if let Some(plan) = model.fit(&target, &request, Mode::Paged)? {
        let model = models.swap_remove(models.len() - 1);
        return Ok(model.settled(plan, target, request));
    }
    Err(ExportError::Unfit(Box::new(unfit(model, &target, &request, &mut graph)?)))
}

/// How keys and values are stored: as asked for, or as the profile says.
fn kv_type(asked: Option<KvType>, profile: Kv, recipe: Recipe) -> KvType {
    match (asked, profile) {
        (Some(kv), _) => kv,
        (None, Kv::F16) => KvType::F16,
        (None, Kv::F32) => KvType::F32,
        // Keys in half precision would be the largest error of a model in single precision.
        (None, Kv::Auto) if recipe == Recipe::new(Format::F32) => KvType::F32,
        (None, Kv::Auto) => KvType::F16,
    }
}

/// Where the weights are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// All in memory.
    Resident,
    /// Experts are read as they are needed.
    Paged,
}

/// A graph whose context and chunk are open.
struct Model {
    graph: Graph,
    recipe: Recipe,
    kv: KvType,
    overhead: Overhead,
    budget: Option<ByteSize>,
}

impl Model {
    fn settled(self, plan: Plan, target: Target, request: Request) -> Settled {
        Settled { graph: self.graph, plan, recipe: self.recipe, kv: self.kv, target, request }
    }

    fn plan(&self, context: u32, chunk: u32) -> Result<Plan, ExportError> {
        let Overhead { program, text } = self.overhead;
        let mut plan = plan(&self.graph, Limits { context, chunk, overhead: program + text, ram: None })?;
        plan.memory.text = text;
        Ok(plan)
    }

    /// The least that a plan needs in a mode, if it has the mode.
    fn least(&self, plan: &Plan, mode: Mode) -> Option<u64> {
        match mode {
            Mode::Resident => Some(plan.memory.total),
            Mode::Paged => {
                let paging = Paging::of(&self.graph, plan);
                (!paging.layers.is_empty()).then(|| paging.least(&plan.memory).total)
            }
        }
    }

    /// The plan, if it fits.
    fn fitting(&self, context: u32, chunk: u32, mode: Mode) -> Result<Option<Plan>, ExportError> {
        let plan = self.plan(context, chunk)?;
        let fits =
            self.least(&plan, mode).is_some_and(|least| self.budget.is_none_or(|most| least <= most.0));
        Ok(fits.then_some(plan))
    }

    /// The best plan that fits, if one does.
    fn fit(&self, target: &Target, request: &Request, mode: Mode) -> Result<Option<Plan>, ExportError> {
        let (contexts, chunks) = (contexts(target, request), chunks(target, request));
        let mut longer = None;
        for context in contexts {
            for chunk in &chunks {
                if let Some(plan) = self.fitting(context, *chunk, mode)? {
                    return Ok(Some(match longer {
                        Some(longer) => self.longest(plan, *chunk, longer, mode)?,
                        None => plan,
                    }));
                }
            }
            longer = Some(context);
        }
        Ok(None)
    }

    /// The plan of the longest context from that of `plan`, which fits, to below `longer`, which does not.
    fn longest(&self, plan: Plan, chunk: u32, longer: u32, mode: Mode) -> Result<Plan, ExportError> {
        let (mut best, mut bad) = (plan, longer.div_ceil(CONTEXT_STEP));
        loop {
            let good = best.context / CONTEXT_STEP;
            let middle = good + (bad - good) / 2;
            if middle <= good {
                return Ok(best);
            }
            match self.fitting(middle * CONTEXT_STEP, chunk, mode)? {
                Some(plan) => best = plan,
                None => bad = middle,
            }
        }
    }
}

/// The contexts to be tried.
fn contexts(target: &Target, request: &Request) -> Vec<u32> {
    let wanted = target.context.min(request.positions);
    match request.context {
        Some(context) => vec![context],
        None => halves(wanted, LEAST_CONTEXT),
    }
}

/// The chunks to be tried.
fn chunks(target: &Target, request: &Request) -> Vec<u32> {
    match request.chunk {
        Some(chunk) => vec![chunk],
        None => halves(target.chunk, LEAST_CHUNK),
    }
}

/// `most`, and its halves that are at least `least`.
fn halves(most: u32, least: u32) -> Vec<u32> {
    let smaller = std::iter::successors(Some(most / 2), |n| Some(n / 2)).take_while(|n| *n >= least.max(1));
    std::iter::once(most).chain(smaller).collect()
}

/// A model that does not fit, and what would.
#[derive(Clone, Debug, PartialEq)]
pub struct Unfit {
    /// The recipe that was tried last.
    pub recipe: Recipe,
    /// The context that was wanted.
    pub context: u32,
    /// The chunk that was wanted.
    pub chunk: u32,
    /// What these need.
    pub memory: Memory,
    /// What they need at least with experts paged, if there are any.
    pub paged: Option<u64>,
    /// What there is.
    pub budget: u64,
    /// Flags with which the export fits, the nearest first.
    pub hints: Vec<String>,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| ByteSize(bytes).approx();
        let Unfit { recipe, context, chunk, memory, paged, budget, hints } = self;
        write!(
            f,
            "the model needs {} of {}: weights {} ({recipe}), states {} (context {context}), arena {} (chunk \
             {chunk}), program {}",
            size(memory.total),
            size(*budget),
            size(memory.weights),
            size(memory.states),
            size(memory.arena),
            size(memory.overhead),
        )?;
        if let Some(paged) = paged {
            write!(f, "; with experts paged at least {}", size(*paged))?;
        }
        write!(f, "; what fits: {}", hints.join(", or "))
    }
}

/// Why `model`, the smallest, does not fit, and what would.
fn unfit(
    model: &Model,
    target: &Target,
    request: &Request,
    graph: &mut impl FnMut(Recipe, KvType) -> Result<Graph, ExportError>,
) -> Result<Unfit, ExportError> {
    let context = request.context.unwrap_or(target.context.min(request.positions));
    let chunk = request.chunk.unwrap_or(target.chunk);
    let plan = model.plan(context, chunk)?;
    let paged = model.least(&plan, Mode::Paged);
    let mut hints = Vec::new();
    if let Some((context, chunk)) = nearest(model, context, chunk)? {
        hints.push(match (context, chunk) {
            (Some(context), None) => format!("--context {context}"),
            (None, Some(chunk)) => format!("--chunk {chunk}"),
            (Some(context), Some(chunk)) => format!("--context {context} --chunk {chunk}"),
            (None, None) => return Err(ExportError::Internal("a model both fits and does not")),
        });
    }
    // A recipe that was asked for is not the smallest.
    for recipe in ladder(model.recipe).into_iter().skip(1) {
        let kv = kv_type(request.kv, target.kv, recipe);
        let smaller = Model { graph: graph(recipe, kv)?, recipe, kv, ..*model };
        if fits(&smaller, context, chunk)? {
            hints.push(format!("--weights {recipe}"));
            break;
        }
    }
    let least = paged.map_or(plan.memory.total, |paged| paged.min(plan.memory.total));
    let mib = ByteSize(least.div_ceil(1 << 20) << 20);
    hints.push(format!("--ram {mib}"));
    let budget = model.budget.map_or(u64::MAX, |budget| budget.0);
    Ok(Unfit { recipe: model.recipe, context, chunk, memory: plan.memory, paged, budget, hints })
}

/// Whether a model fits in either mode.
fn fits(model: &Model, context: u32, chunk: u32) -> Result<bool, ExportError> {
    for mode in [Mode::Resident, Mode::Paged] {
        if model.fitting(context, chunk, mode)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Another context, another chunk, or both.
type Change = (Option<u32>, Option<u32>);

/// Context and chunk that fit, `None` for one that stays: the longest context, or the largest chunk where no context
/// is short enough, or both small.
fn nearest(model: &Model, context: u32, chunk: u32) -> Result<Option<Change>, ExportError> {
    for shorter in halves(context, 16).into_iter().skip(1) {
        if shorter >= chunk && fits(model, shorter, chunk)? {
            let (mut good, mut bad) = (shorter, (2 * shorter + 1).min(context));
            while bad - good > 1 {
                let middle = good + (bad - good) / 2;
                if fits(model, middle, chunk)? { good = middle } else { bad = middle }
            }
            let round = good / CONTEXT_STEP * CONTEXT_STEP;
            return Ok(Some((Some(if round >= shorter { round } else { good }), None)));
        }
    }
    for smaller in halves(chunk.min(context), 1).into_iter().skip(1) {
        if fits(model, context, smaller)? {
            return Ok(Some((None, Some(smaller))));
        }
    }
    for shorter in halves(context, 1).into_iter().skip(1) {
        for smaller in halves(chunk.min(shorter), 1) {
            if fits(model, shorter, smaller)? {
                return Ok(Some((Some(shorter), Some(smaller))));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recipes_only_become_smaller() {
        let names =
            |from: Format| ladder(Recipe::new(from)).iter().map(Recipe::to_string).collect::<Vec<_>>();
        assert_eq!(names(Format::Q8_0), ["q8_0", "q6_k", "q4_0"]);
        assert_eq!(names(Format::Q4_0), ["q4_0"]);
        assert_eq!(names(Format::Q4K), ["q4_k"], "taken over from a GGUF file");
    }

    #[test]
    fn halves_end_at_the_least() {
        assert_eq!(halves(4096, 1024), [4096, 2048, 1024]);
        assert_eq!(halves(500, 1024), [500]);
        assert_eq!(halves(1, 1), [1]);
    }
}
