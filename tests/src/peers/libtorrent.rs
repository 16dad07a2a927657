//! libtorrent by its Python binding, in a process of its own that runs `libtorrent_peer.py`: it
//! fetches, it seeds, and it makes and reads torrents for comparison with the node's.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::torrent::Torrent;
use super::{DOWNLOADS, Encryption, Order, Source, wait_for};

/// How long a seed may take to end after it was told to.
const END: Duration = Duration::from_secs(20);

/// Debian's, for which Debian packages the binding.
const PYTHON: &str = "/usr/bin/python3";

/// What libtorrent says of a torrent.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Described {
    /// The suggested name.
    pub name: String,
    /// 40 hex digits, unless it is of version 2 alone.
    pub info_hash_v1: Option<String>,
    /// 64 hex digits, unless it is of version 1 alone.
    pub info_hash_v2: Option<String>,
    /// In bytes.
    pub piece_length: u64,
    /// How many.
    pub pieces: u64,
    /// Of all files in bytes, pad files included.
    pub length: u64,
    /// Its files, without pad files.
    pub files: Vec<DescribedFile>,
    /// Whether it says so (BEP 27).
    pub private: bool,
    /// Announce addresses.
    pub trackers: Vec<String>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
}

impl Described {
    /// A magnet link by all info-hashes (BEP 9 and 52) and nothing else.
    pub fn magnet(&self) -> String {
        let first = self.info_hash_v1.iter().map(|hash| format!("xt=urn:btih:{hash}"));
        let second = self.info_hash_v2.iter().map(|hash| format!("xt=urn:btmh:1220{hash}"));
        format!("magnet:?{}", first.chain(second).collect::<Vec<String>>().join("&"))
    }
}

/// What libtorrent says of a file in a torrent.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct DescribedFile {
    /// With the torrent's name in front when it has several.
    pub path: String,
    /// In bytes.
    pub length: u64,
    /// The pieces root, 64 hex digits; none in a version 1 torrent or of an empty file.
    pub root: Option<String>,
}

/// What it says after a fetch.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// Whether it had everything in time.
    pub complete: bool,
    /// Content bytes from peers.
    pub bytes_down: u64,
    /// Content bytes to peers.
    pub bytes_up: u64,
    /// Content bytes that came twice.
    pub bytes_redundant: u64,
    /// Pieces that came and were wrong.
    pub hash_failures: u64,
    /// Until it had everything, or gave up.
    pub seconds: f64,
    /// Whom it was connected to.
    pub peers: Vec<Peer>,
    /// Whether it had everything and found it so again on the disk.
    pub piece_hash_ok: bool,
    /// The torrent; none when a magnet link's metadata has not come.
    pub torrent: Option<Described>,
    /// Its last complaints.
    pub errors: Vec<String>,
}

/// Somebody to whom it was connected, as last seen.
#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    /// Where.
    pub address: SocketAddr,
    /// The name that the peer gave itself.
    pub client: String,
    /// Content bytes from there.
    pub down: u64,
    /// Content bytes to there.
    pub up: u64,
    /// Whether content was encrypted.
    pub rc4: bool,
    /// Whether the handshake was.
    pub encrypted_handshake: bool,
    /// Whether it was uTP.
    pub utp: bool,
    /// Whether it was no peer but a web seed.
    pub web_seed: bool,
    /// Whether the peer had everything.
    pub seed: bool,
}

/// Versions of a torrent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// BEP 3.
    V1,
    /// BEP 52.
    V2,
    /// Both.
    Hybrid,
}

/// Makes a torrent of a file or folder, with pieces of that many bytes.
#[track_caller]
pub fn create(path: &Path, version: Version, piece_length: u64) -> (Torrent, Described) {
    make(path, version, piece_length, false)
}

/// Makes a private torrent (BEP 27) of version 1.
#[track_caller]
pub fn create_private(path: &Path, piece_length: u64) -> (Torrent, Described) {
    make(path, Version::V1, piece_length, true)
}

#[track_caller]
fn make(path: &Path, version: Version, piece_length: u64, private: bool) -> (Torrent, Described) {
    let folder = tempfile::tempdir().expect("a folder for a torrent");
    let out = folder.path().join("made.torrent");
    let version = match version {
        Version::V1 => "v1",
        Version::V2 => "v2",
        Version::Hybrid => "hybrid",
    };
    let described = ask(&json!({
        "mode": "create", "path": path, "out": out, "version": version, "piece_length": piece_length,
        "private": private,
    }));
    (Torrent::read(std::fs::read(out).expect("the torrent is there")), described)
}

/// What libtorrent reads in a torrent. Panics when it refuses it.
#[track_caller]
pub fn show(torrent: &Torrent) -> Described {
    let folder = tempfile::tempdir().expect("a folder for a torrent");
    let path = folder.path().join("shown.torrent");
    std::fs::write(&path, torrent.bytes()).expect("the torrent is written");
    ask(&json!({ "mode": "show", "torrent": path }))
}

/// Runs the script to its end for one answer.
#[track_caller]
fn ask<T: DeserializeOwned>(asked: &Value) -> T {
    let output = script(asked, Path::new("/")).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.expect("python3 runs");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&stdout)
        .unwrap_or_else(|error| panic!("libtorrent on {asked}: {error}\n{stdout}{stderr}"))
}

fn script(asked: &Value, folder: &Path) -> Command {
    let path = crate::process::package().join("src/peers/libtorrent_peer.py");
    let mut command = super::command(PYTHON, folder);
    command.arg(path).arg(asked.to_string());
    command
}

/// The command that fetches, says how it went, and ends.
pub(super) fn fetch(order: &Order, source: &str, folder: &Path) -> Command {
    let kind = match order.source {
        Source::Torrent(_) => "torrent",
        Source::Magnet(_) => "magnet",
    };
    let mut asked = json!({
        "mode": "fetch",
        "dir": folder.join(DOWNLOADS),
        "peers": order.peers,
        "trackers": !order.trackers.is_empty(),
        "encryption": encryption(order.encryption),
        "upload": order.uploads,
        "utp": order.utp,
        "tcp": !order.utp,
        "speaks_v2": order.second_version,
        "seconds": order.bound.as_secs_f64(),
        "lsd": order.local,
    });
    if !order.dht.is_empty() {
        asked["dht"] = json!(order.dht);
    }
    asked[kind] = source.into();
    if let Some(address) = order.address {
        asked["listen"] = json!([SocketAddr::new(address, 0)]);
    }
    script(&asked, folder)
}

fn encryption(wanted: Encryption) -> &'static str {
    match wanted {
        Encryption::Any => "any",
        Encryption::Off => "off",
        Encryption::Handshake => "handshake",
        Encryption::Rc4 => "rc4",
    }
}

/// A seed: it serves content that lies in a folder until it is told to end, or dropped.
pub struct Seed {
    child: Child,
    stdout: BufReader<ChildStdout>,
    started: Started,
    _folder: TempDir,
}

#[derive(Deserialize)]
struct Started {
    addresses: Vec<SocketAddr>,
    pid: u32,
}

/// What a seed has used since it was ready.
#[derive(Clone, Debug, Deserialize)]
pub struct Used {
    /// Of wall time.
    pub seconds: f64,
    /// Of processor time, in user and kernel mode.
    pub cpu_seconds: f64,
    /// Memory that is its own at the end, without mapped files.
    pub memory_bytes: u64,
    /// Content bytes that it has sent.
    pub bytes_up: u64,
    /// Peers that it had at the end.
    pub peers: u64,
}

impl Seed {
    /// Serves torrents whose content lies in `content`, on both loopback addresses. `more` has keys of
    /// `libtorrent_peer.py`, such as `{"utp": true}` or `{"settings": {"aio_threads": 2}}`.
    #[track_caller]
    pub fn start(torrents: &[&Torrent], content: &Path, more: &Value) -> Self {
        let folder = tempfile::Builder::new().prefix("skerry-seed-").tempdir().expect("a folder for a seed");
        let mut paths = Vec::new();
        for (at, torrent) in torrents.iter().enumerate() {
            let path = folder.path().join(format!("{at}.torrent"));
            std::fs::write(&path, torrent.bytes()).expect("the torrent is written");
            paths.push(path);
        }
        let mut asked = json!({ "mode": "seed", "torrents": paths, "dir": content });
        for (key, value) in more.as_object().into_iter().flatten() {
            asked[key] = value.clone();
        }
        let mut command = script(&asked, folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("python3 runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a seed writes text");
        let started = serde_json::from_str(&line).unwrap_or_else(|error| {
            // Otherwise nobody would.
            let _ = child.kill();
            let _ = child.wait();
            panic!("libtorrent on {asked}: {error}\n{line}")
        });
        Self { child, stdout, started, _folder: folder }
    }

    /// Where it takes peers by TCP.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.started.addresses
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.started.pid
    }

    /// Ends it and returns what it has used.
    #[track_caller]
    pub fn end(mut self) -> Used {
        drop(self.child.stdin.take());
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a seed writes text");
        wait_for(&mut self.child, END);
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("a seed's last line: {error}\n{line}"))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        // Both fail only for a process that has already been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
