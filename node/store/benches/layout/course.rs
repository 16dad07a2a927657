//! The course that every layout is put through, and the figures taken on the way.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;
use crate::crash;
use crate::load::{Churn, churn, pass};
use crate::machine::{self, disk_bytes, percentile, written_bytes};
use crate::material::{CHUNK, Material};
use crate::plan::Plan;
use crate::report::{Reads, Row};
use crate::store::{self, Cursor, Shape, Store};

const MIB: f64 = (1 << 20) as f64;
/// Flushes and compactions must end within this.
const SETTLE: Duration = Duration::from_secs(20);
/// The paced churn takes so long for one capacity, or longer where that would be more than
/// [`MOST_PACE`]: as much a second for every layout, and less than the slowest can take.
const PACED_SECONDS: f64 = 4.0;
/// Bytes a second.
const MOST_PACE: f64 = 256.0 * MIB;

/// Runs one layout in a directory of its own below `root`, which is gone afterwards.
pub(crate) fn run(plan: &Plan, material: &Material, root: &Path, shape: Shape) -> Result<Row> {
    let mut row = Row::new(shape.layout.name(), shape.value >> 10);
    {
        let dir = tempfile::tempdir_in(root)?;
        steady(material, dir.path(), shape, &mut row)?;
    }
    machine::sync(root)?;
    {
        let dir = tempfile::tempdir_in(root)?;
        row.crash = crash::measure(plan, material, dir.path(), shape)?;
    }
    machine::sync(root)?;
    Ok(row)
}

fn steady(material: &Material, path: &Path, shape: Shape, row: &mut Row) -> Result<()> {
    let mut cursor = Cursor::default();
    let capacity = material.capacity;
    let fill = Churn { chunks: capacity, pace: None, reader: false };
    let fast = Churn { chunks: capacity * 3 / 2, pace: None, reader: false };
    let pace = Some((shape.capacity as f64 / PACED_SECONDS).min(MOST_PACE));
    let paced = Churn { chunks: capacity * 3 / 4, pace, reader: true };

    // Once full, every chunk that is put drives another out; that is where measuring begins.
    let (written, mut put, mut held) = store::with(path, shape, false, |store| {
        churn(store, path, material, &mut cursor, &fill)?;
        settle(store, path, row)?;
        cursor.turns.clear();
        let (written, begun) = (written_bytes()?, Instant::now());
        let filled = churn(store, path, material, &mut cursor, &fast)?;
        settle(store, path, row)?;
        row.fill_mib_s = filled.chunks as f64 * CHUNK as f64 / MIB / begun.elapsed().as_secs_f64();
        row.turn_ms = percentile(&mut cursor.turns, 0.5);
        let churned = churn(store, path, material, &mut cursor, &paced)?;
        row.peak_of_capacity = filled.peak.max(churned.peak) as f64 / shape.capacity as f64;
        row.reads.push(reads(false, churned.reads, churned.misses));
        Ok((written, filled.chunks + churned.chunks, churned.held))
    })?;
    let oldest = store::with(path, shape, true, |store| {
        let churned = churn(store, path, material, &mut cursor, &paced)?;
        settle(store, path, row)?;
        put += churned.chunks;
        held.extend(churned.held);
        row.peak_of_capacity = row.peak_of_capacity.max(churned.peak as f64 / shape.capacity as f64);
        row.reads.push(reads(true, churned.reads, churned.misses));
        store.oldest(material, cursor.next)
    })?;
    row.write_amplification = (written_bytes()? - written) as f64 / (put as f64 * CHUNK as f64);
    let live = cursor.next - oldest;
    row.live_at_end = live as f64 / capacity as f64;
    row.live_least = held.into_iter().fold(row.live_at_end, f64::min);
    row.space_amplification = disk_bytes(path)? as f64 / (live as f64 * CHUNK as f64);

    let mut order: Vec<u64> = (oldest..cursor.next).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    for reads in &mut row.reads {
        store::with(path, shape, reads.direct, |store| {
            if let Some(cold) = pass(store, path, material, &order, true)? {
                reads.cold_cpu_s_gb = Some(cold.cpu / (cold.bytes as f64 / 1e9));
                reads.cold_mib_s = Some(cold.bytes as f64 / MIB / cold.elapsed.as_secs_f64());
            }
            if let Some(warm) = pass(store, path, material, &order, false)? {
                reads.warm_cpu_s_gb = Some(warm.cpu / (warm.bytes as f64 / 1e9));
                reads.warm_mib_s = Some(warm.bytes as f64 / MIB / warm.elapsed.as_secs_f64());
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Everything put so far is on the disk, and nothing is going on, when this returns.
fn settle(store: &Store<'_>, path: &Path, row: &mut Row) -> Result<()> {
    if !store.settle(SETTLE)? {
        row.notes.push(format!("compactions were not done {} s after the writes", SETTLE.as_secs()));
    }
    machine::sync(path)
}

fn reads(direct: bool, mut took: Vec<Duration>, misses: u64) -> Reads {
    Reads {
        direct,
        churn_p50_ms: percentile(&mut took, 0.5),
        churn_p99_ms: percentile(&mut took, 0.99),
        churn_reads: took.len() as u64,
        churn_misses: misses,
        ..Reads::default()
    }
}
