//! How a download goes about it.

use std::time::Duration;

/// Limits and habits of one download.
#[derive(Debug, Clone)]
pub struct Options {
    /// Connections at once.
    pub connections: usize,
    /// How many of them may be on their way at once.
    pub half_open: usize,
    /// Longest wait for a connection.
    pub connect: Duration,
    /// Longest wait for a peer's handshake.
    pub handshake: Duration,
    /// Bytes of pieces that have begun to come and are not stored yet, at most. Torrents of longer pieces
    /// are refused.
    pub memory_bytes: u64,
    /// Pieces from where the reader is that come before all others.
    pub window: u32,
    /// How long to go on without a byte that is wanted.
    pub patience: Duration,
    /// How long to go on without anybody to ask.
    pub alone: Duration,
    /// The port that trackers are told. They refuse 0; 1 is what clients say that take no connections.
    pub port: u16,
    /// Whether to take peers' word on other peers (BEP 11). Never done for private torrents.
    pub exchange: bool,
    /// Whether peers that do not answer a plain handshake are tried under message stream encryption.
    pub encryption: bool,
    /// Info-hashes of further torrents of the same pieces, as trackers and handshakes carry them. They
    /// must be of the same content and piece length: one file, as a rule.
    pub aliases: Vec<[u8; 20]>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connections: 30,
            half_open: 8,
            connect: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            memory_bytes: 64 << 20,
            window: 16,
            patience: Duration::from_secs(300),
            alone: Duration::from_secs(60),
            port: 1,
            exchange: true,
            encryption: true,
            aliases: Vec::new(),
        }
    }
}
