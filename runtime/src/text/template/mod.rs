//! Jinja as `transformers` runs it: Python's printing, methods and JSON on top of minijinja, and
//! limits that a hostile template cannot leave.

mod filters;
mod guard;
mod methods;
mod prepare;
mod print;
mod slice;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use minijinja::value::{Object, ObjectRepr, Rest, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};

use super::TextError;
use super::json::Json;
use prepare::Prepared;

/// Largest template that is read; published ones have up to 20 KB.
const MAX_SOURCE: usize = 512 << 10;
/// Most instructions that one rendering may execute.
const FUEL: u64 = 5_000_000;
/// Most bytes of uncounted text that they could write if each wrote the longest: there are at least two to a text.
const MAX_UNCOUNTED: u64 = 16 << 20;
/// Nested macro calls and loops, in minijinja's measure.
const MAX_RECURSION: usize = 200;
/// Stack of the thread that compiles and renders: minijinja recurses over the length of an
/// expression, which `prepare` caps.
const STACK: usize = 64 << 20;
/// The name that messages give to the template.
const NAME: &str = "chat_template.jinja";

/// A template that compiles.
#[derive(Debug, Clone)]
pub(super) struct Template {
    /// The source after `prepare`.
    source: Arc<str>,
    /// Instructions that one rendering may execute.
    fuel: u64,
}

impl Template {
    /// Checks and compiles a template.
    pub(super) fn new(source: &str) -> Result<Template, TextError> {
        TextError::check_size(NAME, source.len(), MAX_SOURCE)?;
        let Prepared { source, uncounted } = prepare::prepare(source).map_err(TextError::Template)?;
        let fuel = FUEL.min(MAX_UNCOUNTED / uncounted.max(1) as u64);
        on_big_stack(|| {
            environment(fuel).template_from_named_str(NAME, &source).map(drop).map_err(|e| describe(&e))
        })?;
        Ok(Template { source: source.into(), fuel })
    }

    /// Renders the template. `variables` are its names, the last of equal names counts.
    pub(super) fn render(&self, variables: &[(&str, &Json)]) -> Result<String, TextError> {
        on_big_stack(|| {
            let environment = environment(self.fuel);
            let template =
                environment.template_from_named_str(NAME, &self.source).map_err(|e| describe(&e))?;
            let context = Value::from_pairs(variables.iter().map(|(name, json)| (*name, to_value(json))));
            template.render(context).map_err(|e| describe(&e))
        })
    }
}

/// Runs on a thread of its own, whose stack the caller's cannot limit. A panic there is an error
/// here (where panics unwind).
fn on_big_stack<T: Send>(work: impl FnOnce() -> Result<T, TextError> + Send) -> Result<T, TextError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let thread =
            thread.map_err(|e| TextError::Template(format!("starting the rendering thread: {e}")))?;
        thread.join().unwrap_or_else(|_| Err(TextError::Template("the renderer failed".to_owned())))
    })
}

/// A template's error with the errors that caused it.
fn describe(error: &Error) -> TextError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    TextError::Template(text)
}

fn environment(fuel: u64) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    if let Ok(syntax) = syntax {
        env.set_syntax(syntax);
    }
    env.set_fuel(Some(fuel));
    env.set_recursion_limit(MAX_RECURSION);

    let written = Arc::new(AtomicU64::new(0));
    let emitted = Arc::clone(&written);
    env.set_formatter(move |out, _state, value| {
        let text = print::python_str(value)?;
        guard::spend(&emitted, text.len())?;
        out.write_str(&text).map_err(Error::from)
    });
    env.add_function(prepare::SPEND, move |bytes: usize| -> Result<&'static str, Error> {
        guard::spend(&written, bytes)?;
        Ok("")
    });
    let walked = Arc::new(AtomicU64::new(0));
    for (name, shared) in [(prepare::KEEP, true), (prepare::KEEP_ATTRIBUTE, false)] {
        let walked = Arc::clone(&walked);
        env.add_function(name, move |values: Rest<Value>| guard::keep(&walked, values.0, shared));
    }
    env.set_unknown_method_callback(methods::call);
    filters::add(&mut env);
    env.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.to_string()))
    });
    env.add_function("strftime_now", |_format: Value| -> Result<Value, Error> {
        Err(Error::new(
            ErrorKind::InvalidOperation,
            "strftime_now: a rendering does not depend on the time of day, pass the date as a variable",
        ))
    });
    env.remove_global("debug");
    env
}

/// An integer that no machine type holds.
#[derive(Debug)]
struct BigInt(String);

impl Object for BigInt {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// JSON as a template sees it.
fn to_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Int(value) => Value::from(*value),
        Json::BigInt(digits) => match digits.parse::<i128>() {
            Ok(value) => Value::from(value),
            Err(_) => Value::from_object(BigInt(digits.clone())),
        },
        Json::Float(value) => Value::from(*value),
        Json::Str(text) => Value::from(text.as_str()),
        Json::List(items) => Value::from(items.iter().map(to_value).collect::<Vec<_>>()),
        Json::Map(entries) => {
            Value::from_pairs(entries.iter().map(|(key, value)| (key.as_str(), to_value(value))))
        }
    }
}
