//! What can keep the super-peer from starting.

use std::io;
use std::net::SocketAddr;

/// The role cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuperPeerError {
    /// Metrics were registered twice.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The system does not give an address for uTP.
    #[error("cannot listen on UDP {address}, as `superpeer.utp` has it: {source}")]
    Bind {
        /// It.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}
