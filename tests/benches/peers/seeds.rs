//! The three seeds of a run: the node, libtorrent by its Python binding, and the bare server
//! (`bt_ceiling`). All serve one torrent, which the node makes. Dropping a [`Seed`] ends it.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use skerry_tests::node::Node;
use skerry_tests::peers::libtorrent;
use skerry_tests::peers::torrent::Torrent;

use crate::idle;
use crate::instruments::machine::{cpu_seconds, field};
use crate::instruments::process::{Process, ticks_per_second, wait_for};

const MIB: u64 = 1 << 20;

/// How long the node may take to fetch and hash all content.
const HOLD: Duration = Duration::from_secs(600);

/// How long the bare server may take to read its content.
const START: Duration = Duration::from_secs(60);

/// What the content is called, by its torrent too.
const NAME: &str = "film.bin";

/// Which of the seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Which {
    /// The node.
    Node,
    /// What the node is compared with.
    Libtorrent,
    /// Blocks out of memory, and nothing else.
    Ceiling,
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Node => "node",
            Self::Libtorrent => "libtorrent",
            Self::Ceiling => "ceiling",
        })
    }
}

/// A file of random bytes, in a folder of its own.
pub(crate) struct Content {
    folder: PathBuf,
    /// Bytes.
    pub(crate) length: u64,
}

impl Content {
    /// Writes it.
    pub(crate) fn write(folder: PathBuf, length: u64) -> Result<Self> {
        let content = Self { folder, length };
        let path = content.file();
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&content.folder)?;
            let mut file = BufWriter::new(File::create(&path)?);
            let mut block = vec![0; MIB as usize];
            for _ in 0..length / MIB {
                fastrand::fill(&mut block);
                file.write_all(&block)?;
            }
            file.flush()
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(content)
    }

    fn file(&self) -> PathBuf {
        self.folder.join(NAME)
    }
}

/// What a seed has used so far.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    /// Processor time, user and system.
    pub(crate) cpu_seconds: f64,
    /// Bytes that came from a disk.
    pub(crate) disk_bytes: u64,
}

/// A seed that is running and takes peers.
pub(crate) struct Seed {
    pub(crate) which: Which,
    pub(crate) address: SocketAddr,
    running: Running,
}

enum Running {
    Node(Box<Node>),
    Libtorrent(libtorrent::Seed),
    Ceiling(Process),
}

impl Seed {
    /// Its process id; none of the bare server, whose memory nobody asks for.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.running {
            Running::Node(node) => Some(node.pid()),
            Running::Libtorrent(seed) => Some(seed.pid()),
            Running::Ceiling(_) => None,
        }
    }

    /// What it has used so far.
    pub(crate) fn spent(&self) -> Result<Spent> {
        match (self.pid(), &self.running) {
            (None, Running::Ceiling(process)) => {
                let cpu_seconds = process.cpu_ticks()? as f64 / ticks_per_second()?;
                Ok(Spent { cpu_seconds, disk_bytes: 0 })
            }
            (Some(pid), _) => Ok(Spent {
                cpu_seconds: cpu_seconds(pid)?,
                disk_bytes: field(&format!("/proc/{pid}/io"), "read_bytes:")?,
            }),
            (None, _) => bail!("{} has no process", self.which),
        }
    }

    /// Starts it anew on what it has, when it is the node.
    pub(crate) fn restart(&mut self) {
        if let Running::Node(node) = &mut self.running {
            node.restart();
            self.address = node.peers()[0];
        }
    }
}

/// Starts a node, has it hold the content, and asks it for the torrent.
pub(crate) fn node(content: &Content, data: &Path, memory_tier: u64) -> Result<(Seed, Torrent)> {
    let peers = 2 * idle::PEERS;
    let node = Node::with_origin(&format!("file://{}", content.folder.display()))
        .data_dir(data)
        .set("node", "workers", 2)
        .text("log", "level", "warn")
        .set("store", "capacity_bytes", 4 * content.length)
        .set("store", "pinned_bytes", 2 * content.length)
        .set("store", "memory_tier_bytes", memory_tier)
        .set("superpeer", "enabled", true)
        .set("superpeer", "listen", json!(["127.0.0.1:0"]))
        // A thread of its own, which sleeps while nobody comes that way.
        .set("superpeer", "utp", true)
        .set("superpeer", "max_connections", peers)
        .set("superpeer", "max_connections_per_address", peers)
        .set("superpeer", "max_handshakes", peers)
        .start();
    let asked = json!({ "site": "default", "path": format!("/{NAME}") }).to_string();
    let held: Value = wait_for("the node to hold the content", HOLD, || {
        // It goes on when the answer takes too long, and is asked again.
        match node.try_admin("POST", "/resources", asked.as_bytes()) {
            Ok(answer) if answer.status == 200 => Ok(Some(serde_json::from_slice(&answer.body)?)),
            Ok(answer) if answer.status != 409 => bail!("the node does not hold it: {}", answer.text()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => bail!("the node is gone"),
            _ => Ok(None),
        }
    })?;
    let id = held["id"].as_str().context("the node names no resource")?;
    let answer = node.get(&format!("/.skerry/v1/resources/{id}.torrent"));
    ensure!(answer.status == 200, "the node makes no torrent: {}", answer.text());
    let seed = Seed { which: Which::Node, address: node.peers()[0], running: Running::Node(Box::new(node)) };
    Ok((seed, Torrent::read(answer.body)))
}

/// Starts libtorrent; it reads and hashes the content first.
pub(crate) fn libtorrent(content: &Content, torrent: &Torrent) -> Seed {
    start_libtorrent(content, torrent, &json!({ "listen": ["127.0.0.1:0"] }))
}

/// The same, for peers that come over uTP and for no others.
pub(crate) fn libtorrent_over_utp(content: &Content, torrent: &Torrent) -> Seed {
    start_libtorrent(content, torrent, &json!({ "listen": ["127.0.0.1:0"], "utp": true, "tcp": false }))
}

fn start_libtorrent(content: &Content, torrent: &Torrent, more: &Value) -> Seed {
    let seed = libtorrent::Seed::start(&[torrent], &content.folder, more);
    Seed { which: Which::Libtorrent, address: seed.addresses()[0], running: Running::Libtorrent(seed) }
}

/// Starts the bare server.
pub(crate) fn ceiling(content: &Content, torrent: &Torrent, scratch: &Path) -> Result<Seed> {
    let mut process = Process::start(
        "bt_ceiling",
        Command::new(env!("CARGO_BIN_EXE_bt_ceiling"))
            .arg(content.file())
            .arg(torrent.piece_length().to_string()),
        scratch.join("ceiling.log"),
    )?;
    let address = wait_for("the bare server to listen", START, || {
        process.ensure_running()?;
        let said = process.output()?;
        // Absent or half written: not there yet.
        let line = said.lines().next().and_then(|line| serde_json::from_str::<Value>(line).ok());
        Ok(line.and_then(|line| line["address"].as_str()?.parse().ok()))
    })?;
    Ok(Seed { which: Which::Ceiling, address, running: Running::Ceiling(process) })
}
