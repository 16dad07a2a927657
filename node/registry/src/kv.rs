//! Records under text keys: what the registry keeps, whichever engine keeps it.
//!
//! The contract is small, so that a cluster's engine (NATS JetStream key-value) can stand behind it:
//! compare-and-set by revision, lists and watches by prefix, records that expire. A key is words
//! joined by `/`, of letters, digits, `.`, `_` and `-`; a prefix ends in `/` or is empty, so that an
//! engine to which keys are trees can serve it too. Time is an argument, milliseconds since 1970; an
//! engine with a clock of its own goes by that.
//!
//! | key | value | kept |
//! |---|---|---|
//! | `nodes/ID` | JSON: what a node said last, and when | until it is revoked |
//! | `holdings/ID` | JSON: generation of its list of holdings | until it is revoked |
//! | `holdings/ID/PP` | postcard: the part of the list with resources that begin with the byte `PP` | until it is revoked |
//! | `enrolled/ID` | JSON: the region and names that the operator gave it, and its last certificates | until it is revoked |
//! | `denied/ID` | JSON: since when | for ever |
//! | `demand/OWNER/PP` | postcard: decayed counts that the control node OWNER made | for ever |
//! | `reports/NNNN` | JSON: a failed verification; a ring | until the ring comes round |
//! | `preload/...` | the preloader's | as it says |
//! | `tokens/SHA256` | JSON: what an enrolment token is for, with its configuration, and whether it was used | until it expires |

mod memory;
mod rocks;

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

pub use self::memory::MemoryKv;
pub use self::rocks::RocksKv;
use crate::error::KvError;

/// Longest key, bytes.
pub const MOST_KEY: usize = 512;
/// Largest value, bytes: what NATS takes in one message by default.
pub const MOST_VALUE: usize = 1 << 20;
/// Changes that a watcher may fall behind.
const WAITING: usize = 1024;
/// Records that are taken away in one sweep.
const MOST_SWEPT: usize = 4096;
/// The end of a record that has none.
const NEVER: u64 = u64::MAX;

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its bytes.
    pub value: Bytes,
    /// Number of the write that made it: writes of one store have rising numbers.
    pub revision: u64,
}

/// What a write asks of the record that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Nothing.
    Any,
    /// That there is none.
    Absent,
    /// That it is of this revision.
    Revision(u64),
}

impl Guard {
    fn check(self, key: &str, current: Option<u64>) -> Result<(), KvError> {
        match (self, current) {
            (Self::Absent, Some(_)) => Err(KvError::Exists(key.to_owned())),
            (Self::Revision(expected), _) if current != Some(expected) => {
                Err(KvError::Conflict { key: key.to_owned(), expected })
            }
            _ => Ok(()),
        }
    }
}

/// How long a record is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Now, milliseconds since 1970.
    pub now_ms: u64,
    /// Milliseconds from now until it is gone; `None` keeps it.
    pub ttl_ms: Option<u64>,
}

impl Life {
    /// Kept until it is deleted.
    pub fn forever(now_ms: u64) -> Self {
        Self { now_ms, ttl_ms: None }
    }

    /// Gone after so many milliseconds.
    pub fn of(ttl_ms: u64, now_ms: u64) -> Self {
        Self { now_ms, ttl_ms: Some(ttl_ms) }
    }

    fn until_ms(self) -> u64 {
        self.ttl_ms.map_or(NEVER, |ttl| self.now_ms.saturating_add(ttl))
    }
}

/// What a sweep took away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Records that had expired.
    pub ended: usize,
    /// Records, or ends of them, that cannot be read: they are in the way of no further sweep.
    pub damaged: usize,
}

/// A record that was written, or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its key.
    pub key: Arc<str>,
    /// Number of the write.
    pub revision: u64,
    /// What it is now; `None` when it was deleted or has expired.
    pub value: Option<Bytes>,
}

/// What a watcher is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// One change; they come in the order of their revisions.
    Change(Change),
    /// Changes were missed: read everything again. What is told from here on is later than this.
    Lagged,
}

/// Changes of the records below a prefix, from its creation on.
pub struct Watch {
    prefix: String,
    receiver: broadcast::Receiver<Change>,
}

impl Watch {
    fn new(prefix: &str, changes: &broadcast::Sender<Change>) -> Self {
        Self { prefix: prefix.to_owned(), receiver: changes.subscribe() }
    }

    /// What is there to be told now.
    pub fn try_next(&mut self) -> Option<Event> {
        loop {
            match self.receiver.try_recv() {
                Ok(change) if change.key.starts_with(&self.prefix) => return Some(Event::Change(change)),
                Ok(_) => {}
                Err(TryRecvError::Lagged(_)) => return Some(self.lagged()),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }

    /// Waits for the next thing to be told; `None` when the store is gone.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.receiver.recv().await {
                Ok(change) if change.key.starts_with(&self.prefix) => return Some(Event::Change(change)),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Some(self.lagged()),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn lagged(&mut self) -> Event {
        // What is still queued will be read again anyway.
        self.receiver = self.receiver.resubscribe();
        Event::Lagged
    }
}

/// A store of records. Calls may wait for a disk or the network: not for threads that serve clients.
pub trait Kv: Send + Sync + 'static {
    /// A record.
    ///
    /// # Errors
    /// When the engine fails.
    fn get(&self, key: &str, now_ms: u64) -> Result<Option<Entry>, KvError>;

    /// Calls `each` with every record below a prefix, in the order of keys.
    ///
    /// # Errors
    /// When the engine fails; some records may have been told by then.
    fn list(&self, prefix: &str, now_ms: u64, each: &mut dyn FnMut(&str, Entry)) -> Result<(), KvError>;

    /// Writes a record when the guard holds, and tells its revision. A guarded write is on the disk
    /// when this returns; an unguarded one survives a crash of the process only.
    ///
    /// # Errors
    /// When the guard does not hold, key or value are not as they may be, or the engine fails.
    fn write(&self, key: &str, value: &[u8], guard: Guard, life: Life) -> Result<u64, KvError>;

    /// Removes a record, and tells whether there was one.
    ///
    /// # Errors
    /// When the engine fails.
    fn delete(&self, key: &str) -> Result<bool, KvError>;

    /// Changes below a prefix from now on. Whoever wants all watches first, then lists.
    fn watch(&self, prefix: &str) -> Watch;

    /// Takes away records that have expired. They are not read before, too; this frees their room and tells
    /// watchers. What is damaged is passed over.
    ///
    /// # Errors
    /// When the engine fails.
    fn sweep(&self, now_ms: u64) -> Result<Swept, KvError>;

    /// Writes a record, whatever is there.
    ///
    /// # Errors
    /// As [`Kv::write`].
    fn put(&self, key: &str, value: &[u8], life: Life) -> Result<u64, KvError> {
        self.write(key, value, Guard::Any, life)
    }

    /// Writes a record that is not there.
    ///
    /// # Errors
    /// [`KvError::Exists`] when it is, and as [`Kv::write`].
    fn create(&self, key: &str, value: &[u8], life: Life) -> Result<u64, KvError> {
        self.write(key, value, Guard::Absent, life)
    }

    /// Writes a record that is still as it was read.
    ///
    /// # Errors
    /// [`KvError::Conflict`] when it is not, and as [`Kv::write`].
    fn compare_and_set(&self, key: &str, expected: u64, value: &[u8], life: Life) -> Result<u64, KvError> {
        self.write(key, value, Guard::Revision(expected), life)
    }
}

/// Whether key and value are as they may be.
fn check(key: &str, value: &[u8]) -> Result<(), KvError> {
    let word = |word: &str| {
        !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if key.len() > MOST_KEY || !key.split('/').all(word) {
        return Err(KvError::Key(key.chars().take(80).collect()));
    }
    if value.len() > MOST_VALUE {
        return Err(KvError::Large { key: key.to_owned(), bytes: value.len() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;

    fn both(test: impl Fn(&dyn Kv)) {
        test(&MemoryKv::new());
        let folder = tempfile::tempdir().unwrap();
        test(&RocksKv::open(folder.path()).unwrap());
    }

    fn keys(kv: &dyn Kv, prefix: &str, now_ms: u64) -> Vec<String> {
        let mut keys = Vec::new();
        kv.list(prefix, now_ms, &mut |key, _| keys.push(key.to_owned())).unwrap();
        keys
    }

    fn changes(watch: &mut Watch) -> Vec<(String, bool)> {
        let mut told = Vec::new();
        while let Some(event) = watch.try_next() {
            let Event::Change(change) = event else { panic!("lagged") };
            told.push((change.key.to_string(), change.value.is_some()));
        }
        told
    }

    #[test]
    fn records_are_written_read_and_deleted() {
        both(|kv| {
            assert_eq!(kv.get("nodes/a", NOW).unwrap(), None);
            let first = kv.put("nodes/a", b"1", Life::forever(NOW)).unwrap();
            let second = kv.put("nodes/a", b"2", Life::forever(NOW)).unwrap();
            assert!(second > first);
            let entry = kv.get("nodes/a", NOW).unwrap().unwrap();
            assert_eq!((entry.value.as_ref(), entry.revision), (b"2".as_slice(), second));
            kv.put("nodes/b", b"", Life::forever(NOW)).unwrap();
            kv.put("nodesb/c", b"", Life::forever(NOW)).unwrap();
            assert_eq!(keys(kv, "nodes/", NOW), ["nodes/a", "nodes/b"]);
            assert_eq!(keys(kv, "", NOW).len(), 3);
            assert!(kv.delete("nodes/a").unwrap() && !kv.delete("nodes/a").unwrap());
            assert_eq!(keys(kv, "nodes/", NOW), ["nodes/b"]);
        });
    }

    #[test]
    fn only_one_of_two_writers_wins() {
        both(|kv| {
            let life = Life::forever(NOW);
            let first = kv.create("tokens/a", b"new", life).unwrap();
            assert!(matches!(kv.create("tokens/a", b"new", life), Err(KvError::Exists(_))));
            let second = kv.compare_and_set("tokens/a", first, b"used", life).unwrap();
            let late = kv.compare_and_set("tokens/a", first, b"used", life);
            assert!(matches!(late, Err(KvError::Conflict { expected, .. }) if expected == first));
            assert_eq!(kv.get("tokens/a", NOW).unwrap().unwrap().revision, second);
            kv.delete("tokens/a").unwrap();
            assert!(kv.compare_and_set("tokens/a", second, b"used", life).is_err());
        });
    }

    #[test]
    fn records_expire_and_watchers_hear_of_it() {
        both(|kv| {
            let mut watch = kv.watch("tokens/");
            kv.create("tokens/a", b"1", Life::of(1000, NOW)).unwrap();
            kv.put("tokens/b", b"1", Life::of(1000, NOW)).unwrap();
            // Written again, it has a longer life.
            kv.put("tokens/b", b"2", Life::of(5000, NOW)).unwrap();
            assert!(kv.get("tokens/a", NOW + 999).unwrap().is_some());
            assert!(kv.get("tokens/a", NOW + 1000).unwrap().is_none());
            assert_eq!(keys(kv, "tokens/", NOW + 1000), ["tokens/b"]);
            assert_eq!(kv.sweep(NOW + 999).unwrap().ended, 0);
            assert_eq!(kv.sweep(NOW + 1000).unwrap().ended, 1);
            assert_eq!(kv.sweep(NOW + 1000).unwrap().ended, 0);
            let told = changes(&mut watch);
            assert_eq!(told.last(), Some(&("tokens/a".to_owned(), false)));
            assert_eq!(told.len(), 4);
            // What has expired and is not swept yet is not in the way of a new one.
            kv.create("tokens/b", b"3", Life::forever(NOW + 5000)).unwrap();
            assert_eq!(kv.sweep(u64::MAX - 1).unwrap().ended, 0);
        });
    }

    #[test]
    fn watchers_hear_of_their_prefix_only() {
        both(|kv| {
            kv.put("nodes/before", b"", Life::forever(NOW)).unwrap();
            let mut watch = kv.watch("nodes/");
            kv.put("nodes/a", b"", Life::forever(NOW)).unwrap();
            kv.put("denied/a", b"", Life::forever(NOW)).unwrap();
            kv.delete("nodes/a").unwrap();
            kv.delete("nodes/a").unwrap();
            assert_eq!(changes(&mut watch), [("nodes/a".to_owned(), true), ("nodes/a".to_owned(), false)]);
        });
    }

    #[test]
    fn a_watcher_that_lags_is_told_so_once() {
        let kv = MemoryKv::new();
        let mut watch = kv.watch("");
        for _ in 0..=WAITING {
            kv.put("a", b"", Life::forever(NOW)).unwrap();
        }
        assert_eq!(watch.try_next(), Some(Event::Lagged));
        assert_eq!(watch.try_next(), None);
        kv.put("b", b"", Life::forever(NOW)).unwrap();
        assert_eq!(changes(&mut watch), [("b".to_owned(), true)]);
    }

    #[tokio::test]
    async fn a_watcher_can_wait() {
        let kv = MemoryKv::new();
        let mut watch = kv.watch("a");
        kv.put("b", b"", Life::forever(NOW)).unwrap();
        kv.put("a", b"1", Life::forever(NOW)).unwrap();
        let Some(Event::Change(change)) = watch.next().await else { panic!("no change") };
        assert_eq!(change.value.as_deref(), Some(b"1".as_slice()));
        drop(kv);
        assert_eq!(watch.next().await, None);
    }

    #[test]
    fn keys_and_values_are_bounded() {
        both(|kv| {
            for key in ["", "/", "a/", "/a", "a//b", "a b", "a/\u{e9}", "a\n", &"a".repeat(MOST_KEY + 1)] {
                assert!(matches!(kv.put(key, b"", Life::forever(NOW)), Err(KvError::Key(_))), "{key}");
            }
            let large = vec![0; MOST_VALUE + 1];
            assert!(matches!(kv.put("a", &large, Life::forever(NOW)), Err(KvError::Large { .. })));
            kv.put("a", &large[1..], Life::forever(NOW)).unwrap();
        });
    }
}
