//! BitTorrent peers that others wrote: aria2, Transmission and libtorrent. Each fetches what an
//! [`Order`] names into a folder of its own, and by peer wire alone: web seeds are taken out of the
//! torrent, and peer exchange is off, and so are the DHT and local discovery unless they are asked for.
//!
//! aria2 and Transmission are those of Debian 13, in the tree that `SKERRY_PEERS` names, since the older ones
//! of Debian 12 stumble over hybrid torrents. Three things that they cannot do, so that nobody looks for them in
//! the node:
//! - Of a hybrid they make use of version 1, and they know no torrent of version 2 alone.
//! - Transmission takes no peer on loopback. [`address`] is one that it takes.
//! - aria2 always begins with an encrypted handshake, and only tries another when that is refused.

mod aria2;
pub mod libtorrent;
pub mod swarm;
pub mod torrent;
mod transmission;

use std::ffi::OsStr;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::content;
use crate::process::clean;
use crate::wait;

use libtorrent::Report;
use swarm::Swarm;
use torrent::Torrent;

/// How long a client may take when an order says nothing else. Transmission takes a quarter of a
/// minute for the smallest file.
const BOUND: Duration = Duration::from_secs(60);

/// How long a client may take to end after it was told to, or after its own bound.
const END: Duration = Duration::from_secs(20);

/// Ports for the clients that cannot be given port 0, below those that the kernel gives out.
const PORTS: (u16, u16) = (20_000, 32_000);

/// Where a client leaves what it fetched, in its folder.
const DOWNLOADS: &str = "downloads";

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// `aria2c`.
    Aria2,
    /// `transmission-cli`.
    Transmission,
    /// libtorrent, by its Python binding.
    Libtorrent,
}

/// What a client does about message stream encryption (BEP 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// As the client does by itself.
    Any,
    /// None, where the client can do without (aria2 cannot).
    Off,
    /// An encrypted handshake, with content in clear (Transmission then encrypts content too).
    Handshake,
    /// Everything encrypted, or nothing comes.
    Rc4,
}

/// A kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An address of this machine that is not on loopback; on a machine without one, one that is added
/// to the loopback interface, which takes root, and stays there.
#[track_caller]
pub fn address(family: Family) -> IpAddr {
    let (name, spare) = match family {
        Family::V4 => ("inet", "198.18.79.1/32"),
        Family::V6 => ("inet6", "fd53:6b65:7272:79::1/128"),
    };
    let find = || -> Option<IpAddr> {
        let output = Command::new("ip").args(["-json", "address", "show", "scope", "global", "up"]).output();
        let links: Value =
            serde_json::from_slice(&output.expect("ip of iproute2 runs").stdout).unwrap_or_default();
        let addresses = links.as_array()?.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
        addresses
            .filter(|address| address["family"] == name && address["tentative"] != true)
            .find_map(|address| address["local"].as_str()?.parse().ok())
    };
    find().unwrap_or_else(|| {
        // Another scenario may be adding it too: what counts is that it is there.
        let _ = Command::new("ip").args(["address", "replace", spare, "dev", "lo"]).output();
        wait::value("an address that is not on loopback", END, find)
    })
}

/// What is to be fetched.
#[derive(Clone, Debug)]
enum Source {
    Torrent(Torrent),
    Magnet(String),
}

/// What a client is to fetch, from where and how.
#[derive(Clone, Debug)]
pub struct Order {
    source: Source,
    peers: Vec<SocketAddr>,
    trackers: Vec<String>,
    dht: Vec<SocketAddr>,
    local: bool,
    encryption: Encryption,
    uploads: bool,
    utp: bool,
    second_version: bool,
    address: Option<IpAddr>,
    bound: Duration,
}

impl Order {
    /// All of a torrent. Trackers and web seeds that it names are not used.
    pub fn torrent(torrent: &Torrent) -> Self {
        Self::new(Source::Torrent(torrent.clone()))
    }

    /// All of what a magnet link names. It should name no tracker and no web seed.
    pub fn magnet(link: &str) -> Self {
        Self::new(Source::Magnet(link.to_owned()))
    }

    fn new(source: Source) -> Self {
        Self {
            source,
            peers: Vec::new(),
            trackers: Vec::new(),
            dht: Vec::new(),
            local: false,
            encryption: Encryption::Any,
            uploads: true,
            utp: false,
            second_version: false,
            address: None,
            bound: BOUND,
        }
    }

    /// From these peers, of whom libtorrent is told and the others ask a tracker of the kit.
    pub fn with_peers(mut self, peers: &[SocketAddr]) -> Self {
        self.peers.extend(peers);
        self
    }

    /// From the peers that this tracker tells of.
    pub fn found_by(mut self, tracker: &str) -> Self {
        self.trackers.push(tracker.to_owned());
        self
    }

    /// From the peers that are found in the DHT which these nodes are in (BEP 5); libtorrent alone.
    pub fn found_in_dht(mut self, nodes: &[SocketAddr]) -> Self {
        self.dht.extend(nodes);
        self
    }

    /// From the peers that are heard of on the local network (BEP 14); libtorrent alone, and not on
    /// loopback.
    pub fn found_locally(mut self) -> Self {
        self.local = true;
        self
    }

    /// With this much encryption.
    pub fn encryption(mut self, encryption: Encryption) -> Self {
        self.encryption = encryption;
        self
    }

    /// Uploads nothing. aria2 takes no limit below a byte per second.
    pub fn uploads_nothing(mut self) -> Self {
        self.uploads = false;
        self
    }

    /// Over uTP instead of TCP; libtorrent alone.
    pub fn over_utp(mut self) -> Self {
        self.utp = true;
        self
    }

    /// Calls a hybrid torrent by its version 2 info-hash; libtorrent alone.
    pub fn by_second_version(mut self) -> Self {
        self.second_version = true;
        self
    }

    /// Binds to this address instead of loopback; libtorrent alone, since the others bind to all.
    pub fn bound_to(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Gives up after so long.
    pub fn within(mut self, bound: Duration) -> Self {
        self.bound = bound;
        self
    }

    /// Writes the torrent for the client, or makes the magnet link, with these trackers: what to name
    /// on its command line.
    fn written(&self, folder: &Path, trackers: &[String]) -> String {
        match &self.source {
            Source::Torrent(torrent) => {
                let path = folder.join("order.torrent");
                std::fs::write(&path, torrent.found_by(trackers).bytes()).expect("the torrent is written");
                path.to_string_lossy().into_owned()
            }
            Source::Magnet(link) => {
                let trackers = trackers.iter().flat_map(|url| ["&tr=", url.as_str()]);
                std::iter::once(link.as_str()).chain(trackers).collect()
            }
        }
    }
}

impl Client {
    /// Fetches, to the end.
    #[track_caller]
    pub fn fetch(self, order: &Order) -> Outcome {
        self.start(order).end()
    }

    /// Begins to fetch.
    #[track_caller]
    pub fn start(self, order: &Order) -> Fetch {
        let folder = tempfile::Builder::new().prefix("skerry-peer-").tempdir().expect("a folder for a peer");
        std::fs::create_dir(folder.path().join(DOWNLOADS)).expect("a folder for downloads");
        let mut trackers = order.trackers.clone();
        let swarm = (self != Self::Libtorrent && !order.peers.is_empty()).then(|| Swarm::of(&order.peers));
        trackers.extend(swarm.iter().map(Swarm::url));
        let source = order.written(folder.path(), &trackers);
        let mut command = match self {
            Self::Aria2 => aria2::command(order, &source, &trackers, folder.path()),
            Self::Transmission => transmission::command(order, &source, folder.path()),
            Self::Libtorrent => libtorrent::fetch(order, &source, folder.path()),
        };
        let file = |name| File::create(folder.path().join(name)).expect("a file in the peer's folder");
        command.stdout(file("stdout")).stderr(file("stderr"));
        Fetch {
            client: self,
            child: started(&mut command),
            command,
            again: self == Self::Transmission,
            swarm,
            started: Instant::now(),
            bound: order.bound,
            folder: Some(folder),
        }
    }
}

/// A client at work. Dropping it kills it.
pub struct Fetch {
    client: Client,
    child: Child,
    command: Command,
    /// Whether it is started once more when it ends without anything: `transmission-cli` ends when its
    /// torrent is stopped, and that is for a moment what has just got its metadata by a magnet link.
    again: bool,
    swarm: Option<Swarm>,
    started: Instant,
    bound: Duration,
    folder: Option<TempDir>,
}

impl Fetch {
    /// Waits until it has everything, or has given up, and ends it.
    #[track_caller]
    pub fn end(mut self) -> Outcome {
        let folder = self.folder.take().expect("it has not ended yet");
        let mut ended = None;
        while ended.is_none() && self.started.elapsed() < self.bound + END {
            ended = self.child.try_wait().expect("the peer is our child");
            if self.client == Client::Transmission
                && (transmission::finished(folder.path()) || self.started.elapsed() > self.bound)
            {
                break;
            }
            if ended.is_some() && self.again {
                self.again = false;
                self.child = started(&mut self.command);
                ended = None;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let seconds = self.started.elapsed().as_secs_f64();
        if ended.is_none() {
            // What Transmission still holds in memory is written on its way out.
            transmission::interrupt(self.child.id());
            ended = wait_for(&mut self.child, END);
        }
        let read = |name| {
            let bytes = std::fs::read(folder.path().join(name)).expect("the peer's output");
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (stdout, stderr) = (read("stdout"), read("stderr"));
        let mut outcome = Outcome {
            client: self.client,
            complete: ended.is_some_and(|status| status.success()),
            seconds,
            bytes_up: None,
            verified: None,
            libtorrent: None,
            output: format!("{}{}", stdout.replace('\r', "\n"), stderr),
            folder,
        };
        match self.client {
            Client::Aria2 => {
                let last = self.swarm.as_ref().and_then(|swarm| swarm.announces().pop());
                outcome.bytes_up = last.map(|last| last.uploaded);
                outcome.verified = aria2::verified(outcome.folder.path());
            }
            Client::Transmission => {
                outcome.complete = transmission::finished(outcome.folder.path());
                outcome.bytes_up = transmission::uploaded(outcome.folder.path());
            }
            Client::Libtorrent => {
                let report = serde_json::from_str::<Report>(&stdout).ok();
                outcome.complete = report.as_ref().is_some_and(|report| report.complete);
                outcome.bytes_up = report.as_ref().map(|report| report.bytes_up);
                outcome.verified = report.as_ref().map(|report| report.piece_hash_ok);
                outcome.libtorrent = report;
            }
        }
        outcome
    }
}

fn started(command: &mut Command) -> Child {
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", command.get_program().to_string_lossy()))
}

impl Drop for Fetch {
    fn drop(&mut self) {
        // Both fail only for a process that has already been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a client fared.
#[derive(Debug)]
pub struct Outcome {
    /// Which it was.
    pub client: Client,
    /// Whether it says that it has everything.
    pub complete: bool,
    /// How long it took until then, or until it gave up.
    pub seconds: f64,
    /// The content bytes that it says it has sent to others, where it says.
    pub bytes_up: Option<u64>,
    /// Whether every piece was right when it hashed what it has on the disk once more. Transmission
    /// cannot be asked, aria2 only about a torrent.
    pub verified: Option<bool>,
    /// What only libtorrent tells.
    pub libtorrent: Option<Report>,
    /// What it wrote to its standard output and error.
    pub output: String,
    folder: TempDir,
}

impl Outcome {
    /// A file that it fetched, by its path in the torrent; `None` when it is not there.
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        std::fs::read(self.folder.path().join(DOWNLOADS).join(path)).ok()
    }

    /// Panics, with what the client wrote, unless it has everything and this file is as expected.
    #[track_caller]
    pub fn has(&self, path: &str, expected: &[u8]) {
        let what = format!("{path} by {:?}", self.client);
        assert!(self.complete, "{what} is not complete after {:.1} s:\n{}", self.seconds, self.output);
        assert_ne!(self.verified, Some(false), "{what} has wrong pieces:\n{}", self.output);
        let got = self.file(path).unwrap_or_else(|| panic!("{what} is not there:\n{}", self.output));
        content::assert_same(&what, &got, expected);
    }

    /// Libtorrent's report. Panics when another client, or none, has written it.
    #[track_caller]
    pub fn report(&self) -> &Report {
        self.libtorrent.as_ref().unwrap_or_else(|| panic!("no report by {:?}:\n{}", self.client, self.output))
    }
}

/// A command in the client's folder, without what may lead it to a proxy or to somebody's settings.
fn command(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = clean(program);
    for name in ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    command.current_dir(folder).env("HOME", folder).env("LC_ALL", "C.UTF-8");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The same of a program in the tree of Debian 13, which is run with the libraries of that tree.
fn newer(program: &str, folder: &Path) -> Command {
    let tree = std::env::var_os("SKERRY_PEERS");
    let tree = tree.expect("SKERRY_PEERS names the tree of clients, as `make setup-test` makes it");
    let tree = Path::new(&tree);
    let mut command = command(tree.join("lib64/ld-linux-x86-64.so.2"), folder);
    command.arg("--library-path").arg(tree.join("usr/lib/x86_64-linux-gnu"));
    command.arg(tree.join("usr/bin").join(program));
    command
}

/// Waits until a child has ended, and kills it when it has not within `bound`.
fn wait_for(child: &mut Child, bound: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    while started.elapsed() < bound {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    // Fails only for a process that has already been waited for.
    let _ = child.kill();
    let _ = child.wait();
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_its_trackers_and_no_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let trackers = ["http://a/announce".to_owned(), "udp://b".to_owned()];
        let order = Order::magnet("magnet:?xt=urn:btih:00");
        let link = order.written(folder.path(), &trackers);
        assert_eq!(link, "magnet:?xt=urn:btih:00&tr=http://a/announce&tr=udp://b");

        let torrent = Torrent::read(b"d8:announce8:http://c4:infod4:name1:fe8:url-list8:http://we".to_vec());
        let path = Order::torrent(&torrent).written(folder.path(), &trackers);
        let written = Torrent::read(std::fs::read(path).expect("a torrent"));
        assert_eq!(written.trackers(), trackers);
        assert!(written.web_seeds().is_empty());
    }
}
