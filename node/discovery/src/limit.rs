//! So many datagrams in a second, and of one address a share of them: what strangers send costs no more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// One address gets this part of all.
const SHARE: u32 = 10;

/// Counts what comes in a second.
#[derive(Debug)]
pub(crate) struct Limit {
    most: u32,
    second: Mutex<Second>,
}

#[derive(Debug, Default)]
struct Second {
    began: Option<Instant>,
    all: u32,
    /// No more than `all` entries.
    by: HashMap<IpAddr, u32>,
}

impl Limit {
    /// At most so many in a second.
    pub(crate) fn new(most: u32) -> Self {
        Self { most, second: Mutex::default() }
    }

    /// Whether one more may come from there; it is counted then.
    pub(crate) fn allows(&self, from: IpAddr, now: Instant) -> bool {
        let mut second = self.second.lock();
        let is_over = second.began.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1));
        if is_over {
            second.began = Some(now);
            second.all = 0;
            second.by.clear();
        }
        if second.all >= self.most {
            return false;
        }
        let count = second.by.entry(from).or_default();
        if *count >= (self.most / SHARE).max(1) {
            return false;
        }
        *count += 1;
        second.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_a_share_and_all_have_a_limit() {
        let (limit, start) = (Limit::new(20), Instant::now());
        let from = |last: u8| IpAddr::from([192, 0, 2, last]);
        let taken = |last: u8, now| (0..100).filter(|_| limit.allows(from(last), now)).count();
        assert_eq!((taken(1, start), taken(1, start)), (2, 0));
        assert_eq!((2..50).map(|last| taken(last, start)).sum::<usize>(), 18);
        assert_eq!(taken(1, start + Duration::from_millis(999)), 0);
        assert_eq!(taken(1, start + Duration::from_secs(1)), 2);
        assert_eq!(limit.second.lock().by.len(), 1);
        let one = Limit::new(1);
        assert_eq!((0..9).filter(|_| one.allows(from(1), start)).count(), 1);
    }
}
