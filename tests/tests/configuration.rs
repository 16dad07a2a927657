//! A configuration that is wrong starts nothing and says where it is wrong; one that is right
//! survives being printed and read.

use std::net::TcpListener;
use std::process::Output;

use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::process;

/// A node whose origin nobody ever asks.
fn node() -> NodeBuilder {
    Node::with_origin("http://127.0.0.1:9")
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The number of the line that contains `text`, from 1.
fn line_of(node: &Node, text: &str) -> usize {
    let file = std::fs::read_to_string(node.config()).expect("the configuration");
    let at = file.lines().position(|line| line.contains(text));
    1 + at.unwrap_or_else(|| panic!("no {text} in the configuration"))
}

/// Panics unless `skerry run` and `skerry config check` refuse the file with exit code 2, naming
/// the file, the line and all these words, and nothing was started.
#[track_caller]
fn assert_refused(node: &Node, at: &str, words: &[&str]) {
    let file = node.config().to_string_lossy().into_owned();
    let place = format!("{file}:{}", line_of(node, at));
    for output in [node.run_to_end(&[]), process::run(&["config", "check", &file])] {
        let complaint = complaint(&output);
        assert_eq!(output.status.code(), Some(2), "{complaint}");
        assert!(complaint.contains(&place), "no {place} in: {complaint}");
        for word in words {
            assert!(complaint.contains(word), "no {word} in: {complaint}");
        }
    }
    assert!(!node.data_dir().exists(), "something was started");
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    let node = node().set("store", "memory_teir_bytes", 1).write();
    assert_refused(&node, "memory_teir_bytes", &["store.memory_teir_bytes", "memory_tier_bytes"]);
}

#[test]
fn an_unknown_key_of_a_site_is_named_too() {
    let node = node().set("sites.\"cdn.example.org\"", "origni", 1).write();
    assert_refused(&node, "origni", &["origni", "origin"]);
}

#[test]
fn an_unknown_table_is_named() {
    let node = node().set("stroe", "capacity_bytes", 1).write();
    assert_refused(&node, "stroe", &["stroe", "store"]);
}

#[test]
fn a_value_of_the_wrong_type_is_named() {
    let node = node().text("node", "workers", "many").write();
    assert_refused(&node, "workers", &["node.workers", "many"]);
}

#[test]
fn an_address_that_is_none_is_named() {
    let node = node().text("admin", "listen", "localhost").write();
    assert_refused(&node, "listen = \"localhost\"", &["admin.listen"]);
}

#[test]
fn an_origin_of_an_unknown_kind_is_named() {
    let node = node().text("sites.default", "origin", "gopher://example.org/").write();
    assert_refused(&node, "gopher", &["sites.default.origin", "gopher"]);
}

#[test]
fn what_is_no_toml_is_named() {
    let node = node().set("node", "name", "\"open").write();
    assert_refused(&node, "\"open", &[]);
}

#[test]
fn tls_without_a_certificate_is_named() {
    let node = node().set("public", "tls_listen", "[\"127.0.0.1:0\"]").write();
    let output = node.run_to_end(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", complaint(&output));
    assert!(complaint(&output).contains("public.tls_certificate_file"), "{}", complaint(&output));
}

#[test]
fn an_admin_listener_off_loopback_needs_a_token() {
    let node = node().text("admin", "listen", "0.0.0.0:0").write();
    let output = node.run_to_end(&[]);
    assert_eq!(output.status.code(), Some(2), "{}", complaint(&output));
    assert!(complaint(&output).contains("admin.token_file"), "{}", complaint(&output));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = process::run(&["run", "--config", "/nonexistent/skerry.toml"]);
    assert_eq!(output.status.code(), Some(2), "{}", complaint(&output));
    assert!(complaint(&output).contains("/nonexistent/skerry.toml"), "{}", complaint(&output));
}

#[test]
fn a_port_in_use_is_named_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let public = node().set("public", "listen", format!("[{address:?}]")).write();
    let admin = node().text("admin", "listen", &address).write();
    for (node, key) in [(public, "public.listen"), (admin, "admin.listen")] {
        let output = node.run_to_end(&[]);
        assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
        let complaint = complaint(&output);
        assert!(complaint.contains(&address) && complaint.contains(key), "{complaint}");
    }
}

#[test]
fn a_data_directory_in_use_is_named() {
    let mut first = node().write();
    first.start();
    let second = node().data_dir(first.data_dir()).write();
    let output = second.run_to_end(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", complaint(&output));
    let folder = first.data_dir().to_string_lossy().into_owned();
    assert!(complaint(&output).contains(&folder), "{}", complaint(&output));
    assert_eq!(first.admin_get("/readyz").status, 200);
}

#[test]
fn the_default_configuration_is_a_good_one() {
    let output = process::run(&["config", "default"]);
    assert_eq!(output.status.code(), Some(0), "{}", complaint(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for key in ["[node]", "data_dir", "[public]", "[store]", "memory_tier_bytes", "[cache]"] {
        assert!(text.contains(key), "no {key} in the default configuration");
    }
    assert!(text.lines().any(|line| line.starts_with("# ")), "keys are explained");

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("skerry.toml");
    std::fs::write(&file, text).expect("the file is written");
    let check = process::run(&["config", "check", &file.to_string_lossy()]);
    assert_eq!(check.status.code(), Some(0), "{}", complaint(&check));
}

#[test]
fn a_dry_run_checks_and_starts_nothing() {
    let good = node().write();
    let output = good.run_to_end(&["--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", complaint(&output));
    assert!(!good.data_dir().exists());
    let bad = node().set("store", "memory_teir_bytes", 1).write();
    assert_eq!(bad.run_to_end(&["--dry-run"]).status.code(), Some(2));
}

#[test]
fn a_command_that_does_not_exist_is_a_usage_error() {
    for arguments in [&["rnu"][..], &["run", "--colour"][..], &["store"][..], &["config", "check"][..]] {
        let output = process::run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", complaint(&output));
    }
}
