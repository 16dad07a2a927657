//! What can keep the super-peer from starting.

/// The role cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuperPeerError {
    /// Metrics were registered twice.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}
