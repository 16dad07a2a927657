//! Child processes: started, watched, measured, and ended when dropped.
//!
//! Owns the interrupt flag too: a signal ends the benchmark at its next wait, so that the servers
//! are stopped and the scratch folder is removed on the way out.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Turns SIGINT and SIGTERM into an error at the next [`check`].
pub(crate) fn watch_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the signal watcher")?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => (),
                _ = terminate.recv() => (),
            }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// Fails once the benchmark was told to stop; every loop that takes long calls it.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

/// Asks `poll` every 10 ms until it has an answer, for at most `limit`.
pub(crate) fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut poll: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        check()?;
        if let Some(answer) = poll()? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for {what}", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// A running child whose output goes to a file.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    output: PathBuf,
}

impl Process {
    /// Starts `command`; both of its output streams go to the file `output`.
    pub(crate) fn start(name: &'static str, command: &mut Command, output: PathBuf) -> Result<Process> {
        let file =
            fs::File::create(&output).with_context(|| format!("cannot create {}", output.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {name} ({})", command.get_program().display()))?;
        Ok(Process { name, child, output })
    }

    /// How the process ended, or `None` while it runs.
    pub(crate) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Fails, with what the process said last, if it has ended.
    pub(crate) fn ensure_running(&mut self) -> Result<()> {
        match self.exited()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}: {}", self.name, self.last_words()),
        }
    }

    /// All that the process wrote so far.
    pub(crate) fn output(&self) -> Result<String> {
        let bytes =
            fs::read(&self.output).with_context(|| format!("cannot read {}", self.output.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn last_words(&self) -> String {
        let text = self.output().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    /// Waits for the process to end by itself and to report success.
    pub(crate) fn finish(&mut self, limit: Duration) -> Result<()> {
        let name = self.name;
        let status = wait_for(&format!("{name} to end"), limit, || self.exited())?;
        if !status.success() {
            bail!("{name} ended with {status}: {}", self.last_words());
        }
        Ok(())
    }

    /// Ends the process by SIGTERM and waits until it is gone.
    pub(crate) fn stop(mut self, limit: Duration) -> Result<()> {
        self.ensure_running()?;
        send("TERM", &[self.child.id()])?;
        self.finish(limit)
    }

    /// CPU time of the process and of its descendants so far, in ticks of the kernel's clock.
    ///
    /// The kernel scales these by what the scheduler counted in nanoseconds, so that a tick is
    /// the resolution and not a sampling error (proc(5), `utime` and `stime`).
    pub(crate) fn cpu_ticks(&self) -> Result<u64> {
        let mut ticks = 0;
        for pid in family(self.child.id())? {
            ticks += stat(pid).map_or(0, |stat| stat.ticks);
        }
        if ticks == 0 {
            stat(self.child.id()).with_context(|| format!("cannot read the CPU time of {}", self.name))?;
        }
        Ok(ticks)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // Known before the parent goes: afterwards they are nobody's children.
        let family = family(self.child.id()).unwrap_or_default();
        let _ = send("TERM", &[self.child.id()]);
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = send("KILL", &family);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal through the shell's built-in `kill`: no package and no unsafe call is needed.
fn send(signal: &str, pids: &[u32]) -> Result<()> {
    Command::new("sh")
        .args(["-c", "kill -s \"$0\" \"$@\" 2>/dev/null", signal])
        .args(pids.iter().map(u32::to_string))
        .status()
        .context("cannot run sh")?;
    Ok(())
}

/// What one line of `/proc/PID/stat` says that matters here.
struct Stat {
    parent: u32,
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name is in brackets and may hold anything; the numbers follow the last one.
    let (_, numbers) = text.rsplit_once(')')?;
    let numbers: Vec<&str> = numbers.split_ascii_whitespace().collect();
    let user: u64 = numbers.get(11)?.parse().ok()?;
    let system: u64 = numbers.get(12)?.parse().ok()?;
    Some(Stat { parent: numbers.get(1)?.parse().ok()?, ticks: user + system })
}

/// The process and all of its living descendants.
fn family(root: u32) -> Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot list /proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(stat) = stat(pid) {
            parents.push((pid, stat.parent));
        }
    }
    let mut family = vec![root];
    let mut next = 0;
    while next < family.len() {
        let parent = family[next];
        family.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    Ok(family)
}

/// Kernel clock ticks in a second, as `getconf CLK_TCK` says.
pub(crate) fn ticks_per_second() -> Result<f64> {
    let text = capture("getconf", &["CLK_TCK"]).context("getconf is missing: apt-get install libc-bin")?;
    text.trim().parse::<f64>().with_context(|| format!("getconf CLK_TCK said {text:?}"))
}

/// Runs a short command and returns what it wrote on both streams, whatever its exit code.
pub(crate) fn capture(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

/// The first executable of that name in `PATH` or in the folders that only root has in it.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/usr/bin")])
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}
