//! Peers without a tracker: libtorrent and other nodes find a node in the DHT and on the local network, and
//! the node finds them. Private torrents are told of in neither.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use skerry_tests::netns::{Netns, Network};
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::origin::Origin;
use skerry_tests::peers::libtorrent::{self, Seed, Version};
use skerry_tests::peers::torrent::Torrent;
use skerry_tests::peers::{Client, Order};
use skerry_tests::reply::Reply;
use skerry_tests::{content, raw, wait};
use tempfile::TempDir;

/// Of a chunk, which is a piece of the node's own torrents.
const CHUNK: u64 = 1 << 20;
const LENGTH: usize = 3_000_001;
const NAME: &str = "film.bin";

/// How long it may take until what is held is announced, or heard of.
const SOON: Duration = Duration::from_secs(60);

fn film() -> Vec<u8> {
    content::bytes(61, 0, LENGTH)
}

/// Content on the disk, and an origin that serves it.
struct Content {
    origin: Origin,
    folder: TempDir,
}

impl Content {
    fn new() -> Self {
        let (origin, folder) = (Origin::start(), tempfile::tempdir().expect("a folder for content"));
        let reader = folder.path().to_owned();
        origin.serve_rest(move |request| match std::fs::read(reader.join(&request.path()[1..])) {
            Ok(body) => Reply::ok(body).etag("one").ranges().fresh(),
            Err(_) => Reply::status(404),
        });
        let content = Self { origin, folder };
        content.write(NAME, &film());
        content
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, body: &[u8]) {
        std::fs::write(self.disk(name), body).expect("the content is written");
    }

    /// A node that serves peers on this address.
    fn node(&self, peers: Ipv4Addr) -> NodeBuilder {
        Node::in_front_of(&self.origin).set("superpeer", "enabled", true).set(
            "superpeer",
            "listen",
            json!([SocketAddr::from((peers, 0))]),
        )
    }
}

/// Has a node fetch a file and keep it; the resource's id.
#[track_caller]
fn hold(node: &Node, name: &str) -> String {
    let answer = node.admin_post("/resources", &json!({ "site": "default", "path": format!("/{name}") }));
    assert_eq!(answer.status / 100, 2, "{name}: {}", answer.text());
    let told: Value = serde_json::from_slice(&answer.body).expect("the answer is JSON");
    told["id"].as_str().expect("a resource has an id").to_owned()
}

/// Adds a torrent of version 1 of what a node holds.
#[track_caller]
fn add(node: &Node, torrent: &Torrent, resource: &str) {
    let target = format!("/torrents?resource={resource}");
    let fields = [("Content-Type", "application/x-bittorrent")];
    let answer = raw::fetch(node.admin(), "POST", &target, &fields, torrent.bytes()).expect("an answer");
    assert_eq!(answer.status / 100, 2, "{}", answer.text());
}

/// What a node says of its discovery.
#[track_caller]
fn told(node: &Node) -> Value {
    let status: Value = serde_json::from_slice(&node.admin_get("/status").body).expect("the answer is JSON");
    status["discovery"].clone()
}

/// Who a node knows of for a torrent: as it is (GET), or after it has asked the DHT (POST).
#[track_caller]
fn peers(node: &Node, method: &str, info_hash: &str) -> Vec<SocketAddr> {
    let path = format!("/discovery/peers/{info_hash}");
    let answer = node.try_admin(method, &path, b"").expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told: Value = serde_json::from_slice(&answer.body).expect("the answer is JSON");
    serde_json::from_value(told["peers"].clone()).expect("a list of addresses")
}

/// A DHT of its own on loopback: one node of libtorrent's, that others begin with.
///
/// It is libtorrent's, since the nodes of `mainline` answer no requests of libtorrent's, whose transaction
/// ids have two bytes.
fn dht(content: &Content) -> (Seed, SocketAddr) {
    content.write("other.bin", &content::bytes(62, 0, 10_000));
    let (torrent, _) = libtorrent::create(&content.disk("other.bin"), Version::V1, 16 << 10);
    let node = Seed::start(&[&torrent], content.folder.path(), &json!({ "dht": [] }));
    let v4 = node.addresses().iter().find(|address| address.is_ipv4()).expect("it listens on IPv4");
    let address = *v4;
    (node, address)
}

fn in_dht(node: NodeBuilder, begin: SocketAddr) -> NodeBuilder {
    node.set("discovery", "dht", true).text("discovery", "dht_listen", "127.0.0.1:0").set(
        "discovery",
        "dht_bootstrap",
        json!([begin]),
    )
}

#[test]
fn a_node_is_found_in_the_dht_and_finds_others_there() {
    let content = Content::new();
    let (_begin, begin) = dht(&content);
    let node = in_dht(content.node(Ipv4Addr::LOCALHOST), begin).start();
    let resource = hold(&node, NAME);
    let (torrent, described) = libtorrent::create(&content.disk(NAME), Version::Hybrid, CHUNK);
    let (private, hidden) = libtorrent::create_private(&content.disk(NAME), 128 << 10);
    assert!(hidden.private);
    add(&node, &private, &resource);
    // Held after the private one was added: once it is announced, all that is to be announced is.
    content.write("later.bin", &content::bytes(63, 0, 5_000));
    hold(&node, "later.bin");

    // Each has a hybrid torrent, a v1 one and a v2 one: four info-hashes.
    let announced = || node.metric("skerry_discovery_announces_total", &[("by", "dht")]);
    wait::until("announces of all that is held", SOON, || announced() == 8.0);
    let status = told(&node);
    assert_eq!(status["info_hashes"], 8, "{status}");
    assert!(status["dht"]["nodes"].as_u64() > Some(0), "{status}");
    assert_eq!(status["lsd"], Value::Null);

    let order = Order::torrent(&torrent).found_in_dht(&[begin]);
    let outcome = Client::Libtorrent.fetch(&order);
    outcome.has(NAME, &film());
    assert!(node.metric("skerry_superpeer_sent_bytes_total", &[]) >= film().len() as f64);

    let other = in_dht(content.node(Ipv4Addr::LOCALHOST), begin).start();
    wait::until("another node to be in the DHT", SOON, || told(&other)["dht"]["nodes"].as_u64() > Some(0));
    let info_hash = |hash: &Option<String>| hash.clone().expect("an info-hash");
    for known in [info_hash(&described.info_hash_v1), info_hash(&described.info_hash_v2)] {
        assert!(peers(&other, "POST", &known).contains(&node.peers()[0]), "{known}");
    }
    assert!(peers(&other, "POST", &info_hash(&hidden.info_hash_v1)).is_empty());
    // A node is no peer of its own.
    assert!(!peers(&node, "POST", &info_hash(&described.info_hash_v1)).contains(&node.peers()[0]));
    assert_eq!(announced(), 8.0);
}

#[test]
fn without_a_dht_to_begin_with_a_node_serves_all_the_same() {
    let content = Content::new();
    // Nobody is there.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = nobody.local_addr().expect("its address");
    let mut node = in_dht(content.node(Ipv4Addr::LOCALHOST), address).start();
    hold(&node, NAME);
    wait::until("the list of what is held", SOON, || told(&node)["info_hashes"] == 4);
    assert_eq!(node.get(&format!("/{NAME}")).status, 200);
    assert!(peers(&node, "POST", &"ab".repeat(20)).is_empty());
    let status = told(&node);
    assert_eq!((&status["dht"]["nodes"], &status["dht"]["announced"]), (&json!(0), &json!(0)));
    assert!(node.stop().success());
}

/// Two machines on one network.
struct Neighbours {
    here: Netns,
    there: Netns,
    _network: Network,
}

const HERE: Ipv4Addr = Ipv4Addr::new(198, 18, 79, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(198, 18, 79, 2);

impl Neighbours {
    fn new() -> Self {
        let mut network = Network::empty();
        let switch = network.namespace("switch").switch("switch");
        let mut machine = |name, address: Ipv4Addr| {
            let netns = network.namespace(name);
            switch.plug(&netns, "eth0", &format!("{address}/24"), 100);
            netns
        };
        let (here, there) = (machine("here", HERE), machine("there", THERE));
        Self { here, there, _network: network }
    }
}

#[test]
fn a_node_and_its_neighbours_find_each_other_on_the_local_network() {
    let Neighbours { here, there, _network } = Neighbours::new();
    // Declared after the network, and so gone before it is.
    let content = here.inside(Content::new);
    let builder = content.node(HERE).set("discovery", "lsd", true).within(&here);
    let node = here.inside(|| builder.start());
    let on_node = |act: &(dyn Fn(&Node) -> Value + Sync)| here.inside(|| act(&node));
    assert_eq!(on_node(&told)["dht"], Value::Null);
    wait::until("a socket on the network", SOON, || on_node(&told)["lsd"]["interfaces"] == json!(["eth0"]));

    // The neighbour is there first, and heard of before the node has anything for it.
    let (torrent, described) = libtorrent::create(&content.disk(NAME), Version::Hybrid, CHUNK);
    let info_hash = described.info_hash_v1.expect("a hybrid has one");
    let order = Order::torrent(&torrent).found_locally().bound_to(IpAddr::V4(THERE));
    let fetch = there.inside(|| Client::Libtorrent.start(&order.within(2 * SOON)));
    wait::until("the neighbour's announce", SOON, || {
        let known = here.inside(|| peers(&node, "GET", &info_hash));
        known.iter().any(|peer| peer.ip() == IpAddr::V4(THERE))
    });

    here.inside(|| hold(&node, NAME));
    let outcome = fetch.end();
    outcome.has(NAME, &film());
    let sent = here.inside(|| node.metric("skerry_superpeer_sent_bytes_total", &[]));
    assert!(sent >= film().len() as f64, "{sent}");
    let status = on_node(&told);
    assert_eq!((&status["info_hashes"], &status["lsd"]["errors"]), (&json!(4), &json!(0)), "{status}");
    assert!(status["lsd"]["announced"].as_u64() >= Some(4), "{status}");
    let own = SocketAddr::new(IpAddr::V4(HERE), node.peers()[0].port());
    assert!(!here.inside(|| peers(&node, "GET", &info_hash)).contains(&own));
}
