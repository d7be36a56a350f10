//! Attention: new keys and values go into the cache, then queries read it; key heads are divided between threads.

use super::program::AttentionStep;
use super::state::{Content, States};
use super::{Call, Executor};
use crate::cpu::kernels::{Attention, Cache, Cols, Kernels};
use crate::cpu::pool::part;

const OVERLAP: &str = "two values that are alive at once overlap";

/// The caches of some key heads, each `[context][dim]`.
enum Caches<'a> {
    Half(&'a mut [u16], &'a mut [u16]),
    Single(&'a mut [f32], &'a mut [f32]),
}

impl<'a> Caches<'a> {
    fn split_at(self, elements: usize) -> (Caches<'a>, Caches<'a>) {
        match self {
            Caches::Half(keys, values) => {
                let ((k, keys), (v, values)) = (keys.split_at_mut(elements), values.split_at_mut(elements));
                (Caches::Half(k, v), Caches::Half(keys, values))
            }
            Caches::Single(keys, values) => {
                let ((k, keys), (v, values)) = (keys.split_at_mut(elements), values.split_at_mut(elements));
                (Caches::Single(k, v), Caches::Single(keys, values))
            }
        }
    }

    /// Writes a key and a value of `dim` elements at element `at`.
    fn write(&mut self, kernels: &dyn Kernels, at: usize, key: &[f32], value: &[f32]) {
        match self {
            Caches::Half(keys, values) => {
                kernels.narrow(key, &mut keys[at..at + key.len()]);
                kernels.narrow(value, &mut values[at..at + value.len()]);
            }
            Caches::Single(keys, values) => {
                keys[at..at + key.len()].copy_from_slice(key);
                values[at..at + value.len()].copy_from_slice(value);
            }
        }
    }

    fn read(&self, range: std::ops::Range<usize>) -> Cache<'_> {
        match self {
            Caches::Half(keys, values) => Cache::F16 { keys: &keys[range.clone()], values: &values[range] },
            Caches::Single(keys, values) => Cache::F32 { keys: &keys[range.clone()], values: &values[range] },
        }
    }
}

impl Executor {
    pub(super) fn attention(
        &mut self,
        call: Call<'_>,
        step: &AttentionStep,
        states: &mut States,
        rows: usize,
    ) -> Result<(), &'static str> {
        let (context, dim, kv) = (states.context, step.dim, step.kv);
        let group = step.heads / kv;
        let pair = states.contents.get_disjoint_mut([step.keys, step.values]);
        let caches = match pair.map_err(|_| "keys and values in one state")? {
            [Content::Half(keys), Content::Half(values)] => Caches::Half(keys, values),
            [Content::Single(keys), Content::Single(values)] => Caches::Single(keys, values),
            _ => return Err("keys and values of different types"),
        };
        let ([out], rest) = self.arena.split([step.out.range(rows)]).ok_or(OVERLAP)?;
        let read = |at: super::Rows| rest.get(at.range(rows)).ok_or(OVERLAP);
        let (q, k, v) = (read(step.q)?, read(step.k)?, read(step.v)?);
        let threads = self.pool.threads().min(kv);
        let mut rest = Some((Cols::new(out, rows, step.out.width), caches));
        let kernels = self.kernels;
        self.pool.each(
            threads,
            |index| {
                let heads = part(kv, index, threads);
                let (cols, caches) = rest.take()?;
                let (mine, others) = cols.split_at(heads.len() * group * dim);
                let (my_caches, other_caches) = caches.split_at(heads.len() * context * dim);
                rest = Some((others, other_caches));
                Some((heads, mine, my_caches))
            },
            |(heads, mut cols, mut caches)| {
                for (n, head) in heads.enumerate() {
                    let cache = n * context * dim;
                    for row in 0..rows {
                        let at = row * step.k.width + head * dim;
                        let to = cache + (call.past + row) * dim;
                        caches.write(kernels, to, &k[at..at + dim], &v[at..at + dim]);
                    }
                    let attention = Attention {
                        q: &q[head * group * dim..],
                        stride: step.q.width,
                        heads: group,
                        dim,
                        past: call.past,
                        scale: step.scale,
                        window: step.window,
                        cache: caches.read(cache..cache + (call.past + rows) * dim),
                    };
                    let (mut mine, others) = cols.split_at(group * dim);
                    kernels.attention(&attention, &mut mine);
                    cols = others;
                }
            },
        );
        Ok(())
    }
}
