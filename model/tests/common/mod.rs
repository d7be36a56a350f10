//! Golden fixtures, as `tests/fixtures/README.md` describes them.
#![allow(dead_code, reason = "not every test uses every helper")]

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

/// The folder of a fixture.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

/// The reference values of a fixture.
pub(crate) struct Golden(Vec<u8>);

impl Golden {
    /// Reads the values of the fixture `name`, following `same_as`.
    pub(crate) fn read(name: &str) -> Self {
        let folder = fixture(name);
        let text = std::fs::read_to_string(folder.join("golden.json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        let folder = json["same_as"].as_str().map_or(folder.clone(), |other| folder.join(other));
        Self(std::fs::read(folder.join("golden.safetensors")).unwrap())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.tensors().names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    }

    /// The names of the prompts, `p0` and on.
    pub(crate) fn prompts(&self) -> Vec<String> {
        let names = self.names();
        names.iter().filter_map(|name| name.strip_suffix(".input_ids")).map(str::to_owned).collect()
    }

    pub(crate) fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let tensors = self.tensors();
        let data = tensors.tensor(name).ok()?.data().as_chunks::<4>().0;
        Some(data.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    }

    pub(crate) fn ints(&self, name: &str) -> Option<Vec<i64>> {
        let tensors = self.tensors();
        let data = tensors.tensor(name).ok()?.data().as_chunks::<8>().0;
        Some(data.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect())
    }

    fn tensors(&self) -> SafeTensors<'_> {
        SafeTensors::deserialize(&self.0).unwrap()
    }
}

/// The largest difference of two equally long slices; NaN counts as infinite.
pub(crate) fn max_abs_diff(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let diff = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    a.iter().zip(b).map(diff).fold(0.0, f32::max)
}

/// The first of the largest values.
pub(crate) fn argmax(values: &[f32]) -> i64 {
    let best = values.iter().enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.unwrap().0 as i64
}
