//! The command line: one file for each command, and what they share.

#[cfg(feature = "measure")]
mod bench;
mod chat;
mod check;
mod error;
mod generate;
mod info;
mod interrupt;
mod logits;
mod model;
mod output;
mod perplexity;
#[cfg(feature = "measure")]
mod profile;
mod sampling;
mod session;
mod tokenize;
mod words;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::Result;

/// Runs bundles made by `lfmc export`.
#[derive(Debug, Parser)]
#[command(name = "lfm-run", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a completion
    Generate(generate::Options),
    /// Hold a conversation
    Chat(chat::Options),
    /// Compute logits, their digest and the chosen experts
    Logits(logits::Options),
    /// Score a text, and compare with another bundle
    Perplexity(perplexity::Options),
    /// Turn text or a chat into token ids
    Tokenize(tokenize::Options),
    /// Describe this machine and what a bundle needs
    Info(info::Options),
    /// Compare golden vectors, bit for bit
    Check(check::Options),
    /// Measure speed
    #[cfg(feature = "measure")]
    Bench(bench::Options),
    /// Measure where the time goes, by operation and by layer
    #[cfg(feature = "measure")]
    Profile(profile::Options),
}

/// What a command that could run has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// It is done.
    Done,
    /// The answer is no.
    No,
}

/// Exit code of a command that could not run.
const COULD_NOT_RUN: u8 = 2;

/// Runs the command line that this process was given.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            // A closed output is no reason to fail.
            let _ = message.print();
            return if message.use_stderr() { ExitCode::from(COULD_NOT_RUN) } else { ExitCode::SUCCESS };
        }
    };
    // Without it, a bundle that is cut in the middle of a pass ends the program, and nothing else is lost.
    let _ = lfm_runtime::model::handle_bus_errors();
    match run(arguments.command) {
        Ok(Exit::Done) => ExitCode::SUCCESS,
        Ok(Exit::No) => ExitCode::from(1),
        Err(error) if error.is_closed_output() => ExitCode::SUCCESS,
        Err(error) => {
            output::report(&error);
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}

fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Generate(options) => generate::run(&options),
        Command::Chat(options) => chat::run(&options),
        Command::Logits(options) => logits::run(&options),
        Command::Perplexity(options) => perplexity::run(&options),
        Command::Tokenize(options) => tokenize::run(&options),
        Command::Info(options) => info::run(&options),
        Command::Check(options) => check::run(&options),
        #[cfg(feature = "measure")]
        Command::Bench(options) => bench::run(&options),
        #[cfg(feature = "measure")]
        Command::Profile(options) => profile::run(&options),
    }
}
