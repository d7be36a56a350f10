//! The command line: arguments, exit codes, errors.
//!
//! Data goes to stdout, everything else to stderr. Exit 0: done; 1: the answer is no; 2: could not run.

mod args;
mod compare;
mod demo;
mod diff;
mod export;
mod graph;
mod inspect;
mod memory;
mod output;
mod picture;
mod retarget;
mod sign;
mod targets;
mod verify;

use std::error::Error;
use std::io;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It did what it was asked.
    Done,
    /// It ran, and the answer is no.
    No,
    /// It could not run.
    CouldNot,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::No => 1,
            Exit::CouldNot => 2,
        })
    }
}

/// The result of a command.
pub(crate) type Outcome = Result<Exit, Box<dyn Error>>;

pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    // Without it, a bundle that is cut while it is read ends the program, and nothing else is lost.
    let _ = lfm_runtime::model::handle_bus_errors();
    let outcome = match cli.command {
        Command::Demo(options) => demo::run(&options),
        Command::Export(options) => export::run(&options),
        Command::Graph(options) => graph::run(&options),
        Command::Inspect(options) => inspect::run(&options),
        Command::Diff(options) => diff::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::Retarget(options) => retarget::run(&options),
        Command::Keygen(options) => sign::keygen(&options),
        Command::Sign(options) => sign::sign(&options),
        Command::Verify(options) => verify::run(&options),
        Command::Targets(options) => targets::run(&options),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(error) if is_broken_pipe(&*error) => Exit::Done.into(),
        Err(error) => {
            output::error(&*error);
            Exit::CouldNot.into()
        }
    }
}

/// Whether the reader of stdout has gone, which is its right.
fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
            return true;
        }
        next = error.source();
    }
    false
}
