//! What a policy may ask of the node: log lines, the frozen clock, tables, counters.
//!
//! In a component these are the imports of `skerry:policy/host`. Elsewhere they meet the
//! [harness](crate::harness) of the test that runs; without one the clock stands at 0, tables are
//! empty, and lines and counts go nowhere.

pub use crate::bindings::region_router::skerry::policy::host::Level;

#[cfg(target_arch = "wasm32")]
use crate::bindings::region_router::skerry::policy::host as node;
#[cfg(not(target_arch = "wasm32"))]
use crate::harness as node;

/// Writes a line to the node's log. It is cut at 256 bytes; of one call 16 lines are kept.
pub fn log(level: Level, line: &str) {
    node::log(level, line);
}

/// A line for whoever writes the policy.
pub fn debug(line: &str) {
    log(Level::Debug, line);
}

/// A line for whoever runs the node.
pub fn info(line: &str) {
    log(Level::Info, line);
}

/// A line about something that is wrong, and that the operator can do something about.
pub fn warn(line: &str) {
    log(Level::Warn, line);
}

/// Milliseconds since 1970-01-01 UTC, the same throughout a call and in its replay.
#[must_use]
pub fn now() -> u64 {
    node::now()
}

/// The value of `key` in a table of the manifest (`tables`, counted from 0); none when there is no
/// such table or key.
#[must_use]
pub fn lookup(table: u32, key: u64) -> Option<i64> {
    node::lookup(table, key)
}

/// Adds to a counter of the manifest (`counters`, counted from 0); one that is not declared is
/// ignored.
pub fn count(counter: u32, by: u32) {
    node::count(counter, by);
}

/// Has panics say what and where in the node's log before they trap. Each export calls it first;
/// outside of a component the test runner shows panics.
pub(crate) fn report_panics() {
    #[cfg(target_arch = "wasm32")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| std::panic::set_hook(Box::new(|panic| warn(&panic.to_string()))));
    }
}
