//! Fuses the gated short convolution, which takes over its window state.
//!
//! ```text
//! bcx ─┬─ slice b ─┐                                                          bcx ───── conv_gate ─ y
//!      ├─ slice x ─ mul ─ permute ─ concat @window ─┬─ slice last ─ @window'   %kernel ──┤    └─ @window'
//!      │                                            └─ depthwise_conv %kernel  @window ──┘
//!      └─ slice c ──────────────────────────── mul ─ permute ─┘
//!                                               └─ y
//! ```
//!
//! A filter of one tap has no window to concatenate: its state is empty and only passed on.
//!
//! Does not fire when the slices are not the thirds of one value, when `b * x` has another reader than the window
//! and the convolution, or when the state does not become the last `taps - 1` columns.
//! Right because `ConvGate` expands to the left side.

use lfm_graphs::graph::{Update, Value};
use lfm_graphs::{BuildError, Dim, Graph, Op};

use super::pattern::{Fused, Matcher, fuse, is_weight};
use super::{Miss, Outcome, Pass};
use crate::lower::name;

/// See the file.
#[derive(Debug)]
pub struct FuseConvGate;

struct Found {
    bcx: Value,
    /// Kernel and, if there is one, bias.
    filter: Vec<Value>,
    /// The window; none for a single tap, whose state is found by its type.
    window: Option<Value>,
    taps: u32,
    channels: Dim,
}

impl Pass for FuseConvGate {
    fn name(&self) -> &'static str {
        "fuse-conv-gate"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        let mut empty = empty_windows(graph).into_iter();
        let mut unplaced = Vec::new();
        let mut outcome = fuse(graph, find, |new, node, found| {
            let window =
                found.window.or_else(|| empty.find(|(_, channels)| *channels == found.channels).map(|e| e.0));
            let Some(window) = window else {
                unplaced.push(node.name.clone());
                let args: Vec<Value> = node.args.iter().map(|arg| new.map(*arg)).collect();
                return Ok(Fused::from(new.node(&node.name, node.op.clone(), &args)?));
            };
            let mut args = vec![new.map(found.bcx)];
            args.extend(found.filter.iter().map(|value| new.map(*value)));
            args.push(window);
            let scope = match found.filter.first() {
                Some(Value::Weight(id)) => name::module_scope(&graph.weights()[*id].param),
                _ => String::new(),
            };
            let node = name::join(name::parent(&scope), "gate");
            let id = new.push(&node, Op::ConvGate { taps: found.taps }, &args)?;
            Ok(Fused { results: vec![Value::Node(id, 0)], next: vec![(window, Value::Node(id, 1))] })
        })?;
        outcome.fired -= unplaced.len() as u32;
        let why = "a filter of one tap finds no empty window state for its channels";
        outcome.misses.extend(unplaced.into_iter().map(|at| Miss::Check { at, why: why.to_owned() }));
        Ok(outcome)
    }
}

/// Window states `[channels, 0]` that are only passed on, in order.
fn empty_windows(graph: &Graph) -> Vec<(Value, Dim)> {
    let passed_on = graph.states().iter().filter_map(|(id, state)| {
        let [channels, Dim { base: 0, seq: 0, past: 0 }] = state.ty.shape.as_slice() else { return None };
        let node = graph.producer(state.next)?;
        let only = matches!(node.op, Op::Reshape { .. }) && node.args == [Value::State(id)];
        only.then_some((Value::State(id), *channels))
    });
    passed_on.collect()
}

fn find(m: &mut Matcher<'_, '_>) -> Result<Option<Found>, Miss> {
    let node = m.node();
    let (Op::Mul, [a, b]) = (&node.op, node.args.as_slice()) else { return Ok(None) };
    let turned = |op: &Op| matches!(op, Op::Permute { order } if *order == [1, 0]);
    let Some((c, conv)) = m.either([*a, *b], |m, c, rows| {
        let conv = m.unary(rows, turned)?;
        Some((c, m.take(conv, |op| matches!(op, Op::DepthwiseConv { .. }))?))
    }) else {
        return Ok(None);
    };
    let Op::DepthwiseConv { taps } = conv.op else { return Ok(None) };
    let (all, filter) = (conv.args[0], conv.args[1..].to_vec());
    let Some(window) = window(m, all, taps)? else {
        return m.miss("the convolution reads no window and values after it");
    };
    let (window, columns, next) = window;
    let Some((z, bcx, channels)) = m.attempt(|m| {
        let z = m.unary(columns, turned)?;
        let factors = m.binary(z, |op| matches!(op, Op::Mul))?;
        let (c_from, c_third) = third(m, c)?;
        let thirds = factors.map(|factor| third(m, factor));
        let [Some((b_from, b)), Some((x_from, x))] = thirds else { return None };
        let fits =
            b_from == c_from && x_from == c_from && c_third == 1 && ((b, x) == (0, 2) || (b, x) == (2, 0));
        fits.then_some((z, c_from, *m.shape(z).last()?))
    }) else {
        return m.miss("b, c and x are not the thirds of one value");
    };
    let weights =
        is_weight(m.view.graph, filter[0], 2) && filter[1..].iter().all(|b| is_weight(m.view.graph, *b, 1));
    if !weights || m.shape(z).first() != Some(&Dim::SEQ) {
        return m.miss("the filter is no weight, or its values are not of the tokens of the call");
    }
    m.closed(&next.into_iter().collect::<Vec<_>>())?;
    Ok(Some(Found { bcx, filter, window, taps, channels }))
}

/// State, new columns and next content, from what the convolution reads.
type Window = (Option<Value>, Value, Option<Value>);

fn window(m: &mut Matcher<'_, '_>, all: Value, taps: u32) -> Result<Option<Window>, Miss> {
    let Some([state, columns]) = m.attempt(|m| m.binary(all, |op| matches!(op, Op::Concat { axis: 1 })))
    else {
        return Ok((taps == 1).then_some((None, all, None)));
    };
    let Value::State(id) = state else { return m.miss("what stands before the new values is no state") };
    let declared = &m.view.graph.states()[id];
    let Value::Node(next, 0) = declared.next else { return m.miss("the next window is no result of a node") };
    let slice = m.also(next);
    let width = m.shape(all).last().copied();
    let last = match &slice.op {
        Op::Slice { axis: 1, from, to } => {
            slice.args == [all]
                && *from == Dim::SEQ
                && Some(*to) == width
                && m.shape(state).get(1) == Some(&Dim::fixed(taps - 1))
        }
        _ => false,
    };
    if !last || declared.update != Update::Window {
        return m.miss(format!("the state does not become the last {} columns", taps - 1));
    }
    Ok(Some((Some(state), columns, Some(declared.next))))
}

/// Of which value, and which third of its columns, a slice is.
fn third(m: &mut Matcher<'_, '_>, value: Value) -> Option<(Value, u32)> {
    let slice = m.take(value, |op| matches!(op, Op::Slice { axis: 1, .. }))?;
    let Op::Slice { from, to, .. } = slice.op else { return None };
    let (from, to) = (from.as_fixed()?, to.as_fixed()?);
    let whole = m.shape(slice.args[0]);
    let ([_, width], size) = (whole, to.checked_sub(from).filter(|n| *n > 0)?) else { return None };
    (width.as_fixed() == size.checked_mul(3) && from % size == 0).then_some((slice.args[0], from / size))
}
