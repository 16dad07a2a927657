//! Where peers are found.

mod trackers;
mod udp;

use std::net::SocketAddr;
use std::time::Duration;

use skerry_wire::tracker::Event;

use crate::BoxFuture;

pub use trackers::{HttpGet, Trackers};

/// What trackers are told is left when nobody knows: something, and less than any of them counts as all.
const UNKNOWN_LEFT: u64 = 16_384;
/// Why there are no peers of a tracker from which nothing comes.
const SILENT: &str = "it does not answer";

/// A question for peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// The torrent, as trackers and handshakes carry it.
    pub info_hash: [u8; 20],
    /// This download's own id.
    pub peer_id: [u8; 20],
    /// Where this side takes connections, as far as it does.
    pub port: u16,
    /// Why it is asked.
    pub event: Event,
    /// Bytes that have come so far.
    pub downloaded: u64,
    /// Bytes that lack; `None` when that is not known yet.
    pub left: Option<u64>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Peers, of both families.
    pub peers: Vec<SocketAddr>,
    /// How long to wait before the next question.
    pub again: Duration,
}

/// Knows peers: trackers, a list, a DHT. Asked now and then, for each of a torrent's info-hashes.
pub trait Sources: Send + Sync + 'static {
    /// Asks. What fails is an answer without peers.
    fn find(&self, ask: Ask) -> BoxFuture<'_, Found>;
}
