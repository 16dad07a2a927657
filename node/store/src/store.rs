//! The store's door: put, read, pin, evict.

use std::collections::HashMap;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus::Registry;

use crate::evict::Space;
use crate::memory::MemoryTier;
use crate::meta::{Meta, Table};
use crate::metrics::Metrics;
use crate::ring::{Db, Family, Found, Ring};
use crate::{ChunkId, StoreConfig, StoreError, format, pins};

/// Chunks that are read before they are asked for, over all clients.
const MOST_AHEAD: usize = 64;

/// Where a chunk was written: its id, and the generation as a hint for its reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Located {
    /// The chunk.
    pub id: ChunkId,
    /// Its generation when it was written; `None` when it is pinned.
    pub generation: Option<u64>,
}

/// The chunk store; cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) config: StoreConfig,
    pub(crate) ring: Ring,
    pub(crate) meta: Meta,
    pub(crate) memory: MemoryTier,
    pub(crate) metrics: Metrics,
    pub(crate) folder: rustix::fd::OwnedFd,
    /// Pins are changed by one thread at a time.
    pub(crate) pins: Mutex<()>,
    pub(crate) space: Mutex<Space>,
    /// Whether the last write was refused, so that one line is logged for a full disk.
    refusing: AtomicBool,
    pub(crate) evicting: AtomicBool,
    reading: Mutex<HashMap<ChunkId, tokio::sync::watch::Receiver<()>>>,
    ahead: Arc<tokio::sync::Semaphore>,
}

impl Store {
    /// Opens the store in `data_dir` (folders `meta` and `chunks`, and the number of their format).
    ///
    /// # Errors
    /// When the folder cannot be used, a newer version wrote to it ([`StoreError::Format`]), or a database
    /// cannot be opened.
    pub fn open(data_dir: &Path, config: &StoreConfig, registry: &Registry) -> Result<Self, StoreError> {
        let folder_error = |error: &dyn std::fmt::Display| StoreError::Folder {
            path: data_dir.to_owned(),
            reason: error.to_string(),
        };
        std::fs::create_dir_all(data_dir).map_err(|error| folder_error(&error))?;
        let folder = rustix::fs::open(data_dir, rustix::fs::OFlags::DIRECTORY, rustix::fs::Mode::empty())
            .map_err(|error| folder_error(&error))?;
        format::check(data_dir)?;
        let meta = Meta::open(&data_dir.join("meta"))?;
        let mut pinned = 0;
        meta.scan(Table::PinnedChunks, b"", |_, value| {
            pinned += pins::record_length(value);
            true
        })?;
        let ring = Ring::open(&data_dir.join("chunks"), config, pinned)?;
        let metrics = Metrics::new(registry).unwrap_or_else(|error| {
            unreachable!("the store registers its metrics once in a registry: {error}")
        });
        metrics.capacity.set(config.capacity_bytes as i64);
        let store = Self(Arc::new(Inner {
            config: config.clone(),
            ring,
            meta,
            memory: MemoryTier::new(config.memory_tier_bytes),
            metrics,
            folder,
            pins: Mutex::new(()),
            space: Mutex::new(Space::default()),
            refusing: AtomicBool::new(false),
            evicting: AtomicBool::new(false),
            reading: Mutex::default(),
            ahead: Arc::new(tokio::sync::Semaphore::new(MOST_AHEAD)),
        }));
        store.refresh_metrics();
        Ok(store)
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.0
    }

    /// The configuration it was opened with.
    pub fn config(&self) -> &StoreConfig {
        &self.0.config
    }

    /// The metadata database.
    pub fn meta(&self) -> &Meta {
        &self.0.meta
    }

    /// A hot chunk, without waiting: the path of most answers.
    pub fn hot(&self, id: &ChunkId) -> Option<Bytes> {
        self.0.memory.get(id)
    }

    /// A chunk from memory or disk, verified; `None` when it is not held (any more). Readers of
    /// one cold chunk wait for one disk read.
    pub async fn read(&self, chunk: Located) -> Result<Option<Bytes>, StoreError> {
        self.read_keeping(chunk, ()).await
    }

    /// As [`Store::read`]; `kept` lives as long as the read of the disk.
    async fn read_keeping<T: Send + 'static>(
        &self,
        chunk: Located,
        kept: T,
    ) -> Result<Option<Bytes>, StoreError> {
        let reads = &self.0.metrics.reads;
        loop {
            if let Some(bytes) = self.hot(&chunk.id) {
                reads.with_label_values(&["memory"]).inc();
                return Ok(Some(bytes));
            }
            let turn = {
                let mut reading = self.0.reading.lock();
                match reading.get(&chunk.id) {
                    Some(other) => Err(other.clone()),
                    None => {
                        let (sender, receiver) = tokio::sync::watch::channel(());
                        reading.insert(chunk.id, receiver);
                        Ok(Turn { store: self.0.clone(), id: chunk.id, _sender: sender })
                    }
                }
            };
            match turn {
                Ok(turn) => {
                    // The turn and what is kept end with the read, whatever becomes of who asked.
                    let work = move || (turn.store.read_disk(chunk), kept).0;
                    let read = blocking(work).await?;
                    reads
                        .with_label_values(&[if matches!(read, Ok(Some(_))) { "disk" } else { "absent" }])
                        .inc();
                    return read;
                }
                // The other reader's end closes the channel; then the chunk is hot, or is read again.
                Err(mut other) => {
                    let _ = other.changed().await;
                    if self.hot(&chunk.id).is_none() && self.0.memory.bytes() == 0 {
                        let inner = self.0.clone();
                        return blocking(move || (inner.read_disk(chunk), kept).0).await?;
                    }
                }
            }
        }
    }

    /// Begins to read a chunk that will be asked for next; `None` when enough others are ahead. What
    /// is read ahead is held apart from the memory tier's bound, hence the limit.
    pub fn read_ahead(&self, chunk: Located) -> Option<ReadAhead> {
        let slot = self.0.ahead.clone().try_acquire_owned().ok()?;
        let store = self.clone();
        Some(ReadAhead(tokio::spawn(async move { store.read_keeping(chunk, slot).await })))
    }

    /// Hashes nothing: writes a chunk whose id is known. Blocks; for blocking threads.
    pub fn put_blocking(&self, id: ChunkId, bytes: &Bytes) -> Result<Located, StoreError> {
        let result = self.0.put(id, bytes);
        self.0.note(&result);
        result
    }

    /// Writes a chunk again that was evicted, unless it is there by now. Blocks.
    pub(crate) fn put_again_blocking(&self, id: ChunkId, bytes: &Bytes) -> Result<Located, StoreError> {
        let result = self.0.put_again(id, bytes);
        self.0.note(&result);
        result
    }

    /// Writes a chunk for the cache.
    pub async fn put(&self, bytes: Bytes) -> Result<Located, StoreError> {
        let store = self.clone();
        blocking(move || store.put_blocking(ChunkId::of(&bytes), &bytes)).await?
    }

    /// Pins chunks that are held, under a name; durable when it returns. Pinning a name again
    /// replaces what it held.
    pub async fn pin(&self, name: &str, chunks: Vec<Located>) -> Result<(), StoreError> {
        let (inner, name) = (self.0.clone(), name.to_owned());
        blocking(move || inner.pin(&name, &chunks)).await?
    }

    /// Lets go of a name; chunks that no other name pins may be evicted from now on. False when
    /// there is no such name.
    pub async fn unpin(&self, name: &str) -> Result<bool, StoreError> {
        let (inner, name) = (self.0.clone(), name.to_owned());
        let known = blocking(move || inner.unpin(&name)).await??;
        let inner = self.0.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = inner.ring.collect_pinned() {
                log::warn!("the space of unpinned chunks is not free yet: {error}");
            }
        });
        Ok(known)
    }

    /// Writes chunk number `index` of something that is pinned as it comes, under `name`; it is durable
    /// after [`Store::flush_pins_blocking`]. Blocks.
    pub fn pin_part_blocking(
        &self,
        name: &str,
        index: u64,
        id: ChunkId,
        bytes: &Bytes,
    ) -> Result<Located, StoreError> {
        let result = self.0.pin_part(name, index, id, bytes);
        self.0.note(&result);
        result
    }

    /// Makes what was pinned in parts durable. Blocks.
    pub fn flush_pins_blocking(&self) -> Result<(), StoreError> {
        self.0.ring.flush_pinned()
    }

    /// Lets go of what is pinned in parts under `name`, but for the chunks of one thing: `chunks`, as they
    /// are kept, in their order. Blocks.
    pub fn keep_parts_blocking(&self, name: &str, chunks: &[ChunkId]) -> Result<(), StoreError> {
        if self.0.keep_parts(name, chunks)? { self.0.ring.collect_pinned() } else { Ok(()) }
    }

    /// Lets go of everything that was pinned in parts under `name`. Blocks.
    pub fn unpin_parts_blocking(&self, name: &str) -> Result<(), StoreError> {
        self.0.unpin_parts(name)?;
        self.0.ring.collect_pinned()
    }

    /// Reads a chunk again from the disk, whatever is in memory, and hashes it. Copies that are not what
    /// they should be are dropped, so that they are fetched again; false when there were any. What is not
    /// held is as it should be. Blocks.
    pub fn recheck_blocking(&self, chunk: Located) -> Result<bool, StoreError> {
        let mut sound = true;
        for family in self.0.ring.families() {
            let reason = match family.get(&chunk.id)? {
                Found::Absent => continue,
                Found::Damaged(reason) => reason,
                Found::Sound(bytes) if ChunkId::of(&bytes).kept_as(bytes.len()) == chunk.id => continue,
                Found::Sound(_) => "it fails its hash".to_owned(),
            };
            self.0.damaged(&family, &chunk.id, &reason)?;
            sound = false;
        }
        // Memory is believed no more than the disk.
        if let Some(bytes) = self.0.memory.get(&chunk.id)
            && ChunkId::of(&bytes).kept_as(bytes.len()) != chunk.id
        {
            self.0.memory.remove(&chunk.id);
            sound = false;
        }
        Ok(sound)
    }

    /// Bytes that may still be pinned.
    pub fn pinnable(&self) -> u64 {
        self.0.config.pinned_bytes.saturating_sub(self.0.ring.pinned.load(Relaxed))
    }

    /// Removes chunks that no pin holds from the pinned family, as a crash may leave them. Blocks for
    /// the disk; for a time after the start.
    pub fn sweep_pins_blocking(&self) -> Result<(), StoreError> {
        self.0.sweep_pins()
    }

    /// Whether a chunk can still be held: its generation is in the ring, it was saved from one that
    /// is not, or it is pinned.
    pub fn may_hold(&self, chunk: &Located) -> Result<bool, StoreError> {
        let in_ring = chunk.generation.is_some_and(|number| number >= self.0.ring.oldest());
        let known = |table| Ok::<_, StoreError>(self.0.meta.get(table, &chunk.id.0)?.is_some());
        Ok(in_ring || known(Table::Saved)? || known(Table::PinnedChunks)?)
    }

    /// Whether writes are refused now (full disk, only pinned bytes left).
    pub fn refusing(&self) -> bool {
        self.0.refusing.load(Relaxed)
    }

    /// Flushes everything, at an orderly end.
    pub async fn close(&self) -> Result<(), StoreError> {
        let inner = self.0.clone();
        blocking(move || inner.ring.flush()).await?
    }

    /// Brings the gauges up to date.
    pub fn refresh_metrics(&self) {
        let inner = &self.0;
        let bytes = &inner.metrics.bytes;
        bytes.with_label_values(&["memory", "cache"]).set(inner.memory.bytes() as i64);
        bytes.with_label_values(&["disk", "cache"]).set(inner.ring.cached_bytes() as i64);
        bytes.with_label_values(&["disk", "pinned"]).set(inner.ring.pinned.load(Relaxed) as i64);
        let families = inner.ring.families();
        let of_chunks = |property: &str| families.iter().filter_map(|family| family.property(property)).sum();
        inner.refresh_rocksdb("chunks", &inner.ring.db, of_chunks);
        inner.refresh_rocksdb("meta", &inner.meta.db, |property| inner.meta.property(property));
        let rocksdb = &inner.metrics.rocksdb;
        rocksdb.with_label_values(&["meta", "block-cache-usage"]).set(inner.meta.cache_bytes() as i64);
        rocksdb.with_label_values(&["chunks", "block-cache-usage"]).set(inner.ring.index_bytes() as i64);
    }

    /// Figures for `skerry store stats`.
    pub fn stats(&self) -> serde_json::Value {
        let inner = &self.0;
        serde_json::json!({
            "capacity_bytes": inner.config.capacity_bytes,
            "cached_bytes": inner.ring.cached_bytes(),
            "pinned_bytes": inner.ring.pinned.load(Relaxed),
            "pinned_quota_bytes": inner.config.pinned_bytes,
            "memory_bytes": inner.memory.bytes(),
            "memory_chunks": inner.memory.len(),
            "memory_tier_bytes": inner.config.memory_tier_bytes,
            "generations": inner.ring.families().len() - 1,
            "objects": inner.meta.estimated(Table::Objects),
            "evictions": inner.metrics.evictions.get(),
            "verify_failures": inner.metrics.verify_failures.get(),
            "write_failures": inner.metrics.write_failures.get(),
            "refusing_writes": self.refusing(),
        })
    }
}

impl Inner {
    /// RocksDB's figures of one database: some are `sum`s over its families, some of the whole.
    fn refresh_rocksdb(&self, database: &str, db: &Db, sum: impl Fn(&str) -> u64) {
        for property in ["cur-size-all-mem-tables", "estimate-table-readers-mem", "total-blob-file-size"] {
            let sum = sum(&format!("rocksdb.{property}"));
            self.metrics.rocksdb.with_label_values(&[database, property]).set(sum as i64);
        }
        for property in ["num-running-flushes", "background-errors"] {
            if let Ok(Some(value)) = db.property_int_value(format!("rocksdb.{property}").as_str()) {
                self.metrics.rocksdb.with_label_values(&[database, property]).set(value as i64);
            }
        }
    }

    /// Reads a chunk from the first place that has a sound copy; damaged copies are dropped where
    /// they stand, and only there.
    pub(crate) fn read_disk(&self, chunk: Located) -> Result<Option<Bytes>, StoreError> {
        let look = |family: &Family| -> Result<Option<Bytes>, StoreError> {
            match family.get(&chunk.id)? {
                Found::Sound(bytes) => {
                    self.memory.insert(chunk.id, bytes.clone(), family.number);
                    return Ok(Some(bytes));
                }
                Found::Damaged(reason) => self.damaged(family, &chunk.id, &reason)?,
                Found::Absent => {}
            }
            Ok(None)
        };
        // Nearly always it is where it was written.
        let hinted = chunk.generation.and_then(|number| self.ring.generation(number));
        if let Some(bytes) = hinted.as_deref().map(look).transpose()?.flatten() {
            return Ok(Some(bytes));
        }
        let hinted = hinted.map(|family| family.number);
        for family in self.ring.families().iter().filter(|family| Some(family.number) != hinted) {
            if let Some(bytes) = look(family)? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Reports, counts and removes a damaged copy of a chunk.
    pub(crate) fn damaged(&self, family: &Family, id: &ChunkId, reason: &str) -> Result<(), StoreError> {
        let name = family.name();
        log::error!(chunk:% = id, family:% = name; "a stored chunk is damaged and dropped: {reason}");
        self.metrics.verify_failures.inc();
        self.memory.remove(id);
        family.remove(id)
    }

    /// Logs the first refusal and the recovery, and counts each refusal.
    pub(crate) fn note(&self, result: &Result<Located, StoreError>) {
        match result {
            Ok(_) => {
                if self.refusing.swap(false, Relaxed) {
                    log::info!("the store takes chunks again");
                }
            }
            Err(error) => {
                self.metrics.write_failures.inc();
                if !self.refusing.swap(true, Relaxed) {
                    log::error!("chunks are not stored, fills pass through uncached: {error}");
                }
                if matches!(error, StoreError::Database(_)) {
                    // A full disk puts RocksDB into read-only mode until it is told to go on.
                    let _ = self.ring.db.resume();
                    let _ = self.meta.db.resume();
                }
            }
        }
    }
}

/// A chunk on its way from the disk.
pub struct ReadAhead(tokio::task::JoinHandle<Result<Option<Bytes>, StoreError>>);

impl Future for ReadAhead {
    type Output = Result<Option<Bytes>, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map(|read| read.unwrap_or(Err(StoreError::Closing)))
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One reader's turn at a cold chunk; its end lets the others look again.
struct Turn {
    store: Arc<Inner>,
    id: ChunkId,
    _sender: tokio::sync::watch::Sender<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.store.reading.lock().remove(&self.id);
    }
}

/// Runs disk or hash work on a blocking thread.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closing)
}
