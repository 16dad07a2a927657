//! What can go wrong before a tracker serves, and why it refuses an announce.

use std::net::SocketAddr;

/// The tracker could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackerError {
    /// A UDP socket could not be had.
    #[error(
        "cannot listen on UDP {address}: {source}; another process may hold the port; it is set by `tracker.listen`"
    )]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread of the tracker: {0}")]
    Thread(std::io::Error),
    /// Metrics were registered twice.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Why an announce is refused; the text goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody can connect to port 0.
    #[error("port 0 takes no connections")]
    Port,
    /// The tracker is not open, and the fleet does not have the torrent.
    #[error("this tracker does not know the torrent")]
    Unknown,
}
