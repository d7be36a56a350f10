//! From the tensors in the files to the canonical ones.
//!
//! Two layouts of the experts of a layer are known:
//!
//! ```text
//! apart  experts.E.w1.weight [I, H]      -> gate[E]      fused  experts.gate_up_proj [E, 2I, H]
//!        experts.E.w3.weight [I, H]      -> up[E]               rows 0..I -> gate, I..2I -> up
//!        experts.E.w2.weight [H, I]      -> down[E]             experts.down_proj [E, H, I] -> down
//! ```

use std::collections::BTreeMap;

use super::error::{CheckpointError, NameList};
use super::header::Dtype;
use super::shards::Found;
use super::{Piece, Stored};
use crate::config::Config;
use crate::tensors::{TensorKind, TensorSpec};

/// Places every canonical tensor of `config`. Each found tensor must serve; only a head beside a tied embedding
/// may be left over, and is returned.
pub(super) fn resolve(
    config: &Config,
    found: BTreeMap<String, Found>,
) -> Result<(Vec<Stored>, Option<Stored>), CheckpointError> {
    let mut taker = Taker { found, halves: BTreeMap::new(), missing: NameList::default() };
    let mut stored = Vec::new();
    for spec in config.tensors() {
        let placed = match spec.kind {
            TensorKind::Experts => taker.experts(spec)?,
            TensorKind::ExpertBias if !taker.found.contains_key(&spec.name) => {
                let alias = format!("{}.weight", spec.name);
                let on_disk = if taker.found.contains_key(&alias) { alias } else { spec.name.clone() };
                taker.whole(spec, &on_disk)?
            }
            TensorKind::ExpertBias
            | TensorKind::Embedding
            | TensorKind::Head
            | TensorKind::Linear
            | TensorKind::Bias
            | TensorKind::Norm
            | TensorKind::ConvKernel
            | TensorKind::Router => {
                let on_disk = spec.name.clone();
                taker.whole(spec, &on_disk)?
            }
        };
        stored.extend(placed);
    }
    if !taker.missing.is_empty() {
        return Err(CheckpointError::Missing { names: taker.missing.to_string() });
    }
    let mut unused_head = None;
    if config.tie_embedding && taker.found.contains_key("lm_head.weight") {
        let shape = vec![config.vocab_size, config.hidden_size];
        let spec = TensorSpec { name: "lm_head.weight".to_owned(), shape, kind: TensorKind::Head };
        unused_head = taker.whole(spec, "lm_head.weight")?;
    }
    let mut unexpected = NameList::default();
    taker.found.keys().for_each(|name| unexpected.push(name));
    if !unexpected.is_empty() {
        return Err(CheckpointError::Unexpected { names: unexpected.to_string() });
    }
    Ok((stored, unused_head))
}

/// The found tensors, taken away one by one.
struct Taker {
    found: BTreeMap<String, Found>,
    /// Fused gate_up tensors whose gate half has been taken.
    halves: BTreeMap<String, Found>,
    missing: NameList,
}

impl Taker {
    /// Takes the tensor `on_disk`, which must have the shape `shape`; none where it is missing.
    fn take(&mut self, on_disk: &str, shape: &[usize]) -> Result<Option<Found>, CheckpointError> {
        let Some(found) = self.found.remove(on_disk) else {
            self.missing.push(on_disk);
            return Ok(None);
        };
        let expected = shape.iter().map(|&dim| dim as u64);
        if !found.entry.shape.iter().copied().eq(expected) {
            let (name, found) = (on_disk.to_owned(), found.entry.shape);
            return Err(CheckpointError::Shape { name, found, expected: shape.to_vec() });
        }
        Ok(Some(found))
    }

    /// A canonical tensor that is one tensor in a file.
    fn whole(&mut self, spec: TensorSpec, on_disk: &str) -> Result<Option<Stored>, CheckpointError> {
        let found = self.take(on_disk, &spec.shape)?;
        Ok(found.map(|Found { file, entry }| {
            let piece = Piece { file, start: entry.start };
            Stored { spec, dtype: entry.dtype, pieces: vec![piece] }
        }))
    }

    /// One of the three stacked tensors of a mixture, in either layout.
    fn experts(&mut self, spec: TensorSpec) -> Result<Option<Stored>, CheckpointError> {
        let (prefix, role) = spec.name.rsplit_once('.').unwrap_or((&spec.name, ""));
        let (prefix, role) = (prefix.to_owned(), role.to_owned());
        let fused = format!("{prefix}.gate_up_proj");
        if self.found.contains_key(&fused) || self.halves.contains_key(&fused) {
            return if role == "down" {
                self.whole(spec, &format!("{prefix}.down_proj"))
            } else {
                self.fused_half(spec, fused, role == "up")
            };
        }
        let matrix = match role.as_str() {
            "gate" => "w1",
            "up" => "w3",
            _ => "w2",
        };
        // A layer of the fused layout whose gate_up is missing is reported as such.
        if self.found.contains_key(&format!("{prefix}.down_proj")) {
            if role == "down" {
                return self.whole(spec, &format!("{prefix}.down_proj"));
            }
            self.missing.push(&fused);
            return Ok(None);
        }
        self.apart(spec, &prefix, matrix)
    }

    /// Expert by expert.
    fn apart(
        &mut self,
        spec: TensorSpec,
        prefix: &str,
        matrix: &str,
    ) -> Result<Option<Stored>, CheckpointError> {
        let (mut pieces, mut dtype) = (Vec::new(), None::<Dtype>);
        for expert in 0..spec.shape[0] {
            let name = format!("{prefix}.{expert}.{matrix}.weight");
            // One missing expert is enough to say, however many the configuration claims.
            let Some(Found { file, entry }) = self.take(&name, &spec.shape[1..])? else { return Ok(None) };
            let expected = *dtype.get_or_insert(entry.dtype);
            if entry.dtype != expected {
                let (found, expected) = (entry.dtype.name(), expected.name());
                return Err(CheckpointError::MixedTypes { name, found, expected });
            }
            pieces.push(Piece { file, start: entry.start });
        }
        Ok(dtype.map(|dtype| Stored { spec, dtype, pieces }))
    }

    /// The gate or the up half of the fused tensor `on_disk`; `gate` is asked for first.
    fn fused_half(
        &mut self,
        spec: TensorSpec,
        on_disk: String,
        up: bool,
    ) -> Result<Option<Stored>, CheckpointError> {
        let [experts, inner, hidden] = spec.shape[..] else { return Ok(None) };
        let found = match self.halves.remove(&on_disk) {
            Some(found) => Some(found),
            None => self.take(&on_disk, &[experts, 2 * inner, hidden])?,
        };
        let Some(found) = found else { return Ok(None) };
        let (file, dtype, start) = (found.file, found.entry.dtype, found.entry.start);
        let half = (inner * hidden * dtype.bytes()) as u64;
        let piece = |half_index: u64| Piece { file, start: start + half_index * half };
        let pieces = (0..experts as u64).map(|expert| piece(2 * expert + u64::from(up))).collect();
        if !up {
            self.halves.insert(on_disk, found);
        }
        Ok(Some(Stored { spec, dtype, pieces }))
    }
}
