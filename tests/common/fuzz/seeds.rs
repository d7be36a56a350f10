//! What fuzzers start from: a few sound inputs of each target, made by the code that makes the real ones.

use std::fs;

use lfm_graphs::bundle::{Bundle as Sections, Kind};
use lfm_graphs::plan::{Limits, plan};
use lfm_graphs::target::Target;
use lfm_graphs::testing::{Mixer, Tiny, random_graph, tiny_graph};

use super::sessions::small;
use crate::gguf::Writer;
use crate::{Bundle, fixture};

/// Sound inputs of a target.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    let files = |name: &str, of: &[&str]| -> Vec<Vec<u8>> {
        of.iter().map(|folder| fs::read(fixture(folder).join(name)).unwrap()).collect()
    };
    match target {
        "config" => files("config.json", &["tiny-moe", "tiny-dense", "tiny-dense-legacy", "odd-moe"]),
        "safetensors" => files("model.safetensors", &["all-conv"]),
        "shard_index" => files("model.safetensors.index.json", &["tiny-moe-sharded"]),
        "gguf" => vec![Writer::from_folder(&fixture("all-conv"), "f32", true).bytes().0],
        "gguf_text" => vec![small_gguf()],
        "graph" => graphs(),
        "plan" => {
            let limits = Limits { chunk: 4, context: 16, overhead: 0, ram: None };
            vec![plan(&tiny_graph(&Tiny::moe()), limits).unwrap().text().into_bytes()]
        }
        "target" => Target::builtins().iter().map(|target| target.text().into_bytes()).collect(),
        "manifest" => sections(Kind::Manifest),
        "golden" => sections(Kind::Golden),
        "bundle" | "model" => bundles(),
        "session" => sessions(),
        "tokenizer" => vec![small_tokenizer()],
        "text_config" => [
            files("tokenizer_config.json", &["tiny-dense"]),
            files("generation_config.json", &["tiny-dense"]),
            files("special_tokens_map.json", &["tiny-dense-bf16"]),
        ]
        .concat(),
        "chat_template" => templates(),
        "chat_request" => [
            r#"{"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": true}"#,
            r#"{"messages": [{"role": "system", "content": [{"type": "text", "text": "a"}]},
                {"role": "user", "content": null, "thinking": "x"}, {"role": "tool", "content": "1e9"}],
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": 1.5}}}],
                "documents": null, "kwargs": {"n": 123456789012345678901234567890, "u": "\ud83e\udd80"}}"#,
        ]
        .map(|text| text.as_bytes().to_vec())
        .into(),
        other => panic!("there is no target {other}"),
    }
}

/// Sessions of a prompt with a note, of a prompt and an answer, and of nothing.
fn sessions() -> Vec<Vec<u8>> {
    let mut session = small();
    let kept = |session: &mut lfm_runtime::Session, note: &[u8]| {
        let mut bytes = Vec::new();
        session.write_to(&mut bytes, note).unwrap();
        bytes
    };
    let nothing = kept(&mut session, b"");
    session.start(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]).unwrap();
    let prompt = kept(&mut session, b"a note");
    session.decode(21).unwrap();
    vec![nothing, prompt, kept(&mut session, b"")]
}

/// One layer of each kind, and graphs of any operations.
fn graphs() -> Vec<Vec<u8>> {
    let mixers = [Mixer::Conv, Mixer::Attention];
    let of_one_layer = mixers.map(|mixer| tiny_graph(&Tiny { layers: vec![mixer], ..Tiny::moe() }));
    let graphs = of_one_layer.into_iter().chain((0..6).map(random_graph));
    graphs.map(|graph| graph.text().into_bytes()).collect()
}

/// A section of each of the small bundles.
fn sections(kind: Kind) -> Vec<Vec<u8>> {
    let bundles = bundles();
    let section = |bundle: &Vec<u8>| Sections::parse(bundle).unwrap().section(kind).unwrap().to_vec();
    bundles.iter().map(section).collect()
}

/// A model of two narrow layers, small enough for thousands of runs a second.
fn bundles() -> Vec<Vec<u8>> {
    let folder = tempfile::TempDir::new().unwrap();
    let config = r#"{"model_type": "lfm2", "vocab_size": 8, "hidden_size": 4, "num_hidden_layers": 2,
        "layer_types": ["conv", "full_attention"], "num_attention_heads": 1, "num_key_value_heads": 1,
        "conv_L_cache": 3, "conv_bias": false, "intermediate_size": 4, "block_auto_adjust_ff_dim": false,
        "norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true, "max_position_embeddings": 32}"#;
    let path = folder.path().join("config.json");
    fs::write(&path, config).unwrap();
    let bytes = |recipe| {
        let bundle = Bundle::random(&path, recipe, 32);
        fs::read(&bundle.path).unwrap()
    };
    ["f32", "q4_0"].map(bytes).into()
}

/// The smallest fixture as a GGUF file, with a vocabulary and a template.
fn small_gguf() -> Vec<u8> {
    let mut writer = Writer::from_folder(&fixture("all-conv"), "f32", true);
    let mut tokens: Vec<String> = ('a'..='z').map(String::from).collect();
    tokens.extend(["ab".to_owned(), "<|im_end|>".to_owned()]);
    let kinds: Vec<i32> = tokens.iter().map(|token| if token.starts_with('<') { 3 } else { 1 }).collect();
    writer.text("tokenizer.ggml.model", "gpt2");
    writer.text("tokenizer.ggml.pre", "lfm2");
    writer.strings("tokenizer.ggml.tokens", &tokens);
    writer.integers("tokenizer.ggml.token_type", &kinds);
    writer.strings("tokenizer.ggml.merges", &["a b".to_owned()]);
    writer.text("tokenizer.chat_template", "{{ messages[0].content }}");
    writer.bytes().0
}

/// A byte-level tokenizer with three merges.
fn small_tokenizer() -> Vec<u8> {
    let folder = fixture("tiny-dense");
    let mut json: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("tokenizer.json")).unwrap()).unwrap();
    let model = &mut json["model"];
    let merges: Vec<serde_json::Value> = model["merges"].as_array().unwrap()[..3].to_vec();
    let merged: Vec<String> = merges
        .iter()
        .map(|merge| match merge {
            serde_json::Value::String(text) => text.replace(' ', ""),
            pair => format!("{}{}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
        })
        .collect();
    model["merges"] = merges.into();
    let vocab = model["vocab"].as_object_mut().unwrap();
    vocab.retain(|token, _| token.chars().count() == 1 || merged.contains(token));
    for (id, value) in vocab.values_mut().enumerate() {
        *value = id.into();
    }
    let tokens = vocab.len();
    let added = json["added_tokens"].as_array_mut().unwrap();
    added.truncate(8);
    for (index, token) in added.iter_mut().enumerate() {
        token["id"] = (tokens + index).into();
    }
    json["post_processor"] = serde_json::Value::Null;
    json.to_string().into_bytes()
}

/// The template of LFM2, and the corner cases of the fixtures.
fn templates() -> Vec<Vec<u8>> {
    let cases: serde_json::Value =
        serde_json::from_slice(&fs::read(fixture("templates.json")).unwrap()).unwrap();
    let mut found = vec![fs::read(fixture("tiny-dense").join("chat_template.jinja")).unwrap()];
    let cases = cases["cases"].as_array().unwrap().iter();
    found.extend(cases.map(|case| case["template"].as_str().unwrap().as_bytes().to_vec()));
    found
}
