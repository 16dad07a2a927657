//! What can go wrong between a client's request and an origin's answer.

use http::StatusCode;
use skerry_store::StoreError;

/// The cache could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// A site's origin cannot be used.
    #[error("site `{site}`: {reason}")]
    Origin {
        /// The site.
        site: String,
        /// Why.
        reason: String,
    },
    /// The metadata could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Metrics were registered twice.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// An origin's failure, as one client sees it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// No connection, or it broke before the header was complete.
    #[error("the origin cannot be reached: {0}")]
    Unreachable(String),
    /// A time limit passed.
    #[error("the origin did not {0} in time")]
    TimedOut(&'static str),
    /// The body ended early or broke.
    #[error("the origin's answer broke off: {0}")]
    Broken(String),
    /// Nobody waited for the rest, so it was given up.
    #[error("nobody waited for the rest of it")]
    Unwatched,
    /// The content changed while it was being read in parts.
    #[error("the content changed at the origin; ask again")]
    Changed,
    /// A slow reader of something that is not kept fell behind what is still in memory.
    #[error("this reader fell too far behind an answer that is not kept")]
    FellBehind,
    /// The node is shutting down.
    #[error("the node is draining")]
    Draining,
}

impl FetchError {
    /// The status a client gets when nothing was sent yet (RFC 9110 §15.6.3, §15.6.5).
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        }
    }
}
