//! Time, where it comes in.

use std::sync::Arc;

// Who is alive is told by the registry's clock.
pub(crate) use skerry_registry::clock::now_ms;

/// Tells what time it is, milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The system's clock: what windows are open by.
pub fn system() -> Clock {
    Arc::new(skerry_registry::clock::wall_ms)
}

/// The clock that lists are planned by, which nobody sets.
pub fn steady() -> Clock {
    Arc::new(now_ms)
}
