//! `lfmc targets`.

use std::io::Write;

use lfm_graphs::target::{ByteSize, Target};

use super::args::TargetsArgs;
use super::{Exit, Outcome};

pub(super) fn run(args: &TargetsArgs) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    if let Some(name) = &args.name {
        let target = Target::builtin(name)?;
        let about = Target::about(name).unwrap_or_default();
        writeln!(stdout, "// {about}\n{}", target.text().trim_end())?;
        return Ok(Exit::Done);
    }
    writeln!(
        stdout,
        "{:<20} {:<17} {:>5} {:>8} {:>7} {:>5} weights for",
        "name", "isa", "cores", "ram", "context", "chunk"
    )?;
    for target in Target::builtins() {
        let ram = target.ram.map_or("-".into(), |ByteSize(bytes)| ByteSize(bytes).to_string());
        writeln!(
            stdout,
            "{:<20} {:<17} {:>5} {:>8} {:>7} {:>5} {:<7} {}",
            target.name,
            target.isa,
            target.cores,
            ram,
            target.context,
            target.chunk,
            target.weights,
            Target::about(&target.name).unwrap_or_default()
        )?;
    }
    Ok(Exit::Done)
}
