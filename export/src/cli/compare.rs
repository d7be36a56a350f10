//! `lfmc compare`: every node of a run against the burn model.

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use burn::tensor::Device;
use lfm_export::bundle::Source;
use lfm_export::compare::{self, Comparison, NodeReport, Reference, Tolerance, Worst};
use lfm_graphs::bundle;
use lfm_model::Config;
use lfm_runtime::{Backend, Model, Options};
use serde_json::json;

use super::args::{BackendArg, CompareArgs, DeviceArg};
use super::{Exit, Outcome, output};

pub(super) fn run(args: &CompareArgs) -> Outcome {
    let device = device(args.device)?;
    let backend = backend(args)?;
    let model = Model::open(&args.bundle)?;
    let (config, source) = reference(args, &model)?;
    if source.as_ref().is_some_and(|source| source.fingerprint() != model.manifest().fingerprint) {
        output::note(
            "note: the bundle was not made from this source (another fingerprint); differences may be those of the two",
        );
    }
    let tokens = match &args.tokens {
        Some(tokens) => tokens.clone(),
        None => compare::default_tokens(&config, &model),
    };
    let reference = Reference {
        config: &config,
        weights: source.as_ref().filter(|_| !args.stored_weights),
        device: &device,
    };
    let options = Options { backend, ..Options::default() };
    let mut tolerance = Tolerance::of(&model, args.stored_weights);
    tolerance.nmse = args.tolerance.unwrap_or(tolerance.nmse);
    let comparison = compare::compare(&model, &options, &reference, &tokens, tolerance)?;
    let mut stdout = io::stdout().lock();
    if args.json {
        writeln!(stdout, "{}", report(args, &model, &comparison)?)?;
    } else {
        print(&mut stdout, args, &model, &comparison)?;
    }
    Ok(if comparison.first_outside().is_none() { Exit::Done } else { Exit::No })
}

/// The configuration of the reference, and the source that it is of; none for a configuration alone.
fn reference(args: &CompareArgs, model: &Model) -> Result<(Config, Option<Source>), Box<dyn Error>> {
    let path = &args.reference;
    let source = match (
        &model.manifest().source,
        path.extension().is_some_and(|extension| extension == "json"),
    ) {
        (bundle::Source::Random { seed }, _) => Source::random(path, *seed)?,
        (bundle::Source::Hf | bundle::Source::Gguf, false) => Source::open(path)?,
        (bundle::Source::Hf | bundle::Source::Gguf, true) if args.stored_weights => {
            return Ok((Config::from_file(path)?, None));
        }
        (bundle::Source::Hf | bundle::Source::Gguf, true) => {
            return Err(format!(
                "cannot compare with {}: a configuration has no weights, expected a checkpoint folder, a GGUF file, or \
                 --stored-weights",
                path.display()
            )
            .into());
        }
    };
    Ok((source.config().clone(), Some(source)))
}

fn device(wanted: DeviceArg) -> Result<Device, Box<dyn Error>> {
    match wanted {
        DeviceArg::Ndarray => Ok(lfm_model::cpu()),
        #[cfg(feature = "burn-wgpu")]
        DeviceArg::Wgpu => Ok(lfm_model::gpu()),
        #[cfg(not(feature = "burn-wgpu"))]
        DeviceArg::Wgpu => {
            Err("this build has no burn-wgpu for the reference, expected `--device ndarray` or a build \
                                with feature `burn-wgpu` of lfm-export"
                .into())
        }
    }
}

fn backend(args: &CompareArgs) -> Result<Backend, Box<dyn Error>> {
    let (adapter, layers) = (args.adapter.clone(), args.gpu_layers);
    match args.backend {
        BackendArg::Cpu if adapter.is_some() || layers.is_some() => {
            Err("--adapter and --gpu-layers are of a GPU, expected `--backend wgpu` with them".into())
        }
        BackendArg::Cpu => Ok(Backend::Cpu),
        BackendArg::Wgpu if cfg!(feature = "wgpu") => Ok(Backend::Wgpu { adapter, layers }),
        BackendArg::Wgpu => {
            Err("this build of lfmc has no wgpu backend, expected `--backend cpu` or a build with \
                                 feature `wgpu` of lfm-export"
                .into())
        }
    }
}

fn print(out: &mut impl Write, args: &CompareArgs, model: &Model, comparison: &Comparison) -> io::Result<()> {
    let Comparison { tokens, device, tolerance: Tolerance { nmse, gap }, nodes, without_reference } =
        comparison;
    let (manifest, on) = (model.manifest(), device.as_deref().unwrap_or("the CPU"));
    let weights = if args.stored_weights { "the weights of the bundle" } else { "its own weights" };
    writeln!(out, "bundle     {}: {} {} on {on}", args.bundle.display(), manifest.model, manifest.recipe)?;
    writeln!(
        out,
        "reference  {} in burn on {}, with {weights}",
        args.reference.display(),
        args.device.name()
    )?;
    writeln!(out, "compared   {} tokens; NMSE of a node at most {nmse:e}\n", tokens.len())?;
    let name = |node: &NodeReport| match node.result {
        0 => node.node.clone(),
        n => format!("{}:{n}", node.node),
    };
    let width = nodes.iter().map(|node| name(node).len()).max().unwrap_or(0).max(4);
    writeln!(out, "{:<width$}  {:>9}  {:>9}", "node", "nmse", "largest")?;
    for node in nodes {
        let largest = node.worst.map_or(0.0, |worst| worst.difference);
        write!(out, "{:<width$}  {:>9.2e}  {largest:>9.2e}", name(node), node.nmse)?;
        if let Some(routing) = node.routing.filter(|routing| routing.differ > 0) {
            let (differ, widest) = (routing.differ, routing.widest_gap);
            write!(out, "  other experts at {differ} positions, gaps of scores up to {widest:.1e}")?;
        }
        writeln!(out, "{}", if node.within { "" } else { "  outside" })?;
    }
    for node in without_reference {
        writeln!(out, "{node}: not compared, the burn model has no such value")?;
    }
    let Some(first) = comparison.first_outside() else {
        return writeln!(out, "\nall {} nodes are within tolerance", nodes.len());
    };
    writeln!(out, "\nfirst outside: {}, the burn model's {}", name(first), first.reference)?;
    writeln!(out, "  nmse {:.3e}, expected at most {nmse:e}", first.nmse)?;
    if let Some(routing) = first.routing.filter(|routing| routing.differ > 0) {
        writeln!(out, "  experts with scores {:.3e} apart, expected at most {gap:e}", routing.widest_gap)?;
    }
    if let Some(Worst { position, element, found, expected, .. }) = first.worst {
        writeln!(out, "  at position {position}, element {element}: found {found}, expected {expected}")?;
    }
    Ok(())
}

fn report(
    args: &CompareArgs,
    model: &Model,
    comparison: &Comparison,
) -> serde_json::Result<serde_json::Value> {
    let path = |path: &Path| path.display().to_string();
    let mut report = json!({
        "bundle": path(&args.bundle),
        "id": model.id(),
        "reference": path(&args.reference),
        "reference_device": args.device.name(),
        "stored_weights": args.stored_weights,
        "within": comparison.first_outside().is_none(),
        "first_outside": comparison.first_outside().map(|node| &node.node),
    });
    if let (Some(report), serde_json::Value::Object(comparison)) =
        (report.as_object_mut(), serde_json::to_value(comparison)?)
    {
        report.extend(comparison);
    }
    Ok(report)
}
