//! Who did not give what it was asked for, before there are pieces: it is left alone for a while, and those
//! who failed less are asked first.

use std::collections::HashMap;
use std::time::Duration;

use crate::peer::Key;

/// How long a peer that failed is not asked again.
pub(crate) const PAUSE: Duration = Duration::from_secs(10);

/// How often each peer failed, and when last.
#[derive(Debug, Default)]
pub(crate) struct Failures(HashMap<Key, (u32, Duration)>);

impl Failures {
    /// A peer failed.
    pub(crate) fn add(&mut self, peer: Key, now: Duration) {
        let (count, last) = self.0.entry(peer).or_default();
        (*count, *last) = (count.saturating_add(1), now);
    }

    /// A peer is gone.
    pub(crate) fn forget(&mut self, peer: Key) {
        self.0.remove(&peer);
    }

    /// Whether a peer is left alone.
    pub(crate) fn rests(&self, peer: Key, now: Duration) -> bool {
        self.0.get(&peer).is_some_and(|(_, last)| now < *last + PAUSE)
    }

    /// How often a peer failed, and when last: the least is asked first.
    pub(crate) fn of(&self, peer: Key) -> (u32, Duration) {
        self.0.get(&peer).copied().unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
