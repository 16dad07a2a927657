//! A day of a small fleet by `skerry policy simulate`: what it tells, that it tells the same again, and that
//! the policies that are given decide.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use skerry_policy::World;
use skerry_tests::{policies, process};

fn simulate(arguments: &[&str]) -> Output {
    process::run(&[&["policy", "simulate"][..], arguments].concat())
}

#[track_caller]
fn report(arguments: &[&str]) -> Value {
    let output = simulate(&[arguments, &["--json"][..]].concat());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Without what differs from run to run.
fn figures(mut report: Value) -> Value {
    report["wall"] = Value::Null;
    report
}

#[track_caller]
fn refused(arguments: &[&str]) -> String {
    let output = simulate(arguments);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, content).expect("a file");
    path
}

#[test]
fn a_quick_day_is_told_in_all_its_figures() {
    let report = report(&["--quick"]);
    let number = |pointer: &str| {
        let value = report.pointer(pointer).and_then(Value::as_f64);
        value.unwrap_or_else(|| panic!("no {pointer} in {report:#}"))
    };
    assert_eq!((number("/settings/peers"), number("/settings/nodes")), (20_000.0, 50.0));
    assert_eq!((number("/peers/came"), &report["policies"]), (20_000.0, &json!([])));
    assert!(number("/peers/done") > 19_000.0 && number("/catalogue_bytes") > 1e11);
    assert!((0.5..1.0).contains(&number("/offload")), "{}", number("/offload"));
    let parts = ["near_nodes", "far_nodes", "peers"].map(|part| number(&format!("/bytes/{part}")));
    assert_eq!(number("/bytes/delivered"), parts.iter().sum::<f64>());
    assert_eq!(number("/bytes/origin"), number("/bytes/origin_pulled") + number("/bytes/origin_preloaded"));
    assert!(number("/last_peer/mean") >= 1.0 && number("/last_peer/worst") >= number("/last_peer/mean"));
    for of in ["bytes", "bytes_worst", "busiest_hour", "busiest_hour_worst"] {
        let max = number(&format!("/imbalance/{of}/max_over_mean"));
        assert!(max >= 1.0 && max >= number(&format!("/imbalance/{of}/p99_over_mean")), "{of}: {max}");
    }
    for calls in ["routes", "announces", "lists", "plans"] {
        assert!(number(&format!("/calls/{calls}")) > 1000.0, "{calls}");
    }
    assert!(number("/wall/seconds") > 0.0);
    assert_eq!(report["crowds"].as_array().map(Vec::len), Some(2));
    assert_eq!(report["regions"].as_array().map(Vec::len), Some(5));
}

#[test]
fn policies_that_are_given_decide_and_the_default_ones_as_the_built_in_verdicts() {
    let folder = tempfile::tempdir().expect("a folder");
    let small = ["--quick", "--peers", "2000", "--hours", "6"];
    let built_in = figures(report(&small));
    assert_eq!(built_in, figures(report(&small)), "the same settings, the same figures");
    let paths = World::ALL.map(|world| {
        let packed = policies::packed(world, "1.0.0");
        file(folder.path(), &format!("{world}.policy.wasm"), &packed).display().to_string()
    });
    let given: Vec<&str> = paths.iter().flat_map(|path| ["--policy", path.as_str()]).collect();
    let mut with = figures(report(&[&small[..], &given[..]].concat()));
    for world in World::ALL {
        let by = &with["decisions"][world.name()];
        assert!(by["policy"].as_u64() > Some(100), "{world}: {by}");
        // Nothing stands in for a policy but by accident: the machine may be busy, and then it says the same.
        assert!(by["none"].is_null(), "{world}: {by}");
    }
    let names = json!(["region-router 1.0.0", "preload-planner 1.0.0", "super-peer-scheduler 1.0.0"]);
    assert_eq!(with["policies"], names);
    (with["policies"], with["decisions"]) = (json!([]), json!({}));
    assert_eq!(with, built_in);
}

#[test]
fn what_is_no_policy_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let bad = file(folder.path(), "bad.policy.wasm", b"GET / HTTP/1.1\r\n\r\n").display().to_string();
    let error = refused(&["--quick", "--policy", &bad]);
    assert!(error.contains(&bad) && error.contains("no wasm"), "{error}");
    let none = folder.path().join("none.policy.wasm").display().to_string();
    let error = refused(&["--quick", "--policy", &none]);
    assert!(error.contains(&none), "{error}");
    // Well formed, but its own vectors do not hold.
    let manifest = policies::manifest(World::RegionRouter);
    let wrong = manifest.replace("expect = [2, 1, 0]", "expect = [0, 1, 2]");
    assert_ne!(wrong, manifest);
    let wrong = policies::pack(World::RegionRouter, &wrong);
    let wrong = file(folder.path(), "wrong.policy.wasm", &wrong).display().to_string();
    let error = refused(&["--quick", "--policy", &wrong]);
    assert!(error.contains(&wrong) && error.contains("does not hold here"), "{error}");
    let usage = simulate(&["--peers", "0"]);
    assert_eq!(usage.status.code(), Some(2));
}
