//! `lfmc verify`: everything that can be proved about a bundle.

use std::io::Write;

use lfm_runtime::{Model, Options, golden};

use super::args::VerifyArgs;
use super::{Exit, Outcome, output};

pub(super) fn run(args: &VerifyArgs) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    // What cannot be opened is no bundle to answer about: that is an error, not a no.
    let model = Model::open(&args.bundle)?;
    writeln!(stdout, "ok  header, sections and their hashes")?;
    writeln!(stdout, "ok  graph: {} nodes pass the verifier", model.graph().nodes().len())?;
    writeln!(
        stdout,
        "ok  plan: no two live buffers overlap, {} in all",
        output::size(model.plan().memory.total)
    )?;
    let bar = output::bytes_bar("hashing weights");
    let hashed = model.verify_weights(|done, all| {
        bar.set_length(all);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    if let Err(error) = hashed {
        return no(&mut stdout, &error);
    }
    writeln!(stdout, "ok  weights: {} match their hash", output::size(model.plan().memory.weights))?;
    let Some(golden) = model.golden()? else {
        writeln!(stdout, "--  golden vectors: there are none")?;
        return Ok(Exit::Done);
    };
    let faults = golden::check(&model, &Options::default(), &golden)?;
    for fault in &faults {
        writeln!(stdout, "NO  golden vectors: {fault}")?;
    }
    if faults.is_empty() {
        writeln!(stdout, "ok  golden vectors: {} runs, bit for bit", golden.vectors.len())?;
        Ok(Exit::Done)
    } else {
        Ok(Exit::No)
    }
}

fn no(stdout: &mut impl Write, error: &(dyn std::error::Error + 'static)) -> Outcome {
    write!(stdout, "NO  {error}")?;
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(stdout, ": {error}")?;
        cause = error.source();
    }
    writeln!(stdout)?;
    Ok(Exit::No)
}
