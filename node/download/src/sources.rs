//! Where peers are found.

mod trackers;
mod udp;

use std::net::SocketAddr;
use std::time::Duration;

use skerry_wire::tracker::Event;
use tokio::sync::mpsc;

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
    /// Whether there is nobody to fetch from: then sources are asked as soon as they allow it.
    pub alone: bool,
}

/// Peers, by the info-hash that they were found by.
pub(crate) type Found = ([u8; 20], Vec<SocketAddr>);

/// Where the answers to a question go.
#[derive(Debug, Clone)]
pub struct Answers {
    info_hash: [u8; 20],
    found: mpsc::Sender<Found>,
}

impl Answers {
    /// To a question by an info-hash.
    pub(crate) fn new(info_hash: [u8; 20], found: mpsc::Sender<Found>) -> Self {
        Self { info_hash, found }
    }

    /// Takes peers, of either family. Nobody hears of them once the download is over.
    pub async fn take(&self, peers: Vec<SocketAddr>) {
        let _ = self.found.send((self.info_hash, peers)).await;
    }
}

/// Knows peers: trackers, a list, a DHT. Asked now and then, for each of a torrent's info-hashes.
pub trait Sources: Send + Sync + 'static {
    /// Asks. Peers go to `answers` as they are found; what fails finds none. Returns how long to wait before
    /// the next question.
    fn find(&self, ask: Ask, answers: Answers) -> BoxFuture<'_, Duration>;
}
