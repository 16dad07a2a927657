//! What requests for hashes may cost (BEP 52). Hashes below those of the pieces are kept by nobody: for some
//! 50 bytes of a peer a whole piece is read and hashed. So the bytes that are read for it count, for each peer
//! and for all; what is beyond is refused. What was computed lately is remembered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use skerry_wire::Sha256Hash;
use skerry_wire::merkle::Tree;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The longest piece that is read to answer a request for hashes within it, bytes.
pub(crate) const LONGEST: u64 = 16 << 20;
/// Requests that are worked on at once, where there is anything to compute.
const AT_ONCE: usize = 2;
/// Pieces whose hashes are remembered: 64 KiB each at most.
const REMEMBERED: usize = 32;
/// Bytes that are read for one peer: before it is served, at once, and in a second while it is served.
const FIRST: u64 = LONGEST;
const MOST: u64 = 4 * LONGEST;
const RATE: u64 = 1 << 20;
/// For all peers, at once and in a second.
const MOST_OF_ALL: u64 = 16 * LONGEST;
const RATE_OF_ALL: u64 = 32 << 20;

/// What lies under one hash: of which file, at which height of its tree, and how many stand left of it.
pub(crate) type Under = (Sha256Hash, u32, u64);

/// The work on hashes, of all peers.
pub(crate) struct Hashing {
    turns: Arc<Semaphore>,
    allowance: Mutex<Allowance>,
    /// Trees from the leaves up, the one that was asked for last at the end.
    lately: Mutex<VecDeque<(Under, Arc<Tree>)>>,
}

impl Hashing {
    /// Nothing asked for yet.
    pub(crate) fn new(now: Instant) -> Self {
        let all = Allowance { left: MOST_OF_ALL, most: MOST_OF_ALL, rate: RATE_OF_ALL, at: now };
        let (turns, lately) = (Arc::new(Semaphore::new(AT_ONCE)), Mutex::default());
        Self { turns, allowance: Mutex::new(all), lately }
    }

    /// A turn at computing; `None` when the node ends.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        self.turns.clone().acquire_owned().await.ok()
    }

    /// Whether so many bytes may be read for one peer, `of_peer` being its allowance; then they count.
    pub(crate) fn allows(&self, of_peer: &mut Allowance, bytes: u64, is_served: bool, now: Instant) -> bool {
        of_peer.take(bytes, is_served, now) && self.allowance.lock().take(bytes, true, now)
    }

    /// The tree under a hash, if it was computed lately.
    pub(crate) fn remembered(&self, under: &Under) -> Option<Arc<Tree>> {
        let mut lately = self.lately.lock();
        let at = lately.iter().position(|(other, _)| other == under)?;
        let found = lately.remove(at)?;
        let tree = found.1.clone();
        lately.push_back(found);
        Some(tree)
    }

    /// Remembers the tree under a hash.
    pub(crate) fn remember(&self, under: Under, tree: Arc<Tree>) {
        let mut lately = self.lately.lock();
        lately.retain(|(other, _)| *other != under);
        if lately.len() >= REMEMBERED {
            lately.pop_front();
        }
        lately.push_back((under, tree));
    }
}

/// Bytes that may be read for hashes, more of them as time goes by.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: u64,
    most: u64,
    /// Bytes per second.
    rate: u64,
    at: Instant,
}

impl Allowance {
    /// Of a peer that has just come, and is sent `rate` bytes per second at most; 0 is no limit.
    pub(crate) fn of_peer(rate: u64, now: Instant) -> Self {
        let rate = if rate == 0 { RATE } else { rate.min(RATE) };
        Self { left: FIRST, most: MOST, rate, at: now }
    }

    fn take(&mut self, bytes: u64, grows: bool, now: Instant) -> bool {
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * self.rate as f64;
        if grows {
            self.left = self.left.saturating_add(grown as u64).min(self.most);
        }
        self.at = self.at.max(now);
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_peer_has_little_while_it_is_choked_and_more_with_time_when_it_is_served() {
        let start = Instant::now();
        let later = |seconds| start + Duration::from_secs(seconds);
        let mut peer = Allowance::of_peer(0, start);
        assert!(peer.take(FIRST - 1, false, start) && !peer.take(2, false, later(1000)));
        assert!(peer.take(1, false, later(1000)) && !peer.take(1, false, later(2000)));
        // The time that it has waited for its place is not counted.
        assert!(!peer.take(11 * RATE, true, later(2010)) && peer.take(10 * RATE, true, later(2010)));
        assert!(!peer.take(MOST + 1, true, later(9000)) && peer.take(MOST, true, later(9000)));
        let mut slow = Allowance::of_peer(1000, start);
        assert!(slow.take(FIRST, true, start) && !slow.take(10_001, true, later(10)));
        assert!(slow.take(10_000, true, later(10)));
    }

    #[test]
    fn all_peers_together_have_a_bound_too() {
        let (start, peers) = (Instant::now(), MOST_OF_ALL / FIRST);
        let hashing = Hashing::new(start);
        let comes = |now| hashing.allows(&mut Allowance::of_peer(0, now), FIRST, false, now);
        assert!((0..peers).all(|_| comes(start)) && !comes(start));
        let later = start + Duration::from_secs(1);
        assert!(comes(later) && comes(later) && !comes(later));
    }

    #[test]
    fn what_was_asked_for_lately_is_remembered() {
        let hashing = Hashing::new(Instant::now());
        let tree = Arc::new(Tree::new(vec![[7; 32]], 0, 0));
        let under = |place| (Sha256Hash([1; 32]), 4, place);
        (0..REMEMBERED as u64).for_each(|place| hashing.remember(under(place), tree.clone()));
        assert!(hashing.remembered(&under(0)).is_some());
        hashing.remember(under(1000), tree.clone());
        hashing.remember(under(1000), tree);
        assert!(hashing.remembered(&under(0)).is_some() && hashing.remembered(&under(1)).is_none());
        assert!(hashing.remembered(&(Sha256Hash([1; 32]), 5, 0)).is_none());
        assert_eq!(hashing.lately.lock().len(), REMEMBERED);
    }
}
