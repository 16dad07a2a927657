//! Swarms as peers see them.

use std::net::SocketAddr;

use super::*;
use crate::super_peers::Region;

const HASH: [u8; 20] = [7; 20];
const LIMITS: Limits = Limits {
    torrents: 1000,
    peers: 10_000,
    peers_per_torrent: 5000,
    peers_per_source: 0,
    peers_per_source_and_torrent: 0,
    timeout: 100,
};

struct World {
    swarms: Swarms,
    random: Rng,
    found: Found,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self { swarms: Swarms::new(limits), random: Rng::with_seed(1), found: Found::default() }
    }

    fn told(&mut self, announce: &Announce<'_>, now: u32) -> Option<Full> {
        self.swarms.announce(announce, now, &mut self.random, &mut self.found)
    }

    fn comes(&mut self, endpoint: &str, kind: Kind, now: u32) -> Option<Full> {
        self.told(&from(endpoint, kind), now)
    }

    /// Endpoints of the last answer, sorted.
    fn named(&self) -> Vec<String> {
        let four = self.found.v4.iter().map(|peer| peer.endpoint().to_string());
        let six = self.found.v6.iter().map(|peer| peer.endpoint().to_string());
        let mut named: Vec<String> = four.chain(six).collect();
        named.sort_unstable();
        named
    }
}

fn from(endpoint: &str, kind: Kind) -> Announce<'static> {
    let endpoint: SocketAddr = endpoint.parse().unwrap();
    let peer = Peer { endpoint, kind, held: 5, tag: 1, region: Region::default() };
    Announce {
        info_hash: &HASH,
        peer,
        leaves: false,
        completed: false,
        held: false,
        trusted: false,
        wanted: 50,
        wanted_other: 0,
    }
}

#[test]
fn leechers_are_told_of_all_and_seeds_of_leechers() {
    let mut world = World::new(LIMITS);
    world.comes("192.0.2.1:1", Kind::Seeding, 0);
    assert!(world.named().is_empty());
    world.comes("192.0.2.2:1", Kind::Leeching, 0);
    assert_eq!(world.named(), ["192.0.2.1:1"]);
    world.comes("192.0.2.3:1", Kind::Paused, 0);
    assert_eq!(world.named(), ["192.0.2.2:1"]);
    world.comes("192.0.2.1:1", Kind::Seeding, 0);
    assert_eq!(world.named(), ["192.0.2.2:1"]);
    world.comes("192.0.2.2:1", Kind::Leeching, 0);
    assert_eq!(world.named(), ["192.0.2.1:1", "192.0.2.3:1"]);
    let counts = Counts { complete: 1, incomplete: 2, downloaders: 1, downloaded: 0 };
    assert_eq!((world.found.counts, world.swarms.scrape(&HASH)), (counts, counts));
    assert_eq!(world.swarms.scrape(&[9; 20]), Counts::default());
}

#[test]
fn a_download_is_counted_once() {
    let mut world = World::new(LIMITS);
    world.comes("192.0.2.1:1", Kind::Leeching, 0);
    for _ in 0..3 {
        world.told(&Announce { completed: true, ..from("192.0.2.1:1", Kind::Seeding) }, 1);
        assert_eq!(world.found.counts.downloaded, 1);
    }
    // Who was never seen downloading did not complete here.
    world.told(&Announce { completed: true, ..from("192.0.2.2:1", Kind::Seeding) }, 1);
    assert_eq!(world.found.counts.downloaded, 1);
}

#[test]
fn who_leaves_is_gone_and_nobody_else_can_make_it_leave() {
    let mut world = World::new(LIMITS);
    world.comes("192.0.2.1:1", Kind::Leeching, 0);
    let mut other = Announce { leaves: true, wanted: 0, ..from("192.0.2.1:1", Kind::Leeching) };
    other.peer.tag = 2;
    world.told(&other, 1);
    assert_eq!(world.swarms.totals(), Totals { torrents: 1, v4: 1, v6: 0 });
    other.peer.tag = 1;
    world.told(&other, 1);
    // Nor is there a swarm without a peer.
    assert_eq!(world.swarms.totals(), Totals::default());
    world.told(&Announce { info_hash: &[8; 20], ..other }, 1);
    assert_eq!(world.swarms.totals().torrents, 0);
}

#[test]
fn families_are_kept_apart_and_both_can_be_told() {
    let mut world = World::new(LIMITS);
    for (endpoint, kind) in [
        ("192.0.2.1:1", Kind::Leeching),
        ("[2001:db8::1]:1", Kind::Leeching),
        ("[2001:db8::2]:1", Kind::Seeding),
    ] {
        world.comes(endpoint, kind, 0);
    }
    world.comes("192.0.2.9:1", Kind::Leeching, 0);
    assert_eq!(world.named(), ["192.0.2.1:1"]);
    // Two entries of two clients with both addresses are not four clients.
    let counts = Counts { complete: 1, incomplete: 2, downloaders: 2, downloaded: 0 };
    assert_eq!(world.found.counts, counts);
    world.told(&Announce { wanted_other: 9, ..from("192.0.2.9:1", Kind::Leeching) }, 0);
    assert_eq!(world.named(), ["192.0.2.1:1", "[2001:db8::1]:1", "[2001:db8::2]:1"]);
    world.told(&Announce { wanted_other: 9, ..from("[2001:db8::1]:1", Kind::Seeding) }, 0);
    assert_eq!(world.named(), ["192.0.2.1:1", "192.0.2.9:1"]);
    let families = world.swarms.families(&HASH).unwrap();
    assert_eq!((families.v4.incomplete, families.v6.complete), (2, 2));
    assert_eq!(world.swarms.totals(), Totals { torrents: 1, v4: 2, v6: 2 });
}

#[test]
fn private_addresses_stay_among_themselves() {
    let mut world = World::new(LIMITS);
    world.comes("10.0.0.1:1", Kind::Leeching, 0);
    world.comes("192.0.2.1:1", Kind::Leeching, 0);
    assert!(world.named().is_empty());
    world.comes("10.0.0.2:1", Kind::Leeching, 0);
    assert_eq!(world.named(), ["10.0.0.1:1", "192.0.2.1:1"]);
}

#[test]
fn limits_hold_and_the_refused_are_answered() {
    let limits = Limits { torrents: 2, peers: 5, peers_per_torrent: 3, ..LIMITS };
    let mut world = World::new(limits);
    for number in 1..=3 {
        assert_eq!(world.comes(&format!("192.0.2.{number}:1"), Kind::Leeching, 0), None);
    }
    assert_eq!(world.comes("192.0.2.4:1", Kind::Leeching, 0), Some(Full::Torrent));
    assert_eq!((world.named().len(), world.found.counts.incomplete), (3, 3));
    // Who is there already stays.
    assert_eq!(world.comes("192.0.2.1:1", Kind::Leeching, 0), None);
    let other = |number: u8, hash: &'static [u8; 20]| Announce {
        info_hash: hash,
        ..from(&format!("192.0.2.{number}:1"), Kind::Leeching)
    };
    assert_eq!(world.told(&other(1, &[1; 20]), 0), None);
    assert_eq!(world.told(&other(1, &[2; 20]), 0), Some(Full::Torrents));
    assert_eq!(world.told(&other(2, &[1; 20]), 0), None);
    assert_eq!(world.told(&other(3, &[1; 20]), 0), Some(Full::Peers));
    assert_eq!(world.swarms.totals(), Totals { torrents: 2, v4: 5, v6: 0 });
}

/// An info-hash that somebody made up.
fn made_up(number: u32) -> [u8; 20] {
    let mut hash = [9; 20];
    hash[..4].copy_from_slice(&number.to_le_bytes());
    hash
}

#[test]
fn a_source_fills_its_part_and_gets_it_back() {
    let mut world = World::new(Limits { peers_per_source: 100, ..LIMITS });
    for (source, other) in [("192.0.2.1:1", "192.0.2.2:1"), ("[2001:db8::1]:1", "[2001:db8:0:1::1]:1")] {
        let before = world.swarms.totals();
        for number in 0..200 {
            let hash = made_up(number);
            let full = world.told(&Announce { info_hash: &hash, ..from(source, Kind::Seeding) }, 0);
            assert_eq!(full, (number >= 88).then_some(Full::Source), "{source} {number}");
        }
        // No swarm was made for what was not remembered, and others are none the worse.
        assert!(world.swarms.totals().torrents <= before.torrents + 88);
        assert_eq!(world.comes(other, Kind::Leeching, 0), None);
        // What it has announced stays, and who leaves makes room.
        let hash = made_up(5);
        let again = Announce { info_hash: &hash, ..from(source, Kind::Seeding) };
        assert_eq!(world.told(&again, 0), None);
        assert_eq!(world.comes(source, Kind::Leeching, 0), Some(Full::Source));
        world.told(&Announce { leaves: true, ..again }, 0);
        assert_eq!(world.comes(source, Kind::Leeching, 0), None);
        assert_eq!(world.told(&again, 0), Some(Full::Source));
        // More where the fleet holds the torrent, and all to who is trusted.
        for number in 200..212 {
            let hash = made_up(number);
            let held = Announce { held: true, info_hash: &hash, ..from(source, Kind::Seeding) };
            assert_eq!(world.told(&held, 0), None);
        }
        assert_eq!(world.told(&Announce { held: true, ..again }, 0), Some(Full::Source));
        assert_eq!(world.told(&Announce { trusted: true, ..again }, 0), None);
    }
    (0..Swarms::SWEEPS).for_each(|_| world.swarms.sweep(101));
    assert_eq!(world.swarms.totals(), Totals::default());
    for number in 0..88 {
        let hash = made_up(number);
        assert_eq!(
            world.told(&Announce { info_hash: &hash, ..from("192.0.2.1:1", Kind::Seeding) }, 101),
            None
        );
    }
}

#[test]
fn a_source_is_no_more_than_a_part_of_a_swarm() {
    let mut world = World::new(Limits { peers_per_source_and_torrent: 60, ..LIMITS });
    for (source, other) in [("192.0.2.1", "192.0.2.2"), ("[2001:db8::1]", "[2001:db8:0:1::1]")] {
        for port in 1..=80 {
            let full = world.comes(&format!("{source}:{port}"), Kind::Leeching, 0);
            assert_eq!(full, (port > 60).then_some(Full::SourceTorrent), "{source}:{port}");
            assert_eq!(world.comes(&format!("{other}:{port}"), Kind::Seeding, 0).is_none(), port <= 60);
        }
        // What has come stays, has its place in other swarms, and leaves it to another when it goes.
        let (last, more) = (format!("{source}:60"), format!("{source}:61"));
        assert_eq!(world.comes(&last, Kind::Seeding, 0), None);
        let elsewhere = Announce { info_hash: &[1; 20], ..from(&more, Kind::Leeching) };
        assert_eq!(world.told(&elsewhere, 0), None);
        world.told(&Announce { leaves: true, ..from(&last, Kind::Seeding) }, 0);
        assert_eq!(world.comes(&more, Kind::Leeching, 0), None);
        assert_eq!(world.comes(&last, Kind::Leeching, 0), Some(Full::SourceTorrent));
        // The fleet's torrents have no more of it, and who is trusted has no limit.
        let held = Announce { held: true, ..from(&last, Kind::Leeching) };
        assert_eq!(world.told(&held, 0), Some(Full::SourceTorrent));
        assert_eq!(world.told(&Announce { trusted: true, ..held }, 0), None);
    }
    (0..Swarms::SWEEPS).for_each(|_| world.swarms.sweep(101));
    assert_eq!(world.swarms.totals(), Totals::default());
    // Those that fell silent are not counted any more.
    for port in 1..=60 {
        assert_eq!(world.comes(&format!("192.0.2.1:{port}"), Kind::Leeching, 101), None);
        assert_eq!(world.comes(&format!("192.0.2.3:{port}"), Kind::Leeching, 101), None);
    }
}

#[test]
fn who_comes_and_goes_leaves_no_swarms() {
    let mut world = World::new(LIMITS);
    for number in 0..5000 {
        let hash = made_up(number);
        let comes = Announce { info_hash: &hash, ..from("192.0.2.1:1", Kind::Leeching) };
        assert_eq!(world.told(&comes, 0), None);
        world.told(&Announce { leaves: true, ..comes }, 0);
    }
    assert_eq!(world.swarms.totals(), Totals::default());
}

#[test]
fn strangers_leave_room_for_what_the_fleet_holds() {
    let mut world = World::new(Limits { torrents: 80, peers: 160, ..LIMITS });
    let mut fill = |most: u32, held, begin: u32, full| {
        for number in begin..begin + most + 5 {
            let hash = made_up(number);
            let endpoint = format!("192.0.2.{}:1", number % 250);
            let announce = Announce { info_hash: &hash, held, ..from(&endpoint, Kind::Seeding) };
            assert_eq!(world.told(&announce, 0), (number >= begin + most).then_some(full), "{number}");
        }
        world.swarms.totals().torrents
    };
    assert_eq!(fill(70, false, 0, Full::Torrents), 70);
    assert_eq!(fill(10, true, 1000, Full::Torrents), 80);
    // Peers alike, in swarms that are there.
    let hash = made_up(0);
    let more = |port: u16, held| {
        let mut announce = Announce { info_hash: &hash, held, ..from("198.51.100.1:1", Kind::Seeding) };
        announce.peer.endpoint.set_port(port);
        announce
    };
    for port in 1..=60 {
        assert_eq!(world.told(&more(port, false), 0), None);
    }
    assert_eq!(world.told(&more(61, false), 0), Some(Full::Peers));
    for port in 61..=80 {
        assert_eq!(world.told(&more(port, true), 0), None);
    }
    assert_eq!(world.told(&more(81, true), 0), Some(Full::Peers));
}

#[test]
fn the_silent_are_swept_and_their_memory_is_given_back() {
    let mut world = World::new(Limits { torrents: 10_000, ..LIMITS });
    for number in 0..3000u32 {
        let mut hash = [0; 20];
        hash[..4].copy_from_slice(&number.to_le_bytes());
        let kept = number % 3 == 0;
        for endpoint in ["192.0.2.1:1", "[2001:db8::1]:1"] {
            let announce = Announce { info_hash: &hash, ..from(endpoint, Kind::Seeding) };
            assert_eq!(world.told(&announce, if kept { 90 } else { 10 }), None);
        }
    }
    assert_eq!(world.swarms.totals(), Totals { torrents: 3000, v4: 3000, v6: 3000 });
    let sweep = |world: &World, now| (0..Swarms::SWEEPS).for_each(|_| world.swarms.sweep(now));
    sweep(&world, 110);
    assert_eq!(world.swarms.totals().torrents, 3000);
    sweep(&world, 111);
    assert_eq!(world.swarms.totals(), Totals { torrents: 1000, v4: 1000, v6: 1000 });
    sweep(&world, 500);
    assert_eq!((world.swarms.totals(), world.swarms.memory()), (Totals::default(), 0));
}

#[test]
fn a_peer_takes_at_most_100_bytes() {
    let limits = Limits { torrents: 1 << 20, peers: 1 << 21, peers_per_torrent: 1 << 20, ..LIMITS };
    let mut world = World::new(limits);
    // As in the catalogue of a public tracker: a few large swarms, very many with one or two peers.
    let mut random = Rng::with_seed(3);
    for _ in 0..200_000 {
        let rank = (100_000f64.powf(random.f64()) - 1.0) as u32;
        let mut hash = [0; 20];
        hash[..8].copy_from_slice(&u64::from(rank).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        let endpoint = SocketAddr::from(([198, 18, random.u8(..), random.u8(..)], random.u16(1..)));
        let mut announce = Announce { info_hash: &hash, wanted: 0, ..from("192.0.2.1:1", Kind::Leeching) };
        announce.peer.endpoint = endpoint;
        announce.peer.kind = if random.bool() { Kind::Seeding } else { Kind::Leeching };
        world.told(&announce, 0);
    }
    let totals = world.swarms.totals();
    let each = world.swarms.memory() / totals.v4;
    assert!(totals.torrents > 30_000 && each <= 100, "{each} bytes each, {totals:?}");
}
