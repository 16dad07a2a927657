//! Records in RocksDB: the registry of one control node.
//!
//! One database, keys told apart by their first byte:
//!
//! | key | value |
//! |---|---|
//! | `f` | format of all this, 4 bytes |
//! | `r` | revision of the last write, 8 bytes |
//! | `d` KEY | a record: its revision and its end, 8 bytes each, then its value |
//! | `e` END KEY | nothing: records with an end, 8 bytes, in its order |
//!
//! Numbers are big-endian. Every write is one batch of all that changes.

use std::path::Path;

use bytes::Bytes;
use parking_lot::Mutex;
use rust_rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, WriteBatch,
    WriteOptions,
};
use tokio::sync::broadcast;

use super::{Change, Entry, Guard, Kv, Life, MOST_SWEPT, NEVER, Swept, WAITING, Watch, check};
use crate::error::KvError;

/// Folder below the node's `data_dir`.
const FOLDER: &str = "registry";
/// What this version writes; a later format is refused.
const FORMAT: u32 = 1;
const FORMAT_KEY: &[u8] = b"f";
const REVISION_KEY: &[u8] = b"r";
const RECORDS: u8 = b'd';
const ENDS: u8 = b'e';
/// Length of a record before its value, bytes.
const HEAD: usize = 16;
const BLOCK_CACHE: usize = 16 << 20;
const MEMTABLE: usize = 8 << 20;
/// Bounds what is replayed when the node starts after a crash.
const LOG: u64 = 32 << 20;

/// A store on the disk of this node.
pub struct RocksKv {
    db: DB,
    /// Revision of the last write; held while one is made.
    revision: Mutex<u64>,
    changes: broadcast::Sender<Change>,
}

impl RocksKv {
    /// Opens the store below a node's `data_dir`, or makes it.
    ///
    /// # Errors
    /// When the folder cannot be used, another process has it open, or a later version wrote it.
    pub fn open(data_dir: &Path) -> Result<Self, KvError> {
        let path = data_dir.join(FOLDER);
        std::fs::create_dir_all(&path).map_err(|source| KvError::Folder { path: path.clone(), source })?;
        let db =
            DB::open(&options(), &path).map_err(|source| KvError::Open { path: path.clone(), source })?;
        match db.get(FORMAT_KEY)? {
            None => db.put(FORMAT_KEY, FORMAT.to_be_bytes())?,
            Some(bytes) => {
                let found = bytes.as_slice().try_into().map(u32::from_be_bytes);
                let found = found.map_err(|_| KvError::Record("its format".into()))?;
                if found > FORMAT {
                    return Err(KvError::Format { path, found, known: FORMAT });
                }
            }
        }
        let revision = match db.get(REVISION_KEY)? {
            None => 0,
            Some(bytes) => {
                let revision = bytes.as_slice().try_into().map(u64::from_be_bytes);
                revision.map_err(|_| KvError::Record("its revision".into()))?
            }
        };
        Ok(Self { db, revision: Mutex::new(revision), changes: broadcast::Sender::new(WAITING) })
    }

    fn read(&self, key: &str) -> Result<Option<Record>, KvError> {
        let bytes = self.db.get(record_key(key))?;
        bytes.map(|bytes| Record::unpack(key, bytes.into())).transpose()
    }

    /// Takes a record away; the caller holds the revision.
    fn remove(&self, key: &str, until_ms: u64, revision: &mut u64) -> Result<(), KvError> {
        let next = *revision + 1;
        let mut batch = WriteBatch::default();
        batch.delete(record_key(key));
        if until_ms != NEVER {
            batch.delete(end_key(until_ms, key));
        }
        batch.put(REVISION_KEY, next.to_be_bytes());
        self.db.write(&batch)?;
        *revision = next;
        self.tell(Change { key: key.into(), revision: next, value: None });
        Ok(())
    }

    /// Told while the revision is held, so that changes come in its order.
    fn tell(&self, change: Change) {
        // Nobody may be watching.
        let _ = self.changes.send(change);
    }
}

fn options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_max_total_wal_size(LOG);
    options.set_max_open_files(128);
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options.set_write_buffer_size(MEMTABLE);
    options.set_compression_type(DBCompressionType::None);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE));
    table.set_format_version(6);
    options.set_block_based_table_factory(&table);
    options
}

struct Record {
    entry: Entry,
    until_ms: u64,
}

impl Record {
    fn pack(revision: u64, until_ms: u64, value: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + value.len());
        bytes.extend_from_slice(&revision.to_be_bytes());
        bytes.extend_from_slice(&until_ms.to_be_bytes());
        bytes.extend_from_slice(value);
        bytes
    }

    fn unpack(key: &str, bytes: Bytes) -> Result<Self, KvError> {
        let number = |at: usize| {
            let bytes = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u64::from_be_bytes).ok_or_else(|| KvError::Record(key.to_owned()))
        };
        let (revision, until_ms) = (number(0)?, number(8)?);
        Ok(Self { entry: Entry { value: bytes.slice(HEAD..), revision }, until_ms })
    }
}

fn record_key(key: &str) -> Vec<u8> {
    [[RECORDS].as_slice(), key.as_bytes()].concat()
}

fn end_key(until_ms: u64, key: &str) -> Vec<u8> {
    [[ENDS].as_slice(), &until_ms.to_be_bytes(), key.as_bytes()].concat()
}

/// The end and the record of an [`end_key`].
fn end_of(row: &[u8]) -> Option<(u64, &str)> {
    let (until_ms, key) = row.get(1..)?.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*until_ms), std::str::from_utf8(key).ok()?))
}

impl Kv for RocksKv {
    fn get(&self, key: &str, now_ms: u64) -> Result<Option<Entry>, KvError> {
        let record = self.read(key)?.filter(|record| record.until_ms > now_ms);
        Ok(record.map(|record| record.entry))
    }

    fn list(&self, prefix: &str, now_ms: u64, each: &mut dyn FnMut(&str, Entry)) -> Result<(), KvError> {
        let first = record_key(prefix);
        for row in self.db.iterator(IteratorMode::From(&first, Direction::Forward)) {
            let (key, value) = row?;
            if !key.starts_with(&first) {
                break;
            }
            let key = std::str::from_utf8(&key[1..]).map_err(|_| KvError::Record(prefix.to_owned()))?;
            let record = Record::unpack(key, value.into())?;
            if record.until_ms > now_ms {
                each(key, record.entry);
            }
        }
        Ok(())
    }

    fn write(&self, key: &str, value: &[u8], guard: Guard, life: Life) -> Result<u64, KvError> {
        check(key, value)?;
        let mut revision = self.revision.lock();
        let before = self.read(key)?;
        let current = before.as_ref().filter(|record| record.until_ms > life.now_ms);
        guard.check(key, current.map(|record| record.entry.revision))?;
        let next = *revision + 1;
        let until_ms = life.until_ms();
        let mut batch = WriteBatch::default();
        if let Some(before) = &before
            && before.until_ms != NEVER
        {
            batch.delete(end_key(before.until_ms, key));
        }
        if until_ms != NEVER {
            batch.put(end_key(until_ms, key), b"");
        }
        batch.put(record_key(key), Record::pack(next, until_ms, value));
        batch.put(REVISION_KEY, next.to_be_bytes());
        let mut options = WriteOptions::default();
        options.set_sync(guard != Guard::Any);
        self.db.write_opt(&batch, &options)?;
        *revision = next;
        self.tell(Change { key: key.into(), revision: next, value: Some(Bytes::copy_from_slice(value)) });
        Ok(next)
    }

    fn delete(&self, key: &str) -> Result<bool, KvError> {
        let mut revision = self.revision.lock();
        let Some(before) = self.read(key)? else { return Ok(false) };
        self.remove(key, before.until_ms, &mut revision)?;
        Ok(true)
    }

    fn watch(&self, prefix: &str) -> Watch {
        Watch::new(prefix, &self.changes)
    }

    fn sweep(&self, now_ms: u64) -> Result<Swept, KvError> {
        let (mut ended, mut damaged) = (Vec::new(), Vec::new());
        for row in self.db.iterator(IteratorMode::From(&[ENDS], Direction::Forward)).take(MOST_SWEPT) {
            let (row, _) = row?;
            if row.first() != Some(&ENDS) {
                break;
            }
            match end_of(&row) {
                Some((until_ms, _)) if until_ms > now_ms => break,
                Some((until_ms, key)) => ended.push((until_ms, key.to_owned())),
                None => damaged.push(row),
            }
        }
        let mut swept = Swept { ended: ended.len(), damaged: damaged.len() };
        for (until_ms, key) in &ended {
            let mut revision = self.revision.lock();
            match self.read(key) {
                Ok(Some(record)) if record.until_ms == *until_ms => {
                    self.remove(key, *until_ms, &mut revision)?;
                    continue;
                }
                // Written again meanwhile, it has another end.
                Ok(_) => {}
                Err(KvError::Record(_)) => swept.damaged += 1,
                Err(error) => return Err(error),
            }
            self.db.delete(end_key(*until_ms, key))?;
        }
        for row in &damaged {
            self.db.delete(row)?;
        }
        if swept.damaged > 0 {
            log::error!(
                "{} records of the registry were to expire and cannot be read; they are passed over",
                swept.damaged
            );
        }
        Ok(swept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_and_revisions_outlive_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let kv = RocksKv::open(folder.path()).unwrap();
        let before = kv.put("nodes/a", b"1", Life::forever(1)).unwrap();
        kv.put("tokens/a", b"1", Life::of(10, 1)).unwrap();
        drop(kv);
        let kv = RocksKv::open(folder.path()).unwrap();
        assert_eq!(kv.get("nodes/a", 1).unwrap().unwrap().revision, before);
        assert!(kv.put("nodes/a", b"2", Life::forever(1)).unwrap() > before);
        assert_eq!(kv.sweep(11).unwrap().ended, 1);
    }

    #[test]
    fn a_later_format_is_refused_and_said_so() {
        let folder = tempfile::tempdir().unwrap();
        let kv = RocksKv::open(folder.path()).unwrap();
        kv.db.put(FORMAT_KEY, (FORMAT + 1).to_be_bytes()).unwrap();
        drop(kv);
        let error = RocksKv::open(folder.path()).err().unwrap();
        assert!(matches!(&error, KvError::Format { found, .. } if *found == FORMAT + 1), "{error}");
    }

    #[test]
    fn a_damaged_record_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let kv = RocksKv::open(folder.path()).unwrap();
        kv.db.put(record_key("nodes/a"), b"short").unwrap();
        assert!(matches!(kv.get("nodes/a", 1), Err(KvError::Record(key)) if key == "nodes/a"));
        assert!(kv.list("nodes/", 1, &mut |_, _| {}).is_err());
    }

    #[test]
    fn what_is_damaged_is_in_the_way_of_one_sweep() {
        let folder = tempfile::tempdir().unwrap();
        let kv = RocksKv::open(folder.path()).unwrap();
        for row in [b"e".as_slice(), b"e\0\0\0", b"e\0\0\0\0\0\0\0\x02\xff"] {
            kv.db.put(row, b"").unwrap();
        }
        for key in ["tokens/a", "tokens/b", "tokens/c"] {
            kv.put(key, b"1", Life::of(10, 1)).unwrap();
        }
        kv.db.put(record_key("tokens/b"), b"short").unwrap();
        assert_eq!(kv.sweep(11).unwrap(), Swept { ended: 3, damaged: 4 });
        assert_eq!(kv.sweep(11).unwrap(), Swept::default());
        assert!(kv.get("tokens/a", 1).unwrap().is_none() && kv.get("tokens/c", 1).unwrap().is_none());
    }

    #[test]
    fn two_processes_cannot_have_it() {
        let folder = tempfile::tempdir().unwrap();
        let _first = RocksKv::open(folder.path()).unwrap();
        assert!(matches!(RocksKv::open(folder.path()), Err(KvError::Open { .. })));
    }
}
