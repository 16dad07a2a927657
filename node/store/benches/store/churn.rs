//! Write amplification in steady churn at a full cache, and reads beside it.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;
use skerry_store::{ChunkId, Located};

use crate::Result;
use crate::instruments::machine::{disk_bytes, percentile, written_bytes};
use crate::material::{CHUNK, Material};
use crate::plan::Plan;
use crate::subject::Subject;

const MIB: f64 = (1 << 20) as f64;
/// The capacity is written so many times.
const TURNS: u64 = 3;
/// The writer's, at most.
pub(crate) const PACE_MIB_S: u32 = 256;
/// A writer stops after so long, whatever it has written.
const LONGEST: Duration = Duration::from_secs(60);
/// Between two reads, so that the reader doesn't take a core to itself.
const PAUSE: Duration = Duration::from_millis(1);
/// Chunk bytes written, by the store's own count: those put, and hot ones written again.
const STORED: &str = "skerry_store_written_bytes_total";

/// What came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Churn {
    pub(crate) capacity_mib: u64,
    pub(crate) memory_tier_mib: u64,
    /// Chunks that the reader keeps hot.
    pub(crate) hot_mib: u64,
    /// Chunks put while measuring.
    pub(crate) put_mib: f64,
    /// Chunks that were hot when their generation went, and were written again.
    pub(crate) rewritten_mib: f64,
    /// All that this process sent to the disk.
    pub(crate) sent_mib: f64,
    /// Sent over put.
    pub(crate) write_amplification: f64,
    /// Bytes on disk at the end, as a share of the capacity.
    pub(crate) disk_of_capacity: f64,
    pub(crate) memory_reads: Reads,
    pub(crate) disk_reads: Reads,
    /// Reads of chunks that were evicted.
    pub(crate) absent: u64,
    /// Reads of hot chunks that were evicted nevertheless, and put again.
    pub(crate) refetched: u64,
}

/// Reads of whole chunks that were there.
#[derive(Debug, Serialize)]
pub(crate) struct Reads {
    pub(crate) count: usize,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
}

impl Reads {
    fn of(mut took: Vec<Duration>) -> Self {
        let count = took.len();
        Self { count, p50_ms: percentile(&mut took, 0.5), p99_ms: percentile(&mut took, 0.99) }
    }
}

pub(crate) fn measure(plan: &Plan, dir: &Path) -> Result<Churn> {
    let config = plan.config();
    let load = Load {
        subject: Subject::open(dir, &config)?,
        material: Material::new(CHUNK),
        places: Mutex::default(),
    };
    let capacity = plan.capacity / CHUNK as u64;
    // Once full, every chunk that is put drives another out; that is where measuring begins.
    load.write(capacity + capacity / 8, None)?;
    load.subject.flush()?;
    let filled = load.places.lock().len() as u64;
    if filled < capacity {
        return Err("the disk is too slow to fill the store in time".into());
    }
    let hot = filled - capacity / 32..filled;

    let (written, stored) = (written_bytes()?, load.subject.metric(STORED, None)?);
    let stop = AtomicBool::new(false);
    let (put, seen) = thread::scope(|scope| -> Result<(u64, Seen)> {
        let reader = scope.spawn(|| load.read(&hot, capacity * 3 / 4, &stop));
        let put = load.write(TURNS * capacity, Some(f64::from(PACE_MIB_S) * MIB));
        stop.store(true, Relaxed);
        let seen = reader.join().map_err(|_| "the reader panicked")??;
        Ok((put?, seen))
    })?;
    load.subject.flush()?;
    let put = (put + seen.refetched) as f64 * CHUNK as f64;
    let rewritten = load.subject.metric(STORED, None)? - stored - put;
    drop(load);
    // Opening writes into tables what the metadata's log holds, so that it counts as well.
    drop(Subject::open(dir, &config)?);
    let sent = (written_bytes()? - written) as f64;
    if sent < put {
        return Err("/proc/self/io counts fewer bytes than were put: use --dir with a local disk".into());
    }
    Ok(Churn {
        capacity_mib: plan.capacity >> 20,
        memory_tier_mib: config.memory_tier_bytes >> 20,
        hot_mib: hot.end - hot.start,
        put_mib: put / MIB,
        rewritten_mib: rewritten / MIB,
        sent_mib: sent / MIB,
        write_amplification: sent / put,
        disk_of_capacity: disk_bytes(dir)? as f64 / plan.capacity as f64,
        memory_reads: Reads::of(seen.memory),
        disk_reads: Reads::of(seen.disk),
        absent: seen.absent,
        refetched: seen.refetched,
    })
}

/// One writer and one reader.
struct Load {
    subject: Subject,
    material: Material,
    /// Where object `n` was written, if it was not written again.
    places: Mutex<Vec<Located>>,
}

/// What the reader saw.
#[derive(Default)]
struct Seen {
    memory: Vec<Duration>,
    disk: Vec<Duration>,
    absent: u64,
    refetched: u64,
}

impl Load {
    /// Puts objects, `pace` bytes a second or as fast as it goes; returns how many.
    fn write(&self, objects: u64, pace: Option<f64>) -> Result<u64> {
        let begun = Instant::now();
        let mut put = 0;
        while put < objects && begun.elapsed() < LONGEST {
            let number = self.places.lock().len() as u64;
            let located = self.put(number)?;
            self.places.lock().push(located);
            put += 1;
            if let Some(pace) = pace {
                let due = Duration::from_secs_f64(put as f64 * CHUNK as f64 / pace);
                thread::sleep(due.saturating_sub(begun.elapsed()));
            }
        }
        Ok(put)
    }

    fn put(&self, number: u64) -> Result<Located> {
        self.material.put(&self.subject.store, number, ChunkId::of(&self.material.chunk(number)))
    }

    /// Reads, three times out of four, one of the hot objects, else any of the newest `recent`.
    fn read(&self, hot: &Range<u64>, recent: u64, stop: &AtomicBool) -> Result<Seen> {
        let mut seen = Seen::default();
        while !stop.load(Relaxed) {
            let is_hot = fastrand::u8(..4) > 0;
            let (number, located) = {
                let places = self.places.lock();
                let end = places.len() as u64;
                let number = fastrand::u64(if is_hot { hot.clone() } else { end - recent..end });
                (number, places[number as usize])
            };
            let begun = Instant::now();
            let (bytes, took) = match self.subject.store.hot(&located.id) {
                Some(bytes) => (Some(bytes), &mut seen.memory),
                None => (self.subject.read(located)?, &mut seen.disk),
            };
            match bytes {
                Some(bytes) => {
                    took.push(begun.elapsed());
                    if bytes != self.material.chunk(number) {
                        return Err(format!("object {number} reads as other bytes than were put").into());
                    }
                }
                // As the cache would do: the origin has it.
                None if is_hot => {
                    seen.refetched += 1;
                    let located = self.put(number)?;
                    self.places.lock()[number as usize] = located;
                }
                None => seen.absent += 1,
            }
            thread::sleep(PAUSE);
        }
        Ok(seen)
    }
}
