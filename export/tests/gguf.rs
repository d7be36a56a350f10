//! GGUF files as a source: the same model as the checkpoint folder that they were made of, and no harm from bad
//! ones.

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::gguf::{Entry, Writer, mixture, number, scales};
use common::repository;
use lfm_export::bundle::{ExportError, Options, Source, compile, export};
use lfm_export::gguf::{Type, gguf_name};
use lfm_graphs::bundle::{Golden, Kind};
use lfm_graphs::plan::WeightKind;
use lfm_graphs::target::Target;
use lfm_graphs::testing::Rng;
use lfm_graphs::weights::pack::unpack;
use lfm_model::canonical_name;
use lfm_runtime::Model;
use lfm_runtime::text::{ChatRequest, Text};
use tempfile::TempDir;

fn fixture(name: &str) -> PathBuf {
    repository(&format!("tests/fixtures/{name}"))
}

fn options(recipe: Option<&str>) -> Options {
    let mut options = Options::new(Target::builtin("portable").unwrap());
    options.recipe = recipe.map(|name| name.parse().unwrap());
    options.context = Some(128);
    options.chunk = Some(32);
    options
}

/// What a bundle says and computes.
struct Made {
    graph: String,
    weights: Vec<u8>,
    golden: Golden,
    recipe: String,
    source: &'static str,
    text: Option<Text>,
}

fn make(source: &Path, recipe: Option<&str>) -> Made {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.lfmb");
    export(&Source::open(source).unwrap(), &options(recipe), &path, |_| {}).unwrap();
    let model = Model::open(&path).unwrap();
    let place = model.sections().iter().find(|section| section.kind() == Kind::Weights).unwrap();
    let (at, length) = (place.offset() as usize, place.length() as usize);
    Made {
        graph: model.graph().text(),
        weights: fs::read(&path).unwrap()[at..at + length].to_vec(),
        golden: model.golden().unwrap().unwrap(),
        recipe: model.manifest().recipe.clone(),
        source: model.manifest().source.name(),
        text: model.section(Kind::Tokenizer).map(|_| model.text().unwrap()),
    }
}

/// Exports a folder directly and by way of a GGUF file; both bundles must be one model.
fn both_routes(checkpoint: &Path, recipe: &str, bf16: bool) -> (Made, Made) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    Writer::from_folder(checkpoint, recipe, bf16).write(&path);
    let (hf, gguf) = (make(checkpoint, Some(recipe)), make(&path, None));
    let name = checkpoint.display();
    assert_eq!((hf.source, gguf.source), ("hf", "gguf"));
    assert_eq!(hf.recipe, gguf.recipe, "{name} {recipe}");
    assert_eq!(hf.graph, gguf.graph, "{name} {recipe}");
    assert!(hf.weights == gguf.weights, "{name} {recipe}: other weights");
    assert_eq!(hf.golden, gguf.golden, "{name} {recipe}");
    (hf, gguf)
}

#[test]
fn both_routes_give_one_model() {
    for name in ["tiny-moe", "tiny-dense"] {
        for recipe in ["f32", "f16", "q8_0", "q4_0"] {
            both_routes(&fixture(name), recipe, false);
        }
    }
    for name in ["tiny-moe-bf16", "tiny-dense-bf16"] {
        both_routes(&fixture(name), "f32", true);
    }
    // Kernels of one tap, and a model without attention.
    both_routes(&fixture("all-conv"), "f32", false);
    both_routes(&fixture("all-attention"), "f32", false);
    // The only one whose rows fill blocks of 256.
    both_routes(&repository("model/demo"), "q4_0", false);
    both_routes(&repository("model/demo"), "q6_k", false);
}

#[test]
fn blocks_of_every_type_are_in_the_bundle_byte_for_byte() {
    let folder = TempDir::new().unwrap();
    let (path, out) = (folder.path().join("x.gguf"), folder.path().join("x.lfmb"));
    let writer = mixture(&mut Rng::new(5));
    writer.write(&path);
    let exported = export(&Source::open(&path).unwrap(), &options(None), &out, |_| {}).unwrap();
    assert_eq!(exported.manifest.recipe, "q4_k", "the type of most elements");
    let model = Model::open(&out).unwrap();
    let place = model.sections().iter().find(|section| section.kind() == Kind::Weights).unwrap();
    let file = fs::read(&out).unwrap();
    let weights = &file[place.offset() as usize..][..place.length() as usize];
    let mut seen = Vec::new();
    for (weight, slot) in model.graph().weights().values().zip(&model.plan().weights) {
        let name = gguf_name(&canonical_name(&weight.param)).unwrap();
        let entry = writer.tensors.iter().find(|entry| entry.name == name).unwrap();
        let kind = Type::ALL.into_iter().find(|kind| number(*kind) == entry.kind).unwrap();
        assert_eq!(slot.format, kind.format(), "{name}");
        let (rows, k) = (slot.rows as usize, slot.k as usize);
        let mut canonical = vec![0xee; rows * slot.format.row_bytes(k).unwrap()];
        assert_eq!(entry.data.len(), slot.count as usize * canonical.len(), "{name}");
        for (index, expected) in entry.data.chunks(canonical.len()).enumerate() {
            let packed = &weights[(slot.offset + index as u64 * slot.stride) as usize..];
            if slot.kind == WeightKind::Vector {
                canonical.copy_from_slice(&packed[..expected.len()]);
            } else {
                unpack(slot.format, rows, k, &packed[..slot.stride as usize], &mut canonical).unwrap();
            }
            assert!(canonical == expected, "{name}: matrix {index} is not that of the file");
        }
        seen.push(kind);
    }
    assert_eq!(seen.len(), writer.tensors.len());
    assert!(
        Type::ALL
            .into_iter()
            .filter(|kind| !matches!(kind, Type::F16 | Type::Bf16))
            .all(|k| seen.contains(&k))
    );

    // The report has them by use.
    let inspect = ["inspect", out.to_str().unwrap()];
    let output = Command::new(env!("CARGO_BIN_EXE_lfmc")).args(inspect).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let at = text.find("\nroles").unwrap();
    insta::assert_snapshot!(&text[at..at + text[at..].find("\noperations").unwrap()]);
}

#[test]
fn gate_and_up_have_one_type() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.gguf");
    let good = mixture(&mut Rng::new(6));
    for name in ["blk.0.ffn_up.weight", "blk.4.ffn_up_exps.weight"] {
        let mut mixed = good.clone();
        mixed.retype(name, Type::Q6K, &mut Rng::new(7));
        mixed.write(&path);
        let error = chain(&compile(&Source::open(&path).unwrap(), &options(None)).unwrap_err());
        assert!(error.contains("gate and up are stored as q4_k and q6_k, expected one format"), "{error}");
    }
}

#[test]
fn scales_that_are_no_numbers_are_refused() {
    let folder = TempDir::new().unwrap();
    let (path, out) = (folder.path().join("x.gguf"), folder.path().join("x.lfmb"));
    let good = mixture(&mut Rng::new(8));
    for kind in [Type::Q8_0, Type::Q4_0, Type::Q4K, Type::Q5K, Type::Q6K] {
        let which = good.tensors.iter().position(|entry| entry.kind == number(kind)).unwrap();
        let size = kind.block_bytes() as usize;
        for (at, bits) in scales(kind).iter().zip([0x7c00u16, 0xfe01]) {
            let mut bad = good.clone();
            let entry = &mut bad.tensors[which];
            let at = entry.data.len() - size + at;
            entry.data[at..at + 2].copy_from_slice(&bits.to_le_bytes());
            bad.write(&path);
            let error = export(&Source::open(&path).unwrap(), &options(None), &out, |_| {}).unwrap_err();
            assert!(matches!(error, ExportError::Pack { .. }), "{error}");
            assert!(chain(&error).contains("infinite or NaN"), "{error}");
            assert!(!out.exists());
        }
        // Less than the shape says, in the middle of the file and at its end: some blocks, more than padding hides.
        for last in [false, true] {
            let mut short = good.clone();
            let at = short.tensors.iter().position(|entry| entry.kind == number(kind)).unwrap();
            if last {
                let entry = short.tensors.remove(at);
                short.tensors.push(entry);
            }
            let at = if last { short.tensors.len() - 1 } else { at };
            let data = &mut short.tensors[at].data;
            data.truncate(data.len() - 32usize.next_multiple_of(size));
            short.write(&path);
            let error = chain(&Source::open(&path).map(drop).expect_err(kind.name()));
            let expected = if last { "left in the file" } else { "the offset of tensor" };
            assert!(error.contains(expected), "{} {last}: {error}", kind.name());
        }
    }
}

/// A copy of a checkpoint folder with a head of its own: `lm_head.weight`, the embedding with its rows reversed.
fn untied(checkpoint: &Path) -> TempDir {
    let folder = TempDir::new().unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(checkpoint.join(name), folder.path().join(name)).unwrap();
    }
    let config = fs::read_to_string(checkpoint.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["tie_word_embeddings"] = false.into();
    config["tie_embedding"] = false.into();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let file = fs::read(checkpoint.join("model.safetensors")).unwrap();
    let (length, rest) = file.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let mut head = header["model.embed_tokens.weight"].clone();
    let [from, to] = [0, 1].map(|i| head["data_offsets"][i].as_u64().unwrap() as usize);
    head["data_offsets"] = vec![data.len(), data.len() + to - from].into();
    let row = (to - from) / head["shape"][0].as_u64().unwrap() as usize;
    header["lm_head.weight"] = head;
    let reversed = data[from..to].chunks(row).rev().collect::<Vec<_>>().concat();
    let header = header.to_string().into_bytes();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, data, &reversed].concat();
    fs::write(folder.path().join("model.safetensors"), file).unwrap();
    folder
}

#[test]
fn a_head_of_its_own_is_taken_over() {
    for (checkpoint, recipes) in
        [(fixture("tiny-dense"), &["f32", "q8_0"][..]), (repository("model/demo"), &["q4_0"])]
    {
        let folder = untied(&checkpoint);
        for recipe in recipes {
            let (_, untied) = both_routes(folder.path(), recipe, false);
            assert!(untied.graph.contains("\"lm_head.weight\""), "{}", untied.graph);
            let tied = make(&checkpoint, Some(recipe));
            assert_ne!(untied.golden, tied.golden, "the head is not read");
        }
    }
}

#[test]
fn chat_templates_with_names_are_left_out_with_a_note() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.gguf");
    let mut writer = small();
    writer.text("tokenizer.chat_template", "{{ messages[0].content }}");
    writer.write(&path);
    assert!(Source::open(&path).unwrap().notes().is_empty());
    writer.text("tokenizer.chat_template.tool_use", "{% no template");
    writer.strings("tokenizer.chat_templates", &["tool_use".to_owned()]);
    writer.write(&path);
    let source = Source::open(&path).unwrap();
    let expected = "the chat template \"tool_use\" is left out: a bundle holds the default one";
    assert_eq!(source.notes(), [expected]);
    assert_eq!(source.text().unwrap().chat_template.as_deref(), Some(&b"{{ messages[0].content }}"[..]));
    let out = folder.path().join("x.lfmb");
    let args = ["export", path.to_str().unwrap(), "-o", out.to_str().unwrap(), "--context", "128"];
    let output = Command::new(env!("CARGO_BIN_EXE_lfmc")).args(args).output().unwrap();
    let notes = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && notes.contains(expected), "{notes}");
}

#[test]
fn both_routes_speak_alike() {
    for checkpoint in [fixture("tiny-moe"), repository("model/demo")] {
        let (hf, gguf) = both_routes(&checkpoint, "f16", false);
        let (hf, gguf) = (hf.text.unwrap(), gguf.text.unwrap());
        let texts = [
            "",
            "What is a gated short convolution?",
            "let x: Vec<u32> = (0..1234).map(|i| i * 2).collect();\n\n\tx.len()  ",
            "I'll don't WE'RE über façade 日本語 🦀 12345678",
            "<|im_start|>user\nHi<|im_end|>\n",
        ];
        for text in texts {
            for (bos, special) in [(false, false), (true, true)] {
                let ids = hf.tokenizer.encode(text, bos, special).unwrap();
                assert_eq!(gguf.tokenizer.encode(text, bos, special).unwrap(), ids, "{text:?}");
                assert_eq!(gguf.tokenizer.decode(&ids, false), hf.tokenizer.decode(&ids, false));
            }
        }
        let request = ChatRequest::new().message("system", "Be brief.").message("user", "What is `Vec`?");
        assert_eq!(gguf.render(&request).unwrap(), hf.render(&request).unwrap());
        assert_eq!(gguf.encode_chat(&request).unwrap(), hf.encode_chat(&request).unwrap());
        assert_eq!((gguf.bos(), gguf.eos()), (hf.bos(), hf.eos()));
        let special = |text: &Text| text.tokenizer.special_ids().collect::<Vec<_>>();
        assert_eq!(special(&gguf), special(&hf));
    }
}

#[test]
fn the_command_line_takes_files() {
    let folder = TempDir::new().unwrap();
    // The name does not matter, the first bytes do.
    let file = folder.path().join("model.bin");
    Writer::from_folder(&fixture("tiny-moe"), "q8_0", false).write(&file);
    let (file, out) = (file.to_str().unwrap(), folder.path().join("x.lfmb"));
    let lfmc = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_lfmc")).args(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, _, notes) = lfmc(&["export", file, "-o", out.to_str().unwrap(), "--context", "128"]);
    assert_eq!(code, Some(0), "{notes}");
    let checkpoint = fixture("tiny-moe");
    for stage in ["captured", "lowered", "fused", "plan"] {
        let of_file = lfmc(&["graph", file, "--stage", stage, "--context", "128"]);
        let of_folder = ["graph", checkpoint.to_str().unwrap(), "--stage", stage, "--weights", "q8_0"];
        let of_folder = lfmc(&[&of_folder[..], &["--context", "128"]].concat());
        assert_eq!(of_file.0, Some(0), "{}", of_file.2);
        if stage == "plan" {
            // The plan has room for the tokenizer, of which the folder's `graph` knows nothing.
            assert!(of_file.1.contains("q8_0"), "{}", of_file.1);
        } else {
            assert!(of_file.1 == of_folder.1, "{stage} differs");
        }
    }
    let (code, _, message) = lfmc(&["export", file, "-o", out.to_str().unwrap(), "--weights", "q4_0"]);
    assert_eq!(code, Some(2));
    assert!(message.contains("without --weights"), "{message}");
    // Nor are its formats made of anything else.
    let folder = fixture("tiny-moe");
    let folder = folder.to_str().unwrap();
    let (code, _, message) = lfmc(&["export", folder, "-o", out.to_str().unwrap(), "--weights", "q4_k"]);
    assert_eq!(code, Some(2));
    assert!(
        message.contains("quantised to q4_k") && message.contains("f32, f16, q8_0, q4_0, q6_k"),
        "{message}"
    );
}

/// Everything that an error says.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A sound file to be damaged, with a tokenizer.
fn small() -> Writer {
    Writer::from_folder(&fixture("tiny-moe"), "f32", false)
}

#[test]
fn every_class_of_lie_is_named() {
    type Lie = fn(&mut Writer);
    let wrap = 1u64 << 62;
    assert_eq!(wrap.wrapping_mul(4), 0, "what a product without checks would be");
    let lies: [(&str, Lie); 47] = [
        ("the version is 2", |w| w.version = 2),
        ("big-endian", |w| w.version = 3u32.swap_bytes()),
        ("the number of tensors is 18446744073709551615", |w| w.counts = Some((u64::MAX, 1))),
        ("the number of metadata keys is 9223372036854775808", |w| w.counts = Some((1, 1 << 63))),
        ("the length of \"general.name\" is", |w| w.put("general.name", 8, u64::MAX.to_le_bytes().to_vec())),
        ("the length of \"x\" is 4611686018427387904", |w| {
            // Four times this is zero in 64 bits.
            w.put("x", 9, [&5u32.to_le_bytes()[..], &(1u64 << 62).to_le_bytes()].concat());
        }),
        ("the type of elements of \"x\" is 9", |w| w.put("x", 9, [9, 0, 0, 0].repeat(4))),
        ("the type of elements of \"x\" is 4294967295", |w| w.put("x", 9, vec![255; 12])),
        ("the type of \"x\" is 13", |w| w.put("x", 13, vec![0; 8])),
        ("the boolean \"x\" is 2", |w| w.put("x", 7, vec![2])),
        ("not UTF-8", |w| w.put("x", 8, [&2u64.to_le_bytes()[..], &[0xc3, 0x28]].concat())),
        ("there twice", |w| w.keys.push(w.keys[1].clone())),
        ("the length of a metadata key is 300 bytes", |w| w.u32(&"k".repeat(300), 1)),
        ("`general.alignment` is 0", |w| w.u32("general.alignment", 0)),
        ("`general.alignment` is 48", |w| w.u32("general.alignment", 48)),
        ("`general.alignment` is 2147483648", |w| w.u32("general.alignment", 1 << 31)),
        ("`general.alignment` is 32, expected a power", |w| w.put("general.alignment", 5, vec![32, 0, 0, 0])),
        ("the number of dimensions of token_embd.weight is 0", |w| w.tensors[0].dims = Some(0)),
        ("the number of dimensions of token_embd.weight is 5", |w| w.tensors[0].dims = Some(5)),
        ("the shape of token_embd.weight is [0, 512]", |w| w.tensors[0].ne[0] = 0),
        ("the shape of token_embd.weight is [64, 0]", |w| w.tensors[0].ne[1] = 0),
        ("expected a size that a file can have", |w| w.tensors[0].ne = vec![1 << 62, 4]),
        ("expected a size that a file can have", |w| w.tensors[0].ne = vec![1 << 33, 1 << 33]),
        ("the size of tensor \"token_embd.weight\"", |w| w.tensors[0].ne[1] = 1 << 40),
        // Sizes that are each possible and wrap only when they are summed.
        ("the size of tensor \"token_embd.weight\"", |w| {
            w.tensors[0].ne = vec![(1 << 61) - 16];
            w.tensors[1].ne = vec![1 << 61];
        }),
        ("a multiple of 32", |w| (w.tensors[0].ne[0], w.tensors[0].kind) = (63, 8)),
        ("rows of Q4_K a multiple of 256", |w| w.tensors[0].kind = 12),
        ("rows of Q5_K a multiple of 256", |w| w.tensors[0].kind = 13),
        // 2^63 elements: the bytes fit into 64 bits, the elements times a block's bytes do not.
        ("the size of tensor \"token_embd.weight\"", |w| {
            (w.tensors[0].ne, w.tensors[0].kind) = (vec![1 << 40, 1 << 23], 12);
        }),
        ("has type Q4_1, which is not supported yet", |w| w.tensors[0].kind = 3),
        ("has type Q5_0, which is not supported yet", |w| w.tensors[0].kind = 6),
        ("has type number 4294967295", |w| w.tensors[0].kind = u32::MAX),
        ("the offset of tensor", |w| w.tensors[1].offset = Some(0)),
        ("the offset of tensor", |w| w.tensors[1].offset = Some(u64::MAX)),
        ("the offset of tensor", |w| w.tensors[0].offset = Some(32)),
        ("the offset of tensor", |w| w.tensors[2].offset = Some(131_073)),
        ("there twice", |w| w.tensors[1].name = w.tensors[0].name.clone()),
        ("a tensor's name is", |w| w.tensors[1].name = "a\x1b[2J".into()),
        ("lacks the tensors token_embd_norm.weight", |w| {
            w.tensors.retain(|entry| entry.name != "token_embd_norm.weight");
        }),
        // Convolutions with biases have no names in such files.
        ("has the tensors blk.0.shortconv.conv.bias, for which", |w| {
            let (name, data) = ("blk.0.shortconv.conv.bias".to_owned(), vec![0; 256]);
            w.tensors.push(Entry { name, dims: None, ne: vec![64], kind: 0, offset: None, data });
        }),
        ("the rest of the file", |w| w.tensors.last_mut().unwrap().ne = vec![1]),
        ("lacks the metadata key `lfm2moe.block_count`", |w| w.remove("lfm2moe.block_count")),
        ("`lfm2moe.expert_gating_func` is 1", |w| w.u32("lfm2moe.expert_gating_func", 1)),
        ("`lfm2moe.attention.head_count_kv` is an array of 2", |w| {
            w.integers("lfm2moe.attention.head_count_kv", &[0, 2]);
        }),
        ("an array of 512 numbers or booleans", |w| {
            let floats = [&6u32.to_le_bytes()[..], &512u64.to_le_bytes(), &[0; 2048]].concat();
            w.put("tokenizer.ggml.token_type", 9, floats);
        }),
        ("num_attention_heads is 0", |w| w.u32("lfm2moe.attention.head_count", 0)),
        ("`tokenizer.ggml.pre` is \"qwen2\"", |w| w.text("tokenizer.ggml.pre", "qwen2")),
    ];
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.gguf");
    let good = small();
    for (expected, lie) in lies {
        let mut bad = good.clone();
        lie(&mut bad);
        bad.write(&path);
        let error = chain(&Source::open(&path).expect_err(expected));
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!error.contains('\x1b'), "{error:?}");
    }
    // Not part of the header: a cut, more bytes, and a type that vectors cannot have.
    let (bytes, header) = good.bytes();
    for (cut, expected) in [
        (2, "expected a folder"),
        (10, "left of the header"),
        (header - 1, "left of the header"),
        (bytes.len() - 32, "left in the file"),
    ] {
        fs::write(&path, &bytes[..cut]).unwrap();
        let error = chain(&Source::open(&path).unwrap_err());
        assert!(error.contains(expected), "{cut}: {error}");
    }
    fs::write(&path, [&bytes[..], &[0]].concat()).unwrap();
    assert!(chain(&Source::open(&path).unwrap_err()).contains("the rest of the file is 1 bytes"));
    let mut quantised_norm = good.clone();
    let entry = quantised_norm.tensor("token_embd_norm.weight");
    (entry.kind, entry.data) = (8, vec![0; 68]);
    quantised_norm.write(&path);
    assert!(chain(&Source::open(&path).unwrap_err()).contains("the type is Q8_0"));
    // A value that is no number is found when it is packed.
    let mut infinite = good.clone();
    infinite.tensors[0].data[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
    infinite.write(&path);
    let out = folder.path().join("x.lfmb");
    let error = export(&Source::open(&path).unwrap(), &options(None), &out, |_| {}).unwrap_err();
    assert!(matches!(error, ExportError::Pack { .. }), "{error}");
    assert!(!out.exists());
}

#[test]
fn damage_is_an_error_or_harmless() {
    let folder = TempDir::new().unwrap();
    let (path, out) = (folder.path().join("x.gguf"), folder.path().join("x.lfmb"));
    let (good, header) = small().bytes();
    let mut rng = Rng::new(3);
    let (mut refused, mut exported) = (0, 0);
    for _ in 0..2000 {
        let mut bad = good.clone();
        let at = rng.below(header as u32 - 8) as usize;
        let what = rng.below(5);
        match what {
            0 | 1 => bad[at] ^= 1 << rng.below(8),
            2 => bad.truncate(rng.below(good.len() as u32) as usize),
            3 => {
                let edges = [0, 1, 2, u64::from(u32::MAX), 1 << 32, 1 << 62, 1 << 63, u64::MAX];
                bad[at..at + 8].copy_from_slice(&rng.pick(&edges).to_le_bytes());
            }
            _ => {
                let from = rng.below(header as u32 - 8) as usize;
                bad.copy_within(from..from + 8, at);
            }
        }
        fs::write(&path, &bad).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let source = Source::open(&path)?;
            // Most that passes has other tokens, which no weight knows of: some exports tell enough.
            if exported < 40 {
                export(&source, &options(None), &out, |_| {})?;
            }
            Ok::<(), ExportError>(())
        }));
        match outcome.unwrap_or_else(|_| panic!("a panic: damage {what} at byte {at}")) {
            Ok(()) => exported += 1,
            // A fault in what was written would be one of the exporter.
            Err(error) => {
                assert!(!matches!(error, ExportError::ReadBack(_)), "damage {what} at byte {at}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > 1000 && exported > 40, "{refused} refused, {exported} exported");
}
