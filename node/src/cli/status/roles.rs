//! The roles' lines on the screen of `skerry status`: one for each that runs, and what versions run.

mod versions;

use serde_json::Value;

use super::whole;
use crate::cli::units::{bytes, seconds};

/// Versions and box, resources, peers, tracker, fleet and preloading, as far as the node has them.
pub(super) fn lines(status: &Value) -> Vec<String> {
    let number = |path: &str| status.pointer(path).map_or(0, whole);
    let mut lines = versions::own(status);
    if number("/resources/count") > 0 {
        let (count, held) = (number("/resources/count"), bytes(number("/resources/bytes")));
        lines.push(format!("resources  {count}, {held}"));
    }
    if status["superpeer"].is_object() {
        lines.push(format!(
            "peers      {} connected, {} served, of {} torrents; {} sent",
            number("/superpeer/peers"),
            number("/superpeer/served"),
            number("/superpeer/torrents"),
            bytes(number("/superpeer/sent_bytes"))
        ));
    }
    if status["tracker"].is_object() {
        let peers = number("/tracker/peers/ipv4") + number("/tracker/peers/ipv6");
        lines.push(format!("tracker    {peers} peers in {} torrents", number("/tracker/torrents")));
    }
    lines.extend(fleet(&status["registry"]));
    lines.extend(versions::of_fleet(&status["registry"]["versions"]));
    lines.extend(preload(&status["preload"]));
    lines
}

fn fleet(registry: &Value) -> Option<String> {
    let region = registry["region"].as_str().filter(|region| !region.is_empty()).unwrap_or("no region");
    match registry["part"].as_str()? {
        "control" => {
            Some(format!("fleet      control node of {} nodes; in {region}", whole(&registry["nodes"])))
        }
        "member" => {
            let membership = &registry["membership"];
            let reached = membership["reachable"].as_bool().unwrap_or(false);
            let words = match (membership["refused"].as_str(), membership["list_refused"].as_str()) {
                (Some(refusal), _) => format!("REFUSES THIS NODE: {refusal}"),
                (None, _) if !reached => "DOES NOT ANSWER: reports wait".to_owned(),
                (None, Some(refusal)) => format!("TAKES NOT ALL THAT IS HELD: {refusal}"),
                (None, None) => "answers".to_owned(),
            };
            let control = registry["control_url"].as_str().unwrap_or("?");
            let line = format!("fleet      in {region}; {} {words}", super::cut(control, 50));
            Some(super::cut(&line, 118))
        }
        _ => None,
    }
}

/// How far the node is with what it is to hold, and what it has held in vain.
fn preload(preload: &Value) -> Option<String> {
    let progress = preload.get("progress").filter(|_| preload["enabled"] == true)?;
    let number = |key: &str| progress.get(key).map_or(0, whole);
    let mut line = format!("preload    {} of {} held", number("held"), number("listed"));
    if number("left") > 0 {
        line.push_str(&format!("; {} to come", bytes(number("left_bytes"))));
        if let Some(eta) = preload["eta_seconds"].as_u64() {
            line.push_str(&format!(" in about {}", seconds(eta)));
        }
    }
    for (key, what) in [("failing", "failing"), ("no_room", "without room")] {
        if number(key) > 0 {
            line.push_str(&format!("; {} {what}", number(key)));
        }
    }
    let unasked = preload.pointer("/regret/unasked_bytes").map_or(0, whole);
    let missed = preload.pointer("/regret/asked_not_held").map_or(0, whole);
    line.push_str(&format!("; regret: {} unasked, {missed} missed", bytes(unasked)));
    Some(super::cut(&line, 118))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_of_a_fleet_shows_what_it_does() {
        let status = json!({
            "resources": { "count": 3, "bytes": 3 << 20 },
            "superpeer": { "peers": 7, "served": 5, "torrents": 2, "sent_bytes": 1 << 30 },
            "registry": { "part": "member", "region": "north", "control_url": "https://control:8443",
                          "ring": "early", "membership": { "reachable": false } },
            "version": "0.1.0",
            "policy": { "worlds": [] },
            "preload": {
                "enabled": true, "eta_seconds": 90,
                "progress": { "listed": 4, "held": 3, "left": 1, "left_bytes": 1 << 20, "failing": 1 },
                "regret": { "unasked_bytes": 2 << 20, "asked_not_held": 6 },
            },
        });
        let lines = lines(&status);
        let expected = [
            "versions   skerry 0.1.0, ring early",
            "policies   built-in",
            "resources  3, 3.0 MiB",
            "peers      7 connected, 5 served, of 2 torrents; 1.0 GiB sent",
            "fleet      in north; https://control:8443 DOES NOT ANSWER: reports wait",
            "preload    3 of 4 held; 1.0 MiB to come in about 1 min 30 s; 1 failing; regret: 2.0 MiB unasked, 6 missed",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn what_the_control_node_says_is_shown() {
        let line = |membership: Value| {
            fleet(&json!({ "part": "member", "control_url": "https://control", "membership": membership }))
                .unwrap()
        };
        for (membership, words) in [
            (json!({ "reachable": true, "refused": null }), "answers"),
            (json!({ "reachable": false, "refused": null }), "DOES NOT ANSWER: reports wait"),
            (
                json!({ "reachable": false, "refused": "409 Conflict: another machine has this id" }),
                "REFUSES THIS NODE: 409 Conflict: another machine has this id",
            ),
            (
                json!({ "reachable": true, "list_refused": "507 Insufficient Storage: no room" }),
                "TAKES NOT ALL THAT IS HELD: 507 Insufficient Storage: no room",
            ),
            (json!({ "reachable": false, "list_refused": "507" }), "DOES NOT ANSWER: reports wait"),
        ] {
            assert_eq!(line(membership), format!("fleet      in no region; https://control {words}"));
        }
        let long = line(json!({ "refused": "x".repeat(1000) }));
        assert!(long.chars().count() <= 118, "{long}");
    }

    #[test]
    fn a_node_alone_shows_none_of_it() {
        assert!(lines(&json!({ "registry": { "part": "none" } })).is_empty());
        assert!(lines(&Value::Null).is_empty());
    }
}
