//! The verifier of plans. A plan that passes cannot make an executor read or write outside a region, or overwrite
//! what it still needs: sizes and lives are computed again from the graph, and only places are taken from the plan.
//!
//! All faults are collected, up to [`MAX_FAULTS`]. The rules:
//!
//! | rule | says |
//! |---|---|
//! | P01 | the graph is executable, and what follows `LastRow` stands at its end |
//! | P02 | context, chunk and head rows are in range, the chunk within the context, and head rows the chunk up to 16 |
//! | P03 | the weights are those of the graph, in its order, each in its format |
//! | P04 | a weight has the kind, shape, stride and bytes that its type and format give |
//! | P05 | weights follow each other from 0, each at the next multiple of 64 |
//! | P06 | the states are those of the graph, in its order, each with room for the context |
//! | P07 | states follow each other from 0, each at the next multiple of 64 |
//! | P08 | the buffers are those that the graph needs, in their order |
//! | P09 | a buffer lives from the step that writes it to the last that reads it |
//! | P10 | a buffer has the bytes that its value needs at the planned rows, rounded up to 64 |
//! | P11 | a buffer starts at a multiple of 64 and ends inside the arena |
//! | P12 | no two buffers that live at the same step overlap |
//! | P13 | the arena ends with its last buffer and is no larger than all buffers side by side |
//! | P14 | the sums are those of the parts |

use std::collections::BTreeMap;
use std::fmt;

use super::make::{PlanError, head_rows, place_states, place_weights};
use super::needs::{Need, Needs, check_graph};
use super::{ALIGN, Buffer, MAX_CHUNK, MAX_CONTEXT, Plan, StateSlot, WeightSlot, align, arena};
use crate::Graph;

/// Most faults that are reported.
pub const MAX_FAULTS: usize = 100;

/// A rule of the verifier of plans.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PlanRule(pub u8);

impl fmt::Display for PlanRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "P{:02}", self.0)
    }
}

/// A broken rule.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{rule} at {name}: {message}")]
pub struct PlanFault {
    /// Which rule.
    pub rule: PlanRule,
    /// What it concerns, by its name in the graph.
    pub name: String,
    /// What was found and expected.
    pub message: String,
}

/// Proves a plan for a graph. No faults: the plan is safe to run.
pub fn verify_plan(graph: &Graph, plan: &Plan) -> Vec<PlanFault> {
    let mut verifier = Verifier { graph, plan, faults: Vec::new() };
    if let Err(error) = check_graph(graph) {
        verifier.report(1, "the graph", error.to_string());
        return verifier.faults;
    }
    if !verifier.limits() {
        return verifier.faults;
    }
    verifier.weights();
    verifier.states();
    verifier.buffers();
    verifier.sums();
    verifier.faults
}

struct Verifier<'a> {
    graph: &'a Graph,
    plan: &'a Plan,
    faults: Vec<PlanFault>,
}

impl Verifier<'_> {
    fn report(&mut self, rule: u8, name: impl Into<String>, message: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(PlanFault { rule: PlanRule(rule), name: name.into(), message: message.into() });
        }
    }

    /// `found` against `expected`; whether they are equal.
    fn equal<T: PartialEq + fmt::Debug>(
        &mut self,
        rule: u8,
        name: &str,
        what: &str,
        found: T,
        expected: T,
    ) -> bool {
        let equal = found == expected;
        if !equal {
            self.report(rule, name, format!("{what} is {found:?}, expected {expected:?}"));
        }
        equal
    }

    fn named(&mut self, rule: u8, expected: &str, found: &str) {
        if expected != found {
            // What was found may be of any length.
            let found: String = found.chars().take(128).collect();
            self.report(rule, expected, format!("the name is {found:?}, expected {expected:?}"));
        }
    }

    /// The size that the graph gives, or a fault.
    fn needed<T>(&mut self, rule: u8, name: &str, needed: Result<T, PlanError>) -> Option<T> {
        needed.map_err(|error| self.report(rule, name, error.to_string())).ok()
    }

    fn limits(&mut self) -> bool {
        let Plan { chunk, context, head_rows: rows, .. } = *self.plan;
        let mut ok = true;
        if !(1..=MAX_CONTEXT).contains(&context) {
            self.report(2, "the plan", format!("the context is {context}, expected 1 to {MAX_CONTEXT}"));
            ok = false;
        }
        let most = MAX_CHUNK.min(context);
        if !(1..=most).contains(&chunk) {
            self.report(2, "the plan", format!("the chunk is {chunk}, expected 1 to {most}"));
            ok = false;
        }
        ok && self.equal(2, "the plan", "the number of head rows", rows, head_rows(chunk))
    }

    fn weights(&mut self) {
        let plan = self.plan;
        let Some((needed, bytes)) = self.needed(4, "the weights", place_weights(self.graph)) else { return };
        self.equal(3, "the weights", "their number", plan.weights.len(), needed.len());
        for (found, expected) in plan.weights.iter().zip(&needed) {
            let WeightSlot { name, kind, format, count, rows, k, stride, offset, bytes } = found;
            self.named(3, &expected.name, name);
            let name = expected.name.as_str();
            self.equal(3, name, "the format", *format, expected.format);
            self.equal(4, name, "the kind", *kind, expected.kind);
            let shape = |slot: &WeightSlot| [slot.count, slot.rows, slot.k];
            self.equal(4, name, "count, rows and k", [*count, *rows, *k], shape(expected));
            self.equal(4, name, "the stride", *stride, expected.stride);
            self.equal(4, name, "the number of bytes", *bytes, expected.bytes);
            self.equal(5, name, "the offset", *offset, expected.offset);
        }
        self.equal(14, "the weights", "the number of bytes", plan.memory.weights, bytes);
    }

    fn states(&mut self) {
        let plan = self.plan;
        let Some((needed, bytes)) = self.needed(6, "the states", place_states(self.graph, plan.context))
        else {
            return;
        };
        self.equal(6, "the states", "their number", plan.states.len(), needed.len());
        for (found, expected) in plan.states.iter().zip(&needed) {
            let StateSlot { name, offset, bytes } = found;
            self.named(6, &expected.name, name);
            self.equal(6, &expected.name, "the number of bytes", *bytes, expected.bytes);
            self.equal(7, &expected.name, "the offset", *offset, expected.offset);
        }
        self.equal(14, "the states", "the number of bytes", plan.memory.states, bytes);
    }

    fn buffers(&mut self) {
        let (graph, plan) = (self.graph, self.plan);
        let needs = Needs::of(graph, plan.chunk, plan.head_rows);
        let Some(needs) = self.needed(10, "the arena", needs) else { return };
        self.equal(8, "the arena", "the number of buffers", plan.buffers.len(), needs.buffers.len());
        let mut end = Some(0u64);
        let mut sum = Some(0u64);
        for (found, need) in plan.buffers.iter().zip(&needs.buffers) {
            let Buffer { name, kind, first, last, offset, bytes } = found;
            let expected = need.holds.name(graph);
            self.named(8, &expected, name);
            self.equal(8, &expected, "the kind", *kind, need.holds.kind());
            self.equal(9, &expected, "the life", (*first, *last), (need.first, need.last));
            self.equal(10, &expected, "the number of bytes", *bytes, need.bytes);
            if !offset.is_multiple_of(ALIGN) {
                self.report(11, &expected, format!("the offset is {offset}, expected a multiple of {ALIGN}"));
            }
            let stop = offset.checked_add(need.bytes);
            if stop.is_none_or(|stop| stop > plan.memory.arena) {
                let arena = plan.memory.arena;
                let message = format!("{} bytes from {offset} do not fit into {arena}", need.bytes);
                self.report(11, &expected, message);
            }
            end = end.zip(stop).map(|(end, stop)| end.max(stop));
            sum = sum.and_then(|sum| sum.checked_add(need.bytes));
        }
        if let Some(end) = end {
            self.equal(13, "the arena", "its size", plan.memory.arena, end);
        }
        if sum.is_none_or(|sum| plan.memory.arena > sum) {
            let sum = sum.map_or("what overflows".into(), |sum| sum.to_string());
            let message =
                format!("its size is {}, expected at most {sum}, all buffers together", plan.memory.arena);
            self.report(13, "the arena", message);
        }
        let lives = needs.buffers.iter().map(|need| (need.first, need.last, need.bytes));
        match arena::most_live(lives) {
            Some(live) => {
                self.equal(14, "the arena", "the number of bytes alive at one step", plan.memory.live, live);
            }
            None => self.report(10, "the arena", "the sum of the buffers overflows"),
        }
        self.overlaps(&needs.buffers);
    }

    /// Walks over the steps with the buffers alive, by offset. They are disjoint at any time (one that is not is
    /// reported and left out), so a new one has to be compared with its two neighbours only.
    fn overlaps(&mut self, needs: &[Need]) {
        let (graph, buffers) = (self.graph, &self.plan.buffers);
        let offset = |i: usize| buffers.get(i).map_or(0, |buffer| buffer.offset);
        let stop = |i: usize| offset(i).saturating_add(needs.get(i).map_or(0, |need| need.bytes));
        let count = needs.len().min(buffers.len());
        let steps = |of: fn(&Need) -> u32| needs.iter().map(of).zip(0..count).collect::<Vec<(u32, usize)>>();
        let sorted = |mut events: Vec<(u32, usize)>| {
            events.sort_unstable();
            events.into_iter()
        };
        let mut gone = sorted(steps(|need| need.last)).peekable();
        let mut alive = BTreeMap::<u64, usize>::new();
        for (step, i) in sorted(steps(|need| need.first)) {
            while let Some((_, j)) = gone.next_if(|(last, _)| *last < step) {
                if alive.get(&offset(j)) == Some(&j) {
                    alive.remove(&offset(j));
                }
            }
            // Nothing overlaps no bytes; an end past 64 bits is outside the arena already.
            if stop(i) == offset(i) {
                continue;
            }
            let below = alive.range(..=offset(i)).next_back().filter(|(_, j)| stop(**j) > offset(i));
            let above = alive.range(offset(i)..).next().filter(|(other, _)| **other < stop(i));
            match below.or(above) {
                None => {
                    alive.insert(offset(i), i);
                }
                Some((_, j)) => {
                    let (this, other) = (needs[i].holds, needs[*j].holds);
                    let of = |i: usize| format!("bytes {}..{}", offset(i), stop(i));
                    let message = format!(
                        "{} overlap {} of the {:?} of {}, alive at step {step} too",
                        of(i),
                        of(*j),
                        other.kind(),
                        other.name(graph)
                    );
                    self.report(12, this.name(graph), message);
                }
            }
        }
    }

    fn sums(&mut self) {
        let memory = self.plan.memory;
        let parts = [memory.weights, memory.states, memory.arena, memory.overhead];
        match parts.into_iter().try_fold(0u64, u64::checked_add) {
            Some(total) => {
                self.equal(14, "the plan", "the total", memory.total, total);
            }
            None => self.report(14, "the plan", "the total overflows"),
        }
        if memory.text > memory.overhead {
            let message =
                format!("the text is {}, expected at most the overhead of {}", memory.text, memory.overhead);
            self.report(14, "the plan", message);
        }
        // Rounding up must be possible wherever a region is used.
        if parts.iter().any(|bytes| align(*bytes).is_none()) {
            self.report(14, "the plan", "a region is too large");
        }
    }
}
