//! Tokenizer, chat template and streaming against what `transformers` made of the same files.

#![cfg(feature = "text")]

use std::path::{Path, PathBuf};

use lfm_runtime::text::{
    ChatRequest, ChatTemplate, Detokenizer, Json, Text, TextConfig, TextError, Tokenizer,
};
use proptest::prelude::*;

/// The folders that have goldens of their own.
const GOLDEN: [&str; 4] = ["tiny-dense", "tiny-moe", "small-dense", "small-moe"];
/// A folder with older configuration files and the folder whose goldens it shares.
const LEGACY: [(&str, &str); 2] = [("tiny-dense-legacy", "tiny-dense"), ("tiny-dense-bf16", "tiny-dense")];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)
}

fn read(name: &str, file: &str) -> Vec<u8> {
    let path = folder(name).join(file);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn load(name: &str) -> Text {
    let map = folder(name).join("special_tokens_map.json");
    let map = map.exists().then(|| read(name, "special_tokens_map.json"));
    let config = TextConfig::from_hf(
        &read(name, "tokenizer_config.json"),
        map.as_deref(),
        Some(&read(name, "generation_config.json")),
    )
    .unwrap();
    let template = read(name, "chat_template.jinja");
    Text::from_bytes(&read(name, "tokenizer.json"), Some(&template), config).unwrap()
}

fn golden(name: &str) -> serde_json::Value {
    serde_json::from_slice(&read(name, "golden.json")).unwrap()
}

fn ids(json: &serde_json::Value) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

/// Folders with the folders of their goldens.
fn cases() -> impl Iterator<Item = (&'static str, &'static str)> {
    GOLDEN.into_iter().map(|name| (name, name)).chain(LEGACY)
}

#[test]
fn tokens_are_those_of_transformers() {
    for (name, reference) in cases() {
        let text = load(name);
        let tokenizer = &text.tokenizer;
        let golden = golden(reference);
        let entries = golden["tokenizer"].as_array().unwrap();
        assert!(entries.len() >= 48, "{name}");
        for entry in entries {
            let input = entry["text"].as_str().unwrap();
            let (with_bos, plain) = (ids(&entry["ids"]), ids(&entry["ids_no_special"]));
            assert_eq!(tokenizer.encode(input, true, true).unwrap(), with_bos, "{name} {input:?}");
            assert_eq!(tokenizer.encode(input, false, true).unwrap(), plain, "{name} {input:?}");
            let tokens: Vec<String> = plain.iter().map(|&id| tokenizer.id_to_token(id).unwrap()).collect();
            let expected: Vec<&str> =
                entry["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
            assert_eq!(tokens, expected, "{name} {input:?}");
            for (token, &id) in tokens.iter().zip(&plain) {
                assert_eq!(tokenizer.token_to_id(token), Some(id));
            }
            let decoded = entry["decoded"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&plain, false), decoded, "{name} {input:?}");
            let skipped = entry["decoded_skip_special"].as_str().unwrap();
            assert_eq!(tokenizer.decode(&with_bos, true), skipped, "{name} {input:?}");
            assert_eq!(streamed(tokenizer, &plain, false).concat(), decoded);
            assert_eq!(streamed(tokenizer, &with_bos, true).concat(), skipped);
        }
    }
}

#[test]
fn chats_are_those_of_transformers() {
    for (name, reference) in cases() {
        let text = load(name);
        // The goldens as they stand in the file: a parsed copy would lose how numbers are written.
        let Json::List(chats) = Json::parse(std::str::from_utf8(&read(reference, "golden.json")).unwrap())
            .unwrap()
            .get("chat")
            .unwrap()
            .clone()
        else {
            panic!("{reference}: no list of chats")
        };
        assert!(chats.len() >= 15, "{name}");
        for chat in &chats {
            let field = |key: &str| chat.get(key).unwrap().clone();
            let (Json::List(messages), Json::Map(variables)) = (field("messages"), field("kwargs")) else {
                panic!("{reference}: no messages")
            };
            let request = ChatRequest {
                messages,
                tools: Some(field("tools")).filter(|tools| *tools != Json::Null),
                documents: None,
                add_generation_prompt: field("add_generation_prompt") == Json::Bool(true),
                variables,
            };
            let case = field("name");
            assert_eq!(
                Some(text.render(&request).unwrap().as_str()),
                field("rendered").as_str(),
                "{name} {case:?}"
            );
            let Json::List(expected) = field("ids") else { panic!("{reference}: no ids") };
            let found: Vec<Json> =
                text.encode_chat(&request).unwrap().into_iter().map(|id| Json::Int(i64::from(id))).collect();
            assert_eq!(found, expected, "{name} {case:?}");
        }
    }
}

#[test]
fn special_tokens_come_from_the_configuration() {
    for (name, _) in cases() {
        let text = load(name);
        assert_eq!(text.bos(), Some(1), "{name}");
        assert_eq!(text.eos(), [7], "{name}");
        assert_eq!(text.tokenizer.special_ids().collect::<Vec<_>>(), (0..18).collect::<Vec<_>>());
        let literal = text.tokenizer.encode("<|im_end|>", false, false).unwrap();
        assert!(literal.len() > 1 && !literal.contains(&7), "{name} {literal:?}");
        assert_eq!(text.tokenizer.decode(&literal, true), "<|im_end|>");
    }
    // Explicit flags win over the tokenizer's post-processor.
    let with = |add: Option<(bool, bool)>| {
        let config = TextConfig {
            bos_token: Some("<|startoftext|>".to_owned()),
            eos_token: Some("<|im_end|>".to_owned()),
            add_bos_eos: add,
            ..TextConfig::default()
        };
        let text = Text::from_bytes(&read("tiny-dense", "tokenizer.json"), None, config).unwrap();
        assert_eq!(text.eos(), [7]);
        text.tokenizer.encode("", true, true).unwrap()
    };
    assert_eq!(with(None), [1]);
    assert_eq!(with(Some((false, false))), [0; 0]);
    assert_eq!(with(Some((true, true))), [1, 7]);
    let unknown = TextConfig { eos_token: Some("</s>".to_owned()), ..TextConfig::default() };
    let error = Text::from_bytes(&read("tiny-dense", "tokenizer.json"), None, unknown).unwrap_err();
    assert_eq!(error.to_string(), "reading tokenizer.json: eos_token \"</s>\" is not in the vocabulary");
}

/// The tiny tokenizer with one more entry that no merge makes.
fn with_unreachable_token(ignore_merges: bool) -> Tokenizer {
    let mut file: serde_json::Value = serde_json::from_slice(&read("tiny-dense", "tokenizer.json")).unwrap();
    file["model"]["ignore_merges"] = ignore_merges.into();
    file["model"]["vocab"]["Ġzebra"] = 512.into();
    Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap()
}

#[test]
fn ignore_merges_takes_whole_words_from_the_vocabulary() {
    let ids = |tokenizer: &Tokenizer, text: &str| tokenizer.encode(text, false, true).unwrap();
    let (merging, ignoring) = (with_unreachable_token(false), with_unreachable_token(true));
    let pieces = ids(&merging, " zebra");
    assert!(pieces.len() > 1 && !pieces.contains(&512));
    assert_eq!(ids(&ignoring, " zebra"), [512]);
    assert_eq!(ids(&ignoring, " zebras"), ids(&merging, " zebras"));
    assert_eq!(ignoring.decode(&[512], false), " zebra");
    assert_eq!(merging.vocab_size(), 513);
}

#[test]
fn older_files_spell_merges_as_one_string() {
    let mut file: serde_json::Value = serde_json::from_slice(&read("tiny-dense", "tokenizer.json")).unwrap();
    for merge in file["model"]["merges"].as_array_mut().unwrap() {
        if let Some([a, b]) = merge.as_array().map(Vec::as_slice) {
            *merge = format!("{} {}", a.as_str().unwrap(), b.as_str().unwrap()).into();
        }
    }
    let older = Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
    let newer = load("tiny-dense").tokenizer;
    let text = "Hello world, 12345 Größe 😀";
    assert_eq!(older.encode(text, true, true).unwrap(), newer.encode(text, true, true).unwrap());
}

fn streamed(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut stream = Detokenizer::new(skip_special);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(tokenizer, id).to_owned()).collect();
    pieces.push(stream.finish().to_owned());
    pieces
}

#[test]
fn a_character_comes_out_whole() {
    let tokenizer = load("tiny-dense").tokenizer;
    let text = "a😀é你\u{10ffff}";
    let ids = tokenizer.encode(text, false, true).unwrap();
    let pieces = streamed(&tokenizer, &ids, false);
    assert!(pieces.len() > text.chars().count());
    assert!(pieces.iter().all(|piece| !piece.contains('\u{fffd}')), "{pieces:?}");
    assert_eq!(pieces.concat(), text);
    // Cut short, the open character is one replacement character at the very end.
    let pieces = streamed(&tokenizer, &ids[..ids.len() - 1], false);
    assert_eq!(pieces.last().unwrap(), "\u{fffd}");
    assert_eq!(pieces.concat(), tokenizer.decode(&ids[..ids.len() - 1], false));
}

proptest! {
    #[test]
    fn streaming_any_ids_is_decoding_them(
        ids in proptest::collection::vec(prop_oneof![0u32..600, 18u32..280, any::<u32>()], 0..80),
        skip_special: bool,
    ) {
        let tokenizer = tiny();
        let pieces = streamed(tokenizer, &ids, skip_special);
        prop_assert_eq!(pieces.concat(), tokenizer.decode(&ids, skip_special));
    }

    #[test]
    fn any_text_comes_back(text in any::<String>()) {
        let tokenizer = tiny();
        for parse_special in [false, true] {
            let ids = tokenizer.encode(&text, false, parse_special).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids, false), text.as_str());
        }
    }

    #[test]
    fn damaged_tokenizers_are_errors(
        at in 0usize..25_000, byte: u8, cut: bool,
    ) {
        let mut file = read("tiny-dense", "tokenizer.json");
        if cut { file.truncate(at) } else { file[at] = byte }
        if let Ok(tokenizer) = Tokenizer::from_bytes(&file) {
            // A letter of a token may have changed: it still has to work.
            let ids = tokenizer.encode("Hello <|im_end|> wörld 123", true, true).unwrap();
            tokenizer.decode(&ids, false);
        }
    }

    #[test]
    fn damaged_templates_are_errors(at in 0usize..1100, byte in 0x20u8..0x7f, cut: bool) {
        let mut source = read("tiny-dense", "chat_template.jinja");
        if cut { source.truncate(at) } else { source[at] = byte }
        let source = String::from_utf8(source).unwrap();
        if let Ok(template) = ChatTemplate::new(&source) {
            // Errors are fine, panics are not: they would have their own message.
            if let Err(error) = template.render(&ChatRequest::new().message("user", "hi"), &[]) {
                prop_assert!(!error.to_string().contains("the renderer failed"), "{error}");
            }
        }
    }
}

fn tiny() -> &'static Tokenizer {
    static TINY: std::sync::OnceLock<Tokenizer> = std::sync::OnceLock::new();
    TINY.get_or_init(|| load("tiny-dense").tokenizer)
}

#[test]
fn hostile_tokenizers_are_named_errors() {
    let file: serde_json::Value = serde_json::from_slice(&read("tiny-dense", "tokenizer.json")).unwrap();
    let error = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut file = file.clone();
        change(&mut file);
        match Tokenizer::from_bytes(file.to_string().as_bytes()) {
            Err(error @ TextError::Malformed { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let expect = |change: &dyn Fn(&mut serde_json::Value), part: &str| {
        let message = error(change);
        assert!(message.contains(part), "{message}");
    };
    expect(&|f| f["model"]["type"] = "Unigram".into(), "\"Unigram\", expected \"BPE\"");
    expect(&|f| f["model"]["dropout"] = 0.5.into(), "dropout");
    expect(&|f| f["model"]["byte_fallback"] = true.into(), "byte_fallback");
    expect(&|f| f["model"]["continuing_subword_prefix"] = "##".into(), "prefix");
    expect(&|f| f["model"]["vocab"]["x y"] = u32::MAX.into(), "id 4294967295, expected less than");
    expect(&|f| f["model"]["vocab"]["x y"] = (-1).into(), "invalid value");
    expect(&|f| f["model"]["vocab"]["x y"] = 20.into(), "id 20 has two tokens");
    expect(&|f| f["model"]["merges"] = serde_json::json!([["a", "zzz"]]), "\"zzz\" is not in the");
    expect(&|f| f["model"]["merges"] = serde_json::json!([["!", "\""]]), "is not in the vocabulary");
    expect(&|f| f["model"]["merges"] = serde_json::json!(["a b c"]), "expected two tokens");
    expect(&|f| f["model"]["merges"] = serde_json::json!([["a"]]), "other than two tokens");
    expect(&|f| f["added_tokens"][0]["id"] = 9.into(), "expected 9");
    expect(&|f| f["added_tokens"][0]["content"] = "".into(), "is empty");
    expect(&|f| f["added_tokens"][1]["content"] = "<|pad|>".into(), "added twice");
    expect(&|f| f["normalizer"] = serde_json::json!({"type": "Prepend"}), "\"Prepend\"");
    expect(&|f| f["pre_tokenizer"] = serde_json::Value::Null, "ByteLevel");
    expect(&|f| f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(".into(), "arsing");
    expect(
        &|f| f["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(".repeat(9999).into(),
        "groups",
    );
    expect(&|f| f["decoder"] = serde_json::json!({"type": "Metaspace"}), "\"Metaspace\"");
    expect(&|f| f["post_processor"]["special_tokens"] = serde_json::json!({}), "has no ids");
    expect(&|f| f["post_processor"]["single"] = serde_json::json!([]), "leaves the text out");
    expect(
        &|f| f["post_processor"]["special_tokens"]["<|startoftext|>"]["ids"][0] = 1_000_000.into(),
        "which has no token",
    );
    expect(
        &|f| {
            let mut nested = f["pre_tokenizer"].clone();
            for _ in 0..50 {
                nested = serde_json::json!({"type": "Sequence", "pretokenizers": [nested]});
            }
            f["pre_tokenizer"] = nested;
        },
        "nested",
    );
    let twice = br#"{"model": {"vocab": {"a": 0, "a": 1}, "merges": []}}"#;
    let message = Tokenizer::from_bytes(twice).unwrap_err().to_string();
    assert!(message.contains("\"a\" is in the vocabulary twice"), "{message}");
    for bytes in [&b""[..], b"null", b"[]", b"{}", b"\xff", b"{\"model\": {}}"] {
        assert!(Tokenizer::from_bytes(bytes).is_err());
    }
}

#[test]
fn templates_render_as_in_transformers() {
    let table: serde_json::Value = serde_json::from_slice(&read("", "templates.json")).unwrap();
    let Json::Map(variables) = Json::parse(table["variables"].as_str().unwrap()).unwrap() else {
        panic!("no variables")
    };
    let mut request = ChatRequest { variables, ..ChatRequest::new() };
    // Null fields of messages are left out before rendering, so the messages have none here.
    request.variables.retain(|(name, value)| match (name.as_str(), value) {
        ("messages", Json::List(messages)) => {
            request.messages.clone_from(messages);
            false
        }
        ("tools", tools) => {
            request.tools = Some(tools.clone());
            false
        }
        _ => true,
    });
    let cases = table["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    let mut wrong = Vec::new();
    for case in cases {
        let source = case["template"].as_str().unwrap();
        let found = ChatTemplate::new(source).and_then(|template| template.render(&request, &[]));
        let agrees = match (&found, case["expected"].as_str()) {
            (Ok(text), Some(expected)) => text == expected,
            (Err(error), None) => !error.to_string().contains("the renderer failed"),
            _ => false,
        };
        if !agrees {
            wrong.push(format!("{source}\n  found    {found:?}\n  expected {}", case["expected"]));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn hostile_templates_are_errors() {
    let fail = |source: String| {
        let rendered = ChatTemplate::new(&source).and_then(|template| {
            template.render(&ChatRequest::new().message("user", "hi"), &[("bos_token", "<s>")])
        });
        let error = rendered.map(|text| text.len()).unwrap_err().to_string();
        assert!(error.starts_with("chat template: ") || error.contains("expected at most"), "{error}");
        assert!(!error.contains("the renderer failed"), "{source:.60}");
        error
    };
    // Loops without end, or as good as.
    fail("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".into());
    fail("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}".into());
    fail("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".into());
    fail("{{ range(1000000000) }}".into());
    // Values that double or nest with every turn.
    let turns = "{% set ns = namespace(x='ab') %}{% for i in range(99) %}";
    assert!(fail(format!("{turns}{{% set ns.x = ns.x ~ ns.x %}}{{% endfor %}}")).contains("bytes"));
    fail(
        "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}".into(),
    );
    fail("{% set ns = namespace(x=1) %}{% set ns.x = ns %}{{ ns }}".into());
    fail("{% set ns = namespace(x=1) %}{% set ns.x = [ns] %}{{ ns }}".into());
    fail("{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{{ a }}".into());
    // Output without end.
    let long = "x".repeat(100_000);
    fail(format!("{{% for i in range(99999) %}}{long}{{% endfor %}}"));
    fail("{% set x = 'x' * 1000000 %}{% for i in range(99999) %}{{ x }}{% endfor %}".into());
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}";
    let text_in_loops =
        ["x".repeat(110), "a b ".repeat(2000), " ".repeat(5000), "\n".repeat(5000), "{ ".repeat(900)];
    for text in text_in_loops.iter().chain([&format!("{{% raw %}}{}{{% endraw %}}", " {{ ".repeat(500))]) {
        fail(format!("{loops}{text}.{{% endfor %}}{{% endfor %}}"));
        fail(format!("{loops}{text}{{{{ 1 }}}}{{% endfor %}}{{% endfor %}}"));
        fail(format!("{{% set kept %}}{loops}{text}{{{{ 1 }}}}{{% endfor %}}{{% endfor %}}{{% endset %}}"));
    }
    fail("{% set x = 'x' * 1000000 %}{{ x | replace('x', x) }}".into());
    fail("{{ 'x' | indent(1) | replace('', 'y' * 3000000) }}".into());
    fail("{{ 'x'.ljust(100000000000) }}".into());
    fail("{{ '{:>99999999}'.format(1) }}{{ '%99999999d' | format(1) }}".into());
    fail("{{ 'x' * 100000000000 }}".into());
    // Sources that recurse in a parser or compiler.
    for (open, close) in [("(", ")"), ("[", "]"), ("not ", ""), ("-", ""), ("{'a':", "}")] {
        fail(format!("{{{{ {}1{} }}}}", open.repeat(100_000), close.repeat(100_000)));
    }
    for link in [" + 1", ".a", "|string", " and 1", "~1", "[0]", "()", " if 1 else 1", "**1"] {
        fail(format!("{{{{ 1{} }}}}", link.repeat(50_000)));
    }
    fail("{% if 1 %}".repeat(50_000) + &"{% endif %}".repeat(50_000));
    fail(format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(40_000)));
    fail(" ".repeat(600 << 10));
    // No files, no time, no unknown names.
    fail("{% include 'chat_template.jinja' %}".into());
    fail("{% extends 'x' %}".into());
    fail("{{ strftime_now('%Y') }}".into());
    fail("{{ nosuch() }}".into());
    fail("{{ x[::0] }}".into());
    fail("{{ 'a'[::0] }}".into());
    fail("{% for %}".into());
    fail("{{ ".into());
}

#[test]
fn chains_up_to_the_limits_fit_the_stack() {
    for link in [" + 1", ".a", "|string", " and 1", "~1", "[0]", "()", " if 1 else 1", " is string"] {
        let links = 1990 / link.split_inclusive(['.', '|', '~', '[', ' ', '0', '(']).count().max(2);
        for open in ["1", "-1", "not 1"] {
            let source = format!("{{{{ {open}{} }}}}", link.repeat(links));
            if let Ok(template) = ChatTemplate::new(&source) {
                let rendered = template.render(&ChatRequest::new().message("user", "hi"), &[]);
                assert!(!format!("{rendered:?}").contains("the renderer failed"));
            }
        }
    }
    for prefix in ["not ", "-"] {
        let source = format!("{{{{ {}1 }}}}", prefix.repeat(1900));
        if let Ok(template) = ChatTemplate::new(&source) {
            template.render(&ChatRequest::new().message("user", "hi"), &[]).unwrap();
        }
    }
    let source = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(499));
    let template = ChatTemplate::new(&source).unwrap();
    assert_eq!(template.render(&ChatRequest::new().message("user", "hi"), &[]).unwrap(), "");
}

#[test]
fn messages_are_normalised_as_in_transformers() {
    let render = |source: &str, request: &str| {
        ChatTemplate::new(source)
            .unwrap()
            .render(&ChatRequest::from_json(request).unwrap(), &[("bos_token", "<s>")])
            .unwrap()
    };
    let chat = r#"{"messages": [{"role": "user", "content": null, "reasoning": "r"}], "x": 1.0}"#;
    assert_eq!(
        render("{{ messages | tojson }} {{ tools }} {{ x }} {{ add_generation_prompt }}", chat),
        r#"[{"thinking": "r", "role": "user", "reasoning": "r", "reasoning_content": "r"}] None 1.0 False"#
    );
    // Variables win over special tokens, and what a chat always has wins over variables.
    let chat = r#"{"messages": [{}], "bos_token": "B", "kwargs": {"messages": 3}}"#;
    assert_eq!(render("{{ bos_token }} {{ messages }}", chat), "B [{}]");
}

#[test]
fn chats_with_tools_have_a_template_of_their_own() {
    let template = ChatTemplate::named(Some("plain"), Some("tools")).unwrap();
    let mut request = ChatRequest::new().message("user", "hi");
    assert_eq!(template.render(&request, &[]).unwrap(), "plain");
    request.tools = Some(Json::List(Vec::new()));
    assert_eq!(template.render(&request, &[]).unwrap(), "tools");
    let only_tools = ChatTemplate::named(None, Some("tools")).unwrap();
    request.tools = None;
    assert!(matches!(only_tools.render(&request, &[]), Err(TextError::NoTemplate)));
}

#[test]
fn requests_are_checked() {
    for (request, message) in [
        ("[]", "reading a chat: expected a map with messages at the top"),
        ("{}", "reading a chat: expected a list of messages"),
        (r#"{"messages": 1}"#, "reading a chat: messages: found a number, expected a list"),
        (r#"{"messages": [], "tools": {}}"#, "reading a chat: tools: found a map, expected a list"),
        (
            r#"{"messages": [], "add_generation_prompt": 1}"#,
            "reading a chat: add_generation_prompt: found a number, expected true or false",
        ),
    ] {
        assert_eq!(ChatRequest::from_json(request).unwrap_err().to_string(), message);
    }
    let template = ChatTemplate::new("x").unwrap();
    let render = |request: &str| {
        template.render(&ChatRequest::from_json(request).unwrap(), &[]).unwrap_err().to_string()
    };
    assert_eq!(render(r#"{"messages": []}"#), "reading a chat: found no message, expected at least one");
    assert_eq!(
        render(r#"{"messages": ["hi"]}"#),
        "reading a chat: message 0: found a string, expected a map with role and content"
    );
}
