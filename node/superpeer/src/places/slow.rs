//! Peers that are slow to take what they have asked for, while others wait for the memory that it keeps.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::{Peer, Places};

/// So many bytes a peer is to take in so long, while that many wait for it.
pub(crate) const STRETCH: usize = 256 * 1024;
const SLOW: Duration = Duration::from_secs(10);
/// Peers that are sent away at once: their memory is free a moment later.
const MOST_CUT: usize = 4;

/// Whether a peer is slow that has not taken a [`STRETCH`] since then.
pub(crate) fn is_slow(behind_since: Instant, now: Instant) -> bool {
    now.saturating_duration_since(behind_since) > SLOW
}

impl Peer {
    /// Notes since when the peer has not taken a [`STRETCH`] of what waits for it.
    pub(crate) fn behind(&self, since: Option<Instant>) {
        self.turn.lock().behind = since;
    }

    /// Whether it is to end if it is still slow. It is told once.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.swap(false, Relaxed)
    }
}

impl Places {
    /// Sends those away that are slowest, a few at a time; nobody who is not slow.
    pub(crate) fn cut_slowest(&self, now: Instant) {
        let inner = self.inner.lock();
        let behind = inner.peers.values().filter_map(|peer| Some((peer.turn.lock().behind?, peer)));
        let mut slow: Vec<_> = behind.filter(|(since, _)| is_slow(*since, now)).collect();
        slow.sort_unstable_by_key(|(since, _)| *since);
        for (_, peer) in slow.into_iter().take(MOST_CUT) {
            peer.cut.store(true, Relaxed);
            peer.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::places::{Limits, Seat};

    #[test]
    fn the_slowest_are_cut_and_nobody_who_takes_what_it_asks_for() {
        let start = Instant::now();
        let places = Places::new(Limits { peers: 9, handshakes: 9, per_network: 9, served: 9 });
        let address = SocketAddr::from(([127, 0, 0, 1], 1000));
        let seats: Vec<Seat> = (0..8).map(|_| places.join(address, start).unwrap()).collect();
        let cut = |seconds: u64| -> Vec<usize> {
            places.cut_slowest(start + Duration::from_secs(seconds));
            let all = seats.iter().enumerate();
            all.filter(|(_, seat)| seat.peer.is_cut()).map(|(index, _)| index).collect()
        };
        assert!(cut(1000).is_empty(), "they want nothing");
        for (seat, second) in seats.iter().zip([6, 5, 4, 3, 2, 1, 0]) {
            seat.peer.behind(Some(start + Duration::from_secs(second)));
        }
        assert!(cut(10).is_empty(), "nobody is slow yet");
        assert_eq!(cut(12), [5, 6]);
        assert_eq!(cut(30), [3, 4, 5, 6]);
        seats[6].peer.behind(None);
        assert_eq!(cut(30), [2, 3, 4, 5]);
    }
}
