//! Stored once: what is held as a resource answers for the target that it came from when the origin says
//! that it has the same still, and what comes again by whatever way is not written beside what is there.

use std::time::Duration;

use serde_json::{Value, json};
use skerry_tests::node::Node;
use skerry_tests::origin::Origin;
use skerry_tests::raw::{self, Response};
use skerry_tests::reply::Reply;
use skerry_tests::{content, wait};

const MIB: usize = 1 << 20;
/// The smallest chunks.
const CHUNK: usize = 256 << 10;
/// No whole number of them.
const FILM: usize = 3 * MIB + 12_345;
const PATH: &str = "/film.bin";

fn film(seed: u64) -> Vec<u8> {
    content::bytes(seed, 0, FILM)
}

/// What an origin answers that can be validated and held in parts.
fn reply(body: &[u8], tag: &str) -> Reply {
    Reply::ok(body.to_vec()).etag(tag).ranges().validates().fresh()
}

fn node_in_front_of(origin: &Origin) -> Node {
    Node::in_front_of(origin).set("store", "chunk_bytes", CHUNK).start()
}

#[track_caller]
fn told(answer: &Response) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).expect("the answer is JSON")
}

/// Has a target held; the path of the resource's bytes.
#[track_caller]
fn hold(node: &Node, asked: &Value) -> String {
    let held = told(&node.admin_post("/resources", asked));
    format!("/.skerry/v1/resources/{}/data", held["id"].as_str().expect("an id"))
}

/// Makes the cache forget a target. The resource stays.
#[track_caller]
fn purge(node: &Node, path: &str) {
    told(&node.admin_post("/purge", &json!({"url": format!("http://{}{path}", raw::HOST)})));
}

/// How the origin was asked for a target so far.
fn methods(origin: &Origin, path: &str) -> Vec<String> {
    origin.requests_for(path).into_iter().map(|request| request.method).collect()
}

/// Chunk bytes written to the disk so far.
fn written(node: &Node) -> f64 {
    node.metric("skerry_store_written_bytes_total", &[])
}

#[track_caller]
fn assert_gives(node: &Node, path: &str, body: &[u8]) -> Response {
    let answer = node.get(path);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.complete);
    content::assert_same(path, &answer.body, body);
    answer
}

#[test]
fn a_target_is_answered_with_what_is_held_once_its_origin_has_said_that_it_is_the_same() {
    let body = film(71);
    let mut origin = Origin::start();
    origin.reply(PATH, reply(&body, "one").header("Content-Type", "video/mp4"));
    let mut node = node_in_front_of(&origin);
    hold(&node, &json!({"path": PATH}));
    let before = written(&node);
    purge(&node, PATH);

    let answer = assert_gives(&node, PATH, &body);
    assert!(!answer.is_hit());
    assert_eq!(answer.cache_status_value("fwd").as_deref(), Some("uri-miss"));
    assert_eq!(answer.cache_status_value("detail").as_deref(), Some("held"));
    assert_eq!((answer.header("etag"), answer.header("content-type")), (Some("\"one\""), Some("video/mp4")));
    assert!(node.get(PATH).is_hit());
    assert_eq!(methods(&origin, PATH), ["GET", "HEAD"]);

    purge(&node, PATH);
    let part = node.get_with(PATH, &[("Range", "bytes=262140-262149")]);
    assert_eq!((part.status, part.cache_status_value("detail").as_deref()), (206, Some("held")));
    content::assert_same("a part", &part.body, &body[262_140..262_150]);
    assert_eq!(methods(&origin, PATH), ["GET", "HEAD", "HEAD"]);
    assert_eq!((origin.bytes_sent(PATH), written(&node)), (FILM as u64, before));

    // It is an object like any other.
    origin.stop();
    node.restart();
    content::assert_same("after a restart", &node.hit(PATH).body, &body);
}

#[test]
fn a_digest_says_as_much_as_a_tag() {
    let body = film(72);
    let origin = Origin::start();
    let digest = format!("sha-256=:{}:", content::sha256_base64(&body));
    origin.reply(PATH, Reply::ok(body.clone()).header("Repr-Digest", digest).fresh());
    let node = node_in_front_of(&origin);
    hold(&node, &json!({"path": PATH}));
    purge(&node, PATH);
    let answer = assert_gives(&node, PATH, &body);
    assert_eq!(answer.cache_status_value("detail").as_deref(), Some("held"));
    let asked = origin.requests_for(PATH);
    assert_eq!(asked[1].header("want-repr-digest"), Some("sha-256=10"));
    assert_eq!((asked.len(), origin.bytes_sent(PATH)), (2, FILM as u64));
}

#[test]
fn an_origin_that_has_something_else_is_believed_and_the_resource_stays_what_it_is() {
    let (old, new) = (film(73), film(74));
    let origin = Origin::start();
    origin.reply(PATH, reply(&old, "one"));
    let node = node_in_front_of(&origin);
    let data = hold(&node, &json!({"path": PATH}));
    // As long as before: nothing but the tag tells.
    origin.reply(PATH, reply(&new, "two"));
    assert!(node.get(PATH).is_hit());
    purge(&node, PATH);
    let answer = assert_gives(&node, PATH, &new);
    assert_eq!(answer.cache_status_value("detail"), None);
    assert_gives(&node, &data, &old);
    // It is not asked about what is held another time.
    purge(&node, PATH);
    assert_gives(&node, PATH, &new);
    assert_eq!(methods(&origin, PATH), ["GET", "HEAD", "GET", "GET"]);
}

#[test]
fn what_comes_again_is_not_stored_beside_what_is_pinned() {
    let body = film(75);
    let origin = Origin::start();
    // Nothing tells one version of it from another.
    origin.reply(PATH, Reply::ok(body.clone()).fresh());
    origin.reply("/copy.bin", reply(&body, "copy"));
    let node = node_in_front_of(&origin);
    let data = hold(&node, &json!({"path": PATH}));
    let stats = || {
        let stats = told(&node.admin_get("/store/stats"));
        (stats["cached_bytes"].as_u64(), stats["pinned_bytes"].as_u64())
    };
    let before = (written(&node), stats());
    purge(&node, PATH);
    for path in [PATH, "/copy.bin"] {
        assert_gives(&node, path, &body);
        content::assert_same(path, &node.hit(path).body, &body);
    }
    assert_eq!(methods(&origin, PATH), ["GET", "HEAD", "GET"]);
    assert_eq!((written(&node), stats()), before);

    // With the pin the bytes go, for the cache too; then they come again.
    let id = data.split('/').nth(4).expect("an id");
    let removed = node.try_admin("DELETE", &format!("/resources/{id}"), b"").expect("an answer");
    assert_eq!(told(&removed), json!({"removed": true}));
    for path in [PATH, "/copy.bin"] {
        assert_gives(&node, path, &body);
    }
}

#[test]
fn what_was_evicted_and_is_fetched_again_is_stored_once_and_is_there() {
    const OTHER: u64 = 4 << 20;
    let body = film(76);
    let mut origin = Origin::start();
    origin.reply(PATH, reply(&body, "one"));
    origin.serve_rest(|request| {
        let number: u64 = request.path()[1..].parse().unwrap_or(0);
        Reply::generated(1000 + number, OTHER).etag(&format!("o{number}")).fresh()
    });
    let node = Node::in_front_of(&origin)
        .set("store", "chunk_bytes", CHUNK)
        .set("store", "capacity_bytes", 64 << 20)
        .set("store", "pinned_bytes", 16 << 20)
        .set("store", "memory_tier_bytes", 0)
        .start();
    let data = hold(&node, &json!({"path": PATH, "pin": false}));
    let mut number = 0_u64;
    wait::until("the generation of the film to be evicted", Duration::from_secs(120), || {
        assert!(node.get(&format!("/{number}")).complete);
        number += 1;
        node.metric("skerry_store_evictions_total", &[]) >= (FILM / CHUNK) as f64
    });
    let all = (FILM as u64 + number * OTHER) as f64;
    wait::until("the last of them to be written", Duration::from_secs(20), || written(&node) == all);
    assert_gives(&node, &data, &body);
    assert_eq!(written(&node), all + FILM as f64);
    origin.stop();
    assert_gives(&node, &data, &body);
    assert_eq!(written(&node), all + FILM as f64);
}

#[test]
fn operators_are_told_who_has_what_pinned() {
    let origin = Origin::start();
    for (path, seed) in [("/pinned", 77), ("/loose", 78)] {
        origin.reply(path, reply(&film(seed), "one"));
    }
    let node = node_in_front_of(&origin);
    let data = hold(&node, &json!({"path": "/pinned"}));
    hold(&node, &json!({"path": "/loose", "pin": false}));
    let page = told(&node.admin_get("/resources"));
    let by = |path: &str| {
        let list = page["resources"].as_array().expect("a list");
        list.iter().find(|held| held["path"] == path).expect("it is held")["pinned_by"].clone()
    };
    assert_eq!([by("/pinned"), by("/loose")], [json!(["operator"]), json!([])]);

    let id = data.split('/').nth(4).expect("an id");
    let delete =
        |query: &str| node.try_admin("DELETE", &format!("/resources/{id}{query}"), b"").expect("an answer");
    delete("?force=perhaps").problem(400);
    assert_eq!(told(&delete("?force=true")), json!({"removed": true}));
    delete("").problem(404);
}
