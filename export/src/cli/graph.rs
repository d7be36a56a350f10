//! `lfmc graph`.

use std::io::Write;

use lfm_export::bundle::{Source, compile};
use lfm_export::gguf::Gguf;
use lfm_export::graph::{Stage, captured_text, graph_from_config};
use lfm_graphs::bundle::KvType;
use lfm_runtime::Model;

use super::args::{GraphArgs, StageArg};
use super::{Exit, Outcome};

pub(super) fn run(args: &GraphArgs) -> Outcome {
    let text = if args.source.is_file() && args.source.extension().is_some_and(|e| e == "lfmb") {
        let model = Model::open(&args.source)?;
        match args.stage {
            StageArg::Fused => model.graph().text(),
            StageArg::Plan => model.plan().text(),
            StageArg::Captured | StageArg::Lowered => {
                return Err(
                    "a bundle holds the fused graph and the plan; earlier stages come from its checkpoint"
                        .into(),
                );
            }
        }
    } else {
        // No stage looks at a weight, so where a configuration is all there is, any seed will do.
        let source = if Gguf::is(&args.source) {
            Source::gguf(&args.source)?
        } else {
            Source::random(&args.source, 0)?
        };
        let config = source.config();
        match args.stage {
            StageArg::Captured => captured_text(config)?,
            StageArg::Lowered => graph_from_config(config, Stage::Lowered, KvType::F32)?.text(),
            StageArg::Fused | StageArg::Plan => {
                let mut options = args.target.resolve()?;
                options.target.ram = None;
                let settled = compile(&source, &options)?;
                if args.stage == StageArg::Fused { settled.graph.text() } else { settled.plan.text() }
            }
        }
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Exit::Done)
}
