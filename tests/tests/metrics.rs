//! What a node tells of itself: metrics, a status on one screen, a line for every request.

use std::time::Duration;

use serde_json::Value;
use skerry_tests::content;
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::reply::Reply;
use skerry_tests::wait;

const LENGTH: usize = 1_500_000;

/// A node that has answered a miss, a hit, a 404 and an origin that hangs up.
fn node_with_traffic(origin: &Origin) -> Node {
    origin.reply("/a", Reply::ok(content::bytes(101, 0, LENGTH)).etag("one").ranges().fresh());
    origin.reply("/broken", Reply::raw(""));
    let node = Node::in_front_of(origin).set("log", "access", true).start();
    assert_eq!(node.get("/a").status, 200);
    node.hit("/a");
    assert_eq!(node.get("/none").status, 404);
    assert_eq!(node.get("/broken").status, 502);
    node
}

#[test]
fn requests_bytes_and_times_are_counted() {
    let origin = Origin::start();
    let node = node_with_traffic(&origin);
    let at_least = |name: &str, labels: &[(&str, &str)], least: f64| {
        wait::until(&format!("{name} {labels:?}"), Duration::from_secs(60), || {
            node.metric(name, labels) >= least
        });
    };
    let requests = "skerry_cache_requests_total";
    at_least(requests, &[("site", "default"), ("method", "GET"), ("status", "2xx"), ("result", "miss")], 1.0);
    at_least(requests, &[("site", "default"), ("method", "GET"), ("status", "2xx"), ("result", "hit")], 1.0);
    at_least(requests, &[("status", "4xx")], 1.0);
    at_least(requests, &[("status", "5xx")], 1.0);
    at_least("skerry_cache_client_bytes_total", &[("site", "default")], 2.0 * LENGTH as f64);
    at_least("skerry_cache_origin_bytes_total", &[("site", "default")], LENGTH as f64);
    at_least("skerry_cache_origin_requests_total", &[("site", "default")], 3.0);
    at_least("skerry_cache_ttfb_seconds_count", &[], 4.0);
    at_least("skerry_cache_duration_seconds_count", &[], 4.0);
    at_least("skerry_build_info", &[], 1.0);
    at_least("skerry_store_bytes", &[("tier", "memory"), ("class", "cache")], 1.0);
    assert!(node.metric("skerry_cache_origin_bytes_total", &[]) < 2.0 * LENGTH as f64, "a hit costs nothing");

    let outcomes = |node: &Node| node.metric("skerry_cache_origin_requests_total", &[]);
    let before = outcomes(&node);
    node.hit("/a");
    assert_eq!(outcomes(&node), before);
}

#[test]
fn every_metric_is_named_and_explained() {
    let origin = Origin::start();
    let node = node_with_traffic(&origin);
    let answer = node.admin_get("/metrics");
    assert!(answer.header("content-type").is_some_and(|media| media.starts_with("text/plain")));
    let text = answer.text();
    for name in [
        "skerry_store_bytes",
        "skerry_store_evictions_total",
        "skerry_store_verify_failures_total",
        "skerry_store_write_failures_total",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "no {name}");
    }
    assert!(text.contains("rocksdb"), "RocksDB's own statistics are there");
    let mut kinds = std::collections::HashMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            kinds.insert(name.to_owned(), kind.to_owned());
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a text");
            assert!(!help.trim().is_empty(), "{name} is not explained");
        } else if !line.is_empty() {
            let name = line.split(['{', ' ']).next().unwrap_or_default();
            let own = name.starts_with("skerry_");
            assert!(own || name.starts_with("process_"), "{name} is not ours");
        }
    }
    for (name, kind) in kinds {
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
    }
}

#[test]
fn status_fits_on_one_screen() {
    let origin = Origin::start();
    let node = node_with_traffic(&origin);
    let output = node.command(&["status"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!((3..=40).contains(&text.lines().count()), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 120), "{text}");
    assert!(text.contains("skerry"), "{text}");
    assert!(text.contains("default"), "the sites are named: {text}");

    let output = node.command(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let status: Value = serde_json::from_slice(&output.stdout).expect("status --json is JSON");
    assert!(status.is_object(), "{status}");
    let answer = node.admin_get("/status");
    assert!(serde_json::from_slice::<Value>(&answer.body).is_ok_and(|status| status.is_object()));
}

#[test]
fn the_status_of_a_node_that_is_down_is_a_failure() {
    let origin = Origin::start();
    let mut node = node_with_traffic(&origin);
    node.stop();
    let output = node.command(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stderr.is_empty());
}

#[test]
fn the_store_tells_what_it_holds() {
    let origin = Origin::start();
    let node = node_with_traffic(&origin);
    let output = node.command(&["store", "stats", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let stats: Value = serde_json::from_slice(&output.stdout).expect("stats --json is JSON");
    assert!(stats.is_object(), "{stats}");
    assert_eq!(node.admin_get("/store/stats").status, 200);
    assert_eq!(node.command(&["store", "stats"]).status.code(), Some(0));
}

#[test]
fn every_request_is_a_line_when_asked_for() {
    let origin = Origin::start();
    let node = node_with_traffic(&origin);
    for words in [["/a", "200", "GET"], ["/none", "404", "GET"], ["/broken", "502", "GET"]] {
        wait::until(&format!("a line with {words:?}"), Duration::from_secs(10), || node.logged(&words));
    }
}

#[test]
fn no_request_is_a_line_unless_asked_for() {
    let origin = Origin::start();
    origin.reply("/quiet", Reply::ok("quiet").fresh());
    let mut node = Node::in_front_of(&origin).start();
    node.get("/quiet");
    node.stop();
    assert!(!node.logged(&["/quiet"]), "{}", node.stderr().join("\n"));
}

#[test]
fn the_admin_listener_knows_what_it_does_not_know() {
    let origin = Origin::start();
    let node = Node::in_front_of(&origin).start();
    node.admin_get("/nothing").problem(404);
    assert!(node.get("/metrics").status == 404, "the admin paths are not public");
    let reserved = node.get("/.skerry/v1/nothing");
    reserved.problem(404);
    assert!(origin.requests().iter().all(|request| !request.path().starts_with("/.skerry/")));
}
