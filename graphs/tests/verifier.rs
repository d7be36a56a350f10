//! One bad graph for each way to break a rule, in `verifier/`: the file's name begins with the rule. The snapshot is
//! the text with the error under the line that it concerns.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use lfm_graphs::graph::Value;
use lfm_graphs::id::{Id, NodeId};
use lfm_graphs::verify::{At, Rule};
use lfm_graphs::{Builder, DType, Dim, Graph, Op, TensorType, VerifyError, verify, verify_executable};

/// Rule and graph of every file, in the order of their names.
fn bad_graphs() -> Vec<(String, Rule, Graph)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/verifier");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .iter()
        .map(|file| {
            let name = file.file_stem().unwrap().to_str().unwrap().to_string();
            let rule = Rule(name[1..3].parse().unwrap());
            let graph =
                Graph::parse(&fs::read_to_string(file).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
            (name, rule, graph)
        })
        .collect()
}

#[test]
fn each_bad_graph_breaks_its_rule_alone() {
    for (name, rule, graph) in bad_graphs() {
        let errors = if rule == Rule(15) { verify_executable(&graph) } else { verify(&graph) };
        let rules: BTreeSet<Rule> = errors.iter().map(|e| e.rule).collect();
        assert_eq!(rules, BTreeSet::from([rule]), "{name}: {errors:#?}");
        let annotated = graph.annotated(&errors);
        assert_eq!(Graph::parse(&annotated).unwrap().text(), graph.text(), "{name}");
        insta::assert_snapshot!(name, annotated);
    }
}

#[test]
fn graphs_that_break_rule_15_break_no_other() {
    for (name, rule, graph) in bad_graphs() {
        assert_eq!(verify(&graph).is_empty(), rule == Rule(15), "{name}");
    }
}

#[test]
fn every_rule_has_a_bad_graph() {
    let in_files: BTreeSet<Rule> = bad_graphs().into_iter().map(|(_, rule, _)| rule).collect();
    // V01 cannot be written in text: the parser refuses names that stand for nothing.
    let rules: BTreeSet<Rule> = (2..=15).map(Rule).collect();
    assert_eq!(in_files, rules);
}

/// `embed` alone, the node that all bad graphs begin with.
fn embed() -> (Builder, Value) {
    let mut b = Builder::new("bad");
    let tokens = b.input("tokens", TensorType::new(DType::I32, [Dim::SEQ]));
    let table = b.weight("table", TensorType::new(DType::F32, [4u32, 2]), "table");
    let embed = b.node("embed", Op::Select, &[table, tokens]).unwrap();
    (b, embed)
}

fn messages(errors: &[VerifyError]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn values_that_do_not_exist() {
    let (mut b, embed) = embed();
    b.output(embed);
    b.output(Value::Node(NodeId::new(9), 0));
    let errors = verify(&b.finish());
    assert_eq!(messages(&errors), ["V01 at the outputs: a value that does not exist"]);

    let (mut b, embed) = self::embed();
    let state = b.state("s", TensorType::new(DType::F32, [2u32]), lfm_graphs::Update::Window);
    let sum = b.node("sum", Op::Add, &[embed, state]).unwrap();
    b.output(sum);
    b.next(state, Value::Node(NodeId::new(1), 1));
    let errors = verify(&b.finish());
    assert_eq!(messages(&errors), ["V01 at @s: the next content does not exist"]);
}

#[test]
fn names_that_the_parser_refuses() {
    let mut b = Builder::new("bad");
    let first = b.input("tokens", TensorType::new(DType::I32, [Dim::SEQ]));
    let second = b.input("tokens", TensorType::new(DType::I32, [Dim::SEQ]));
    let table = b.weight("a table", TensorType::new(DType::F32, [4u32, 2]), "table");
    for (name, tokens) in [("embed", first), ("other", second)] {
        let rows = b.node(name, Op::Select, &[table, tokens]).unwrap();
        b.output(rows);
    }
    let graph = b.finish();
    let errors = verify(&graph);
    assert_eq!(
        messages(&errors),
        [
            "V03 at $tokens: the name is already that of item 0",
            "V03 at %a table: \"a table\" is no well-formed name"
        ]
    );
    assert!(Graph::parse(&graph.text()).is_err());
}

#[test]
fn all_faults_are_collected() {
    let bad = include_str!("verifier/v05-other-result.ron");
    let worse = bad.replace("f32[4, 2]\", storage: f32", "i32[4, 0]\", storage: f16");
    let graph = Graph::parse(&worse).unwrap();
    let rules: Vec<u8> = verify(&graph).iter().map(|e| e.rule.0).collect();
    assert_eq!(rules, [6, 6, 5]);
    assert!(verify(&graph).iter().all(|e| e.at != At::Graph));
}
