//! A difference as people read it: what differs alike in many layers on one line.

use std::fmt::Write;

use super::layers::{Group, group, ranges};
use super::list::{Change, Field, Item};
use super::{BundleDiff, Diff, GoldenDiff, GraphDiff, SectionDiff, WeightsDiff};

/// Longest pair of values on one line.
const WIDE: usize = 96;
/// Digits of a hash that are shown.
const DIGITS: usize = 12;

/// Lines under headings.
#[derive(Default)]
struct Page {
    text: String,
    heading: Option<&'static str>,
}

impl Page {
    /// Starts a part, which shows once it has a line.
    fn part(&mut self, heading: &'static str) {
        self.heading = Some(heading);
    }

    fn line(&mut self, line: &str) {
        if let Some(heading) = self.heading.take() {
            let _ = writeln!(self.text, "{heading}");
        }
        let _ = writeln!(self.text, "  {line}");
    }

    /// `what: a -> b`, or one under the other where that is too long. `after` is said behind `what`.
    fn pair(&mut self, what: &str, a: &str, b: &str, after: &str) {
        if a.len() + b.len() <= WIDE {
            self.line(&format!("{what}: {a} -> {b}{after}"));
        } else {
            self.line(&format!("{what}{after}"));
            self.line(&format!("  - {a}"));
            self.line(&format!("  + {b}"));
        }
    }
}

/// `text` with what terminals act on made visible.
fn clean(text: &str) -> String {
    let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// ` (N = 0-3)`, where a group has many members.
fn layers_of<T>(group: &Group<T>) -> String {
    if group.members.len() > 1 && !group.layers.is_empty() {
        format!(" (N = {})", ranges(group.layers.clone()))
    } else {
        String::new()
    }
}

/// Parts of one line: a name with what is said of it, and a pair of values. Names have no tabs.
const MARK: char = '\t';

fn items(page: &mut Page, items: &[Item]) {
    let lines = items.iter().flat_map(|Item { name, change }| match change {
        Change::Removed(text) => vec![format!("- {name}: {}", clean(text))],
        Change::Added(text) => vec![format!("+ {name}: {}", clean(text))],
        Change::Renamed(new) => vec![format!("{name} is now {new}")],
        Change::Moved(Some(before)) => vec![format!("{name} now follows {before}")],
        Change::Moved(None) => vec![format!("{name} is now the first")],
        Change::Changed(fields) => {
            let line = |f: &Field| format!("{name}, {}{MARK}{}{MARK}{}", f.field, clean(&f.a), clean(&f.b));
            fields.iter().map(line).collect()
        }
    });
    for group in group(lines, Clone::clone) {
        let layers = layers_of(&group);
        let mut parts = group.text.split(MARK);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(what), Some(a), Some(b)) => page.pair(what, a, b, &layers),
            _ => page.line(&format!("{}{layers}", group.text)),
        }
    }
}

fn fields(page: &mut Page, fields: &[Field]) {
    for Field { field, a, b } in fields {
        let short = |text: &str| {
            let is_hash = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
            if is_hash { format!("{}..", &text[..DIGITS]) } else { clean(text) }
        };
        page.pair(field, &short(a), &short(b), "");
    }
}

/// `4.73 GB`, in decimal units.
fn size(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.iter().find(|(_, unit)| bytes as f64 >= *unit) {
        Some((name, unit)) => format!("{:.2} {name}", bytes as f64 / unit),
        None => format!("{bytes} B"),
    }
}

/// Two numbers of bytes, rounded unless that makes them look the same.
fn sizes(a: u64, b: u64) -> String {
    let (one, other) = (size(a), size(b));
    match one == other {
        true if a == b => one,
        true => format!("{a} B -> {b} B"),
        false => format!("{one} -> {other}"),
    }
}

fn graph(page: &mut Page, diff: &GraphDiff) {
    page.part("graph");
    fields(page, diff.model.as_slice());
    fields(page, diff.outputs.as_slice());
    for (heading, list) in [
        ("graph: inputs", &diff.inputs),
        ("graph: constants", &diff.consts),
        ("graph: states", &diff.states),
        ("graph: nodes", &diff.nodes),
    ] {
        page.part(heading);
        items(page, list);
    }
}

fn weights(page: &mut Page, diff: &WeightsDiff) {
    page.part("weights");
    items(page, &diff.items);
    page.part("weights: formats");
    for group in group(&diff.formats, |weight| format!("{}: {} -> {}", weight.name, weight.a, weight.b)) {
        let (n, layers) = (group.members.len(), layers_of(&group));
        let plural = if n > 1 { format!(", {n} weights{layers}") } else { String::new() };
        let sum = |bytes: Vec<Option<u64>>| bytes.into_iter().sum::<Option<u64>>();
        let a = sum(group.members.iter().map(|weight| weight.bytes_a).collect());
        let b = sum(group.members.iter().map(|weight| weight.bytes_b).collect());
        let bytes = a.zip(b).map_or(String::new(), |(a, b)| format!(", {}", sizes(a, b)));
        page.line(&format!("{}{plural}{bytes}", group.text));
    }
    if let (false, Some(a), Some(b)) = (diff.formats.is_empty(), diff.bytes_a, diff.bytes_b) {
        page.line(&format!("all weights: {}", sizes(a, b)));
    }
    page.part("weights: values");
    for group in group(&diff.values, |weight| format!("{} ({})", weight.name, weight.format)) {
        let (n, layers) = (group.members.len(), layers_of(&group));
        let plural = if n > 1 { format!(", {n} weights{layers}") } else { String::new() };
        let sum = |f: fn(&super::ValuesDiff) -> u64| group.members.iter().map(|w| f(w)).sum::<u64>();
        let rows = format!("{} of {} rows differ", sum(|w| w.rows_differ), sum(|w| w.rows));
        let bytes = format!("{} of {} bytes", sum(|w| w.bytes_differ), sum(|w| w.bytes));
        page.line(&format!("{}{plural}: {rows}, {bytes}", group.text));
    }
}

fn bundle(page: &mut Page, diff: &BundleDiff) {
    page.part("target");
    fields(page, &diff.target);
    page.part("plan");
    for field in &diff.plan {
        let bytes = |text: &str| text.parse::<u64>().ok();
        match (field.field.as_str(), bytes(&field.a), bytes(&field.b)) {
            ("states" | "arena" | "live" | "program" | "total without weights", Some(a), Some(b)) => {
                page.line(&format!("{}: {}", field.field, sizes(a, b)));
            }
            _ => fields(page, std::slice::from_ref(field)),
        }
    }
    if diff.places.differ > 0 {
        let (differ, all) = (diff.places.differ, diff.places.all);
        page.line(&format!("{differ} of {all} buffers and states have other sizes, lives or places"));
    }
    page.part("manifest");
    fields(page, &diff.manifest);
    page.part("text");
    for SectionDiff { name, a, b } in &diff.sections {
        let show = |side: &Option<(u64, String)>| {
            let one = |(length, hash): &(u64, String)| {
                format!("{length} B {}..", hash.get(..DIGITS).unwrap_or(hash))
            };
            side.as_ref().map_or_else(|| "none".to_owned(), one)
        };
        page.line(&format!("{name}: {} -> {}", show(a), show(b)));
    }
}

fn golden(page: &mut Page, diff: &GoldenDiff) {
    page.part("golden vectors");
    let all = diff.common;
    for (n, what) in [
        (diff.removed, "prompts only in A".to_owned()),
        (diff.added, "prompts only in B".to_owned()),
        (diff.tokens, format!("of {all} prompts are answered with other tokens")),
        (diff.logits, format!("of {all} prompts are answered with the same tokens from other logits")),
    ] {
        if n > 0 {
            page.line(&format!("{n} {what}"));
        }
    }
}

impl Diff {
    /// The text: a heading for each part that differs, and nothing if none does.
    pub fn text(&self) -> String {
        let mut page = Page::default();
        graph(&mut page, &self.graph);
        weights(&mut page, &self.weights);
        if let Some(rest) = &self.bundle {
            bundle(&mut page, rest);
            if self.golden_is_odd() {
                golden(&mut page, &rest.golden);
            }
        }
        page.text
    }
}
