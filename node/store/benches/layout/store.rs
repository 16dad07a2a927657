//! The four layouts behind one door: open, put with eviction, read, settle.
//!
//! A chunk is written as one batch of `CHUNK / value` values under its key and a part number. All
//! layouts run without the log, with the same memtables, the same bound on all memtables together
//! (writers wait at it, so that memory cannot hide what the disk can't take), and the same filter and
//! index cache. Only the writer changes the set of generations; readers try them from the newest, as a
//! store without an index of its own would. Handles of families are kept here and not looked up in the
//! database's own map: that is locked for as long as a family is being created, which takes several
//! syncs, and every read would wait for it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rust_rocksdb::{
    BlockBasedOptions, BoundColumnFamily, Cache, ColumnFamilyDescriptor, DBCompactionStyle,
    DBCompressionType, DBWithThreadMode, FifoCompactOptions, FlushOptions, LogLevel, MultiThreaded, Options,
    ReadOptions, WaitForCompactOptions, WriteBatch, WriteBufferManager, WriteOptions,
};
use serde::Serialize;

use crate::Result;
use crate::material::{CHUNK, Key, Material};
use crate::plan::Plan;

type Db = DBWithThreadMode<MultiThreaded>;

/// The capacity is turned over in so many steps: a generation, or a memtable of the single families.
const STEPS: u64 = 16;
const LARGEST_MEMTABLE: u64 = 64 << 20;
const INDEX_CACHE: usize = 32 << 20;
/// More files than a generation will ever have.
const NEVER: i32 = 1 << 20;
const SINGLE: &str = "chunks";
const GENERATION: &str = "generation-";

/// A way of laying chunks out in RocksDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Layout {
    /// Generations as column families with blob files; the oldest is dropped whole.
    RingBlob,
    /// One column family with blob files under FIFO compaction with a size limit.
    FifoBlob,
    /// Generations as column families with the values in the tables; the oldest is dropped whole.
    RingSst,
    /// One leveled column family with blob files, a delete per evicted chunk, blob garbage collection.
    LeveledGc,
}

impl Layout {
    pub(crate) const ALL: [Self; 4] = [Self::RingBlob, Self::FifoBlob, Self::RingSst, Self::LeveledGc];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RingBlob => "ring-blob",
            Self::FifoBlob => "fifo-blob",
            Self::RingSst => "ring-sst",
            Self::LeveledGc => "leveled-gc",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|layout| layout.name() == name)
    }

    fn is_ring(self) -> bool {
        matches!(self, Self::RingBlob | Self::RingSst)
    }
}

/// A layout with its sizes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) layout: Layout,
    /// Bytes of a value.
    pub(crate) value: usize,
    /// Bytes of chunks.
    pub(crate) capacity: u64,
    direct_writes: bool,
    checksums: bool,
}

impl Shape {
    pub(crate) fn new(plan: &Plan, layout: Layout, value: usize) -> Self {
        let Plan { capacity, direct_writes, checksums, .. } = *plan;
        Self { layout, value, capacity, direct_writes, checksums }
    }

    /// Bytes of a memtable: a generation of the same size fits, with what the arena wastes, and is
    /// flushed in one go.
    fn memtable(&self) -> u64 {
        let step = (self.capacity / STEPS).min(LARGEST_MEMTABLE);
        step + step / 8
    }

    /// Options of the database, which its default family takes as well.
    fn database(&self, direct_reads: bool) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // Two flushes at once, and compactions where there are any.
        options.set_max_background_jobs(8);
        options.set_bytes_per_sync(1 << 20);
        options.set_use_direct_reads(direct_reads);
        options.set_use_direct_io_for_flush_and_compaction(self.direct_writes);
        let memtables = usize::try_from(4 * self.memtable()).unwrap_or(usize::MAX);
        options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(memtables, true));
        options.set_log_level(LogLevel::Warn);
        options.set_stats_dump_period_sec(0);
        options
    }

    /// Options of a family that holds chunks.
    fn family(&self, cache: &Cache) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(cache);
        table.set_bloom_filter(10.0, false);
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::None);
        options.set_write_buffer_size(usize::try_from(self.memtable()).unwrap_or(usize::MAX));
        options.set_max_write_buffer_number(4);
        if self.layout != Layout::RingSst {
            options.set_enable_blob_files(true);
            options.set_min_blob_size(0);
            options.set_blob_compression_type(DBCompressionType::None);
            // One blob file per flush.
            options.set_blob_file_size(1 << 30);
        }
        match self.layout {
            Layout::RingBlob | Layout::RingSst => {
                options.set_disable_auto_compactions(true);
                options.set_level_zero_file_num_compaction_trigger(NEVER);
                options.set_level_zero_slowdown_writes_trigger(NEVER);
                options.set_level_zero_stop_writes_trigger(NEVER);
            }
            Layout::FifoBlob => {
                let mut fifo = FifoCompactOptions::default();
                fifo.set_max_data_files_size(self.capacity);
                options.set_compaction_style(DBCompactionStyle::Fifo);
                options.set_fifo_compaction_options(&fifo);
            }
            Layout::LeveledGc => options.set_enable_blob_gc(true),
        }
        options
    }
}

/// What the writer knows. It outlives the database handle, so that a reopened one goes on.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// The chunk to put next.
    pub(crate) next: u64,
    /// The oldest chunk not evicted by the writer; with FIFO, RocksDB evicts and the writer can't know.
    oldest: u64,
    /// First chunk of each generation, oldest first.
    starts: VecDeque<u64>,
    /// How long the writer was held up by each change of generations: a drop and a creation.
    pub(crate) turns: Vec<Duration>,
}

#[derive(Clone)]
struct Family<'db> {
    name: String,
    handle: Arc<BoundColumnFamily<'db>>,
}

/// An open database in one of the layouts.
pub(crate) struct Store<'db> {
    db: &'db Db,
    shape: Shape,
    options: Options,
    /// The families that hold chunks, oldest first.
    families: RwLock<Arc<Vec<Family<'db>>>>,
}

/// Opens or makes the database, lends it to `body`, and closes it.
pub(crate) fn with<T>(
    path: &Path,
    shape: Shape,
    direct_reads: bool,
    body: impl FnOnce(&Store<'_>) -> Result<T>,
) -> Result<T> {
    let database = shape.database(direct_reads);
    let options = shape.family(&Cache::new_lru_cache(INDEX_CACHE));
    let mut names: Vec<String> = if path.join("CURRENT").exists() {
        Db::list_cf(&database, path)?.into_iter().filter(|name| name != "default").collect()
    } else if shape.layout.is_ring() {
        Vec::new()
    } else {
        vec![SINGLE.to_owned()]
    };
    names.sort();
    let described = names.iter().map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
    let default = ColumnFamilyDescriptor::new("default", database.clone());
    let db = Db::open_cf_descriptors(&database, path, described.chain([default]).collect::<Vec<_>>())?;
    let families: Option<Vec<_>> =
        names.into_iter().map(|name| Some(Family { handle: db.cf_handle(&name)?, name })).collect();
    let families = RwLock::new(Arc::new(families.ok_or("a family was not opened")?));
    body(&Store { db: &db, shape, options, families })
}

impl<'db> Store<'db> {
    /// Puts the next chunk, and evicts first what has to give way.
    pub(crate) fn put(&self, material: &Material, cursor: &mut Cursor, batch: &mut WriteBatch) -> Result<()> {
        batch.clear();
        if self.shape.layout.is_ring() {
            self.turn(material, cursor)?;
        }
        let families = self.families();
        let family = &families.last().ok_or("there is no family to write to")?.handle;
        if self.shape.layout == Layout::LeveledGc {
            while cursor.next - cursor.oldest >= material.capacity {
                let key = material.key(cursor.oldest);
                (0..self.parts()).for_each(|part| batch.delete_cf(family, part_key(&key, part)));
                cursor.oldest += 1;
            }
        }
        let key = material.key(cursor.next);
        for (part, value) in material.bytes(cursor.next).chunks(self.shape.value).enumerate() {
            batch.put_cf(family, part_key(&key, part), value);
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options)?;
        cursor.next += 1;
        Ok(())
    }

    /// Begins a new generation when the newest is full, and has that one flushed meanwhile; drops the
    /// oldest when the ring is at its capacity.
    fn turn(&self, material: &Material, cursor: &mut Cursor) -> Result<()> {
        let full = material.capacity.div_ceil(STEPS);
        if cursor.starts.back().is_some_and(|start| cursor.next - start < full) {
            return Ok(());
        }
        let begun = Instant::now();
        let mut families = Vec::clone(&self.families());
        if let Some(full) = families.last().filter(|_| !cursor.starts.is_empty()) {
            let mut flush = FlushOptions::default();
            flush.set_wait(false);
            flush.set_allow_write_stall(true);
            self.db.flush_cf_opt(&full.handle, &flush)?;
        }
        if cursor.next - cursor.oldest + full > material.capacity {
            self.db.drop_cf(&families.remove(0).name)?;
            cursor.starts.pop_front();
            cursor.oldest = cursor.starts.front().copied().unwrap_or(cursor.next);
        }
        let name = format!("{GENERATION}{:016x}", cursor.next);
        self.db.create_cf(&name, &self.options)?;
        let handle = self.db.cf_handle(&name).ok_or("a new family is gone")?;
        families.push(Family { name, handle });
        *self.families.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(families);
        cursor.starts.push_back(cursor.next);
        cursor.turns.push(begun.elapsed());
        Ok(())
    }

    /// Reads a chunk part by part into `take`. Returns false when it is not there; a chunk that has lost
    /// some of its parts counts as not there.
    pub(crate) fn read(
        &self,
        key: &Key,
        options: &ReadOptions,
        mut take: impl FnMut(usize, &[u8]),
    ) -> Result<bool> {
        for Family { handle, .. } in self.families().iter().rev() {
            for part in 0..self.parts() {
                match self.db.get_pinned_cf_opt(handle, part_key(key, part), options)? {
                    Some(value) => take(part, &value),
                    None if part == 0 => break,
                    None => return Ok(false),
                }
                if part + 1 == self.parts() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Whether the chunk's first part is there, by reading it.
    pub(crate) fn holds(&self, key: &Key) -> Result<bool> {
        let options = self.read_options();
        for Family { handle, .. } in self.families().iter().rev() {
            if self.db.get_pinned_cf_opt(handle, part_key(key, 0), &options)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The oldest chunk that is still there: evictions go by age in every layout, so a binary search
    /// finds it.
    pub(crate) fn oldest(&self, material: &Material, next: u64) -> Result<u64> {
        let (mut gone, mut there) = (next.saturating_sub(3 * material.capacity), next);
        while gone < there {
            let middle = gone + (there - gone) / 2;
            if self.holds(&material.key(middle))? {
                there = middle;
            } else {
                gone = middle + 1;
            }
        }
        Ok(there)
    }

    /// Inline values don't belong in the cache of index blocks; tables of blob references do.
    pub(crate) fn read_options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.fill_cache(self.shape.layout != Layout::RingSst);
        options.set_verify_checksums(self.shape.checksums);
        options
    }

    /// Flushes all memtables and waits for flushes, compactions and deletions to end. Returns false when
    /// they had not within `limit`.
    pub(crate) fn settle(&self, limit: Duration) -> Result<bool> {
        let mut options = WaitForCompactOptions::default();
        options.set_flush(true);
        options.set_wait_for_purge(true);
        options.set_timeout(u64::try_from(limit.as_micros()).unwrap_or(u64::MAX));
        match self.db.wait_for_compact(&options) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == rust_rocksdb::ErrorKind::TimedOut => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn parts(&self) -> usize {
        CHUNK / self.shape.value
    }

    /// A snapshot, so that no read holds up the writer's next generation.
    fn families(&self) -> Arc<Vec<Family<'db>>> {
        self.families.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn part_key(key: &Key, part: usize) -> [u8; 33] {
    let mut whole = [0; 33];
    whole[..32].copy_from_slice(key);
    // At most 16 parts of 64 KiB.
    whole[32] = part as u8;
    whole
}
