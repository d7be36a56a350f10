//! Fuses rotary position embedding: one table of the positions for all, one `Rope` for each turned value.
//!
//! ```text
//! $positions ─ cast ─ reshape ─ mul #f ─┬─ cos ─ reshape [seq, 1, d] ─ cos        $positions ─ rope_table #inv_freq ─ cos, sin
//!                                       └─ sin ─ reshape [seq, 1, d] ─ sin
//! x ─┬─ slice ..d  = l       l · cos - h · sin ─┐                                  x ─ rope cos, sin ─ y
//!    └─ slice d..  = h       h · cos + l · sin ─ concat ─ y
//! ```
//!
//! Does not fire when the halves are not those of the last axis, when the pairs turn the other way, or when
//! something between x and y has another reader.
//! Right because `RopeTable` and `Rope` expand to the left side.

use std::collections::BTreeMap;

use lfm_graphs::graph::Value;
use lfm_graphs::{BuildError, DType, Dim, Graph, Op, TensorType};

use super::pattern::{Fused, Matcher, fuse};
use super::{Miss, Outcome, Pass};

/// See the file.
#[derive(Debug)]
pub struct FuseRope;

/// A turned value.
struct Turn {
    x: Value,
    table: Table,
}

/// Where cosines and sines come from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Table {
    /// They are computed from positions and frequencies.
    Made { positions: Value, inv_freq: Value },
    /// A `RopeTable` stands there already.
    Fused { cos: Value, sin: Value },
}

impl Pass for FuseRope {
    fn name(&self) -> &'static str {
        "fuse-rope"
    }

    fn run(&self, graph: &Graph) -> Result<Outcome, BuildError> {
        let mut tables = BTreeMap::<Table, [Value; 2]>::new();
        fuse(graph, find, |new, _, found| {
            let [cos, sin] = match (found.table, tables.get(&found.table)) {
                (_, Some(table)) => *table,
                (Table::Fused { cos, sin }, None) => [new.map(cos), new.map(sin)],
                (Table::Made { positions, inv_freq }, None) => {
                    let Value::Const(id) = inv_freq else { return Ok(Fused::from(new.map(found.x))) };
                    let literal = &graph.consts()[id];
                    let ty = TensorType::f32([Dim::fixed(literal.data.len() as u32)]);
                    let inv_freq = new.constant("inv_freq", ty, literal.data.clone());
                    let table = new.push("rope", Op::RopeTable, &[positions, inv_freq])?;
                    [Value::Node(table, 0), Value::Node(table, 1)]
                }
            };
            tables.insert(found.table, [cos, sin]);
            let of = graph.producer(found.x).map_or("rope", |node| node.name.as_str());
            let name = match of.strip_suffix("_norm") {
                Some(stem) => format!("{stem}_rope"),
                None => format!("{of}.rope"),
            };
            let x = new.map(found.x);
            Ok(Fused::from(new.node(&name, Op::Rope, &[x, cos, sin])?))
        })
    }
}

fn find(m: &mut Matcher<'_, '_>) -> Result<Option<Turn>, Miss> {
    let node = m.node();
    let (Op::Concat { axis: 2 }, [low, high]) = (&node.op, node.args.as_slice()) else { return Ok(None) };
    let Some(parts) = m.attempt(|m| {
        let difference = m.binary(*low, |op| matches!(op, Op::Sub))?;
        let sum = m.binary(*high, |op| matches!(op, Op::Add))?;
        let mul = |op: &Op| matches!(op, Op::Mul);
        let [a, b] = [m.binary(difference[0], mul)?, m.binary(difference[1], mul)?];
        let [c, d] = [m.binary(sum[0], mul)?, m.binary(sum[1], mul)?];
        Some([a, b, c, d])
    }) else {
        return Ok(None);
    };
    let slice = |value: Value| match m.view.graph.producer(value).map(|node| (&node.op, node.args.as_slice()))
    {
        Some((Op::Slice { axis: 2, from, to }, [x])) => Some((value, *x, *from, *to)),
        _ => None,
    };
    // (half, factor) of every product, whatever its order.
    let split = |[a, b]: [Value; 2]| match (slice(a), slice(b)) {
        (Some(half), _) => Some((half, b)),
        (None, Some(half)) => Some((half, a)),
        (None, None) => None,
    };
    let [Some((low, cos)), Some((high, sin)), Some(third), Some(fourth)] = parts.map(split) else {
        return m.miss("a factor is no half of the last axis");
    };
    let straight = (third, fourth) == ((high, cos), (low, sin));
    let crossed = (third, fourth) == ((low, sin), (high, cos));
    if !(straight || crossed) {
        return m.miss("the four products are not low·cos - high·sin and high·cos + low·sin");
    }
    let x = low.1;
    let shape = m.shape(x);
    let halves = match (shape, low.3.as_fixed()) {
        ([seq, _, width], Some(d)) => {
            *seq == Dim::SEQ
                && high.1 == x
                && (low.2, high.2, high.3) == (Dim::fixed(0), low.3, *width)
                && d.checked_mul(2).map(Dim::fixed) == Some(*width)
        }
        _ => false,
    };
    if !halves {
        return m.miss("the slices are not the halves of the last axis of [seq, heads, width]");
    }
    for half in [low.0, high.0] {
        m.take(half, |_| true);
    }
    // Cosines and sines are shared by all turned values, so they are looked at but not taken.
    let Some(table) = table(m, cos, sin) else {
        return m.miss("the factors are no cosines and sines of positions times frequencies");
    };
    m.closed(&[])?;
    Ok(Some(Turn { x, table }))
}

fn table(m: &Matcher<'_, '_>, cos: Value, sin: Value) -> Option<Table> {
    let graph = m.view.graph;
    let arg = |value: Value, fits: fn(&Op) -> bool| {
        let node = graph.producer(value).filter(|node| fits(&node.op))?;
        Some((node, node.args.first().copied()?))
    };
    let reshape: fn(&Op) -> bool = |op| matches!(op, Op::Reshape { .. });
    let columns = |value: Value| match (m.shape(value), arg(value, reshape)) {
        ([Dim::SEQ, Dim::ONE, d], Some((_, inner))) if m.shape(inner) == [Dim::SEQ, *d] => Some(inner),
        _ => None,
    };
    let [cos, sin] = [columns(cos)?, columns(sin)?];
    if let (Value::Node(a, 0), Value::Node(b, 1)) = (cos, sin)
        && a == b
        && matches!(graph.nodes()[a].op, Op::RopeTable)
    {
        return Some(Table::Fused { cos, sin });
    }
    let (_, angle) = arg(cos, |op| matches!(op, Op::Cos))?;
    let (_, same) = arg(sin, |op| matches!(op, Op::Sin))?;
    let (product, _) = arg(angle, |op| matches!(op, Op::Mul)).filter(|_| angle == same)?;
    let [a, b] = <[Value; 2]>::try_from(product.args.as_slice()).ok()?;
    let (column, inv_freq) = if matches!(b, Value::Const(_)) { (a, b) } else { (b, a) };
    let (_, float) = arg(column, reshape).filter(|_| m.shape(column) == [Dim::SEQ, Dim::ONE])?;
    let (_, positions) = arg(float, |op| matches!(op, Op::Cast { to: DType::F32 }))?;
    let fits = matches!(positions, Value::Input(_)) && matches!(inv_freq, Value::Const(_));
    (fits && m.shape(positions) == [Dim::SEQ]).then_some(Table::Made { positions, inv_freq })
}
