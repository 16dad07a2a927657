//! Records in memory alone: for tests and the simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::{Change, Entry, Guard, Kv, Life, MOST_SWEPT, NEVER, Swept, WAITING, Watch, check};
use crate::error::KvError;

struct Record {
    entry: Entry,
    until_ms: u64,
}

#[derive(Default)]
struct Records {
    by_key: BTreeMap<Arc<str>, Record>,
    by_end: BTreeSet<(u64, Arc<str>)>,
    revision: u64,
}

impl Records {
    fn remove(&mut self, key: &str) -> Option<Change> {
        let (key, record) = self.by_key.remove_entry(key)?;
        self.by_end.remove(&(record.until_ms, key.clone()));
        self.revision += 1;
        Some(Change { key, revision: self.revision, value: None })
    }
}

/// A store that is gone with the process.
pub struct MemoryKv {
    records: Mutex<Records>,
    changes: broadcast::Sender<Change>,
}

impl Default for MemoryKv {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryKv {
    /// An empty store.
    pub fn new() -> Self {
        Self { records: Mutex::default(), changes: broadcast::Sender::new(WAITING) }
    }

    /// Told while the records are locked, so that changes come in the order of their revisions.
    fn tell(&self, change: Change) {
        // Nobody may be watching.
        let _ = self.changes.send(change);
    }
}

impl Kv for MemoryKv {
    fn get(&self, key: &str, now_ms: u64) -> Result<Option<Entry>, KvError> {
        let records = self.records.lock();
        let record = records.by_key.get(key).filter(|record| record.until_ms > now_ms);
        Ok(record.map(|record| record.entry.clone()))
    }

    fn list(&self, prefix: &str, now_ms: u64, each: &mut dyn FnMut(&str, Entry)) -> Result<(), KvError> {
        let records = self.records.lock();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let below = records.by_key.range::<str, _>(from).take_while(|(key, _)| key.starts_with(prefix));
        let current = below.filter(|(_, record)| record.until_ms > now_ms);
        let list: Vec<_> = current.map(|(key, record)| (key.clone(), record.entry.clone())).collect();
        // `each` may want to write.
        drop(records);
        for (key, entry) in list {
            each(&key, entry);
        }
        Ok(())
    }

    fn write(&self, key: &str, value: &[u8], guard: Guard, life: Life) -> Result<u64, KvError> {
        check(key, value)?;
        let mut records = self.records.lock();
        let before = records.by_key.get(key).map(|record| (record.until_ms, record.entry.revision));
        let current = before.filter(|(until_ms, _)| *until_ms > life.now_ms).map(|(_, revision)| revision);
        guard.check(key, current)?;
        let key: Arc<str> = key.into();
        if let Some((until_ms, _)) = before {
            records.by_end.remove(&(until_ms, key.clone()));
        }
        records.revision += 1;
        let revision = records.revision;
        let value = Bytes::copy_from_slice(value);
        let until_ms = life.until_ms();
        if until_ms != NEVER {
            records.by_end.insert((until_ms, key.clone()));
        }
        let entry = Entry { value: value.clone(), revision };
        records.by_key.insert(key.clone(), Record { entry, until_ms });
        self.tell(Change { key, revision, value: Some(value) });
        Ok(revision)
    }

    fn delete(&self, key: &str) -> Result<bool, KvError> {
        let mut records = self.records.lock();
        let removed = records.remove(key);
        let was_there = removed.is_some();
        if let Some(change) = removed {
            self.tell(change);
        }
        Ok(was_there)
    }

    fn watch(&self, prefix: &str) -> Watch {
        Watch::new(prefix, &self.changes)
    }

    fn sweep(&self, now_ms: u64) -> Result<Swept, KvError> {
        let mut records = self.records.lock();
        let ended = records.by_end.iter().take_while(|(until_ms, _)| *until_ms <= now_ms).take(MOST_SWEPT);
        let ended: Vec<Arc<str>> = ended.map(|(_, key)| key.clone()).collect();
        for key in &ended {
            if let Some(change) = records.remove(key) {
                self.tell(change);
            }
        }
        Ok(Swept { ended: ended.len(), damaged: 0 })
    }
}
