//! Chunk bytes on disk: a ring of generations, and the pinned column family beside it.
//!
//! Every chunk is one blob. New chunks go to the newest generation; when the generations together
//! outgrow their share, the oldest column family is dropped whole, which costs one manifest write
//! whatever it holds. Nothing is ever compacted but the keys. The log is off: a crash loses the
//! memtables, which for a cache is a few misses. Pinned chunks are flushed before they are
//! acknowledged. Why this layout: `node/docs/decisions/0001-chunk-layout.md`.
//!
//! Invariants: generation names rise; the last of `generations` is the one that is written; a
//! generation is dropped only under the write lock, so no write can race with its drop.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::RwLock;
use rust_rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBPinnableSlice, DBWithThreadMode,
    FlushOptions, MultiThreaded, Options, WriteBufferManager, WriteOptions,
};
use self_cell::self_cell;

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
const OVERHEAD: u64 = 160;
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

#[derive(Debug)]
struct Generation {
    number: u64,
    bytes: AtomicU64,
}

impl Generation {
    fn name(number: u64) -> String {
        format!("{PREFIX}{number:016x}")
    }
}

/// What an eviction took away.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropped {
    pub(crate) chunks: u64,
}

/// The chunk database.
pub(crate) struct Ring {
    pub(crate) db: Arc<Db>,
    generations: RwLock<VecDeque<Generation>>,
    pub(crate) pinned: AtomicU64,
    capacity: u64,
    options: Options,
    index_cache: Cache,
}

impl Ring {
    /// Opens or makes the database. Seconds at most: blob files are opened when they are read.
    pub(crate) fn open(path: &Path, config: &StoreConfig, pinned_bytes: u64) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let index_cache = Cache::new_lru_cache(INDEX_CACHE);
        let mut database = Options::default();
        database.create_if_missing(true);
        database.create_missing_column_families(true);
        database.set_max_background_jobs(4);
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
        let mut generations: Vec<_> = names
            .iter()
            .filter_map(|name| u64::from_str_radix(name.strip_prefix(PREFIX)?, 16).ok())
            .map(|number| Generation {
                number,
                bytes: AtomicU64::new(size_on_disk(&db, &Generation::name(number))),
            })
            .collect();
        generations.sort_by_key(|generation| generation.number);
        let ring = Self {
            db: Arc::new(db),
            generations: RwLock::new(generations.into()),
            pinned: AtomicU64::new(pinned_bytes),
            capacity: config.capacity_bytes,
            options,
            index_cache,
        };
        ring.turn(&mut ring.generations.write())?;
        Ok(ring)
    }

    /// Bytes of cached chunks on disk.
    pub(crate) fn cached_bytes(&self) -> u64 {
        self.generations.read().iter().map(|generation| generation.bytes.load(Relaxed)).sum()
    }

    /// Number of the oldest generation.
    pub(crate) fn oldest(&self) -> u64 {
        self.generations.read().front().map_or(0, |oldest| oldest.number)
    }

    /// Bytes the cache may take now.
    fn share(&self) -> u64 {
        self.capacity.saturating_sub(self.pinned.load(Relaxed))
    }

    fn target(&self) -> u64 {
        (self.share() / GENERATIONS).clamp(MIN_GENERATION, MAX_GENERATION)
    }

    /// Writes a chunk to the newest generation and returns its number. Blocks while RocksDB flushes.
    pub(crate) fn put(&self, id: &ChunkId, bytes: &[u8]) -> Result<u64, StoreError> {
        if self.share() < 2 * MIN_GENERATION {
            let pinned = self.pinned.load(Relaxed);
            return Err(StoreError::OnlyPinned { pinned, capacity: self.capacity });
        }
        let generations = self.generations.read();
        let Some(current) = generations.back() else { return Err(StoreError::Closing) };
        let Some(family) = self.db.cf_handle(&Generation::name(current.number)) else {
            return Err(StoreError::Closing);
        };
        self.db.put_cf_opt(&family, id.0, bytes, &unlogged())?;
        current.bytes.fetch_add(bytes.len() as u64 + OVERHEAD, Relaxed);
        Ok(current.number)
    }

    /// The generation to empty when the ring has grown over its share, or when `pressed` for disk.
    /// Also begins a new generation when the newest is full.
    pub(crate) fn overgrown(&self, pressed: bool) -> Result<Option<u64>, StoreError> {
        let full = |generations: &VecDeque<Generation>| {
            generations.back().is_none_or(|newest| newest.bytes.load(Relaxed) >= self.target())
        };
        if full(&self.generations.read()) {
            let mut generations = self.generations.write();
            if full(&generations) {
                self.turn(&mut generations)?;
            }
        }
        let generations = self.generations.read();
        let held: u64 = generations.iter().map(|generation| generation.bytes.load(Relaxed)).sum();
        let over = held + self.target() > self.share().max(3 * MIN_GENERATION) || pressed;
        Ok(generations.front().filter(|_| over && generations.len() > 1).map(|oldest| oldest.number))
    }

    /// Begins a new generation; the one before it is flushed in the background.
    fn turn(&self, generations: &mut VecDeque<Generation>) -> Result<(), StoreError> {
        let number = generations.back().map_or(1, |newest| newest.number + 1);
        self.db.create_cf(Generation::name(number), &self.options)?;
        if let Some(full) =
            generations.back().and_then(|newest| self.db.cf_handle(&Generation::name(newest.number)))
        {
            let mut flush = FlushOptions::default();
            flush.set_wait(false);
            flush.set_allow_write_stall(true);
            self.db.flush_cf_opt(&full, &flush)?;
        }
        generations.push_back(Generation { number, bytes: AtomicU64::new(0) });
        Ok(())
    }

    /// Drops a generation whole.
    pub(crate) fn drop_generation(&self, number: u64) -> Result<Dropped, StoreError> {
        let mut generations = self.generations.write();
        if generations.front().is_none_or(|oldest| oldest.number != number) {
            return Ok(Dropped { chunks: 0 });
        }
        let name = Generation::name(number);
        let chunks = match self.db.cf_handle(&name) {
            Some(family) => self.db.property_int_value_cf(&family, "rocksdb.estimate-num-keys")?.unwrap_or(0),
            None => 0,
        };
        self.db.drop_cf(&name)?;
        generations.pop_front();
        Ok(Dropped { chunks })
    }

    /// The families where a chunk may stand beside generation `hint`, the likeliest first.
    pub(crate) fn places(&self, hint: Option<u64>) -> Vec<(String, Option<u64>)> {
        let generations = self.generations.read();
        let others = generations
            .iter()
            .rev()
            .map(|generation| generation.number)
            .filter(|number| Some(*number) != hint);
        let pinned = std::iter::once((PINNED.to_owned(), None));
        pinned.chain(others.map(|number| (Generation::name(number), Some(number)))).collect()
    }

    /// Reads a chunk from one family without checking its hash.
    pub(crate) fn get_from(&self, family: &str, id: &ChunkId) -> Result<Option<Bytes>, StoreError> {
        let Some(handle) = self.db.cf_handle(family) else { return Ok(None) };
        let blob = Blob::try_new(self.db.clone(), |db| match db.get_pinned_cf(&handle, id.0) {
            Ok(Some(slice)) => Ok(slice),
            Ok(None) => Err(None),
            Err(error) => Err(Some(error)),
        });
        match blob {
            Ok(blob) => Ok(Some(Bytes::from_owner(SharedBlob(blob)))),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error.into()),
        }
    }

    /// Removes a copy of a chunk that failed its hash from where it was read.
    pub(crate) fn remove_from(&self, family: &str, id: &ChunkId) -> Result<(), StoreError> {
        if let Some(handle) = self.db.cf_handle(family) {
            self.db.delete_cf_opt(&handle, id.0, &unlogged())?;
        }
        Ok(())
    }

    /// The family of a generation.
    pub(crate) fn generation(number: u64) -> String {
        Generation::name(number)
    }

    /// Whether the pinned family has the chunk.
    pub(crate) fn holds_pinned(&self, id: &ChunkId) -> Result<bool, StoreError> {
        Ok(self.get_from(PINNED, id)?.is_some())
    }

    /// Writes a chunk to the pinned family; it is durable after [`Ring::flush_pinned`].
    pub(crate) fn put_pinned(&self, id: &ChunkId, bytes: &[u8]) -> Result<(), StoreError> {
        let family = self.db.cf_handle(PINNED).ok_or(StoreError::Closing)?;
        self.db.put_cf_opt(&family, id.0, bytes, &unlogged())?;
        Ok(())
    }

    /// Makes pinned chunks durable.
    pub(crate) fn flush_pinned(&self) -> Result<(), StoreError> {
        let family = self.db.cf_handle(PINNED).ok_or(StoreError::Closing)?;
        Ok(self.db.flush_cf(&family)?)
    }

    /// Removes an unpinned chunk; blob garbage collection of the pinned family frees its bytes.
    pub(crate) fn delete_pinned(&self, id: &ChunkId) -> Result<(), StoreError> {
        let family = self.db.cf_handle(PINNED).ok_or(StoreError::Closing)?;
        Ok(self.db.delete_cf_opt(&family, id.0, &unlogged())?)
    }

    /// Writes every memtable out, at an orderly end.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        for name in self.families() {
            if let Some(handle) = self.db.cf_handle(&name) {
                self.db.flush_cf(&handle)?;
            }
        }
        Ok(())
    }

    /// Names of all families that hold chunks: the pinned one and every generation.
    pub(crate) fn families(&self) -> Vec<String> {
        let generations = self.generations.read();
        [PINNED.to_owned()]
            .into_iter()
            .chain(generations.iter().map(|g| Generation::name(g.number)))
            .collect()
    }

    /// Bytes of index and filter blocks in memory.
    pub(crate) fn index_bytes(&self) -> u64 {
        self.index_cache.get_usage() as u64
    }
}

fn size_on_disk(db: &Db, name: &str) -> u64 {
    let Some(family) = db.cf_handle(name) else { return 0 };
    ["rocksdb.total-blob-file-size", "rocksdb.total-sst-files-size"]
        .iter()
        .filter_map(|property| db.property_int_value_cf(&family, *property).ok().flatten())
        .sum()
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
    // Keys are never merged: a generation has some dozens of small tables and then goes whole.
    options.set_disable_auto_compactions(true);
    options.set_level_zero_slowdown_writes_trigger(1 << 20);
    options.set_level_zero_stop_writes_trigger(1 << 20);
    options
}

fn pinned_options(index_cache: &Cache) -> Options {
    let mut options = chunk_options(index_cache);
    options.set_disable_auto_compactions(false);
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
    options
}
