//! `[tracker]`.

use std::net::SocketAddr;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};
use skerry_registry::prefix::Prefix;

use crate::swarm::Limits;

/// Longest interval and timeout, seconds: a week.
const LONGEST_SECONDS: u32 = 604_800;
/// Rows of a policy's call that are left for super-peers.
const MOST_SCHEDULED: usize = 1000;
const MOST_WORKERS: usize = 1024;
/// Fewest peers that a source can be limited to, in all and in one swarm.
const FEWEST_OF_SOURCE: usize = 100;
const FEWEST_IN_SWARM: usize = 50;

/// `[tracker]`: announces, and who is told of whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct TrackerConfig {
    /// Whether this node is a tracker.
    pub enabled: bool,
    /// Addresses of HTTP (TCP) and of the UDP tracker protocol, on the same ports.
    pub listen: Vec<SocketAddr>,
    /// Threads for UDP; 0 means one for every core.
    pub workers: usize,
    /// What clients are told to wait between two announces.
    pub interval_seconds: u32,
    /// What they are told to wait at least (HTTP).
    pub min_interval_seconds: u32,
    /// A peer that is silent for so long is forgotten.
    pub peer_timeout_seconds: u32,
    /// Swarms that are remembered; a swarm takes about 120 bytes. An eighth of this, of `max_peers` and of
    /// `max_peers_per_source` is left to torrents that the fleet holds.
    pub max_torrents: usize,
    /// Peers that are remembered in all; a peer takes about 50 bytes.
    pub max_peers: usize,
    /// Peers of one swarm that are remembered, by address family.
    pub max_peers_per_torrent: usize,
    /// Peers of one source that are remembered, in all swarms, and with them swarms that nobody else is in; 0
    /// is no limit. A source is an IPv4 address, behind which a hundred homes may be, or an IPv6 /64; a /48
    /// has 16 times as many. Who is in `trusted` has no limit.
    pub max_peers_per_source: usize,
    /// Those of them that are in one swarm, so that no source is most of a small one; 0 is no limit, nor is
    /// there any where `max_peers_per_source` is 0.
    pub max_peers_per_source_and_torrent: usize,
    /// Peers that a client is told of when it does not say how many.
    pub wanted: usize,
    /// Peers that a client is told of at most. In UDP no more than fit a packet: 230, or 76 with IPv6.
    pub max_wanted: usize,
    /// Ordinary peers that the super-peer-scheduler chooses from at most, drawn at random: a third more than
    /// a client wants.
    pub scheduled_peers: usize,
    /// Calls of that policy in a second, for each thread; further announces get the built-in verdict.
    pub max_policy_calls: u32,
    /// Track every torrent. When false, only those that the fleet has.
    pub open: bool,
    /// Prefixes of proxies and own boxes whose announces may name another address (`ip=`).
    /// The limits of a source are not for them.
    pub trusted: Vec<Prefix>,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 6969))],
            workers: 0,
            interval_seconds: 900,
            min_interval_seconds: 60,
            peer_timeout_seconds: 2000,
            max_torrents: 1_000_000,
            max_peers: 4_000_000,
            max_peers_per_torrent: 200_000,
            max_peers_per_source: 5000,
            max_peers_per_source_and_torrent: 200,
            wanted: 50,
            max_wanted: 200,
            scheduled_peers: 60,
            max_policy_calls: 50_000,
            open: true,
            trusted: Vec::new(),
        }
    }
}

impl TrackerConfig {
    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.enabled && self.listen.is_empty() {
            return Err(("tracker.listen", "must name an address, or `tracker.enabled` be false".into()));
        }
        if !(1..=LONGEST_SECONDS).contains(&self.interval_seconds) {
            return Err(("tracker.interval_seconds", format!("must be from 1 to {LONGEST_SECONDS}")));
        }
        if self.min_interval_seconds > self.interval_seconds {
            return Err((
                "tracker.min_interval_seconds",
                "must be at most `tracker.interval_seconds`".into(),
            ));
        }
        if self.peer_timeout_seconds <= self.interval_seconds || self.peer_timeout_seconds > LONGEST_SECONDS {
            let reason =
                format!("must be more than `tracker.interval_seconds`, and at most {LONGEST_SECONDS}");
            return Err(("tracker.peer_timeout_seconds", reason));
        }
        for (key, value) in [
            ("tracker.max_torrents", self.max_torrents),
            ("tracker.max_peers", self.max_peers),
            ("tracker.max_peers_per_torrent", self.max_peers_per_torrent),
        ] {
            // Positions are kept in 32 bits.
            if !(1..=1 << 31).contains(&value) {
                return Err((key, "must be from 1 to 2147483648".into()));
            }
        }
        // Sources are counted in cells that they share by chance: fewer would be chance alone.
        for (key, value, fewest) in [
            ("tracker.max_peers_per_source", self.max_peers_per_source, FEWEST_OF_SOURCE),
            (
                "tracker.max_peers_per_source_and_torrent",
                self.max_peers_per_source_and_torrent,
                FEWEST_IN_SWARM,
            ),
        ] {
            if value != 0 && !(fewest..=1 << 31).contains(&value) {
                return Err((key, format!("must be 0, or from {fewest} to 2147483648")));
            }
        }
        if !(1..=1000).contains(&self.max_wanted) {
            return Err(("tracker.max_wanted", "must be from 1 to 1000".into()));
        }
        if self.wanted > self.max_wanted {
            return Err(("tracker.wanted", "must be at most `tracker.max_wanted`".into()));
        }
        if self.scheduled_peers > MOST_SCHEDULED {
            return Err(("tracker.scheduled_peers", format!("must be at most {MOST_SCHEDULED}")));
        }
        if self.workers > MOST_WORKERS {
            return Err(("tracker.workers", format!("must be at most {MOST_WORKERS}")));
        }
        Ok(())
    }

    /// What is remembered, at most.
    pub fn limits(&self) -> Limits {
        let in_swarm = self.max_peers_per_source_and_torrent;
        Limits {
            torrents: self.max_torrents,
            peers: self.max_peers,
            peers_per_torrent: self.max_peers_per_torrent,
            peers_per_source: self.max_peers_per_source,
            peers_per_source_and_torrent: if self.max_peers_per_source == 0 { 0 } else { in_swarm },
            timeout: self.peer_timeout_seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right() {
        assert_eq!(TrackerConfig::default().check(), Ok(()));
    }

    #[test]
    fn what_does_not_fit_together_is_named() {
        let key = |change: fn(&mut TrackerConfig)| {
            let mut config = TrackerConfig::default();
            change(&mut config);
            config.check().unwrap_err().0
        };
        assert_eq!(key(|config| config.interval_seconds = 0), "tracker.interval_seconds");
        assert_eq!(key(|config| config.min_interval_seconds = 901), "tracker.min_interval_seconds");
        assert_eq!(key(|config| config.peer_timeout_seconds = 900), "tracker.peer_timeout_seconds");
        assert_eq!(key(|config| config.max_peers = 0), "tracker.max_peers");
        assert_eq!(key(|config| config.max_peers_per_source = 99), "tracker.max_peers_per_source");
        assert_eq!(
            key(|config| config.max_peers_per_source_and_torrent = 49),
            "tracker.max_peers_per_source_and_torrent"
        );
        assert_eq!(key(|config| config.wanted = 201), "tracker.wanted");
        assert_eq!(key(|config| config.scheduled_peers = 5000), "tracker.scheduled_peers");
    }

    #[test]
    fn without_a_limit_of_a_source_there_is_none_in_a_swarm() {
        let config = TrackerConfig { max_peers_per_source: 0, ..TrackerConfig::default() };
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.limits().peers_per_source_and_torrent, 0);
        assert_eq!(TrackerConfig::default().limits().peers_per_source_and_torrent, 200);
    }
}
