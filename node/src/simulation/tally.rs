//! What is counted on the way.

use super::arrivals::Crowd;
use super::peers::Peer;

/// Where bytes came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A node of the peer's own region.
    Near,
    /// A node of another one.
    Far,
    /// A peer.
    Peer,
}

/// How a crowd does.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CrowdTally {
    /// Those of it that have come, and that have everything.
    pub(super) came: u32,
    pub(super) done: u32,
    /// When the last of them was done, and when it would have been if it had had its line to itself,
    /// milliseconds since the start.
    pub(super) last_ms: u64,
    pub(super) line_ms: u64,
    /// What they can upload together, kilobits per second.
    pub(super) uplinks_kbps: u64,
}

/// All sums.
#[derive(Default)]
pub(super) struct Tally {
    /// Bytes that came to peers, by [`Source`].
    from: [u64; 3],
    /// Bytes of peers that have everything.
    pub(super) whole: u64,
    /// Of each that is done: its time over that of a line of its own.
    pub(super) slowdowns: Vec<f32>,
    pub(super) crowds: Vec<CrowdTally>,
}

impl Tally {
    pub(super) fn new(crowds: &[Crowd]) -> Self {
        Self { crowds: vec![CrowdTally::default(); crowds.len()], ..Self::default() }
    }

    /// Somebody has come.
    pub(super) fn comes(&mut self, peer: &Peer) {
        let Some(crowd) = self.crowds.get_mut(usize::from(peer.crowd)) else { return };
        crowd.came += 1;
        crowd.line_ms = crowd.line_ms.max(peer.came_ms + line_ms(peer));
        crowd.uplinks_kbps += u64::from(peer.uplink_kbps);
    }

    /// Somebody has got bytes.
    pub(super) fn add(&mut self, source: Source, bytes: u64) {
        self.from[source as usize] += bytes;
    }

    /// Somebody has everything.
    pub(super) fn done(&mut self, peer: &Peer, at_ms: u64) {
        self.whole += peer.length;
        let took_ms = at_ms.saturating_sub(peer.came_ms);
        self.slowdowns.push(took_ms as f32 / line_ms(peer).max(1) as f32);
        if let Some(crowd) = self.crowds.get_mut(usize::from(peer.crowd)) {
            crowd.done += 1;
            crowd.last_ms = crowd.last_ms.max(at_ms);
        }
    }

    pub(super) fn from(&self, source: Source) -> u64 {
        self.from[source as usize]
    }

    /// Bytes that came to peers.
    pub(super) fn delivered(&self) -> u64 {
        self.from.iter().sum()
    }

    /// Whether no byte was lost or made up: what peers have is what was sent, and what nodes sent is what
    /// came from nodes. `unfinished` is what those have who lack something still.
    #[cfg(test)]
    pub(super) fn adds_up(&self, unfinished: u64, nodes: &super::nodes::Nodes) -> bool {
        let served: u64 = nodes.all.iter().flat_map(|node| &node.hours).sum();
        let of_nodes = self.from(Source::Near) + self.from(Source::Far);
        (self.whole + unfinished, served) == (self.delivered(), of_nodes)
    }
}

/// How long a peer's line takes for what it wants, milliseconds.
fn line_ms(peer: &Peer) -> u64 {
    peer.length * 8 / u64::from(peer.downlink_kbps.max(1))
}
