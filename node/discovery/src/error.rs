//! What can go wrong before discovery begins, and when the node says what it holds.

use std::net::SocketAddrV4;

/// Discovery could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The DHT's socket could not be had.
    #[error(
        "cannot listen on UDP {address}: {source}; another process may hold the port; it is set by `discovery.dht_listen`"
    )]
    Bind {
        /// The address asked for.
        address: SocketAddrV4,
        /// What the system said.
        source: std::io::Error,
    },
    /// Metrics were registered twice.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The torrents that are held cannot be listed.
#[derive(Debug, thiserror::Error)]
#[error("the torrents that are held cannot be listed: {0}")]
pub struct Unlisted(pub Box<dyn std::error::Error + Send + Sync>);
