//! Waiting for something that will be true soon, with a bound and a name for what is awaited.

use std::thread;
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);

/// Polls `condition` until it holds. Panics naming `what` when `bound` has passed.
#[track_caller]
pub fn until(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    value(what, bound, || condition().then_some(()));
}

/// Polls `probe` until it yields a value. Panics naming `what` when `bound` has passed.
#[track_caller]
pub fn value<T>(what: &str, bound: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(started.elapsed() < bound, "waited {bound:?} in vain for {what}");
        thread::sleep(STEP);
    }
}

/// Returns once the clock stands at least `after` past `since`. Freshness lifetimes are whole
/// seconds of wall time (RFC 9111 §1.2.2), and a separate process has no clock to be paused.
pub fn clock(since: Instant, after: Duration) {
    until("the clock", after + Duration::from_secs(5), || since.elapsed() >= after);
}
