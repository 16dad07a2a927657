//! `[superpeer]`.

use std::net::SocketAddr;

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

/// What is done about encrypted connections (message stream encryption).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Both are taken.
    #[default]
    Accept,
    /// Plain connections are closed.
    Require,
    /// Encrypted ones are.
    Refuse,
}

/// `[superpeer]`: resources over BitTorrent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct SuperPeerConfig {
    /// Whether the node serves peers.
    pub enabled: bool,
    /// Addresses of the peer wire.
    pub listen: Vec<SocketAddr>,
    /// Take peers over uTP (BEP 29) too, on the UDP ports of `listen`: for those who try nothing else, and
    /// those whose routers let more of it through. It costs more than TCP: a copy of every block, a system
    /// call for every packet, one thread for all of its peers, and up to 256 KiB of memory for each of them
    /// that was served fast. It takes as much of a line as TCP does.
    pub utp: bool,
    /// Addresses that peers are told to connect to, where they are others than `listen` (port 0: the
    /// one that is listened on).
    pub announce: Vec<SocketAddr>,
    /// Trackers named in the torrents that this node makes.
    pub trackers: Vec<String>,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections at once from one address; an IPv6 /64 counts as one.
    pub max_connections_per_address: usize,
    /// Connections at once that are not past the handshake.
    pub max_handshakes: usize,
    /// Peers that are served at once; the others take turns.
    pub max_unchoked: usize,
    /// Requests of one peer that may wait; it is told so (BEP 10, `reqq`), and what is more is refused.
    pub max_requests: usize,
    /// Bytes per second that the node sends to peers; 0 is no limit.
    pub rate_bytes: u64,
    /// Bytes per second that it sends of one torrent; 0 is no limit.
    pub rate_bytes_per_torrent: u64,
    /// Bytes per second that it sends to one peer; 0 is no limit.
    pub rate_bytes_per_peer: u64,
    /// Bytes that wait for one slow peer's socket.
    pub send_buffer_bytes: usize,
    /// Memory for all that peers wait for, beside the store's memory tier: chunks of which a part is on its
    /// way, or that are read for a peer, and copies for encrypted connections. What is in the memory tier
    /// does not count. When it is used up nothing is read ahead, each peer has one chunk at a time, in turn,
    /// and who takes what it asked for slowest is let go. Each served peer may take 128 KiB more.
    pub memory_bytes: u64,
    /// Longest wait for a peer's handshake.
    pub handshake_timeout_seconds: u64,
    /// A peer that says nothing for so long is let go; clients send something every 120 seconds.
    pub idle_timeout_seconds: u64,
    /// A peer that takes no byte of what it has asked for in so long is let go.
    pub write_timeout_seconds: u64,
    /// Whether encrypted connections are accepted beside plain ones: accept, require, refuse.
    pub encryption: Encryption,
    /// Fetch chunks that were evicted again from where they came, when a peer asks for them. Otherwise
    /// they are withdrawn.
    pub refill: bool,
    /// Longest wait for a chunk, with the wait for its turn to be fetched again. What takes longer is
    /// withdrawn for a minute, and for twice as long each time that it does.
    pub refill_timeout_seconds: u64,
    /// Tell peers of each other (BEP 11), but for private torrents.
    pub exchange_peers: bool,
    /// Show a peer only pieces that nobody else was shown, until they have spread (BEP 16): for first
    /// seeds with little bandwidth. It is no help to peers that upload nothing.
    pub super_seeding: bool,
}

impl Default for SuperPeerConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 6881)), "[::]:6881".parse().expect("an address")],
            utp: false,
            announce: Vec::new(),
            trackers: Vec::new(),
            max_connections: 4096,
            max_connections_per_address: 64,
            max_handshakes: 512,
            max_unchoked: 1024,
            max_requests: 500,
            rate_bytes: 0,
            rate_bytes_per_torrent: 0,
            rate_bytes_per_peer: 0,
            send_buffer_bytes: 1 << 20,
            memory_bytes: 256 << 20,
            handshake_timeout_seconds: 10,
            idle_timeout_seconds: 300,
            write_timeout_seconds: 60,
            encryption: Encryption::Accept,
            refill: true,
            refill_timeout_seconds: 60,
            exchange_peers: true,
            super_seeding: false,
        }
    }
}

impl SuperPeerConfig {
    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.enabled && self.listen.is_empty() {
            return Err(("superpeer.listen", "must name an address, or `superpeer.enabled` be false".into()));
        }
        for (key, value, range) in [
            ("superpeer.max_connections", self.max_connections, 1..=1_000_000),
            ("superpeer.max_connections_per_address", self.max_connections_per_address, 1..=1_000_000),
            ("superpeer.max_handshakes", self.max_handshakes, 1..=1_000_000),
            ("superpeer.max_unchoked", self.max_unchoked, 1..=1_000_000),
            ("superpeer.max_requests", self.max_requests, 1..=10_000),
            ("superpeer.send_buffer_bytes", self.send_buffer_bytes, 32_768..=64 << 20),
        ] {
            if !range.contains(&value) {
                return Err((key, format!("must be from {} to {}", range.start(), range.end())));
            }
        }
        // There must be room for some of the longest chunks, which have 16 MiB.
        if !(64 << 20..=1 << 40).contains(&self.memory_bytes) {
            return Err(("superpeer.memory_bytes", "must be from 67108864 to 1099511627776".into()));
        }
        for (key, value) in [
            ("superpeer.handshake_timeout_seconds", self.handshake_timeout_seconds),
            ("superpeer.idle_timeout_seconds", self.idle_timeout_seconds),
            ("superpeer.write_timeout_seconds", self.write_timeout_seconds),
            ("superpeer.refill_timeout_seconds", self.refill_timeout_seconds),
        ] {
            if !(1..=86_400).contains(&value) {
                return Err((key, "must be from 1 to 86400".into()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_has_room_for_the_longest_chunks() {
        let check = |memory_bytes| SuperPeerConfig { memory_bytes, ..SuperPeerConfig::default() }.check();
        assert_eq!(SuperPeerConfig::default().check(), Ok(()));
        for wrong in [0, (64 << 20) - 1, u64::MAX] {
            assert_eq!(check(wrong).unwrap_err().0, "superpeer.memory_bytes");
        }
        assert_eq!(check(64 << 20), Ok(()));
    }
}
