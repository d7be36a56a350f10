//! Products with a weight become `Linear` on a matrix in [out, in] order, its bias included.
//!
//! ```text
//! x ─ matmul %w [in, out] ─ add %b        x ─ linear %w [out, in] (transposed), %b
//! x ─ matmul (%w [out, in] ─ permute)     x ─ linear %w
//! x ─ linear (%w [in, out] ─ permute)     x ─ linear %w [out, in] (transposed)
//! ```
//!
//! Does not fire when a matrix in [in, out] order is read otherwise too: it would have to be kept twice.
//! Right because `Linear` is defined as `x · wᵀ + b`; a weight declared as transposed holds the parameter with its
//! two axes exchanged.

use lfm_graphs::graph::{Value, Weight};
use lfm_graphs::{BuildError, Dim, Graph, Op, TensorType};

use super::pattern::{Fused, Matcher, fuse, is_weight, weight_stem};
use super::{Miss, Outcome, Pass};

/// See the file.
#[derive(Debug)]
pub struct FuseLinear;

impl Pass for FuseLinear {
    fn name(&self) -> &'static str {
        "fuse-linear"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        let products = fuse(graph, product, |new, node, found| {
            let weight = match found.transposed {
                false => new.map(found.weight),
                true => {
                    let Value::Weight(id) = found.weight else {
                        return Ok(Fused::from(new.map(found.weight)));
                    };
                    let weight = graph.weights()[id].clone();
                    new.weight(exchanged(weight))
                }
            };
            let mut args = vec![new.map(found.x), weight];
            args.extend(node.args.iter().skip(2).map(|bias| new.map(*bias)));
            let name = if found.is_output { "head".to_owned() } else { weight_stem(graph, found.weight) };
            Ok(Fused::from(new.node(&name, Op::Linear, &args)?))
        })?;
        let biased = fuse(&products.graph, bias, |new, _, [linear, bias]| {
            let Value::Node(id, _) = *linear else { return Ok(Fused::from(new.map(*linear))) };
            let linear = &new.old().nodes()[id];
            let args = [linear.args[0], linear.args[1], *bias].map(|arg| new.map(arg));
            Ok(Fused::from(new.node(&linear.name, Op::Linear, &args)?))
        })?;
        let misses = [products.misses, biased.misses].concat();
        Ok(Outcome { graph: biased.graph, fired: products.fired + biased.fired, misses })
    }
}

/// A product with a weight.
struct Product {
    x: Value,
    weight: Value,
    transposed: bool,
    is_output: bool,
}

fn exchanged(weight: Weight) -> Weight {
    let mut shape = weight.ty.shape.clone();
    let last = shape.len().saturating_sub(1);
    shape.swap(last.saturating_sub(1), last);
    Weight { ty: TensorType::f32(shape), transposed: !weight.transposed, ..weight }
}

fn product(m: &mut Matcher<'_, '_>) -> Result<Option<Product>, Miss> {
    let node = m.node();
    let graph = m.view.graph;
    let is_output = graph.outputs().contains(&Value::Node(m.root, 0));
    let [x, w] = match (&node.op, node.args.as_slice()) {
        (Op::MatMul, [x, w]) => [*x, *w],
        // Only a linear whose matrix is turned before use has something to gain.
        (Op::Linear, [x, w, ..]) if !is_weight(graph, *w, 2) => [*x, *w],
        _ => return Ok(None),
    };
    let turned = m.attempt(|m| {
        let inner = m.unary(w, |op| matches!(op, Op::Permute { order } if *order == [1, 0]))?;
        is_weight(graph, inner, 2).then_some(inner)
    });
    let plain = matches!(node.op, Op::MatMul);
    let (weight, transposed) = match turned {
        Some(inner) => (inner, !plain),
        None if plain && is_weight(graph, w, 2) => (w, true),
        None => return Ok(None),
    };
    if transposed {
        let same_use = |id: &lfm_graphs::id::NodeId| {
            let reader = &graph.nodes()[*id];
            let turned = matches!(&reader.op, Op::Permute { order } if *order == [1, 0]);
            if plain { matches!(reader.op, Op::MatMul) && reader.args[1] == weight } else { turned }
        };
        if let Some(by) = m.readers(weight).iter().find(|id| !same_use(id)) {
            let (at, value, by) = (m.view.name(m.root), graph.value_name(weight), m.view.name(*by));
            return Err(Miss::Shared { at, value, by });
        }
    }
    Ok(Some(Product { x, weight, transposed, is_output }))
}

/// `add(linear(x, w), b)`: the linear and the bias.
fn bias(m: &mut Matcher<'_, '_>) -> Result<Option<[Value; 2]>, Miss> {
    let node = m.node();
    let (Op::Add, [a, b]) = (&node.op, node.args.as_slice()) else { return Ok(None) };
    let graph = m.view.graph;
    let found = m.either([*a, *b], |m, product, bias| {
        let linear = m.take(product, |op| matches!(op, Op::Linear))?;
        let width: Option<Dim> = m.ty(product)?.last();
        let fits = linear.args.len() == 2 && is_weight(graph, bias, 1) && m.ty(bias)?.last() == width;
        fits.then_some([product, bias])
    });
    let Some(found) = found else { return Ok(None) };
    m.closed(&[])?;
    Ok(Some(found))
}
