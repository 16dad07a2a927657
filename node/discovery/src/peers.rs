//! Who was heard of lately, by torrent. Soft state, bounded every way; addresses that no peer can have, and
//! the node's own, are not taken.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::metrics::By;

/// Torrents that addresses are kept of.
const MOST_TORRENTS: usize = 4096;
/// Addresses kept of a torrent.
const MOST_ADDRESSES: usize = 64;

/// How long an address is good: neighbours announce every 5 minutes (BEP 14), and nodes of the DHT forget
/// who has said nothing for half an hour.
fn good_for(by: By) -> Duration {
    match by {
        By::Dht => Duration::from_secs(1800),
        By::Lsd => Duration::from_secs(900),
    }
}

/// What became of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// It is a peer's that was not known of.
    New,
    /// It is known already.
    Again,
    /// It is no peer's, or this node's.
    Refused,
}

/// Where this node takes peers.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// The listeners of its peer wire.
    pub listening: Vec<SocketAddr>,
    /// Whether peers may be on loopback: when the DHT is.
    pub loopback: bool,
}

impl Own {
    /// The port that peers are told of: that of the first listener of the address family which others
    /// reach. One on loopback is told of on loopback alone.
    pub fn port(&self, v6: bool, loopback: bool) -> Option<u16> {
        let mut fitting = self.listening.iter().filter(|address| address.is_ipv6() == v6);
        let reached = fitting.find(|address| loopback || !address.ip().is_loopback());
        reached.map(SocketAddr::port).filter(|port| *port > 0)
    }
}

/// Addresses by info-hash.
#[derive(Debug, Default)]
pub struct Peers {
    own: Own,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    torrents: HashMap<[u8; 20], Vec<Peer>>,
    /// This node, as the DHT sees it.
    public: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy)]
struct Peer {
    address: SocketAddr,
    until: Instant,
}

impl Peers {
    /// Nobody yet.
    pub fn new(own: Own) -> Self {
        Self { own, inner: Mutex::default() }
    }

    /// This node is seen at that address.
    pub fn seen_at(&self, address: Ipv4Addr) {
        self.inner.lock().public = Some(address);
    }

    /// Somebody says that a peer of a torrent is at that address.
    pub fn hear(&self, info_hash: [u8; 20], address: SocketAddr, by: By, now: Instant) -> Heard {
        let address = canonical(address);
        let mut inner = self.inner.lock();
        if !is_peer(address, by, self.own.loopback) || self.is_own(address, inner.public) {
            return Heard::Refused;
        }
        if inner.torrents.len() >= MOST_TORRENTS && !inner.torrents.contains_key(&info_hash) {
            inner.make_room(now);
        }
        let peers = inner.torrents.entry(info_hash).or_default();
        let until = now + good_for(by);
        if let Some(known) = peers.iter_mut().find(|peer| peer.address == address) {
            let is_good = known.until > now;
            known.until = known.until.max(until);
            return if is_good { Heard::Again } else { Heard::New };
        }
        if peers.len() >= MOST_ADDRESSES {
            peers.retain(|peer| peer.until > now);
        }
        if peers.len() >= MOST_ADDRESSES {
            let oldest = peers.iter().enumerate().min_by_key(|(_, peer)| peer.until);
            if let Some(at) = oldest.map(|(at, _)| at) {
                peers.swap_remove(at);
            }
        }
        peers.push(Peer { address, until });
        Heard::New
    }

    /// Who was heard of for a torrent, those that are good for longest first.
    pub fn of(&self, info_hash: &[u8; 20], now: Instant) -> Vec<SocketAddr> {
        let inner = self.inner.lock();
        let known = inner.torrents.get(info_hash).into_iter().flatten();
        let mut good: Vec<Peer> = known.filter(|peer| peer.until > now).copied().collect();
        drop(inner);
        good.sort_by_key(|peer| std::cmp::Reverse(peer.until));
        good.into_iter().map(|peer| peer.address).collect()
    }

    /// Forgets who is not good any more, and tells of how many torrents how many addresses are left.
    pub fn sweep(&self, now: Instant) -> (usize, usize) {
        let mut inner = self.inner.lock();
        inner.sweep(now);
        (inner.torrents.len(), inner.torrents.values().map(Vec::len).sum())
    }

    fn is_own(&self, address: SocketAddr, public: Option<Ipv4Addr>) -> bool {
        let ip = address.ip();
        self.own.listening.iter().any(|own| {
            let is_here = own.ip() == ip
                || public.is_some_and(|public| ip == public)
                || (own.ip().is_unspecified() && ip.is_loopback());
            own.port() == address.port() && is_here
        })
    }
}

impl Inner {
    fn sweep(&mut self, now: Instant) {
        self.torrents.retain(|_, peers| {
            peers.retain(|peer| peer.until > now);
            !peers.is_empty()
        });
    }

    /// Drops who is not good any more; when that leaves too many, the eighth of the torrents that were
    /// heard of longest ago, so that not every new one has all of them looked through.
    fn make_room(&mut self, now: Instant) {
        self.sweep(now);
        if self.torrents.len() < MOST_TORRENTS {
            return;
        }
        let latest = |peers: &Vec<Peer>| peers.iter().map(|peer| peer.until).max();
        let mut ages: Vec<_> = self.torrents.iter().map(|(hash, peers)| (latest(peers), *hash)).collect();
        let some = ages.len() / 8;
        let (oldest, _, _) = ages.select_nth_unstable(some);
        for (_, hash) in oldest.iter() {
            self.torrents.remove(hash);
        }
    }
}

/// IPv4 as IPv4, and nothing but what is needed to connect.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => SocketAddrV6::new(*v6.ip(), v6.port(), 0, v6.scope_id()).into(),
        },
        v4 => v4,
    }
}

/// Whether a peer can be there. Nodes of the DHT can name any address, so those that lead back to this
/// machine or stay on a link are not taken from them. Private ones are: a closed network has a DHT of its own.
fn is_peer(address: SocketAddr, by: By, loopback: bool) -> bool {
    let ip = address.ip();
    let is_host = match ip {
        IpAddr::V4(v4) => is_host_v4(v4) && (by == By::Lsd || !v4.is_link_local()),
        IpAddr::V6(v6) => is_host_v6(v6),
    };
    address.port() > 0 && is_host && (!ip.is_loopback() || (loopback && by == By::Dht))
}

/// Whether one host can have it (RFC 6890: neither "this network" nor reserved).
fn is_host_v4(ip: Ipv4Addr) -> bool {
    (1..240).contains(&ip.octets()[0]) && !ip.is_multicast()
}

fn is_host_v6(ip: Ipv6Addr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILM: [u8; 20] = [1; 20];

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn hash(number: usize) -> [u8; 20] {
        let mut hash = [0; 20];
        hash[..8].copy_from_slice(&number.to_be_bytes());
        hash
    }

    #[test]
    fn who_was_heard_of_is_remembered_for_a_while() {
        let (peers, start) = (Peers::default(), Instant::now());
        let later = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(peers.hear(FILM, at("192.0.2.1:1"), By::Lsd, start), Heard::New);
        assert_eq!(peers.hear(FILM, at("192.0.2.2:1"), By::Dht, start), Heard::New);
        assert_eq!(peers.hear(FILM, at("192.0.2.1:1"), By::Lsd, later(1)), Heard::Again);
        assert_eq!(peers.of(&FILM, later(2)), [at("192.0.2.2:1"), at("192.0.2.1:1")]);
        assert!(peers.of(&hash(7), later(2)).is_empty());
        assert_eq!(peers.of(&FILM, later(902)), [at("192.0.2.2:1")]);
        assert_eq!(peers.hear(FILM, at("192.0.2.1:1"), By::Lsd, later(902)), Heard::New);
        assert_eq!(peers.sweep(later(902)), (1, 2));
        assert_eq!(peers.sweep(later(1802)), (0, 0));
    }

    #[test]
    fn addresses_that_no_peer_can_have_are_refused() {
        let (peers, now) = (Peers::default(), Instant::now());
        for wrong in [
            "192.0.2.1:0",
            "0.0.0.0:1",
            "0.1.2.3:1",
            "127.0.0.1:1",
            "224.0.0.1:1",
            "239.192.152.143:6771",
            "240.0.0.1:1",
            "255.255.255.255:1",
            "[::]:1",
            "[::1]:1",
            "[ff15::efc0:988f]:1",
            "[::ffff:127.0.0.1]:1",
            "[2001:db8::1]:0",
        ] {
            for by in [By::Dht, By::Lsd] {
                assert_eq!(peers.hear(FILM, at(wrong), by, now), Heard::Refused, "{wrong}");
            }
        }
        // A link of its own is one that a neighbour may be on, and no stranger.
        assert_eq!(peers.hear(FILM, at("169.254.1.1:1"), By::Dht, now), Heard::Refused);
        assert_eq!(peers.hear(FILM, at("169.254.1.1:1"), By::Lsd, now), Heard::New);
        assert_eq!(peers.hear(FILM, at("[fe80::1%3]:1"), By::Lsd, now), Heard::New);
        assert_eq!(peers.hear(FILM, at("[::ffff:192.0.2.1]:1"), By::Lsd, now), Heard::New);
        assert!(peers.of(&FILM, now).contains(&at("192.0.2.1:1")));
        assert!(peers.of(&FILM, now).contains(&at("[fe80::1%3]:1")));
    }

    #[test]
    fn the_nodes_own_addresses_are_refused() {
        let own = |loopback| Own {
            listening: vec![at("0.0.0.0:6881"), at("192.0.2.1:7000"), at("[2001:db8::1]:7000")],
            loopback,
        };
        let (peers, now) = (Peers::new(own(true)), Instant::now());
        for address in ["192.0.2.1:7000", "[2001:db8::1]:7000", "127.0.0.1:6881"] {
            assert_eq!(peers.hear(FILM, at(address), By::Dht, now), Heard::Refused, "{address}");
        }
        assert_eq!(peers.hear(FILM, at("127.0.0.1:6882"), By::Dht, now), Heard::New);
        assert_eq!(peers.hear(FILM, at("127.0.0.1:6883"), By::Lsd, now), Heard::Refused);
        assert_eq!(peers.hear(FILM, at("198.51.100.1:6881"), By::Dht, now), Heard::New);
        peers.seen_at("198.51.100.7".parse().unwrap());
        assert_eq!(peers.hear(FILM, at("198.51.100.7:6881"), By::Dht, now), Heard::Refused);
        assert_eq!(peers.hear(FILM, at("198.51.100.7:6882"), By::Dht, now), Heard::New);
    }

    #[test]
    fn peers_are_told_of_the_port_that_they_reach() {
        let own = |listening: &[&str]| Own {
            listening: listening.iter().map(|text| at(text)).collect(),
            loopback: false,
        };
        let both = own(&["127.0.0.1:1", "0.0.0.0:2", "[::]:3"]);
        assert_eq!((both.port(false, false), both.port(true, false)), (Some(2), Some(3)));
        let here = own(&["127.0.0.1:1"]);
        assert_eq!((here.port(false, false), here.port(false, true)), (None, Some(1)));
        assert_eq!((here.port(true, true), own(&[]).port(false, true)), (None, None));
    }

    #[test]
    fn there_is_room_for_so_many_and_the_latest_stay() {
        let (peers, start) = (Peers::default(), Instant::now());
        for number in 0..2 * MOST_TORRENTS {
            let now = start + Duration::from_millis(number as u64);
            assert_eq!(peers.hear(hash(number), at("192.0.2.1:1"), By::Dht, now), Heard::New);
        }
        let now = start + Duration::from_secs(60);
        let (torrents, addresses) = peers.sweep(now);
        assert!((MOST_TORRENTS * 7 / 8..=MOST_TORRENTS).contains(&torrents), "{torrents}");
        assert_eq!(addresses, torrents);
        assert_eq!(peers.of(&hash(2 * MOST_TORRENTS - 1), now).len(), 1);
        assert!(peers.of(&hash(0), now).is_empty());

        for port in 1..1000 {
            let now = now + Duration::from_millis(u64::from(port));
            peers.hear(FILM, SocketAddr::from(([192, 0, 2, 1], port)), By::Lsd, now);
        }
        let known = peers.of(&FILM, now);
        assert_eq!(known.len(), MOST_ADDRESSES);
        assert_eq!(known[0].port(), 999);
    }
}
