//! The list of operations as text, for people: `lfmc graph --stage captured`.

use std::fmt;

use super::ops::{Captured, Element, Kind, ValueId};

impl<N: fmt::Display> Captured<N> {
    fn typed(&self, f: &mut fmt::Formatter<'_>, id: ValueId) -> fmt::Result {
        write!(f, "v{id}")?;
        let Some(value) = self.values.get(id) else { return Ok(()) };
        let element = match value.element {
            Element::Float => "float",
            Element::Int => "int",
            Element::Bool => "bool",
        };
        let shape: Vec<String> = value.shape.iter().map(ToString::to_string).collect();
        write!(f, ": {element}[{}]", shape.join(", "))
    }
}

/// One line an input, parameter, literal, state and operation. For reading only: it is not parsed.
impl<N: fmt::Display + fmt::Debug> fmt::Display for Captured<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model {}", self.model)?;
        for input in &self.inputs {
            write!(f, "input ${} = ", input.name)?;
            self.typed(f, input.value)?;
            writeln!(f)?;
        }
        for param in &self.params {
            write!(f, "param %{} = ", param.path)?;
            self.typed(f, param.value)?;
            writeln!(f)?;
        }
        for literal in &self.literals {
            write!(f, "literal ")?;
            self.typed(f, literal.value)?;
            writeln!(f)?;
        }
        for state in &self.states {
            write!(f, "state @{} = ", state.name)?;
            self.typed(f, state.value)?;
            writeln!(f, " -> v{} {:?}", state.next, state.update)?;
        }
        for op in &self.ops {
            for (i, out) in op.outputs.iter().enumerate() {
                f.write_str(if i > 0 { ", " } else { "" })?;
                self.typed(f, *out)?;
            }
            let inputs: Vec<String> = op.inputs.iter().map(|v| format!("v{v}")).collect();
            write!(f, " = {}({})", op.kind.name(), inputs.join(", "))?;
            match &op.kind {
                Kind::Slice { ranges } => {
                    let ranges: Vec<String> =
                        ranges.iter().map(|(from, to)| format!("{from}..{to}")).collect();
                    write!(f, " [{}]", ranges.join(", "))?;
                }
                Kind::AddScalar(by)
                | Kind::SubScalar(by)
                | Kind::MulScalar(by)
                | Kind::DivScalar(by)
                | Kind::PowScalar(by)
                | Kind::Fill(by) => write!(f, " {by}")?,
                Kind::Softmax { axis }
                | Kind::MeanDim { axis }
                | Kind::SumDim { axis }
                | Kind::RepeatDim { axis }
                | Kind::Cat { axis }
                | Kind::Select { axis }
                | Kind::Gather { axis } => write!(f, " axis {axis}")?,
                Kind::TopKWithIndices { axis, k } => write!(f, " axis {axis} k {k}")?,
                Kind::SwapDims { a, b } => write!(f, " {a} {b}")?,
                Kind::Permute { order } => write!(f, " {order:?}")?,
                Kind::Conv1d { stride, padding, dilation, groups } => {
                    write!(f, " stride {stride} padding {padding:?} dilation {dilation} groups {groups}")?;
                }
                Kind::Attention { scale, causal, extras } => {
                    write!(
                        f,
                        " scale {scale:?} causal {causal}{}",
                        if *extras { " with mask, bias or cap" } else { "" }
                    )?;
                }
                Kind::Add
                | Kind::Sub
                | Kind::Mul
                | Kind::Div
                | Kind::Neg
                | Kind::Recip
                | Kind::Sqrt
                | Kind::Sin
                | Kind::Cos
                | Kind::Sigmoid
                | Kind::Cast
                | Kind::Matmul
                | Kind::Linear
                | Kind::Embedding
                | Kind::Reshape
                | Kind::Expand
                | Kind::Empty
                | Kind::Other(_) => {}
            }
            writeln!(f)?;
        }
        let outputs: Vec<String> = self.outputs.iter().map(|v| format!("v{v}")).collect();
        writeln!(f, "outputs {}", outputs.join(", "))
    }
}
