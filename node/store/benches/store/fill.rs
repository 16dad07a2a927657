//! Sustained fill of a full cache, beside `dd` on the same disk in turn.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use skerry_store::ChunkId;

use crate::Result;
use crate::instruments::machine::{Disk, cpu_seconds, median};
use crate::material::{CHUNK, Material};
use crate::plan::Plan;
use crate::subject::Subject;

const MIB: f64 = (1 << 20) as f64;
/// No further round begins after so long.
const LONGEST: Duration = Duration::from_secs(60);
/// One round ends after so long, whatever it has written.
const LONGEST_ROUND: Duration = Duration::from_secs(20);

/// Every round, in order.
#[derive(Debug, Serialize)]
pub(crate) struct Fill {
    pub(crate) writers: usize,
    /// What `dd oflag=direct bs=1M` reached before and after each round.
    pub(crate) dd_mib_s: Vec<f64>,
    /// Chunks whose ids were known before.
    pub(crate) known: Vec<Round>,
    /// Chunks that the writers hashed as they put them.
    pub(crate) hashed: Vec<Round>,
    /// Median of the rounds with ids known over the median of `dd`.
    pub(crate) known_of_dd: Option<f64>,
    pub(crate) hashed_of_dd: Option<f64>,
}

/// The capacity, put once more and flushed.
#[derive(Debug, Serialize)]
pub(crate) struct Round {
    pub(crate) mib_s: f64,
    /// Processor seconds of the whole process per GB (1e9 bytes).
    pub(crate) cpu_s_gb: f64,
}

pub(crate) fn measure(plan: &Plan, dir: &Path) -> Result<Fill> {
    let material = Material::new(CHUNK);
    let disk = Disk::new(dir, material.pool())?;
    let subject = Subject::open(&dir.join("store"), &plan.config())?;
    let fillers = Fillers { subject, material, writers: plan.writers };
    let capacity = plan.capacity / CHUNK as u64;
    // Once full, every chunk that is put drives another out.
    let mut next = capacity + capacity / 8;
    fillers.fill(0..next, None)?;

    let begun = Instant::now();
    let (mut dd, mut known, mut hashed) = (Vec::from_iter(disk.dd()), Vec::new(), Vec::new());
    while known.len() < plan.rounds && begun.elapsed() < LONGEST {
        let numbers = next..next + capacity;
        let ids: Vec<ChunkId> =
            numbers.clone().map(|number| ChunkId::of(&fillers.material.chunk(number))).collect();
        known.push(fillers.fill(numbers, Some(&ids))?);
        dd.extend(disk.dd());
        next += capacity;
        hashed.push(fillers.fill(next..next + capacity, None)?);
        dd.extend(disk.dd());
        next += capacity;
    }
    let of_dd = |rounds: &[Round]| {
        let rates: Vec<f64> = rounds.iter().map(|round| round.mib_s).collect();
        Some(median(&rates)? / median(&dd)?)
    };
    let (known_of_dd, hashed_of_dd) = (of_dd(&known), of_dd(&hashed));
    if known_of_dd.is_none() {
        return Err("dd has no direct writes here: use --dir with a local disk".into());
    }
    Ok(Fill { writers: plan.writers, dd_mib_s: dd, known, hashed, known_of_dd, hashed_of_dd })
}

struct Fillers {
    subject: Subject,
    material: Material,
    writers: usize,
}

impl Fillers {
    /// Puts these objects, by several threads, and waits until all of it is on the disk. Hashes the
    /// chunks when their ids are not given.
    fn fill(&self, numbers: Range<u64>, ids: Option<&[ChunkId]>) -> Result<Round> {
        let (next, put) = (AtomicU64::new(numbers.start), AtomicU64::new(0));
        let (begun, cpu) = (Instant::now(), cpu_seconds()?);
        let write = || -> Result<()> {
            while begun.elapsed() < LONGEST_ROUND {
                let number = next.fetch_add(1, Relaxed);
                if number >= numbers.end {
                    break;
                }
                let id = match ids {
                    Some(ids) => ids[(number - numbers.start) as usize],
                    None => ChunkId::of(&self.material.chunk(number)),
                };
                self.material.put(&self.subject.store, number, id)?;
                put.fetch_add(1, Relaxed);
            }
            Ok(())
        };
        thread::scope(|scope| -> Result<()> {
            let writers: Vec<_> = (0..self.writers).map(|_| scope.spawn(write)).collect();
            for writer in writers {
                writer.join().map_err(|_| "a writer panicked")??;
            }
            Ok(())
        })?;
        self.subject.flush()?;
        let (took, bytes) = (begun.elapsed().as_secs_f64(), put.into_inner() as f64 * CHUNK as f64);
        Ok(Round { mib_s: bytes / MIB / took, cpu_s_gb: (cpu_seconds()? - cpu) / (bytes / 1e9) })
    }
}
