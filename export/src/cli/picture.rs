//! The picture of a graph: one page without scripts or links, a box a node, grouped by scope.

use std::fmt::Write;

use lfm_graphs::graph::Value;
use lfm_runtime::Model;

const STYLE: &str = "body{font:14px/1.4 system-ui,sans-serif;margin:2em;max-width:72em;color:#222}\
h1{font-size:1.4em}table{border-collapse:collapse}td,th{padding:.15em .8em;text-align:left}th{color:#666;font-weight:600}\
td.n{text-align:right;font-variant-numeric:tabular-nums}\
section{border:1px solid #ccc;border-radius:6px;margin:.6em 0;padding:.4em .8em}section>h2{font-size:1em;margin:.2em 0;color:#666}\
.node{display:inline-block;border-radius:4px;margin:.2em;padding:.25em .6em;background:#eef;vertical-align:top}\
.node b{display:block}.node small{color:#555;display:block;max-width:26em}\
.ConvGate{background:#d9f2e3}.Attention{background:#fde2cf}.Moe{background:#e6dcfa}.Linear,.LinearAdd,.SwiGlu{background:#dce9fb}\
.RmsNorm,.Rope,.RopeTable{background:#f4f1d8}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The part of a name that its layer has in common.
fn scope(name: &str) -> &str {
    let is_layer = |part: &str| {
        part.strip_prefix('l').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    name.split('.').next().filter(|part| is_layer(part)).unwrap_or("")
}

/// The page of a bundle.
pub(super) fn page(model: &Model) -> String {
    let (graph, manifest) = (model.graph(), model.manifest());
    let mut page = String::new();
    let title = escape(&manifest.model);
    let _ = write!(
        page,
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title><style>{STYLE}</style>\
         <h1>{title}</h1><p>{} weights, target {}, context {}, chunk {}, id <code>{}</code></p>",
        escape(&manifest.recipe),
        escape(&model.target().name),
        manifest.context,
        manifest.chunk,
        model.id()
    );
    let _ = write!(page, "<table><tr><th>operation<th>count");
    for (op, count) in graph.histogram() {
        let _ = write!(page, "<tr><td>{op}<td class=\"n\">{count}");
    }
    page.push_str("</table>");
    let mut open: Option<&str> = None;
    for node in graph.nodes().values() {
        let here = scope(&node.name);
        if open != Some(here) {
            if open.is_some() {
                page.push_str("</section>");
            }
            let _ = write!(page, "<section><h2>{}</h2>", escape(here));
            open = Some(here);
        }
        let args: Vec<String> = node.args.iter().map(|arg| argument(model, *arg)).collect();
        let out: Vec<String> = node.out.iter().map(ToString::to_string).collect();
        let _ = write!(
            page,
            "<div class=\"node {op}\" title=\"{attributes}\"><b>{name}</b>{op} &rarr; {out}<small>{args}</small></div>",
            op = node.op.name(),
            attributes = escape(&format!("{:?}", node.op)),
            name = escape(&node.name),
            out = escape(&out.join(", ")),
            args = escape(&args.join(", ")),
        );
    }
    if open.is_some() {
        page.push_str("</section>");
    }
    page.push_str("</html>\n");
    page
}

/// An argument; a weight with its shape and storage.
fn argument(model: &Model, value: Value) -> String {
    let graph = model.graph();
    let name = graph.value_name(value);
    match value {
        Value::Weight(id) => {
            let weight = &graph.weights()[id];
            format!("{name} {} {}", weight.ty, weight.storage)
        }
        _ => name,
    }
}
