//! What waits to be told with a beat: counts of requests and clients' reports, bounded.

use std::collections::{HashMap, VecDeque};

use crate::message::{Asked, Report};

/// Resources whose requests are counted until they are told.
const MOST_COUNTS: usize = 65_536;
/// Reports that wait.
const MOST_WAITING: usize = 1024;
/// Counts that are worth a beat of their own.
const LARGE: usize = 4096;

/// Counts and reports that go together, and count once.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) asked: Vec<Asked>,
    pub(super) reports: Vec<Report>,
}

#[derive(Default)]
pub(super) struct Queue {
    asked: HashMap<String, u32>,
    reports: VecDeque<Report>,
    /// The batch that is sent until it is answered.
    sent: Option<Batch>,
    number: u64,
    dropped: (u64, u64),
}

impl Queue {
    pub(super) fn ask(&mut self, resource: &str, requests: u32) {
        if let Some(count) = self.asked.get_mut(resource) {
            *count = count.saturating_add(requests);
        } else if self.asked.len() < MOST_COUNTS {
            self.asked.insert(resource.to_owned(), requests);
        } else {
            self.dropped.0 += 1;
        }
    }

    /// The oldest makes room for the newest.
    pub(super) fn report(&mut self, report: Report) {
        if self.reports.len() >= MOST_WAITING {
            self.reports.pop_front();
            self.dropped.1 += 1;
        }
        self.reports.push_back(report);
    }

    /// The batch that was sent and not answered, as it was, or the next one.
    pub(super) fn batch(&mut self, most_asked: usize, most_reports: usize) -> Batch {
        if let Some(sent) = &self.sent {
            return sent.clone();
        }
        self.number += 1;
        let resources: Vec<String> = self.asked.keys().take(most_asked).cloned().collect();
        let taken = resources.into_iter().filter_map(|resource| self.asked.remove_entry(&resource));
        let asked = taken.map(|(resource, requests)| Asked { resource, requests }).collect();
        let reports = self.reports.drain(..self.reports.len().min(most_reports)).collect();
        let batch = Batch { number: self.number, asked, reports };
        self.sent = Some(batch.clone());
        batch
    }

    /// The batch that was sent is known.
    pub(super) fn told(&mut self) {
        self.sent = None;
    }

    /// Whether so much waits that it should not wait for the next interval.
    pub(super) fn is_large(&self) -> bool {
        self.asked.len() >= LARGE || !self.reports.is_empty()
    }

    /// Counts and reports, those of the batch on its way included.
    pub(super) fn len(&self) -> (usize, usize) {
        let sent = self.sent.as_ref().map_or((0, 0), |sent| (sent.asked.len(), sent.reports.len()));
        (self.asked.len() + sent.0, self.reports.len() + sent.1)
    }

    pub(super) fn take_dropped(&mut self) -> (u64, u64) {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_stays_as_it_is_until_it_is_told() {
        let mut queue = Queue::default();
        queue.ask("a", 1);
        queue.report(Report::default());
        let first = queue.batch(10, 10);
        queue.ask("a", 5);
        let again = queue.batch(10, 10);
        assert_eq!((again.number, again.asked.clone()), (first.number, first.asked));
        assert_eq!((again.asked[0].requests, again.reports.len(), queue.len()), (1, 1, (2, 1)));
        queue.told();
        let next = queue.batch(10, 10);
        assert_eq!((next.number, next.asked[0].requests, next.reports.len()), (first.number + 1, 5, 0));
    }

    #[test]
    fn what_waits_is_bounded() {
        let mut queue = Queue::default();
        for number in 0..MOST_COUNTS + 3 {
            queue.ask(&number.to_string(), 1);
        }
        queue.ask("0", u32::MAX);
        for at_ms in 0..MOST_WAITING as u64 + 2 {
            queue.report(Report { at_ms, ..Report::default() });
        }
        assert_eq!((queue.len(), queue.take_dropped()), ((MOST_COUNTS, MOST_WAITING), (3, 2)));
        assert_eq!(queue.take_dropped(), (0, 0));
        assert!(queue.is_large());
        let batch = queue.batch(100, 10);
        assert_eq!((batch.asked.len(), batch.reports.len(), batch.reports[0].at_ms), (100, 10, 2));
    }
}
