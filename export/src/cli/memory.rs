//! The memory table of a bundle, for people and as JSON.

use lfm_export::bundle::MemoryTable;
use lfm_graphs::plan::Plan;
use lfm_graphs::target::ByteSize;
use serde_json::{Value, json};

/// One line for each part that is not empty, then the sum.
pub(super) fn lines(table: &MemoryTable) -> Vec<String> {
    let size = |bytes: u64| ByteSize(bytes).approx();
    let line = |name: &str, bytes: u64| format!("  {name:<18} {:>11}", size(bytes));
    let parts = table.parts().into_iter().filter(|(_, _, bytes)| *bytes > 0);
    let mut lines: Vec<String> = parts.map(|(_, name, bytes)| line(name, bytes)).collect();
    lines.push(match table.budget {
        Some(budget) => format!("{} of {}", line("total", table.total), size(budget)),
        None => line("total", table.total),
    });
    if table.paged > 0 {
        lines.insert(1, format!("{}, read when they are needed", line("weights in the file", table.paged)));
        let least = table.least.map_or(String::new(), |least| format!(", and run from {} on", size(least)));
        lines.push(format!("  experts are paged: all weights would need more than the budget{least}"));
    }
    lines
}

/// All figures, in bytes.
pub(super) fn json(table: &MemoryTable, plan: &Plan) -> Value {
    let memory = &plan.memory;
    let mut object = json!({
        "weights": memory.weights,
        "states": memory.states,
        "arena": memory.arena,
        "program": memory.overhead,
        "total": table.total,
        "paged": table.paged,
    });
    if let Some(object) = object.as_object_mut() {
        for (name, _, bytes) in table.parts() {
            object.insert(name.to_owned(), bytes.into());
        }
        object.insert("budget".to_owned(), table.budget.into());
        object.insert("least".to_owned(), table.least.into());
    }
    object
}
