//! What the kernel counts of a process (proc(5)), and what was measured on.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::process::{capture, ticks_per_second};
use super::run::Effort;

/// Processor time of a process so far, user and system, of all its threads, seconds.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The name is in brackets and may hold anything; the numbers follow the last one.
    let (_, numbers) = stat.rsplit_once(')').with_context(|| format!("{path} has no name"))?;
    let times = numbers.split_ascii_whitespace().skip(11).take(2);
    let times: Vec<u64> = times.filter_map(|time| time.parse().ok()).collect();
    let [user, system] = times[..] else { bail!("{path} has no times") };
    Ok((user + system) as f64 / ticks_per_second()?)
}

/// Memory of a process that is its own, without mapped files, bytes.
pub(crate) fn memory_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let kibibytes = field(&path, "RssAnon:")?;
    Ok(kibibytes * 1024)
}

/// The number behind a word at the beginning of a line.
pub(crate) fn field(path: &str, word: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let rest = text.lines().find_map(|line| line.strip_prefix(word));
    let number = rest.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{path} has no {word}"))
}

/// What was measured on, and with what.
#[derive(Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    programs: Vec<String>,
    quick: bool,
    rounds: usize,
}

impl Machine {
    /// Asks `/proc`; `programs` are named with their versions.
    pub(crate) fn describe(effort: &Effort, programs: Vec<String>) -> Self {
        let facts = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = facts.lines().find(|line| line.starts_with("model name"));
        let cpu = name.and_then(|line| line.split_once(':')).map_or("unknown", |(_, name)| name.trim());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: cpu.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            kernel: kernel.trim().to_owned(),
            programs,
            quick: effort.quick,
            rounds: effort.rounds,
        }
    }

    /// Two lines for above the tables.
    pub(crate) fn heading(&self) -> String {
        let Self { cpu, cores, kernel, programs, .. } = self;
        format!("{cpu}, {cores} cores, Linux {kernel}\n{}", programs.join("; "))
    }
}

/// Name and version of an installed Debian package.
pub(crate) fn package(name: &str) -> String {
    let said = capture("dpkg-query", &["-W", "-f", "${Package} ${Version}", name]).unwrap_or_default();
    let line = said.lines().next().unwrap_or_default();
    if line.starts_with(name) { line.to_owned() } else { name.to_owned() }
}

/// The first line of what a program says of its version.
pub(crate) fn version(program: &Path) -> String {
    let said = capture(&program.to_string_lossy(), &["--version"]).unwrap_or_default();
    said.lines().next().unwrap_or_default().trim().to_owned()
}
