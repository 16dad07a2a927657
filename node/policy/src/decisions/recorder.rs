//! Writes recordings, on a thread of its own: calls never wait for a disk.
//!
//! Files are `decisions-00000001.jsonl` and so on, never written to again once they are closed, nor
//! after a restart. What the thread cannot keep up with, and what the disk refuses, is dropped and
//! counted. Files are not synced: a power cut may take the last seconds, a crash of the node the
//! records that were still in its buffers.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::recording::{HEADER, LONGEST_LINE, encode};
use super::{Decision, DecisionsConfig};

/// Decisions that may wait for the thread.
const WAITING: usize = 1024;
/// Memory that they may take.
const WAITING_BYTES: usize = 16 << 20;
/// How long nothing is written after a failure of the disk.
const REST: Duration = Duration::from_secs(30);

/// Takes decisions to files. Dropping it writes what waits.
#[derive(Debug)]
pub struct Recorder {
    queue: Option<SyncSender<Arc<Decision>>>,
    thread: Option<JoinHandle<()>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting_bytes: AtomicUsize,
    written: AtomicU64,
    written_bytes: AtomicU64,
    dropped: AtomicU64,
}

/// What became of the decisions that were to be recorded, since the recorder began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Written, or in the buffer of the file.
    pub written: u64,
    /// Bytes of them.
    pub written_bytes: u64,
    /// Neither: too many at once, too long for a file, or the disk failed.
    pub dropped: u64,
}

impl Recorder {
    /// Begins to record into `config.record_dir`, which is made when it is missing. The first file
    /// comes with the first decision.
    ///
    /// # Errors
    /// When the folder cannot be made, or the thread not started.
    pub fn start(config: &DecisionsConfig) -> io::Result<Self> {
        fs::create_dir_all(&config.record_dir)?;
        let (mut recorder, queue) = Self::waiting(WAITING);
        let writer = Writer {
            folder: config.record_dir.clone(),
            file_bytes: config.record_file_bytes,
            total_bytes: config.record_total_bytes,
            file: None,
            rest: None,
            counts: recorder.counts.clone(),
        };
        let thread = std::thread::Builder::new().name("decisions".into());
        recorder.thread = Some(thread.spawn(move || writer.run(&queue))?);
        Ok(recorder)
    }

    /// Records a decision, or drops it when too many wait. Never blocks.
    pub fn record(&self, decision: Arc<Decision>) {
        let bytes = decision.weight();
        let room = self.counts.waiting_bytes.fetch_add(bytes, Relaxed) + bytes <= WAITING_BYTES;
        let sent = room && self.queue.as_ref().is_some_and(|queue| queue.try_send(decision).is_ok());
        if !sent {
            self.counts.waiting_bytes.fetch_sub(bytes, Relaxed);
            self.counts.dropped.fetch_add(1, Relaxed);
        }
    }

    /// What became of the decisions so far.
    pub fn recorded(&self) -> Recorded {
        Recorded {
            written: self.counts.written.load(Relaxed),
            written_bytes: self.counts.written_bytes.load(Relaxed),
            dropped: self.counts.dropped.load(Relaxed),
        }
    }

    /// Writes what waits, and closes the file.
    pub fn finish(mut self) -> Recorded {
        self.close();
        self.recorded()
    }

    fn waiting(count: usize) -> (Self, Receiver<Arc<Decision>>) {
        let (sender, receiver) = mpsc::sync_channel(count);
        (Self { queue: Some(sender), thread: None, counts: Arc::default() }, receiver)
    }

    fn close(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the thread that records decisions panicked");
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.close();
    }
}

/// The recordings in a folder, oldest first.
///
/// # Errors
/// When the folder cannot be read.
pub fn recordings(folder: &Path) -> io::Result<Vec<PathBuf>> {
    Ok(numbered(folder)?.into_iter().map(|(number, _)| path(folder, number)).collect())
}

/// Numbers and lengths of the recordings in a folder, oldest first.
fn numbered(folder: &Path) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix("decisions-")?.strip_suffix(".jsonl"));
        // Only names that are written here: what else lies in the folder is never removed.
        if let Some(number) = digits.and_then(|digits| digits.parse::<u64>().ok())
            && path(folder, number) == entry.path()
        {
            found.push((number, entry.metadata()?.len()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("decisions-{number:08}.jsonl"))
}

/// The thread's side.
struct Writer {
    folder: PathBuf,
    file_bytes: u64,
    total_bytes: u64,
    file: Option<OpenFile>,
    /// Nothing is written before.
    rest: Option<Instant>,
    counts: Arc<Counts>,
}

struct OpenFile {
    buffer: BufWriter<File>,
    bytes: u64,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Arc<Decision>>) {
        while let Ok(decision) = queue.recv() {
            self.take(&decision);
            while let Ok(decision) = queue.try_recv() {
                self.take(&decision);
            }
            // Nobody waits: what was recorded can be read.
            if let Some(file) = &mut self.file
                && let Err(error) = file.buffer.flush()
            {
                self.failed(&error);
            }
        }
    }

    fn take(&mut self, decision: &Decision) {
        match self.record(decision) {
            Ok(0) => _ = self.counts.dropped.fetch_add(1, Relaxed),
            Ok(bytes) => {
                self.counts.written.fetch_add(1, Relaxed);
                self.counts.written_bytes.fetch_add(bytes, Relaxed);
            }
            Err(error) => {
                self.counts.dropped.fetch_add(1, Relaxed);
                self.failed(&error);
            }
        }
        self.counts.waiting_bytes.fetch_sub(decision.weight(), Relaxed);
    }

    /// Bytes written; 0 for a decision that is not.
    fn record(&mut self, decision: &Decision) -> io::Result<u64> {
        if self.rest.is_some_and(|end| Instant::now() < end) {
            return Ok(0);
        }
        let line = encode(decision)?;
        let bytes = line.len() as u64;
        if line.len() > LONGEST_LINE || HEADER.len() as u64 + bytes > self.file_bytes {
            return Ok(0);
        }
        let mut file = match self.file.take() {
            Some(file) if file.bytes + bytes <= self.file_bytes => file,
            Some(mut full) => {
                full.buffer.flush()?;
                self.next_file()?
            }
            None => self.next_file()?,
        };
        file.buffer.write_all(&line)?;
        file.bytes += bytes;
        self.file = Some(file);
        Ok(bytes)
    }

    /// Begins the next file, once the oldest made room for it.
    fn next_file(&self) -> io::Result<OpenFile> {
        let files = numbered(&self.folder)?;
        let mut total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        for (number, bytes) in &files {
            if total + self.file_bytes <= self.total_bytes {
                break;
            }
            fs::remove_file(path(&self.folder, *number))?;
            total -= bytes;
        }
        let number = files.last().map_or(1, |(number, _)| number + 1);
        let file = File::create_new(path(&self.folder, number))?;
        let mut buffer = BufWriter::new(file);
        buffer.write_all(HEADER.as_bytes())?;
        Ok(OpenFile { buffer, bytes: HEADER.len() as u64 })
    }

    /// Leaves the file as it is: its last line may be torn, which readers tell.
    fn failed(&mut self, error: &io::Error) {
        let seconds = REST.as_secs();
        log::warn!(folder:% = self.folder.display(); "no decisions are recorded for {seconds} s: {error}");
        self.file = None;
        self.rest = Some(Instant::now() + REST);
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::super::read_recording;
    use super::super::tests::{decisions, route};
    use super::*;

    fn config(folder: &Path, file_bytes: u64, total_bytes: u64) -> DecisionsConfig {
        DecisionsConfig {
            record_dir: folder.to_owned(),
            record_file_bytes: file_bytes,
            record_total_bytes: total_bytes,
            ..DecisionsConfig::default()
        }
    }

    /// Records one after the other, none of them dropped for want of room in the queue.
    fn record(config: &DecisionsConfig, decisions: &[Decision]) -> Recorded {
        let recorder = Recorder::start(config).unwrap();
        for decision in decisions {
            while recorder.counts.waiting_bytes.load(Relaxed) > 0 {
                std::thread::yield_now();
            }
            recorder.record(Arc::new(decision.clone()));
        }
        recorder.finish()
    }

    fn read(folder: &Path) -> Vec<Decision> {
        let files = recordings(folder).unwrap();
        let read = |path: &PathBuf| read_recording(BufReader::new(File::open(path).unwrap()));
        files.iter().flat_map(read).collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn decisions_come_back_in_order_over_files_and_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder.path().join("deep/down"), 4096, 1 << 20);
        let decisions = decisions(60);
        let first = record(&config, &decisions[..30]);
        let second = record(&config, &decisions[30..]);
        assert_eq!((first.written, first.dropped, second.written, second.dropped), (30, 0, 30, 0));
        assert_eq!(read(&config.record_dir), decisions);
        let files = numbered(&config.record_dir).unwrap();
        assert!(files.len() > 3, "{files:?}");
        assert!(files.iter().all(|(_, bytes)| *bytes <= 4096), "{files:?}");
        let headers = files.len() as u64 * HEADER.len() as u64;
        let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(total, headers + first.written_bytes + second.written_bytes);
    }

    #[test]
    fn the_oldest_files_go_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["decisions-1.jsonl", "decisions-00000001.txt", "notes"] {
            fs::write(folder.path().join(name), [0_u8; 10_000]).unwrap();
        }
        let decisions = decisions(200);
        record(&config(folder.path(), 4096, 16_384), &decisions);
        let files = numbered(folder.path()).unwrap();
        assert!(files.iter().map(|(_, bytes)| bytes).sum::<u64>() <= 16_384);
        assert!(files[0].0 > 1 && files.len() > 2, "{files:?}");
        let read = read(folder.path());
        assert!(decisions.ends_with(&read) && !read.is_empty());
        for name in ["decisions-1.jsonl", "decisions-00000001.txt", "notes"] {
            assert!(folder.path().join(name).exists(), "{name}");
        }
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes_and_the_rest_is_counted() {
        let (recorder, _queue) = Recorder::waiting(4);
        let decision = Arc::new(route(1));
        for _ in 0..10 {
            recorder.record(decision.clone());
        }
        assert_eq!(recorder.recorded(), Recorded { dropped: 6, ..Recorded::default() });
        assert_eq!(recorder.counts.waiting_bytes.load(Relaxed), 4 * decision.weight());

        let (recorder, _queue) = Recorder::waiting(1 << 16);
        let fit = (WAITING_BYTES / decision.weight()) as u64;
        for _ in 0..fit + 10 {
            recorder.record(decision.clone());
        }
        assert_eq!(recorder.recorded().dropped, 10);
    }

    #[test]
    fn a_decision_that_fits_in_no_file_is_dropped_and_others_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut long = route(1);
        long.policy = "x".repeat(5000);
        let recorded = record(&config(folder.path(), 4096, 1 << 20), &[long, route(2)]);
        assert_eq!((recorded.written, recorded.dropped), (1, 1));
        assert_eq!(read(folder.path()), [route(2)]);
    }

    #[test]
    fn a_disk_that_fails_is_counted_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let config = config(&folder.path().join("gone"), 4096, 1 << 20);
        let recorder = Recorder::start(&config).unwrap();
        fs::remove_dir(&config.record_dir).unwrap();
        for number in 0..3 {
            recorder.record(Arc::new(route(number)));
        }
        assert_eq!(recorder.finish(), Recorded { dropped: 3, ..Recorded::default() });
    }
}
