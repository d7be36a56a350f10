//! `lfmc demo`: the whole path on the checkpoint that comes with the program.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use lfm_export::bundle::{Options as ExportOptions, Source};
use lfm_runtime::sample::{Sampler, Settings};
use lfm_runtime::text::{ChatRequest, Detokenizer};
use lfm_runtime::{Generation, Limits, Model, Options};

use super::args::{DemoArgs, host_target};
use super::{Exit, Outcome, export, output};

/// The checkpoint, so that the command works wherever the program lies.
const FILES: [(&str, &[u8]); 7] = [
    ("config.json", include_bytes!("../../../model/demo/config.json")),
    ("generation_config.json", include_bytes!("../../../model/demo/generation_config.json")),
    ("model.safetensors", include_bytes!("../../../model/demo/model.safetensors")),
    ("tokenizer.json", include_bytes!("../../../model/demo/tokenizer.json")),
    ("tokenizer_config.json", include_bytes!("../../../model/demo/tokenizer_config.json")),
    ("special_tokens_map.json", include_bytes!("../../../model/demo/special_tokens_map.json")),
    ("chat_template.jinja", include_bytes!("../../../model/demo/chat_template.jinja")),
];

static CANCEL: AtomicBool = AtomicBool::new(false);

/// A folder that is removed when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn unpack() -> std::io::Result<Folder> {
        let folder = Folder(std::env::temp_dir().join(format!("lfmc-demo-{}", std::process::id())));
        fs::create_dir_all(&folder.0)?;
        for (name, bytes) in FILES {
            fs::write(folder.0.join(name), bytes)?;
        }
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The system clears its temporary folder, should this fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(super) fn run(args: &DemoArgs) -> Outcome {
    output::note(
        "The demo model has 6 M parameters and was trained on the Rust documentation for 39 minutes:",
    );
    output::note("it shows that everything works, and it is often wrong.\n");
    let folder = Folder::unpack().map_err(|e| format!("cannot unpack the demo checkpoint: {e}"))?;
    let options = ExportOptions::new(host_target()?);
    let exported = export::with_progress(&Source::folder(&folder.0)?, &options, &args.output)?;
    drop(folder);
    output::note(&format!(
        "exported {} for {}: {}, {}\n",
        args.output.display(),
        options.target.name,
        exported.manifest.recipe,
        output::size(exported.published.length)
    ));

    // A second Ctrl-C falls back to the system's way of ending a program.
    ctrlc::set_handler(|| {
        if CANCEL.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    let model = Model::open(&args.output)?;
    let mut session = model.session(&Options::default())?;
    let text = model.text()?;
    let prompt = text.encode_chat(&ChatRequest::new().message("user", &args.prompt))?;
    let mut sampler = Sampler::new(Settings::greedy(), model.vocab())?;
    let limits = Limits { tokens: Some(256), stop: text.eos(), cancel: Some(&CANCEL) };
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "> {}", args.prompt)?;
    let pending = prompt.len();
    let mut detokenizer = Detokenizer::new(true);
    for id in Generation::new(&mut session, &mut sampler, prompt, pending, limits) {
        stdout.write_all(detokenizer.push(&text.tokenizer, id?).as_bytes())?;
        stdout.flush()?;
    }
    writeln!(stdout, "{}", detokenizer.finish())?;
    drop(stdout);

    let bundle = args.output.display();
    output::note(&format!("\nThe bundle is {bundle}. Try next:"));
    for command in [
        format!("cargo run --release --bin lfm-run -- chat {bundle}"),
        format!("cargo run --release --bin lfm-run -- bench {bundle}"),
        format!("cargo run --release --bin lfmc -- graph {bundle}"),
        format!("cargo run --release --bin lfmc -- verify {bundle}"),
    ] {
        output::note(&format!("  {command}"));
    }
    Ok(Exit::Done)
}
