//! Reports of failed verifications: the last ones, in memory and as a ring in the store of records.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::KvError;
use crate::kv::{Kv, Life};
use crate::message::Report;

/// Reports that are kept.
const MOST_KEPT: usize = 1024;

/// A report, and its number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Numbers rise by one.
    pub number: u64,
    /// What was reported.
    pub report: Report,
}

struct Ring {
    kept: VecDeque<Kept>,
    next: u64,
}

/// The last reports.
pub(crate) struct Reports {
    kv: Arc<dyn Kv>,
    ring: Mutex<Ring>,
}

impl Reports {
    /// Those that are on record.
    pub(crate) fn load(kv: Arc<dyn Kv>, now_ms: u64) -> Result<Self, KvError> {
        let mut kept = Vec::new();
        kv.list("reports/", now_ms, &mut |key, entry| match serde_json::from_slice::<Kept>(&entry.value) {
            Ok(report) => kept.push(report),
            Err(error) => log::warn!(key; "a report is left out, since it cannot be read: {error}"),
        })?;
        kept.sort_unstable_by_key(|kept| kept.number);
        let next = kept.last().map_or(0, |last| last.number.saturating_add(1));
        Ok(Self { kv, ring: Mutex::new(Ring { kept: kept.into(), next }) })
    }

    /// Takes one.
    pub(crate) fn take(&self, report: Report, now_ms: u64) {
        let mut ring = self.ring.lock();
        let kept = Kept { number: ring.next, report };
        ring.next = ring.next.saturating_add(1);
        let key = format!("reports/{:04}", kept.number % MOST_KEPT as u64);
        let value = serde_json::to_vec(&kept).expect("texts and numbers can always be written");
        if ring.kept.len() >= MOST_KEPT {
            ring.kept.pop_front();
        }
        ring.kept.push_back(kept);
        drop(ring);
        if let Err(error) = self.kv.put(&key, &value, Life::forever(now_ms)) {
            log::warn!("a report is known in memory alone: {error}");
        }
    }

    /// The last ones, the newest first.
    pub(crate) fn last(&self, most: usize) -> Vec<Kept> {
        self.ring.lock().kept.iter().rev().take(most).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::MemoryKv;

    const NOW: u64 = 1_700_000_000_000;

    fn report(at_ms: u64) -> Report {
        Report { resource: "0".repeat(64), at_ms, ..Report::default() }
    }

    #[test]
    fn the_last_ones_are_kept_and_outlive_the_process() {
        let kv: Arc<dyn Kv> = Arc::new(MemoryKv::new());
        let reports = Reports::load(kv.clone(), NOW).unwrap();
        for number in 0..MOST_KEPT as u64 + 3 {
            reports.take(report(number), NOW);
        }
        let last = reports.last(usize::MAX);
        assert_eq!((last.len(), last[0].number), (MOST_KEPT, MOST_KEPT as u64 + 2));
        kv.put("reports/junk", b"{", Life::forever(NOW)).unwrap();
        let again = Reports::load(kv, NOW).unwrap();
        assert_eq!(again.last(usize::MAX), last);
        again.take(report(7), NOW);
        assert_eq!(again.last(1)[0].number, MOST_KEPT as u64 + 3);
    }
}
