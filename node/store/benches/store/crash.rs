//! SIGKILL at full speed, and the time from a fresh start to the first answer: an object's record and
//! its chunk. The store is full, so generations come and go as the child writes.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use skerry_store::{ChunkId, StoreConfig};

use crate::Result;
use crate::instruments::child::{Teller, tell};
use crate::instruments::machine;
use crate::material::{Material, SMALL, find};
use crate::plan::{Part, Plan};
use crate::subject::Subject;

/// A child must have filled the store, or answered, within this.
const PATIENCE: Duration = Duration::from_secs(90);
/// No further kill after so long.
const LONGEST: Duration = Duration::from_secs(100);
/// The child tells how far it is after so many objects.
const TELL_EVERY: u64 = 256;
/// What the store counts for a small chunk: its bytes, its key, the references to it.
const ENTRY: u64 = SMALL as u64 + 160;
/// Objects that are asked for, each older than the one before, until one is there.
const TRIES: usize = 32;

/// Every kill, in order.
#[derive(Debug, Serialize)]
pub(crate) struct Crash {
    pub(crate) kills: Vec<Kill>,
}

/// One kill and what came after it.
#[derive(Debug, Serialize)]
pub(crate) struct Kill {
    /// Objects put before it, all told.
    pub(crate) put: u64,
    /// Whether the page cache was emptied after it.
    pub(crate) cold: bool,
    /// From the start of a process to its first answer.
    pub(crate) process_ms: f64,
    pub(crate) answer: Answer,
}

/// What the child tells that opens the store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Of the store.
    pub(crate) open_ms: f64,
    /// From the beginning of the opening to the chunk's bytes.
    pub(crate) answer_ms: f64,
    /// Objects asked for until one was there: the kill takes the newest chunks.
    pub(crate) tried: u64,
    /// Records of objects, by RocksDB's estimate.
    pub(crate) objects: u64,
    /// Chunks on disk, about.
    pub(crate) chunks: u64,
}

/// A store whose ring holds more than `chunks` small chunks when it is full, even after a turn and
/// without what a kill takes.
fn config(chunks: u64) -> StoreConfig {
    StoreConfig {
        capacity_bytes: full(chunks) * ENTRY,
        pinned_bytes: 0,
        memory_tier_bytes: 1 << 20,
        ..StoreConfig::default()
    }
}

/// Objects after which it is full.
fn full(chunks: u64) -> u64 {
    chunks * 7 / 5
}

/// The parent's part.
pub(crate) fn measure(plan: &Plan, dir: &Path) -> Result<Crash> {
    let (chunks, begun) = (plan.chunks, Instant::now());
    let (mut kills, mut put) = (Vec::new(), 0);
    while kills.len() < plan.kills && begun.elapsed() < LONGEST {
        // Any part of the metadata's log may wait to be replayed.
        let upto = full(chunks).max(put) + fastrand::u64(chunks / 10..chunks / 5);
        let part = Part::Fill { dir: dir.to_owned(), chunks, first: put };
        let moment = Duration::from_millis(fastrand::u64(..50));
        put = Teller::start(&mut part.command()?)?.kill_at(upto, PATIENCE, moment)?;

        // As after a power cut, nothing is in the page cache.
        let cold = machine::drop_page_cache(dir)?;
        let part = Part::Answer { dir: dir.to_owned(), chunks, wanted: put - chunks / 2 };
        let mut command = part.command()?;
        let begun = Instant::now();
        let child = Teller::start(&mut command)?;
        child.line(begun + PATIENCE)?;
        let process_ms = begun.elapsed().as_secs_f64() * 1e3;
        let answer = serde_json::from_str(&child.line(begun + PATIENCE)?)?;
        kills.push(Kill { put, cold, process_ms, answer });
    }
    Ok(Crash { kills })
}

/// A child's part: puts objects from number `first` on and tells the next number, until it is killed.
pub(crate) fn fill_until_killed(dir: &Path, chunks: u64, first: u64) -> Result<()> {
    let material = Material::new(SMALL);
    let subject = Subject::open(dir, &config(chunks))?;
    let begun = Instant::now();
    for number in first.. {
        if number.is_multiple_of(TELL_EVERY) {
            tell(number)?;
            if begun.elapsed() > 2 * PATIENCE {
                break;
            }
        }
        material.put(&subject.store, number, ChunkId::of(&material.chunk(number)))?;
    }
    Err("nobody killed this child".into())
}

/// Another child's part: opens the store, reads an object, says so, and then tells the figures.
pub(crate) fn answer(dir: &Path, chunks: u64, wanted: u64) -> Result<()> {
    let begun = Instant::now();
    let subject = Subject::open(dir, &config(chunks))?;
    let open = begun.elapsed();
    let (mut tried, mut found) = (0, None);
    for number in (0..=wanted).rev().step_by(chunks as usize / 100).take(TRIES) {
        tried += 1;
        if let Some(located) = find(&subject.store, number)?
            && let Some(bytes) = subject.read(located)?
        {
            found = Some((number, bytes));
            break;
        }
    }
    let answer = begun.elapsed();
    let (number, bytes) = found.ok_or("no object is there that was written long before the kill")?;
    tell("answered")?;

    if bytes != Material::new(SMALL).chunk(number) {
        return Err(format!("object {number} reads as other bytes than were put").into());
    }
    let stats = subject.store.stats();
    let figure = |name: &str| stats[name].as_u64().ok_or_else(|| format!("the store tells no {name}"));
    let answer = Answer {
        open_ms: open.as_secs_f64() * 1e3,
        answer_ms: answer.as_secs_f64() * 1e3,
        tried,
        objects: figure("objects")?,
        chunks: figure("cached_bytes")? / ENTRY,
    };
    Ok(tell(serde_json::to_string(&answer)?)?)
}
