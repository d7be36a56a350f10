//! `lfmc graph`.

use std::io::Write;

use lfm_export::bundle::{Source, compile, config_path};
use lfm_export::graph::{Stage, captured_text, graph_from_config};
use lfm_graphs::bundle::KvType;
use lfm_model::Config;
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
        let config = Config::from_file(&config_path(&args.source))?;
        match args.stage {
            StageArg::Captured => captured_text(&config)?,
            StageArg::Lowered => graph_from_config(&config, Stage::Lowered, KvType::F32)?.text(),
            StageArg::Fused | StageArg::Plan => {
                // Neither looks at a weight, so any seed will do.
                let source = Source::random(&args.source, 0)?;
                let mut options = args.target.resolve()?;
                options.target.ram = None;
                let (graph, plan, _, _) = compile(&source, &options)?;
                if args.stage == StageArg::Fused { graph.text() } else { plan.text() }
            }
        }
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(Exit::Done)
}
