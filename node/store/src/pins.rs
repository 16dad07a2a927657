//! Pins: names that hold chunks, which are then never evicted.
//!
//! A pinned chunk is copied to the pinned family and counted by the names that hold it. The copy is
//! on disk before the records are, and the records are synced, so that a pin that was acknowledged
//! survives a power cut.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use crate::meta::{Change, Table};
use crate::store::{Inner, Located};
use crate::{ChunkId, StoreError};

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
            let used = self.ring.pinned.load(Relaxed) + added;
            if used + length > self.config.pinned_bytes {
                return Err(StoreError::PinnedFull { used, quota: self.config.pinned_bytes, asked: length });
            }
            if self.free() < self.config.reserve_bytes {
                self.evict(true)?;
            }
            if self.free() < self.config.reserve_bytes {
                return Err(StoreError::DiskFull { free: self.free(), reserve: self.config.reserve_bytes });
            }
            self.ring.put_pinned(&chunk.id, &bytes)?;
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
        let mut seen = std::collections::HashSet::new();
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
