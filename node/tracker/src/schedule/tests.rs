//! Who is named to whom, by the built-in verdict.

use std::sync::Arc;

use parking_lot::Mutex;
use skerry_wire::tracker::compact;

use super::*;
use crate::super_peers::SuperPeer;
use crate::swarm::{Kind, Peer};

const HASH: [u8; 20] = [1; 20];

/// A fleet that remembers how many copies it was asked for.
#[derive(Default)]
struct Fleet(Mutex<Vec<u32>>);

impl SuperPeers for Fleet {
    fn of(&self, _: &[u8; 20], _: bool) -> Option<Arc<Held>> {
        None
    }

    fn region(&self, _: IpAddr) -> Region {
        Region::default()
    }

    fn distance_us(&self, from: u32, to: u32) -> u32 {
        from.abs_diff(to) * 50_000 + 1000
    }

    fn more_copies(&self, _: &[u8; 20], copies: u32) {
        self.0.lock().push(copies);
    }
}

fn node(address: &str, region: u32) -> SuperPeer {
    SuperPeer {
        address: address.parse().unwrap(),
        place: Region { region, isp: 0 },
        used_kbps: 0,
        capacity_kbps: 1_000_000,
        health: 1000,
        held: 1000,
    }
}

fn peer(address: &str, region: u32) -> Entry<[u8; 4]> {
    let endpoint: SocketAddr = address.parse().unwrap();
    let peer = Peer { endpoint, kind: Kind::Leeching, held: 5, tag: 1, region: Region { region, isp: 0 } };
    Entry::new(&peer, <[u8; 4]>::of(endpoint.ip()).unwrap(), 0)
}

fn asker(region: u32, wanted: usize) -> Asker<'static> {
    let endpoint = "192.0.2.200:1".parse().unwrap();
    let place = Region { region, isp: 0 };
    Asker { info_hash: &HASH, endpoint, place, have: 1, wanted, downloading: 3 }
}

fn named(fleet: &Fleet, asker: &Asker<'_>, held: Option<&Held>, peers: &[Entry<[u8; 4]>]) -> Vec<String> {
    let scheduler = Scheduler::new(None, 10);
    let (mut desk, mut random, mut out) = (Desk::default(), Rng::with_seed(1), Vec::new());
    let tally = Tally::default();
    let now = Duration::ZERO;
    let count = scheduler.name(fleet, asker, held, peers, &mut desk, &mut random, now, &tally, &mut out);
    let named: Vec<String> = compact::v4(&out).map(|peer| peer.to_string()).collect();
    assert_eq!(named.len(), count);
    named
}

#[test]
fn without_anything_to_prefer_peers_come_as_drawn() {
    let peers = [peer("192.0.2.1:1", 0), peer("192.0.2.2:1", 0), peer("192.0.2.3:1", 0)];
    let fleet = Fleet::default();
    assert_eq!(named(&fleet, &asker(0, 2), None, &peers), ["192.0.2.1:1", "192.0.2.2:1"]);
    assert!(named(&fleet, &asker(0, 2), None, &[]).is_empty());
    assert!(named(&fleet, &asker(4, 2), None, &[]).is_empty());
}

#[test]
fn near_super_peers_come_first_and_nobody_twice() {
    let held = Held {
        length: 1 << 20,
        rows: vec![node("198.51.100.2:6881", 2), node("198.51.100.1:6881", 1), node("192.0.2.200:1", 1)],
    };
    let peers = [peer("192.0.2.1:1", 2), peer("198.51.100.1:6881", 1), peer("192.0.2.2:1", 1)];
    let fleet = Fleet::default();
    let all = named(&fleet, &asker(1, 50), Some(&held), &peers);
    assert_eq!(all, ["198.51.100.1:6881", "198.51.100.2:6881", "192.0.2.2:1", "192.0.2.1:1"]);
    assert_eq!(named(&fleet, &asker(1, 1), Some(&held), &peers), ["198.51.100.1:6881"]);
    // Nobody knows where it is; super-peers come first all the same.
    let all = named(&fleet, &asker(0, 50), Some(&held), &peers);
    assert!(all[..2].iter().all(|name| name.ends_with(":6881")), "{all:?}");
    assert!(fleet.0.lock().is_empty());
}

#[test]
fn a_region_alone_orders_peers() {
    let peers: Vec<_> = (1..=9).map(|last| peer(&format!("192.0.2.{last}:1"), last % 3)).collect();
    let near = named(&Fleet::default(), &asker(2, 50), None, &peers);
    let mut first = near[..3].to_vec();
    first.sort_unstable();
    assert_eq!(first, ["192.0.2.2:1", "192.0.2.5:1", "192.0.2.8:1"]);
}

#[test]
fn a_crowd_asks_for_more_copies() {
    let held = Held { length: 1 << 20, rows: vec![node("198.51.100.1:6881", 1)] };
    let fleet = Fleet::default();
    let crowd = Asker { downloading: 100_000, ..asker(1, 50) };
    assert_eq!(named(&fleet, &crowd, Some(&held), &[]).len(), 1);
    assert_eq!(fleet.0.lock().len(), 1);
}

#[test]
fn a_verdict_without_opinion_names_who_is_up() {
    // The verdict names no node that fails; one of another family cannot be named here at all.
    let failing = SuperPeer { health: 300, ..node("198.51.100.1:6881", 1) };
    let down = SuperPeer { health: 0, ..node("198.51.100.2:6881", 1) };
    let held =
        Held { length: 1 << 20, rows: vec![down, failing, SuperPeer { health: 300, ..node("[::1]:1", 1) }] };
    let idle = Asker { downloading: 0, ..asker(1, 50) };
    assert_eq!(named(&Fleet::default(), &idle, Some(&held), &[]), ["198.51.100.1:6881"]);
    // Who is complete has nothing to get.
    let complete = Asker { have: 1000, ..idle };
    assert!(named(&Fleet::default(), &complete, Some(&held), &[]).is_empty());
}

#[test]
fn very_many_super_peers_are_cut_to_those_that_are_near() {
    let rows: Vec<SuperPeer> = (0..500u32)
        .map(|number| node(&format!("198.51.{}.{}:1", number / 200, number % 200 + 1), 1 + number % 10))
        .collect();
    let held = Held { length: 1, rows };
    let mut cut = Vec::new();
    near_first(&held, &asker(3, 50), &mut Rng::with_seed(5), &mut cut);
    assert_eq!(cut.len(), MOST_SUPER_PEERS);
    assert!(cut[..50].iter().all(|row| held.rows[*row].place.region == 3));
    assert!(cut[50..].iter().all(|row| held.rows[*row].place.region != 3));
}

#[test]
fn calls_are_paced_by_the_second() {
    let mut pace = Pace::default();
    let calls = |pace: &mut Pace, ms| (0..5).filter(|_| pace.admits(Duration::from_millis(ms), 3)).count();
    assert_eq!((calls(&mut pace, 100), calls(&mut pace, 900), calls(&mut pace, 1000)), (3, 0, 3));
    pace.idle_until = Duration::from_secs(3);
    assert_eq!((calls(&mut pace, 2900), calls(&mut pace, 3000)), (0, 3));
}

#[test]
fn shares_are_told_of_length_or_guessed() {
    assert_eq!(share(Some(0), 0, 0), 1000);
    assert_eq!(share(Some(250), 0, 1000), 750);
    assert_eq!(share(Some(1000), 0, 1000), 1);
    assert_eq!(share(Some(1), 0, u64::MAX), 999);
    assert_eq!(share(Some(100), 300, 0), 750);
    assert_eq!(share(Some(u64::MAX), u64::MAX, 5), 500);
    assert_eq!(share(Some(5), 0, 0), 1);
    assert_eq!(share(None, 77, 1000), 1);
}

#[test]
fn clients_of_a_prefix_are_one() {
    let scheduler = Scheduler::new(None, 1);
    let client = |address: &str| scheduler.client(address.parse().unwrap());
    assert_eq!(client("192.0.2.1"), client("192.0.2.254"));
    assert_ne!(client("192.0.2.1"), client("192.0.3.1"));
    assert_eq!(client("2001:db8:0:ff::1"), client("2001:db8:0:1::"));
    assert_ne!(client("2001:db8:0:100::1"), client("2001:db8::1"));
}
