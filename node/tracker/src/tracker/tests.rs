//! Announces, whatever way they came.

use parking_lot::Mutex;

use super::*;
use crate::super_peers::{NoSuperPeers, Region, SuperPeer};

/// A tracker without a fleet, and `change` made to its configuration.
pub(crate) fn tracker(change: impl FnOnce(&mut TrackerConfig)) -> Arc<Tracker> {
    with(Arc::new(NoSuperPeers), change)
}

fn with(super_peers: Arc<dyn SuperPeers>, change: impl FnOnce(&mut TrackerConfig)) -> Arc<Tracker> {
    let mut config = TrackerConfig::default();
    change(&mut config);
    config.check().unwrap();
    let parts = Parts { config, super_peers, policies: None, registry: &Registry::new() };
    Arc::new(Tracker::new(parts).unwrap())
}

/// One node that holds [`HELD`], in region 1, as all clients are whose addresses begin with 198.
#[derive(Default)]
struct Fleet(Mutex<u32>);

const HELD: [u8; 20] = [5; 20];

impl SuperPeers for Fleet {
    fn of(&self, info_hash: &[u8; 20], v6: bool) -> Option<Arc<Held>> {
        let address = if v6 { "[2001:db8::5]:6881" } else { "203.0.113.5:6881" };
        let node = SuperPeer {
            address: address.parse().unwrap(),
            place: Region { region: 1, isp: 7 },
            used_kbps: 0,
            capacity_kbps: 1_000_000,
            health: 1000,
            held: 1000,
        };
        (*info_hash == HELD).then(|| Arc::new(Held { length: 1000, rows: vec![node] }))
    }

    fn region(&self, client: IpAddr) -> Region {
        let near = matches!(client, IpAddr::V4(client) if client.octets()[0] == 198);
        if near { Region { region: 1, isp: 7 } } else { Region::default() }
    }

    fn more_copies(&self, _: &[u8; 20], copies: u32) {
        *self.0.lock() += copies;
    }
}

fn asked(source: &str, left: u64) -> Asked {
    Asked {
        info_hash: [1; 20],
        peer_id: *b"-SK0001-abcdefghijkl",
        key: 0,
        source: source.parse().unwrap(),
        named: None,
        port: 6881,
        event: Event::None,
        left: Some(left),
        downloaded: 0,
        wanted: None,
        room: usize::MAX,
        both: true,
        transport: Transport::Http,
    }
}

/// Endpoints that an announce is answered with, in their order.
fn answer(tracker: &Tracker, asked: &Asked) -> Vec<String> {
    let mut worker = tracker.worker(Some(1));
    tracker.announce(asked, Duration::from_secs(1), &mut worker).unwrap();
    let four = skerry_wire::tracker::compact::v4(&worker.peers);
    let six = skerry_wire::tracker::compact::v6(&worker.peers6);
    four.chain(six).map(|peer| peer.to_string()).collect()
}

#[test]
fn both_families_are_told_and_no_more_than_wanted() {
    let tracker = tracker(|_| {});
    for source in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"] {
        answer(&tracker, &asked(source, 5));
    }
    assert_eq!(answer(&tracker, &asked("192.0.2.3", 5)).len(), 4);
    let few = Asked { wanted: Some(3), ..asked("192.0.2.3", 5) };
    let named = answer(&tracker, &few);
    assert_eq!(named.len(), 3);
    assert_eq!(named.iter().filter(|name| name.starts_with('[')).count(), 1);
    assert_eq!(answer(&tracker, &Asked { room: 1, ..few }).len(), 1);
    assert_eq!(answer(&tracker, &Asked { both: false, ..few }), ["192.0.2.1:6881", "192.0.2.2:6881"]);
    assert!(answer(&tracker, &Asked { wanted: Some(0), ..few }).is_empty());
    // Packets of a socket for both families carry IPv4 addresses like this.
    let mapped = Asked { both: false, ..asked("::ffff:192.0.2.1", 5) };
    assert_eq!(answer(&tracker, &mapped), ["192.0.2.2:6881", "192.0.2.3:6881"]);
}

#[test]
fn a_client_is_told_of_near_super_peers_first() {
    let fleet = Arc::new(Fleet::default());
    let tracker = with(fleet.clone(), |_| {});
    let ask = |source: &str, left| Asked { info_hash: HELD, ..asked(source, left) };
    for source in ["192.0.2.1", "198.51.100.1", "2001:db8::1"] {
        answer(&tracker, &ask(source, 500));
    }
    let named = answer(&tracker, &ask("198.51.100.2", 500));
    assert_eq!(named[..2], ["203.0.113.5:6881", "198.51.100.1:6881"]);
    assert!(named.contains(&"[2001:db8::5]:6881".to_owned()), "{named:?}");
    // Who has everything is told of those that download, and of no super-peer.
    let named = answer(&tracker, &ask("198.51.100.3", 0));
    assert!(!named.is_empty() && !named.iter().any(|name| name.contains("5]:") || name.starts_with("203")));
    assert_eq!(*fleet.0.lock(), 0);
}

#[test]
fn who_leaves_gets_nothing_and_is_gone() {
    let tracker = tracker(|_| {});
    answer(&tracker, &asked("192.0.2.1", 5));
    answer(&tracker, &asked("192.0.2.2", 5));
    let leaves = Asked { event: Event::Stopped, ..asked("192.0.2.1", 5) };
    assert!(answer(&tracker, &Asked { key: 5, ..leaves }).is_empty());
    assert_eq!(tracker.totals().v4, 2);
    assert!(answer(&tracker, &leaves).is_empty());
    assert_eq!(tracker.totals().v4, 1);
}

#[test]
fn forged_addresses_are_passed_over() {
    let trusting = tracker(|config| config.trusted = vec!["192.0.2.0/24".parse().unwrap()]);
    let forged = |source| Asked { named: Some("203.0.113.9".parse().unwrap()), ..asked(source, 5) };
    answer(&trusting, &forged("198.51.100.1"));
    assert_eq!(answer(&trusting, &asked("198.51.100.2", 5)), ["198.51.100.1:6881"]);
    answer(&trusting, &forged("192.0.2.1"));
    let mut named = answer(&trusting, &asked("198.51.100.2", 5));
    named.sort_unstable();
    assert_eq!(named, ["198.51.100.1:6881", "203.0.113.9:6881"]);
}

#[test]
fn who_fills_the_tracker_keeps_nobody_from_what_the_fleet_holds() {
    let tracker = with(Arc::new(Fleet::default()), |config| {
        (config.max_torrents, config.max_peers_per_source) = (200, 100);
        config.trusted = vec!["198.18.0.0/15".parse().unwrap()];
    });
    let fill = |source: &str| {
        for number in 10..=255 {
            answer(&tracker, &Asked { info_hash: [number; 20], ..asked(source, 5) });
        }
        (tracker.totals().torrents, tracker.totals().v4)
    };
    assert_eq!(fill("192.0.2.1"), (88, 88));
    // Who is trusted has no limit as a source, and makes up no more than other strangers.
    assert_eq!(fill("198.18.0.1"), (175, 88 + 175));
    for port in 1..=20 {
        answer(&tracker, &Asked { info_hash: HELD, port, ..asked("192.0.2.1", 5) });
    }
    assert_eq!(tracker.totals(), Totals { torrents: 176, v4: 88 + 175 + 12, v6: 0 });
}

#[test]
fn what_is_refused_changes_nothing() {
    let closed = with(Arc::new(Fleet::default()), |config| config.open = false);
    let mut worker = closed.worker(None);
    let mut ask = |asked: &Asked| closed.announce(asked, Duration::ZERO, &mut worker).map(|_| ());
    assert_eq!(ask(&asked("192.0.2.1", 5)), Err(Refusal::Unknown));
    let held = Asked { info_hash: HELD, ..asked("192.0.2.1", 5) };
    assert_eq!(ask(&Asked { port: 0, ..held }), Err(Refusal::Port));
    assert_eq!(closed.totals(), Totals::default());
    assert_eq!(ask(&held), Ok(()));
    assert_eq!(closed.totals().v4, 1);
    assert_eq!(closed.settle(), 1);
}

#[test]
fn the_silent_are_forgotten_in_their_time() {
    let tracker = tracker(|config| (config.interval_seconds, config.peer_timeout_seconds) = (60, 100));
    answer(&tracker, &asked("192.0.2.1", 5));
    let sweep = |seconds| (0..Swarms::SWEEPS).for_each(|_| tracker.sweep(Duration::from_secs(seconds)));
    sweep(101);
    assert_eq!(tracker.totals().v4, 1);
    sweep(102);
    assert_eq!(tracker.totals(), Totals::default());
}
