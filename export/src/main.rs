//! `lfmc`: compiles LFM2 checkpoints into bundles.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
