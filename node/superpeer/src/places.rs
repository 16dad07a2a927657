//! The peers of the node, and who of them is served: a door for each connection's task.

mod slow;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

pub(crate) use self::slow::{STRETCH, is_slow};
use crate::choke::{Wanting, choose};

/// Who wants nothing for so long may have to make room for somebody else.
const IDLE: Duration = Duration::from_secs(60);
/// After a look at everybody that found nobody idle, there is none for so long.
const LOOK: Duration = Duration::from_secs(1);
/// Peers at once that have been sent away to make room, and have not gone yet. So many may be too many.
const MOST_LEAVING: usize = 16;

/// One peer, as the others see it.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Counts connections from the start of the node.
    pub(crate) number: u64,
    /// Where it connected from.
    pub(crate) address: SocketAddr,
    /// Content bytes sent to it.
    pub(crate) sent: AtomicU64,
    /// Tells its task to look at [`Peer::is_served`], at its swarm, and whether it is to end.
    pub(crate) wake: Notify,
    closing: AtomicBool,
    makes_room: AtomicBool,
    cut: AtomicBool,
    turn: Mutex<Turn>,
}

#[derive(Debug)]
struct Turn {
    wants: bool,
    served: bool,
    /// When it began to be served, or to wait.
    since: Instant,
    /// [`Peer::sent`] then.
    sent: u64,
    /// When it last asked for something, or had something on its way.
    active: Instant,
    /// Since when it has not taken a [`STRETCH`] of what waits for it.
    behind: Option<Instant>,
}

impl Peer {
    /// Notes when the peer last asked for something, or had something on its way.
    pub(crate) fn active(&self, at: Instant) {
        self.turn.lock().active = at;
    }

    /// Since when it wants nothing, or is served and asks for nothing. Who waits for a place is not idle.
    fn idle_since(&self) -> Option<Instant> {
        let turn = self.turn.lock();
        let waits = turn.wants && !turn.served;
        (!waits).then(|| turn.since.max(turn.active))
    }

    /// Whether it is to end since others want its place.
    pub(crate) fn makes_room(&self) -> bool {
        self.makes_room.load(Relaxed)
    }

    /// Whether its requests are taken now.
    pub(crate) fn is_served(&self) -> bool {
        self.turn.lock().served
    }

    /// Whether it is to end.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Relaxed)
    }

    /// Ends it.
    pub(crate) fn close(&self) {
        self.closing.store(true, Relaxed);
        self.wake.notify_one();
    }

    /// Waits until it is to end, while its task has nothing else to be woken for.
    pub(crate) async fn closed(&self) {
        while !self.is_closing() {
            self.wake.notified().await;
        }
    }
}

/// How many peers there may be at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connected.
    pub(crate) peers: usize,
    /// Connected and not past the handshake.
    pub(crate) handshakes: usize,
    /// From one [`network`].
    pub(crate) per_network: usize,
    /// Served.
    pub(crate) served: usize,
}

/// All peers of the node, and the places at its table.
#[derive(Debug)]
pub(crate) struct Places {
    limits: Limits,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    peers: HashMap<u64, Arc<Peer>>,
    networks: HashMap<IpAddr, usize>,
    next: u64,
    handshakes: usize,
    wanting: usize,
    served: usize,
    /// Peers that make room.
    leaving: usize,
    /// No look for idle ones before that.
    look_again: Option<Instant>,
}

/// A peer's seat; leaves when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    places: Arc<Places>,
    /// The peer.
    pub(crate) peer: Arc<Peer>,
    is_greeted: bool,
}

impl Places {
    /// Nobody yet.
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, inner: Mutex::default() })
    }

    /// Takes a connection; `None` when there is no room for it. When all places are taken, the peer that is
    /// idle for longest makes room, if there is one.
    pub(crate) fn join(self: &Arc<Self>, address: SocketAddr, now: Instant) -> Option<Seat> {
        let mut inner = self.inner.lock();
        let from = network(address.ip());
        let count = inner.networks.get(&from).copied().unwrap_or(0);
        if inner.handshakes >= self.limits.handshakes || count >= self.limits.per_network {
            return None;
        }
        if inner.peers.len() - inner.leaving >= self.limits.peers && !inner.make_room(now) {
            return None;
        }
        inner.networks.insert(from, count + 1);
        inner.handshakes += 1;
        inner.next += 1;
        let peer = Arc::new(Peer {
            number: inner.next,
            address,
            sent: AtomicU64::new(0),
            wake: Notify::new(),
            closing: AtomicBool::new(false),
            makes_room: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            turn: Mutex::new(Turn {
                wants: false,
                served: false,
                since: now,
                sent: 0,
                active: now,
                behind: None,
            }),
        });
        inner.peers.insert(peer.number, peer.clone());
        Some(Seat { places: self.clone(), peer, is_greeted: false })
    }

    /// Peers connected, and those served.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.peers.len(), inner.served)
    }

    /// Gives the places anew, as [`choose`] says.
    pub(crate) fn round(&self, now: Instant) {
        let mut inner = self.inner.lock();
        let wanting: Vec<Wanting> = inner
            .peers
            .values()
            .filter_map(|peer| {
                let turn = peer.turn.lock();
                let time = now.saturating_duration_since(turn.since);
                turn.wants.then(|| Wanting {
                    peer: peer.number,
                    served: turn.served.then(|| (time, peer.sent.load(Relaxed) - turn.sent)),
                    waited: if turn.served { Duration::ZERO } else { time },
                })
            })
            .collect();
        let chosen: std::collections::HashSet<u64> =
            choose(&wanting, self.limits.served, || fastrand::u64(..)).into_iter().collect();
        inner.served = chosen.len();
        for peer in inner.peers.values() {
            let mut turn = peer.turn.lock();
            let served = chosen.contains(&peer.number);
            if served != turn.served {
                turn.change(served, peer, now);
            }
        }
    }

    /// Ends every peer.
    pub(crate) fn close(&self) {
        self.inner.lock().peers.values().for_each(|peer| peer.close());
    }
}

impl Inner {
    /// Sends the peer away that is idle for longest; false when nobody is.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.leaving >= MOST_LEAVING || self.look_again.is_some_and(|again| now < again) {
            return false;
        }
        let peers = self.peers.values().filter(|peer| !peer.is_closing());
        let idle = peers.filter_map(|peer| Some((peer.idle_since()?, peer)));
        let longest = idle.min_by_key(|(since, _)| *since);
        match longest.filter(|(since, _)| now.saturating_duration_since(*since) > IDLE) {
            Some((_, peer)) => {
                peer.makes_room.store(true, Relaxed);
                peer.close();
                self.leaving += 1;
                true
            }
            None => {
                self.look_again = Some(now + LOOK);
                false
            }
        }
    }
}

impl Turn {
    fn change(&mut self, served: bool, peer: &Peer, now: Instant) {
        self.served = served;
        self.since = now;
        self.sent = peer.sent.load(Relaxed);
        peer.wake.notify_one();
    }
}

impl Seat {
    /// Notes that the handshake is over.
    pub(crate) fn greeted(&mut self) {
        if !std::mem::replace(&mut self.is_greeted, true) {
            self.places.inner.lock().handshakes -= 1;
        }
    }

    /// Notes whether the peer wants anything: it is served at once while there are places for all who do.
    /// While there are not, a place that comes free waits for the next round, so that no peer gains
    /// another turn by giving up the one it has.
    pub(crate) fn wants(&self, wants: bool, now: Instant) {
        let mut inner = self.places.inner.lock();
        let mut turn = self.peer.turn.lock();
        if turn.wants == wants {
            return;
        }
        turn.wants = wants;
        if wants {
            inner.wanting += 1;
        } else {
            inner.wanting -= 1;
        }
        if wants && inner.wanting <= self.places.limits.served {
            inner.served += 1;
            turn.change(true, &self.peer, now);
        } else if !wants && turn.served {
            inner.served -= 1;
            turn.change(false, &self.peer, now);
        } else {
            turn.since = now;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.places.inner.lock();
        inner.peers.remove(&self.peer.number);
        if self.peer.makes_room() {
            inner.leaving -= 1;
        }
        if !self.is_greeted {
            inner.handshakes -= 1;
        }
        let turn = self.peer.turn.lock();
        if turn.wants {
            inner.wanting -= 1;
        }
        if turn.served {
            inner.served -= 1;
        }
        let from = network(self.peer.address.ip());
        if let Some(count) = inner.networks.get_mut(&from) {
            *count -= 1;
            if *count == 0 {
                inner.networks.remove(&from);
            }
        }
    }
}

/// What counts as one address: an IPv4 address, or the /64 that an IPv6 one is in, all of whose addresses
/// one host may take.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, last], 1000))
    }

    fn places(peers: usize, per_network: usize, served: usize) -> Arc<Places> {
        Places::new(Limits { peers, handshakes: peers, per_network, served })
    }

    #[test]
    fn places_go_to_who_wants_them_and_come_back() {
        let now = Instant::now();
        let places = places(4, 2, 1);
        let (first, second) = (places.join(address(1), now).unwrap(), places.join(address(1), now).unwrap());
        assert!(places.join(address(1), now).is_none(), "two from one address");
        first.wants(true, now);
        second.wants(true, now);
        assert!(first.peer.is_served() && !second.peer.is_served());
        assert_eq!(places.counts(), (2, 1));
        first.wants(false, now);
        assert!(!first.peer.is_served());
        places.round(now);
        assert!(second.peer.is_served());
        drop(second);
        assert_eq!(places.counts(), (1, 0));
        assert!(places.join(address(1), now).is_some());
    }

    #[test]
    fn nobody_has_a_second_turn_before_who_waits() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let places = places(4, 4, 1);
        let (first, second) =
            (places.join(address(1), start).unwrap(), places.join(address(1), start).unwrap());
        first.wants(true, start);
        second.wants(true, later(1));
        first.wants(false, later(2));
        first.wants(true, later(2));
        assert_eq!(places.counts(), (2, 0));
        places.round(later(10));
        assert!(!first.peer.is_served() && second.peer.is_served());
        // Who leaves wants nothing any more.
        drop(second);
        first.wants(false, later(11));
        first.wants(true, later(11));
        assert!(first.peer.is_served());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let (now, places) = (Instant::now(), places(10, 1, 1));
        let join = |text: &str| places.join(SocketAddr::new(text.parse().unwrap(), 1000), now);
        let _seats = ["2001:db8::1", "2001:db8:0:1::1", "192.0.2.1", "192.0.2.2"].map(|ip| join(ip).unwrap());
        assert!(join("2001:db8::ffff:ffff:ffff:ffff").is_none());
        assert!(join("::ffff:192.0.2.1").is_none());
        assert!(join("2001:db8:0:2::1").is_some());
    }

    #[test]
    fn who_does_not_say_hello_keeps_only_some_of_the_others_out() {
        let now = Instant::now();
        let places = Places::new(Limits { peers: 3, handshakes: 1, per_network: 9, served: 1 });
        let mut first = places.join(address(1), now).unwrap();
        assert!(places.join(address(2), now).is_none());
        first.greeted();
        first.greeted();
        let second = places.join(address(2), now).unwrap();
        assert!(places.join(address(3), now).is_none());
        drop(second);
        assert!(places.join(address(3), now).is_some());
    }

    #[test]
    fn who_is_idle_for_longest_makes_room_for_who_comes() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let places = Places::new(Limits { peers: 4, handshakes: 9, per_network: 9, served: 1 });
        let join = |now| places.join(address(1), now);
        let [asks, waits, idle, idler] = [0, 1, 2, 3].map(|second| join(later(second)).unwrap());
        asks.wants(true, later(4));
        waits.wants(true, later(4));
        idle.peer.active(later(30));
        assert!(join(later(63)).is_none(), "nobody is idle for more than a minute");
        assert!(join(later(63)).is_none());
        asks.peer.active(later(100));
        let first = join(later(100)).expect("somebody is idle");
        let leaves = || [&asks, &waits, &idle, &idler].map(|seat| seat.peer.makes_room());
        assert_eq!(leaves(), [false, false, false, true]);
        assert!(idler.peer.is_closing());
        assert_eq!(places.counts().0, 5, "one more until it has gone");
        drop(idler);
        assert_eq!(places.counts().0, 4);

        let second = join(later(101)).expect("another is idle");
        assert!(idle.peer.makes_room());
        drop(idle);
        // Who waits for its turn is not idle, however long that takes.
        first.peer.active(later(130));
        second.peer.active(later(130));
        assert!(join(later(150)).is_none());
        assert!(join(later(159)).is_none(), "who is served asked a minute ago");
        let third = join(later(161));
        assert!(third.is_some() && asks.peer.makes_room() && !waits.peer.makes_room());
    }

    #[test]
    fn only_some_make_room_at_once() {
        let start = Instant::now();
        let peers = 2 * MOST_LEAVING;
        let places = Places::new(Limits { peers, handshakes: 99, per_network: 99, served: 1 });
        let join = |now| places.join(address(1), now);
        let seats: Vec<Seat> = (0..peers).map(|_| join(start).unwrap()).collect();
        let now = start + 2 * IDLE;
        let newcomers: Vec<Seat> = std::iter::from_fn(|| join(now)).collect();
        assert_eq!(newcomers.len(), MOST_LEAVING);
        let (leaving, staying): (Vec<Seat>, Vec<Seat>) =
            seats.into_iter().partition(|seat| seat.peer.makes_room());
        assert_eq!((leaving.len(), staying.len()), (MOST_LEAVING, MOST_LEAVING));
        drop(leaving);
        assert!(join(now).is_some());
    }

    #[test]
    fn who_has_waited_longest_is_served_when_a_turn_is_over() {
        let start = Instant::now();
        let places = places(10, 10, 1);
        let seats: Vec<Seat> = (0..3).map(|_| places.join(address(1), start).unwrap()).collect();
        for (index, seat) in seats.iter().enumerate() {
            seat.wants(true, start + Duration::from_secs(index as u64));
        }
        let mut order = Vec::new();
        for round in 1..30 {
            places.round(start + crate::choke::ROUND * round);
            order.extend(seats.iter().position(|seat| seat.peer.is_served()));
        }
        order.dedup();
        assert_eq!(order[..4], [0, 1, 2, 0]);
    }
}
