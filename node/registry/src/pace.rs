//! How much a node may tell, and how fast: one that is broken, or in wrong hands, must not keep the control
//! node from hearing the others. And how much clients may, who are anybody.

mod clients;

use std::collections::HashMap;

use parking_lot::Mutex;

pub(crate) use self::clients::Clients;
use crate::error::Refused;
use crate::message::Asked;

/// Bytes of messages of a node: a list of all it may hold at once (some 200 bytes for each of a million), and
/// a tenth of what one core reads from then on.
const MESSAGES: Pace = Pace { burst: 256 << 20, per_second: 4 << 20 };
/// The least that a message counts, bytes: even an empty one is looked at, and written down.
const LEAST: u64 = 64 << 10;
/// What a holding counts that is written anew for a message, bytes: a change costs its page, and coming or going
/// the whole list.
const HOLDING: u64 = 128;
/// Reports of a node's clients: as many as wait there when the control node was away, and as many each second
/// as a node takes from them.
const REPORTS: Pace = Pace { burst: 1024, per_second: 100 };
/// Requests of a node's clients: no node serves more of them each second, and ten minutes of that are hours of
/// what a busy one has to tell after the control node was away.
const REQUESTS: Pace = Pace { burst: 60_000_000, per_second: 100_000 };

/// So much at once, and so much each second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) burst: u64,
    pub(crate) per_second: u64,
}

/// What is left of a pace.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Allowance {
    /// What was taken and has not come back yet, thousandths.
    spent: u64,
    at_ms: u64,
}

impl Allowance {
    /// Takes as much of `wanted` as there is.
    pub(crate) fn take(&mut self, pace: Pace, wanted: u64, now_ms: u64) -> u64 {
        self.refill(pace, now_ms);
        let left = (pace.burst * 1000).saturating_sub(self.spent) / 1000;
        let taken = wanted.min(left);
        self.spent += taken * 1000;
        taken
    }

    /// Takes all of `wanted`, or nothing.
    pub(crate) fn take_whole(&mut self, pace: Pace, wanted: u64, now_ms: u64) -> bool {
        self.refill(pace, now_ms);
        let fits = wanted.saturating_mul(1000).saturating_add(self.spent) <= pace.burst * 1000;
        if fits {
            self.spent += wanted * 1000;
        }
        fits
    }

    fn refill(&mut self, pace: Pace, now_ms: u64) {
        let elapsed_ms = now_ms.saturating_sub(self.at_ms);
        self.spent = self.spent.saturating_sub(elapsed_ms.saturating_mul(pace.per_second));
        self.at_ms = self.at_ms.max(now_ms);
    }
}

#[derive(Default)]
struct Allowances {
    messages: Allowance,
    reports: Allowance,
    requests: Allowance,
}

/// What each node may still tell.
#[derive(Default)]
pub(crate) struct Limits(Mutex<HashMap<String, Allowances>>);

impl Limits {
    /// A message of a node, of so many bytes.
    ///
    /// # Errors
    /// [`Refused::Busy`] when it sends more than is taken.
    pub(crate) fn message(&self, node: &str, bytes: usize, now_ms: u64) -> Result<(), Refused> {
        let cost = (bytes as u64).max(LEAST);
        let fits = self.with(node, |of| of.messages.take_whole(MESSAGES, cost, now_ms));
        if fits { Ok(()) } else { Err(Refused::Busy) }
    }

    /// So many of a node's holdings are written anew.
    ///
    /// # Errors
    /// [`Refused::Busy`] when that is more than is taken.
    pub(crate) fn holdings(&self, node: &str, count: usize, now_ms: u64) -> Result<(), Refused> {
        let cost = HOLDING * count as u64;
        let fits = self.with(node, |of| of.messages.take_whole(MESSAGES, cost, now_ms));
        if fits { Ok(()) } else { Err(Refused::Busy) }
    }

    /// How many of a node's reports are taken.
    pub(crate) fn reports(&self, node: &str, count: usize, now_ms: u64) -> usize {
        let taken = self.with(node, |of| of.reports.take(REPORTS, count as u64, now_ms));
        usize::try_from(taken).unwrap_or(count)
    }

    /// Cuts what a node says that its clients asked for down to what it can have served; how many requests that
    /// cost.
    pub(crate) fn requests(&self, node: &str, demand: &mut [Asked], now_ms: u64) -> u64 {
        let cut = |of: &mut Allowances| {
            let mut refused = 0;
            for asked in demand {
                let taken = of.requests.take(REQUESTS, asked.requests.into(), now_ms);
                let taken = u32::try_from(taken).unwrap_or(asked.requests);
                refused += u64::from(asked.requests - taken);
                asked.requests = taken;
            }
            refused
        };
        self.with(node, cut)
    }

    fn with<T>(&self, node: &str, work: impl FnOnce(&mut Allowances) -> T) -> T {
        let mut all = self.0.lock();
        if let Some(of) = all.get_mut(node) {
            return work(of);
        }
        work(all.entry(node.to_owned()).or_default())
    }

    /// Forgets nodes that may tell as much as any that was never heard.
    pub(crate) fn sweep(&self, now_ms: u64) {
        self.0.lock().retain(|_, of| {
            of.messages.refill(MESSAGES, now_ms);
            of.reports.refill(REPORTS, now_ms);
            of.requests.refill(REQUESTS, now_ms);
            [of.messages, of.reports, of.requests].iter().any(|allowance| allowance.spent > 0)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const PACE: Pace = Pace { burst: 10, per_second: 2 };

    #[test]
    fn what_is_spent_comes_back() {
        let mut allowance = Allowance::default();
        assert_eq!(allowance.take(PACE, 7, NOW), 7);
        assert_eq!(allowance.take(PACE, 7, NOW), 3);
        assert_eq!(allowance.take(PACE, 7, NOW + 499), 0);
        assert_eq!(allowance.take(PACE, 7, NOW + 500), 1);
        assert!(!allowance.take_whole(PACE, 3, NOW + 1500));
        assert!(allowance.take_whole(PACE, 2, NOW + 1500));
        // A clock that was set back gives nothing twice.
        assert_eq!(allowance.take(PACE, 1, NOW), 0);
        assert_eq!(allowance.take(PACE, 1, NOW + 1500), 0);
        assert_eq!(allowance.take(PACE, u64::MAX, u64::MAX), 10);
        assert!(!allowance.take_whole(PACE, u64::MAX, u64::MAX));
    }

    #[test]
    fn a_node_that_floods_is_stemmed_and_others_are_not() {
        let limits = Limits::default();
        let taken =
            |node: &str, now_ms| (0..10_000).filter(|_| limits.message(node, 100, now_ms).is_ok()).count();
        assert_eq!((taken("a", NOW), taken("a", NOW + 1000)), (4096, 64));
        assert_eq!(taken("b", NOW + 1000), 4096);
        assert!(matches!(limits.message("a", 1 << 20, NOW + 1000), Err(Refused::Busy)));
        assert_eq!((limits.reports("a", 2000, NOW), limits.reports("a", 2000, NOW + 1000)), (1024, 100));
        limits.sweep(NOW + 1000);
        assert_eq!(limits.0.lock().len(), 2);
        limits.sweep(NOW + 3_600_000);
        assert!(limits.0.lock().is_empty());
    }

    #[test]
    fn a_node_has_not_served_more_than_a_node_can() {
        let limits = Limits::default();
        let told = |node: &str, requests: &[u32], now_ms| {
            let asked = |requests: &u32| Asked { resource: String::new(), requests: *requests };
            let mut demand: Vec<Asked> = requests.iter().map(asked).collect();
            let refused = limits.requests(node, &mut demand, now_ms);
            (demand.iter().map(|asked| asked.requests).collect::<Vec<_>>(), refused)
        };
        assert_eq!(told("a", &[7, 0, 30_000_000], NOW), (vec![7, 0, 30_000_000], 0));
        let most = u64::from(u32::MAX);
        assert_eq!(told("a", &[u32::MAX, 5], NOW), (vec![29_999_993, 0], most - 29_999_993 + 5));
        assert_eq!(told("a", &[100_001], NOW + 1000), (vec![100_000], 1));
        assert_eq!(told("b", &[3], NOW + 1000), (vec![3], 0));
        limits.sweep(NOW + 1000);
        assert_eq!(limits.0.lock().len(), 2);
        limits.sweep(NOW + 602_000);
        assert!(limits.0.lock().is_empty());
    }

    #[test]
    fn a_whole_list_goes_through_at_once() {
        let limits = Limits::default();
        for _ in 0..50 {
            limits.message("a", 10_000 * 200, NOW).unwrap();
            limits.holdings("a", 10_000 + 2000, NOW).unwrap();
        }
    }

    #[test]
    fn what_is_written_anew_counts_however_small_the_message() {
        let limits = Limits::default();
        let rewrites = |now_ms| {
            let whole =
                || limits.message("a", 1000, now_ms).and_then(|()| limits.holdings("a", 500_000, now_ms));
            (0..100).filter(|_| whole().is_ok()).count()
        };
        assert_eq!((rewrites(NOW), rewrites(NOW + 16_000)), (4, 1));
        limits.holdings("b", 0, NOW).unwrap();
    }
}
