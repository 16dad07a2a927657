//! Resources over BitTorrent: peers that others wrote get all of what a node holds, whatever version,
//! address family and encryption they come with, and give nothing for it. What is not held is not
//! talked about.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::origin::Origin;
use skerry_tests::peers::libtorrent::{self, Described, Version};
use skerry_tests::peers::torrent::Torrent;
use skerry_tests::peers::{Client, Encryption, Family, Fetch, Order, address};
use skerry_tests::reply::Reply;
use skerry_tests::{content, process, raw, wait};
use tempfile::TempDir;

/// Of a chunk, which is a piece of the node's own torrents.
const CHUNK: u64 = 1 << 20;

/// Of what most scenarios share: no whole number of chunks, pieces or blocks.
const LENGTH: usize = 5_000_001;

const NAME: &str = "film.bin";

/// How long the node may take to close a connection that it wants nothing of.
const CLOSED: Duration = Duration::from_secs(5);

/// A node that holds resources, and the same content on the disk for libtorrent.
struct Served {
    node: Node,
    folder: TempDir,
    _origin: Origin,
}

/// What the node says of something that it holds.
struct Held {
    id: String,
    info_hash_v1: String,
    info_hash_v2: String,
}

impl Served {
    /// A node with these addresses for peers, on ports of their own.
    fn on(addresses: &[IpAddr]) -> Self {
        Self::with(addresses, |node| node)
    }

    fn with(addresses: &[IpAddr], more: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        let origin = Origin::start();
        let listen: Vec<SocketAddr> = addresses.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
        let node = Node::in_front_of(&origin).set("superpeer", "enabled", true).set(
            "superpeer",
            "listen",
            json!(listen),
        );
        let folder = tempfile::tempdir().expect("a folder for content");
        let reader = folder.path().to_owned();
        origin.serve_rest(move |request| match std::fs::read(reader.join(&request.path()[1..])) {
            Ok(body) => Reply::ok(body).etag("one").ranges().fresh(),
            Err(_) => Reply::status(404),
        });
        Self { node: more(node).start(), folder, _origin: origin }
    }

    /// Where the content is on the disk.
    fn disk(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Has the node fetch a file and keep it.
    #[track_caller]
    fn hold(&self, path: &str, body: &[u8]) -> Held {
        let disk = self.disk(path);
        std::fs::create_dir_all(disk.parent().expect("a file is in a folder")).expect("a folder");
        std::fs::write(disk, body).expect("the content is written");
        let answer =
            self.node.admin_post("/resources", &json!({"site": "default", "path": format!("/{path}")}));
        assert_eq!(answer.status / 100, 2, "{path}: {}", answer.text());
        let told: Value = serde_json::from_slice(&answer.body).expect("the answer is JSON");
        let text =
            |name: &str| told[name].as_str().unwrap_or_else(|| panic!("no {name} in {told}")).to_owned();
        Held { id: text("id"), info_hash_v1: text("info_hash_v1"), info_hash_v2: text("info_hash_v2") }
    }

    /// The node's own torrent of a resource.
    #[track_caller]
    fn torrent(&self, held: &Held) -> Torrent {
        self.torrent_of(held, "")
    }

    /// The same of one version.
    #[track_caller]
    fn torrent_of(&self, held: &Held, query: &str) -> Torrent {
        let answer = self.node.get(&format!("/.skerry/v1/resources/{}.torrent{query}", held.id));
        assert_eq!(answer.status, 200, "{}", answer.text());
        Torrent::read(answer.body)
    }

    /// Adds a torrent of what is held; those of version 1 alone take the files' resources in order.
    #[track_caller]
    fn add(&self, torrent: &Torrent, files: &[&Held]) -> raw::Response {
        let named: Vec<String> = files.iter().map(|held| format!("resource={}", held.id)).collect();
        let target = format!("/torrents?{}", named.join("&"));
        let fields = [("Content-Type", "application/x-bittorrent")];
        raw::fetch(self.node.admin(), "POST", target.trim_end_matches('?'), &fields, torrent.bytes())
            .expect("an answer")
    }

    /// A torrent of what is on the disk, made by libtorrent and taken by the node.
    #[track_caller]
    fn made(&self, path: &str, version: Version, files: &[&Held]) -> (Torrent, Described) {
        // Neither the node's own length nor one that its chunks are made of in the same places.
        let length = if version == Version::V1 { 128 << 10 } else { CHUNK / 4 };
        let (torrent, described) = libtorrent::create(&self.disk(path), version, length);
        let named = if version == Version::V1 { files } else { &[] };
        let answer = self.add(&torrent, named);
        assert_eq!(answer.status / 100, 2, "{}", answer.text());
        let told: Value = serde_json::from_slice(&answer.body).expect("the answer is JSON");
        assert_eq!(told["info_hash_v1"], json!(described.info_hash_v1));
        assert_eq!(told["info_hash_v2"], json!(described.info_hash_v2));
        (torrent, described)
    }

    /// What a client can make use of: the node's own hybrid torrent, or one of version 1.
    #[track_caller]
    fn torrent_for(&self, client: Client, held: &Held) -> Torrent {
        match client {
            Client::Libtorrent => self.torrent(held),
            // Those of Debian 12 know version 1 alone, and stumble over hybrids.
            Client::Aria2 | Client::Transmission => self.torrent_of(held, "?version=1"),
        }
    }

    fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.node.metric(name, labels)
    }
}

/// Addresses on which a client takes peers.
fn addresses(client: Client) -> [IpAddr; 2] {
    match client {
        Client::Transmission => [address(Family::V4), address(Family::V6)],
        Client::Aria2 | Client::Libtorrent => [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    }
}

fn film() -> Vec<u8> {
    content::bytes(41, 0, LENGTH)
}

/// Fetches the same resource with every kind of encryption at once.
fn fetches(client: Client, family: Family, encryptions: &[Encryption]) {
    let served = Served::on(&addresses(client));
    let held = served.hold(NAME, &film());
    let torrent = served.torrent_for(client, &held);
    let mut peers = served.node.peers().to_vec();
    peers.retain(|peer| peer.is_ipv4() == (family == Family::V4));
    assert_eq!(peers.len(), 1, "{:?}", served.node.peers());

    let order = Order::torrent(&torrent).with_peers(&peers);
    let begun: Vec<(Encryption, Fetch)> = encryptions
        .iter()
        .map(|encryption| (*encryption, client.start(&order.clone().encryption(*encryption))))
        .collect();
    for (encryption, fetch) in begun {
        let outcome = fetch.end();
        outcome.has(NAME, &film());
        if client == Client::Libtorrent {
            let report = outcome.report();
            assert_eq!(report.hash_failures, 0);
            assert_eq!(report.peers.len(), 1, "{:?}", report.peers);
            let peer = &report.peers[0];
            assert_eq!(peer.address, peers[0]);
            assert_eq!(peer.rc4, encryption == Encryption::Rc4);
            assert_eq!(peer.encrypted_handshake, encryption != Encryption::Off);
        }
    }
    let sent = served.metric("skerry_superpeer_sent_bytes_total", &[]);
    assert!(sent >= (LENGTH * encryptions.len()) as f64, "{sent} bytes were sent");
}

#[test]
fn libtorrent_fetches_over_ipv4() {
    fetches(Client::Libtorrent, Family::V4, &[Encryption::Off, Encryption::Handshake, Encryption::Rc4]);
}

#[test]
fn libtorrent_fetches_over_ipv6() {
    fetches(Client::Libtorrent, Family::V6, &[Encryption::Off, Encryption::Handshake, Encryption::Rc4]);
}

#[test]
fn aria2_fetches_over_ipv4() {
    fetches(Client::Aria2, Family::V4, &[Encryption::Any, Encryption::Handshake, Encryption::Rc4]);
}

#[test]
fn aria2_fetches_over_ipv6() {
    fetches(Client::Aria2, Family::V6, &[Encryption::Any, Encryption::Handshake, Encryption::Rc4]);
}

#[test]
fn transmission_fetches_over_ipv4() {
    fetches(Client::Transmission, Family::V4, &[Encryption::Off, Encryption::Rc4]);
}

#[test]
fn transmission_fetches_over_ipv6() {
    fetches(Client::Transmission, Family::V6, &[Encryption::Off, Encryption::Rc4]);
}

#[test]
fn a_peer_that_begins_encrypted_gets_in_plain_where_encryption_is_refused() {
    let client = Client::Aria2;
    let served = Served::with(&addresses(client), |node| node.text("superpeer", "encryption", "refuse"));
    let held = served.hold(NAME, &film());
    let order = Order::torrent(&served.torrent_for(client, &held)).with_peers(served.node.peers());
    client.fetch(&order).has(NAME, &film());
    assert!(served.metric("skerry_superpeer_refused_total", &[("cause", "encryption")]) > 0.0);
}

#[test]
fn the_nodes_torrent_is_what_libtorrent_makes_of_the_content() {
    let served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let held = served.hold(NAME, &film());
    let torrent = served.torrent(&held);
    let (made, described) = libtorrent::create(&served.disk(NAME), Version::Hybrid, CHUNK);
    assert_eq!(torrent.info().escape_ascii().to_string(), made.info().escape_ascii().to_string());

    let read = libtorrent::show(&torrent);
    assert_eq!(read.info_hash_v1.as_ref(), Some(&held.info_hash_v1));
    assert_eq!(read.info_hash_v2.as_ref(), Some(&held.info_hash_v2));
    assert_eq!(read.files, described.files);
    assert_eq!(read.files[0].root.as_ref(), Some(&held.id));
    assert_eq!(read.web_seeds.len(), 1, "{:?}", read.web_seeds);
    assert!(!read.private);
}

#[test]
fn every_version_of_a_torrent_is_served() {
    let served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let held = served.hold(NAME, &film());
    let own = served.torrent(&held);
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let (torrent, _) = served.made(NAME, version, &[&held]);
        let order = Order::torrent(&torrent).with_peers(served.node.peers());
        Client::Libtorrent.fetch(&order).has(NAME, &film());
    }
    // A hybrid is one torrent by two names.
    let second = Order::torrent(&own).with_peers(served.node.peers()).by_second_version();
    Client::Libtorrent.fetch(&second).has(NAME, &film());
}

#[test]
fn a_magnet_link_is_enough() {
    let served = Served::on(&addresses(Client::Transmission));
    let held = served.hold(NAME, &film());
    let peers = served.node.peers();
    let (_, first) = served.made(NAME, Version::V1, &[&held]);
    let (_, second) = served.made(NAME, Version::V2, &[]);
    let own = libtorrent::show(&served.torrent(&held));
    let mut begun = Vec::new();
    for described in [&first, &second, &own] {
        begun.push(Client::Libtorrent.start(&Order::magnet(&described.magnet()).with_peers(peers)));
    }
    for client in [Client::Aria2, Client::Transmission] {
        begun.push(client.start(&Order::magnet(&first.magnet()).with_peers(peers)));
    }
    for fetch in begun {
        fetch.end().has(NAME, &film());
    }
}

#[test]
fn a_package_is_served_out_of_its_files() {
    const FILES: [(&str, usize); 4] = [
        ("package/a", 5),
        ("package/picture.bin", 3_000_000),
        ("package/sound/left.bin", 700_001),
        ("package/z", 0),
    ];
    let served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let bodies = FILES.map(|(path, length)| (path, content::bytes(length as u64, 0, length)));
    let held: Vec<Held> = bodies[..3].iter().map(|(path, body)| served.hold(path, body)).collect();
    std::fs::write(served.disk(bodies[3].0), b"").expect("an empty file");

    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let (torrent, _) = served.made("package", version, &held.iter().collect::<Vec<&Held>>());
        let outcome = Client::Libtorrent.fetch(&Order::torrent(&torrent).with_peers(served.node.peers()));
        for (path, body) in &bodies {
            outcome.has(path, body);
        }
    }
}

#[test]
fn a_torrent_of_other_content_than_what_is_held_is_refused() {
    let served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let held = served.hold(NAME, &film());
    let mut other = film();
    other[LENGTH / 2] ^= 1;
    std::fs::write(served.disk("other.bin"), other).expect("the content is written");
    for version in [Version::V1, Version::V2, Version::Hybrid] {
        let (torrent, _) = libtorrent::create(&served.disk("other.bin"), version, CHUNK);
        served.add(&torrent, &[&held]).problem(409);
        let order = Order::torrent(&torrent).with_peers(served.node.peers()).within(Duration::from_secs(2));
        let outcome = Client::Libtorrent.fetch(&order);
        assert!(!outcome.complete);
        assert_eq!(outcome.report().bytes_down, 0);
    }
}

#[test]
fn who_uploads_nothing_gets_everything() {
    let served = Served::on(&addresses(Client::Transmission));
    let held = served.hold(NAME, &film());
    let fetches: Vec<Fetch> = [Client::Aria2, Client::Transmission, Client::Libtorrent]
        .into_iter()
        .map(|client| {
            let order = Order::torrent(&served.torrent_for(client, &held));
            client.start(&order.with_peers(served.node.peers()).uploads_nothing())
        })
        .collect();
    for fetch in fetches {
        let outcome = fetch.end();
        outcome.has(NAME, &film());
        assert_eq!(outcome.bytes_up, Some(0), "{:?}", outcome.client);
    }
}

#[test]
fn peers_that_upload_nothing_take_turns_where_there_is_room_for_one() {
    let served = Served::with(&[Ipv4Addr::LOCALHOST.into()], |node| node.set("superpeer", "max_unchoked", 1));
    let held = served.hold(NAME, &film());
    let order = Order::torrent(&served.torrent(&held)).with_peers(served.node.peers()).uploads_nothing();
    let fetches: Vec<Fetch> = (0..3).map(|_| Client::Libtorrent.start(&order)).collect();
    for fetch in fetches {
        let outcome = fetch.end();
        outcome.has(NAME, &film());
        assert_eq!(outcome.bytes_up, Some(0));
    }
}

#[test]
fn what_is_not_held_is_closed_before_any_data() {
    let served = Served::on(&addresses(Client::Libtorrent));
    served.hold(NAME, &film());
    let unknown = || served.metric("skerry_superpeer_refused_total", &[("cause", "unknown")]);
    assert_eq!(unknown(), 0.0);

    for (count, peer) in (1u32..).zip(served.node.peers()) {
        let mut connection = raw::Connection::open(*peer);
        let handshake = [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &[7; 20], b"-XX0000-0123456789ab"];
        connection.send(&handshake.concat()).expect("a handshake is sent");
        assert_eq!(connection.look(CLOSED), raw::State::Closed);
        wait::until("the count", CLOSED, || unknown() == f64::from(count));
    }

    // An encrypted handshake names it by a hash of it (BEP 8).
    let foreign = served.disk("foreign.bin");
    std::fs::write(&foreign, content::bytes(42, 0, 100_000)).expect("the content is written");
    for version in [Version::V1, Version::V2] {
        let (torrent, _) = libtorrent::create(&foreign, version, CHUNK);
        for encryption in [Encryption::Off, Encryption::Rc4] {
            let before = unknown();
            let order = Order::torrent(&torrent).with_peers(&served.node.peers()[..1]);
            let order = order.encryption(encryption).within(Duration::from_secs(2));
            let outcome = Client::Libtorrent.fetch(&order);
            assert!(!outcome.complete);
            assert_eq!(outcome.report().bytes_down, 0);
            assert!(unknown() > before, "{version:?}, {encryption:?}");
        }
    }
    assert_eq!(served.metric("skerry_superpeer_sent_bytes_total", &[]), 0.0);
}

#[test]
fn what_was_held_and_added_is_served_after_a_restart() {
    let mut served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let held = served.hold(NAME, &film());
    let own = served.torrent(&held);
    let (first, _) = served.made(NAME, Version::V1, &[&held]);
    served.node.restart();
    for torrent in [own, first] {
        let order = Order::torrent(&torrent).with_peers(served.node.peers());
        Client::Libtorrent.fetch(&order).has(NAME, &film());
    }
}

/// Fetches with nothing but the address of the node's own tracker.
fn fetches_by_the_nodes_tracker(scheme: &str) {
    let served = Served::with(&[address(Family::V4)], |node| {
        node.set("registry", "control", true).set("tracker", "enabled", true).set(
            "tracker",
            "listen",
            "[\"127.0.0.1:0\"]",
        )
    });
    let held = served.hold(NAME, &film());
    let tracker = served.node.tracker()[0];
    let begun: Vec<Fetch> = [Client::Aria2, Client::Transmission, Client::Libtorrent]
        .into_iter()
        .map(|client| {
            let torrent = served.torrent_for(client, &held);
            let info_hash = libtorrent::show(&torrent).info_hash_v1.expect("no torrent of version 2 alone");
            wait::until("the node to announce itself", Duration::from_secs(30), || {
                seeded(tracker, &info_hash)
            });
            client.start(&Order::torrent(&torrent).found_by(&format!("{scheme}://{tracker}/announce")))
        })
        .collect();
    for fetch in begun {
        fetch.end().has(NAME, &film());
    }
}

/// Whether a tracker knows somebody who has all of a torrent (BEP 48).
fn seeded(tracker: SocketAddr, info_hash: &str) -> bool {
    let escaped: String =
        info_hash.as_bytes().chunks(2).map(|pair| format!("%{}", pair.escape_ascii())).collect();
    let answer = raw::fetch(tracker, "GET", &format!("/scrape?info_hash={escaped}"), &[], b"");
    answer.is_ok_and(|answer| answer.text().contains("8:completei1e"))
}

#[test]
fn peers_find_the_node_by_its_tracker_over_http() {
    fetches_by_the_nodes_tracker("http");
}

#[test]
fn peers_find_the_node_by_its_tracker_over_udp() {
    fetches_by_the_nodes_tracker("udp");
}

/// Runs `skerry torrent` to a success and reads what it prints.
#[track_caller]
fn torrent_command(arguments: &[&str]) -> Value {
    let output = process::run(&[&["torrent"][..], arguments, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the command prints JSON")
}

#[test]
fn the_torrent_command_and_libtorrent_agree() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = |path: &str| folder.path().join(path);
    std::fs::create_dir_all(disk("package/sound")).expect("a folder");
    for (path, length) in
        [("film.bin", LENGTH), ("package/a", 5), ("package/b.bin", 300_000), ("package/z", 0)]
    {
        std::fs::write(disk(path), content::bytes(7, 0, length)).expect("the content is written");
    }
    std::fs::write(disk("package/sound/left.bin"), content::bytes(8, 0, 20_000)).expect("more content");
    let text = |path: &Path| path.to_string_lossy().into_owned();

    for name in ["film.bin", "package"] {
        for (version, flag) in [(Version::V1, "--v1"), (Version::V2, "--v2"), (Version::Hybrid, "--hybrid")] {
            let (path, out) = (text(&disk(name)), text(&disk("made.torrent")));
            let tracker = "http://tracker.test/announce";
            let told = torrent_command(&[
                "create",
                &path,
                flag,
                "--piece-length",
                "32768",
                "--tracker",
                tracker,
                "--output",
                &out,
            ]);
            let ours = Torrent::read(std::fs::read(&out).expect("the torrent is there"));
            let (theirs, described) = libtorrent::create(&disk(name), version, 32768);
            assert_eq!(told["info_hash_v1"], json!(described.info_hash_v1), "{name}, {version:?}");
            assert_eq!(told["info_hash_v2"], json!(described.info_hash_v2), "{name}, {version:?}");
            let read = libtorrent::show(&ours);
            assert_eq!(read, Described { trackers: vec![tracker.to_owned()], ..described });

            std::fs::write(&out, theirs.bytes()).expect("the torrent is written");
            assert_eq!(torrent_command(&["verify", &out, &path])["sound"], true);
        }
    }
    let mut damaged = std::fs::read(disk("package/b.bin")).expect("the content is there");
    damaged[200_000] ^= 1;
    std::fs::write(disk("package/b.bin"), damaged).expect("the content is written");
    let output = process::run(&["torrent", "verify", &text(&disk("made.torrent")), &text(&disk("package"))]);
    assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn what_is_removed_is_not_served_any_longer_to_who_is_connected() {
    let served = Served::on(&[Ipv4Addr::LOCALHOST.into()]);
    let held = served.hold(NAME, &film());
    let mut peer = std::net::TcpStream::connect(served.node.peers()[0]).unwrap();
    let hash: Vec<u8> = (0..40)
        .step_by(2)
        .map(|at| u8::from_str_radix(&held.info_hash_v1[at..at + 2], 16).unwrap())
        .collect();
    let hello = [b"\x13BitTorrent protocol".as_slice(), &[0; 8], &hash, b"-XX0001-abcdefghijkl"].concat();
    std::io::Write::write_all(&mut peer, &hello).unwrap();
    let mut answer = [0; 68];
    std::io::Read::read_exact(&mut peer, &mut answer).unwrap();
    assert_eq!(answer[28..48], hash[..]);

    let removed = raw::fetch(served.node.admin(), "DELETE", &format!("/resources/{}", held.id), &[], b"");
    let removed = removed.unwrap();
    assert_eq!(removed.status, 200, "{}", removed.text());
    peer.set_read_timeout(Some(2 * CLOSED)).unwrap();
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut peer, &mut rest).expect("the node closes the connection");
}
