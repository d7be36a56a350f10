//! Which experts were chosen, copied out of the arena behind each router, in the submission that computes them.

use std::ops::Range;

use lfm_graphs::plan::MoeScratch;

use super::device::Gpu;
use crate::cpu::kernels::{Kernels, Portable};
use crate::error::Result;
use crate::exec::{MoeStep, Route};
use crate::few;

/// One layer's part of the arena and of the copy.
#[derive(Clone, Debug)]
pub(crate) struct Routing {
    layer: String,
    /// Dispatches up to the one that leaves the routes in the arena.
    pub(crate) end: usize,
    top_k: usize,
    /// Selection bias, `[experts]`.
    bias: Vec<f32>,
    /// Where they lie in the arena, in words: `[rows, experts]` logits, `[rows, top_k]` ids and weights.
    logits: usize,
    ids: usize,
    weights: usize,
}

impl Routing {
    /// The routes of a step, for calls of up to `rows` rows.
    pub(crate) fn new(
        layer: &str,
        step: &MoeStep,
        bias: Vec<f32>,
        rows: usize,
        end: usize,
    ) -> Option<Routing> {
        let (hidden, inner) = (step.down.rows as u64, step.down.k as u64);
        let (experts, top) = (step.gate.count as u64, step.top_k as u64);
        let at = MoeScratch::new(rows as u64, hidden, inner, experts, top, step.x.panels.is_some())?;
        let word = |bytes: Range<u64>| step.scratch.start + (bytes.start / 4) as usize;
        Some(Routing {
            layer: layer.to_owned(),
            end,
            top_k: step.top_k,
            bias,
            logits: word(at.logits),
            ids: word(at.ids),
            weights: word(at.weights),
        })
    }

    /// The three parts: word in the arena, words of a row.
    fn parts(&self) -> [(usize, usize); 3] {
        [(self.logits, self.bias.len()), (self.ids, self.top_k), (self.weights, self.top_k)]
    }

    fn words(&self) -> usize {
        self.bias.len() + 2 * self.top_k
    }
}

/// The copy, and what was read of it.
#[derive(Debug)]
pub(crate) struct Routes {
    buffer: wgpu::Buffer,
    taken: Vec<Route>,
}

impl Routes {
    /// Room for the routes of all layers.
    pub(crate) fn new(gpu: &Gpu, layers: &[Routing], rows: usize) -> Option<Routes> {
        let words: usize = layers.iter().map(|layer| rows * layer.words()).sum();
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let buffer = gpu.allocate("routes", 4 * words.max(1) as u64, usage)?;
        Some(Routes { buffer, taken: Vec::new() })
    }

    /// Copies the routes of layer `index`.
    pub(crate) fn encode(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        arena: &wgpu::Buffer,
        layers: &[Routing],
        index: usize,
        rows: usize,
    ) {
        let mut to: usize = layers.iter().take(index).map(|layer| rows * layer.words()).sum();
        for (from, words) in layers.get(index).map(Routing::parts).into_iter().flatten() {
            let bytes = 4 * (rows * words) as u64;
            encoder.copy_buffer_to_buffer(arena, 4 * from as u64, &self.buffer, 4 * to as u64, bytes);
            to += rows * words;
        }
    }

    /// Waits for the copies of a chunk and keeps them.
    pub(crate) fn read(&mut self, gpu: &Gpu, layers: &[Routing], past: usize, rows: usize) -> Result<()> {
        let words: Vec<u32> =
            gpu.read(&self.buffer, self.buffer.size(), "the routes", bytemuck::pod_collect_to_vec)?;
        let mut rest = words.as_slice();
        for layer in layers {
            let [logits, ids, weights] = layer.parts().map(|(_, words)| {
                let (mine, others) = rest.split_at((rows * words).min(rest.len()));
                rest = others;
                mine.chunks_exact(words)
            });
            for (row, ((logits, ids), weights)) in logits.zip(ids).zip(weights).enumerate() {
                self.taken.push(layer.route(past + row, logits, ids, weights));
            }
        }
        Ok(())
    }

    /// What was kept since the last call.
    pub(crate) fn take(&mut self) -> Vec<Route> {
        std::mem::take(&mut self.taken)
    }
}

impl Routing {
    /// The route of one row, best expert first.
    fn route(&self, position: usize, logits: &[u32], ids: &[u32], weights: &[u32]) -> Route {
        let logits: Vec<f32> = logits.iter().map(|word| f32::from_bits(*word)).collect();
        let mut scores = vec![0.0; logits.len()];
        Portable.sigmoid(&logits, &mut scores);
        let score = |id: u32| {
            let id = id as usize;
            scores.get(id).zip(self.bias.get(id)).map_or(f32::NEG_INFINITY, |(score, bias)| score + bias)
        };
        let mut chosen: Vec<(u32, f32)> =
            ids.iter().copied().zip(weights.iter().map(|word| f32::from_bits(*word))).collect();
        few::sort(&mut chosen, |a, b| score(b.0).total_cmp(&score(a.0)).then(a.0.cmp(&b.0)).is_lt());
        Route {
            layer: self.layer.clone(),
            position,
            ids: chosen.iter().map(|c| c.0).collect(),
            weights: chosen.iter().map(|c| c.1).collect(),
        }
    }
}
