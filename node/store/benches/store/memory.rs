//! Memory per stored chunk: a child stores small chunks, each with an object's record, and tells what
//! memory it has at a fifth of them and at the end. What does not grow with them falls out of the
//! difference: the code, the pool of random bytes, the memory tier of 64 KiB.
//!
//! Counted is the anonymous memory of the whole process (`Anonymous` of `/proc/self/smaps_rollup`),
//! with everything flushed and every table read from once, without the block caches and memtables of
//! both databases: those have fixed bounds, and below them would seem to grow with the chunks. The
//! child's jemalloc gives freed pages back at once.
//!
//! Twice: in large tables, and in tables of 64 chunks. So many of a MiB fill a memtable, and that is
//! how the node's tables and blob files lie, each with what RocksDB remembers of it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use skerry_store::{ChunkId, Located, StoreConfig};

use crate::Result;
use crate::instruments::child::{Teller, tell};
use crate::material::{Material, SMALL};
use crate::plan::{Part, Plan};
use crate::subject::Subject;

/// A child must tell both figures within this.
const PATIENCE: Duration = Duration::from_secs(100);
/// Memory must be still within this, and counts as still when it moves less than this in between.
const SETTLE: Duration = Duration::from_secs(10);
const BETWEEN: Duration = Duration::from_millis(500);
const STILL: u64 = 64 << 10;
/// Chunks of a MiB in a memtable, and so in a table with its blob file.
const TABLE: u64 = 64;
/// Chunks that are read where tables are large.
const READS: u64 = 1024;
/// The node's service has eight times as many.
const FILES: u32 = 8192;
/// Keeps free pages from counting, and huge pages from filling up what is not used.
const MALLOC: &str = "dirty_decay_ms:0,muzzy_decay_ms:0,thp:never";

/// One of the two.
#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    /// Chunks to a table, if that was forced.
    pub(crate) table: Option<u64>,
    pub(crate) points: [Point; 2],
    /// Growth between the points, in bytes for each chunk, of what is counted.
    pub(crate) per_chunk: f64,
    /// The same of all anonymous memory.
    pub(crate) with_caches_per_chunk: f64,
    /// The same of what RocksDB says its table readers take.
    pub(crate) table_readers_per_chunk: f64,
}

/// What a child tells. All but `chunks` in bytes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) chunks: u64,
    anonymous: f64,
    block_caches: f64,
    memtables: f64,
    table_readers: f64,
}

/// The parent's part.
pub(crate) fn measure(plan: &Plan, dir: &Path) -> Result<Vec<Memory>> {
    let mut measured = Vec::new();
    for (chunks, table) in [(plan.chunks, None), (plan.sparse, Some(TABLE))] {
        let dir = tempfile::tempdir_in(dir)?;
        let mut command = Part::Grow { dir: dir.path().to_owned(), chunks, table }.command()?;
        let child = Teller::start(command.env("MALLOC_CONF", MALLOC))?;
        let deadline = Instant::now() + PATIENCE;
        let [few, many]: [Point; 2] =
            [serde_json::from_str(&child.line(deadline)?)?, serde_json::from_str(&child.line(deadline)?)?];
        let growth =
            |bytes: fn(&Point) -> f64| (bytes(&many) - bytes(&few)) / (many.chunks - few.chunks) as f64;
        measured.push(Memory {
            table,
            points: [few, many],
            per_chunk: growth(|point| point.anonymous - point.block_caches - point.memtables),
            with_caches_per_chunk: growth(|point| point.anonymous),
            table_readers_per_chunk: growth(|point| point.table_readers),
        });
    }
    Ok(measured)
}

/// The child's part.
pub(crate) fn grow(dir: &Path, chunks: u64, table: Option<u64>) -> Result<()> {
    let config = StoreConfig {
        // Large enough that none is evicted.
        capacity_bytes: (chunks * 2 * SMALL as u64).max(512 << 20),
        pinned_bytes: 0,
        memory_tier_bytes: 64 << 10,
        ..StoreConfig::default()
    };
    // Every table and every blob file is open in the end.
    let (pid, files) = (std::process::id().to_string(), format!("--nofile={FILES}:"));
    if !Command::new("prlimit").args(["--pid", &pid, &files]).status()?.success() {
        return Err(format!("prlimit does not allow {FILES} open files").into());
    }
    let subject = Subject::open(dir, &config)?;
    let material = Material::new(SMALL);
    let every = table.unwrap_or(chunks.div_ceil(READS));
    let mut places = Vec::new();
    for number in 0..chunks {
        let located = material.put(&subject.store, number, ChunkId::of(&material.chunk(number)))?;
        let put = number + 1;
        if number.is_multiple_of(every) {
            places.push(located);
        }
        if table.is_some_and(|table| put.is_multiple_of(table)) {
            subject.flush()?;
        }
        if put == chunks / 5 || put == chunks {
            subject.flush()?;
            tell(serde_json::to_string(&look(&subject, &mut places, put)?)?)?;
        }
    }
    Ok(())
}

/// Reads the chunks in `places`, which it empties, and takes the figures when all is quiet.
fn look(subject: &Subject, places: &mut Vec<Located>, chunks: u64) -> Result<Point> {
    for located in places.drain(..) {
        subject.read(located)?.ok_or("a chunk that was flushed is not there")?;
    }
    let begun = Instant::now();
    let mut anonymous = anonymous_bytes()?;
    loop {
        thread::sleep(BETWEEN);
        let before = std::mem::replace(&mut anonymous, anonymous_bytes()?);
        if anonymous.abs_diff(before) < STILL || begun.elapsed() > SETTLE {
            break;
        }
    }
    let property = |name| subject.metric("skerry_store_rocksdb", Some(name));
    Ok(Point {
        chunks,
        anonymous: anonymous as f64,
        block_caches: property("block-cache-usage")?,
        memtables: property("cur-size-all-mem-tables")?,
        table_readers: property("estimate-table-readers-mem")?,
    })
}

fn anonymous_bytes() -> Result<u64> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:")?.strip_suffix("kB"));
    Ok(line.ok_or("/proc/self/smaps_rollup has no Anonymous")?.trim().parse::<u64>()? << 10)
}
