//! What the preloader can refuse or fail at.

use http::StatusCode;
use skerry_registry::error::KvError;
use skerry_store::StoreError;

/// The preloader could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreloadError {
    /// What is on record of the lists of nodes cannot be read.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// What is on record of this node's own list cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Metrics were registered twice.
    #[error("cannot register metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// There is no list for a node.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// It is not in the fleet, and was not before.
    #[error("node `{0}` is not registered here; send a heartbeat first")]
    Unknown(String),
    /// It has not asked for one.
    #[error("node `{0}` has not asked for a list since this control node started")]
    Untold(String),
}

/// What an operator or a node says makes no sense, or has no room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// A field cannot be; the reason names it.
    #[error("{0}")]
    Field(String),
    /// There is no such thing.
    #[error("nothing of that site and path was ordered for that region")]
    Unknown,
    /// There is no list for a node.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A bound is reached.
    #[error("at most {most} {what} are taken")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many.
        most: usize,
    },
    /// It cannot be written down.
    #[error(transparent)]
    Kv(#[from] KvError),
}

impl Refused {
    /// The status of its answer.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Field(_) => StatusCode::BAD_REQUEST,
            Self::Unknown | Self::Plan(_) => StatusCode::NOT_FOUND,
            Self::Full { .. } => StatusCode::INSUFFICIENT_STORAGE,
            Self::Kv(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Why a node has no new list. It goes on with the one that it has.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ListError {
    /// The control node gave no answer, or none that is a list.
    #[error("the control node gives no list: {0}")]
    Unanswered(String),
    /// The list cannot be used.
    #[error("the list cannot be used: {0}")]
    Invalid(String),
}

/// Why something that is listed is not held yet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HoldFailure {
    /// There is no room on the disk, or not enough may be pinned.
    #[error("no room: {0}")]
    NoRoom(String),
    /// The origin does not have it, does not give it, or it may not be kept.
    #[error("{0}")]
    Refused(String),
    /// It broke off, and can be gone on with.
    #[error("{0}")]
    Broken(String),
    /// The node stopped it itself: a window closed, it left the list, or the node drains.
    #[error("stopped")]
    Stopped,
}

impl HoldFailure {
    /// The word for metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::NoRoom(_) => "no-room",
            Self::Refused(_) => "refused",
            Self::Broken(_) => "broken",
            Self::Stopped => "stopped",
        }
    }
}
