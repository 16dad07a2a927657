//! The lines of `skerry status` that tell what runs: on this node and its box, and in the fleet.

use std::collections::BTreeMap;

use serde_json::Value;
use skerry_appliance::status::{BoxState, clean};

use crate::cli::status::whole;
use crate::cli::units::cut;

/// Longest line, characters.
const LINE: usize = 118;
/// Things that are wrong with the box, rows of the fleet's table and lines of its policies that are shown; more do
/// not fit on a screen.
const WRONG: usize = 3;
const ROWS: usize = 6;
const WORLDS: usize = 3;

/// Versions of image, node and policies, and how the box is, as far as the node tells.
pub(super) fn own(status: &Value) -> Vec<String> {
    let state: Option<BoxState> = serde_json::from_value(status["box"].clone()).unwrap_or_default();
    let mut lines = versions(status, state.as_ref());
    lines.extend(state.iter().flat_map(of_box));
    lines.iter().map(|line| clean(line, LINE)).collect()
}

fn versions(status: &Value, state: Option<&BoxState>) -> Vec<String> {
    let Some(worlds) = status["policy"]["worlds"].as_array() else { return Vec::new() };
    let mut parts = Vec::new();
    if let Some(state) = state.filter(|state| !state.image_version.is_empty()) {
        let trial = if state.on_trial { " (on trial)" } else { "" };
        parts.push(format!("image {}{trial}", state.image_version));
    }
    parts.extend(status["version"].as_str().map(|version| format!("skerry {version}")));
    let ring = status["registry"]["ring"].as_str().filter(|ring| !ring.is_empty());
    parts.extend(ring.map(|ring| format!("ring {ring}")));
    let policies: Vec<String> = worlds.iter().filter_map(policy).collect();
    let policies = if policies.is_empty() { "built-in".to_owned() } else { policies.join(", ") };
    vec![format!("versions   {}", parts.join(", ")), format!("policies   {policies}")]
}

/// Who decides in a world, when that is not the built-in verdict alone.
fn policy(slot: &Value) -> Option<String> {
    let named = |policy: &Value| {
        let word = |key: &str| policy[key].as_str().unwrap_or("?").to_owned();
        policy.is_object().then(|| format!("{} {}", word("name"), word("version")))
    };
    let words = match (named(&slot["decides"]), named(&slot["candidate"]["policy"])) {
        (Some(decides), Some(tried)) => format!("{decides} ({tried} is tried)"),
        (Some(decides), None) => decides,
        (None, Some(tried)) => format!("built-in ({tried} is tried)"),
        (None, None) if slot["restoring"] == true => "is being restored".to_owned(),
        (None, None) => return None,
    };
    Some(format!("{} {words}", slot["world"].as_str().unwrap_or("?")))
}

fn of_box(state: &BoxState) -> Vec<String> {
    let mut parts = vec![if state.slot.is_empty() { "no slot" } else { state.slot.as_str() }];
    if !state.provisioned {
        parts.push("waits for its configuration");
    }
    if state.wrong.is_empty() {
        parts.push("nothing wrong");
    }
    let mut lines = vec![format!("box        {}", parts.join("; "))];
    if let Some(failed) = &state.previous_failed {
        lines.push(format!("went back  from image {}: {}", failed.version, failed.reason));
    }
    for wrong in state.wrong.iter().take(WRONG) {
        lines.push(format!("WRONG      {}: {}", wrong.unit, wrong.line()));
    }
    if state.wrong.len() > WRONG {
        lines.push(format!("and {} more; --json names them all", state.wrong.len() - WRONG));
    }
    lines
}

/// What the nodes of the fleet run, as the control node tells: a table, what does not fit together, and policies.
pub(super) fn of_fleet(versions: &Value) -> Vec<String> {
    let Some(groups) = versions["nodes"].as_array().filter(|groups| !groups.is_empty()) else {
        return Vec::new();
    };
    let row = |ring: &str, image: &str, version: &str, nodes: &str, live: &str| {
        let (ring, image, version) = (clean(ring, 24), clean(image, 24), clean(version, 16));
        format!("  {ring:<24} {image:<24} {version:<16} {nodes:>7} {live:>7}")
    };
    let mut lines = vec![row("RING", "IMAGE", "SKERRY", "NODES", "LIVE")];
    for group in groups.iter().take(ROWS) {
        let text = |key: &str| group[key].as_str().filter(|text| !text.is_empty()).unwrap_or("-");
        let number = |key: &str| whole(&group[key]).to_string();
        lines.push(row(text("ring"), text("image"), text("version"), &number("nodes"), &number("live")));
    }
    if groups.len() > ROWS {
        lines.push(format!("  and {} more; --json names them all", groups.len() - ROWS));
    }
    lines.push(skew(groups));
    lines.extend(deciding(&versions["policies"]));
    lines.iter().map(|line| cut(line, LINE)).collect()
}

/// Whether nodes of one ring run different versions: those that are heard, since nobody knows what others run.
fn skew(groups: &[Value]) -> String {
    let mut rings: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for group in groups {
        let live = whole(&group["live"]);
        if live > 0 {
            rings.entry(group["ring"].as_str().unwrap_or("?")).or_default().push(live);
        }
    }
    let apart = rings.into_iter().filter(|(_, counts)| counts.len() > 1).map(|(ring, counts)| {
        let ring = if ring.is_empty() { "no ring".to_owned() } else { format!("ring {}", clean(ring, 32)) };
        let all = counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
        let most = counts.iter().max().copied().unwrap_or_default();
        format!("{ring} has {} versions, {most} of {all} nodes run the same", counts.len())
    });
    let apart: Vec<String> = apart.collect();
    match apart.is_empty() {
        true => "skew       none: the nodes of a ring run the same".to_owned(),
        false => format!("SKEW       {}", apart.join("; ")),
    }
}

/// The policies that decide, a line for each world.
fn deciding(policies: &Value) -> Vec<String> {
    let mut worlds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for group in policies.as_array().into_iter().flatten() {
        let text = |key: &str| group[key].as_str().unwrap_or("?");
        let words = format!("{} {} on {}", text("name"), text("version"), whole(&group["live"]));
        worlds.entry(text("world")).or_default().push(words);
    }
    let line = |(world, groups): (&str, Vec<String>)| format!("deciding   {world}: {}", groups.join(", "));
    worlds.into_iter().take(WORLDS).map(line).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_box_tells_its_versions_and_what_is_wrong() {
        let geo = |version: &str| json!({ "name": "geo", "version": version });
        let status = json!({
            "version": "0.1.0",
            "registry": { "ring": "early" },
            "policy": { "worlds": [
                { "world": "region-router", "decides": geo("1.2.0"), "candidate": { "policy": geo("1.3.0") } },
                { "world": "preload-planner", "decides": null, "candidate": null, "restoring": false },
                { "world": "super-peer-scheduler", "decides": null, "restoring": true },
            ]},
            "box": {
                "image_version": "1.1", "slot": "skerry_1.1 (vda4)", "on_trial": true, "provisioned": true,
                "previous_failed": { "version": "1.2", "reason": "the store does not open", "at": 7 },
                "wrong": [
                    { "unit": "provision", "file": "skerry.toml", "line": 5, "words": "unknown key\u{1b}[2J" },
                    { "unit": "update", "words": "x".repeat(1000) }, {}, {}, {},
                ],
            },
        });
        let lines = own(&status);
        let expected = [
            "versions   image 1.1 (on trial), skerry 0.1.0, ring early",
            "policies   region-router geo 1.2.0 (geo 1.3.0 is tried), super-peer-scheduler is being restored",
            "box        skerry_1.1 (vda4)",
            "went back  from image 1.2: the store does not open",
            "WRONG      provision: skerry.toml, line 5: unknown key [2J",
        ];
        assert_eq!(lines[..5], expected);
        assert!(lines[5].starts_with("WRONG      update: xxx"), "{lines:?}");
        assert_eq!(lines[5].chars().count(), LINE);
        assert_eq!(lines[7..], ["and 2 more; --json names them all"]);
    }

    #[test]
    fn a_server_tells_what_it_runs() {
        let status = json!({
            "version": "0.1.0", "registry": { "ring": "" }, "box": null,
            "policy": { "worlds": [{ "world": "region-router", "decides": null, "candidate": null }] },
        });
        assert_eq!(own(&status), ["versions   skerry 0.1.0", "policies   built-in"]);
        // A box without a configuration, and a node of another version.
        let lines = own(&json!({ "box": { "image_version": "1.0", "slot": "a" } }));
        assert_eq!(lines, ["box        a; waits for its configuration; nothing wrong"]);
        assert!(own(&json!({ "box": 7 })).is_empty() && own(&Value::Null).is_empty());
    }

    fn group(ring: &str, image: &str, nodes: u64, live: u64) -> Value {
        json!({ "ring": ring, "image": image, "version": "0.1.0", "nodes": nodes, "live": live })
    }

    fn on(world: &str, version: &str, live: u64) -> Value {
        json!({ "world": world, "name": "geo", "version": version, "live": live })
    }

    #[test]
    fn the_control_node_tells_what_does_not_fit_together() {
        let groups = [group("all", "1.0", 9, 8), group("all", "0.9", 1, 0), group("", "", 1, 1)];
        let lines = of_fleet(&json!({ "nodes": groups }));
        let columns = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(columns(&lines[0]), ["RING", "IMAGE", "SKERRY", "NODES", "LIVE"]);
        assert_eq!(columns(&lines[1]), ["all", "1.0", "0.1.0", "9", "8"]);
        assert_eq!(columns(&lines[3]), ["-", "-", "0.1.0", "1", "1"]);
        assert_eq!(lines[4..], ["skew       none: the nodes of a ring run the same"]);

        let mut groups: Vec<Value> = (0..9).map(|number| group("all", &number.to_string(), 2, 2)).collect();
        groups.push(group("early", "1.1", 3, 3));
        let worlds = [on("region-router", "1.2.0", 9), on("region-router", "1.1.0", 2), on("x", "1", 1)];
        let lines = of_fleet(&json!({ "nodes": groups, "policies": worlds }));
        let expected = [
            "  and 4 more; --json names them all",
            "SKEW       ring all has 9 versions, 2 of 18 nodes run the same",
            "deciding   region-router: geo 1.2.0 on 9, geo 1.1.0 on 2",
            "deciding   x: geo 1 on 1",
        ];
        assert_eq!(lines[1 + ROWS..], expected);
        let wide = json!({ "nodes": [group(&"r".repeat(64), &"i".repeat(64), u64::MAX, 1)] });
        assert!(of_fleet(&wide).iter().all(|line| line.chars().count() <= LINE));
        assert!(of_fleet(&Value::Null).is_empty());
    }
}
