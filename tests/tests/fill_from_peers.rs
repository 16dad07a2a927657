//! What neither a neighbour nor the origin gives comes from BitTorrent peers: a node that is told to hold a
//! resource finds them by the fleet's tracker, believes none of them, and serves what it got.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::origin::Origin;
use skerry_tests::peers::libtorrent::{self, Seed};
use skerry_tests::peers::torrent::Torrent;
use skerry_tests::reply::Reply;
use skerry_tests::{content, raw, wait};

const NAME: &str = "film.bin";
const FILM: &str = "/film.bin";
const SEED: u64 = 81;
/// No whole number of chunks, pieces or blocks.
const LENGTH: usize = 5_000_001;

const SOON: Duration = Duration::from_secs(20);
/// With nobody but liars a node gives up after 20 seconds, and tries again after 10.
const FILLED: Duration = Duration::from_secs(90);

fn film() -> Vec<u8> {
    content::bytes(SEED, 0, LENGTH)
}

/// A control node with a tracker, a member, and an origin that gives the film.
struct World {
    origin: Origin,
    control: Node,
    member: Node,
}

impl World {
    fn new(more: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        let origin = Origin::start();
        let reply = Reply::generated(SEED, LENGTH as u64).etag("one").ranges().validates().fresh();
        origin.reply(FILM, reply);
        let control = Node::in_front_of(&origin)
            .text("node", "name", "control")
            .set("registry", "control", true)
            .set("registry", "insecure_loopback", true)
            .set("registry", "heartbeat_seconds", 1)
            .set("tracker", "enabled", true)
            .set("tracker", "listen", json!(["127.0.0.1:0"]))
            .set("preload", "interval_seconds", 1)
            .set("preload", "plan_seconds", 10);
        let control = more(control).start();
        // It has no link, so that nobody fills from it over HTTP.
        let member = Node::in_front_of(&origin)
            .text("node", "name", "member")
            .set("registry", "insecure_loopback", true)
            .text("registry", "control_url", &control.url(""))
            .set("registry", "heartbeat_seconds", 1)
            .set("superpeer", "trackers", json!([announce(&control)]))
            .set("preload", "enabled", true)
            .set("preload", "interval_seconds", 1)
            .set("preload", "plan_seconds", 10)
            .start();
        Self { origin, control, member }
    }

    /// Has the control node fetch the film, and tell the planner of it; the resource's id.
    #[track_caller]
    fn hold(&self) -> String {
        let answer = self.control.admin_post("/resources", &json!({ "path": FILM }));
        assert_eq!(answer.status / 100, 2, "{}", answer.text());
        let held = document(&answer.body);
        let known = || told(&self.control, "/preload")["planner"]["known_resources"] == 1;
        wait::until("the planner to know the film", SOON, known);
        held["id"].as_str().expect("a resource has an id").to_owned()
    }

    /// The control node's torrent of the film, with the fleet's tracker.
    #[track_caller]
    fn torrent(&self, id: &str, query: &str) -> Torrent {
        let answer = self.control.get(&format!("/.skerry/v1/resources/{id}.torrent{query}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        Torrent::read(answer.body).found_by(&[announce(&self.control)])
    }

    /// The origin fails from now on, and the member is told to hold the film.
    #[track_caller]
    fn order(&self) {
        self.origin.reply(FILM, Reply::status(503));
        let answer = self.control.admin_post("/preload/resources", &json!({ "path": FILM }));
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// Waits until the member has the film, and asks it for it.
    #[track_caller]
    fn is_filled(&self, id: &str) {
        wait::until("the member to hold the film", FILLED, || {
            let resources = told(&self.member, "/resources")["resources"].take();
            let mut resources = resources.as_array().into_iter().flatten();
            resources.any(|resource| resource["id"] == id && resource["path"] == FILM)
        });
        let answer = self.member.get(&format!("/.skerry/v1/resources/{id}/data"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        content::assert_same("the film", &answer.body, &film());
        let digest = format!("sha-256=:{}:", content::sha256_base64(&film()));
        assert_eq!(answer.header("repr-digest"), Some(digest.as_str()));
        self.member.must_log(&["filled from peers"]);
        assert_eq!(told(&self.member, "/status")["store"]["verify_failures"], 0);
        // To the control node; the member was refused.
        assert!(self.origin.bytes_sent(FILM) < LENGTH as u64 + 10_000);
    }

    /// Waits until the tracker knows so many seeds of a torrent.
    #[track_caller]
    fn has_seeds(&self, torrent: &Torrent, count: usize) {
        let described = libtorrent::show(torrent);
        let hash = described.info_hash_v2.expect("a torrent of version 2");
        let hash: String =
            hash.as_bytes()[..40].chunks(2).map(|two| format!("%{}", two.escape_ascii())).collect();
        let told = format!("8:completei{count}e");
        wait::until("the tracker to know the seeds", SOON, || {
            let target = format!("/scrape?info_hash={hash}");
            let answer = raw::fetch(self.control.tracker()[0], "GET", &target, &[], b"");
            answer.is_ok_and(|answer| answer.body.windows(told.len()).any(|part| part == told.as_bytes()))
        });
    }
}

fn announce(control: &Node) -> String {
    let tracker: SocketAddr = control.tracker()[0];
    format!("http://{tracker}/announce")
}

#[track_caller]
fn document(body: &[u8]) -> Value {
    serde_json::from_slice(body).expect("the answer is JSON")
}

/// A document of a node's admin listener.
#[track_caller]
fn told(node: &Node, path: &str) -> Value {
    document(&node.admin_get(path).body)
}

/// libtorrent seeds what lies in a folder, which the torrent's tracker is told.
#[track_caller]
fn seed(torrent: &Torrent, folder: &Path, film: &[u8]) -> Seed {
    std::fs::create_dir_all(folder).expect("a folder for content");
    std::fs::write(folder.join(NAME), film).expect("the content is written");
    // Whatever it is, it takes it for the content of the torrent.
    Seed::start(&[torrent], folder, &json!({ "trackers": true, "settings": { "disable_hash_checks": true } }))
}

#[test]
fn a_node_is_filled_by_a_peer_when_its_origin_is_out_of_order() {
    let world = World::new(|control| control);
    let id = world.hold();
    let torrent = world.torrent(&id, "");
    let folder = tempfile::tempdir().expect("a folder for content");
    let _peer = seed(&torrent, folder.path(), &film());
    world.has_seeds(&torrent, 1);
    world.order();
    world.is_filled(&id);
}

#[test]
fn a_node_that_knows_but_the_id_finds_the_torrent_and_is_not_harmed_by_liars() {
    let world = World::new(|control| control);
    let id = world.hold();
    let torrent = world.torrent(&id, "?version=2");
    // Now nobody in the fleet knows of a torrent.
    let path = format!("/resources/{id}");
    let removed = world.control.try_admin("DELETE", &path, b"").expect("an answer");
    assert_eq!(removed.status, 200, "{}", removed.text());

    let folder = tempfile::tempdir().expect("a folder for content");
    let mut lies = film();
    lies.iter_mut().step_by(100_000).for_each(|byte| *byte ^= 1);
    let _liar = seed(&torrent, &folder.path().join("liar"), &lies);
    world.has_seeds(&torrent, 1);
    world.order();
    wait::until("the liar to be found out", FILLED, || world.member.logged(&["banned"]));
    assert_eq!(told(&world.member, "/resources")["resources"], json!([]));

    let _peer = seed(&torrent, &folder.path().join("peer"), &film());
    world.has_seeds(&torrent, 2);
    world.is_filled(&id);
}

#[test]
fn a_super_peer_fills_others_over_bittorrent() {
    let listen = json!(["127.0.0.1:0"]);
    let world =
        World::new(|control| control.set("superpeer", "enabled", true).set("superpeer", "listen", listen));
    let id = world.hold();
    world.has_seeds(&world.torrent(&id, ""), 1);
    world.order();
    world.is_filled(&id);
    assert!(world.control.metric("skerry_superpeer_sent_bytes_total", &[]) >= LENGTH as f64);
}
