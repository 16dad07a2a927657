//! How fast bytes come in, over the last minute.

use std::collections::VecDeque;

/// How far it looks back, milliseconds.
const SPAN_MS: u64 = 60_000;
/// Least time between two samples, milliseconds.
const PERIOD_MS: u64 = 1_000;

/// Samples of a sum that grows.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    samples: VecDeque<(u64, u64)>,
    /// The last rate at which anything came.
    last: u64,
}

impl Pace {
    /// What has come until now, bytes.
    pub(crate) fn sample(&mut self, now_ms: u64, total: u64) {
        match self.samples.back() {
            // A clock that was set back begins anew.
            Some((at_ms, _)) if now_ms < *at_ms => self.samples.clear(),
            Some((at_ms, _)) if now_ms - at_ms < PERIOD_MS => return,
            _ => {}
        }
        self.samples.push_back((now_ms, total));
        while self.samples.len() > 2 && self.samples[1].0 + SPAN_MS <= now_ms {
            self.samples.pop_front();
        }
        let rate = self.rate();
        if rate > 0 {
            self.last = rate;
        }
    }

    /// Bytes per second now.
    pub(crate) fn rate(&self) -> u64 {
        let (Some((from_ms, from)), Some((to_ms, to))) = (self.samples.front(), self.samples.back()) else {
            return 0;
        };
        let bytes = u128::from(to.saturating_sub(*from)) * 1000;
        u64::try_from(bytes / u128::from((to_ms - from_ms).max(1))).unwrap_or(u64::MAX)
    }

    /// Bytes per second when anything last came.
    pub(crate) fn last(&self) -> u64 {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minute_counts() {
        let mut pace = Pace::default();
        assert_eq!(pace.rate(), 0);
        for second in 0..=120 {
            pace.sample(second * 1000, second * 500);
            pace.sample(second * 1000 + 1, u64::MAX);
        }
        assert_eq!(pace.rate(), 500);
        for second in 121..300 {
            pace.sample(second * 1000, 60_000);
        }
        assert_eq!(pace.rate(), 0);
        assert!(pace.last() > 0 && pace.last() < 500);
        assert!(pace.samples.len() <= 62);
        pace.sample(5, 0);
        assert_eq!((pace.rate(), pace.samples.len()), (0, 1));
    }
}
