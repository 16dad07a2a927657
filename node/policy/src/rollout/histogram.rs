//! Durations in buckets that grow with them: 1.6 kB, whatever comes.

/// Buckets for each doubling: a quantile is at most an eighth too long.
const STEPS: u64 = 8;
/// log2 of it.
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Durations of 2^27 µs (134 s) and more share the last bucket.
const BITS: u32 = 27;
const BUCKETS: usize = ((BITS - STEP_BITS + 1) as u64 * STEPS) as usize;

/// How long calls took, in microseconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: [u64; BUCKETS],
    count: u64,
    longest: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0, longest: 0 }
    }
}

impl Histogram {
    /// Counts one duration.
    pub fn add(&mut self, us: u64) {
        self.buckets[bucket(us)] += 1;
        self.count += 1;
        self.longest = self.longest.max(us);
    }

    /// Durations counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The duration that so many permille of all did not pass: the true one or up to an eighth more,
    /// and never more than the longest. 0 when there is none.
    pub fn quantile(&self, permille: u64) -> u64 {
        let rank = (self.count * permille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return last_of(index).min(self.longest);
            }
        }
        self.longest
    }
}

/// The first eight buckets hold one value each; each doubling from there has eight.
fn bucket(us: u64) -> usize {
    let us = us.min((1 << BITS) - 1);
    if us < STEPS {
        return us as usize;
    }
    let shift = us.ilog2() - STEP_BITS;
    (shift as u64 * STEPS + (us >> shift)) as usize
}

/// The largest value of a bucket.
fn last_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    // The inverse of the above: `us >> shift` is from 8 to 15.
    let shift = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        let mut next = 0;
        for index in 0..BUCKETS {
            assert_eq!(bucket(next), index);
            assert_eq!(bucket(last_of(index)), index);
            next = last_of(index) + 1;
        }
        assert_eq!(next, 1 << BITS);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_at_most_an_eighth_too_long() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(990), 0);
        for us in 1..=10_000 {
            histogram.add(us);
        }
        for (permille, exact) in [(0, 1), (500, 5_000), (990, 9_900), (1000, 10_000)] {
            let found = histogram.quantile(permille);
            assert!((exact..=exact + exact / 8).contains(&found), "{permille}: {found}");
        }
        assert_eq!(histogram.quantile(1000), 10_000);
        assert_eq!(histogram.count(), 10_000);
    }
}
