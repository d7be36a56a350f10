//! `lfm-run chat`: a conversation, line by line.

use clap::Args;

use super::Exit;
use super::error::Result;
use super::model::{BundleArgument, RunOptions};
use super::sampling::SamplingOptions;
use super::session::SessionOptions;

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
    session: SessionOptions,
    #[command(flatten)]
    run: RunOptions,
}

#[cfg(not(feature = "text"))]
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let Options { bundle: BundleArgument { bundle: _ }, system: _, n: _, sampling: _, session: _, run: _ } =
        options;
    Err(super::error::CliError::NoText { what: "chat" })
}

#[cfg(feature = "text")]
pub(crate) use conversation::run;

#[cfg(feature = "text")]
mod conversation {
    use std::io::{self, BufRead, IsTerminal, Write};

    use lfm_runtime::sample::Sampler;
    use lfm_runtime::text::{ChatRequest, Detokenizer, Json, Text};
    use lfm_runtime::{Finish, Generation, Limits, Session};
    use serde::Serialize;

    use super::{Exit, Options, Result};
    use crate::cli::error::CliError;
    use crate::cli::generate::TOKENS;
    use crate::cli::interrupt::{self, Answer};
    use crate::cli::output;

    /// A conversation and the session that it is held in.
    struct Conversation<'a> {
        text: &'a Text,
        session: Session,
        sampler: Sampler,
        /// Most tokens of an answer.
        tokens: usize,
        request: ChatRequest,
    }

    /// A message as it is kept with a session.
    #[derive(Serialize)]
    struct Kept<'a> {
        role: &'a str,
        content: &'a str,
    }

    /// What is kept with a session: what [`ChatRequest::from_json`] reads.
    #[derive(Serialize)]
    struct Note<'a> {
        messages: Vec<Kept<'a>>,
    }

    pub(crate) fn run(options: &Options) -> Result<Exit> {
        let (mut session, (text, defaults), _) = options
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
        let note = options.session.restore(&mut session)?;
        let mut request = first();
        if !note.is_empty() {
            request.messages = ChatRequest::from_json(&String::from_utf8_lossy(&note))?.messages;
            let said = request.messages.len();
            output::note(&format!("a conversation of {said} messages goes on; /reset starts again"));
        }
        let tokens = options.n.unwrap_or(TOKENS);
        let mut conversation = Conversation { text: &text, session, sampler, tokens, request };

        interrupt::install()?;
        let interactive = io::stdin().is_terminal();
        if interactive {
            output::note(
                "/retry answers again, /undo takes the last message back, /reset starts again, /exit or Ctrl-D ends, \
                 Ctrl-C ends an answer",
            );
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
            let done = match line.trim() {
                "" => continue,
                "/exit" => return Ok(Exit::Done),
                "/reset" => {
                    conversation.request = first();
                    Ok(())
                }
                "/undo" => {
                    conversation.undo();
                    Ok(())
                }
                "/retry" => conversation.retry(),
                message => conversation.answer(message),
            };
            match done {
                Ok(()) => {}
                Err(error @ CliError::Runtime(lfm_runtime::Error::ContextFull { .. })) => {
                    output::report(&error);
                    output::note("the message is left out; /reset starts again");
                    continue;
                }
                Err(error) => return Err(error),
            }
            if options.session.wanted() {
                let note = conversation.note();
                options.session.save(&mut conversation.session, &note)?;
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

        /// Answers the last message again.
        fn retry(&mut self) -> Result<()> {
            let said = self.request.messages.iter().rfind(|message| text(message, "role") == "user");
            match said.map(|message| text(message, "content").to_owned()) {
                Some(message) => {
                    self.undo();
                    self.answer(&message)
                }
                None => {
                    output::note("there is no message yet");
                    Ok(())
                }
            }
        }

        /// Takes the last message back, and the answer to it.
        fn undo(&mut self) {
            let messages = &mut self.request.messages;
            match messages.iter().rposition(|message| text(message, "role") == "user") {
                Some(last) => messages.truncate(last),
                None => output::note("there is no message yet"),
            }
        }

        /// The conversation, to be kept with the session.
        fn note(&self) -> Vec<u8> {
            let messages = self.request.messages.iter();
            let messages =
                messages.map(|said| Kept { role: text(said, "role"), content: text(said, "content") });
            let messages = messages.collect();
            // Writing strings to memory does not fail.
            serde_json::to_vec(&Note { messages }).unwrap_or_default()
        }

        fn write(&mut self) -> Result<String> {
            let ids = self.text.encode_chat(&self.request)?;
            let guard = Answer::start();
            let stop = self.text.eos();
            let limits = Limits { tokens: Some(self.tokens), stop, cancel: Some(guard.cancel()) };
            let mut stream = Detokenizer::new(true);
            let mut answer = String::new();
            // The session has most of the conversation already.
            let mut generation = Generation::start(&mut self.session, &mut self.sampler, ids, limits);
            for id in generation.by_ref() {
                let piece = stream.push(&self.text.tokenizer, id?);
                answer.push_str(piece);
                output::write(piece)?;
            }
            let rest = stream.finish();
            answer.push_str(rest);
            let finish = generation.finish();
            output::write(&format!("{rest}\n"))?;
            match finish {
                Some(Finish::Length) => output::note("(the answer is cut: as long as -n allows)"),
                Some(Finish::Context) => output::note("(the answer is cut: the context is full)"),
                Some(Finish::Stop | Finish::Cancelled) | None => {}
            }
            Ok(answer)
        }
    }

    /// A field of a message.
    fn text<'a>(message: &'a Json, field: &str) -> &'a str {
        message.get(field).and_then(Json::as_str).unwrap_or_default()
    }
}
