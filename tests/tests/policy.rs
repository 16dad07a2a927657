//! A policy's way through a running node: who may bring one, how it takes over, how it goes back,
//! and what is left of it after a restart.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use skerry_policy::World;
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::policies::{self, Author};
use skerry_tests::wait;

const ROUTER: &str = "region-router";
const SOON: Duration = Duration::from_secs(30);

/// A node that trusts an author, and whose stages wait for calls alone.
fn builder(author: &Author) -> NodeBuilder {
    Node::with_origin("http://127.0.0.1:9")
        .text("policy.signers", "author", &author.public)
        .set("policy.decisions", "calls_one_in", 1)
        .set("policy.rollout", "compare_one_in", 1)
        .set("policy.rollout", "judged_calls", 10)
        .set("policy.rollout", "shadow_seconds", 0)
        .set("policy.rollout", "shadow_calls", 10)
        .set("policy.rollout", "canary_1_seconds", 0)
        .set("policy.rollout", "canary_1_calls", 10)
        .set("policy.rollout", "canary_10_seconds", 0)
        .set("policy.rollout", "canary_10_calls", 10)
        .set("policy.rollout", "all_seconds", 0)
        .set("policy.rollout", "all_calls", 10)
        // A machine that runs other tests is late now and then.
        .set("policy", "route_time_ms", 500)
}

fn push(node: &Node, folder: &Path, file: &[u8]) -> Output {
    let path = folder.join("a.policy.wasm");
    std::fs::write(&path, file).expect("a file");
    node.command(&["policy", "push", &path.to_string_lossy()])
}

fn pushed(node: &Node, folder: &Path, file: &[u8]) -> String {
    let output = push(node, folder, file);
    assert!(output.status.success(), "push: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Why a push is refused.
fn refused(node: &Node, folder: &Path, file: &[u8]) -> String {
    let output = push(node, folder, file);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn decide(node: &Node, client: u64) -> Value {
    let asked = json!({ "inputs": policies::routing(client), "client": client });
    let answer = node.admin_post("/policy/decide", &asked);
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_str(&answer.text()).expect("JSON")
}

/// The world's slot in the list.
fn slot(node: &Node) -> Value {
    let list: Value = serde_json::from_str(&node.admin_get("/policy").text()).expect("JSON");
    let worlds = list["worlds"].as_array().expect("worlds");
    worlds.iter().find(|slot| slot["world"] == ROUTER).expect("the router's").clone()
}

fn deciding(node: &Node) -> String {
    slot(node)["decides"]["version"].as_str().unwrap_or("built-in").to_owned()
}

/// Makes decisions until a condition holds.
fn until(node: &Node, what: &str, mut holds: impl FnMut() -> bool) {
    let mut client = 0;
    wait::until(what, SOON, || {
        for _ in 0..20 {
            client += 1;
            decide(node, client);
        }
        holds()
    });
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn a_policy_takes_over_step_by_step_and_goes_back_at_once() {
    let (author, folder) = (Author::new(), folder());
    let node = builder(&author).start();
    assert_eq!(decide(&node, 1)["cause"], "none", "the built-in verdict decides");
    let expected = decide(&node, 1)["answer"].clone();
    assert_eq!(expected["ranked"][0]["row"], 1);

    let said = pushed(&node, folder.path(), &author.sign(&policies::packed(World::RegionRouter, "1.0.0")));
    assert_eq!(said, "region-router 1.0.0 begins in shadow: region-router\n");
    assert_eq!(slot(&node)["candidate"]["rollout"]["stage"], "shadow");
    assert_eq!(decide(&node, 1)["policy"], Value::Null, "in shadow it is not obeyed");
    until(&node, "the policy to take over", || {
        eprintln!("{}", slot(&node)["candidate"]["rollout"]);
        deciding(&node) == "1.0.0"
    });
    let decided = decide(&node, 1);
    assert_eq!(decided["policy"], json!({ "name": ROUTER, "version": "1.0.0" }));
    assert_eq!(decided["answer"], expected, "it says what the built-in verdict says");

    // The next version, by the operator's word, and back.
    pushed(&node, folder.path(), &author.sign(&policies::packed(World::RegionRouter, "1.0.1")));
    for _ in 0..4 {
        assert!(node.command(&["policy", "promote", ROUTER]).status.success());
    }
    assert_eq!(deciding(&node), "1.0.1");
    let output = node.command(&["policy", "rollback", ROUTER]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "region-router: region-router 1.0.0 decides\n");
    assert_eq!(decide(&node, 1)["policy"]["version"], "1.0.0");

    let by = |by: &str| node.metric("skerry_policy_decisions_total", &[("world", ROUTER), ("by", by)]);
    assert!(by("policy") > 0.0 && by("none") > 0.0);
    let steps = |step: &str| node.metric("skerry_policy_changes_total", &[("world", ROUTER), ("step", step)]);
    assert_eq!((steps("taken"), steps("done"), steps("rolled-back")), (2.0, 2.0, 1.0));
    let list = String::from_utf8_lossy(&node.command(&["policy", "list"]).stdout).into_owned();
    assert!(list.contains("region-router 1.0.0") && list.contains("before"), "{list}");
    let told =
        String::from_utf8_lossy(&node.command(&["policy", "explain", "--limit", "1"]).stdout).into_owned();
    assert!(told.contains("by region-router 1.0.0") && told.contains("built-in"), "{told}");
}

#[test]
fn only_what_is_signed_new_and_right_is_taken() {
    let (author, stranger, folder) = (Author::new(), Author::new(), folder());
    let node = builder(&author).start();
    let packed = policies::packed(World::RegionRouter, "1.1.0");
    for (what, file, word) in [
        ("unsigned", packed.clone(), "not signed"),
        ("signed by a stranger", stranger.sign(&packed), "key"),
        ("no policy", b"GET / HTTP/1.1".to_vec(), "no wasm"),
        ("cut short", author.sign(&packed)[..packed.len() / 2].to_vec(), ""),
    ] {
        let reason = refused(&node, folder.path(), &file);
        assert!(reason.contains(word), "{what}: {reason}");
    }
    // One byte of the component, under a good signature of another file.
    let mut changed = author.sign(&packed);
    let middle = packed.len() / 2;
    changed[middle] ^= 1;
    refused(&node, folder.path(), &changed);

    // Its own vectors must hold on this node.
    let manifest =
        policies::manifest(World::RegionRouter).replace("expect = [2, 1, 0]", "expect = [0, 1, 2]");
    let wrong = author.sign(&policies::pack(World::RegionRouter, &manifest));
    let reason = refused(&node, folder.path(), &wrong);
    assert!(reason.contains("does not hold here") && reason.contains("expected"), "{reason}");

    pushed(&node, folder.path(), &author.sign(&packed));
    let again = pushed(&node, folder.path(), &author.sign(&packed));
    assert_eq!(again, "region-router 1.1.0 is there already\n");
    let reason = refused(&node, folder.path(), &author.sign(&policies::packed(World::RegionRouter, "1.0.9")));
    assert!(reason.contains("1.1.0") && reason.contains("1.0.9"), "a step back: {reason}");
    assert_eq!(node.metric("skerry_policy_refused_total", &[]), 7.0);
    assert_eq!(slot(&node)["candidate"]["policy"]["version"], "1.1.0");
}

#[test]
fn what_decides_is_what_decided_before_the_restart() {
    let (author, folder) = (Author::new(), folder());
    let mut node = builder(&author).start();
    for version in ["1.0.0", "1.0.1"] {
        pushed(&node, folder.path(), &author.sign(&policies::packed(World::RegionRouter, version)));
        for _ in 0..4 {
            assert!(node.command(&["policy", "promote", ROUTER]).status.success());
        }
    }
    pushed(&node, folder.path(), &author.sign(&policies::packed(World::RegionRouter, "1.0.2")));
    assert!(node.command(&["policy", "promote", ROUTER]).status.success());
    assert!(node.command(&["policy", "hold", ROUTER]).status.success());
    node.kill();
    // Whoever flips a bit of what is kept compiled changes nothing but the time of the start.
    let native = node.data_dir().join("policies/native");
    for file in std::fs::read_dir(&native).expect("compiled code").flatten() {
        if file.path().extension().is_some_and(|ending| ending == "native") {
            let mut code = std::fs::read(file.path()).expect("code");
            let middle = code.len() / 2;
            code[middle] ^= 0x10;
            std::fs::write(file.path(), code).expect("code");
        }
    }
    node.start();
    // It serves before all is compiled anew.
    wait::until("what was kept", SOON, || slot(&node)["restoring"] == false);
    let now = slot(&node);
    assert_eq!(now["decides"]["version"], "1.0.1");
    assert_eq!(now["candidate"]["policy"]["version"], "1.0.2");
    assert_eq!(now["candidate"]["rollout"]["stage"], "canary-1");
    assert_eq!(now["previous"]["version"], "1.0.0");
    node.must_log(&["changed by somebody else"]);
    assert_eq!(decide(&node, 1)["cause"], Value::Null);
}

#[test]
fn a_watched_folder_and_sighup_lead_to_the_same_path() {
    let (author, folder) = (Author::new(), folder());
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("old.policy.wasm"), author.sign(&policies::packed(World::RegionRouter, "1.0.0")))
        .expect("a file");
    let tables = file("tables.json");
    std::fs::write(&tables, "{}").expect("a file");
    let node = builder(&author)
        .text("policy", "watch_dir", &folder.path().to_string_lossy())
        .text("policy", "tables_file", &tables.to_string_lossy())
        .start();
    let candidate = |version: &str| slot(&node)["candidate"]["policy"]["version"] == version;
    wait::until("what lay there at the start", SOON, || candidate("1.0.0"));
    // As a careful copy does it: written beside, then moved.
    std::fs::write(file("new"), author.sign(&policies::packed(World::RegionRouter, "1.0.1")))
        .expect("a file");
    std::fs::rename(file("new"), file("new.policy.wasm")).expect("a file");
    wait::until("what was put there", SOON, || candidate("1.0.1"));

    std::fs::write(file("bad.policy.wasm"), "nothing").expect("a file");
    wait::until("the complaint", SOON, || node.logged(&["not taken"]));
    std::fs::write(&tables, "{ nonsense").expect("a file");
    node.signal("HUP");
    wait::until("the other complaint", SOON, || node.logged(&["tables", "stay as they were"]));
    assert!(candidate("1.0.1"));
}

#[test]
fn the_way_back_to_the_built_in_verdict_survives_a_restart() {
    let (author, folder) = (Author::new(), folder());
    let mut node = builder(&author).start();
    pushed(&node, folder.path(), &author.sign(&policies::packed(World::RegionRouter, "1.0.0")));
    for _ in 0..4 {
        assert!(node.command(&["policy", "promote", ROUTER]).status.success());
    }
    assert_eq!(deciding(&node), "1.0.0");
    node.restart();
    assert_eq!((deciding(&node), &slot(&node)["previous"]), ("1.0.0".to_owned(), &json!("built-in")));
    let output = node.command(&["policy", "rollback", ROUTER]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "region-router: the built-in verdict decides\n");
    assert_eq!(decide(&node, 1)["cause"], "none");
}

#[test]
fn what_is_broken_on_disk_stops_no_node() {
    let (author, folder) = (Author::new(), folder());
    let missing = folder.path().join("missing");
    let mut node = builder(&author)
        .text("policy", "watch_dir", &missing.to_string_lossy())
        .text("policy", "tables_file", &missing.to_string_lossy())
        .start();
    pushed(&node, folder.path(), &author.sign(&policies::packed(World::RegionRouter, "1.0.0")));
    for _ in 0..4 {
        assert!(node.command(&["policy", "promote", ROUTER]).status.success());
    }
    node.kill();
    let kept = node.data_dir().join("policies");
    let ledger = std::fs::read_to_string(kept.join("ledger.json")).expect("a ledger");
    std::fs::write(kept.join("ledger.json"), "{ nonsense").expect("a ledger");
    node.start();
    assert_eq!(decide(&node, 1)["cause"], "none");
    let reason = refused(&node, folder.path(), &author.sign(&policies::packed(World::RegionRouter, "1.0.1")));
    assert!(reason.contains("ledger.json"), "{reason}");

    // Mended, it goes on where it was; a package that is gone costs its place and no start.
    node.kill();
    std::fs::write(kept.join("ledger.json"), &ledger).expect("a ledger");
    node.start();
    assert_eq!(deciding(&node), "1.0.0");
    node.kill();
    let package = std::fs::read_dir(&kept).expect("a folder").flatten().map(|file| file.path());
    let package =
        package.into_iter().find(|path| path.to_string_lossy().ends_with(".policy.wasm")).expect("a package");
    let aside = folder.path().join("aside");
    std::fs::rename(&package, &aside).expect("a package");
    node.start();
    assert_eq!(decide(&node, 1)["cause"], "none");
    node.kill();
    std::fs::copy(&aside, &package).expect("a package");
    node.start();
    assert_eq!(deciding(&node), "1.0.0", "its place was kept");
}
