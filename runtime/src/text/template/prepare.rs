//! A template's source before minijinja sees it: what `transformers` adds to Jinja is translated,
//! what minijinja cannot survive is refused or routed through checks. Lines keep their numbers.
//!
//! ```text
//! {% generation %} .. {% endgeneration %}    {% with %} .. {% endwith %}
//! x[a:b]                                     x.__slice__(a, b, none)
//! {% set x = e %}                            {% set x = __keep__(e) %}
//! a long stretch of text                     the same with {{ __spend__(bytes) }} in it
//! ```
//!
//! Slices are a method because minijinja 3.0 panics on some negative steps and nests lazy ones
//! without bound; what is kept in a variable is checked because that is how a loop makes a value
//! that doubles, or nests, with every turn.

/// The method that slices are translated to.
pub(super) const SLICE: &str = "__slice__";
/// The function around the value of every assignment.
pub(super) const KEEP: &str = "__keep__";
/// The same for the attribute of a namespace.
pub(super) const KEEP_ATTRIBUTE: &str = "__keep_attribute__";
/// The function that counts text outside of expressions.
pub(super) const SPEND: &str = "__spend__";

/// Most tokens in one tag: minijinja recurses over chains such as `1 + 1 + ...`.
const MAX_TOKENS: usize = 2000;
/// Most `elif` in a template, which nest for the same reason.
const MAX_ELIF: usize = 500;
/// Longer text counts itself when it is written. Shorter text is paid for by the instructions of the loop around it.
const LONG_TEXT: usize = 32;

/// A template for minijinja.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) source: String,
    /// Bytes of the longest text that is written without being counted.
    pub(super) uncounted: usize,
}

/// Translates a template, or says which limit it passes.
pub(super) fn prepare(source: &str) -> Result<Prepared, String> {
    let mut out = String::with_capacity(source.len() + source.len() / 8);
    let mut uncounted = 0;
    let mut rest = source;
    let mut elifs = 0;
    loop {
        let Some((text, open)) = split_at_tag(rest) else {
            uncounted = uncounted.max(push_text(&mut out, rest));
            return Ok(Prepared { source: out, uncounted });
        };
        uncounted = uncounted.max(push_text(&mut out, text));
        let line = out.matches('\n').count() + 1;
        let comment = open.starts_with("{#");
        let length = if comment { open.find("#}").map(|end| end + 2) } else { tag_length(open) };
        let Some(length) = length else {
            // minijinja has the better message for a tag without an end.
            out.push_str(open);
            return Ok(Prepared { source: out, uncounted: uncounted.max(open.len()) });
        };
        let (tag, after) = open.split_at_checked(length).unwrap_or((open, ""));
        rest = after;
        if comment {
            out.push_str(tag);
            continue;
        }
        let tokens = tokenize(tag);
        if tokens.len() > MAX_TOKENS {
            return Err(format!(
                "line {line}: found {} tokens in one tag, expected at most {MAX_TOKENS}",
                tokens.len()
            ));
        }
        let word = statement_word(&tokens);
        match word {
            Some("raw") => {
                out.push_str(tag);
                let end = end_of_raw(rest);
                let (raw, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
                out.push_str(raw);
                uncounted = uncounted.max(raw.len());
                rest = after;
                continue;
            }
            Some("elif") => {
                elifs += 1;
                if elifs > MAX_ELIF {
                    return Err(format!("line {line}: found more than {MAX_ELIF} elif branches"));
                }
            }
            _ => {}
        }
        push_tag(&mut out, &tokens, word).map_err(|problem| format!("line {line}: {problem}"))?;
    }
}

/// The text before the next tag or comment, and what starts with it.
fn split_at_tag(source: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    loop {
        let at = from + source.get(from..)?.find('{')?;
        match source.as_bytes().get(at + 1) {
            Some(b'{' | b'%' | b'#') => return source.split_at_checked(at),
            _ => from = at + 1,
        }
    }
}

/// Text outside of tags. Long text begins to count itself where it can; the result is what of it goes uncounted.
fn push_text(out: &mut String, text: &str) -> usize {
    // Before a character that is no white space, a variable changes nothing of what tags trim around it; behind a brace,
    // its own would be read together with that.
    let mut last = ' ';
    for (at, c) in text.char_indices().take_while(|_| text.len() > LONG_TEXT) {
        if !c.is_whitespace() && last != '{' {
            let (before, after) = text.split_at_checked(at).unwrap_or((text, ""));
            out.push_str(before);
            out.push_str(&format!("{{{{ {SPEND}({}) }}}}", text.len()));
            out.push_str(after);
            return 0;
        }
        last = c;
    }
    out.push_str(text);
    text.len()
}

/// Where the text of a `raw` block ends: at its end tag, which is copied as it is.
fn end_of_raw(text: &str) -> usize {
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|t| t.find("{%")).map(|at| from + at) {
        let tag = text.get(at + 2..).unwrap_or_default().trim_start_matches(['-', '+']).trim_start();
        if tag.starts_with("endraw") {
            return at;
        }
        from = at + 2;
    }
    text.len()
}

/// Length of the tag at the start of `open`, with its delimiters.
fn tag_length(open: &str) -> Option<usize> {
    let close = if open.starts_with("{{") { "}}" } else { "%}" };
    let mut at = 2;
    let mut depth = 0usize;
    loop {
        let rest = open.get(at..)?;
        if depth == 0 && rest.starts_with(close) {
            return Some(at + 2);
        }
        match rest.chars().next()? {
            quote @ ('"' | '\'') => at += string_length(rest, quote)?,
            '(' | '[' | '{' => {
                depth += 1;
                at += 1;
            }
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            c => at += c.len_utf8(),
        }
    }
}

/// Length of a string literal with its quotes.
fn string_length(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return Some(at + 1);
        }
    }
    None
}

/// A piece of a tag with the white space before it.
#[derive(Clone, Copy)]
struct Token<'s> {
    space: &'s str,
    text: &'s str,
}

fn tokenize(tag: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = tag;
    while !rest.is_empty() {
        let space = rest.len() - rest.trim_start().len();
        let (space, after) = rest.split_at_checked(space).unwrap_or(("", rest));
        let length = match after.chars().next() {
            None => 0,
            Some(quote @ ('"' | '\'')) => string_length(after, quote).unwrap_or(after.len()),
            Some(c) if is_word(c) => after.find(|c| !is_word(c)).unwrap_or(after.len()),
            Some(c) => {
                let pairs = ["{{", "}}", "{%", "%}", "==", "!=", "<=", ">=", "**", "//"];
                let delimiter = tokens.is_empty() || after.len() == 2;
                let pair = pairs
                    .iter()
                    .enumerate()
                    .any(|(i, pair)| after.starts_with(pair) && (i >= 4 || delimiter));
                if pair { 2 } else { c.len_utf8() }
            }
        };
        let (text, after) = after.split_at_checked(length).unwrap_or((after, ""));
        tokens.push(Token { space, text });
        rest = after;
    }
    tokens
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The first word of a statement tag.
fn statement_word<'s>(tokens: &[Token<'s>]) -> Option<&'s str> {
    match tokens {
        [open, mark, word, ..] if open.text == "{%" && matches!(mark.text, "-" | "+") => Some(word.text),
        [open, word, ..] if open.text == "{%" => Some(word.text),
        _ => None,
    }
}

/// What becomes of a bracket or colon.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    Plain,
    SliceOpen,
    /// A colon of a slice; `empty`: nothing stands before it.
    SliceColon {
        empty: bool,
    },
    SliceClose {
        empty: bool,
        colons: usize,
    },
}

fn push_tag(out: &mut String, tokens: &[Token<'_>], word: Option<&str>) -> Result<(), String> {
    let roles = slice_roles(tokens)?;
    // `{% set a, b = value %}`, not `{% set x %}text{% endset %}`.
    let assign = match word {
        Some("set") => assignment(tokens),
        _ => None,
    };
    // The end delimiter has a mark of its own before it: `-%}`.
    let marked =
        tokens.len() > 3 && tokens.get(tokens.len() - 2).is_some_and(|t| matches!(t.text, "-" | "+"));
    let end = tokens.len() - if marked { 2 } else { 1 };
    for (i, (token, role)) in tokens.iter().zip(&roles).enumerate() {
        if assign.is_some() && i == end {
            out.push(')');
        }
        out.push_str(token.space);
        let none = |empty: bool| if empty { "none" } else { "" };
        match *role {
            Role::SliceOpen => {
                out.push('.');
                out.push_str(SLICE);
                out.push('(');
            }
            Role::SliceColon { empty } => {
                out.push_str(none(empty));
                out.push(',');
            }
            Role::SliceClose { empty, colons } => {
                out.push_str(none(empty));
                out.push_str(if colons == 1 { ",none)" } else { ")" });
            }
            Role::Plain => match (token.text, word) {
                ("generation", Some("generation")) => out.push_str("with"),
                ("endgeneration", Some("endgeneration")) => out.push_str("endwith"),
                (text, _) => out.push_str(text),
            },
        }
        if assign == Some(i) {
            let attribute = tokens.iter().take(i).any(|t| t.text == ".");
            out.push_str(if attribute { KEEP_ATTRIBUTE } else { KEEP });
            out.push('(');
        }
    }
    Ok(())
}

/// The `=` of an assignment.
fn assignment(tokens: &[Token<'_>]) -> Option<usize> {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate() {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            "=" if depth == 0 => return Some(i),
            _ => {}
        }
    }
    None
}

fn slice_roles(tokens: &[Token<'_>]) -> Result<Vec<Role>, String> {
    struct Open {
        at: usize,
        colons: Vec<usize>,
    }
    let mut roles = vec![Role::Plain; tokens.len()];
    let mut opens: Vec<Open> = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        match token.text {
            "(" | "[" | "{" => opens.push(Open { at: i, colons: Vec::new() }),
            ":" => {
                if let Some(open) = opens.last_mut() {
                    open.colons.push(i);
                }
            }
            ")" | "]" | "}" => {
                let Some(open) = opens.pop() else { continue };
                let is_slice = token.text == "]"
                    && !open.colons.is_empty()
                    && tokens.get(open.at).is_some_and(|t| t.text == "[");
                if !is_slice {
                    continue;
                }
                if open.colons.len() > 2 {
                    return Err("found a slice of more than three parts".to_owned());
                }
                let mut before = open.at;
                for &colon in &open.colons {
                    set(&mut roles, colon, Role::SliceColon { empty: before + 1 == colon });
                    before = colon;
                }
                set(&mut roles, open.at, Role::SliceOpen);
                let close = Role::SliceClose { empty: before + 1 == i, colons: open.colons.len() };
                set(&mut roles, i, close);
            }
            _ => {}
        }
    }
    Ok(roles)
}

fn set(roles: &mut [Role], at: usize, role: Role) {
    if let Some(place) = roles.get_mut(at) {
        *place = role;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(source: &str) {
        assert_eq!(prepare(source).unwrap().source, source);
    }

    #[test]
    fn ordinary_tags_stay() {
        same("a {{ x['a:b'] }} {# {{ x[1:] }} #} {%- if a == {'b': [1]} -%} {{ {'a': {}} }}");
        same("{% raw %}{{ x[1:] }}{% set x = 1 %}{% endraw %} {{ \"}}\" }} { x } {");
        same("{% set x %}text{% endset %}{{ {\"a\": 1}[\"a\"] }}{{ x if y else '%}' }}");
        same("no end {{ x[1:] ");
    }

    #[test]
    fn slices_become_calls() {
        for (source, expected) in [
            ("{{ x[1:] }}", "{{ x.__slice__(1,none,none) }}"),
            ("{{ x[:-1] }}", "{{ x.__slice__(none,-1,none) }}"),
            ("{{ x[::-1] }}", "{{ x.__slice__(none,none,-1) }}"),
            ("{{ x[a:b[1:2]:c] }}", "{{ x.__slice__(a,b.__slice__(1,2,none),c) }}"),
            ("{{ x[ : ] }}", "{{ x.__slice__( none, none,none) }}"),
            ("{{ x[{'a': 1}['a']:] }}", "{{ x.__slice__({'a': 1}['a'],none,none) }}"),
        ] {
            assert_eq!(prepare(source).unwrap().source, expected);
        }
        assert!(prepare("{{ x[1:2:3:4] }}").is_err());
    }

    #[test]
    fn assignments_are_kept() {
        for (source, expected) in [
            ("{% set x = 1 %}", "{% set x =__keep__( 1) %}"),
            ("{%- set ns.x = a ~ b -%}", "{%- set ns.x =__keep_attribute__( a ~ b) -%}"),
            ("{% set x=f(a=1)==2%}", "{% set x=__keep__(f(a=1)==2)%}"),
            ("{% set a, b = 1, -2 %}", "{% set a, b =__keep__( 1, -2) %}"),
        ] {
            assert_eq!(prepare(source).unwrap().source, expected);
        }
    }

    #[test]
    fn generation_blocks_are_scopes() {
        assert_eq!(
            prepare("{%- generation -%}x{% endgeneration %}").unwrap().source,
            "{%- with -%}x{% endwith %}"
        );
    }

    #[test]
    fn long_text_is_counted() {
        let text = format!(" {}", "a b ".repeat(100));
        let prepared = prepare(&text).unwrap();
        assert_eq!(prepared.source, text.replacen('a', "{{ __spend__(401) }}a", 1));
        assert_eq!(prepared.uncounted, 0);
        let uncounted = |source: &str| prepare(source).unwrap().uncounted;
        assert_eq!(uncounted("short{{ x }}longer{{ x }}"), 6);
        assert_eq!(
            uncounted(&format!("{{{{ x }}}}{}{{{{ x }}}}", " ".repeat(999))),
            999,
            "white space alone"
        );
        assert_eq!(uncounted("{% raw %}{{ nothing is read here }}, nor counted{% endraw %}"), 39);
    }

    #[test]
    fn long_chains_are_refused() {
        let chain = format!("{{{{ 1{} }}}}", " + 1".repeat(100_000));
        assert_eq!(
            prepare(&chain).unwrap_err(),
            "line 1: found 200003 tokens in one tag, expected at most 2000"
        );
        let branches = format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(10_000));
        assert!(prepare(&branches).is_err());
    }
}
