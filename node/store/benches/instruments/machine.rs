//! What the machine says: bytes written, processor time, disk use, the page cache, `dd`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Result;

/// Linux counts processor time for user space in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bounds `sync` and `dd`.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that `dd` writes.
const DD_BYTES: usize = 256 << 20;

/// Bytes that this process has caused to be sent to disks (`write_bytes` of proc_pid_io(5)).
pub(crate) fn written_bytes() -> Result<u64> {
    let io = fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.ok_or("/proc/self/io has no write_bytes")?.trim().parse()?)
}

/// Seconds of processor time, user and system, of all threads of this process (fields 14 and 15 of
/// proc_pid_stat(5)); it moves in steps of 10 ms.
pub(crate) fn cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    // The second field, the name, may hold spaces; the third is the first after it.
    let fields = stat.rsplit_once(')').ok_or("/proc/self/stat has no name")?.1;
    let mut times = fields.split_ascii_whitespace().skip(11);
    let mut ticks = || -> Result<f64> { Ok(times.next().ok_or("/proc/self/stat is short")?.parse()?) };
    Ok((ticks()? + ticks()?) / TICKS_PER_SECOND)
}

/// Bytes on disk below `path`, as `du` counts them. Files that vanish meanwhile count nothing.
pub(crate) fn disk_bytes(path: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        sum += match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path())?,
            Ok(metadata) => metadata.blocks() * 512,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
    }
    Ok(sum)
}

/// Writes out what is dirty on the file system of `path`.
pub(crate) fn sync(path: &Path) -> Result<()> {
    run(Command::new("sync").arg("-f").arg(path)).map(|_| ())
}

/// Empties the page cache. Returns false when this process may not.
pub(crate) fn drop_page_cache(path: &Path) -> Result<bool> {
    sync(path)?;
    Ok(fs::write("/proc/sys/vm/drop_caches", "3").is_ok())
}

/// The disk by itself, for comparison.
pub(crate) struct Disk {
    source: PathBuf,
    target: PathBuf,
}

impl Disk {
    /// `pool` holds random bytes, a divisor of 256 MiB.
    pub(crate) fn new(dir: &Path, pool: &[u8]) -> Result<Self> {
        let disk = Self { source: dir.join("dd.in"), target: dir.join("dd.out") };
        let mut source = fs::File::create(&disk.source)?;
        for _ in 0..DD_BYTES / pool.len() {
            source.write_all(pool)?;
        }
        sync(dir)?;
        Ok(disk)
    }

    /// MiB/s that `dd oflag=direct bs=1M` reaches with random bytes out of the page cache; none where the
    /// file system has no direct writes.
    pub(crate) fn dd(&self) -> Option<f64> {
        // Reading it first brings it back into the page cache.
        let bytes = io::copy(&mut fs::File::open(&self.source).ok()?, &mut io::sink()).ok()?;
        let mib = bytes as f64 / f64::from(1 << 20);
        let argument = |name: &str, path: &Path| format!("{name}={}", path.display());
        let took = run(Command::new("dd")
            .arg(argument("if", &self.source))
            .arg(argument("of", &self.target))
            .args(["bs=1M", "oflag=direct"]));
        let removed = fs::remove_file(&self.target);
        took.ok().filter(|_| removed.is_ok()).map(|took| mib / took.as_secs_f64())
    }
}

/// Runs a command to its end within [`PATIENCE`] and returns how long it took, to the millisecond.
fn run(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    loop {
        match child.try_wait()? {
            Some(status) if status.success() => return Ok(begun.elapsed()),
            Some(status) => return Err(format!("{name} failed: {status}").into()),
            None if begun.elapsed() > PATIENCE => {
                child.kill()?;
                child.wait()?;
                return Err(format!("{name} took over {} s", PATIENCE.as_secs()).into());
            }
            None => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Milliseconds below which the `share` of all samples lies; none of no samples.
pub(crate) fn percentile(samples: &mut [Duration], share: f64) -> Option<f64> {
    samples.sort_unstable();
    let rank = (share * samples.len() as f64).ceil() as usize;
    samples.get(rank.saturating_sub(1)).map(|sample| sample.as_secs_f64() * 1e3)
}

/// The middle value, or the mean of the two in the middle; none of nothing.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 { upper } else { f64::midpoint(sorted[sorted.len() / 2 - 1], upper) })
}
