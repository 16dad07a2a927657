//! Resources: a target of a site that is held whole, described, served, kept over crashes, fetched again
//! where it was evicted, and let go of; and torrents of what is held.

mod torrents;

use std::fs;
use std::io;
use std::process::Command;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Value, json};
use skerry_tests::content;
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::origin::Origin;
use skerry_tests::raw::{self, Response};
use skerry_tests::reply::{Gate, Reply};
use skerry_tests::wait;

const MIB: usize = 1 << 20;
/// The node's chunks, where a scenario says nothing else.
const CHUNK: usize = MIB;
/// The smallest chunks.
const SMALL_CHUNK: usize = 256 << 10;
/// No whole number of chunks.
const FILM: usize = 3 * MIB + 12_345;
/// How long the node may take for what goes on behind an answer.
const SOON: Duration = Duration::from_secs(20);

fn film(seed: u64) -> Vec<u8> {
    content::bytes(seed, 0, FILM)
}

/// What an origin answers that can be held in parts.
fn reply(body: &[u8], tag: &str) -> Reply {
    Reply::ok(body.to_vec()).etag(tag).ranges().validates().fresh()
}

/// An origin with a film in it.
fn origin_of(path: &str, body: &[u8]) -> Origin {
    let origin = Origin::start();
    origin.reply(path, reply(body, "one"));
    origin
}

fn with_small_chunks(node: NodeBuilder) -> NodeBuilder {
    node.set("store", "chunk_bytes", SMALL_CHUNK)
}

#[track_caller]
fn told(answer: &Response) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).expect("the answer is JSON")
}

#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Has a target held; what the node says of it.
#[track_caller]
fn hold(node: &Node, asked: &Value) -> Value {
    let held = told(&node.admin_post("/resources", asked));
    assert_eq!(held["id"].as_str().map(str::len), Some(64), "{held}");
    held
}

/// As [`hold`], by somebody who waits for it elsewhere.
fn hold_apart(node: &Node, asked: &Value) -> JoinHandle<io::Result<Response>> {
    let (admin, asked) = (node.admin(), asked.to_string());
    let fields = [("Content-Type", "application/json")];
    thread::spawn(move || raw::fetch(admin, "POST", "/resources", &fields, asked.as_bytes()))
}

fn delete(node: &Node, id: &str) -> Response {
    node.try_admin("DELETE", &format!("/resources/{id}"), b"").expect("an answer")
}

/// Where a resource is described; what is below it has more.
fn path(held: &Value) -> String {
    format!("/.skerry/v1/resources/{}", text(&held["id"]))
}

fn data(held: &Value) -> String {
    path(held) + "/data"
}

/// Panics unless a node gives every byte of a resource.
#[track_caller]
fn assert_served(node: &Node, held: &Value, body: &[u8]) {
    let answer = node.get(&data(held));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.complete);
    content::assert_same("a resource", &answer.body, body);
}

fn pinned(node: &Node) -> u64 {
    told(&node.admin_get("/store/stats"))["pinned_bytes"].as_u64().expect("a number of bytes")
}

/// The paths that the resources on record came from.
fn listed(node: &Node) -> Vec<String> {
    let page = told(&node.admin_get("/resources"));
    assert_eq!(page["next"], Value::Null);
    page["resources"].as_array().expect("a list").iter().map(|held| text(&held["path"])).collect()
}

/// By `sha256sum`, so that the node's own hashing is not judged by the same code.
fn sha256(node: &Node, bytes: &[u8]) -> String {
    let file = node.folder().join("to-be-hashed");
    fs::write(&file, bytes).expect("a file is written");
    let output = Command::new("sha256sum").arg(&file).output().expect("sha256sum of coreutils runs");
    String::from_utf8_lossy(&output.stdout).chars().take(64).collect()
}

#[test]
fn a_held_target_is_described_and_is_the_cache_s_object_too() {
    let body = film(81);
    let origin = Origin::start();
    origin.reply("/films/one%20film.mp4", reply(&body, "one").header("Content-Type", "video/mp4"));
    let node = Node::in_front_of(&origin).start();

    let held = hold(&node, &json!({"path": "/films/one%20film.mp4"}));
    assert_eq!(held["name"], "one film.mp4");
    assert_eq!((&held["length"], &held["pinned"]), (&json!(FILM), &json!(true)));
    assert_eq!(held["info_hash_v1"].as_str().map(str::len), Some(40), "{held}");
    assert_eq!(held["info_hash_v2"].as_str().map(str::len), Some(64), "{held}");

    let described = told(&node.get(&path(&held)));
    assert_eq!(described["id"], held["id"]);
    assert_eq!((&described["length"], &described["chunk_length"]), (&json!(FILM), &json!(CHUNK)));
    assert_eq!(described["chunks"].as_array().map(Vec::len), Some(FILM.div_ceil(CHUNK)));
    assert_eq!(described["media_type"], "video/mp4");
    assert_eq!(described["sha256"], sha256(&node, &body));
    let here = format!("http://{}{}", raw::HOST, path(&held));
    assert_eq!(described["torrent"], format!("{here}.torrent"));
    let source = text(&described["sources"][0]);
    assert!(source.starts_with(&format!("{here}/data/")), "{source}");
    let answer = node.get(source.trim_start_matches(&format!("http://{}", raw::HOST)));
    content::assert_same("its source", &answer.body, &body);

    content::assert_same("the cache's object", &node.hit("/films/one%20film.mp4").body, &body);
    assert_eq!(origin.count("/films/one%20film.mp4"), 1);
    assert_eq!(pinned(&node), FILM as u64);
    assert_eq!(listed(&node), ["/films/one%20film.mp4"]);
    let status = told(&node.admin_get("/status"));
    assert_eq!(status["resources"], json!({"count": 1, "bytes": FILM}));
}

#[test]
fn the_bytes_are_served_as_http_has_it() {
    let body = film(82);
    let origin = origin_of("/film.bin", &body);
    let node = Node::in_front_of(&origin).start();
    let held = hold(&node, &json!({"path": "/film.bin"}));
    let (data, tag) = (data(&held), format!("\"{}\"", text(&held["id"])));

    let whole = node.get(&data);
    content::assert_same("the whole", &whole.body, &body);
    assert_eq!((whole.status, whole.number("content-length")), (200, Some(FILM as u64)));
    assert_eq!(whole.header("etag"), Some(tag.as_str()));
    let digest = format!("sha-256=:{}:", content::sha256_base64(&body));
    assert_eq!(whole.header("repr-digest"), Some(digest.as_str()));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert!(whole.header("cache-control").is_some_and(|value| value.contains("immutable")));

    for (asked, bytes) in [
        ("bytes=0-99", 0..100),
        ("bytes=1048570-1048585", CHUNK - 6..CHUNK + 10),
        ("bytes=1000000-3100000", 1_000_000..3_100_001),
        ("bytes=-1000", FILM - 1000..FILM),
        ("bytes=3158000-", 3_158_000..FILM),
    ] {
        for tagged in [None, Some(("If-Range", tag.as_str()))] {
            let fields: Vec<_> = [("Range", asked)].into_iter().chain(tagged).collect();
            let part = node.get_with(&data, &fields);
            assert_eq!(part.status, 206, "{asked}");
            content::assert_same(asked, &part.body, &body[bytes.clone()]);
            let content_range = format!("bytes {}-{}/{FILM}", bytes.start, bytes.end - 1);
            assert_eq!(part.header("content-range"), Some(content_range.as_str()));
            assert_eq!(part.header("repr-digest"), Some(digest.as_str()));
        }
    }
    // Another version's part, and several at once.
    for fields in
        [&[("Range", "bytes=0-9"), ("If-Range", "\"other\"")][..], &[("Range", "bytes=0-9,100-109")]]
    {
        let answer = node.get_with(&data, fields);
        assert_eq!(answer.status, 200, "{fields:?}");
        content::assert_same("the whole", &answer.body, &body);
    }
    let beyond = node.get_with(&data, &[("Range", "bytes=99999999-")]);
    beyond.problem(416);
    assert_eq!(beyond.header("content-range"), Some(format!("bytes */{FILM}").as_str()));

    let known = node.get_with(&data, &[("If-None-Match", tag.as_str())]);
    assert_eq!((known.status, known.body.len(), known.header("etag")), (304, 0, Some(tag.as_str())));
    node.get_with(&data, &[("If-Match", "\"other\"")]).problem(412);
    for fields in [&[][..], &[("Range", "bytes=0-9")]] {
        let head = node.fetch("HEAD", &data, fields, b"").expect("an answer");
        assert_eq!((head.status, head.number("content-length")), (200, Some(FILM as u64)), "{fields:?}");
        assert_eq!(head.header("repr-digest"), Some(digest.as_str()));
    }
    assert_eq!(origin.count("/film.bin"), 1);
}

#[test]
fn what_is_held_survives_a_kill_and_a_restart() {
    let body = film(83);
    let mut origin = origin_of("/film.bin", &body);
    let mut node = with_small_chunks(Node::in_front_of(&origin)).start();
    let held = hold(&node, &json!({"path": "/film.bin"}));
    node.kill();
    origin.stop();
    for _ in 0..2 {
        node.start();
        assert_served(&node, &held, &body);
        content::assert_same("the cache's object", &node.hit("/film.bin").body, &body);
        assert_eq!((pinned(&node), listed(&node)), (FILM as u64, vec!["/film.bin".to_owned()]));
        let torrent = node.get(&(path(&held) + ".torrent"));
        assert_eq!(torrent.status, 200, "{}", torrent.text());
        assert!(node.stop().success());
    }
}

#[test]
fn a_hold_that_a_kill_breaks_off_leaves_nothing_pinned() {
    let body = film(84);
    let gate = Gate::closed();
    let origin = Origin::start();
    let (whole, held_back) = (reply(&body, "one"), reply(&body, "one").hold_after(2 * MIB as u64, &gate));
    let script = move |number| if number == 0 { held_back.clone() } else { whole.clone() };
    origin.serve("/film.bin", move |request| script(request.number));
    let mut node = with_small_chunks(Node::in_front_of(&origin)).start();

    let asked = json!({"path": "/film.bin"});
    let broken = hold_apart(&node, &asked);
    wait::until("chunks to be pinned", SOON, || pinned(&node) > 0);
    node.kill();
    assert!(broken.join().expect("no panic").is_err(), "the node was killed before the end");

    node.start();
    assert_eq!((pinned(&node), listed(&node).len()), (0, 0));
    let held = hold(&node, &asked);
    assert_served(&node, &held, &body);
    assert_eq!(pinned(&node), FILM as u64);
}

#[test]
fn a_target_that_is_being_held_is_not_held_again_meanwhile() {
    let body = film(85);
    let gate = Gate::closed();
    let origin = Origin::start();
    origin.reply("/film.bin", reply(&body, "one").hold_after(MIB as u64, &gate));
    let node = Node::in_front_of(&origin).start();
    let asked = json!({"path": "/film.bin"});
    let first = hold_apart(&node, &asked);
    wait::until("the hold to begin", SOON, || origin.count("/film.bin") == 1);

    node.admin_post("/resources", &asked).problem(409);
    gate.open();
    let first = told(&first.join().expect("no panic").expect("an answer"));
    assert_served(&node, &first, &body);
    assert_eq!(hold(&node, &asked)["id"], first["id"]);
    assert_eq!((pinned(&node), origin.count("/film.bin")), (FILM as u64, 1));
}

#[test]
fn more_than_may_be_pinned_is_refused_and_leaves_nothing_pinned() {
    let large = content::bytes(86, 0, 6 * MIB);
    let (one, two) = (film(87), film(88));
    let mut origin = Origin::start();
    origin.reply("/large", reply(&large, "large"));
    // Nobody knows its length before its end.
    origin.reply("/chunked", Reply::ok(large.clone()).chunked().fresh());
    origin.reply("/one", reply(&one, "one"));
    origin.reply("/two", reply(&two, "two"));
    let node = with_small_chunks(Node::in_front_of(&origin)).set("store", "pinned_bytes", 4 * MIB).start();
    let refused = |path: &str| {
        let problem = node.admin_post("/resources", &json!({"path": path})).problem(507);
        assert!(text(&problem["detail"]).contains("store.pinned_bytes"), "{problem}");
    };

    for path in ["/large", "/chunked"] {
        refused(path);
        // Its fill goes on as any other, to the end.
        content::assert_same(path, &node.hit(path).body, &large);
        assert_eq!(pinned(&node), 0, "after {path}");
    }
    let held = hold(&node, &json!({"path": "/one"}));
    refused("/two");
    content::assert_same("the cache's object", &node.hit("/two").body, &two);
    // All of it is there now, and still finds no room.
    refused("/two");
    assert_eq!((pinned(&node), listed(&node)), (FILM as u64, vec!["/one".to_owned()]));
    let metric = || node.metric("skerry_store_bytes", &[("tier", "disk"), ("class", "pinned")]);
    wait::until("the pinned bytes in the metrics", SOON, || metric() == FILM as f64);

    origin.stop();
    assert_served(&node, &held, &one);
    assert_eq!(delete(&node, &text(&held["id"])).status, 200);
    wait::until("no pinned bytes in the metrics", SOON, || metric() == 0.0);
}

#[test]
fn targets_with_the_same_bytes_are_one_resource_until_it_is_let_go_of() {
    let body = film(89);
    let mut origin = Origin::start();
    origin.reply("/a", reply(&body, "a"));
    origin.reply("/b", reply(&body, "b"));
    let mut node = with_small_chunks(Node::in_front_of(&origin)).start();
    let held = hold(&node, &json!({"path": "/a"}));
    // Under new pins, and under none, which takes no pin away.
    for asked in [
        json!({"path": "/b"}),
        json!({"path": "/b"}),
        json!({"path": "/a"}),
        json!({"path": "/b", "pin": false}),
    ] {
        let again = hold(&node, &asked);
        assert_eq!((&again["id"], &again["pinned"]), (&held["id"], &json!(true)), "{asked}");
        assert_eq!((pinned(&node), listed(&node).len()), (FILM as u64, 1), "{asked}");
    }
    origin.stop();
    node.restart();
    assert_served(&node, &held, &body);

    let id = text(&held["id"]);
    assert_eq!(told(&delete(&node, &id)), json!({"removed": true}));
    for gone in [node.get(&path(&held)), node.get(&data(&held)), delete(&node, &id)] {
        gone.problem(404);
    }
    assert_eq!((pinned(&node), listed(&node).len()), (0, 0));
    origin.restart();
    for path in ["/a", "/b"] {
        content::assert_same(path, &node.get(path).body, &body);
    }
    assert_eq!(hold(&node, &json!({"path": "/a"}))["id"], held["id"]);
}

/// A node with the smallest store, nothing in memory, and a film that was held there without being
/// pinned and has been evicted since.
fn evicted(origin: &Origin) -> (Node, Value) {
    const OTHER: u64 = 4 << 20;
    origin.serve_rest(|request| {
        let number: u64 = request.path()[1..].parse().unwrap_or(0);
        Reply::generated(1000 + number, OTHER).etag(&format!("o{number}")).fresh()
    });
    let node = with_small_chunks(Node::in_front_of(origin))
        .set("store", "capacity_bytes", 64 << 20)
        .set("store", "pinned_bytes", 16 << 20)
        .set("store", "memory_tier_bytes", 0)
        .start();
    let held = hold(&node, &json!({"path": "/film.bin", "pin": false}));
    assert_eq!((&held["pinned"], pinned(&node)), (&json!(false), 0));
    let mut number = 0;
    wait::until("the generation of the film to be evicted", Duration::from_secs(120), || {
        assert!(node.get(&format!("/{number}")).complete);
        number += 1;
        node.metric("skerry_store_evictions_total", &[]) >= (FILM / SMALL_CHUNK) as f64
    });
    (node, held)
}

#[test]
fn what_was_evicted_is_fetched_again() {
    let body = film(90);
    let mut origin = origin_of("/film.bin", &body);
    let (node, held) = evicted(&origin);
    let sent = origin.bytes_sent("/film.bin");
    let part = node.get_with(&data(&held), &[("Range", "bytes=300000-300099")]);
    assert_eq!(part.status, 206);
    content::assert_same("a part", &part.body, &body[300_000..300_100]);
    let again = origin.bytes_sent("/film.bin") - sent;
    assert!((1..=MIB as u64).contains(&again), "{again} bytes were fetched for a part of one chunk");

    assert_served(&node, &held, &body);
    // And it is kept.
    origin.stop();
    assert_served(&node, &held, &body);
}

#[test]
fn what_was_evicted_and_has_changed_is_not_served() {
    let (body, other) = (film(91), film(92));
    let origin = origin_of("/film.bin", &body);
    let (node, held) = evicted(&origin);
    origin.reply("/film.bin", reply(&other, "two"));
    // It is cut before or after its header; the id is of the bytes that were.
    if let Ok(answer) = node.fetch("GET", &data(&held), &[], b"") {
        assert!(!answer.complete || answer.status >= 500, "answered {}", answer.status);
        if answer.status == 200 {
            content::assert_prefix("what came before the cut", &answer.body, &body);
        }
    }
    wait::until("the change to be logged", SOON, || node.logged(&["the origin has other bytes now"]));
    content::assert_same("the cache's object", &node.get("/film.bin").body, &other);
}

#[test]
fn what_cannot_be_held_or_found_is_refused() {
    let origin = Origin::start();
    let body = film(93);
    origin.reply("/film.bin", reply(&body, "one"));
    origin.reply("/secret", Reply::ok(body.clone()).cache_control("no-store"));
    origin.reply("/private", Reply::ok(body.clone()).cache_control("private, max-age=60"));
    origin.reply("/empty", reply(b"", "empty"));
    origin.reply("/cut", reply(&body, "cut").cut_after(100_000));
    let node = Node::in_front_of(&origin).start();
    for (asked, status) in [
        (json!({"site": "nowhere", "path": "/film.bin"}), 404),
        (json!({"path": "film.bin"}), 400),
        (json!({"path": "http://edge.test/film.bin"}), 400),
        (json!({"path": ""}), 400),
        (json!({"path": "/film.bin#part"}), 400),
        (json!({"path": "/.skerry/v1/resources"}), 400),
        (json!({"path": "/film.bin", "pinned": true}), 400),
        (json!({}), 400),
        (json!("/film.bin"), 400),
        (json!({"path": "/missing"}), 502),
        (json!({"path": "/cut"}), 502),
        (json!({"path": "/secret"}), 409),
        (json!({"path": "/private"}), 409),
        (json!({"path": "/empty"}), 409),
    ] {
        let answer = node.admin_post("/resources", &asked);
        assert_eq!(answer.status, status, "{asked}: {}", answer.text());
        answer.problem(status);
        wait::until("nothing to be pinned", SOON, || pinned(&node) == 0);
    }
    assert!(listed(&node).is_empty());

    let unknown = "0".repeat(64);
    for (id, status) in [("xyz", 400), (&unknown[1..], 400), ("", 400), (unknown.as_str(), 404)] {
        for more in ["", "/data", "/data/name", ".torrent"] {
            node.get(&format!("/.skerry/v1/resources/{id}{more}")).problem(status);
        }
        delete(&node, id).problem(status);
    }
    node.get(&format!("/.skerry/v1/resources/{unknown}/other")).problem(404);
    node.admin_get("/resources?from=xyz").problem(400);
    for target in ["/.skerry/v1/resources".to_owned(), format!("/.skerry/v1/resources/{unknown}/data")] {
        let answer = node.fetch("POST", &target, &[], b"{}").expect("an answer");
        answer.problem(405);
        assert_eq!(answer.header("allow"), Some("GET, HEAD"));
    }
}
