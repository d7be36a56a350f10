//! Random mutations of a bundle, a GGUF file and a safetensors file: each is refused, or is what any other reader would make
//! of it. `MUTATIONS=20000` sets how many; `just mutations` runs them in a release build.
//!
//! Nothing is wrong in silence: a mutated bundle that opens does not pass `verify`; one whose hashes were made right again
//! runs or is refused; of a mutated checkpoint that opens, every tensor is what an independent reader finds in the file.
#![allow(clippy::print_stdout, reason = "figures of a long run are for whoever started it")]

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use lfm_export::bundle::{ExportError, Options, Source, export};
use lfm_export::gguf::{Gguf, gguf_name};
use lfm_graphs::target::{ByteSize, Target};
use lfm_graphs::testing::Rng;
use lfm_model::{Checkpoint, TensorKind};
use lfm_runtime::{Error, Model};
use lfm_tests::fuzz::{reseal, use_model};
use lfm_tests::gguf::Writer;
use lfm_tests::{Bundle, damage, fixture};
use safetensors::{Dtype, SafeTensors};
use tempfile::TempDir;

/// Mutations of each file.
fn count(default: u32) -> u32 {
    match std::env::var("MUTATIONS") {
        Ok(count) => count.parse().unwrap_or_else(|_| panic!("MUTATIONS is {count}, expected a number")),
        Err(_) => default,
    }
}

/// Does `work` on `count` mutations of `good`, in files of their own; gives how many were accepted.
fn mutate(good: &[u8], seed: u64, file: &Path, mut work: impl FnMut(&[u8], u32) -> bool) -> u32 {
    let count = count(600);
    let mut accepted = 0;
    for number in 0..count {
        // Every mutation by itself: a number is enough to repeat one.
        let mut rng = Rng::new(seed << 32 | u64::from(number));
        let (mut bad, mut what) = damage::bytes(good, &mut rng);
        if rng.once_in(3) && bad.len() > 8 {
            let (worse, and) = damage::bytes(&bad, &mut rng);
            (bad, what) = (worse, format!("{what}, then {and}"));
        }
        if bad == good {
            continue;
        }
        fs::write(file, &bad).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&bad, number)));
        accepted += u32::from(outcome.unwrap_or_else(|_| panic!("mutation {number}: {what}")));
    }
    println!("{}: {count} mutations, {accepted} accepted", file.display());
    accepted
}

#[test]
fn bundles() {
    let bundle = Bundle::export_with(&fixture("odd-moe"), "q4_0", |options| {
        options.context = Some(64);
        options.chunk = Some(16);
    });
    let good = fs::read(&bundle.path).unwrap();
    let path = bundle.folder.path().join("mutated.lfmb");
    let opened = mutate(&good, 1, &path, |_, _| match Model::open(&path) {
        Err(Error::Bundle { .. } | Error::Read { .. }) => false,
        Err(error) => panic!("{error}"),
        Ok(model) => {
            // Only weights are left to be found wrong, and wrong weights are no reason to fail.
            assert!(model.verify_weights(|_, _| {}).is_err(), "a changed bundle passes verify");
            match use_model(&model) {
                // Some weights make logits that are no numbers, which is said.
                Ok(()) | Err(Error::Sample(_)) => true,
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert!(opened < count(600), "all were opened");
    // With the right hashes it is another bundle, sound or not.
    mutate(&good, 2, &path, |bad, _| {
        let mut sealed = bad.to_vec();
        reseal(&mut sealed);
        fs::write(&path, sealed).unwrap();
        let Ok(model) = Model::open(&path) else { return false };
        model.verify_weights(|_, _| {}).unwrap();
        use_model(&model).is_ok()
    });
}

/// One in so many of the accepted checkpoints is exported and run, which takes longer than reading.
const EXPORTED: u32 = 40;

/// Exports a source and runs it, where the source allows.
fn export_and_run(source: &Source) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.lfmb");
    let mut options = Options::new(Target::builtin("portable").unwrap());
    options.recipe = source.dominating().is_none().then(|| "q4_0".parse().unwrap());
    (options.context, options.chunk, options.ram) = (Some(32), Some(8), Some(ByteSize(256 << 20)));
    match export(source, &options, &path, |_| {}) {
        Ok(_) => {
            let model = Model::open(&path).unwrap();
            model.verify_weights(|_, _| {}).unwrap();
            use_model(&model).unwrap();
        }
        // A fault in what was written would be one of the exporter.
        Err(error @ ExportError::ReadBack(_)) => panic!("{error}"),
        Err(_) => assert!(!path.exists()),
    }
}

#[test]
fn safetensors() {
    let folder = TempDir::new().unwrap();
    fs::copy(fixture("all-conv").join("config.json"), folder.path().join("config.json")).unwrap();
    let path = folder.path().join("model.safetensors");
    let good = fs::read(fixture("all-conv").join("model.safetensors")).unwrap();
    let accepted = mutate(&good, 3, &path, |bad, number| {
        let Ok(checkpoint) = Checkpoint::open(folder.path()) else { return false };
        let other = SafeTensors::deserialize(bad).unwrap_or_else(|e| panic!("only we read it: {e}"));
        for tensor in checkpoint.tensors() {
            let found = checkpoint.read_f32(tensor.name).unwrap();
            let view = other.tensor(tensor.name).unwrap();
            let expected: Vec<u32> = match view.dtype() {
                Dtype::BF16 => upper(view.data()),
                Dtype::F16 => halves(view.data()),
                Dtype::F32 => singles(view.data()),
                other => panic!("{}: {other:?} was read", tensor.name),
            };
            assert_eq!(view.shape(), tensor.shape, "{}", tensor.name);
            let found: Vec<u32> = found.iter().map(|x| x.to_bits()).collect();
            assert!(same(&found, &expected), "{} differs", tensor.name);
        }
        if number % EXPORTED == 0 {
            export_and_run(&Source::folder(folder.path()).unwrap());
        }
        true
    });
    assert!(accepted > 0 && accepted < count(600), "{accepted} were accepted");
}

/// Whether two lists of f32 are the same bit for bit, but for the bits of what is no number: an export refuses that.
fn same(a: &[u32], b: &[u32]) -> bool {
    let nan = |bits: u32| f32::from_bits(bits).is_nan();
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || nan(*a) && nan(*b))
}

/// The f32 of a bf16 is its upper half.
fn upper(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])) << 16).collect()
}

fn singles(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Halves by the definition of the format.
fn halves(bytes: &[u8]) -> Vec<u32> {
    let widen = |half: u16| {
        let (sign, exponent, fraction) = (half >> 15, i32::from(half >> 10 & 31), f32::from(half & 1023));
        let size = match exponent {
            0 => fraction / 1024.0 * 2f32.powi(-14),
            31 if fraction == 0.0 => f32::INFINITY,
            31 => return u32::from(sign) << 31 | 0x7fc0_0000 | u32::from(half & 1023) << 13,
            _ => (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
        };
        u32::from(sign) << 31 | size.to_bits()
    };
    bytes.chunks(2).map(|b| widen(u16::from_le_bytes([b[0], b[1]]))).collect()
}

#[test]
fn gguf() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("mutated.gguf");
    let good = Writer::from_folder(&fixture("tiny-moe"), "q4_0", true).bytes().0;
    let accepted = mutate(&good, 5, &path, |bad, number| {
        let Ok(gguf) = Gguf::open(&path) else { return false };
        let other = read_gguf(bad);
        for spec in gguf.config().tensors() {
            let (ne, kind, data) = &other[&gguf_name(&spec.name).unwrap()];
            let k = ne[0] as usize;
            let rows = ne[1..].iter().product::<u64>() as usize;
            let format = gguf.tensor_type(&spec.name).unwrap().format();
            let mut found = vec![0; rows * format.row_bytes(k).unwrap()];
            gguf.read_rows(&spec.name, k, 0, &mut found).unwrap();
            let equal = match kind {
                30 => same(&singles(&found), &upper(data)),
                _ => found == *data,
            };
            assert!(equal, "{} differs", spec.name);
            let elements: usize = spec.shape.iter().product();
            assert_eq!(elements, k * rows, "{}", spec.name);
            assert!(spec.kind == TensorKind::ConvKernel || spec.shape.last() == Some(&k), "{}", spec.name);
        }
        if number % EXPORTED == 0 {
            export_and_run(&Source::gguf(&path).unwrap());
        }
        true
    });
    assert!(accepted > 0 && accepted < count(600), "{accepted} were accepted");
}

/// Sizes, type and data of every tensor of a GGUF file, by a reader that believes everything and fails by panics.
fn read_gguf(bytes: &[u8]) -> BTreeMap<String, (Vec<u64>, u32, Vec<u8>)> {
    struct Reader<'a>(&'a [u8], usize);
    impl Reader<'_> {
        fn take(&mut self, n: usize) -> &[u8] {
            self.1 += n;
            &self.0[self.1 - n..self.1]
        }
        fn u32(&mut self) -> u32 {
            u32::from_le_bytes(self.take(4).try_into().unwrap())
        }
        fn u64(&mut self) -> u64 {
            u64::from_le_bytes(self.take(8).try_into().unwrap())
        }
        fn text(&mut self) -> String {
            let n = self.u64() as usize;
            String::from_utf8(self.take(n).to_vec()).unwrap()
        }
        /// Skips a value; gives it where it is a u32.
        fn value(&mut self, kind: u32) -> Option<u32> {
            match kind {
                4 => return Some(self.u32()),
                0 | 1 | 7 => _ = self.take(1),
                2 | 3 => _ = self.take(2),
                5 | 6 => _ = self.take(4),
                10..=12 => _ = self.take(8),
                8 => _ = self.text(),
                9 => {
                    let (kind, n) = (self.u32(), self.u64());
                    for _ in 0..n {
                        self.value(kind);
                    }
                }
                other => panic!("type {other} of a value"),
            }
            None
        }
    }
    let mut reader = Reader(bytes, 8);
    let (tensors, keys) = (reader.u64(), reader.u64());
    let mut alignment = 32;
    for _ in 0..keys {
        let (key, kind) = (reader.text(), reader.u32());
        let value = reader.value(kind);
        if key == "general.alignment" {
            alignment = value.unwrap() as usize;
        }
    }
    let mut table = Vec::new();
    for _ in 0..tensors {
        let (name, dims) = (reader.text(), reader.u32());
        let ne: Vec<u64> = (0..dims).map(|_| reader.u64()).collect();
        table.push((name, ne, reader.u32(), reader.u64() as usize));
    }
    let start = reader.1.next_multiple_of(alignment);
    table
        .into_iter()
        .map(|(name, ne, kind, offset)| {
            let elements = ne.iter().product::<u64>() as usize;
            // Of an element or a block, and elements of one.
            let (size, block) = match kind {
                0 => (4, 1),
                1 | 30 => (2, 1),
                2 => (18, 32),
                8 => (34, 32),
                12 => (144, 256),
                13 => (176, 256),
                14 => (210, 256),
                other => panic!("{name}: type {other} was read"),
            };
            let at = start + offset;
            let data = bytes[at..at + elements / block * size].to_vec();
            (name, (ne, kind, data))
        })
        .collect()
}
