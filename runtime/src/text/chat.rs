//! A conversation to the text that the model continues, through the checkpoint's chat template.

use super::TextError;
use super::json::Json;
use super::template::Template;

/// What a chat template is given.
///
/// ```
/// use lfm_runtime::text::ChatRequest;
///
/// let request = ChatRequest::new().message("system", "Be brief.").message("user", "Hi");
/// assert!(request.add_generation_prompt);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// Maps with `role` and `content`, and whatever else the template reads.
    pub messages: Vec<Json>,
    /// JSON schemas of the tools, `None` without tools.
    pub tools: Option<Json>,
    /// Documents for retrieval, `None` without.
    pub documents: Option<Json>,
    /// Whether the answer of the assistant comes next.
    pub add_generation_prompt: bool,
    /// More variables for the template; they win over the special tokens.
    pub variables: Vec<(String, Json)>,
}

impl Default for ChatRequest {
    fn default() -> ChatRequest {
        ChatRequest::new()
    }
}

impl ChatRequest {
    /// No messages yet; the assistant answers next.
    pub fn new() -> ChatRequest {
        ChatRequest {
            messages: Vec::new(),
            tools: None,
            documents: None,
            add_generation_prompt: true,
            variables: Vec::new(),
        }
    }

    /// Adds a message.
    #[must_use]
    pub fn message(mut self, role: &str, content: &str) -> ChatRequest {
        self.push(role, content);
        self
    }

    /// Adds a message.
    pub fn push(&mut self, role: &str, content: &str) {
        let entry = |key: &str, value: &str| (key.to_owned(), Json::from(value));
        self.messages.push(Json::Map(vec![entry("role", role), entry("content", content)]));
    }

    /// Reads `{"messages": [...], "tools": [...], "add_generation_prompt": true, ...}`. All but
    /// `messages` may be missing; `add_generation_prompt` is false then, as in `transformers`.
    /// `documents` and any other key are variables of the template, so are those in `kwargs`.
    pub fn from_json(text: &str) -> Result<ChatRequest, TextError> {
        let Json::Map(entries) = Json::parse(text)? else {
            return Err(TextError::Chat("expected a map with messages at the top".to_owned()));
        };
        let mut request = ChatRequest { add_generation_prompt: false, ..ChatRequest::new() };
        let mut has_messages = false;
        for (key, value) in entries {
            let kind = value.kind();
            match (key.as_str(), value) {
                ("messages", Json::List(messages)) => {
                    has_messages = true;
                    request.messages = messages;
                }
                ("messages", _) => {
                    return Err(TextError::Chat(format!("messages: found {kind}, expected a list")));
                }
                ("tools" | "documents", Json::Null) => {}
                ("tools", tools @ Json::List(_)) => request.tools = Some(tools),
                ("documents", documents @ Json::List(_)) => request.documents = Some(documents),
                ("tools" | "documents", _) => {
                    return Err(TextError::Chat(format!("{key}: found {kind}, expected a list")));
                }
                ("add_generation_prompt", Json::Bool(value)) => {
                    request.add_generation_prompt = value;
                }
                ("add_generation_prompt", _) => {
                    return Err(TextError::Chat(format!(
                        "add_generation_prompt: found {kind}, expected true or false"
                    )));
                }
                ("kwargs", Json::Map(variables)) => request.variables.extend(variables),
                (_, value) => request.variables.push((key, value)),
            }
        }
        if !has_messages {
            return Err(TextError::Chat("expected a list of messages".to_owned()));
        }
        Ok(request)
    }
}

/// A checkpoint's chat templates, compiled and checked.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    default: Option<Template>,
    tool_use: Option<Template>,
}

impl ChatTemplate {
    /// One template for every chat.
    pub fn new(source: &str) -> Result<ChatTemplate, TextError> {
        ChatTemplate::named(Some(source), None)
    }

    /// A template for chats with tools beside the default one.
    pub fn named(default: Option<&str>, tool_use: Option<&str>) -> Result<ChatTemplate, TextError> {
        Ok(ChatTemplate {
            default: default.map(Template::new).transpose()?,
            tool_use: tool_use.map(Template::new).transpose()?,
        })
    }

    /// The text of a chat. `special_tokens` are variables such as `bos_token`.
    pub fn render(
        &self,
        request: &ChatRequest,
        special_tokens: &[(&str, &str)],
    ) -> Result<String, TextError> {
        if request.messages.is_empty() {
            return Err(TextError::Chat("found no message, expected at least one".to_owned()));
        }
        let tool_use = self.tool_use.as_ref().filter(|_| request.tools.is_some());
        let template = tool_use.or(self.default.as_ref()).ok_or(TextError::NoTemplate)?;

        let messages = request
            .messages
            .iter()
            .enumerate()
            .map(|(i, message)| plain_message(i, message))
            .collect::<Result<Vec<_>, _>>()?;
        let messages = Json::List(messages);
        let tokens: Vec<(&str, Json)> =
            special_tokens.iter().map(|&(name, token)| (name, Json::from(token))).collect();
        let generate = Json::Bool(request.add_generation_prompt);
        let mut variables: Vec<(&str, &Json)> = tokens.iter().map(|(name, token)| (*name, token)).collect();
        variables.extend(request.variables.iter().map(|(name, value)| (name.as_str(), value)));
        variables.push(("messages", &messages));
        variables.push(("tools", request.tools.as_ref().unwrap_or(&Json::Null)));
        variables.push(("documents", request.documents.as_ref().unwrap_or(&Json::Null)));
        variables.push(("add_generation_prompt", &generate));
        template.render(&variables)
    }
}

/// The names under which reasoning is passed, the standard one first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message as `transformers` hands it to a template: without null fields, and with the
/// reasoning under both names that templates read.
fn plain_message(i: usize, message: &Json) -> Result<Json, TextError> {
    let Json::Map(entries) = message else {
        return Err(TextError::Chat(format!(
            "message {i}: found {}, expected a map with role and content",
            message.kind()
        )));
    };
    let mut entries: Vec<(String, Json)> =
        entries.iter().filter(|(_, value)| *value != Json::Null).cloned().collect();
    let find = |entries: &[(String, Json)], name: &str| entries.iter().position(|(key, _)| key == name);
    let reasoning = REASONING
        .iter()
        .find_map(|name| find(&entries, name).and_then(|at| entries.get(at)).map(|e| e.1.clone()));
    if let Some(reasoning) = reasoning {
        if find(&entries, "thinking").is_none() {
            entries.insert(0, ("thinking".to_owned(), reasoning.clone()));
        }
        match find(&entries, "reasoning_content").and_then(|at| entries.get_mut(at)) {
            Some(entry) => entry.1 = reasoning,
            None => entries.push(("reasoning_content".to_owned(), reasoning)),
        }
    }
    Ok(Json::Map(entries))
}
