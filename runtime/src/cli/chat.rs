//! `lfm-run chat`: a conversation, line by line.

use clap::Args;

use super::Exit;
use super::error::Result;
use super::model::{BundleArgument, RunOptions};
use super::sampling::SamplingOptions;

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    bundle: BundleArgument,
    /// What the model is told first
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    system: Option<String>,
    /// Most tokens of an answer [default: 512, or what fits]
    #[arg(short, value_name = "N")]
    n: Option<usize>,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    run: RunOptions,
}

#[cfg(not(feature = "text"))]
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let Options { bundle: BundleArgument { bundle: _ }, system: _, n: _, sampling: _, run: _ } = options;
    Err(super::error::CliError::NoText { what: "chat" })
}

#[cfg(feature = "text")]
pub(crate) use conversation::run;

#[cfg(feature = "text")]
mod conversation {
    use std::io::{self, BufRead, IsTerminal, Write};

    use lfm_runtime::sample::Sampler;
    use lfm_runtime::text::{ChatRequest, Detokenizer, Text};
    use lfm_runtime::{Finish, Generation, Limits, Session};

    use super::{Exit, Options, Result};
    use crate::cli::error::CliError;
    use crate::cli::generate::TOKENS;
    use crate::cli::interrupt::{self, Answer};
    use crate::cli::output;

    /// A conversation and what the session has taken in of it.
    struct Conversation<'a> {
        text: &'a Text,
        session: Session,
        sampler: Sampler,
        /// Most tokens of an answer.
        tokens: usize,
        request: ChatRequest,
        /// Ids that the session has taken in.
        taken: Vec<u32>,
    }

    pub(crate) fn run(options: &Options) -> Result<Exit> {
        let (session, (text, defaults), _) = options
            .run
            .start(&options.bundle.bundle, |model| Ok((model.text()?, model.generation_defaults()?)))?;
        if text.template.is_none() {
            return Err(CliError::argument(
                "the bundle has no chat template, expected one for a conversation",
            ));
        }
        let settings = options.sampling.settings(&defaults.settings);
        let sampler = Sampler::new(settings, session.model().vocab()).map_err(lfm_runtime::Error::from)?;
        let first = || match &options.system {
            Some(system) => ChatRequest::new().message("system", system),
            None => ChatRequest::new(),
        };
        let tokens = options.n.unwrap_or(TOKENS);
        let mut conversation =
            Conversation { text: &text, session, sampler, tokens, request: first(), taken: Vec::new() };

        interrupt::install()?;
        let interactive = io::stdin().is_terminal();
        if interactive {
            output::note("/reset starts again, /exit or Ctrl-D ends, Ctrl-C ends an answer");
        }
        let mut lines = io::stdin().lock();
        let mut line = String::new();
        loop {
            if interactive {
                let mut err = io::stderr().lock();
                let _ = write!(err, "> ").and_then(|()| err.flush());
            }
            line.clear();
            if lines.read_line(&mut line).map_err(CliError::Input)? == 0 {
                if interactive {
                    output::note("");
                }
                return Ok(Exit::Done);
            }
            match line.trim() {
                "" => {}
                "/exit" => return Ok(Exit::Done),
                "/reset" => conversation.request = first(),
                message => match conversation.answer(message) {
                    Ok(()) => {}
                    Err(error @ CliError::Runtime(lfm_runtime::Error::ContextFull { .. })) => {
                        output::report(&error);
                        output::note("the message is left out; /reset starts again");
                    }
                    Err(error) => return Err(error),
                },
            }
        }
    }

    impl Conversation<'_> {
        /// Writes the answer to a message. Where that fails, the message has not been said.
        fn answer(&mut self, message: &str) -> Result<()> {
            let said = self.request.messages.len();
            self.request.push("user", message);
            let answer = self.write();
            match &answer {
                Ok(answer) => self.request.push("assistant", answer),
                Err(_) => self.request.messages.truncate(said),
            }
            answer.map(drop)
        }

        fn write(&mut self) -> Result<String> {
            let ids = self.text.encode_chat(&self.request)?;
            // What the session holds is of use if the conversation begins with it, as it does unless the
            // tokenizer divides the answer's text in another way than the model did.
            if ids.len() <= self.taken.len() || !ids.starts_with(&self.taken) {
                self.session.clear();
                self.taken.clear();
            }
            let room = self.session.context() - self.session.past();
            let pending = ids.len() - self.taken.len();
            if pending > room {
                let (past, context) = (self.session.past(), self.session.context());
                return Err(lfm_runtime::Error::ContextFull { past, wanted: pending, context }.into());
            }
            let guard = Answer::start();
            let stop = self.text.eos();
            let limits = Limits { tokens: Some(self.tokens), stop, cancel: Some(guard.cancel()) };
            let mut stream = Detokenizer::new(true);
            let mut answer = String::new();
            // Should anything fail on the way, nothing is known about what the session holds.
            self.taken.clear();
            let mut generation = Generation::new(&mut self.session, &mut self.sampler, ids, pending, limits);
            let mut written = Ok(());
            for id in generation.by_ref() {
                let piece = stream.push(&self.text.tokenizer, id?);
                answer.push_str(piece);
                written = output::write(piece);
                if written.is_err() {
                    break;
                }
            }
            let rest = stream.finish();
            answer.push_str(rest);
            let finish = generation.finish();
            let (mut history, pending) = generation.into_history();
            history.truncate(history.len() - pending);
            self.taken = history;
            written.and_then(|()| output::write(&format!("{rest}\n")))?;
            match finish {
                Some(Finish::Length) => output::note("(the answer is cut: as long as -n allows)"),
                Some(Finish::Context) => output::note("(the answer is cut: the context is full)"),
                Some(Finish::Stop | Finish::Cancelled) | None => {}
            }
            Ok(answer)
        }
    }
}
