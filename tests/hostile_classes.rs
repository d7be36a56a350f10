//! The classes of faults by which loaders of models were broken, by name, once for each format that they concern. Each
//! file is refused in words; hashes are right wherever the lie is not the hash.
//!
//! `docs/security.md` has the table of classes, with the tests of sessions and of files that change while they are read.

use std::fs;
use std::path::Path;

use lfm_export::bundle::Source;
use lfm_graphs::bundle::{Bundle as Sections, Kind};
use lfm_runtime::Model;
use lfm_tests::fuzz::{reseal, use_model};
use lfm_tests::gguf::{Entry, Writer, string};
use lfm_tests::{Bundle, fixture, rewrite};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// Everything that an error says.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    text
}

/// Bundles.
mod bundle {
    use super::*;

    fn made() -> Bundle {
        Bundle::export_with(&fixture("tiny-dense"), "q4_0", |options| {
            options.context = Some(64);
            options.chunk = Some(16);
        })
    }

    /// What opening and running the bundle says.
    fn fault(path: &Path) -> String {
        chain(&Model::open(path).and_then(|model| use_model(&model)).expect_err("it was opened and run"))
    }

    /// Changes the bytes of a bundle, makes the hashes right, and expects an error with `expected` in it.
    fn refused(expected: &str, lie: impl FnOnce(&mut Vec<u8>)) {
        let made = made();
        let mut bytes = fs::read(&made.path).unwrap();
        lie(&mut bytes);
        reseal(&mut bytes);
        fs::write(&made.path, bytes).unwrap();
        let message = fault(&made.path);
        assert!(message.contains(expected), "{message} should say: {expected}");
    }

    /// The same with sections.
    fn section_refused(expected: &str, kind: Kind, lie: impl FnOnce(&str) -> String) {
        let made = made();
        let good = fs::read(&made.path).unwrap();
        let text = Sections::parse(&good).unwrap().section(kind).unwrap().to_vec();
        let text = String::from_utf8(text).unwrap();
        let bad = lie(&text);
        assert_ne!(bad, text, "nothing was changed in\n{text}");
        assert!(rewrite(&good, &[(kind, &bad)], None, &made.path));
        let message = fault(&made.path);
        assert!(message.contains(expected), "{message} should say: {expected}");
    }

    /// Puts a number into the field `field` bytes into the entry of a section.
    fn set(bytes: &mut [u8], kind: Kind, field: usize, value: u64) {
        let entry =
            (0..63).map(|i| 32 + 64 * i).find(|at| bytes[*at..].starts_with(kind.name().as_bytes())).unwrap();
        bytes[entry + field..entry + field + 8].copy_from_slice(&value.to_le_bytes());
    }

    const OFFSET: usize = 16;
    const LENGTH: usize = 24;

    #[test]
    fn size_sum_overflow() {
        refused("is above 2^64 - 1", |bytes| set(bytes, Kind::Weights, LENGTH, u64::MAX - 100));
        refused("is above 2^64 - 1", |bytes| set(bytes, Kind::Weights, OFFSET, u64::MAX - 4095));
    }

    #[test]
    fn dims_product_wrap() {
        // The product is 2^64 elements.
        section_refused("V06", Kind::Graph, |text| {
            text.replace("f32[512, 64]", "f32[4294967295, 4294967295]")
        });
    }

    #[test]
    fn zero_dims() {
        section_refused("V0", Kind::Graph, |text| text.replace("f32[512, 64]", "f32[512, 0]"));
        section_refused("V0", Kind::Graph, |text| text.replace("f32[512, 64]", "f32[0, 64]"));
    }

    #[test]
    fn count_times_size_overflow() {
        for count in [u32::MAX, 1 << 26, 64] {
            refused("sections, expected 1 to 63", |bytes| {
                bytes[12..16].copy_from_slice(&count.to_le_bytes());
            });
        }
        section_refused("plan", Kind::Plan, |text| text.replacen("stride: ", "stride: 9223372036854775", 1));
    }

    #[test]
    fn huge_lengths() {
        refused("at most", |bytes| set(bytes, Kind::Graph, LENGTH, 1 << 40));
        refused("it needs bytes", |bytes| set(bytes, Kind::Weights, LENGTH, 1 << 40));
    }

    #[test]
    fn type_confusion() {
        section_refused("graph", Kind::Graph, |text| text.replacen("\"f32[512, 64]\"", "[512, 64]", 1));
        section_refused("V", Kind::Graph, |text| text.replacen("f32[512, 64]", "i32[512, 64]", 1));
        section_refused("plan", Kind::Plan, |text| text.replacen("kind: Matrix", "kind: Vector", 1));
    }

    #[test]
    fn enum_out_of_range() {
        refused("unknown section", |bytes| bytes[32..40].copy_from_slice(b"manifesu"));
        refused("format version 4294967295", |bytes| bytes[8..12].fill(255));
        section_refused("graph", Kind::Graph, |text| text.replacen("op: RmsNorm", "op: RmsNorn", 1));
        section_refused("target", Kind::Target, |text| text.replacen("portable", "portably", 2));
    }

    #[test]
    fn alignment() {
        refused("is not a multiple of 4096", |bytes| {
            let weights = Sections::parse(bytes).unwrap().entry(Kind::Weights).unwrap().offset();
            set(bytes, Kind::Weights, OFFSET, weights + 64);
            set(bytes, Kind::Weights, LENGTH, 64);
        });
        // Aligning what ends at the end of 64 bits would wrap to the start.
        refused("section `weights`", |bytes| {
            set(bytes, Kind::Weights, OFFSET, u64::MAX - 63);
            set(bytes, Kind::Weights, LENGTH, 63);
        });
    }

    #[test]
    fn overlaps_holes_and_ends() {
        refused("overlaps", |bytes| set(bytes, Kind::Plan, OFFSET, 4096));
        refused("leaves a hole", |bytes| {
            let plan = Sections::parse(bytes).unwrap().entry(Kind::Plan).unwrap().offset();
            set(bytes, Kind::Plan, OFFSET, plan + 64);
        });
        refused("the file has", |bytes| drop(bytes.drain(bytes.len() - 4096..)));
        refused("is the last and ends at byte", |bytes| bytes.extend([0; 64]));
        // The same in memory: a plan that puts two live values in one place.
        section_refused("section plan", Kind::Plan, |text| {
            let (head, buffers) = text.split_once("buffers: [").unwrap();
            let offset = |n| buffers.split("offset: ").nth(n).unwrap().split(',').next().unwrap();
            let (first, second) = (format!("offset: {},", offset(1)), format!("offset: {},", offset(2)));
            format!("{head}buffers: [{}", buffers.replacen(&second, &first, 1))
        });
    }

    #[test]
    fn duplicate_names() {
        refused("occurs twice", |bytes| bytes.copy_within(32..48, 96));
        section_refused("is declared twice", Kind::Graph, |text| text.replace("l1.", "l0."));
        section_refused("duplicate field", Kind::TextConfig, |text| {
            text.replacen('{', "{\"bos_token\": null, \"bos_token\": null,", 1)
        });
    }

    #[test]
    fn shape_above_the_buffer() {
        let made = made();
        let good = fs::read(&made.path).unwrap();
        let weights = Sections::parse(&good).unwrap().weights().to_vec();
        assert!(rewrite(&good, &[], Some(&weights[..weights.len() - 4096]), &made.path));
        let message = fault(&made.path);
        assert!(message.contains("bytes of weights, the section has"), "{message}");
    }

    #[test]
    fn golden_vectors_malformed() {
        let lies: [(&str, &str); 6] = [
            ("expected at least one", "(vectors: [])"),
            ("expected at least one", "(vectors: [(prompt: [], greedy: [1], digest: \"DIGEST\")])"),
            ("expected at least one", "(vectors: [(prompt: [1], greedy: [], digest: \"DIGEST\")])"),
            ("digest", "(vectors: [(prompt: [1], greedy: [1], digest: \"\")])"),
            (
                "outside the vocabulary",
                "(vectors: [(prompt: [4294967295], greedy: [1], digest: \"DIGEST\")])",
            ),
            ("context", "(vectors: [(prompt: [LONG], greedy: [1], digest: \"DIGEST\")])"),
        ];
        for (expected, text) in lies {
            let text = text.replace("DIGEST", &"0".repeat(64)).replace("LONG", &"1,".repeat(100));
            section_refused(expected, Kind::Golden, |_| text);
        }
    }
}

/// GGUF files.
mod gguf {
    use super::*;

    /// Changes a file and expects an error with `expected` in it.
    fn refused(expected: &str, lie: impl FnOnce(&mut Writer)) {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("x.gguf");
        let mut writer = Writer::from_folder(&fixture("tiny-moe"), "f32", false);
        lie(&mut writer);
        writer.write(&path);
        let message = chain(&Source::open(&path).expect_err(expected));
        assert!(message.contains(expected), "{message} should say: {expected}");
    }

    #[test]
    fn size_sum_overflow() {
        refused("the size of tensor", |w| {
            w.tensors[0].ne = vec![(1 << 61) - 16];
            w.tensors[1].ne = vec![1 << 61];
        });
    }

    #[test]
    fn dims_product_wrap() {
        refused("expected a size that a file can have", |w| w.tensors[0].ne = vec![1 << 33, 1 << 33]);
        refused("expected a size that a file can have", |w| {
            w.tensors[0].ne = vec![1 << 32, 1 << 16, 1 << 16, 64]
        });
    }

    #[test]
    fn zero_dims() {
        refused("the shape of", |w| w.tensors[0].ne[0] = 0);
        refused("the shape of", |w| w.tensors[0].ne = vec![0, 0, 0, 0]);
        refused("the number of dimensions", |w| w.tensors[0].dims = Some(0));
    }

    #[test]
    fn count_times_size_overflow() {
        refused("the number of tensors", |w| w.counts = Some((1 << 59, 1)));
        refused("the number of metadata keys", |w| w.counts = Some((1, u64::MAX)));
        refused("the length of \"x\"", |w| {
            w.put("x", 9, [&10u32.to_le_bytes()[..], &(1u64 << 61).to_le_bytes()].concat());
        });
    }

    #[test]
    fn huge_lengths() {
        refused("the length of", |w| w.put("general.name", 8, (1u64 << 40).to_le_bytes().to_vec()));
        refused("the length of", |w| {
            w.put("x", 9, [&8u32.to_le_bytes()[..], &(1u64 << 32).to_le_bytes()].concat());
        });
        refused("the length of a metadata key", |w| w.u32(&"k".repeat(1 << 20), 1));
    }

    #[test]
    fn type_confusion() {
        refused("an array of 512 numbers or booleans", |w| {
            let floats = [&6u32.to_le_bytes()[..], &512u64.to_le_bytes(), &[0; 2048]].concat();
            w.put("tokenizer.ggml.token_type", 9, floats);
        });
        refused("tokenizer.ggml.tokens", |w| w.integers("tokenizer.ggml.tokens", &[1; 512]));
        refused("lfm2moe.block_count", |w| w.put("lfm2moe.block_count", 8, string("4")));
        refused("general.architecture", |w| w.u32("general.architecture", 1));
    }

    #[test]
    fn enum_out_of_range() {
        refused("has type number", |w| w.tensors[0].kind = u32::MAX);
        refused("the type of \"x\"", |w| w.put("x", u32::MAX, vec![0; 8]));
        refused("the number of dimensions", |w| w.tensors[0].dims = Some(u32::MAX));
        refused("the number of dimensions", |w| w.tensors[0].dims = Some(5));
    }

    #[test]
    fn alignment() {
        for bad in [0, 3, 48, 1 << 31, u32::MAX as usize] {
            refused("general.alignment", |w| w.u32("general.alignment", bad));
        }
    }

    #[test]
    fn overlaps_holes_and_ends() {
        refused("the offset of tensor", |w| w.tensors[1].offset = Some(0));
        refused("the offset of tensor", |w| w.tensors[1].offset = Some(1 << 30));
        refused("the offset of tensor", |w| w.tensors[0].offset = Some(u64::MAX - 31));
        refused("the rest of the file", |w| w.tensors.last_mut().unwrap().ne = vec![1]);
    }

    #[test]
    fn duplicate_names() {
        refused("there twice", |w| w.keys.push(w.keys[0].clone()));
        refused("there twice", |w| w.tensors[1].name = w.tensors[0].name.clone());
    }

    #[test]
    fn shape_above_the_buffer() {
        refused("the size of tensor", |w| w.tensors.last_mut().unwrap().ne = vec![64, 1 << 30]);
        refused("for which", |w| {
            let (name, data) = ("blk.0.other".to_owned(), vec![0; 32]);
            w.tensors.push(Entry { name, dims: None, ne: vec![8], kind: 0, offset: None, data });
        });
    }

    #[test]
    fn truncated_after_opening() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("x.gguf");
        Writer::from_folder(&fixture("all-conv"), "f32", false).write(&path);
        let source = Source::open(&path).unwrap();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(fs::metadata(&path).unwrap().len() / 2).unwrap();
        let mut options =
            lfm_export::bundle::Options::new(lfm_graphs::target::Target::builtin("portable").unwrap());
        options.context = Some(32);
        let out = folder.path().join("x.lfmb");
        let error = lfm_export::bundle::export(&source, &options, &out, |_| {}).unwrap_err();
        assert!(chain(&error).contains("x.gguf"), "{}", chain(&error));
        assert!(!out.exists());
    }
}

/// Safetensors files; `model/tests/hostile.rs` has more, among them one that is cut after it was opened.
mod safetensors {
    use super::*;

    const EMBEDDING: &str = "model.embed_tokens.weight";
    const NORM: &str = "model.embedding_norm.weight";

    /// Changes the header of a file and expects an error with `expected` in it.
    fn refused(expected: &str, lie: impl FnOnce(&mut Map<String, Value>)) {
        text_refused(expected, |text| {
            let mut header = serde_json::from_str(text).unwrap();
            lie(&mut header);
            Value::Object(header).to_string()
        });
    }

    /// The same with the header's text.
    fn text_refused(expected: &str, lie: impl FnOnce(&str) -> String) {
        refused_with(expected, |text, data| {
            let text = lie(text);
            [&(text.len() as u64).to_le_bytes(), text.as_bytes(), data].concat()
        });
    }

    fn refused_with(expected: &str, lie: impl FnOnce(&str, &[u8]) -> Vec<u8>) {
        let folder = TempDir::new().unwrap();
        fs::copy(fixture("all-conv").join("config.json"), folder.path().join("config.json")).unwrap();
        let good = fs::read(fixture("all-conv").join("model.safetensors")).unwrap();
        let end = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
        let bad = lie(std::str::from_utf8(&good[8..end]).unwrap(), &good[end..]);
        fs::write(folder.path().join("model.safetensors"), bad).unwrap();
        let message = chain(&Source::folder(folder.path()).expect_err(expected));
        assert!(message.contains(expected), "{message} should say: {expected}");
    }

    #[test]
    fn size_sum_overflow() {
        refused(NORM, |header| header[NORM]["data_offsets"] = json!([u64::MAX - 79, u64::MAX]));
        refused(NORM, |header| header[NORM]["data_offsets"] = json!([u64::MAX, 79]));
    }

    #[test]
    fn dims_product_wrap() {
        refused("overflows", |header| header[EMBEDDING]["shape"] = json!([1u64 << 33, 1u64 << 33]));
        refused("overflows", |header| header[EMBEDDING]["shape"] = json!([1u64 << 63, 1]));
    }

    #[test]
    fn zero_dims() {
        refused("is 0 bytes", |header| header[EMBEDDING]["shape"] = json!([0, 40]));
        refused(EMBEDDING, |header| {
            // A product that passes as zero before it wraps.
            header[EMBEDDING]["shape"] = json!([0, u64::MAX, u64::MAX]);
        });
    }

    #[test]
    fn count_times_size_overflow() {
        for length in [u64::MAX, u64::MAX - 7, 1 << 63] {
            refused_with("its length is", |text, data| {
                [&length.to_le_bytes(), text.as_bytes(), data].concat()
            });
        }
    }

    #[test]
    fn huge_lengths() {
        refused_with("its length is", |text, data| {
            [&(1u64 << 40).to_le_bytes(), text.as_bytes(), data].concat()
        });
        refused("dimensions", |header| header[EMBEDDING]["shape"] = json!(vec![1; 100_000]));
    }

    #[test]
    fn type_confusion() {
        refused("invalid type", |header| header[EMBEDDING]["shape"] = json!("64"));
        refused("invalid", |header| header[EMBEDDING]["shape"] = json!([64.5, 40]));
        refused("invalid", |header| header[EMBEDDING]["shape"] = json!([-64, -40]));
        refused(EMBEDDING, |header| header[EMBEDDING]["dtype"] = json!("F32"));
    }

    #[test]
    fn enum_out_of_range() {
        refused("expected F32, F16 or BF16", |header| header[EMBEDDING]["dtype"] = json!("I64"));
        refused("expected F32, F16 or BF16", |header| header[EMBEDDING]["dtype"] = json!("\u{1b}[2J"));
    }

    #[test]
    fn overlaps_holes_and_ends() {
        refused("overlap", |header| header[NORM]["data_offsets"] = json!([0, 160]));
        refused("leave a hole", |header| drop(header.remove(NORM)));
        refused_with("but the file has", |text, data| {
            [&(text.len() as u64).to_le_bytes(), text.as_bytes(), data, b"more"].concat()
        });
    }

    #[test]
    fn duplicate_names() {
        text_refused("comes twice", |text| text.replacen(NORM, EMBEDDING, 1));
    }

    #[test]
    fn shape_above_the_buffer() {
        refused(EMBEDDING, |header| header[EMBEDDING]["shape"] = json!([64, 1 << 20]));
        refused(NORM, |header| header[NORM]["data_offsets"] = json!([0, 1u64 << 40]));
    }

    #[test]
    fn paths_out_of_the_folder() {
        let folder = TempDir::new().unwrap();
        fs::copy(fixture("all-conv").join("config.json"), folder.path().join("config.json")).unwrap();
        for name in ["../model.safetensors", "/etc/passwd", "a/../../x.safetensors"] {
            let index = json!({"weight_map": {EMBEDDING: name}}).to_string();
            fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
            let message = chain(&Source::folder(folder.path()).unwrap_err());
            assert!(message.contains("expected a plain name"), "{message}");
        }
    }
}

/// Chat templates and tokenizers: what takes for ever, or more memory than there is.
mod text {
    use lfm_runtime::text::{ChatRequest, ChatTemplate, Tokenizer};
    use lfm_tests::fuzz::seeds::seeds;

    use super::*;

    fn rendered(template: &str) -> Result<String, lfm_runtime::text::TextError> {
        ChatTemplate::new(template)?.render(&ChatRequest::new().message("user", "Hi"), &[])
    }

    #[test]
    fn template_recursion() {
        for template in [
            "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
            "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ b() }}",
            "{% include 'template' %}",
            "{% extends 'template' %}",
            "{% for x in messages recursive %}{{ loop(messages) }}{% endfor %}",
        ] {
            rendered(template).expect_err(template);
        }
        rendered(&format!("{}1{}", "{{ ".to_owned() + &"(".repeat(50_000), ")".repeat(50_000) + " }}"))
            .unwrap_err();
    }

    #[test]
    fn pathological_templates() {
        let nested = "{% for a in range(1000) %}".repeat(6) + "x" + &"{% endfor %}".repeat(6);
        rendered(&nested).unwrap_err();
        rendered("{{ 'x' * 100000000000 }}").unwrap_err();
        rendered("{{ range(100000000000)|list|length }}").unwrap_err();
    }

    /// A tokenizer with other split patterns or merges.
    fn tokenizer(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, lfm_runtime::text::TextError> {
        let mut json: Value = serde_json::from_slice(&seeds("tokenizer")[0]).unwrap();
        change(&mut json);
        Tokenizer::from_bytes(json.to_string().as_bytes())
    }

    /// Patterns that a backtracking engine needs exponential time for end with an error, or do not.
    #[test]
    fn pathological_regex() {
        let hostile = "a".repeat(5000) + "!";
        for pattern in [r"(a+)+$", r"(a|aa)+$", r"(?=(a+)+$)x", r"(.*)*\1$", r"(a?){100}a{100}"] {
            let made = tokenizer(|json| {
                json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
                    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
            });
            if let Ok(tokenizer) = made {
                let _ = tokenizer.encode(&hostile, true, true);
            }
        }
        let deep = "(".repeat(10_000) + &")".repeat(10_000);
        assert!(
            tokenizer(|json| json["pre_tokenizer"] = json!({"type": "Split", "pattern": {"Regex": deep}}))
                .is_err()
        );
    }

    /// One long word of equal letters, of which every pair merges: quadratic where merges are looked for from the start.
    #[test]
    fn pathological_merges() {
        let made = tokenizer(|json| {
            let letters: Vec<String> = (0..12).map(|n| "a".repeat(1 << n)).collect();
            let vocab = json["model"]["vocab"].as_object_mut().unwrap();
            for token in &letters[1..] {
                let next = vocab.len();
                vocab.entry(token.as_str()).or_insert(next.into());
            }
            let next = vocab.len();
            for (index, token) in json["added_tokens"].as_array_mut().unwrap().iter_mut().enumerate() {
                token["id"] = (next + index).into();
            }
            let pairs: Vec<Value> = letters[..11].iter().map(|part| json!([part, part])).collect();
            json["model"]["merges"] = pairs.into();
        });
        let tokenizer = made.unwrap();
        let ids = tokenizer.encode(&"a".repeat(200_000), true, true).unwrap();
        assert_eq!(tokenizer.decode(&ids, true), "a".repeat(200_000));
    }
}
