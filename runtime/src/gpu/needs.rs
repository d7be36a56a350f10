//! What layers of a model take on a device, before anything is allocated.

use super::Adapter;
use super::buffers::Layout;
use super::executor::Sizes;
use crate::exec::Program;
use crate::model::Model;
use crate::session::planned;

/// The layer of a node: `l12.` begins those of layer 12.
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix('l')?.split_once('.')?.0.parse().ok()
}

/// How many layers there are.
pub(crate) fn layers(program: &Program) -> usize {
    program.body.iter().filter_map(|step| layer(&step.name)).max().map_or(0, |last| last + 1)
}

/// The first step of the last `layers` layers.
pub(crate) fn split(program: &Program, layers: usize) -> usize {
    let all = self::layers(program);
    let first = |name: &str| layer(name).is_some_and(|layer| layer + layers >= all);
    let steps = &program.body;
    if layers >= all { 0 } else { steps.iter().position(|step| first(&step.name)).unwrap_or(steps.len()) }
}

/// Bytes that the last `layers` layers and the head take on an adapter, or why they cannot lie there.
pub(crate) fn of(program: &Program, adapter: &Adapter, layers: usize, sizes: Sizes) -> Result<u64, String> {
    let steps = program.body.iter().skip(split(program, layers)).chain(&program.tail);
    Layout::new(steps, program.arena, &program.states, sizes, adapter.binding)
        .map(|layout| layout.bytes())
        .map_err(|(at, what)| format!("{at}: {what}"))
}

/// The layers of a model: all there can be on a device.
pub fn model_layers(model: &Model) -> usize {
    layers(model.program())
}

/// Bytes of device memory that the last `layers` layers of a model take with the head, at the planned context: weights,
/// states with checkpoints, and arena. All layers also take the embedding.
///
/// # Errors
/// What is larger than the adapter can bind, as text.
pub fn needed(model: &Model, adapter: &Adapter, layers: usize) -> Result<u64, String> {
    let plan = model.plan();
    let (slots, _) = planned(model);
    let (chunk, head_rows) = (plan.chunk as usize, plan.head_rows as usize);
    of(model.program(), adapter, layers, Sizes { chunk, head_rows, context: plan.context as usize, slots })
}
