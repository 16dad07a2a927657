//! What a node has recorded, made again by `skerry policy replay`: the verdicts of the same package come
//! again byte for byte, other versions are shown beside each other, and what a crash or somebody else
//! has done to a recording is told.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use skerry_policy::World;
use skerry_policy::decisions::{Decision, HEADER, Verdict, encode, read_recording};
use skerry_policy::rows::Answer;
use skerry_tests::node::Node;
use skerry_tests::policies::{self, Author};
use skerry_tests::{process, wait};
use tempfile::TempDir;

const ROUTER: World = World::RegionRouter;
/// Routes that are recorded, for clients of three regions in turn.
const ROUTES: u64 = 30;
const SOON: Duration = Duration::from_secs(30);

/// What a node left behind that had the default router decide for some clients, after one plan that
/// nobody but the built-in verdict decided.
struct Recorded {
    folder: TempDir,
    /// The router's package, as its author packed it.
    package: PathBuf,
}

impl Recorded {
    fn new() -> Self {
        let (author, folder) = (Author::new(), tempfile::tempdir().expect("a folder"));
        let packed = policies::packed(ROUTER, "1.0.0");
        let package = file(folder.path(), "near.policy.wasm", &packed);
        let recorded = Self { folder, package };
        let mut node = Node::with_origin("http://127.0.0.1:9")
            .text("policy.signers", "author", &author.public)
            .set("policy.decisions", "calls_one_in", 1)
            .text("policy.decisions", "record_dir", &recorded.record_dir().to_string_lossy())
            .start();
        let signed = file(recorded.folder.path(), "signed.policy.wasm", &author.sign(&packed));
        assert!(node.command(&["policy", "push", &signed.to_string_lossy()]).status.success());
        for _ in 0..4 {
            assert!(node.command(&["policy", "promote", ROUTER.name()]).status.success());
        }
        let plan = json!({ "preload-planner": { "request": {}, "items": [{ "size-bytes": 1 }] } });
        decide(&node, &plan);
        for client in 0..ROUTES {
            let mut route = policies::routing(client);
            route["region-router"]["request"]["region"] = json!(client % 3);
            decide(&node, &route);
        }
        wait::until("the recording", SOON, || {
            fs::read_to_string(recorded.file()).is_ok_and(|text| text.lines().count() as u64 == ROUTES + 2)
        });
        let status = node.stop();
        assert!(status.success(), "the node ended with {status}");
        recorded
    }

    fn record_dir(&self) -> PathBuf {
        self.folder.path().join("record")
    }

    fn file(&self) -> PathBuf {
        self.record_dir().join("decisions-00000001.jsonl")
    }

    fn decisions(&self) -> Vec<Decision> {
        let file = BufReader::new(File::open(self.file()).expect("the recording"));
        read_recording(file).collect::<Result<_, _>>().expect("nothing is wrong with it")
    }

    /// Replays with these versions, new and old.
    fn replay(&self, versions: &[&Path], recording: &Path, more: &[&str]) -> Output {
        let paths: Vec<String> = versions.iter().map(|path| path.display().to_string()).collect();
        let recording = recording.display().to_string();
        let mut all = vec!["policy", "replay"];
        all.extend(paths.iter().map(String::as_str));
        all.extend(["--recording", recording.as_str()]);
        all.extend(more);
        process::run(&all)
    }
}

fn file(folder: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).expect("a file");
    path
}

fn decide(node: &Node, inputs: &Value) {
    let answer = node.admin_post("/policy/decide", &json!({ "inputs": inputs }));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[track_caller]
fn text(output: &Output, code: i32) -> String {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}\n{error}");
    if code == 1 && out.is_empty() { error.into_owned() } else { out.into_owned() }
}

#[track_caller]
fn report(output: &Output, code: i32) -> Value {
    serde_json::from_str(&text(output, code)).expect("JSON")
}

#[test]
fn what_a_node_recorded_comes_again_byte_for_byte() {
    let recorded = Recorded::new();
    let (package, folder) = (recorded.package.as_path(), recorded.record_dir());
    let report = report(&recorded.replay(&[package], &folder, &["--verify", "--json"]), 0);
    assert_eq!(
        (&report["decisions"], &report["other_worlds"], &report["skipped"]["count"]),
        (&json!(ROUTES), &json!(1), &json!(0))
    );
    // A machine that runs other tests may have been late, which is no verdict of the policy.
    let (verified, late) = (&report["verified"], report["verified"]["left_out"].as_u64().unwrap_or(0));
    assert_eq!((&verified["same"], &verified["other"]), (&json!(ROUTES - late), &json!(0)), "{report}");
    assert!(late < ROUTES, "{report}");
    // The default policy and the built-in verdict are one.
    let world = &report["worlds"][0];
    assert_eq!((&world["world"], &world["verdict_differs"]), (&json!("region-router"), &json!(0)), "{world}");
    for region in 0..3_usize {
        let expected = json!({
            "region": region, "decisions": ROUTES / 3, "first_choice_differs": 0, "verdict_differs": 0,
        });
        assert_eq!(world["regions"][region], expected);
    }
    let told = text(&recorded.replay(&[package], &recorded.file(), &["--verify"]), 0);
    for part in [
        "new        region-router 1.0.0, digest ",
        "recorded verdicts of new come again, byte for byte",
        "30 decisions; 1 of other worlds are left out",
        "the first choice differs in 0 (0.0 %)",
        "built-in",
    ] {
        assert!(told.contains(part), "no {part:?} in\n{told}");
    }
}

#[test]
fn two_versions_are_shown_side_by_side() {
    let recorded = Recorded::new();
    let next = file(recorded.folder.path(), "next.policy.wasm", &policies::packed(ROUTER, "1.0.1"));
    let (old, dir) = (recorded.package.as_path(), recorded.record_dir());
    let report_of = |new: &Path| report(&recorded.replay(&[new, old], &dir, &["--json"]), 0);
    let both = report_of(&next);
    assert_eq!((&both["new"]["version"], &both["old"]["version"]), (&json!("1.0.1"), &json!("1.0.0")));
    let world = &both["worlds"][0];
    assert_eq!(
        (&world["first_choice_differs"], &world["verdict_differs"]),
        (&json!(0), &json!(0)),
        "{world}"
    );
    for side in ["new", "old"] {
        let calls = &world["calls"][side];
        assert!(calls["p50_fuel"].as_u64() > Some(0) && calls["p50_us"].as_f64() > Some(0.0), "{calls}");
        assert!(calls["p99_us"].as_f64() >= calls["p50_us"].as_f64(), "{calls}");
    }

    // One that can do nothing: the built-in verdict stands in for it, as it would on the node.
    let manifest = policies::manifest(ROUTER).replace("[limits]\n", "[limits]\nfuel = 1\n");
    let poor = file(recorded.folder.path(), "poor.policy.wasm", &policies::pack(ROUTER, &manifest));
    let world = &report_of(&poor)["worlds"][0];
    assert_eq!(world["calls"]["new"]["fallbacks"], json!({ "fuel": ROUTES }), "{world}");
    assert_eq!(world["verdict_differs"], 0, "{world}");
    let told = text(&recorded.replay(&[&poor, old], &dir, &[]), 0);
    assert!(told.contains("fallbacks\n  fuel "), "{told}");

    // What was never recorded cannot be verified, and other worlds cannot be replayed.
    let refused = text(&recorded.replay(&[&next], &dir, &["--verify"]), 1);
    assert!(refused.contains("no decision by NEW") && refused.contains("\"region-router\""), "{refused}");
    let peers = policies::packed(World::SuperPeerScheduler, "1.0.0");
    let peers = file(recorded.folder.path(), "peers.policy.wasm", &peers);
    let refused = text(&recorded.replay(&[&peers], &dir, &[]), 1);
    assert!(refused.contains("no decision of super-peer-scheduler to replay"), "{refused}");
}

#[test]
fn a_torn_end_is_told_and_a_changed_verdict_is_found() {
    let recorded = Recorded::new();
    let (package, folder) = (recorded.package.as_path(), recorded.folder.path());
    let whole = fs::read(recorded.file()).expect("the recording");
    let torn = file(folder, "torn.jsonl", &whole[..whole.len() - 10]);
    let told = text(&recorded.replay(&[package], &torn, &["--verify"]), 0);
    let line = format!("{}: line {}: the record is cut off, and left out", torn.display(), ROUTES + 2);
    assert!(told.contains(&line), "no {line:?} in\n{told}");
    assert!(told.contains(&format!("region-router: {} decisions\n", ROUTES - 1)), "{told}");

    let mut decisions = recorded.decisions();
    let mut answers = decisions.iter_mut().filter_map(|decision| match &mut decision.verdict {
        Verdict::Answer(Answer::Ranked(choices)) => Some((decision.sequence, choices)),
        _ => None,
    });
    let (sequence, choices) = answers.next().expect("a verdict of the policy");
    choices[0].weight += 1;
    let path = folder.join("changed.jsonl");
    let mut changed = File::create(&path).expect("a file");
    changed.write_all(HEADER.as_bytes()).expect("the header is written");
    for decision in &decisions {
        changed.write_all(&encode(decision).expect("a line")).expect("the line is written");
    }
    drop(changed);
    let report = report(&recorded.replay(&[package], &path, &["--verify", "--json"]), 3);
    assert_eq!((&report["verified"]["other"], &report["skipped"]["count"]), (&json!(1), &json!(0)));
    assert_eq!(report["verified"]["examples"][0]["sequence"], sequence);
    let told = text(&recorded.replay(&[package], &path, &["--verify"]), 3);
    assert!(told.contains(&format!("\n  {sequence} at ")) && told.contains("    recorded  rows ["), "{told}");

    let other = file(folder, "other.jsonl", b"GET / HTTP/1.1\n");
    let refused = text(&recorded.replay(&[package], &other, &[]), 1);
    assert!(refused.contains("line 1: this is no recording of decisions"), "{refused}");
}
