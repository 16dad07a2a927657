//! How many blocks a peer is asked for ahead of time: enough to keep the way to it full.
//!
//! At first one more for each that comes; once the rate grows no more, what comes in [`AHEAD`] at that
//! rate.

use std::time::Duration;

use skerry_wire::peer::BLOCK;

/// Blocks that every peer is asked for at once.
const LEAST: usize = 4;
/// Blocks that any peer is asked for at once, at most.
const MOST: usize = 250;
/// How long what a peer is asked for should last.
const AHEAD: Duration = Duration::from_secs(3);
/// How often the rate is taken.
const PERIOD: Duration = Duration::from_secs(1);
/// Bytes per second more, in one period, that count as growth.
const GROWTH: u64 = 10_000;

/// What comes from one peer.
#[derive(Debug)]
pub(crate) struct Flow {
    depth: usize,
    /// What the peer says it keeps (BEP 10, `reqq`).
    limit: usize,
    growing: bool,
    rate: u64,
    came: u64,
    since: Duration,
}

impl Flow {
    /// A peer that nothing has come from, at a time.
    pub(crate) fn new(now: Duration) -> Self {
        Self { depth: LEAST, limit: MOST, growing: true, rate: 0, came: 0, since: now }
    }

    /// The peer has said how many requests it keeps.
    pub(crate) fn limit(&mut self, requests: u32) {
        self.limit = (requests as usize).clamp(1, MOST);
    }

    /// A block has come.
    pub(crate) fn came(&mut self, bytes: u64) {
        self.came += bytes;
        if self.growing {
            self.depth = (self.depth + 1).min(MOST);
        }
    }

    /// Bytes per second.
    pub(crate) fn rate(&self) -> u64 {
        self.rate
    }

    /// How many blocks to ask for at once.
    pub(crate) fn depth(&self) -> usize {
        self.depth.min(self.limit)
    }

    /// Takes the rate, when it is time.
    pub(crate) fn tick(&mut self, now: Duration) {
        let elapsed = now.saturating_sub(self.since);
        if elapsed < PERIOD {
            return;
        }
        let measured = (self.came as f64 / elapsed.as_secs_f64()) as u64;
        if self.growing && self.came > 0 && measured < self.rate + GROWTH {
            self.growing = false;
        }
        self.rate = if self.growing { measured } else { (self.rate * 3 + measured) / 4 };
        if !self.growing {
            let ahead = self.rate as f64 * AHEAD.as_secs_f64() / f64::from(BLOCK);
            self.depth = (ahead as usize).clamp(LEAST, MOST);
        }
        (self.came, self.since) = (0, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets so many blocks come in each second.
    fn seconds(flow: &mut Flow, from: u64, blocks: &[u64]) {
        for (second, blocks) in (from..).zip(blocks) {
            (0..*blocks).for_each(|_| flow.came(BLOCK.into()));
            flow.tick(Duration::from_secs(second + 1));
        }
    }

    #[test]
    fn a_fast_peer_is_soon_asked_for_much_and_a_slow_one_is_not() {
        let mut fast = Flow::new(Duration::ZERO);
        seconds(&mut fast, 0, &[4, 20, 60, 60, 60, 60, 60, 60, 60]);
        assert!((150..=MOST).contains(&fast.depth()), "{}", fast.depth());
        let mut slow = Flow::new(Duration::ZERO);
        seconds(&mut slow, 0, &[1, 1, 1, 0, 1, 1, 1, 1]);
        assert_eq!(slow.depth(), LEAST);
        assert!((8_000..20_000).contains(&slow.rate()), "{}", slow.rate());
    }

    #[test]
    fn no_more_is_asked_for_than_anybody_keeps() {
        let mut flow = Flow::new(Duration::ZERO);
        seconds(&mut flow, 0, &[100, 10_000, 1_000_000]);
        assert_eq!(flow.depth(), MOST);
        flow.limit(10);
        assert_eq!(flow.depth(), 10);
        flow.limit(0);
        assert_eq!(flow.depth(), 1);
    }

    #[test]
    fn who_stops_is_asked_for_little() {
        let mut flow = Flow::new(Duration::ZERO);
        seconds(&mut flow, 0, &[100, 100, 100]);
        seconds(&mut flow, 3, &[0; 30]);
        assert_eq!((flow.depth(), flow.rate() < 1000), (LEAST, true));
    }
}
