//! A rate limit that many share.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A leaky bucket of bytes per second. Who has moved bytes charges them, and then waits as long as it is
/// told: everybody pays for what the others have charged before, so that who moves more waits more.
#[derive(Debug)]
pub struct Bucket {
    /// Bytes per second; 0 is no limit.
    rate: AtomicU64,
    /// When what has been charged will have drained away.
    empty_at: Mutex<Option<Instant>>,
}

impl Bucket {
    /// A bucket that drains `rate` bytes per second; 0 is no limit.
    pub fn new(rate: u64) -> Self {
        Self { rate: AtomicU64::new(rate), empty_at: Mutex::new(None) }
    }

    /// Changes the rate, bytes per second.
    pub fn set(&self, rate: u64) {
        self.rate.store(rate, Relaxed);
    }

    /// Whether there is a limit.
    pub fn limits(&self) -> bool {
        self.rate.load(Relaxed) > 0
    }

    /// Charges `bytes` and tells how long to wait before the next are moved.
    pub fn charge(&self, bytes: u64, now: Instant) -> Duration {
        let rate = self.rate.load(Relaxed);
        if rate == 0 {
            return Duration::ZERO;
        }
        let mut empty_at = self.empty_at.lock();
        let from = empty_at.map_or(now, |at| at.max(now));
        let at = from + Duration::from_secs_f64(bytes as f64 / rate as f64);
        *empty_at = Some(at);
        at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_who_share_a_bucket_get_its_rate_together() {
        let bucket = Bucket::new(1000);
        let start = Instant::now();
        let mut clocks = [start; 2];
        let mut moved = 0;
        while let Some(clock) =
            clocks.iter_mut().min().filter(|clock| **clock < start + Duration::from_secs(10))
        {
            *clock += bucket.charge(100, *clock);
            moved += 100;
        }
        assert!((9_800..=10_400).contains(&moved), "{moved}");
        assert_eq!(Bucket::new(0).charge(1 << 40, start), Duration::ZERO);
    }
}
