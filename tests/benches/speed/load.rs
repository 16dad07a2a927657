//! Load on one server, and what it cost: `wrk` as fast as it goes, and requests at a fixed rate.
//!
//! All of it is from this machine to loopback, so client and server share the cores; the server's
//! CPU time is its own processes' and tells the two apart.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::ClientConfig;
use serde::{Deserialize, Serialize};

use crate::client::{Connection, HOST, request};
use crate::process::{Process, check};
use crate::scratch::{Object, Scratch};
use crate::servers::{Server, Tools, Which};

/// What one drive of one server gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) server: Which,
    /// From 0.
    pub(crate) round: usize,
    pub(crate) connections: usize,
    pub(crate) requests: u64,
    /// Bytes received: with the heads when driven by wrk, bodies alone when cold.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// CPU time of the server's processes, user and system.
    pub(crate) cpu_seconds: f64,
    /// Reads, writes and connections that failed or took too long.
    pub(crate) failed: u64,
    /// Answers that the node called a hit; for the node's cold rounds only.
    pub(crate) hits: Option<u64>,
    /// Latency at full load, in microseconds; from wrk only.
    pub(crate) p50_us: Option<f64>,
    /// Likewise.
    pub(crate) p99_us: Option<f64>,
}

impl Sample {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    /// In units of 10^6 bytes.
    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }

    /// Microseconds of server CPU.
    pub(crate) fn cpu_per_request(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.requests as f64
    }

    /// Seconds of server CPU for 10^9 bytes.
    pub(crate) fn cpu_per_gigabyte(&self) -> f64 {
        self.cpu_seconds * 1e9 / self.bytes as f64
    }
}

/// What requests at a fixed rate gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Paced {
    pub(crate) server: Which,
    /// From 0.
    pub(crate) round: usize,
    pub(crate) connections: usize,
    /// Requests per second that were intended.
    pub(crate) rate: f64,
    /// Requests per second that were answered.
    pub(crate) achieved: f64,
    pub(crate) requests: u64,
    /// Latencies from the intended start of each request to its last byte, in microseconds.
    pub(crate) p50_us: f64,
    /// Likewise.
    pub(crate) p99_us: f64,
    /// Likewise.
    pub(crate) max_us: f64,
    /// CPU time of the server's processes, user and system.
    pub(crate) cpu_seconds: f64,
}

/// The `done` function that wrk calls at the end: one line of JSON after a mark.
const SCRIPT: &str = r#"done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'SKERRY {"requests":%.0f,"bytes":%.0f,"duration_us":%.0f,"refused":%.0f,"failed":%.0f,"p50_us":%.1f,"p99_us":%.1f}\n',
    summary.requests, summary.bytes, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"#;

/// The line that [`SCRIPT`] prints.
#[derive(Deserialize)]
struct Summary {
    requests: u64,
    bytes: u64,
    duration_us: u64,
    /// Answers with a status of 400 and more.
    refused: u64,
    failed: u64,
    p50_us: f64,
    p99_us: f64,
}

/// Everything that a drive needs besides the server.
pub(crate) struct Driver<'a> {
    pub(crate) tools: &'a Tools,
    pub(crate) scratch: &'a Scratch,
    pub(crate) ticks_per_second: f64,
    /// What to trust over TLS.
    pub(crate) trust: Arc<ClientConfig>,
}

impl Driver<'_> {
    /// Seconds of CPU time between two readings of [`Process::cpu_ticks`].
    pub(crate) fn cpu_seconds(&self, before: u64, after: u64) -> f64 {
        after.saturating_sub(before) as f64 / self.ticks_per_second
    }

    /// What to trust, if TLS is meant.
    pub(crate) fn trust(&self, tls: bool) -> Option<&Arc<ClientConfig>> {
        tls.then_some(&self.trust)
    }

    /// Lets wrk ask `server` for one file over and over, by two threads.
    pub(crate) fn wrk(
        &self,
        server: &mut Server,
        object: &Object,
        tls: bool,
        seconds: u64,
        round: usize,
    ) -> Result<Sample> {
        let script = self.scratch.at("report.lua");
        fs::write(&script, SCRIPT)?;
        // Large answers fill the wire with few connections; more would only add switches.
        let connections = if object.size >= 1 << 20 { 8 } else { 32 };
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{}{}", server.address(tls), object.path);

        server.process.ensure_running()?;
        let before = server.process.cpu_ticks()?;
        let mut wrk = Process::start(
            "wrk",
            Command::new(&self.tools.wrk)
                .args(["-t2", "--timeout", "10s", "-H"])
                .arg(format!("Host: {HOST}"))
                .arg(format!("-c{connections}"))
                .arg(format!("-d{seconds}s"))
                .arg("-s")
                .arg(&script)
                .arg(&url),
            self.scratch.at("wrk.log"),
        )?;
        wrk.finish(Duration::from_secs(seconds + 30))?;
        let after = server.process.cpu_ticks()?;
        server.process.ensure_running()?;

        let said = wrk.output()?;
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("SKERRY "))
            .with_context(|| format!("wrk said {said:?}"))?;
        let summary: Summary =
            serde_json::from_str(line).with_context(|| format!("wrk reported {line:?}"))?;
        ensure!(
            summary.refused == 0,
            "{} refused {} of {} requests for {}",
            server.which,
            summary.refused,
            summary.requests,
            object.path
        );
        ensure!(
            summary.requests > 0 && summary.bytes >= summary.requests * object.size,
            "{} answered {} requests for {} with {} bytes in all: {said}",
            server.which,
            summary.requests,
            object.path,
            summary.bytes
        );
        if summary.failed > 0 {
            eprintln!(
                "{}: {} reads, writes or connections failed for {}",
                server.which, summary.failed, object.path
            );
        }
        Ok(Sample {
            server: server.which,
            round,
            connections,
            requests: summary.requests,
            bytes: summary.bytes,
            seconds: summary.duration_us as f64 / 1e6,
            cpu_seconds: self.cpu_seconds(before, after),
            failed: summary.failed,
            hits: None,
            p50_us: Some(summary.p50_us),
            p99_us: Some(summary.p99_us),
        })
    }

    /// Asks `server` for one file at a fixed rate, open loop: a request that had to wait for a
    /// connection counts from the time it was due, so that a stall is not omitted by the very
    /// requests that it held up.
    pub(crate) fn paced(
        &self,
        server: &mut Server,
        object: &Object,
        tls: bool,
        rate: f64,
        seconds: u64,
        round: usize,
    ) -> Result<Paced> {
        const CONNECTIONS: usize = 32;
        let request = request(&object.path);
        let mut connections = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let mut connection = Connection::open(server.address(tls), self.trust(tls))?;
            // The handshake and the server's first buffers are not what is measured.
            connection.fetch(&request, |_| ())?;
            connections.push(connection);
        }

        let total = (rate * seconds as f64) as u64;
        let next = AtomicU64::new(0);
        let before = server.process.cpu_ticks()?;
        let start = Instant::now() + Duration::from_millis(20);
        // A server that cannot keep up is left after twice the time; `achieved` shows it.
        let end = start + Duration::from_secs(2 * seconds);
        let timetable = Timetable { start, end, rate, total, next: &next };
        let mut latencies = thread::scope(|scope| -> Result<Vec<u64>> {
            let (request, timetable) = (request.as_slice(), &timetable);
            let threads: Vec<_> = connections
                .into_iter()
                .map(|connection| scope.spawn(move || keep(connection, request, object, timetable)))
                .collect();
            let mut all = Vec::with_capacity(total as usize);
            for thread in threads {
                match thread.join() {
                    Ok(part) => all.extend(part?),
                    Err(_) => bail!("a client thread panicked"),
                }
            }
            Ok(all)
        })?;
        let taken = start.elapsed().as_secs_f64();
        let after = server.process.cpu_ticks()?;
        server.process.ensure_running()?;

        ensure!(!latencies.is_empty(), "no paced request was answered");
        latencies.sort_unstable();
        Ok(Paced {
            server: server.which,
            round,
            connections: CONNECTIONS,
            rate,
            achieved: latencies.len() as f64 / taken,
            requests: latencies.len() as u64,
            p50_us: percentile(&latencies, 0.50),
            p99_us: percentile(&latencies, 0.99),
            max_us: percentile(&latencies, 1.0),
            cpu_seconds: self.cpu_seconds(before, after),
        })
    }
}

/// When each of the requests is due, and which one comes next.
struct Timetable<'a> {
    start: Instant,
    end: Instant,
    /// Requests per second.
    rate: f64,
    total: u64,
    next: &'a AtomicU64,
}

/// Sends the requests that fall to one connection; returns their latencies in nanoseconds.
fn keep(
    mut connection: Connection,
    request: &[u8],
    object: &Object,
    timetable: &Timetable<'_>,
) -> Result<Vec<u64>> {
    let mut latencies = Vec::new();
    loop {
        check()?;
        let number = timetable.next.fetch_add(1, Ordering::Relaxed);
        if number >= timetable.total {
            return Ok(latencies);
        }
        let due = timetable.start + Duration::from_secs_f64(number as f64 / timetable.rate);
        let now = Instant::now();
        if now >= timetable.end {
            return Ok(latencies);
        }
        if let Some(early) = due.checked_duration_since(now) {
            thread::sleep(early);
        }
        let answer = connection.fetch(request, |_| ())?;
        ensure!(answer.length == object.size, "{} came with {} bytes", object.path, answer.length);
        latencies.push(due.elapsed().as_nanos() as u64);
    }
}

/// The smallest value that a share of the sorted nanoseconds does not exceed, in microseconds.
fn percentile(sorted: &[u64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1] as f64 / 1e3
}
