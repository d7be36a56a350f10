//! Weights of two graphs, and their bytes where both sides are bundles.
//!
//! Bytes are compared in place, in the mapped files. Only row-blocks that differ are unpacked, one at a time for each
//! thread, to tell which of their interleaved rows it is.

use std::collections::{BTreeMap, BTreeSet};

use lfm_graphs::Graph;
use lfm_graphs::bundle::Kind;
use lfm_graphs::graph::Weight;
use lfm_graphs::plan::{WeightKind, WeightSlot};
use lfm_graphs::weights::Format;
use lfm_graphs::weights::layout::{ROWS, row_block_bytes};
use lfm_graphs::weights::pack::unpack_row_block;
use lfm_runtime::Model;
use rayon::prelude::*;
use serde::Serialize;

use super::list::{Change, Field, Item, Named, compare};

/// Bytes compared between two reports of progress.
const STEP: usize = 8 << 20;

/// How the weights of two sides differ.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WeightsDiff {
    /// Those in one only, or with another shape, parameter or place.
    pub items: Vec<Item>,
    /// Those that differ in their format.
    pub formats: Vec<FormatDiff>,
    /// Those of one format whose values differ.
    pub values: Vec<ValuesDiff>,
    /// How many are in both.
    pub common: usize,
    /// Bytes of all weights in A, if it is a bundle.
    pub bytes_a: Option<u64>,
    /// Bytes of all weights in B, if it is a bundle.
    pub bytes_b: Option<u64>,
}

/// A weight in another format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FormatDiff {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: String,
    /// Format in A.
    pub a: Format,
    /// Format in B.
    pub b: Format,
    /// Its bytes in A, if that is a bundle.
    pub bytes_a: Option<u64>,
    /// Its bytes in B, if that is a bundle.
    pub bytes_b: Option<u64>,
}

/// A weight with other values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ValuesDiff {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: String,
    /// Its format.
    pub format: Format,
    /// Packed bytes that differ.
    pub bytes_differ: u64,
    /// Packed bytes in all.
    pub bytes: u64,
    /// Rows that differ; of a vector, elements.
    pub rows_differ: u64,
    /// Rows in all; of a vector, elements.
    pub rows: u64,
    /// BLAKE3 of the packed bytes in A.
    pub hash_a: String,
    /// BLAKE3 of the packed bytes in B.
    pub hash_b: String,
}

impl WeightsDiff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty() && self.formats.is_empty() && self.values.is_empty()
    }
}

/// The packed weights of a bundle, by name.
struct Packed<'a> {
    bytes: &'a [u8],
    slots: BTreeMap<&'a str, &'a WeightSlot>,
}

impl<'a> Packed<'a> {
    fn new(model: &'a Model) -> Packed<'a> {
        let slots = model.plan().weights.iter().map(|slot| (slot.name.as_str(), slot)).collect();
        Packed { bytes: model.section(Kind::Weights).unwrap_or_default(), slots }
    }

    fn get(&self, name: &str) -> Option<(&'a WeightSlot, &'a [u8])> {
        let slot = *self.slots.get(name)?;
        let from = usize::try_from(slot.offset).ok()?;
        let length = usize::try_from(slot.bytes).ok()?;
        Some((slot, self.bytes.get(from..from.checked_add(length)?)?))
    }
}

/// Compares the weights of two graphs, and their bytes if both are in bundles. `progress` gets bytes of A done and in
/// all.
pub(super) fn diff(
    a: &Graph,
    b: &Graph,
    bundles: (Option<&Model>, Option<&Model>),
    progress: &mut dyn FnMut(u64, u64),
) -> WeightsDiff {
    let named = |graph| {
        let weights = Graph::weights(graph).values();
        weights.map(|item| Named { name: &item.name, item }).collect::<Vec<_>>()
    };
    let show = |weight: &Weight| format!("{} {}", weight.ty, weight.storage);
    let items = compare(&named(a), &named(b), &BTreeMap::new(), show, show, |a: &Weight, b: &Weight| {
        let turned = |w: &Weight| if w.transposed { "transposed" } else { "as it is" };
        let fields = [
            Field::new("shape", &a.ty, &b.ty),
            Field::new("parameter", &a.param, &b.param),
            Field::new("axes", turned(a), turned(b)),
        ];
        fields.into_iter().flatten().collect()
    });
    let memory = |model: Option<&Model>| model.map(|model| model.plan().memory.weights);
    let mut diff = WeightsDiff {
        bytes_a: memory(bundles.0),
        bytes_b: memory(bundles.1),
        common: a.weights().len(),
        ..WeightsDiff::default()
    };
    let reshaped: BTreeSet<&str> =
        items.iter().filter(|item| is_reshaped(item)).map(|item| item.name.as_str()).collect();
    let of_b: BTreeMap<&str, &Weight> = b.weights().values().map(|w| (w.name.as_str(), w)).collect();
    let (packed_a, packed_b) = (bundles.0.map(Packed::new), bundles.1.map(Packed::new));
    let all = diff.bytes_a.unwrap_or(0);
    let mut done = 0;
    for weight in a.weights().values() {
        let Some(other) = of_b.get(weight.name.as_str()) else {
            diff.common -= 1;
            continue;
        };
        let (name, shape) = (weight.name.clone(), weight.ty.to_string());
        let in_a = packed_a.as_ref().and_then(|packed| packed.get(&name));
        let in_b = packed_b.as_ref().and_then(|packed| packed.get(&name));
        if weight.storage != other.storage {
            let bytes = |slot: Option<(&WeightSlot, &[u8])>| slot.map(|(slot, _)| slot.bytes);
            let (a, b, bytes_a, bytes_b) = (weight.storage, other.storage, bytes(in_a), bytes(in_b));
            diff.formats.push(FormatDiff { name, shape, a, b, bytes_a, bytes_b });
        } else if let (Some((slot, a)), Some((_, b))) = (in_a, in_b)
            && !reshaped.contains(name.as_str())
            && let Some(counts) = count(slot, a, b, &mut |bytes| progress(done + bytes, all))
        {
            let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
            diff.values.push(ValuesDiff {
                name,
                shape,
                format: weight.storage,
                bytes_differ: counts.bytes,
                bytes: slot.bytes,
                rows_differ: counts.rows,
                rows: rows(slot),
                hash_a: hash(a),
                hash_b: hash(b),
            });
        }
        done += in_a.map_or(0, |(slot, _)| slot.bytes);
        progress(done, all);
    }
    diff.items = items;
    diff
}

fn is_reshaped(item: &Item) -> bool {
    matches!(&item.change, Change::Changed(fields) if fields.iter().any(|field| field.field == "shape"))
}

fn rows(slot: &WeightSlot) -> u64 {
    match slot.kind {
        WeightKind::Vector => u64::from(slot.k),
        WeightKind::Matrix => u64::from(slot.count) * u64::from(slot.rows),
    }
}

/// What differs in a weight.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    bytes: u64,
    rows: u64,
}

impl Counts {
    fn plus(self, other: Counts) -> Counts {
        Counts { bytes: self.bytes + other.bytes, rows: self.rows + other.rows }
    }
}

/// What differs between two weights of one shape and format; `None` if nothing does. `progress` gets bytes done.
fn count(slot: &WeightSlot, a: &[u8], b: &[u8], progress: &mut dyn FnMut(u64)) -> Option<Counts> {
    // Whole pieces: what one thread takes, and so many of them at a time that progress shows.
    let piece = match slot.kind {
        WeightKind::Vector => 4,
        WeightKind::Matrix => row_block_bytes(slot.format, slot.k as usize).unwrap_or(0).max(1),
    };
    let mut counts = Counts::default();
    let mut done = 0;
    let stride = usize::try_from(slot.stride).unwrap_or(usize::MAX).max(1);
    for (a, b) in a.chunks(stride).zip(b.chunks(stride)) {
        // Row-blocks of this matrix seen so far.
        let mut blocks = 0;
        let step = (STEP / piece).max(1) * piece;
        for (a, b) in a.chunks(step).zip(b.chunks(step)) {
            if a != b {
                let of_step = a.par_chunks(piece).zip(b.par_chunks(piece)).enumerate();
                let of_step = of_step.map(|(at, (a, b))| piece_counts(slot, blocks + at, a, b));
                counts = counts.plus(of_step.reduce(Counts::default, Counts::plus));
            }
            blocks += a.len() / piece;
            done += a.len() as u64;
            progress(done);
        }
    }
    (counts.bytes > 0).then_some(counts)
}

/// What differs in an element of a vector, or in row-block `at` of a matrix.
fn piece_counts(slot: &WeightSlot, at: usize, a: &[u8], b: &[u8]) -> Counts {
    if a == b {
        return Counts::default();
    }
    let bytes = a.iter().zip(b).filter(|(a, b)| a != b).count() as u64;
    let rows = match slot.kind {
        WeightKind::Vector => 1,
        WeightKind::Matrix => {
            // None are left where the matrix is padded.
            let rows = (slot.rows as usize).saturating_sub(at.saturating_mul(ROWS)).min(ROWS);
            differing_rows(slot.format, rows, slot.k as usize, a, b).unwrap_or(rows as u64)
        }
    };
    Counts { bytes, rows }
}

/// How many of the first `rows` rows of two row-blocks differ; `None` if one holds what no row packs to.
fn differing_rows(format: Format, rows: usize, k: usize, a: &[u8], b: &[u8]) -> Option<u64> {
    let row = format.row_bytes(k)?;
    let unpack = |block: &[u8]| {
        let mut out = vec![0; rows.checked_mul(row)?];
        unpack_row_block(format, rows, k, block, &mut out).ok()?;
        Some(out)
    };
    let (a, b) = (unpack(a)?, unpack(b)?);
    Some(a.chunks(row.max(1)).zip(b.chunks(row.max(1))).filter(|(a, b)| a != b).count() as u64)
}

#[cfg(test)]
mod tests {
    use lfm_graphs::weights::layout::packed_bytes;
    use lfm_graphs::weights::pack::pack;

    use super::*;

    fn slot(format: Format, count: u32, rows: u32, k: u32) -> WeightSlot {
        let stride = packed_bytes(format, rows as usize, k as usize).unwrap();
        let name = "w".to_owned();
        let bytes = stride * u64::from(count);
        WeightSlot { name, kind: WeightKind::Matrix, format, count, rows, k, stride, offset: 0, bytes }
    }

    #[test]
    fn rows_are_counted_however_they_are_packed() {
        for format in Format::ALL {
            let slot = slot(format, 2, 37, 70);
            let row = format.row_bytes(70).unwrap();
            let packed = |changed: &[usize]| {
                let mut out = Vec::new();
                for matrix in 0..2 {
                    let mut canonical = vec![0u8; 37 * row];
                    for one in changed.iter().filter(|one| **one / 37 == matrix) {
                        // In the middle of a unit are codes, whatever the format.
                        canonical[one % 37 * row + format.unit_bytes() / 2] = 1;
                    }
                    let mut matrix = vec![0; slot.stride as usize];
                    pack(format, 37, 70, &canonical, &mut matrix).unwrap();
                    out.extend(matrix);
                }
                out
            };
            let base = packed(&[]);
            assert_eq!(count(&slot, &base, &base, &mut |_| {}), None, "{format}");
            let changed = [0, 15, 16, 36, 37, 70];
            let mut last = 0;
            let counts = count(&slot, &base, &packed(&changed), &mut |done| last = done).unwrap();
            assert_eq!(counts.rows, changed.len() as u64, "{format}");
            assert!((6..=24).contains(&counts.bytes), "{format}: {}", counts.bytes);
            assert_eq!(last, slot.bytes);
        }
    }

    #[test]
    fn elements_of_a_vector_and_bytes_of_padding() {
        let mut vector = slot(Format::F32, 1, 1, 5);
        (vector.kind, vector.stride, vector.bytes) = (WeightKind::Vector, 20, 20);
        let mut other = [0u8; 20];
        (other[4], other[5], other[19]) = (1, 1, 1);
        assert_eq!(count(&vector, &[0; 20], &other, &mut |_| {}), Some(Counts { bytes: 3, rows: 2 }));
        // The last bytes of a packed f16 matrix of 5 rows are padding.
        let matrix = slot(Format::F16, 1, 5, 3);
        let base = vec![0; matrix.bytes as usize];
        let mut other = base.clone();
        *other.last_mut().unwrap() = 1;
        assert_eq!(count(&matrix, &base, &other, &mut |_| {}), Some(Counts { bytes: 1, rows: 0 }));
    }
}
