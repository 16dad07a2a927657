//! Room for new chunks: what the disk has, what the ring may take, what goes first.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::meta::{Change, Table};
use crate::store::{Inner, Located};
use crate::{ChunkId, StoreError};

/// How often the free space of the disk is asked for while chunks are written.
const SPACE_CHECK: Duration = Duration::from_millis(100);
/// How long evictions rest after one that failed.
const REST: Duration = Duration::from_secs(30);

/// What is known of the disk.
pub(crate) struct Space {
    checked: Option<Instant>,
    free: u64,
    /// Nothing is evicted before: the disk would not let it be.
    rest: Option<Instant>,
}

impl Default for Space {
    fn default() -> Self {
        Self { checked: None, free: u64::MAX, rest: None }
    }
}

impl Inner {
    /// Writes a chunk to the ring, after making room for it. One that is pinned is not written beside its
    /// pinned copy: it may go when its pins do. Blocks.
    pub(crate) fn put(&self, id: ChunkId, bytes: &Bytes) -> Result<Located, StoreError> {
        let id = id.kept_as(bytes.len());
        if self.keeps_pinned(&id, bytes)? {
            self.memory.insert(id, bytes.clone(), None);
            return Ok(Located { id, generation: None });
        }
        let pressed = self.free() < self.config.reserve_bytes;
        self.evict(pressed)?;
        if pressed && self.free() < self.config.reserve_bytes {
            return Err(StoreError::DiskFull { free: self.free(), reserve: self.config.reserve_bytes });
        }
        let generation = self.ring.put(&id, bytes)?;
        self.metrics.written.inc_by(bytes.len() as u64);
        self.memory.insert(id, bytes.clone(), generation);
        Ok(Located { id, generation })
    }

    /// Writes a chunk again that was gone, unless somebody has done so meanwhile. Where it is goes on
    /// record: who knows of it knows of another generation. Blocks.
    pub(crate) fn put_again(&self, id: ChunkId, bytes: &Bytes) -> Result<Located, StoreError> {
        let kept = id.kept_as(bytes.len());
        let located = match self.ring.holding(&kept)? {
            Some(number) => Located { id: kept, generation: Some(number) },
            None => self.put(id, bytes)?,
        };
        if let Some(number) = located.generation {
            self.meta.put(Table::Saved, &kept.0, &number.to_be_bytes())?;
        }
        Ok(located)
    }

    /// Drops generations until the ring is within its share; hot chunks are written again first.
    pub(crate) fn evict(&self, pressed: bool) -> Result<(), StoreError> {
        while let Some(number) = self.ring.overgrown(pressed)? {
            if self.space.lock().rest.is_some_and(|end| Instant::now() < end)
                || self.evicting.swap(true, Relaxed)
            {
                return Ok(());
            }
            let result = self.evict_generation(number, pressed);
            self.evicting.store(false, Relaxed);
            if result.is_err() {
                self.space.lock().rest = Some(Instant::now() + REST);
            }
            result?;
            if pressed {
                break;
            }
        }
        Ok(())
    }

    fn evict_generation(&self, number: u64, pressed: bool) -> Result<(), StoreError> {
        if !pressed && let Err(error) = self.save_hot(number) {
            log::debug!(generation = number; "hot chunks go with their generation: {error}");
        }
        let dropped = self.ring.drop_generation(number)?;
        self.metrics.evictions.inc_by(dropped.chunks);
        self.space.lock().checked = None;
        log::debug!(generation = number, chunks = dropped.chunks; "evicted a generation");
        if let Err(error) = self.forget_saved(number) {
            log::debug!(generation = number; "what was saved into it stays on record: {error}");
        }
        Ok(())
    }

    /// Forgets what was saved into generations up to `number`: it went with them.
    fn forget_saved(&self, number: u64) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        self.meta.scan(Table::Saved, b"", |id, generation| {
            if generation.try_into().map_or(0, u64::from_be_bytes) <= number {
                gone.push(Change::Delete(Table::Saved, id.to_vec()));
            }
            true
        })?;
        self.meta.write(&gone, false)
    }

    /// Writes hot chunks of a generation to the newest: half of what its drop frees at most, so that
    /// every eviction makes room.
    fn save_hot(&self, number: u64) -> Result<(), StoreError> {
        let mut room = self.ring.generation(number).map_or(0, |oldest| oldest.bytes()) / 2;
        let mut saved = Vec::new();
        for (id, bytes) in self.memory.of_generation(number) {
            let Some(left) = room.checked_sub(bytes.len() as u64) else { continue };
            room = left;
            let generation = self.ring.put(&id, &bytes)?;
            self.metrics.written.inc_by(bytes.len() as u64);
            self.memory.insert(id, bytes, generation);
            let generation = generation.unwrap_or_default().to_be_bytes();
            saved.push(Change::Put(Table::Saved, id.0.to_vec(), generation.to_vec()));
        }
        self.meta.write(&saved, false)
    }

    /// Free bytes of the store's disk, asked for at most ten times a second.
    pub(crate) fn free(&self) -> u64 {
        let mut space = self.space.lock();
        if space.checked.is_none_or(|at| at.elapsed() > SPACE_CHECK) {
            space.free = rustix::fs::fstatvfs(&self.folder).map_or(u64::MAX, |fs| fs.f_bavail * fs.f_frsize);
            space.checked = Some(Instant::now());
        }
        space.free
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prometheus::Registry;

    use super::*;
    use crate::{Store, StoreConfig};

    const CHUNK: usize = 1 << 20;

    fn store(folder: &std::path::Path, memory: u64) -> Store {
        let config = StoreConfig {
            capacity_bytes: 160 << 20,
            pinned_bytes: 64 << 20,
            memory_tier_bytes: memory,
            reserve_bytes: 0,
            ..StoreConfig::default()
        };
        Store::open(folder, &config, &Registry::new()).unwrap()
    }

    fn chunk(number: u64) -> Bytes {
        number.to_le_bytes().repeat(CHUNK / 8).into()
    }

    #[tokio::test]
    async fn a_write_to_a_dropped_generation_hurts_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), 0);
        let ring = &store.inner().ring;
        let first = store.put(chunk(0)).await.unwrap();
        let oldest = ring.generation(ring.oldest()).unwrap();
        for number in 1..40 {
            store.put(chunk(number)).await.unwrap();
        }
        ring.drop_generation(ring.oldest()).unwrap();
        oldest.remove(&first.id).unwrap();
        let located = store.put(chunk(100)).await.unwrap();
        assert_eq!(store.read(located).await.unwrap(), Some(chunk(100)));
    }

    #[tokio::test]
    async fn eviction_makes_room_though_everything_is_hot_and_what_it_saves_is_on_record() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), 1 << 30);
        let mut written = Vec::new();
        for number in 0..400 {
            written.push(store.put(chunk(number)).await.unwrap());
            assert!(store.inner().ring.cached_bytes() <= 200 << 20, "{number}");
        }
        let oldest = store.inner().ring.oldest();
        let left: Vec<_> = written.iter().filter(|chunk| chunk.generation < Some(oldest)).collect();
        let saved = left.iter().filter(|chunk| store.may_hold(chunk).unwrap()).count();
        assert!(saved > 0 && saved < left.len(), "{saved} of {}", left.len());
        drop(store);
        // Nothing is in memory: what is on record is on disk, wherever it was first.
        let store = self::store(folder.path(), 0);
        for chunk in written {
            let held = store.read(chunk).await.unwrap().is_some();
            assert!(
                !held || store.may_hold(&chunk).unwrap(),
                "a record would be swept though its chunk is held"
            );
        }
    }

    #[tokio::test]
    async fn a_pin_that_fails_leaves_nothing_and_one_that_ends_frees_its_space() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), 0);
        let mut chunks = Vec::new();
        for number in 0..70 {
            chunks.push(store.put(chunk(number)).await.unwrap());
        }
        let inner = store.inner();
        let copies = || {
            let mut count = 0;
            inner
                .ring
                .pinned_family()
                .ids(|_| {
                    count += 1;
                    Ok(true)
                })
                .unwrap();
            count
        };
        assert!(matches!(store.pin("too much", chunks.clone()).await, Err(StoreError::PinnedFull { .. })));
        assert_eq!((copies(), inner.ring.pinned.load(Relaxed)), (0, 0));

        chunks.truncate(50);
        store.pin("fits", chunks.clone()).await.unwrap();
        assert_eq!(copies(), 50);
        // As a crash between the two writes of a pin leaves it.
        inner.ring.put_pinned(&ChunkId::of(b"orphan"), b"orphan").unwrap();
        store.sweep_pins_blocking().unwrap();
        assert_eq!(copies(), 50);

        assert!(store.unpin("fits").await.unwrap());
        assert_eq!(copies(), 0);
        inner.ring.collect_pinned().unwrap();
        assert!(inner.ring.pinned_family().size_on_disk() < 40 << 20);
    }
}
