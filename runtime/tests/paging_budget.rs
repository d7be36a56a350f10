//! Budgets of memory are kept: by the program, as its system sees it.
#![cfg(all(target_os = "linux", feature = "measure"))]

mod common;

use std::process::{Command, Output};

use common::{Recipe, name};
use lfm_graphs::testing::Tiny;
use lfm_graphs::weights::Format;
use serde_json::Value;

fn lfm_run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_lfm-run")).args(arguments).output().unwrap()
}

fn json(arguments: &[&str]) -> Value {
    let output = lfm_run(arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_peak_stays_within_the_budget() {
    // 54 MB of experts, 3 MB of other weights.
    let tiny = Tiny {
        vocab: 512,
        hidden: 256,
        experts: 32,
        top_k: 4,
        expert_width: 512,
        dense_width: 512,
        layers: [Tiny::moe().layers, Tiny::moe().layers].concat().into_iter().take(5).collect(),
        ..Tiny::moe()
    };
    let made = Recipe { context: 512, ..Recipe::new(tiny, Format::Q8_0) }.make();
    let bundle = name(&made.path);
    let weights = std::fs::metadata(&made.path).unwrap().len();
    assert!(weights > 50 << 20, "{weights}");

    // What it takes is said where the budget is far too small, and by `info`.
    let small = lfm_run(&["generate", bundle, "--tokens", "1", "-n", "1", "--ram", "1MiB"]);
    assert_eq!(small.status.code(), Some(2));
    let small = String::from_utf8(small.stderr).unwrap();
    assert!(small.starts_with("error: a budget of 1.00 MiB is too small, expected at least "), "{small}");
    let info = String::from_utf8(lfm_run(&["info", bundle]).stdout).unwrap();
    let least = info.split_once("--ram ").expect("the least budget").1.lines().next().unwrap();
    let least_bytes = least.strip_suffix("MiB").unwrap().parse::<u64>().unwrap() << 20;

    let tokens: Vec<String> = (0..200).map(|i| (i * i % 509).to_string()).collect();
    let tokens = tokens.join(",");
    let digest = |ram: Option<&str>| {
        let ram = ram.map_or(vec![], |ram| vec!["--ram", ram]);
        json(&[&["logits", bundle, "--tokens", &tokens, "--all"][..], &ram].concat())["digest"].clone()
    };
    let in_memory = digest(None);
    let mut hit_rates = Vec::new();
    for budget in [least_bytes, (least_bytes + weights) / 2, 2 * weights] {
        let ram = budget.to_string();
        assert_eq!(digest(Some(&ram)), in_memory, "{ram}");
        let report = json(&["bench", bundle, "-p", "128", "-n", "32", "-r", "1", "--json", "--ram", &ram]);
        let peak = report["peak_rss_bytes"].as_u64().unwrap();
        assert!(peak <= budget, "{peak} bytes held within a budget of {budget}: {report}");
        assert!(report["planned_bytes"].as_u64().unwrap() <= budget);
        hit_rates.push(report["paging"]["decode"]["hit_rate"].as_f64().unwrap());
    }
    assert!(hit_rates[0] < hit_rates[1] && hit_rates[1] < hit_rates[2], "{hit_rates:?}");

    let said = json(&["generate", bundle, "--tokens", "1,2,3", "-n", "5", "--json", "--ram", least]);
    assert!(said["paging"]["bytes_read"].as_u64().unwrap() > 0, "{said}");
    let gpu = lfm_run(&["logits", bundle, "--tokens", "1", "--ram", "1GiB", "--backend", "wgpu"]);
    assert_eq!(gpu.status.code(), Some(2));
}
