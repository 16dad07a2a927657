//! Packets, good and bad.

use std::net::Ipv4Addr;

use fastrand::Rng;
use skerry_wire::tracker::{Counts, Event};

use super::udp::{Announce, Request, Response};
use super::*;
use crate::config::TrackerConfig;
use crate::tracker::tests::tracker;

const NOW: Duration = Duration::from_secs(1000);

struct Client {
    server: Server,
    out: Vec<u8>,
}

impl Client {
    fn new(change: impl FnOnce(&mut TrackerConfig)) -> Self {
        Self { server: Server::new(tracker(change), Arc::default()), out: Vec::new() }
    }

    fn send(&mut self, request: &Request<'_>, from: &str) -> Option<Response<'_>> {
        let mut packet = Vec::new();
        request.write(&mut packet);
        let answered = self.server.answer(&packet, from.parse().unwrap(), NOW, &mut self.out);
        answered.then(|| Response::parse(&self.out).unwrap())
    }

    fn connect(&mut self, from: &str) -> u64 {
        match self.send(&Request::Connect { transaction: 1 }, from) {
            Some(Response::Connect { transaction: 1, connection }) => connection,
            other => panic!("{other:?}"),
        }
    }

    /// Length of the peers in the answer, and the counts before them.
    fn announce(&mut self, announce: &Announce<'_>, from: &str) -> (usize, u32, u32) {
        let connection = self.connect(from);
        let request = Request::Announce { connection, transaction: 2, announce: announce.clone() };
        match self.send(&request, from) {
            Some(Response::Announce { transaction: 2, interval: 900, leechers, seeders, peers }) => {
                (peers.len(), leechers, seeders)
            }
            other => panic!("{other:?}"),
        }
    }
}

fn announce(port: u16, left: u64) -> Announce<'static> {
    Announce {
        info_hash: [3; 20],
        peer_id: [4; 20],
        downloaded: 0,
        left,
        uploaded: 0,
        event: Event::Started,
        address: Ipv4Addr::UNSPECIFIED,
        key: 5,
        wanted: None,
        port,
        options: b"\x02\x09/announce",
    }
}

#[test]
fn announces_are_answered_in_the_family_of_their_packet() {
    let mut client = Client::new(|_| {});
    assert_eq!(client.announce(&announce(1, 5), "192.0.2.1:9"), (0, 1, 0));
    assert_eq!(client.announce(&announce(1, 0), "[2001:db8::1]:9"), (0, 1, 1));
    assert_eq!(client.announce(&announce(1, 5), "[2001:db8::2]:9"), (compact::V6, 1, 1));
    assert_eq!(client.announce(&announce(2, 5), "192.0.2.1:9"), (compact::V4, 2, 1));
    assert_eq!(client.announce(&announce(2, 5), "[::ffff:192.0.2.1]:9"), (compact::V4, 2, 1));
}

#[test]
fn answers_fit_a_packet() {
    let mut client = Client::new(|config| {
        config.max_wanted = 1000;
        config.max_peers_per_source_and_torrent = 0;
    });
    let all = Announce { wanted: Some(5000), ..announce(1, 5) };
    let (mut four, mut six) = (0, 0);
    for port in 1..=500 {
        four = client.announce(&Announce { port, ..all.clone() }, "192.0.2.1:9").0;
        assert!(client.out.len() <= MOST_ANSWER);
        six = client.announce(&Announce { port, ..all.clone() }, "[2001:db8::1]:9").0;
        assert!(client.out.len() <= MOST_ANSWER);
    }
    assert_eq!((four, six), (230 * compact::V4, 76 * compact::V6));
}

#[test]
fn nobody_gets_an_answer_for_another_address() {
    let mut client = Client::new(|_| {});
    let connection = client.connect("192.0.2.1:9");
    let request = Request::Announce { connection, transaction: 2, announce: announce(1, 5) };
    assert_eq!(client.send(&request, "192.0.2.2:9"), None);
    assert_eq!(client.server.tracker.totals().v4, 0);
    // Another socket of the same client.
    assert!(client.send(&request, "192.0.2.1:10").is_some());
    let scrape = Request::Scrape { connection: 0, transaction: 2, hashes: &[[3; 20]] };
    assert_eq!(client.send(&scrape, "192.0.2.1:9"), None);
    assert_eq!(client.send(&Request::Connect { transaction: 1 }, "192.0.2.1:0"), None);
}

#[test]
fn an_announced_address_counts_from_who_is_trusted() {
    let mut client = Client::new(|config| config.trusted = vec!["192.0.2.0/24".parse().unwrap()]);
    let named = Announce { address: Ipv4Addr::new(203, 0, 113, 9), ..announce(1, 5) };
    client.announce(&named, "192.0.2.1:9");
    assert_eq!(client.announce(&announce(1, 5), "198.51.100.1:9"), (compact::V4, 2, 0));
    assert_eq!(client.out[udp::ANNOUNCE_HEAD..], [203, 0, 113, 9, 0, 1]);
}

#[test]
fn refusals_are_said() {
    let mut client = Client::new(|config| config.open = false);
    let connection = client.connect("192.0.2.1:9");
    for (port, message) in [(0, "port 0 takes no connections"), (1, "this tracker does not know the torrent")]
    {
        let request = Request::Announce { connection, transaction: 2, announce: announce(port, 5) };
        let expected = Response::Error { transaction: 2, message: message.as_bytes() };
        assert_eq!(client.send(&request, "192.0.2.1:9"), Some(expected));
    }
}

#[test]
fn scrapes_tell_of_swarms_in_their_order() {
    let mut client = Client::new(|_| {});
    client.announce(&announce(1, 5), "192.0.2.1:9");
    client.announce(&Announce { event: Event::Completed, ..announce(1, 0) }, "192.0.2.1:9");
    let connection = client.connect("192.0.2.1:9");
    let hashes = [[9; 20], [3; 20]];
    let Some(Response::Scrape { transaction: 2, rows }) =
        client.send(&Request::Scrape { connection, transaction: 2, hashes: &hashes }, "192.0.2.1:9")
    else {
        panic!("no scrape")
    };
    let one = Counts { complete: 1, incomplete: 0, downloaders: 0, downloaded: 1 };
    assert_eq!(rows.iter().map(udp::counts).collect::<Vec<_>>(), [Counts::default(), one]);
}

#[test]
fn hostile_packets_do_no_harm() {
    let mut client = Client::new(|config| {
        (config.max_torrents, config.max_peers, config.max_peers_per_torrent) = (500, 2000, 1000);
    });
    let mut random = Rng::with_seed(11);
    let sources: [SocketAddr; 3] =
        ["192.0.2.1:9", "10.0.0.1:1", "[2001:db8::1]:9"].map(|text| text.parse().unwrap());
    let ids = ["192.0.2.1:9", "10.0.0.1:1", "[2001:db8::1]:9"].map(|from| client.connect(from));
    let mut packet = Vec::new();
    let (mut answered, mut silent) = (0, 0);
    for _ in 0..150_000 {
        packet.clear();
        let who = random.usize(0..3);
        let hashes = [[random.u8(..); 20]; 5];
        match random.u8(0..4) {
            0 => packet.extend((0..random.usize(0..200)).map(|_| random.u8(..))),
            1 => Request::Connect { transaction: random.u32(..) }.write(&mut packet),
            2 => Request::Scrape { connection: ids[who], transaction: 1, hashes: &hashes }.write(&mut packet),
            _ => {
                let mut announce = announce(random.u16(..), random.u64(..) >> random.u32(0..64));
                announce.info_hash = hashes[0];
                announce.wanted = Some(random.u32(..) >> random.u32(1..32));
                announce.downloaded = random.u64(..) >> random.u32(0..64);
                announce.key = random.u32(..);
                Request::Announce { connection: ids[who], transaction: 1, announce }.write(&mut packet);
            }
        }
        // Some are cut, some longer, some have bytes changed.
        if random.bool() && !packet.is_empty() {
            for _ in 0..random.usize(0..4) {
                let at = random.usize(0..packet.len());
                packet[at] = random.u8(..);
            }
            if random.u8(0..8) == 0 {
                packet.truncate(random.usize(0..packet.len()));
            }
        }
        let before = packet.len();
        if client.server.answer(&packet, sources[who], NOW, &mut client.out) {
            answered += 1;
            assert!(client.out.len() <= MOST_ANSWER && Response::parse(&client.out).is_ok());
            assert!(client.out.len() <= 16 || before >= 36, "{before} bytes were answered with more");
        } else {
            silent += 1;
            assert!(client.out.is_empty());
        }
    }
    assert!(answered > 50_000 && silent > 30_000, "{answered} answered, {silent} not");
    let totals = client.server.tracker.totals();
    assert!(totals.torrents <= 500 && totals.v4 + totals.v6 <= 2000, "{totals:?}");
    assert!(totals.v4 > 0 && totals.v6 > 0, "{totals:?}");
}
