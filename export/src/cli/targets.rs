//! `lfmc targets`.

use std::io::Write;

use lfm_graphs::target::{ByteSize, Target};

use super::args::TargetsArgs;
use super::{Exit, Outcome};

pub(super) fn run(args: &TargetsArgs) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    if let Some(name) = &args.name {
        stdout.write_all(Target::builtin(name)?.text().as_bytes())?;
        return Ok(Exit::Done);
    }
    writeln!(
        stdout,
        "{:<20} {:<20} {:>5} {:>8} {:>8} {:>6} weights",
        "name", "isa", "cores", "ram", "context", "chunk"
    )?;
    for target in Target::builtins() {
        let ram = target.ram.map_or("-".into(), |ByteSize(bytes)| ByteSize(bytes).to_string());
        writeln!(
            stdout,
            "{:<20} {:<20} {:>5} {:>8} {:>8} {:>6} {}",
            target.name, target.isa, target.cores, ram, target.context, target.chunk, target.weights
        )?;
    }
    Ok(Exit::Done)
}
