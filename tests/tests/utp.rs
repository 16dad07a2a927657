//! Peers over uTP (BEP 29): libtorrent without TCP gets what a node holds, and what opens streams and says
//! nothing is in nobody's way.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skerry_tests::node::{Node, NodeBuilder};
use skerry_tests::origin::Origin;
use skerry_tests::peers::torrent::Torrent;
use skerry_tests::peers::{Client, Encryption, Fetch, Order};
use skerry_tests::reply::Reply;
use skerry_tests::{content, wait};

/// No whole number of chunks, pieces or blocks.
const LENGTH: usize = 5_000_001;

const NAME: &str = "film.bin";

/// How long the node may take for an answer.
const BOUND: Duration = Duration::from_secs(10);

fn film() -> Vec<u8> {
    content::bytes(41, 0, LENGTH)
}

/// A node that holds a film.
struct Served {
    node: Node,
    _origin: Origin,
    torrent: Torrent,
    /// As handshakes name it, by v1 and by v2.
    info_hashes: [Vec<u8>; 2],
}

impl Served {
    fn with(more: impl FnOnce(NodeBuilder) -> NodeBuilder) -> Self {
        let origin = Origin::start();
        origin.serve_rest(|_| Reply::ok(film()).etag("one").ranges().fresh());
        let listen = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), SocketAddr::from((Ipv6Addr::LOCALHOST, 0))];
        let node = Node::in_front_of(&origin).set("superpeer", "enabled", true).set(
            "superpeer",
            "listen",
            json!(listen),
        );
        let node = more(node).start();
        let answer = node.admin_post("/resources", &json!({"site": "default", "path": format!("/{NAME}")}));
        assert_eq!(answer.status / 100, 2, "{}", answer.text());
        let held: Value = serde_json::from_slice(&answer.body).expect("the answer is JSON");
        let text = |key: &str| held[key].as_str().unwrap_or_else(|| panic!("no {key} in {held}"));
        let torrent = node.get(&format!("/.skerry/v1/resources/{}.torrent", text("id")));
        assert_eq!(torrent.status, 200, "{}", torrent.text());
        let named = |key: &str| {
            let hex = text(key);
            let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
            (0..40).step_by(2).map(byte).collect()
        };
        let info_hashes = [named("info_hash_v1"), named("info_hash_v2")];
        let torrent = Torrent::read(torrent.body);
        Self { torrent, info_hashes, node, _origin: origin }
    }

    fn over_utp() -> Self {
        Self::with(|node| node.set("superpeer", "utp", true))
    }

    fn metric(&self, name: &str) -> f64 {
        self.node.metric(name, &[])
    }
}

/// A stream of uTP that sends a packet at a time, and hears packets that come in their order.
struct Stream {
    socket: UdpSocket,
    /// What the other side's packets have; its own have the next.
    id: u16,
    sent: u16,
    heard: u16,
}

const DATA: u8 = 0;
const FIN: u8 = 1;
const STATE: u8 = 2;
const SYN: u8 = 4;

impl Stream {
    /// Opens a stream, and does not say anything yet; `None` when nobody answers.
    fn open(to: SocketAddr, bound: Duration) -> Option<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP port");
        socket.connect(to).expect("an address to send to");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a time limit");
        let id = socket.local_addr().expect("an address").port();
        let mut stream = Self { socket, id, sent: 0, heard: 0 };
        stream.packet(SYN, id, b"");
        let (kind, number, _) = stream.next(bound)?;
        assert_eq!(kind, STATE);
        stream.heard = number.wrapping_sub(1);
        Some(stream)
    }

    fn packet(&mut self, kind: u8, id: u16, bytes: &[u8]) {
        if kind != STATE {
            self.sent = self.sent.wrapping_add(1);
        }
        let mut packet = vec![kind << 4 | 1, 0];
        packet.extend(id.to_be_bytes());
        // Times, and a window of a MiB.
        packet.extend([0; 8]);
        packet.extend((1_u32 << 20).to_be_bytes());
        packet.extend(self.sent.to_be_bytes());
        packet.extend(self.heard.to_be_bytes());
        packet.extend(bytes);
        // Nobody may listen.
        let _ = self.socket.send(&packet);
    }

    fn say(&mut self, bytes: &[u8]) {
        self.packet(DATA, self.id.wrapping_add(1), bytes);
    }

    /// The next packet's kind, number and content.
    fn next(&self, bound: Duration) -> Option<(u8, u16, Vec<u8>)> {
        let (started, mut packet) = (Instant::now(), [0; 2048]);
        while started.elapsed() < bound {
            let Ok(length) = self.socket.recv(&mut packet) else { continue };
            assert!(length >= 20 && packet[0] & 0xf == 1, "{:?}", &packet[..length]);
            assert_eq!(packet[2..4], self.id.to_be_bytes());
            let (mut extension, mut at) = (packet[1], 20);
            while extension != 0 {
                extension = packet[at];
                at += 2 + usize::from(packet[at + 1]);
            }
            let number = u16::from_be_bytes([packet[16], packet[17]]);
            return Some((packet[0] >> 4, number, packet[at..length].to_vec()));
        }
        None
    }

    /// What comes next, acknowledged; `None` at the end.
    fn hear(&mut self) -> Option<Vec<u8>> {
        loop {
            let (kind, number, bytes) = self.next(BOUND).expect("the node says something");
            let is_next = number == self.heard.wrapping_add(1);
            match kind {
                STATE => {}
                DATA | FIN => {
                    self.heard = if is_next { number } else { self.heard };
                    self.packet(STATE, self.id.wrapping_add(1), b"");
                    if is_next {
                        return (kind == DATA).then_some(bytes);
                    }
                }
                _ => panic!("a packet of kind {kind}"),
            }
        }
    }

    /// Says hello for a torrent; the torrent that the node answers with.
    fn greet(&mut self, info_hash: &[u8], reserved: [u8; 8]) -> Vec<u8> {
        let hello = [b"\x13BitTorrent protocol".as_slice(), &reserved, info_hash, b"-XX0001-abcdefghijkl"];
        self.say(&hello.concat());
        let mut heard = Vec::new();
        while heard.len() < 68 {
            heard.extend(self.hear().expect("the node answers"));
        }
        heard[28..48].to_vec()
    }
}

#[test]
fn libtorrent_fetches_without_tcp() {
    let served = Served::over_utp();
    let encryptions = [Encryption::Off, Encryption::Rc4];
    let mut begun: Vec<(SocketAddr, Encryption, Fetch)> = Vec::new();
    for peer in served.node.peers() {
        for encryption in encryptions {
            let order = Order::torrent(&served.torrent).with_peers(&[*peer]).encryption(encryption);
            begun.push((*peer, encryption, Client::Libtorrent.start(&order.over_utp())));
        }
    }
    assert_eq!(begun.len(), 4, "{:?}", served.node.peers());
    for (address, encryption, fetch) in begun {
        let outcome = fetch.end();
        outcome.has(NAME, &film());
        let report = outcome.report();
        assert_eq!(report.hash_failures, 0);
        assert_eq!(report.peers.len(), 1, "{:?}", report.peers);
        let peer = &report.peers[0];
        assert!(peer.utp && peer.address == address, "{peer:?}");
        assert_eq!(peer.rc4, encryption == Encryption::Rc4);
    }
    let taken = served.metric("skerry_superpeer_utp_accepted_total");
    assert!(taken >= 4.0, "{taken} peers came over uTP");
    assert_eq!(served.metric("skerry_superpeer_accepted_total"), taken);
    let sent = served.metric("skerry_superpeer_sent_bytes_total");
    assert!(sent >= (4 * LENGTH) as f64, "{sent} bytes were sent");
}

#[test]
fn tcp_is_served_beside_it_and_alone() {
    let [with, without] = [true, false].map(|utp| Served::with(|node| node.set("superpeer", "utp", utp)));
    for served in [&with, &without] {
        let order = Order::torrent(&served.torrent).with_peers(&served.node.peers()[..1]);
        Client::Libtorrent.fetch(&order).has(NAME, &film());
        assert_eq!(served.metric("skerry_superpeer_utp_accepted_total"), 0.0);
    }
    assert!(Stream::open(with.node.peers()[0], BOUND).is_some());
    assert!(Stream::open(without.node.peers()[0], Duration::from_millis(500)).is_none());
}

#[test]
fn who_opens_a_stream_and_says_nothing_takes_no_place() {
    let served =
        Served::with(|node| node.set("superpeer", "utp", true).set("superpeer", "max_handshakes", 1));
    let peer = served.node.peers()[0];
    let silent: Vec<Stream> = (0..8).map(|_| Stream::open(peer, BOUND).expect("an answer")).collect();
    let mut stream = Stream::open(peer, BOUND).expect("an answer");
    assert_eq!(stream.greet(&served.info_hashes[0], [0; 8]), served.info_hashes[0]);
    assert_eq!(served.metric("skerry_superpeer_utp_accepted_total"), 1.0);
    assert_eq!(served.metric("skerry_superpeer_connections"), 1.0);
    drop(silent);
}

#[test]
fn a_hybrid_torrent_is_answered_by_a_hash_that_the_peer_takes() {
    const TAKES_V2: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 0x10];
    let served = Served::over_utp();
    let [first, second] = &served.info_hashes;
    for (asked, reserved, answered) in [
        (first, [0; 8], first),
        (first, TAKES_V2, second),
        (second, [0; 8], second),
        (second, TAKES_V2, second),
    ] {
        let mut stream = Stream::open(served.node.peers()[0], BOUND).expect("an answer");
        assert_eq!(stream.greet(asked, reserved), *answered);
    }
}

#[test]
fn the_drain_ends_streams_too() {
    let mut served = Served::over_utp();
    let mut stream = Stream::open(served.node.peers()[0], BOUND).expect("an answer");
    stream.greet(&served.info_hashes[0], [0; 8]);
    wait::until("the peer to be there", BOUND, || served.metric("skerry_superpeer_connections") == 1.0);
    served.node.signal("TERM");
    while stream.hear().is_some() {}
    assert!(served.node.ended().success());
}
