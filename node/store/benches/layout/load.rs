//! Load on an open store: one writer, beside it a reader when asked, and a watch on what the layout
//! holds; and passes that read everything.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rust_rocksdb::WriteBatch;

use crate::Result;
use crate::machine::{self, cpu_seconds, disk_bytes};
use crate::material::{CHUNK, Material};
use crate::store::{Cursor, Store};

/// A writer stops after so long, whatever it has written.
const LONGEST: Duration = Duration::from_secs(25);
/// Between two reads, so that the reader doesn't take a core to itself.
const PAUSE: Duration = Duration::from_millis(1);
const WATCH_EVERY: Duration = Duration::from_millis(50);
/// Processor time is measured in steps of 10 ms, so a pass is repeated until it has read so much.
const PASS_BYTES: u64 = 512 << 20;

/// How to write.
pub(crate) struct Churn {
    pub(crate) chunks: u64,
    /// Bytes a second; none for as fast as it goes.
    pub(crate) pace: Option<f64>,
    pub(crate) reader: bool,
}

/// What came of it.
#[derive(Default)]
pub(crate) struct Churned {
    /// Of the writer, without a flush at the end.
    pub(crate) elapsed: Duration,
    pub(crate) chunks: u64,
    /// Of a whole chunk that was there.
    pub(crate) reads: Vec<Duration>,
    /// Chunks within the last capacity that the reader no longer found.
    pub(crate) misses: u64,
    /// Share of the capacity that was held, at every look.
    pub(crate) held: Vec<f64>,
    /// Most bytes on disk at any look.
    pub(crate) peak: u64,
}

/// Writes, and meanwhile reads and watches.
pub(crate) fn churn(
    store: &Store<'_>,
    path: &Path,
    material: &Material,
    cursor: &mut Cursor,
    how: &Churn,
) -> Result<Churned> {
    let stop = AtomicBool::new(false);
    let next = AtomicU64::new(cursor.next);
    thread::scope(|scope| {
        let reader = how.reader.then(|| scope.spawn(|| read_at_random(store, material, &next, &stop)));
        let watch = scope.spawn(|| look(store, path, material, &next, &stop, how.reader));
        let written = write(store, material, cursor, how, &next);
        stop.store(true, Relaxed);
        let mut churned = watch.join().map_err(|_| "the watch panicked")??;
        if let Some(reader) = reader {
            (churned.reads, churned.misses) = reader.join().map_err(|_| "the reader panicked")??;
        }
        (churned.elapsed, churned.chunks) = written?;
        Ok(churned)
    })
}

fn write(
    store: &Store<'_>,
    material: &Material,
    cursor: &mut Cursor,
    how: &Churn,
    next: &AtomicU64,
) -> Result<(Duration, u64)> {
    let mut batch = WriteBatch::default();
    let begun = Instant::now();
    let mut put = 0;
    while put < how.chunks && begun.elapsed() < LONGEST {
        store.put(material, cursor, &mut batch)?;
        put += 1;
        next.store(cursor.next, Relaxed);
        if let Some(pace) = how.pace {
            let due = Duration::from_secs_f64(put as f64 * CHUNK as f64 / pace);
            thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
    Ok((begun.elapsed(), put))
}

fn read_at_random(
    store: &Store<'_>,
    material: &Material,
    next: &AtomicU64,
    stop: &AtomicBool,
) -> Result<(Vec<Duration>, u64)> {
    let (mut reads, mut misses) = (Vec::new(), 0);
    let options = store.read_options();
    while !stop.load(Relaxed) {
        let next = next.load(Relaxed);
        let chunk = fastrand::u64(next.saturating_sub(material.capacity)..next);
        let key = material.key(chunk);
        let begun = Instant::now();
        let mut check = Check::new(material, chunk);
        if store.read(&key, &options, |part, value| check.edges(part, value))? {
            reads.push(begun.elapsed());
            check.right()?;
        } else {
            misses += 1;
        }
        thread::sleep(PAUSE);
    }
    Ok((reads, misses))
}

fn look(
    store: &Store<'_>,
    path: &Path,
    material: &Material,
    next: &AtomicU64,
    stop: &AtomicBool,
    held: bool,
) -> Result<Churned> {
    let mut seen = Churned::default();
    let mut looks = 0_u32;
    while !stop.load(Relaxed) {
        seen.peak = seen.peak.max(disk_bytes(path)?);
        // Seldom, because it reads.
        if held && looks.is_multiple_of(8) {
            let next = next.load(Relaxed);
            let live = next - store.oldest(material, next)?;
            seen.held.push(live as f64 / material.capacity as f64);
        }
        looks += 1;
        thread::sleep(WATCH_EVERY);
    }
    Ok(seen)
}

/// Reading everything once or, when that is little, several times.
pub(crate) struct Pass {
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    /// Seconds.
    pub(crate) cpu: f64,
}

/// Reads the chunks in the given order, each time from an emptied page cache when `cold`. Returns none
/// when the page cache can't be emptied.
pub(crate) fn pass(
    store: &Store<'_>,
    path: &Path,
    material: &Material,
    chunks: &[u64],
    cold: bool,
) -> Result<Option<Pass>> {
    let options = store.read_options();
    let mut pass = Pass { bytes: 0, elapsed: Duration::ZERO, cpu: 0.0 };
    while pass.bytes < PASS_BYTES && pass.elapsed < LONGEST && !chunks.is_empty() {
        if cold && !machine::drop_page_cache(path)? {
            return Ok(None);
        }
        let (begun, cpu) = (Instant::now(), cpu_seconds()?);
        for &chunk in chunks {
            let mut check = Check::new(material, chunk);
            if !store.read(&material.key(chunk), &options, |part, value| check.edges(part, value))? {
                return Err(format!("chunk {chunk} is gone though nothing is written").into());
            }
            check.right()?;
        }
        pass.elapsed += begun.elapsed();
        pass.cpu += cpu_seconds()? - cpu;
        pass.bytes += (chunks.len() * CHUNK) as u64;
    }
    Ok(Some(pass))
}

/// Compares what is read with what was put.
pub(crate) struct Check<'a> {
    chunk: u64,
    expected: &'a [u8],
    seen: usize,
    wrong: bool,
}

impl<'a> Check<'a> {
    pub(crate) fn new(material: &'a Material, chunk: u64) -> Self {
        Self { chunk, expected: material.bytes(chunk), seen: 0, wrong: false }
    }

    /// Looks at the first and last bytes only, which costs next to nothing beside the read.
    pub(crate) fn edges(&mut self, part: usize, value: &[u8]) {
        let expected = self.expected.get(part * value.len()..(part + 1) * value.len()).unwrap_or_default();
        self.wrong |= value.first_chunk::<16>() != expected.first_chunk::<16>();
        self.wrong |= value.last_chunk::<16>() != expected.last_chunk::<16>();
        self.seen += value.len();
    }

    /// Looks at every byte.
    pub(crate) fn all(&mut self, part: usize, value: &[u8]) {
        self.wrong |= self.expected.get(part * value.len()..(part + 1) * value.len()) != Some(value);
        self.seen += value.len();
    }

    pub(crate) fn right(&self) -> Result<()> {
        if self.wrong || self.seen != CHUNK {
            return Err(format!("chunk {} reads as other bytes than were put", self.chunk).into());
        }
        Ok(())
    }
}
