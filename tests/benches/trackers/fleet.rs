//! A fleet around a node: eight others that hold every torrent, who are told of as they would tell of
//! themselves; and the policy.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use skerry_policy::World;
use skerry_tests::node::Node;
use skerry_tests::policies;

use crate::instruments::process::wait_for;

/// Nodes, and the regions that they are in.
const NODES: usize = 8;
const REGIONS: usize = 4;

/// Holdings in one message.
const MESSAGE: usize = 5000;

/// The world of the policy.
const WORLD: World = World::SuperPeerScheduler;

/// How long it may take until the tracker knows the fleet.
const KNOWN: Duration = Duration::from_secs(30);

/// The name of a region.
pub(crate) fn region(number: usize) -> String {
    format!("region-{}", number % REGIONS)
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every node says that it is well; what it says is good for ten minutes.
pub(crate) fn beat(node: &Node) -> Result<()> {
    for number in 0..NODES {
        let host = format!("203.0.113.{}", number + 1);
        let link = json!({
            "name": "any",
            "url": format!("http://{host}:8080"),
            "capacity_kbps": 10_000_000,
            "used_kbps": 500_000 * number,
            "healthy": true,
        });
        let told = json!({
            "id": id(number),
            "region": region(number),
            "roles": ["superpeer"],
            "links": [link],
            "peers": { "addresses": [format!("{host}:6881")], "protocols": ["tcp"] },
            "interval_seconds": 300,
        });
        post(node, "nodes", &json!({ "node": told, "boot": 1, "batch": 1 }))?;
    }
    Ok(())
}

/// Every node registers, and says that it holds what these info-hashes are of.
pub(crate) fn join(node: &Node, torrents: &[[u8; 20]]) -> Result<()> {
    beat(node)?;
    for number in 0..NODES {
        let mut base = None;
        for (generation, torrents) in (1u64..).zip(torrents.chunks(MESSAGE)) {
            let held: Vec<Value> = torrents.iter().map(holding).collect();
            let report = json!({ "boot": 1, "generation": generation, "base": base, "held": held });
            post(node, &format!("nodes/{}/holdings", id(number)), &report)?;
            base = Some(generation);
        }
    }
    let last = torrents.last().context("there are no torrents")?;
    let path = format!("/tracker/swarms/{}", hex(last));
    wait_for("the tracker to know the fleet", KNOWN, || {
        let answer = node.try_admin("GET", &path, b"")?;
        let told: Value = serde_json::from_slice(&answer.body)?;
        Ok(told["super_peers"].as_array().filter(|known| known.len() == NODES).map(|_| ()))
    })
}

fn id(number: usize) -> String {
    format!("edge-{number}")
}

/// All of a resource; which one is nobody's concern.
fn holding(info_hash: &[u8; 20]) -> Value {
    let info_hash = hex(info_hash);
    json!({
        "resource": format!("{info_hash:0<64}"),
        "length": 1 << 30,
        "held_bytes": 1 << 30,
        "complete": true,
        "info_hashes": [info_hash],
    })
}

fn post(node: &Node, path: &str, body: &Value) -> Result<()> {
    let target = format!("/.skerry/v1/{path}");
    let fields = [("Content-Type", "application/json")];
    let answer = node.fetch("POST", &target, &fields, body.to_string().as_bytes())?;
    ensure!(answer.status == 200, "POST {target} is answered {}: {}", answer.status, answer.text());
    Ok(())
}

/// Lets the default policy decide for everybody.
pub(crate) fn take_policy(node: &Node, scratch: &Path) -> Result<()> {
    let file = scratch.join("scheduler.policy.wasm");
    std::fs::write(&file, policies::packed(WORLD, "1.0.0"))?;
    command(node, &["policy", "push", &file.to_string_lossy()])?;
    for _ in 0..4 {
        command(node, &["policy", "promote", WORLD.name()])?;
    }
    let list: Value = serde_json::from_slice(&node.admin_get("/policy").body)?;
    let slot = list["worlds"].as_array().into_iter().flatten().find(|slot| slot["world"] == WORLD.name());
    ensure!(slot.is_some_and(|slot| slot["decides"]["version"] == "1.0.0"), "no policy decides: {list}");
    Ok(())
}

fn command(node: &Node, arguments: &[&str]) -> Result<()> {
    let output = node.command(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "skerry {} failed: {said}", arguments.join(" "));
    Ok(())
}

/// Of the announces of a node, those in which the policy's verdict was used, percent.
pub(crate) fn share_of_policy(node: &Node) -> f64 {
    let by_policy = [("world", WORLD.name()), ("by", "policy")];
    let decided = node.metric("skerry_policy_decisions_total", &by_policy);
    decided / node.metric("skerry_tracker_announces_total", &[]).max(1.0) * 100.0
}
