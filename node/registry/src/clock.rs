//! Time, where it comes in.

use std::sync::LazyLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Now by the system's clock, milliseconds since 1970: for what others check by theirs, as certificates.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Now, milliseconds since 1970, by a clock that runs on from where the system's stood when the process
/// first asked, whoever sets that one meanwhile: else a step of it would make all nodes dead or alive. Who
/// is alive and what is old is told by this clock alone.
pub fn now_ms() -> u64 {
    static START: LazyLock<(Instant, u64)> = LazyLock::new(|| (Instant::now(), wall_ms()));
    let (start, start_ms) = *START;
    start_ms.saturating_add(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX))
}
