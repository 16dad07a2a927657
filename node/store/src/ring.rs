//! Chunk bytes on disk: a ring of generations, and the pinned column family beside it.
//!
//! Every chunk is one blob. New chunks go to the newest generation; when the generations together
//! outgrow their share, the oldest column family is dropped whole, which costs one manifest write
//! whatever it holds. Nothing is ever compacted but the keys. The log is off: a crash loses the
//! memtables, which for a cache is a few misses. Pinned chunks are flushed before they are
//! acknowledged. Why this layout: `node/docs/decisions/0001-chunk-layout.md`.
//!
//! A value is a chunk and its seal: XXH3-128 of its bytes, seeded with its id. Every read checks the
//! seal, which costs a fiftieth of the chunk's own SHA-256; that is taken when a chunk comes in and
//! by `skerry store verify`.
//!
//! Families are held by handles of their own, and no lock is held while RocksDB works: neither the
//! making of a family nor a writer that has to wait for the disk keeps readers waiting. A write may
//! end in a family that is being dropped; that chunk is a miss later on.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use rust_rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DBCompressionType, DBPinnableSlice,
    DBWithThreadMode, ErrorKind, FlushOptions, MultiThreaded, Options, ReadOptions, WriteBufferManager,
    WriteOptions,
};
use self_cell::self_cell;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::{ChunkId, StoreConfig, StoreError};

/// A RocksDB handle that many threads share.
pub(crate) type Db = DBWithThreadMode<MultiThreaded>;

const PINNED: &str = "pinned";
const PREFIX: &str = "generation-";
/// The ring turns in this many steps.
const GENERATIONS: u64 = 16;
const MIN_GENERATION: u64 = 32 << 20;
const MAX_GENERATION: u64 = 8 << 30;
/// What a chunk costs on disk beside its bytes: blob header, key, index entry.
const OVERHEAD: u64 = 176;
/// Length of a seal, bytes.
const SEAL: usize = 16;
const MEMTABLE: usize = 64 << 20;
const MEMTABLES: usize = 160 << 20;
/// Index and filter blocks of the chunk database.
const INDEX_CACHE: usize = 32 << 20;

self_cell!(
    struct Blob {
        owner: Arc<Db>,
        #[not_covariant]
        dependent: DBPinnableSlice,
    }
);

struct SharedBlob(Blob);

impl AsRef<[u8]> for SharedBlob {
    fn as_ref(&self) -> &[u8] {
        self.0.with_dependent(|_, slice| {
            let bytes: &[u8] = slice;
            bytes
        })
    }
}

type Borrowed<'a> = Arc<BoundColumnFamily<'a>>;

self_cell!(
    struct Handle {
        owner: Arc<Db>,
        #[not_covariant]
        dependent: Borrowed,
    }
);

/// A column family of chunks: a generation, or the pinned ones.
pub(crate) struct Family {
    /// The generation's number; `None` for the pinned family.
    pub(crate) number: Option<u64>,
    bytes: AtomicU64,
    handle: Handle,
}

/// What a read of one family found.
pub(crate) enum Found {
    Sound(Bytes),
    Absent,
    /// A copy that must not be used, and why.
    Damaged(String),
}

impl Family {
    fn open(db: &Arc<Db>, number: Option<u64>) -> Result<Self, StoreError> {
        let handle =
            Handle::try_new(db.clone(), |db| db.cf_handle(&name(number)).ok_or(StoreError::Closing))?;
        let family = Self { number, bytes: AtomicU64::new(0), handle };
        family.bytes.store(family.size_on_disk(), Relaxed);
        Ok(family)
    }

    /// What its chunks take on disk, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The name in RocksDB.
    pub(crate) fn name(&self) -> String {
        name(self.number)
    }

    fn with<T>(&self, work: impl FnOnce(&Db, &Arc<BoundColumnFamily<'_>>) -> T) -> T {
        self.handle.with_dependent(|db, family| work(db, family))
    }

    fn put(&self, id: &ChunkId, bytes: &[u8]) -> Result<(), StoreError> {
        let mut value = Vec::with_capacity(bytes.len() + SEAL);
        value.extend_from_slice(bytes);
        value.extend_from_slice(&seal(id, bytes));
        Ok(self.with(|db, family| db.put_cf_opt(family, id.0, &value, &unlogged()))?)
    }

    /// Reads a chunk and checks its seal.
    pub(crate) fn get(&self, id: &ChunkId) -> Result<Found, StoreError> {
        let blob = self.with(|_, family| {
            Blob::try_new(self.handle.borrow_owner().clone(), |db| match db.get_pinned_cf(family, id.0) {
                Ok(Some(slice)) => Ok(slice),
                Ok(None) => Err(None),
                Err(error) => Err(Some(error)),
            })
        });
        let mut bytes = match blob {
            Ok(blob) => Bytes::from_owner(SharedBlob(blob)),
            Err(None) => return Ok(Found::Absent),
            Err(Some(error)) if error.kind() == ErrorKind::Corruption => {
                return Ok(Found::Damaged(error.to_string()));
            }
            Err(Some(error)) => return Err(error.into()),
        };
        let sealed = bytes.split_off(bytes.len().saturating_sub(SEAL));
        Ok(if sealed == seal(id, &bytes)[..] {
            Found::Sound(bytes)
        } else {
            Found::Damaged("its seal is broken".to_owned())
        })
    }

    /// Removes a copy of a chunk.
    pub(crate) fn remove(&self, id: &ChunkId) -> Result<(), StoreError> {
        Ok(self.with(|db, family| db.delete_cf_opt(family, id.0, &unlogged()))?)
    }

    /// Calls `each` with the id of every chunk, in order, while it says true.
    pub(crate) fn ids(
        &self,
        mut each: impl FnMut(ChunkId) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        self.with(|db, family| {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            // Keys come without their blobs, so that one damaged blob does not end the walk.
            options.set_allow_unprepared_value(true);
            let mut keys = db.raw_iterator_cf_opt(family, options);
            keys.seek_to_first();
            while keys.valid() {
                let id = keys.key().and_then(|key| <[u8; 32]>::try_from(key).ok()).map(ChunkId);
                if let Some(id) = id
                    && !each(id)?
                {
                    return Ok(());
                }
                keys.next();
            }
            Ok(keys.status()?)
        })
    }

    fn flush(&self, options: &FlushOptions) -> Result<(), StoreError> {
        Ok(self.with(|db, family| db.flush_cf_opt(family, options))?)
    }

    /// Bytes of its files.
    pub(crate) fn size_on_disk(&self) -> u64 {
        ["rocksdb.total-blob-file-size", "rocksdb.total-sst-files-size"]
            .iter()
            .filter_map(|property| self.property(property))
            .sum()
    }

    /// One of RocksDB's figures of this family.
    pub(crate) fn property(&self, property: &str) -> Option<u64> {
        self.with(|db, family| db.property_int_value_cf(family, property)).ok().flatten()
    }
}

fn name(number: Option<u64>) -> String {
    number.map_or_else(|| PINNED.to_owned(), |number| format!("{PREFIX}{number:016x}"))
}

/// XXH3-128 of a chunk's bytes, seeded with its id: bytes of another chunk do not pass.
fn seal(id: &ChunkId, bytes: &[u8]) -> [u8; SEAL] {
    let seed = id.0.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    xxh3_128_with_seed(bytes, seed).to_le_bytes()
}

/// What an eviction took away.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropped {
    pub(crate) chunks: u64,
}

/// The chunk database.
pub(crate) struct Ring {
    pub(crate) db: Arc<Db>,
    generations: RwLock<VecDeque<Arc<Family>>>,
    pinned_family: Arc<Family>,
    pub(crate) pinned: AtomicU64,
    capacity: u64,
    options: Options,
    index_cache: Cache,
    /// The number of the next generation; one turn of the ring at a time.
    turning: Mutex<u64>,
}

impl Ring {
    /// Opens or makes the database. Seconds at most: blob files are opened when they are read.
    pub(crate) fn open(path: &Path, config: &StoreConfig, pinned_bytes: u64) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let index_cache = Cache::new_lru_cache(INDEX_CACHE);
        let mut database = Options::default();
        database.create_if_missing(true);
        database.create_missing_column_families(true);
        // A quarter of them flush: one alone has too little under way for a fast disk.
        database.set_max_background_jobs(12);
        database.set_max_open_files(4096);
        database.set_keep_log_file_num(4);
        database.set_max_log_file_size(16 << 20);
        // The memory tier is the node's cache of chunks; the page cache would hold them twice and
        // costs a first read two to five times the CPU time.
        database.set_use_direct_reads(true);
        database.set_use_direct_io_for_flush_and_compaction(true);
        // Over all families: what chunk bytes wait in memory for their flush; writers wait beyond.
        database.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(MEMTABLES, true));
        let names = Db::list_cf(&database, path).unwrap_or_else(|_| vec!["default".into()]);
        let options = chunk_options(&index_cache);
        let descriptors = names
            .iter()
            .map(String::as_str)
            .chain([PINNED].into_iter().filter(|_| !names.iter().any(|name| name == PINNED)));
        let descriptors = descriptors.map(|name| {
            let options = if name == PINNED { pinned_options(&index_cache) } else { options.clone() };
            ColumnFamilyDescriptor::new(name, options)
        });
        let db = Db::open_cf_descriptors(&database, path, descriptors.collect::<Vec<_>>()).map_err(failed)?;
        let db = Arc::new(db);
        let mut numbers: Vec<u64> = names
            .iter()
            .filter_map(|name| u64::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok())
            .collect();
        numbers.sort_unstable();
        let next = numbers.last().map_or(1, |last| last + 1);
        let generations: Result<_, _> =
            numbers.into_iter().map(|number| Family::open(&db, Some(number)).map(Arc::new)).collect();
        let ring = Self {
            pinned_family: Arc::new(Family::open(&db, None)?),
            db,
            generations: RwLock::new(generations?),
            pinned: AtomicU64::new(pinned_bytes),
            capacity: config.capacity_bytes,
            options,
            index_cache,
            turning: Mutex::new(next),
        };
        ring.turn(&mut ring.turning.lock())?;
        Ok(ring)
    }

    /// Bytes of cached chunks on disk.
    pub(crate) fn cached_bytes(&self) -> u64 {
        self.generations.read().iter().map(|generation| generation.bytes()).sum()
    }

    /// The numbers of the generations, from the newest on.
    pub(crate) fn numbers(&self) -> Vec<u64> {
        self.generations.read().iter().rev().filter_map(|generation| generation.number).collect()
    }

    /// Number of the oldest generation.
    pub(crate) fn oldest(&self) -> u64 {
        self.generations.read().front().and_then(|oldest| oldest.number).unwrap_or(0)
    }

    /// Bytes the cache may take now.
    fn share(&self) -> u64 {
        self.capacity.saturating_sub(self.pinned.load(Relaxed))
    }

    fn target(&self) -> u64 {
        (self.share() / GENERATIONS).clamp(MIN_GENERATION, MAX_GENERATION)
    }

    /// Writes a chunk to the newest generation and returns its number. Blocks while RocksDB flushes.
    pub(crate) fn put(&self, id: &ChunkId, bytes: &[u8]) -> Result<Option<u64>, StoreError> {
        if self.share() < 2 * MIN_GENERATION {
            let pinned = self.pinned.load(Relaxed);
            return Err(StoreError::OnlyPinned { pinned, capacity: self.capacity });
        }
        let current = self.generations.read().back().cloned().ok_or(StoreError::Closing)?;
        current.put(id, bytes)?;
        current.bytes.fetch_add(bytes.len() as u64 + OVERHEAD, Relaxed);
        Ok(current.number)
    }

    /// The generation to empty when the ring has grown over its share, or when `pressed` for disk.
    /// Also begins a new generation when the newest is full.
    pub(crate) fn overgrown(&self, pressed: bool) -> Result<Option<u64>, StoreError> {
        let is_full = || {
            let newest = self.generations.read().back().cloned();
            newest.is_none_or(|newest| newest.bytes() >= self.target())
        };
        // Whoever finds another at it goes on writing to the full one, and so does everybody while
        // there is no room for more: first the oldest goes.
        let may_turn = !pressed || self.generations.read().len() < 2;
        if may_turn
            && is_full()
            && let Some(mut next) = self.turning.try_lock()
            && is_full()
        {
            self.turn(&mut next)?;
        }
        let generations = self.generations.read();
        let held: u64 = generations.iter().map(|generation| generation.bytes()).sum();
        let over = held + self.target() > self.share().max(3 * MIN_GENERATION) || pressed;
        Ok(generations.front().filter(|_| over && generations.len() > 1).and_then(|oldest| oldest.number))
    }

    /// Begins generation `next`; the one before it is flushed in the background.
    fn turn(&self, next: &mut u64) -> Result<(), StoreError> {
        let full = self.generations.read().back().cloned();
        let number = *next;
        // Never tried twice: where the disk is full, RocksDB may say no to a family that it made.
        *next += 1;
        self.db.create_cf(name(Some(number)), &self.options)?;
        let newest = Family::open(&self.db, Some(number))?;
        self.generations.write().push_back(Arc::new(newest));
        if let Some(full) = full {
            let mut options = FlushOptions::default();
            options.set_wait(false);
            options.set_allow_write_stall(true);
            full.flush(&options)?;
        }
        Ok(())
    }

    /// Drops a generation whole, if it is the oldest.
    pub(crate) fn drop_generation(&self, number: u64) -> Result<Dropped, StoreError> {
        let Some(oldest) = self.generations.write().pop_front_if(|oldest| oldest.number == Some(number))
        else {
            return Ok(Dropped { chunks: 0 });
        };
        let chunks = oldest.property("rocksdb.estimate-num-keys").unwrap_or(0);
        match self.db.drop_cf(&oldest.name()) {
            Ok(()) => {}
            // An earlier attempt dropped it and failed on the way: its files go at the next start.
            Err(error) if error.as_ref().contains("already dropped") => {
                log::error!(generation = number; "a dropped generation keeps its disk space until a restart");
            }
            Err(error) => {
                self.generations.write().push_front(oldest);
                return Err(error.into());
            }
        }
        Ok(Dropped { chunks })
    }

    /// The generation of that number, while it is in the ring.
    pub(crate) fn generation(&self, number: u64) -> Option<Arc<Family>> {
        self.generations.read().iter().find(|family| family.number == Some(number)).cloned()
    }

    /// The newest generation that has a sound copy of the chunk. Reads it.
    pub(crate) fn holding(&self, id: &ChunkId) -> Result<Option<u64>, StoreError> {
        let generations: Vec<Arc<Family>> = self.generations.read().iter().rev().cloned().collect();
        for generation in generations {
            if matches!(generation.get(id)?, Found::Sound(_)) {
                return Ok(generation.number);
            }
        }
        Ok(None)
    }

    /// Whether the pinned family has a sound copy of the chunk.
    pub(crate) fn holds_pinned(&self, id: &ChunkId) -> Result<bool, StoreError> {
        Ok(matches!(self.pinned_family.get(id)?, Found::Sound(_)))
    }

    /// Writes a chunk to the pinned family; it is durable after [`Ring::flush_pinned`].
    pub(crate) fn put_pinned(&self, id: &ChunkId, bytes: &[u8]) -> Result<(), StoreError> {
        self.pinned_family.put(id, bytes)
    }

    /// Makes pinned chunks durable.
    pub(crate) fn flush_pinned(&self) -> Result<(), StoreError> {
        self.pinned_family.flush(&FlushOptions::default())
    }

    /// Removes a chunk that is pinned no more; [`Ring::collect_pinned`] frees its bytes.
    pub(crate) fn delete_pinned(&self, id: &ChunkId) -> Result<(), StoreError> {
        self.pinned_family.remove(id)
    }

    /// The family of pinned chunks.
    pub(crate) fn pinned_family(&self) -> &Arc<Family> {
        &self.pinned_family
    }

    /// Frees the disk space of unpinned chunks, once it is worth rewriting what stands between
    /// them. Blocks, for minutes at worst.
    pub(crate) fn collect_pinned(&self) -> Result<(), StoreError> {
        self.flush_pinned()?;
        let pinned = self.pinned.load(Relaxed);
        if self.pinned_family.size_on_disk() > pinned + (pinned / 4).max(MIN_GENERATION) {
            self.pinned_family.with(|db, family| db.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>));
        }
        Ok(())
    }

    /// Writes every memtable out, at an orderly end.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.families().iter().try_for_each(|family| family.flush(&FlushOptions::default()))
    }

    /// All families that hold chunks: the pinned one, and every generation from the newest on.
    pub(crate) fn families(&self) -> Vec<Arc<Family>> {
        [&self.pinned_family].into_iter().chain(self.generations.read().iter().rev()).cloned().collect()
    }

    /// Bytes of index and filter blocks in memory.
    pub(crate) fn index_bytes(&self) -> u64 {
        self.index_cache.get_usage() as u64
    }
}

fn chunk_options(index_cache: &Cache) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(index_cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    table.set_format_version(6);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(0);
    options.set_blob_file_size(256 << 20);
    options.set_blob_compression_type(DBCompressionType::None);
    options.set_enable_blob_gc(false);
    options.set_write_buffer_size(MEMTABLE);
    options.set_max_write_buffer_number(4);
    // Only keys are merged, a few KiB for each flush, so that a read asks a few tables and not one for
    // every 64 MiB of its generation. Nobody has to wait for it.
    options.set_level_zero_file_num_compaction_trigger(8);
    options.set_level_zero_slowdown_writes_trigger(1 << 20);
    options.set_level_zero_stop_writes_trigger(1 << 20);
    options
}

fn pinned_options(index_cache: &Cache) -> Options {
    let mut options = chunk_options(index_cache);
    options.set_level_zero_slowdown_writes_trigger(20);
    options.set_level_zero_stop_writes_trigger(36);
    options.set_enable_blob_gc(true);
    options.set_blob_gc_age_cutoff(1.0);
    options.set_blob_gc_force_threshold(0.5);
    options
}

/// Chunk writes skip the log: see the module's words on crashes.
fn unlogged() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    // A family may be dropped while somebody writes to it; without this RocksDB would take that for
    // a broken memtable, and no write after it until the next start.
    options.set_ignore_missing_column_families(true);
    options
}
