//! Everything that can be proved about an opened bundle, stage by stage.
//!
//! | stage | says |
//! |---|---|
//! | `sections` | header and sections have the bytes that their hashes say, without holes between them |
//! | `graph` | the graph passes the verifier |
//! | `plan` | the plan passes its verifier: no two live buffers overlap, the stated memory is the sum of its parts |
//! | `weights` | the weights have the bytes that their hash says |
//! | `golden` | golden vectors, run here, give the same bits |
//! | `signature` | who signed, if somebody did (feature `sign`) |
//!
//! The first three hold for every [`Model`], since nothing else can be opened.

use lfm_graphs::target::ByteSize;
use serde::Serialize;

use crate::error::Result;
use crate::golden;
use crate::model::Model;
use crate::session::Options;
#[cfg(feature = "sign")]
use crate::signature::{Fault, PublicKey, Signature};

/// What a stage found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It holds.
    Ok,
    /// It does not.
    No,
    /// There is nothing to say.
    None,
}

impl Verdict {
    /// Two letters for people.
    pub fn mark(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::No => "NO",
            Verdict::None => "--",
        }
    }
}

/// One stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stage {
    /// Its name.
    pub stage: &'static str,
    /// What it found.
    pub verdict: Verdict,
    /// The same in words, a line for each fault.
    pub detail: String,
}

/// Whether no stage found a fault.
pub fn holds(stages: &[Stage]) -> bool {
    stages.iter().all(|stage| stage.verdict != Verdict::No)
}

/// The key that is demanded.
#[cfg(feature = "sign")]
pub type Key<'a> = Option<&'a PublicKey>;
/// No key can be demanded of a build without feature `sign`.
#[cfg(not(feature = "sign"))]
pub type Key<'a> = Option<&'a std::convert::Infallible>;

/// Proves what can be proved: runs golden vectors by `options`, and demands a signature by `key` if one is given.
/// `progress` gets bytes of weights hashed and in all.
///
/// # Errors
/// When golden vectors are malformed or cannot be run.
pub fn prove(
    model: &Model,
    options: &Options,
    key: Key<'_>,
    progress: impl FnMut(u64, u64),
) -> Result<Vec<Stage>> {
    let stage = |stage, verdict, detail| Stage { stage, verdict, detail };
    let (nodes, memory) = (model.graph().nodes().len(), model.plan().memory);
    let size = |bytes| ByteSize(bytes).approx();
    let mut stages = vec![
        stage("sections", Verdict::Ok, format!("header and {} sections are sound", model.sections().len())),
        stage("graph", Verdict::Ok, format!("{nodes} nodes pass the verifier")),
        stage("plan", Verdict::Ok, format!("no two live buffers overlap, {} in all", size(memory.total))),
    ];
    let hashed = model.verify_weights(progress);
    let (verdict, detail) = match &hashed {
        Ok(()) => (Verdict::Ok, format!("{} match their hash", size(memory.weights))),
        Err(error) => (Verdict::No, with_causes(error)),
    };
    stages.push(stage("weights", verdict, detail));
    // The bits of logits mean something only for the weights that they were computed from.
    let (verdict, detail) = match (hashed.is_ok(), model.golden()?) {
        (_, None) => (Verdict::None, "there are no golden vectors".into()),
        (false, Some(_)) => (Verdict::None, "not run: the weights are not those of the bundle".into()),
        (true, Some(golden)) => {
            let differences = golden::check(model, options, &golden)?;
            let (vectors, tokens) = (golden.vectors.len(), golden.vectors.iter().map(|v| v.greedy.len()));
            if differences.is_empty() {
                let tokens: usize = tokens.sum();
                let detail = format!("{vectors} golden vectors of {tokens} tokens agree bit for bit");
                (Verdict::Ok, detail)
            } else {
                let mut lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
                lines.push(format!("{} of {vectors} golden vectors differ", differences.len()));
                (Verdict::No, lines.join("\n"))
            }
        }
    };
    stages.push(stage("golden", verdict, detail));
    stages.extend(signature(model, key));
    Ok(stages)
}

#[cfg(feature = "sign")]
fn signature(model: &Model, key: Key<'_>) -> Option<Stage> {
    let checked = Signature::beside(model.path()).and_then(|signature| {
        signature.check(model.id(), key)?;
        Ok(signature.key)
    });
    let (verdict, detail) = match checked {
        Ok(signer) if key.is_some() => (Verdict::Ok, format!("by {signer}, as demanded")),
        Ok(signer) => (Verdict::Ok, format!("by {signer}, whoever that is")),
        Err(fault @ Fault::Missing(_)) if key.is_none() => (Verdict::None, fault.to_string()),
        Err(fault) => (Verdict::No, fault.to_string()),
    };
    Some(Stage { stage: "signature", verdict, detail })
}

#[cfg(not(feature = "sign"))]
fn signature(_: &Model, _: Key<'_>) -> Option<Stage> {
    None
}

/// An error and what caused it, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
