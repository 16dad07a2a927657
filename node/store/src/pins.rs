//! Pins: names that hold chunks, which are then never evicted.
//!
//! A pinned chunk is copied to the pinned family and counted by the names that hold it. The copy is
//! on disk before the records are, and the records are synced, so that a pin that was acknowledged
//! survives a power cut. What is pinned as it comes, chunk by chunk, stands under names of
//! [`PART`] chunks each, so that a long one costs no more a chunk than a short one. The name itself
//! stands before its parts; chunks that come when it does not, as they may after it was let go of, are
//! the cache's.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use crate::meta::{Change, Table};
use crate::store::{Inner, Located};
use crate::{ChunkId, Store, StoreError};

/// Chunks under one name of what is pinned in parts.
const PART: u64 = 64;

impl Store {
    /// Lets chunks be pinned in parts under `name`, until it is let go of. Blocks for the log.
    pub fn open_parts_blocking(&self, name: &str) -> Result<(), StoreError> {
        let _one_at_a_time = self.inner().pins.lock();
        self.meta().put(Table::Pins, &part_prefix(name), b"")
    }

    /// Bytes that are pinned in parts under `name`. Blocks for short reads of the disk.
    pub fn pinned_in_parts_blocking(&self, name: &str) -> Result<u64, StoreError> {
        let mut ids = HashSet::new();
        self.meta().scan(Table::Pins, &part_prefix(name), |_, value| {
            ids.extend(postcard::from_bytes::<Vec<ChunkId>>(value).unwrap_or_default());
            true
        })?;
        let mut bytes = 0;
        for id in ids {
            bytes += self.meta().get(Table::PinnedChunks, &id.0)?.map_or(0, |record| record_length(&record));
        }
        Ok(bytes)
    }
}

impl Inner {
    pub(crate) fn pin(&self, name: &str, chunks: &[Located]) -> Result<(), StoreError> {
        let _one_at_a_time = self.pins.lock();
        let mut copied = Vec::new();
        let result = self.pin_locked(name, chunks, &mut copied);
        if result.is_err() {
            for id in copied {
                self.ring.delete_pinned(&id)?;
            }
        }
        result
    }

    /// Pins; the chunks it copied that were not pinned before go to `copied`.
    fn pin_locked(
        &self,
        name: &str,
        chunks: &[Located],
        copied: &mut Vec<ChunkId>,
    ) -> Result<(), StoreError> {
        let mut changes = Vec::new();
        let mut counts: HashMap<ChunkId, (u64, u64)> = HashMap::new();
        let mut added = 0;
        for chunk in chunks {
            if counts.contains_key(&chunk.id) {
                continue;
            }
            let held = self.meta.get(Table::PinnedChunks, &chunk.id.0)?;
            let held = held.as_deref().and_then(pinned_record);
            if let Some((count, length)) = held
                && self.ring.holds_pinned(&chunk.id)?
            {
                counts.insert(chunk.id, (count, length));
                continue;
            }
            let Some(bytes) =
                self.memory.get(&chunk.id).map_or_else(|| self.read_disk(*chunk), |hot| Ok(Some(hot)))?
            else {
                return Err(StoreError::Missing(chunk.id));
            };
            let length = bytes.len() as u64;
            self.copy_to_pinned(&chunk.id, &bytes, added, held.is_some())?;
            // A chunk that was pinned already and had been lost is counted already.
            if held.is_none() {
                added += length;
                copied.push(chunk.id);
            }
            counts.insert(chunk.id, (held.map_or(0, |(count, _)| count), length));
        }
        self.ring.flush_pinned()?;
        let before = self.meta.get(Table::Pins, name.as_bytes())?;
        let before: Vec<ChunkId> =
            before.and_then(|record| postcard::from_bytes(&record).ok()).unwrap_or_default();
        for id in counts.keys() {
            let (count, length) = counts[id];
            let count = count + u64::from(!before.contains(id));
            changes.push(Change::Put(Table::PinnedChunks, id.0.to_vec(), record(count, length)));
        }
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.id).collect();
        let value = postcard::to_stdvec(&ids).map_err(|_| StoreError::Record)?;
        changes.push(Change::Put(Table::Pins, name.as_bytes().to_vec(), value));
        let dropped: Vec<ChunkId> = before.into_iter().filter(|id| !counts.contains_key(id)).collect();
        let gone = self.release(&dropped, &mut changes)?;
        self.meta.write(&changes, true)?;
        self.ring.pinned.fetch_add(added, Relaxed);
        self.forget_pinned(&gone)
    }

    /// Writes a chunk to the pinned family, when there is room for it beside `added` bytes. One that is
    /// `counted` has its room.
    fn copy_to_pinned(
        &self,
        id: &ChunkId,
        bytes: &[u8],
        added: u64,
        counted: bool,
    ) -> Result<(), StoreError> {
        let asked = bytes.len() as u64;
        let used = self.ring.pinned.load(Relaxed) + added;
        if !counted && used + asked > self.config.pinned_bytes {
            return Err(StoreError::PinnedFull { used, quota: self.config.pinned_bytes, asked });
        }
        if self.free() < self.config.reserve_bytes {
            self.evict(true)?;
        }
        if self.free() < self.config.reserve_bytes {
            return Err(StoreError::DiskFull { free: self.free(), reserve: self.config.reserve_bytes });
        }
        self.ring.put_pinned(id, bytes)
    }

    pub(crate) fn pin_part(
        &self,
        name: &str,
        index: u64,
        id: ChunkId,
        bytes: &Bytes,
    ) -> Result<Located, StoreError> {
        let one_at_a_time = self.pins.lock();
        if self.meta.get(Table::Pins, &part_prefix(name))?.is_none() {
            drop(one_at_a_time);
            return self.put(id, bytes);
        }
        let id = id.kept_as(bytes.len());
        let key = part_key(name, index / PART);
        let part = self.meta.get(Table::Pins, &key)?;
        let mut part: Vec<ChunkId> =
            part.and_then(|record| postcard::from_bytes(&record).ok()).unwrap_or_default();
        let held = self.meta.get(Table::PinnedChunks, &id.0)?.as_deref().and_then(pinned_record);
        if held.is_none() || !self.ring.holds_pinned(&id)? {
            self.copy_to_pinned(&id, bytes, 0, held.is_some())?;
            self.metrics.written.inc_by(bytes.len() as u64);
        }
        self.memory.insert(id, bytes.clone(), None);
        if !part.contains(&id) {
            part.push(id);
            let value = postcard::to_stdvec(&part).map_err(|_| StoreError::Record)?;
            let (count, length) = held.unwrap_or((0, bytes.len() as u64));
            let changes = [
                Change::Put(Table::PinnedChunks, id.0.to_vec(), record(count + 1, length)),
                Change::Put(Table::Pins, key, value),
            ];
            self.meta.write(&changes, false)?;
            if held.is_none() {
                self.ring.pinned.fetch_add(length, Relaxed);
            }
        }
        Ok(Located { id, generation: None })
    }

    /// Whether chunks may be pinned in parts under a name.
    pub(crate) fn has_parts(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.meta.get(Table::Pins, &part_prefix(name))?.is_some())
    }

    /// The names that begin with `prefix` and that chunks are, or may be, pinned in parts under.
    pub(crate) fn part_names(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        self.meta.scan(Table::Pins, prefix.as_bytes(), |key, _| {
            let name = key.strip_suffix(b"\0").filter(|name| !name.contains(&0));
            names.extend(name.and_then(|name| String::from_utf8(name.to_vec()).ok()));
            true
        })?;
        Ok(names)
    }

    pub(crate) fn unpin_parts(&self, name: &str) -> Result<(), StoreError> {
        let _one_at_a_time = self.pins.lock();
        let mut parts = Vec::new();
        self.meta.scan(Table::Pins, &part_prefix(name), |key, value| {
            parts.push((key.to_vec(), postcard::from_bytes::<Vec<ChunkId>>(value).unwrap_or_default()));
            true
        })?;
        for (key, ids) in parts {
            let mut changes = vec![Change::Delete(Table::Pins, key)];
            let gone = self.release(&ids, &mut changes)?;
            self.meta.write(&changes, false)?;
            self.forget_pinned(&gone)?;
        }
        Ok(())
    }

    /// Lets go of what is pinned in parts under `name` and stands elsewhere in `chunks`, or nowhere; false
    /// when there is no such thing.
    pub(crate) fn keep_parts(&self, name: &str, chunks: &[ChunkId]) -> Result<bool, StoreError> {
        let _one_at_a_time = self.pins.lock();
        let prefix = part_prefix(name);
        let mut over = Vec::new();
        self.meta.scan(Table::Pins, &prefix, |key, value| {
            let number = key.get(prefix.len()..).and_then(|number| number.try_into().ok());
            // The name itself is no part.
            let Some(number) = number.map(u64::from_be_bytes) else { return true };
            let own = chunks.chunks(PART as usize).nth(number as usize).unwrap_or_default();
            let part = postcard::from_bytes::<Vec<ChunkId>>(value).unwrap_or_default();
            let (kept, gone): (Vec<ChunkId>, Vec<ChunkId>) =
                part.into_iter().partition(|id| own.contains(id));
            if !gone.is_empty() {
                over.push((key.to_vec(), kept, gone));
            }
            true
        })?;
        let is_over = !over.is_empty();
        for (key, kept, gone) in over {
            let value = postcard::to_stdvec(&kept).map_err(|_| StoreError::Record)?;
            let mut changes = vec![Change::Put(Table::Pins, key, value)];
            let gone = self.release(&gone, &mut changes)?;
            self.meta.write(&changes, false)?;
            self.forget_pinned(&gone)?;
        }
        Ok(is_over)
    }

    /// Whether some name pins a chunk. A copy of it that was lost is written again, in the room that it has.
    pub(crate) fn keeps_pinned(&self, id: &ChunkId, bytes: &[u8]) -> Result<bool, StoreError> {
        let is_pinned = || Ok::<_, StoreError>(self.meta.get(Table::PinnedChunks, &id.0)?.is_some());
        // Nearly always it is not, and then nobody has to wait for who is pinning.
        if self.ring.pinned.load(Relaxed) == 0 || !is_pinned()? {
            return Ok(false);
        }
        let _one_at_a_time = self.pins.lock();
        if !is_pinned()? {
            return Ok(false);
        }
        if !self.ring.holds_pinned(id)? {
            self.copy_to_pinned(id, bytes, 0, true)?;
            self.metrics.written.inc_by(bytes.len() as u64);
        }
        Ok(true)
    }

    pub(crate) fn unpin(&self, name: &str) -> Result<bool, StoreError> {
        let _one_at_a_time = self.pins.lock();
        let Some(value) = self.meta.get(Table::Pins, name.as_bytes())? else { return Ok(false) };
        let ids: Vec<ChunkId> = postcard::from_bytes(&value).map_err(|_| StoreError::Record)?;
        let mut changes = vec![Change::Delete(Table::Pins, name.as_bytes().to_vec())];
        let gone = self.release(&ids, &mut changes)?;
        self.meta.write(&changes, true)?;
        self.forget_pinned(&gone)?;
        Ok(true)
    }

    /// Adds the changes that take one pin off each chunk; returns those that no pin holds then.
    fn release(&self, ids: &[ChunkId], changes: &mut Vec<Change>) -> Result<Vec<(ChunkId, u64)>, StoreError> {
        let mut gone = Vec::new();
        let mut seen = HashSet::new();
        for id in ids.iter().filter(|id| seen.insert(**id)) {
            match self.meta.get(Table::PinnedChunks, &id.0)?.as_deref().and_then(pinned_record) {
                Some((count, length)) if count > 1 => {
                    changes.push(Change::Put(Table::PinnedChunks, id.0.to_vec(), record(count - 1, length)));
                }
                Some((_, length)) => {
                    changes.push(Change::Delete(Table::PinnedChunks, id.0.to_vec()));
                    gone.push((*id, length));
                }
                None => {}
            }
        }
        Ok(gone)
    }

    /// Removes what the pinned family holds for no pin.
    pub(crate) fn sweep_pins(&self) -> Result<(), StoreError> {
        let mut swept = 0;
        self.ring.pinned_family().ids(|id| {
            let _one_at_a_time = self.pins.lock();
            if self.meta.get(Table::PinnedChunks, &id.0)?.is_none() {
                self.ring.delete_pinned(&id)?;
                swept += 1;
            }
            Ok(true)
        })?;
        if swept == 0 { Ok(()) } else { self.ring.collect_pinned() }
    }

    fn forget_pinned(&self, gone: &[(ChunkId, u64)]) -> Result<(), StoreError> {
        for (id, length) in gone {
            self.ring.delete_pinned(id)?;
            self.ring.pinned.fetch_sub(*length, Relaxed);
        }
        Ok(())
    }
}

/// The record of a name that chunks may be pinned in parts under, and how the keys of its parts begin.
fn part_prefix(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

fn part_key(name: &str, number: u64) -> Vec<u8> {
    [part_prefix(name), number.to_be_bytes().to_vec()].concat()
}

/// How many pins hold a chunk, and its length.
fn pinned_record(value: &[u8]) -> Option<(u64, u64)> {
    let (count, length) = value.split_at_checked(8)?;
    Some((u64::from_be_bytes(count.try_into().ok()?), u64::from_be_bytes(length.try_into().ok()?)))
}

fn record(count: u64, length: u64) -> Vec<u8> {
    [count.to_be_bytes(), length.to_be_bytes()].concat()
}

/// The length of a pinned chunk, by its record.
pub(crate) fn record_length(value: &[u8]) -> u64 {
    pinned_record(value).map_or(0, |(_, length)| length)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prometheus::Registry;

    use super::*;
    use crate::StoreConfig;

    const CHUNK: u64 = 1 << 20;

    /// A store that pins two chunks.
    fn store(folder: &Path) -> Store {
        let config = StoreConfig {
            pinned_bytes: 2 * CHUNK,
            memory_tier_bytes: 0,
            reserve_bytes: 0,
            ..StoreConfig::default()
        };
        Store::open(folder, &config, &Registry::new()).unwrap()
    }

    fn chunk(number: u8) -> (ChunkId, Bytes) {
        let bytes = Bytes::from(vec![number; CHUNK as usize]);
        (ChunkId::of(&bytes), bytes)
    }

    fn pinned(store: &Store) -> u64 {
        store.inner().ring.pinned.load(Relaxed)
    }

    #[test]
    fn other_bytes_than_a_chunk_s_are_dropped_when_it_is_looked_at_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let ((first, one), (second, two)) = (chunk(1), chunk(2));
        // As a fault of the memory would leave them: sealed, and wrong.
        let wrong = store.put_blocking(first, &two).unwrap();
        let right = store.put_blocking(second, &two).unwrap();
        assert!(!store.recheck_blocking(wrong).unwrap());
        assert!(store.recheck_blocking(wrong).unwrap(), "it is gone");
        assert!(store.recheck_blocking(right).unwrap());
        assert_eq!(store.inner().read_disk(right).unwrap(), Some(two));
        let again = store.put_blocking(first, &one).unwrap();
        assert!(store.recheck_blocking(again).unwrap());
    }

    #[test]
    fn what_comes_after_its_name_was_let_go_of_is_the_cache_s() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let ((first, one), (second, two)) = (chunk(1), chunk(2));
        store.open_parts_blocking("a").unwrap();
        assert_eq!(store.pin_part_blocking("a", 0, first, &one).unwrap().generation, None);
        assert_eq!((pinned(&store), store.pinned_in_parts_blocking("a").unwrap()), (CHUNK, CHUNK));
        assert_eq!(store.inner().part_names("").unwrap(), ["a"]);

        store.unpin_parts_blocking("a").unwrap();
        assert!(store.pin_part_blocking("a", 1, second, &two).unwrap().generation.is_some());
        assert_eq!((pinned(&store), store.pinned_in_parts_blocking("a").unwrap()), (0, 0));
        assert!(store.inner().part_names("").unwrap().is_empty());
    }

    #[test]
    fn a_chunk_is_pinned_as_long_as_one_name_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let (id, bytes) = chunk(1);
        for (name, index) in [("a", 0), ("a", 1), ("a", PART), ("b", 0)] {
            store.open_parts_blocking(name).unwrap();
            store.pin_part_blocking(name, index, id, &bytes).unwrap();
        }
        assert_eq!((pinned(&store), store.pinned_in_parts_blocking("a").unwrap()), (CHUNK, CHUNK));
        store.unpin_parts_blocking("a").unwrap();
        assert!(store.inner().ring.holds_pinned(&id).unwrap());
        store.unpin_parts_blocking("b").unwrap();
        assert!(!store.inner().ring.holds_pinned(&id).unwrap());
        assert_eq!(pinned(&store), 0);
    }

    #[test]
    fn a_pinned_chunk_that_comes_again_is_not_written_beside_its_pin() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        let (id, bytes) = chunk(1);
        store.open_parts_blocking("a").unwrap();
        let located = store.pin_part_blocking("a", 0, id, &bytes).unwrap();
        let ring = &store.inner().ring;
        assert_eq!(store.put_blocking(id, &bytes).unwrap(), located);
        assert_eq!((ring.holding(&id).unwrap(), pinned(&store)), (None, CHUNK));
        // Nor when its copy was lost: it is the pin's then.
        ring.delete_pinned(&id).unwrap();
        assert_eq!(store.put_again_blocking(id, &bytes).unwrap(), located);
        assert!(ring.holds_pinned(&id).unwrap() && pinned(&store) == CHUNK);
        store.unpin_parts_blocking("a").unwrap();
        assert!(store.put_blocking(id, &bytes).unwrap().generation.is_some());
    }

    #[test]
    fn a_copy_that_was_lost_has_its_room_though_the_quota_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path());
        store.open_parts_blocking("a").unwrap();
        let pin = |number: u8| {
            let (id, bytes) = chunk(number);
            store.pin_part_blocking("a", number.into(), id, &bytes)
        };
        let first = pin(0).unwrap().id;
        pin(1).unwrap();
        assert!(matches!(pin(2), Err(StoreError::PinnedFull { .. })));
        store.inner().ring.delete_pinned(&first).unwrap();
        pin(0).unwrap();
        assert!(store.inner().ring.holds_pinned(&first).unwrap());
        assert_eq!(pinned(&store), 2 * CHUNK);
    }
}
