//! The router and its experts.
//!
//! A *slot* is a pair of a token and one of its experts. Slots are sorted by expert, so an expert's weights are read
//! once for all tokens that chose it; each token then adds up its slots in ascending order of expert. One token alone
//! takes the same path and gets the same bits.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use lfm_graphs::plan::MoeScratch;

use super::linear::{ColsCut, gated, input};
use super::program::MoeStep;
use super::{Call, Executor, MatrixAt, Operand, Route, Rows, matrix, vector};
use crate::cpu::kernels::{Cols, Input, Kernels, Matrix, Panels, PanelsMut, top_k, words_needed};
use crate::cpu::pool::part;
use crate::error::{Error, Result};
use crate::few;
use crate::paging::Cache;

const OVERLAP: &str = "two values that are alive at once overlap";
const NO_EXPERT: &str = "an expert outside the weights";
const NO_ROOM: &str = "scratch that is too small";

/// Where the scratch of one call lies in the arena, in floats.
struct Scratch {
    logits: Range<usize>,
    ids: Range<usize>,
    weights: Range<usize>,
    order: Range<usize>,
    starts: Range<usize>,
    x: Range<usize>,
    hidden: Range<usize>,
    hidden_panels: Range<usize>,
    y: Range<usize>,
}

impl Scratch {
    fn new(step: &MoeStep, rows: usize) -> Option<Scratch> {
        let (hidden, inner) = (step.down.rows as u64, step.down.k as u64);
        let (experts, quantised) = (step.gate.count as u64, step.x.panels.is_some());
        let at = MoeScratch::new(rows as u64, hidden, inner, experts, step.top_k as u64, quantised)?;
        let base = &step.scratch;
        if at.total > 4 * base.len() as u64 {
            return None;
        }
        let floats = |bytes: Range<u64>| {
            base.start + (bytes.start / 4) as usize..base.start + (bytes.end / 4) as usize
        };
        Some(Scratch {
            logits: floats(at.logits),
            ids: floats(at.ids),
            weights: floats(at.weights),
            order: floats(at.order),
            starts: floats(at.starts),
            x: floats(at.x),
            hidden: floats(at.hidden),
            hidden_panels: floats(at.hidden_panels),
            y: floats(at.y),
        })
    }
}

/// The slots of all experts: `order[starts[e]..starts[e + 1]]` are those of expert e, a slot being
/// `token * top_k + place`.
#[derive(Clone, Copy)]
struct Slots<'a> {
    order: &'a [u32],
    starts: &'a [u32],
}

impl Slots<'_> {
    fn of(&self, expert: usize) -> Range<usize> {
        self.starts[expert] as usize..self.starts[expert + 1] as usize
    }

    /// Experts that have slots, and their slots.
    fn used(&self) -> impl Iterator<Item = (usize, Range<usize>)> + use<'_> {
        (0..self.starts.len() - 1).map(|e| (e, self.of(e))).filter(|(_, slots)| !slots.is_empty())
    }
}

/// Cuts a buffer of slots into one part for each expert, in order.
struct SlotsCut<'s, 'a> {
    slots: Slots<'s>,
    rest: Option<&'a mut [f32]>,
    next: usize,
    per_slot: usize,
}

impl<'s, 'a> SlotsCut<'s, 'a> {
    fn new(slots: Slots<'s>, buffer: &'a mut [f32], per_slot: usize) -> SlotsCut<'s, 'a> {
        SlotsCut { slots, rest: Some(buffer), next: 0, per_slot }
    }

    /// The next expert, its slots, and their floats.
    fn next(&mut self) -> Option<(usize, Range<usize>, &'a mut [f32])> {
        let expert = self.next;
        if expert + 1 >= self.slots.starts.len() {
            return None;
        }
        let chosen = self.slots.of(expert);
        let (mine, others) = self.rest.take()?.split_at_mut(chosen.len() * self.per_slot);
        (self.rest, self.next) = (Some(others), expert + 1);
        Some((expert, chosen, mine))
    }
}

/// Experts that are computed together, and where their weights are.
#[derive(Clone, Copy)]
enum Wave<'a> {
    /// All of them, in the mapped weights.
    All(&'a [u8]),
    /// Those that a cache has now.
    Cached(&'a Cache),
}

impl<'a> Wave<'a> {
    fn has(self, expert: usize) -> bool {
        match self {
            Wave::All(_) => true,
            Wave::Cached(cache) => cache.in_wave(expert),
        }
    }

    /// Whether no others follow.
    fn is_last(self) -> bool {
        match self {
            Wave::All(_) => true,
            Wave::Cached(cache) => cache.is_last(),
        }
    }

    /// Gate, up or down of an expert.
    fn matrix(self, step: &MoeStep, part: usize, expert: usize) -> Result<Matrix<'a>, &'static str> {
        let at = [&step.gate, &step.up, &step.down][part];
        match self {
            Wave::All(weights) => matrix(weights, at, expert),
            Wave::Cached(cache) => {
                let bytes = cache.matrix(expert, part).ok_or(NO_EXPERT)?;
                Matrix::new(at.format, at.rows, at.k, bytes).map_err(|_| NO_EXPERT)
            }
        }
    }

    /// The same of any expert, for its shape.
    fn shape(self, step: &MoeStep, part: usize) -> Result<Matrix<'a>, &'static str> {
        let some = (0..step.gate.count).find(|expert| self.has(*expert));
        self.matrix(step, part, some.ok_or(NO_EXPERT)?)
    }
}

impl Executor {
    pub(super) fn moe(&mut self, call: Call<'_>, name: &str, step: &MoeStep, rows: usize) -> Result<()> {
        let fault = |what| Error::Internal { at: name.to_owned(), what };
        let at = Scratch::new(step, rows).ok_or_else(|| fault(NO_ROOM))?;
        self.choose_experts(call, name, step, &at, rows).map_err(fault)?;
        if let Some((pager, layer)) = self.pager.clone().zip(step.paged) {
            let mut cache = pager.cache();
            let starts = self.arena.split([]).and_then(|(_, rest)| rest.get(at.starts.clone()));
            let starts: &[u32] = bytemuck::cast_slice(starts.ok_or_else(|| fault(OVERLAP))?);
            cache.begin(layer, rows, |expert| (starts[expert + 1] - starts[expert]) as usize);
            while cache.next_wave().map_err(|source| pager.unreadable(source))? {
                self.experts(Wave::Cached(&cache), step, &at, rows).map_err(fault)?;
                cache.end_wave();
            }
            return Ok(());
        }
        self.experts(Wave::All(call.weights), step, &at, rows).map_err(fault)
    }

    /// Everything before the experts.
    fn choose_experts(
        &mut self,
        call: Call<'_>,
        name: &str,
        step: &MoeStep,
        at: &Scratch,
        rows: usize,
    ) -> Result<(), &'static str> {
        self.prepare(step.x, rows)?;
        self.route(call, step, at, rows)?;
        self.log_routes(call, name, step, at, rows)?;
        self.gather(step, at, rows)
    }

    /// The experts of a wave, and after the last one the sums.
    fn experts(
        &mut self,
        wave: Wave<'_>,
        step: &MoeStep,
        at: &Scratch,
        rows: usize,
    ) -> Result<(), &'static str> {
        self.experts_in(wave, step, at, rows)?;
        self.experts_out(wave, step, at, rows)
    }

    /// Router logits, chosen experts with their weights, slots sorted by expert.
    fn route(
        &mut self,
        call: Call<'_>,
        step: &MoeStep,
        at: &Scratch,
        rows: usize,
    ) -> Result<(), &'static str> {
        let (experts, top) = (step.gate.count, step.top_k);
        let floats = Operand { rows: step.x.rows, panels: None };
        let logits = Rows { start: at.logits.start, width: experts };
        self.linear(call, floats, &step.router, None, None, logits, rows)?;
        let bias = step.bias.map(|bias| vector(call.weights, &bias)).transpose()?;
        let parts = self.row_parts(rows);
        let written =
            [at.logits.clone(), at.ids.clone(), at.weights.clone(), at.order.clone(), at.starts.clone()];
        let ([logits, ids, weights, order, starts], _) = self.arena.split(written).ok_or(OVERLAP)?;
        let (ids, order, starts): (&mut [u32], &mut [u32], &mut [u32]) = (
            bytemuck::cast_slice_mut(ids),
            bytemuck::cast_slice_mut(order),
            bytemuck::cast_slice_mut(starts),
        );
        let kernels = self.kernels;
        let mut cut = 0..parts;
        let mut rest = Some((&*logits, &mut *ids, &mut *weights));
        self.pool.each(
            parts,
            || {
                let some = part(rows, cut.next()?, parts)?.len();
                let (logits, ids, weights) = rest.take()?;
                let (logits, more_logits) = logits.split_at(some * experts);
                let (ids, more_ids) = ids.split_at_mut(some * top);
                let (weights, more_weights) = weights.split_at_mut(some * top);
                rest = Some((more_logits, more_ids, more_weights));
                Some((logits, ids, weights))
            },
            |(logits, ids, weights)| choose(kernels, step, bias, logits, ids, weights),
        );
        starts.fill(0);
        for id in &*ids {
            starts[*id as usize + 1] += 1;
        }
        for expert in 0..experts {
            starts[expert + 1] += starts[expert];
        }
        // `starts[e]` counts up while e's slots are placed, and is put back after.
        for (slot, id) in ids.iter().enumerate() {
            let place = &mut starts[*id as usize];
            order[*place as usize] = slot as u32;
            *place += 1;
        }
        starts.copy_within(..experts, 1);
        starts[0] = 0;
        Ok(())
    }

    fn log_routes(
        &mut self,
        call: Call<'_>,
        name: &str,
        step: &MoeStep,
        at: &Scratch,
        rows: usize,
    ) -> Result<(), &'static str> {
        let Some(log) = &mut self.routes else { return Ok(()) };
        let bias = step.bias.map(|bias| vector(call.weights, &bias)).transpose()?;
        let (_, rest) = self.arena.split([]).ok_or(OVERLAP)?;
        let read = |at: &Range<usize>| rest.get(at.clone()).ok_or(OVERLAP);
        let (logits, ids, weights) = (read(&at.logits)?, read(&at.ids)?, read(&at.weights)?);
        let ids: &[u32] = bytemuck::cast_slice(ids);
        let experts = step.gate.count;
        let mut scores = vec![0.0; experts];
        for row in 0..rows {
            self.kernels.sigmoid(&logits[row * experts..][..experts], &mut scores);
            let score = |id: u32| scores[id as usize] + bias.map_or(0.0, |bias| bias[id as usize]);
            let slots = row * step.top_k..(row + 1) * step.top_k;
            let mut chosen: Vec<(u32, f32)> =
                ids[slots.clone()].iter().copied().zip(weights[slots].iter().copied()).collect();
            few::sort(&mut chosen, |a, b| score(b.0).total_cmp(&score(a.0)).then(a.0.cmp(&b.0)).is_lt());
            log.push(Route {
                layer: name.to_string(),
                position: call.past + row,
                ids: chosen.iter().map(|c| c.0).collect(),
                weights: chosen.iter().map(|c| c.1).collect(),
            });
        }
        Ok(())
    }

    /// The slots' inputs in the order of experts. One token needs no copy: every expert reads the same.
    fn gather(&mut self, step: &MoeStep, at: &Scratch, rows: usize) -> Result<(), &'static str> {
        if rows == 1 {
            return Ok(());
        }
        let parts = self.slot_parts(step, rows);
        let ([x], rest) = self.arena.split([at.x.clone()]).ok_or(OVERLAP)?;
        let slots = slots(&rest, at)?;
        let top = step.top_k;
        let width = step.x.rows.width;
        let source = input(&rest, step.x, rows).ok_or(OVERLAP)?;
        let per_slot = match source {
            Input::Panels(_) => words_needed(1, width),
            Input::Rows(_) => width,
        };
        let mut cut = SlotsCut::new(slots, x, per_slot);
        self.pool.each(
            parts,
            || cut.next(),
            |(_, chosen, mine)| {
                let token = |slot: usize| slots.order[chosen.start + slot] as usize / top;
                match source {
                    Input::Panels(source) => {
                        let mine = bytemuck::cast_slice_mut(mine);
                        PanelsMut::new(mine, chosen.len(), width).gather(&source, token);
                    }
                    Input::Rows(source) => {
                        for (slot, row) in mine.chunks_exact_mut(width).enumerate() {
                            row.copy_from_slice(&source[token(slot) * width..][..width]);
                        }
                    }
                }
            },
        );
        Ok(())
    }

    /// Into how many parts work on slots is divided.
    fn slot_parts(&self, step: &MoeStep, rows: usize) -> usize {
        if self.row_parts(rows) == 1 { 1 } else { step.gate.count }
    }

    /// `silu(gate) * up` of every slot, then its int8 form.
    fn experts_in(
        &mut self,
        wave: Wave<'_>,
        step: &MoeStep,
        at: &Scratch,
        rows: usize,
    ) -> Result<(), &'static str> {
        let inner = step.down.k;
        let total = rows * step.top_k;
        let hidden = Rows { start: at.hidden.start, width: inner };
        let shape = wave.shape(step, 0)?;
        let parts = self.product_parts(&shape, total);
        let ([out], rest) = self.arena.split([hidden.range(total)]).ok_or(OVERLAP)?;
        let slots = slots(&rest, at)?;
        let source = Source::new(&rest, step.x, &step.gate, at, rows)?;
        let kernels = self.kernels;
        let mut cut = ColsCut::new(&shape, Cols::new(out, total, inner), parts);
        let missing = AtomicBool::new(false);
        self.pool.each(
            parts,
            || cut.next(),
            |(blocks, mut cols)| {
                for (expert, chosen) in slots.used() {
                    let (mut mine, others) = cols.split_tokens(chosen.len());
                    cols = others;
                    if !wave.has(expert) {
                        continue;
                    }
                    let pair = (wave.matrix(step, 0, expert), wave.matrix(step, 1, expert));
                    let (Ok(gate), Ok(up)) = pair else { return missing.store(true, Ordering::Relaxed) };
                    gated(kernels, [&gate, &up], blocks.clone(), source.of(chosen), &mut mine);
                }
            },
        );
        if missing.into_inner() {
            return Err(NO_EXPERT);
        }
        if step.x.panels.is_some() {
            self.quantize_hidden(wave, step, at, rows)?;
        }
        Ok(())
    }

    fn quantize_hidden(
        &mut self,
        wave: Wave<'_>,
        step: &MoeStep,
        at: &Scratch,
        rows: usize,
    ) -> Result<(), &'static str> {
        let inner = step.down.k;
        let parts = self.slot_parts(step, rows);
        let ([panels], rest) = self.arena.split([at.hidden_panels.clone()]).ok_or(OVERLAP)?;
        let slots = slots(&rest, at)?;
        let hidden = rest.get(at.hidden.clone()).ok_or(OVERLAP)?;
        let mut cut = SlotsCut::new(slots, panels, words_needed(1, inner));
        let kernels = self.kernels;
        self.pool.each(
            parts,
            || cut.next(),
            |(expert, chosen, mine)| {
                if wave.has(expert) {
                    let mut panels = PanelsMut::new(bytemuck::cast_slice_mut(mine), chosen.len(), inner);
                    kernels.quantize(&hidden[chosen.start * inner..chosen.end * inner], &mut panels);
                }
            },
        );
        Ok(())
    }

    /// The down projections, and in the last wave each token's sum over all of its experts.
    fn experts_out(
        &mut self,
        wave: Wave<'_>,
        step: &MoeStep,
        at: &Scratch,
        rows: usize,
    ) -> Result<(), &'static str> {
        let (width, top, inner) = (step.out.width, step.top_k, step.down.k);
        let total = rows * top;
        let shape = wave.shape(step, 2)?;
        let last = wave.is_last();
        let parts = self.product_parts(&shape, total);
        let y = Rows { start: at.y.start, width };
        let ([y, out], rest) = self.arena.split([y.range(total), step.out.range(rows)]).ok_or(OVERLAP)?;
        let slots = slots(&rest, at)?;
        let weights = rest.get(at.weights.clone()).ok_or(OVERLAP)?;
        let residual = step.residual.map(|at| rest.get(at.range(rows)).ok_or(OVERLAP)).transpose()?;
        let hidden = match step.x.panels {
            Some(_) => Source::Panels {
                words: bytemuck::cast_slice(rest.get(at.hidden_panels.clone()).ok_or(OVERLAP)?),
                k: inner,
            },
            None => Source::Rows { floats: rest.get(at.hidden.clone()).ok_or(OVERLAP)?, k: inner },
        };
        let kernels = self.kernels;
        let mut cut_y = ColsCut::new(&shape, Cols::new(y, total, width), parts);
        let mut cut = ColsCut::new(&shape, Cols::new(out, rows, width), parts);
        let missing = AtomicBool::new(false);
        self.pool.each(
            parts,
            || Some((cut_y.next()?, cut.next()?.1)),
            |((blocks, mut y), mut out)| {
                let first = blocks.start * 16;
                let mut rest = y.reborrow();
                for row in 0..if last { rows } else { 0 } {
                    out.row_mut(row).fill(0.0);
                }
                for (expert, chosen) in slots.used() {
                    let (mut mine, others) = rest.split_tokens(chosen.len());
                    rest = others;
                    if wave.has(expert) {
                        let Ok(down) = wave.matrix(step, 2, expert) else {
                            return missing.store(true, Ordering::Relaxed);
                        };
                        kernels.matmul(&down, blocks.clone(), hidden.of(chosen.clone()), &mut mine);
                    }
                    if !last {
                        continue;
                    }
                    // Experts ascend, so every token's sum does.
                    for (n, slot) in slots.order[chosen].iter().enumerate() {
                        let slot = *slot as usize;
                        kernels.axpy(weights[slot], mine.row(n), out.row_mut(slot / top));
                    }
                }
                if let Some(residual) = residual.filter(|_| last) {
                    for row in 0..rows {
                        let out = out.row_mut(row);
                        kernels.axpy(1.0, &residual[row * width + first..][..out.len()], out);
                    }
                }
            },
        );
        if missing.into_inner() { Err(NO_EXPERT) } else { Ok(()) }
    }
}

/// The experts of some tokens, ascending, and their weights, from the router's logits `[tokens, experts]`.
fn choose(
    kernels: &dyn Kernels,
    step: &MoeStep,
    bias: Option<&[f32]>,
    logits: &[f32],
    ids: &mut [u32],
    weights: &mut [f32],
) {
    let (experts, top) = (step.gate.count, step.top_k);
    let mut scores = [0.0f32; MAX_EXPERTS];
    let mut biased = [0.0f32; MAX_EXPERTS];
    let (scores, biased) = (&mut scores[..experts], &mut biased[..experts]);
    let tokens = ids.chunks_exact_mut(top).zip(weights.chunks_exact_mut(top));
    for (logits, (ids, weights)) in logits.chunks_exact(experts).zip(tokens) {
        kernels.sigmoid(logits, scores);
        biased.copy_from_slice(scores);
        if let Some(bias) = bias {
            kernels.axpy(1.0, bias, biased);
        }
        top_k(biased, ids);
        let mut sum = 0.0;
        for (weight, id) in weights.iter_mut().zip(&*ids) {
            *weight = scores[*id as usize];
            sum += *weight;
        }
        for weight in weights {
            if let Some(eps) = step.renorm {
                *weight /= sum + eps;
            }
            *weight *= step.scale;
        }
    }
}

/// Most experts of a layer.
pub(super) const MAX_EXPERTS: usize = 1024;

/// The inputs of experts: rows of slots in the order of experts, or one row for all.
#[derive(Clone, Copy)]
enum Source<'a> {
    Panels { words: &'a [i32], k: usize },
    Rows { floats: &'a [f32], k: usize },
    One(Input<'a>),
}

impl<'a> Source<'a> {
    fn new<const N: usize>(
        rest: &super::arena::Rest<'a, N>,
        x: Operand,
        gate: &MatrixAt,
        at: &Scratch,
        rows: usize,
    ) -> Result<Source<'a>, &'static str> {
        if rows == 1 {
            return Ok(Source::One(input(rest, x, 1).ok_or(OVERLAP)?));
        }
        let floats = rest.get(at.x.clone()).ok_or(OVERLAP)?;
        Ok(match x.panels {
            Some(_) => Source::Panels { words: bytemuck::cast_slice(floats), k: gate.k },
            None => Source::Rows { floats, k: gate.k },
        })
    }

    /// The inputs of the slots `chosen`.
    fn of(&self, chosen: Range<usize>) -> Input<'a> {
        match *self {
            Source::One(input) => input,
            Source::Rows { floats, k } => Input::Rows(&floats[chosen.start * k..chosen.end * k]),
            Source::Panels { words, k } => {
                let per_slot = words_needed(1, k);
                Input::Panels(Panels::new(&words[chosen.start * per_slot..], chosen.len(), k))
            }
        }
    }
}

fn slots<'a, const N: usize>(
    rest: &super::arena::Rest<'a, N>,
    at: &Scratch,
) -> Result<Slots<'a>, &'static str> {
    Ok(Slots {
        order: bytemuck::cast_slice(rest.get(at.order.clone()).ok_or(OVERLAP)?),
        starts: bytemuck::cast_slice(rest.get(at.starts.clone()).ok_or(OVERLAP)?),
    })
}
