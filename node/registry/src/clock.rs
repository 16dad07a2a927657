//! Time, where it comes in.

use std::time::{SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Now, milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A clock that runs on from when it was started, whoever sets the system's meanwhile: a node's beats
/// must not stop for an hour when somebody sets it back.
pub(crate) struct Steady {
    start: Instant,
    start_ms: u64,
}

impl Steady {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), start_ms: now_ms() }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.start_ms.saturating_add(elapsed)
    }
}
