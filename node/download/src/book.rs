//! Addresses: who was told of, who was tried, who is not to be tried again.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use skerry_wire::reach::Reach;

/// Addresses that are remembered.
const MOST: usize = 2000;
/// Addresses that were banned and are remembered.
const MOST_BANNED: usize = 4096;
/// First wait before an address is tried again; every further one is twice as long. Who has just been told of
/// may not be ready yet.
const FIRST_WAIT: Duration = Duration::from_secs(2);
/// Failures after which an address is forgotten: a quarter of an hour after the first.
const MOST_FAILURES: u32 = 10;

/// Who told of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A tracker, or whoever ordered the download.
    Told,
    /// A peer at this address.
    Peer(IpAddr),
}

/// How an address is tried. Each further way is for those that close the connection before they have said
/// anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Approach {
    /// The info-hash that the handshake names.
    pub(crate) wire: [u8; 20],
    /// Whether message stream encryption is offered.
    pub(crate) encrypted: bool,
}

#[derive(Debug)]
struct Entry {
    /// Place of the best info-hash that it was told of under.
    wire: usize,
    by_peer: bool,
    busy: bool,
    /// The way that comes next.
    way: usize,
    failures: u32,
    not_before: Duration,
}

/// All that is known of addresses.
#[derive(Debug)]
pub(crate) struct Book {
    entries: HashMap<SocketAddr, Entry>,
    banned: HashSet<SocketAddr>,
    /// Info-hashes that the torrent is known by, the best first.
    pub(crate) wires: Vec<[u8; 20]>,
    encryption: bool,
    /// Whether what trackers told of went before all else the last time.
    trackers_first: bool,
    random: fastrand::Rng,
}

impl Book {
    /// An empty one.
    pub(crate) fn new(wires: Vec<[u8; 20]>, encryption: bool, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let (entries, banned) = (HashMap::new(), HashSet::new());
        Self { entries, banned, wires, encryption, trackers_first: false, random }
    }

    /// Takes addresses that are said to have the torrent by one of its info-hashes.
    pub(crate) fn add(
        &mut self,
        addresses: impl IntoIterator<Item = SocketAddr>,
        wire: &[u8; 20],
        origin: Origin,
    ) {
        let wire = self.wires.iter().position(|other| other == wire).unwrap_or(0);
        for address in addresses {
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            if self.banned.contains(&address) || !is_usable(address, origin) {
                continue;
            }
            if let Some(known) = self.entries.get_mut(&address) {
                known.by_peer &= origin != Origin::Told;
                if wire < known.wire {
                    // One that is being tried by a worse one is tried by this one before it has failed.
                    (known.wire, known.way) = (wire, 0);
                }
                continue;
            }
            if self.entries.len() >= MOST && !self.make_room(origin) {
                continue;
            }
            let by_peer = origin != Origin::Told;
            let entry = Entry { wire, by_peer, busy: false, way: 0, failures: 0, not_before: Duration::ZERO };
            self.entries.insert(address, entry);
        }
    }

    /// Forgets what a peer told of, for a tracker's word.
    fn make_room(&mut self, origin: Origin) -> bool {
        let idle = |(_, entry): &(&SocketAddr, &Entry)| entry.by_peer && !entry.busy;
        let gone = match origin {
            Origin::Told => self.entries.iter().find(idle).map(|(address, _)| *address),
            Origin::Peer(_) => None,
        };
        gone.and_then(|gone| self.entries.remove(&gone)).is_some()
    }

    /// Whether only a peer told of an address.
    pub(crate) fn is_hearsay(&self, address: &SocketAddr) -> bool {
        self.entries.get(address).is_some_and(|entry| entry.by_peer)
    }

    /// Forgets all that only peers told of: the torrent is private.
    pub(crate) fn forget_told_by_peers(&mut self) {
        self.entries.retain(|_, entry| !entry.by_peer);
    }

    /// An address to try now, the one that failed least, every second time of those that trackers told of; it
    /// is busy from then on.
    pub(crate) fn next(&mut self, now: Duration) -> Option<(SocketAddr, Approach)> {
        self.trackers_first = !self.trackers_first;
        let (random, first) = (&mut self.random, self.trackers_first);
        let due = self.entries.iter_mut().filter(|(_, entry)| !entry.busy && entry.not_before <= now);
        let (address, entry) =
            due.min_by_key(|(_, entry)| (first && entry.by_peer, entry.failures, random.u32(..)))?;
        let ways = ways(self.wires.len(), self.encryption);
        let (other, encrypted) = *ways.get(entry.way)?;
        let wire = *self.wires.get((entry.wire + other) % self.wires.len())?;
        (entry.busy, entry.way) = (true, entry.way + 1);
        Some((*address, Approach { wire, encrypted }))
    }

    /// Whether there is an address to try now.
    pub(crate) fn has_next(&self, now: Duration) -> bool {
        self.entries.values().any(|entry| !entry.busy && entry.not_before <= now)
    }

    /// Whether there is somebody, tried or not, who has not failed since it was told of or was last of use.
    pub(crate) fn has_hope(&self) -> bool {
        self.entries.values().any(|entry| entry.failures == 0)
    }

    /// A connection was closed before the peer said anything: there may be another way.
    pub(crate) fn turned_away(&mut self, address: SocketAddr, now: Duration) {
        let ways = ways(self.wires.len(), self.encryption).len();
        match self.entries.get_mut(&address) {
            Some(entry) if entry.way < ways => (entry.busy, entry.not_before) = (false, now),
            _ => self.failed(address, now),
        }
    }

    /// A connection could not be made, or was of no use.
    pub(crate) fn failed(&mut self, address: SocketAddr, now: Duration) {
        let Some(entry) = self.entries.get_mut(&address) else { return };
        entry.failures += 1;
        if entry.failures >= MOST_FAILURES {
            self.entries.remove(&address);
            return;
        }
        let wait = FIRST_WAIT * (1 << (entry.failures - 1));
        (entry.busy, entry.way, entry.not_before) = (false, 0, now + wait);
    }

    /// A connection that was of use ended: what worked is tried again.
    pub(crate) fn left(&mut self, address: SocketAddr, now: Duration) {
        if let Some(entry) = self.entries.get_mut(&address) {
            (entry.busy, entry.way) = (false, entry.way.saturating_sub(1));
            (entry.failures, entry.not_before) = (0, now + FIRST_WAIT);
        }
    }

    /// An address is not tried again before then, whatever it has done.
    pub(crate) fn put_off(&mut self, address: SocketAddr, until: Duration) {
        if let Some(entry) = self.entries.get_mut(&address) {
            entry.not_before = entry.not_before.max(until);
        }
    }

    /// An address is not to be tried again.
    pub(crate) fn ban(&mut self, address: SocketAddr) {
        self.entries.remove(&address);
        if self.banned.len() < MOST_BANNED {
            self.banned.insert(address);
        }
    }

    /// Whether an address was banned.
    pub(crate) fn is_banned(&self, address: &SocketAddr) -> bool {
        self.banned.contains(address)
    }
}

/// The ways to try an address: which info-hash from its own on, and whether encrypted.
fn ways(wires: usize, encryption: bool) -> Vec<(usize, bool)> {
    let ways = [(0, false), (0, true), (1, false)];
    ways.into_iter().filter(|(other, encrypted)| (*other < wires) && (encryption || !encrypted)).collect()
}

/// Whether anybody can be there. A peer elsewhere does not get this side to knock on doors of its own
/// network.
fn is_usable(address: SocketAddr, origin: Origin) -> bool {
    let ip = address.ip();
    if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255; 4]) {
        return false;
    }
    match origin {
        Origin::Told => true,
        Origin::Peer(from) => Reach::of(ip) >= Reach::of(from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: [u8; 20] = [2; 20];
    const V1: [u8; 20] = [1; 20];

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn book() -> Book {
        Book::new(vec![V2, V1], true, 1)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn who_closes_at_once_is_tried_in_every_way_and_then_later() {
        let (mut book, peer) = (book(), at("192.0.2.1:6881"));
        book.add([peer], &V1, Origin::Told);
        for (wire, encrypted) in [(V1, false), (V1, true), (V2, false)] {
            assert_eq!(book.next(seconds(0)), Some((peer, Approach { wire, encrypted })));
            assert_eq!(book.next(seconds(0)), None, "it is busy");
            book.turned_away(peer, seconds(0));
        }
        assert_eq!(book.next(seconds(1)), None);
        let first = Approach { wire: V1, encrypted: false };
        assert_eq!(book.next(seconds(2)), Some((peer, first)));
        book.failed(peer, seconds(2));
        assert!(!book.has_next(seconds(5)) && book.has_next(seconds(6)));
        assert!(book.next(seconds(6)).is_some());
        assert!(!book.has_hope());
        book.left(peer, seconds(100));
        assert!(book.has_hope());
        assert!(!book.has_next(seconds(101)) && book.has_next(seconds(102)));
        (0..MOST_FAILURES).for_each(|_| book.failed(peer, seconds(200)));
        assert!(!book.has_next(seconds(1_000_000)) && !book.has_hope(), "it is forgotten");
    }

    #[test]
    fn an_address_that_never_answers_is_tried_less_and_less() {
        let (mut book, peer) = (book(), at("192.0.2.1:6881"));
        book.add([peer], &V2, Origin::Told);
        let mut tried = Vec::new();
        for second in 0..2000 {
            if book.next(seconds(second)).is_some() {
                tried.push(second);
                book.failed(peer, seconds(second));
            }
        }
        assert_eq!(tried, [0, 2, 6, 14, 30, 62, 126, 254, 510, 1022]);
    }

    #[test]
    fn the_better_info_hash_counts() {
        let (mut book, peer) = (book(), at("192.0.2.1:6881"));
        for wire in [V1, V2, V1] {
            book.add([peer], &wire, Origin::Told);
        }
        assert_eq!(book.next(seconds(0)).unwrap().1.wire, V2);
    }

    #[test]
    fn a_better_info_hash_is_tried_before_an_address_has_failed() {
        let (mut book, peer) = (book(), at("192.0.2.1:6881"));
        book.add([peer], &V1, Origin::Told);
        assert_eq!(book.next(seconds(0)).unwrap().1.wire, V1);
        book.add([peer], &V2, Origin::Told);
        assert_eq!(book.next(seconds(0)), None, "one connection at a time");
        book.turned_away(peer, seconds(0));
        assert_eq!(book.next(seconds(0)).unwrap().1, Approach { wire: V2, encrypted: false });
        assert!(book.has_hope());
    }

    #[test]
    fn the_way_that_worked_is_tried_first_and_may_be_put_off() {
        let (mut book, peer) = (book(), at("192.0.2.1:6881"));
        book.add([peer], &V2, Origin::Told);
        book.next(seconds(0));
        book.turned_away(peer, seconds(0));
        let worked = book.next(seconds(0));
        assert_eq!(worked, Some((peer, Approach { wire: V2, encrypted: true })));
        book.left(peer, seconds(0));
        book.put_off(peer, seconds(60));
        assert_eq!(book.next(seconds(59)), None);
        assert_eq!(book.next(seconds(60)), worked);
    }

    #[test]
    fn what_peers_tell_of_does_not_come_before_what_trackers_do() {
        let (mut book, peer) = (book(), at("192.0.2.1:6881"));
        book.add([peer], &V2, Origin::Told);
        assert!(book.next(seconds(0)).is_some());
        book.failed(peer, seconds(0));
        let others = (1..=200).map(|port| SocketAddr::from(([198, 51, 100, 1], port)));
        book.add(others, &V2, Origin::Peer(at("198.51.100.1:1").ip()));
        assert_ne!(book.next(seconds(0)).unwrap().0, peer, "it has to wait");
        assert_eq!(book.next(seconds(2)).unwrap().0, peer);
    }

    #[test]
    fn the_banned_do_not_come_back() {
        let (mut book, peer) = (book(), at("192.0.2.1:6881"));
        book.add([peer], &V1, Origin::Told);
        book.ban(peer);
        book.add([peer, at("[::ffff:192.0.2.1]:6881")], &V1, Origin::Told);
        assert!(book.is_banned(&peer) && !book.has_next(seconds(1000)));
    }

    #[test]
    fn peers_do_not_point_into_networks_that_they_are_not_in() {
        let usable = |address, from: &str| is_usable(at(address), Origin::Peer(from.parse().unwrap()));
        assert!(usable("127.0.0.1:22", "127.0.0.1") && usable("10.0.0.1:80", "192.168.1.1"));
        assert!(usable("198.51.100.1:80", "10.0.0.1") && usable("[2001:db8::1]:80", "198.51.100.1"));
        for inner in ["127.0.0.1:22", "10.0.0.1:80", "169.254.169.254:80", "[::1]:22", "[fd00::1]:22"] {
            assert!(!usable(inner, "198.51.100.1"), "{inner}");
            assert!(is_usable(at(inner), Origin::Told), "{inner}");
        }
        assert!(!usable("127.0.0.1:22", "10.0.0.1") && !usable("[::1]:22", "fd00::2"));
        for nobody in ["0.0.0.0:80", "192.0.2.1:0", "224.0.0.1:80", "[ff02::1]:80", "255.255.255.255:80"] {
            assert!(!is_usable(at(nobody), Origin::Told), "{nobody}");
        }
    }

    #[test]
    fn the_book_is_bounded_and_trackers_come_first() {
        let mut book = book();
        let many = |first: u8| {
            (0..=u16::MAX).map(move |n| SocketAddr::from(([first, 1, (n >> 8) as u8, n as u8], 9)))
        };
        let teller = Origin::Peer(at("198.51.100.1:1").ip());
        book.add(many(8), &V2, teller);
        assert_eq!(book.entries.len(), MOST);
        book.add(many(9).take(MOST), &V2, Origin::Told);
        assert!(book.entries.len() == MOST && book.entries.values().all(|entry| !entry.by_peer));
        book.add(many(10), &V2, teller);
        book.forget_told_by_peers();
        assert_eq!(book.entries.len(), MOST);
        many(11).for_each(|address| book.ban(address));
        assert_eq!(book.banned.len(), MOST_BANNED);
    }
}
