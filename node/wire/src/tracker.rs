//! Tracker protocols: announces and scrapes over HTTP (BEP 3, 7, 21, 23, 24, 31, 48) and UDP (BEP 15, 41).
//!
//! Both sides: what a client writes and a tracker reads, and the way back. An info-hash is 20 bytes
//! here, SHA-1 (v1) or a SHA-256 cut short (v2, BEP 52); a tracker cannot tell them apart and need not.

pub mod compact;
pub mod http;
pub mod udp;

/// Most swarms of one scrape: what fits a UDP packet (BEP 15).
pub const MOST_SCRAPED: usize = 74;

/// Why a client announces itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Event {
    /// The interval is over.
    #[default]
    None,
    /// It begins.
    Started,
    /// It has just got everything.
    Completed,
    /// It leaves.
    Stopped,
    /// It lacks something and downloads nothing: a partial seed (BEP 21). Only in HTTP.
    Paused,
}

/// How a swarm does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Peers that have everything.
    pub complete: u32,
    /// Peers that lack something.
    pub incomplete: u32,
    /// Those of them that download: without partial seeds (BEP 21). Not told in UDP.
    pub downloaders: u32,
    /// How many have completed since the tracker knows the swarm. Only in HTTP announces and in scrapes.
    pub downloaded: u32,
}
