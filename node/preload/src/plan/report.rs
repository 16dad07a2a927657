//! How far a node is with its list, in numbers.

use serde::Serialize;

use super::Plan;
use super::entry::{Doing, Entry};
use crate::item::Item;
use crate::told::UnderWay;

/// All entries added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Items of the list.
    pub listed: u64,
    /// Their bytes, as far as lengths are known.
    pub listed_bytes: u64,
    /// Listed items that are held, complete.
    pub held: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// What is still to come of the others, bytes.
    pub missing_bytes: u64,
    /// Items that are being fetched.
    pub fetching: u64,
    /// Items whose turn has not come.
    pub waiting: u64,
    /// Items that failed, and wait to be tried again.
    pub failing: u64,
    /// Items that there is no room for.
    pub no_room: u64,
    /// What is off the list, and not let go of yet.
    pub left: u64,
    /// Its bytes.
    pub left_bytes: u64,
    /// Bytes that are held by the preloader, and that nobody has asked for since.
    pub unasked_bytes: u64,
}

/// How one item stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The item.
    pub item: Item,
    /// `fetching`, `waiting`, `failing` or `no-room`.
    pub state: &'static str,
    /// What is there of it, bytes.
    pub received_bytes: u64,
    /// Its length, bytes; 0 is unknown.
    pub length: u64,
    /// Failures in a row.
    pub attempts: u32,
    /// Why the last one failed.
    pub failure: Option<String>,
    /// When it may be tried again, milliseconds since 1970.
    pub not_before_ms: u64,
}

impl Standing {
    /// As the planner is told it.
    pub fn told(&self) -> UnderWay {
        UnderWay {
            site: self.item.site.clone(),
            path: self.item.path.clone(),
            received_bytes: self.received_bytes,
            length: self.length,
            attempts: self.attempts,
            failure: self.failure.clone(),
        }
    }
}

fn state(entry: &Entry) -> &'static str {
    match entry.doing {
        Doing::Fetching | Doing::Stopping => "fetching",
        _ if entry.no_room => "no-room",
        _ if entry.record.attempts > 0 => "failing",
        _ => "waiting",
    }
}

impl Plan {
    /// All of it added up.
    pub fn report(&self) -> Report {
        let add = |sum: &mut u64, bytes: u64| *sum = sum.saturating_add(bytes);
        let mut report = Report::default();
        for entry in self.entries.values() {
            if let Some(kept) = entry.kept.filter(|kept| kept.ours && !entry.record.asked) {
                add(&mut report.unasked_bytes, kept.length);
            }
            if !entry.is_listed() {
                report.left += 1;
                add(&mut report.left_bytes, entry.takes());
                continue;
            }
            report.listed += 1;
            add(&mut report.listed_bytes, entry.length());
            if let Some(kept) = entry.kept {
                report.held += 1;
                add(&mut report.held_bytes, kept.length);
                continue;
            }
            add(&mut report.missing_bytes, entry.length().saturating_sub(entry.record.received));
            match state(entry) {
                "fetching" => report.fetching += 1,
                "no-room" => report.no_room += 1,
                "failing" => report.failing += 1,
                _ => report.waiting += 1,
            }
        }
        report
    }

    /// Listed items that are not held, in the order of the list: all that are not merely waiting, and of
    /// those that wait as many as there is room for among `most`.
    pub fn standings(&self, most: usize) -> Vec<Standing> {
        let missing = self.entries.values().filter(|entry| entry.is_listed() && entry.kept.is_none());
        let mut missing: Vec<&Entry> = missing.collect();
        missing.sort_unstable_by_key(|entry| (state(entry) == "waiting", entry.rank));
        missing.truncate(most);
        missing.sort_unstable_by_key(|entry| entry.rank);
        let standing = |entry: &Entry| Standing {
            item: entry.record.item.clone(),
            state: state(entry),
            received_bytes: entry.record.received,
            length: entry.length(),
            attempts: entry.record.attempts,
            failure: entry.record.failure.clone(),
            not_before_ms: entry.record.not_before_ms,
        };
        missing.into_iter().map(standing).collect()
    }
}
