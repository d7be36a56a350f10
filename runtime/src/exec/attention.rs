//! Attention: new keys and values go into the cache, then queries read it; key heads, and tokens where there are many,
//! are divided between threads.

use std::ops::Range;

use super::program::AttentionStep;
use super::rows::MANY_ROWS;
use super::state::{Content, States};
use super::{Call, Executor};
use crate::cpu::kernels::{Attention, Cache, Cols, Kernels, MAX_HEAD, key_elements, put_key};

const OVERLAP: &str = "two values that are alive at once overlap";

/// The caches of some key heads: keys as [`Cache`] has them, values `[context][dim]`.
enum Caches<'a> {
    Half(&'a mut [u16], &'a mut [u16]),
    Single(&'a mut [f32], &'a mut [f32]),
}

impl<'a> Caches<'a> {
    fn of(states: &'a mut States, step: &AttentionStep) -> Result<Caches<'a>, &'static str> {
        let pair = states.contents.get_disjoint_mut([step.keys, step.values]);
        match pair.map_err(|_| "keys and values in one state")? {
            [Content::Half(keys), Content::Half(values)] => Ok(Caches::Half(keys, values)),
            [Content::Single(keys), Content::Single(values)] => Ok(Caches::Single(keys, values)),
            _ => Err("keys and values of different types"),
        }
    }

    /// The first heads, whose keys and values have so many elements, and the others.
    fn split_at(self, keys: usize, values: usize) -> (Caches<'a>, Caches<'a>) {
        match self {
            Caches::Half(k, v) => {
                let ((k, more_k), (v, more_v)) = (k.split_at_mut(keys), v.split_at_mut(values));
                (Caches::Half(k, v), Caches::Half(more_k, more_v))
            }
            Caches::Single(k, v) => {
                let ((k, more_k), (v, more_v)) = (k.split_at_mut(keys), v.split_at_mut(values));
                (Caches::Single(k, v), Caches::Single(more_k, more_v))
            }
        }
    }

    /// Writes key and value of one position of the first head. `half` is room for one of them.
    fn write(
        &mut self,
        kernels: &dyn Kernels,
        position: usize,
        key: &[f32],
        value: &[f32],
        half: &mut [u16; MAX_HEAD],
    ) {
        let at = position * value.len()..(position + 1) * value.len();
        match self {
            Caches::Half(keys, values) => {
                let half = &mut half[..key.len()];
                kernels.narrow(key, half);
                put_key(keys, position, half);
                kernels.narrow(value, &mut values[at]);
            }
            Caches::Single(keys, values) => {
                put_key(keys, position, key);
                values[at].copy_from_slice(value);
            }
        }
    }

    /// The first `positions` positions of head `head`.
    fn read(&self, head: usize, context: usize, dim: usize, positions: usize) -> Cache<'_> {
        let (keys_at, values_at) = (head * key_elements(context, dim), head * context * dim);
        let k = keys_at..keys_at + key_elements(positions, dim);
        let v = values_at..values_at + positions * dim;
        match self {
            Caches::Half(keys, values) => Cache::F16 { keys: &keys[k], values: &values[v] },
            Caches::Single(keys, values) => Cache::F32 { keys: &keys[k], values: &values[v] },
        }
    }
}

/// Tokens of a part: as many as make the work on a tile worth widening it.
const PART: usize = 128;

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
        let ([out], rest) = self.arena.split([step.out.range(rows)]).ok_or(OVERLAP)?;
        let read = |at: super::Rows| rest.get(at.range(rows)).ok_or(OVERLAP);
        let (q, k, v) = (read(step.q)?, read(step.k)?, read(step.v)?);
        let kernels = self.kernels;

        // First the new keys and values, head by head.
        let mut caches = Some(Caches::of(states, step)?);
        let mut heads = 0..kv;
        let (keys, values) = (key_elements(context, dim), context * dim);
        self.pool.each(
            if rows < MANY_ROWS { 1 } else { kv },
            || {
                let head = heads.next()?;
                let (mine, others) = caches.take()?.split_at(keys, values);
                caches = Some(others);
                Some((head, mine))
            },
            |(head, mut cache)| {
                let mut half = [0; MAX_HEAD];
                for row in 0..rows {
                    let at = row * step.k.width + head * dim;
                    let (k, v) = (&k[at..at + dim], &v[at..at + dim]);
                    cache.write(kernels, call.past + row, k, v, &mut half);
                }
            },
        );

        // Then every head for some of the tokens; the last tokens, which see most, first.
        let caches = Caches::of(states, step)?;
        let mut left = Some(Cols::new(out, rows, step.out.width));
        let mut tokens: Option<(Range<usize>, Cols)> = None;
        let mut head = kv;
        self.pool.each(
            kv * rows.div_ceil(PART),
            || {
                if head == kv {
                    let all = left.take()?;
                    let first = all.tokens().checked_sub(1)? / PART * PART;
                    let end = all.tokens();
                    let (others, mine) = all.split_tokens(first);
                    (left, head) = (Some(others), 0);
                    tokens = Some((first..end, mine));
                }
                let (range, cols) = tokens.take()?;
                let (mine, others) = cols.split_at(group * dim);
                tokens = Some((range.clone(), others));
                head += 1;
                Some((head - 1, range, mine))
            },
            |(head, tokens, mut mine)| {
                let attention = Attention {
                    q: &q[tokens.start * step.q.width + head * group * dim..],
                    stride: step.q.width,
                    heads: group,
                    dim,
                    past: call.past + tokens.start,
                    scale: step.scale,
                    window: step.window,
                    cache: caches.read(head, context, dim, call.past + tokens.end),
                };
                kernels.attention(&attention, &mut mine);
            },
        );
        Ok(())
    }
}
