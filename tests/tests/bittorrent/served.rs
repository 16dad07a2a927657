//! A node that serves, and what it holds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde_json::{Value, json};
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::origin::Origin;
use skerry_tests::peers::libtorrent::{self, Described, Version};
use skerry_tests::peers::torrent::Torrent;
use skerry_tests::peers::{Client, Family, address};
use skerry_tests::reply::Reply;
use skerry_tests::{content, raw};
use tempfile::TempDir;

/// Of a chunk, which is a piece of the node's own torrents.
pub(crate) const CHUNK: u64 = 1 << 20;

/// Of what most scenarios share: no whole number of chunks, pieces or blocks.
pub(crate) const LENGTH: usize = 5_000_001;

pub(crate) const NAME: &str = "film.bin";

/// A node that holds resources, and the same content on the disk for libtorrent.
pub(crate) struct Served {
    pub(crate) node: Node,
    folder: TempDir,
    _origin: Origin,
}

/// What the node says of something that it holds.
pub(crate) struct Held {
    pub(crate) id: String,
    pub(crate) info_hash_v1: String,
    pub(crate) info_hash_v2: String,
}

impl Served {
    /// A node with these addresses for peers, on ports of their own.
    pub(crate) fn on(addresses: &[IpAddr]) -> Self {
        Self::with(addresses, |node| node)
    }

    pub(crate) fn with(addresses: &[IpAddr], more: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
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
    pub(crate) fn disk(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Has the node fetch a file and keep it.
    #[track_caller]
    pub(crate) fn hold(&self, path: &str, body: &[u8]) -> Held {
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
    pub(crate) fn torrent(&self, held: &Held) -> Torrent {
        self.torrent_of(held, "")
    }

    /// The same of one version.
    #[track_caller]
    pub(crate) fn torrent_of(&self, held: &Held, query: &str) -> Torrent {
        let answer = self.node.get(&format!("/.skerry/v1/resources/{}.torrent{query}", held.id));
        assert_eq!(answer.status, 200, "{}", answer.text());
        Torrent::read(answer.body)
    }

    /// Adds a torrent of what is held; those of version 1 alone take the files' resources in order.
    #[track_caller]
    pub(crate) fn add(&self, torrent: &Torrent, files: &[&Held]) -> raw::Response {
        let named: Vec<String> = files.iter().map(|held| format!("resource={}", held.id)).collect();
        let target = format!("/torrents?{}", named.join("&"));
        let fields = [("Content-Type", "application/x-bittorrent")];
        raw::fetch(self.node.admin(), "POST", target.trim_end_matches('?'), &fields, torrent.bytes())
            .expect("an answer")
    }

    /// A torrent of what is on the disk, made by libtorrent and taken by the node.
    #[track_caller]
    pub(crate) fn made(&self, path: &str, version: Version, files: &[&Held]) -> (Torrent, Described) {
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

    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.node.metric(name, labels)
    }
}

/// Addresses on which a client takes peers.
pub(crate) fn addresses(client: Client) -> [IpAddr; 2] {
    match client {
        Client::Transmission => [address(Family::V4), address(Family::V6)],
        Client::Aria2 | Client::Libtorrent => [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
    }
}

pub(crate) fn film() -> Vec<u8> {
    content::bytes(41, 0, LENGTH)
}
