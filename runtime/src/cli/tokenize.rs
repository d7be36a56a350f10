//! `lfm-run tokenize`: text or a chat as token ids.

use std::path::PathBuf;

use clap::Args;

use super::Exit;
use super::error::Result;
use super::model::BundleArgument;

#[derive(Args, Debug)]
pub(crate) struct Options {
    #[command(flatten)]
    bundle: BundleArgument,
    #[command(flatten)]
    input: Input,
    /// Leave out what the tokenizer puts around a text
    #[arg(long, requires = "text")]
    bare: bool,
}

/// What is tokenized.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Input {
    /// A text, in which special tokens count as such
    #[arg(value_name = "TEXT", allow_hyphen_values = true)]
    text: Option<String>,
    /// A JSON file with `messages`, `tools` and `add_generation_prompt`
    #[arg(long, value_name = "FILE.json")]
    chat: Option<PathBuf>,
}

#[cfg(feature = "text")]
pub(crate) fn run(options: &Options) -> Result<Exit> {
    use lfm_runtime::text::ChatRequest;
    use lfm_runtime::{Error, Model};
    use serde::Serialize;

    /// What is written.
    #[derive(Serialize)]
    struct Report {
        ids: Vec<u32>,
        /// As the vocabulary spells them.
        tokens: Vec<Option<String>>,
        /// The text of the chat; null for a text.
        rendered: Option<String>,
    }

    let text = Model::open(&options.bundle.bundle)?.text()?;
    let (ids, rendered) = match &options.input {
        Input { chat: Some(path), .. } => {
            let json =
                std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })?;
            let rendered = text.render(&ChatRequest::from_json(&json)?)?;
            (text.tokenizer.encode(&rendered, false, true)?, Some(rendered))
        }
        Input { text: plain, .. } => {
            let plain = plain.as_deref().unwrap_or_default();
            (text.tokenizer.encode(plain, !options.bare, true)?, None)
        }
    };
    let tokens = ids.iter().map(|id| text.tokenizer.id_to_token(*id)).collect();
    super::output::json(&Report { ids, tokens, rendered })?;
    Ok(Exit::Done)
}

#[cfg(not(feature = "text"))]
pub(crate) fn run(options: &Options) -> Result<Exit> {
    let Options { bundle: BundleArgument { bundle: _ }, input: Input { text: _, chat: _ }, bare: _ } =
        options;
    Err(super::error::CliError::NoText { what: "tokenize" })
}
