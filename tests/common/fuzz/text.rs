//! Bodies of the text side: tokenizer, chat templates, conversations.

use std::sync::OnceLock;

use lfm_runtime::text::{ChatRequest, ChatTemplate, Detokenizer, TextConfig, Tokenizer};

use super::{Room, utf8};
use crate::fixture;

/// A vocabulary becomes several maps.
const TOKENIZER: Room = Room { per_byte: 100, on_top: 8 << 20 };
/// JSON becomes values.
const JSON: Room = Room { per_byte: 60, on_top: 1 << 20 };
/// What a template writes has a limit of its own.
const RENDERED: Room = Room { per_byte: 200, on_top: 96 << 20 };

/// `tokenizer.json`, with a text to encode.
pub(super) fn tokenizer(bytes: &[u8]) {
    TOKENIZER.hold(bytes.len(), || {
        let Ok(tokenizer) = Tokenizer::from_bytes(bytes) else { return };
        for text in ["What is `Vec`?\n 12 \u{1F980}", "", " a\u{300}\u{fb01}  \r\n1234567 <|im_end|>"] {
            let Ok(ids) = tokenizer.encode(text, true, true) else { continue };
            let whole = tokenizer.decode(&ids, false);
            let mut stream = Detokenizer::new(false);
            let pieces: String = ids.iter().map(|id| stream.push(&tokenizer, *id).to_owned()).collect();
            assert_eq!(pieces + stream.finish(), whole);
        }
        tokenizer.decode(&[0, 1, u32::MAX], true);
    });
}

/// `tokenizer_config.json` and the files beside it.
pub(super) fn text_config(bytes: &[u8]) {
    JSON.hold(bytes.len(), || {
        let _ = TextConfig::templates_from_hf(bytes).is_ok();
        if let Ok(config) = TextConfig::from_hf(bytes, Some(bytes), Some(bytes)) {
            let text = serde_json::to_string(&config).unwrap();
            assert_eq!(serde_json::from_str::<TextConfig>(&text).unwrap(), config);
        }
        let _ = serde_json::from_slice::<TextConfig>(bytes).is_ok();
    });
}

/// A chat template, rendered. What follows a zero byte is said in the conversation.
pub(super) fn chat_template(bytes: &[u8]) {
    let Some(text) = utf8(bytes) else { return };
    let (source, said) = text.split_once('\0').unwrap_or((text, "Hi"));
    RENDERED.hold(bytes.len(), || {
        let Ok(template) = ChatTemplate::new(source) else { return };
        let mut request = ChatRequest::new().message("system", "Be brief").message("user", said);
        let tokens = [("bos_token", "<|startoftext|>"), ("eos_token", "<|im_end|>")];
        let first = template.render(&request, &tokens).ok();
        assert_eq!(template.render(&request, &tokens).ok(), first, "rendered twice");
        request.push("assistant", "<think>x</think>y");
        let _ = template.render(&request, &tokens).is_ok();
    });
}

/// A conversation as JSON, in the template of LFM2.
pub(super) fn chat_request(bytes: &[u8]) {
    static TEMPLATE: OnceLock<ChatTemplate> = OnceLock::new();
    let template = TEMPLATE.get_or_init(|| {
        let source = std::fs::read_to_string(fixture("tiny-dense").join("chat_template.jinja")).unwrap();
        ChatTemplate::new(&source).unwrap()
    });
    let Some(text) = utf8(bytes) else { return };
    let Ok(request) = JSON.hold(bytes.len(), || ChatRequest::from_json(text)) else { return };
    let _ = RENDERED.hold(bytes.len(), || template.render(&request, &[("bos_token", "<s>")])).is_ok();
}
