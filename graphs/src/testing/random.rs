//! Random graphs of any operations: what the verifier accepts must expand, print, parse and run.

use std::collections::BTreeSet;

use super::Rng;
use crate::build::Builder;
use crate::graph::{Update, Value};
use crate::infer::infer;
use crate::{DType, Dim, Graph, Op, TensorType};

/// Most elements of a value at (seq, past) = (8, 8).
const MAX_ELEMENTS: u64 = 4096;

struct Maker {
    rng: Rng,
    b: Builder,
    /// What operations may read, the inputs first.
    values: Vec<Value>,
    /// What has been given as the next content of a state.
    leaving: BTreeSet<Value>,
    ordinal: u32,
    /// Whether what is made stands after a `LastRow`, where no state is.
    tail: bool,
}

impl Maker {
    fn size(&mut self) -> Dim {
        Dim::fixed(1 + self.rng.below(4))
    }

    fn ty(&self, value: Value) -> TensorType {
        self.b.ty(value).clone()
    }

    fn name(&mut self, role: &str) -> String {
        self.ordinal += 1;
        format!("{role}{}", self.ordinal)
    }

    /// Appends a node if its types fit and its results are small.
    fn push(&mut self, op: Op, args: &[Value]) -> Option<Vec<Value>> {
        let types: Vec<TensorType> = args.iter().map(|arg| self.ty(*arg)).collect();
        let out = infer(&op, &types.iter().collect::<Vec<_>>()).ok()?;
        if out.iter().any(|ty| ty.elements(8, 8).is_none_or(|n| n > MAX_ELEMENTS)) {
            return None;
        }
        let name = self.name(&op.name().0.to_lowercase());
        let id = self.b.push(&name, op, args).ok()?;
        let results: Vec<Value> = (0..out.len()).map(|out| Value::Node(id, out as u8)).collect();
        self.values.extend(&results);
        Some(results)
    }

    fn weight(&mut self, shape: &[Dim]) -> Value {
        let name = self.name("w");
        self.b.weight(name.clone(), TensorType::f32(shape.iter().copied()), name)
    }

    /// Any value; more often one of the last.
    fn any(&mut self) -> Value {
        let n = self.values.len() as u32;
        let back = if self.rng.once_in(2) { self.rng.below(n) } else { self.rng.below(n.min(4)) };
        self.values[(n - 1 - back) as usize]
    }

    /// A value whose type is that of another, or the other itself.
    fn like(&mut self, value: Value) -> Value {
        let ty = self.ty(value);
        let same: Vec<Value> = self.values.iter().copied().filter(|v| *self.b.ty(*v) == ty).collect();
        if same.is_empty() { value } else { *self.rng.pick(&same) }
    }

    /// A weight, a value of the same type, or one that stretches to it.
    fn partner(&mut self, value: Value) -> Value {
        let shape = self.ty(value).shape;
        match self.rng.below(3) {
            0 => self.like(value),
            1 => match shape.last() {
                Some(last) if last.base > 0 && last.as_fixed().is_some() => self.weight(&[*last]),
                _ => self.weight(&[]),
            },
            _ => self.any(),
        }
    }

    fn axis(&mut self, value: Value) -> u8 {
        self.rng.below(self.ty(value).rank().max(1) as u32) as u8
    }

    /// Tries one random operation.
    fn random(&mut self) -> Option<Vec<Value>> {
        let x = self.any();
        let ty = self.ty(x);
        let shape = ty.shape.clone();
        let last = ty.last().unwrap_or(Dim::ONE);
        match self.rng.below(27) {
            0 => {
                let y = self.partner(x);
                let op = self.rng.pick(&[Op::Add, Op::Sub, Op::Mul, Op::Div]).clone();
                self.push(op, &[x, y])
            }
            1 => {
                let by = self.rng.finite();
                let op = if self.rng.once_in(2) { Op::AddScalar { by } } else { Op::MulScalar { by } };
                self.push(op, &[x])
            }
            2 => {
                let op = self.rng.pick(&[Op::Sqrt, Op::Sigmoid, Op::Sin, Op::Cos, Op::Softmax]).clone();
                self.push(op, &[x])
            }
            3 => {
                let to = *self.rng.pick(&[DType::F32, DType::F32, DType::F16, DType::I32]);
                self.push(Op::Cast { to }, &[x])
            }
            4 => {
                let axis = self.axis(x);
                let op = if self.rng.once_in(2) { Op::Mean { axis } } else { Op::Sum { axis } };
                self.push(op, &[x])
            }
            5 | 6 => {
                let o = self.size();
                last.as_fixed().filter(|n| *n > 0)?;
                let mut args = vec![x, self.weight(&[o, last])];
                if self.rng.once_in(2) {
                    args.push(self.weight(&[o]));
                }
                self.push(Op::Linear, &args)
            }
            7 => {
                let rank = ty.rank() as u8;
                let swapped = (0..rank.saturating_sub(2)).chain([rank.checked_sub(1)?, rank.checked_sub(2)?]);
                let t = self.push(Op::Permute { order: swapped.collect() }, &[x])?;
                self.push(Op::MatMul, &[x, t[0]])
            }
            8 => {
                let taps = 1 + self.rng.below(4);
                shape.first()?.as_fixed().filter(|c| *c > 0)?;
                let w = self.weight(&[shape[0], Dim::fixed(taps)]);
                self.push(Op::DepthwiseConv { taps }, &[x, w])
            }
            9 | 10 => {
                let mut to = shape.clone();
                match self.rng.below(3) {
                    0 => to.insert(self.rng.below(to.len() as u32 + 1) as usize, Dim::ONE),
                    1 if !to.is_empty() => to.rotate_left(1),
                    1 => {}
                    _ => {
                        let last = to.pop()?;
                        let merged = last.checked_mul(to.pop()?.as_fixed()?)?;
                        to.push(merged);
                    }
                }
                self.push(Op::Reshape { to }, &[x])
            }
            11 => {
                let mut order: Vec<u8> = (0..ty.rank() as u8).collect();
                for i in (1..order.len()).rev() {
                    order.swap(i, self.rng.below(i as u32 + 1) as usize);
                }
                self.push(Op::Permute { order }, &[x])
            }
            12 => {
                let axis = self.axis(x);
                let size = *shape.get(axis as usize)?;
                let to = Dim { base: self.rng.below(size.base + 1), ..size };
                let from = Dim {
                    base: self.rng.below(to.base + 1),
                    ..if self.rng.once_in(2) { to } else { Dim::fixed(0) }
                };
                self.push(Op::Slice { axis, from, to }, &[x])
            }
            13 => {
                let (axis, y) = (self.axis(x), self.like(x));
                self.push(Op::Concat { axis }, &[x, y])
            }
            14 => {
                let size = self.size();
                let to = shape.iter().map(|d| if *d == Dim::ONE { size } else { *d }).collect();
                self.push(Op::Broadcast { to }, &[x])
            }
            15 => {
                let ids = *self.rng.pick(&self.values.clone());
                self.push(Op::Select, &[x, ids])
            }
            16 | 17 => {
                let k = 1 + self.rng.below(last.base.clamp(1, 4));
                let top = self.push(Op::TopK { k }, &[x])?;
                self.push(Op::Gather, &[x, top[1]])
            }
            18 => self.mask(),
            19 | 20 => {
                last.as_fixed().filter(|n| *n > 0)?;
                let w = self.weight(&[last]);
                let eps = self.rng.finite().abs().max(f32::MIN_POSITIVE);
                self.push(Op::RmsNorm { eps }, &[x, w])
            }
            21 => {
                let i = self.size();
                last.as_fixed().filter(|n| *n > 0)?;
                let (gate, up) = (self.weight(&[i, last]), self.weight(&[i, last]));
                self.push(Op::SwiGlu, &[x, gate, up])
            }
            22 => {
                last.as_fixed().filter(|n| (1..=64).contains(n))?;
                let (w, residual) = (self.weight(&[last, last]), self.like(x));
                self.push(Op::LinearAdd, &[x, w, residual])
            }
            23 | 24 => self.moe(x),
            25 => self.conv_gate(x),
            _ => self.attention(x),
        }
    }

    /// The sums of some keys or values, for each query those that it sees.
    fn mask(&mut self) -> Option<Vec<Value>> {
        let is_next = |v: &&Value| matches!(self.b.ty(**v).shape[..], [_, Dim::TOTAL, _]);
        let next = *self.values.iter().rfind(is_next)?;
        let n = self.ty(next).shape[0];
        let mut x = self.push(Op::Cast { to: DType::F32 }, &[next])?[0];
        x = self.push(Op::Sum { axis: 2 }, &[x])?[0];
        x = self.push(Op::Reshape { to: vec![n, Dim::ONE, Dim::TOTAL] }, &[x])?[0];
        x = self.push(Op::Broadcast { to: vec![n, Dim::SEQ, Dim::TOTAL] }, &[x])?[0];
        let window = self.rng.once_in(2).then(|| 1 + self.rng.below(4));
        self.push(Op::CausalMask { window }, &[x])
    }

    fn moe(&mut self, x: Value) -> Option<Vec<Value>> {
        let ty = self.ty(x);
        let h = ty.last()?;
        h.as_fixed().filter(|n| *n > 0)?;
        let (e, i) = (self.size(), self.size());
        let (bias, residual) = (self.rng.once_in(2), self.rng.once_in(2));
        let mut args = vec![x, self.weight(&[e, h])];
        if bias {
            args.push(self.weight(&[e]));
        }
        args.extend([self.weight(&[e, i, h]), self.weight(&[e, i, h]), self.weight(&[e, h, i])]);
        if residual {
            args.push(self.like(x));
        }
        let renorm = self.rng.once_in(2).then(|| self.rng.unit().abs());
        let op =
            Op::Moe { top_k: 1 + self.rng.below(e.base), renorm, scale: self.rng.finite(), bias, residual };
        self.push(op, &args)
    }

    /// A value of rows of tokens, by a linear map.
    fn rows(&mut self, x: Value, width: u32) -> Option<Value> {
        let ty = self.ty(x);
        if self.tail || ty.dtype != DType::F32 || ty.rank() != 2 || ty.shape[0] != Dim::SEQ {
            return None;
        }
        ty.shape[1].as_fixed().filter(|n| *n > 0)?;
        let w = self.weight(&[Dim::fixed(width), ty.shape[1]]);
        Some(self.push(Op::Linear, &[x, w])?[0])
    }

    fn state(&mut self, ty: TensorType, update: Update) -> Value {
        let name = self.name("s");
        self.b.state(name, ty, update)
    }

    fn next(&mut self, state: Value, next: Value) {
        self.leaving.insert(next);
        self.b.next(state, next);
    }

    fn conv_gate(&mut self, x: Value) -> Option<Vec<Value>> {
        let (h, taps) = (self.size(), 1 + self.rng.below(5));
        let bcx = self.rows(x, 3 * h.base)?;
        let mut args = vec![bcx, self.weight(&[h, Dim::fixed(taps)])];
        if self.rng.once_in(2) {
            args.push(self.weight(&[h]));
        }
        let window = self.state(TensorType::f32([h, Dim::fixed(taps - 1)]), Update::Window);
        args.push(window);
        let name = self.name("gate");
        let id = self.b.push(&name, Op::ConvGate { taps }, &args).expect("types that fit");
        self.next(window, Value::Node(id, 1));
        let results = vec![Value::Node(id, 0), Value::Node(id, 1)];
        self.values.extend(&results);
        Some(results)
    }

    fn attention(&mut self, x: Value) -> Option<Vec<Value>> {
        let (kv, half, group) = (self.size(), self.size().base, self.size().base);
        let d = Dim::fixed(2 * half);
        let heads = kv.checked_mul(group)?;
        let mut parts = Vec::new();
        for count in [heads, kv, kv] {
            let rows = self.rows(x, count.base * d.base)?;
            parts.push(self.push(Op::Reshape { to: vec![Dim::SEQ, count, d] }, &[rows])?[0]);
        }
        let data = (0..half).map(|_| self.rng.unit()).collect();
        let inv_freq = self.name("inv_freq");
        let inv_freq = self.b.constant(inv_freq, TensorType::f32([Dim::fixed(half)]), data);
        let table = self.push(Op::RopeTable, &[self.values[1], inv_freq])?;
        parts[0] = self.push(Op::Rope, &[parts[0], table[0], table[1]])?[0];
        let dtype = *self.rng.pick(&[DType::F32, DType::F16]);
        let ty = TensorType::new(dtype, [kv, Dim::PAST, d]);
        let keys = self.state(ty.clone(), Update::Append { axis: 1 });
        let values = self.state(ty, Update::Append { axis: 1 });
        parts.extend([keys, values]);
        let window = self.rng.once_in(2).then(|| 1 + self.rng.below(4));
        let op = Op::Attention { scale: self.rng.unit().abs() + 0.01, window };
        let name = self.name("attend");
        let id = self.b.push(&name, op, &parts).expect("types that fit");
        self.next(keys, Value::Node(id, 1));
        self.next(values, Value::Node(id, 2));
        let results: Vec<Value> = (0..3).map(|out| Value::Node(id, out)).collect();
        self.values.extend(&results);
        Some(results)
    }
}

/// A random graph that passes [`verify`](crate::verify()): all operations may occur, with and without states, and
/// before and after a `LastRow`.
///
/// # Panics
/// Never, unless the generator is broken.
pub fn random_graph(seed: u64) -> Graph {
    let mut maker = Maker {
        rng: Rng::new(seed),
        b: Builder::new("random"),
        values: Vec::new(),
        leaving: BTreeSet::new(),
        ordinal: 0,
        tail: false,
    };
    let m = &mut maker;
    for name in ["tokens", "positions"] {
        let input = m.b.input(name, TensorType::new(DType::I32, [Dim::SEQ]));
        m.values.push(input);
    }
    let width = m.size();
    let table = m.weight(&[Dim::fixed(16), width]);
    m.push(Op::Select, &[table, m.values[0]]).expect("an embedding");
    for _ in 0..m.rng.below(40) {
        m.random();
    }
    let rows: Vec<Value> = m
        .values
        .iter()
        .copied()
        .filter(|v| m.b.ty(*v).dtype == DType::F32 && m.b.ty(*v).shape.first() == Some(&Dim::SEQ))
        .collect();
    let before = m.values.len();
    if m.rng.once_in(2) {
        let x = *m.rng.pick(&rows);
        let all = std::mem::take(&mut m.values);
        m.push(Op::LastRow, &[x]).expect("rows of tokens");
        m.tail = true;
        for _ in 0..m.rng.below(12) {
            m.random();
        }
        m.values.splice(0..0, all);
    }
    let nodes: Vec<Value> = m
        .values
        .iter()
        .enumerate()
        .filter(|(at, v)| {
            matches!(v, Value::Node(..)) && !m.leaving.contains(v) && (*at >= before || *at % 3 == 2)
        })
        .map(|(_, v)| *v)
        .collect();
    for value in nodes {
        m.b.output(value);
    }
    maker.b.finish()
}
