//! Plan ↔ canonical RON text: one weight, state or buffer a line.

use std::fmt::Write as _;

use serde::Deserialize;

use super::{Buffer, Memory, Plan, StateSlot, WeightSlot};
use crate::text::line;

/// The version of the text form.
pub const FORMAT: u32 = 1;
/// Largest text that is read, in bytes.
pub const MAX_TEXT: usize = 32 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanText {
    format: u32,
    chunk: u32,
    context: u32,
    head_rows: u32,
    memory: Memory,
    weights: Vec<WeightSlot>,
    states: Vec<StateSlot>,
    buffers: Vec<Buffer>,
}

/// Why a text is no plan. `line` and `column` count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("plan text, line {line}, column {column}: {message}")]
pub struct PlanTextError {
    /// Line of the fault.
    pub line: usize,
    /// Column of the fault.
    pub column: usize,
    /// What was found and expected.
    pub message: String,
}

impl Plan {
    /// The canonical text.
    pub fn text(&self) -> String {
        let Plan { chunk, context, head_rows, memory, weights, states, buffers } = self;
        let mut text = format!("(\n    format: {FORMAT},\n    chunk: {chunk},\n    context: {context},\n");
        let _ = writeln!(text, "    head_rows: {head_rows},\n    memory: {},", line(memory));
        section(&mut text, "weights", weights);
        section(&mut text, "states", states);
        section(&mut text, "buffers", buffers);
        text.push_str(")\n");
        text
    }

    /// Parses text. What it says may be nonsense; [`verify_plan`](super::verify_plan) finds that.
    pub fn parse(text: &str) -> Result<Plan, PlanTextError> {
        if text.len() > MAX_TEXT {
            let message = format!("the text has {} bytes, at most {MAX_TEXT} are read", text.len());
            return Err(PlanTextError { line: 1, column: 1, message });
        }
        let parsed: PlanText = ron::from_str(text).map_err(|e| PlanTextError {
            line: e.span.start.line,
            column: e.span.start.col,
            message: e.code.to_string(),
        })?;
        let PlanText { format, chunk, context, head_rows, memory, weights, states, buffers } = parsed;
        if format != FORMAT {
            let message = format!("the text has format {format}, this version reads format {FORMAT}");
            return Err(PlanTextError { line: 1, column: 1, message });
        }
        Ok(Plan { chunk, context, head_rows, memory, weights, states, buffers })
    }
}

fn section<T: serde::Serialize>(text: &mut String, name: &str, items: &[T]) {
    let _ = writeln!(text, "    {name}: [");
    for item in items {
        let _ = writeln!(text, "        {},", line(item));
    }
    text.push_str("    ],\n");
}
