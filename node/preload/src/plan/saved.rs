//! What of a plan outlives the process: the list, and a record for each entry with a story.

use serde::{Deserialize, Serialize};
use skerry_store::catalogue::CameFrom;

use super::entry::{Entry, Record};
use super::{Limits, Plan};
use crate::item::{Item, List};

/// The record of the list.
const LIST: &[u8] = b"list";
/// Before the keys of entries.
const ENTRY: &[u8] = b"item ";

/// Records to be written, or, without a value, removed.
pub type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

#[derive(Serialize, Deserialize)]
struct SavedList {
    revision: String,
    items: Vec<Item>,
}

impl Plan {
    /// A plan that goes on where the last one was written down.
    pub fn restore(limits: Limits, seed: u64, records: &[(Vec<u8>, Vec<u8>)], now_ms: u64) -> Self {
        let mut plan = Self::new(limits, seed);
        let mut list = None;
        for (key, value) in records {
            let read = if key == LIST {
                let saved = postcard::from_bytes::<SavedList>(value);
                saved.map(|SavedList { revision, items }| list = Some(List { revision, items }))
            } else {
                let record = postcard::from_bytes::<Record>(value);
                record.map(|record| drop(plan.entries.insert(record.item.source(), Entry::of(record))))
            };
            if let Err(error) = read {
                log::warn!("a record of what is to be held is left out, since it cannot be read: {error}");
            }
        }
        if let Some(list) = list {
            plan.listed(list, now_ms);
        }
        plan.changed.clear();
        plan.list_changed = false;
        plan
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::new();
        for source in std::mem::take(&mut self.changed) {
            let entry = self.entries.get(&source).filter(|entry| entry.is_worth_a_record());
            changes.push((key(&source), entry.map(|entry| pack(&entry.record))));
        }
        if std::mem::take(&mut self.list_changed) {
            let listed = self.entries.values().filter_map(|entry| Some((entry.rank?, &entry.record.item)));
            let mut listed: Vec<(u32, &Item)> = listed.collect();
            listed.sort_unstable_by_key(|(rank, _)| *rank);
            let items = listed.into_iter().map(|(_, item)| item.clone()).collect();
            let saved = SavedList { revision: self.revision.clone().unwrap_or_default(), items };
            changes.push((LIST.to_vec(), Some(pack(&saved))));
        }
        changes
    }
}

fn key(source: &CameFrom) -> Vec<u8> {
    [ENTRY, source.site.as_bytes(), b"\0", source.target.as_bytes()].concat()
}

fn pack<T: Serialize>(record: &T) -> Vec<u8> {
    postcard::to_stdvec(record).expect("numbers and texts can always be written")
}
