//! The checked-in graphs are what the compiler makes today. `UPDATE_GOLDEN=1` writes them anew.

mod common;

use common::{fixture_config, repository};
use lfm_export::graph::{Stage, graph_from_config};
use lfm_graphs::bundle::KvType;
use lfm_graphs::{Graph, verify, verify_executable};
use lfm_model::Config;

fn check(name: &str, graph: &Graph) {
    let path = repository(&format!("graphs/golden/{name}.ron"));
    let text = graph.text();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    if found != text {
        let line = found.lines().zip(text.lines()).position(|(a, b)| a != b).unwrap_or(0);
        panic!(
            "graphs/golden/{name}.ron differs from line {} on; `UPDATE_GOLDEN=1 cargo test -p lfm-export --test \
             golden_graphs` writes it anew:\n- {}\n+ {}",
            line + 1,
            found.lines().nth(line).unwrap_or("(end)"),
            text.lines().nth(line).unwrap_or("(end)"),
        );
    }
    let parsed = Graph::parse(&found).unwrap();
    assert_eq!(&parsed, graph, "{name}");
    assert_eq!(verify(&parsed), [], "{name}");
}

#[test]
fn tiny() {
    let config = fixture_config("tiny-moe");
    check("tiny-moe.captured", &graph_from_config(&config, Stage::Lowered, KvType::F16).unwrap());
    let fused = graph_from_config(&config, Stage::Fused, KvType::F16).unwrap();
    assert_eq!(verify_executable(&fused), []);
    check("tiny-moe.fused", &fused);
}

#[test]
fn published() {
    for name in ["lfm2-350m", "lfm2-1.2b", "lfm2-8b-a1b", "lfm2.5-8b-a1b", "lfm2-24b-a2b"] {
        let config = Config::from_file(&repository(&format!("graphs/configs/{name}.json"))).unwrap();
        let fused = graph_from_config(&config, Stage::Fused, KvType::F16).unwrap();
        assert_eq!(verify_executable(&fused), [], "{name}");
        check(&format!("{name}.fused"), &fused);
    }
}
