//! Cold files: each is asked for once, from disk, by a server that has just started.
//!
//! Before every round the server is stopped and the kernel's page cache is emptied. The node has
//! its cache on disk from one filling before the rounds, and a memory tier too small to matter.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::client::{Connection, request};
use crate::hot::Effort;
use crate::load::{Driver, Sample};
use crate::process::check;
use crate::report::{Case, Kind};
use crate::scratch::{Object, name_size};
use crate::servers::{Server, Which, nginx, node};

/// The folder of the node's data, the same through all of its restarts.
const DATA: &str = "node-cold";

/// Bytes of the node's memory tier.
const MEMORY_TIER: u64 = 16 << 20;

/// Keep-alive connections that share the files out among them.
const CONNECTIONS: usize = 8;

/// Passes over all files until the node has every one of them.
const PASSES: usize = 8;

/// Drives nginx and the node in turn; nothing, with a word why, where nothing can be made cold.
pub(crate) fn run(driver: &Driver<'_>, quick: bool, effort: &Effort) -> Result<Vec<Case>> {
    if !driver.scratch.on_disk {
        eprintln!("no cold rounds: the scratch folder is in memory; set SKERRY_BENCH_DIR");
        return Ok(Vec::new());
    }
    if let Err(error) = forget_pages() {
        eprintln!("no cold rounds: {error:#}");
        return Ok(Vec::new());
    }
    eprintln!("writing the cold files");
    let sets = driver.scratch.cold(quick)?;
    fill(driver, &sets)?;

    let mut cases = Vec::new();
    for set in &sets {
        let Some(size) = set.first().map(|object| object.size) else {
            continue;
        };
        let mut case = Case::new(Kind::Cold, size);
        for round in 0..effort.rounds {
            let mut order = [Which::Nginx, Which::Node];
            if round % 2 == 1 {
                order.reverse();
            }
            for which in order {
                let sample = one_round(driver, which, set, round)?;
                eprintln!(
                    "cold {}, round {}: {which:7} {:9.0} requests/s, {:8.1} us of CPU each",
                    name_size(size),
                    round + 1,
                    sample.per_second(),
                    sample.cpu_per_request()
                );
                case.samples.push(sample);
            }
        }
        cases.push(case);
    }
    Ok(cases)
}

/// Writes back what is dirty and drops the page cache, entries and inodes of the whole machine.
fn forget_pages() -> Result<()> {
    let status = Command::new("sync").status().context("cannot run sync")?;
    ensure!(status.success(), "sync ended with {status}");
    fs::write("/proc/sys/vm/drop_caches", "3")
        .context("cannot empty the page cache (that takes root, and a writable /proc/sys)")
}

/// Lets the node fetch every file from the origin, and ends it once all of them are hits.
fn fill(driver: &Driver<'_>, sets: &[Vec<Object>]) -> Result<()> {
    let mut wanted: Vec<Object> = sets.iter().flatten().cloned().collect();
    wanted.extend(driver.scratch.hot());
    let all = wanted.len();
    let mut server = node(driver.tools, driver.scratch, DATA, MEMORY_TIER)?;
    for pass in 0..PASSES {
        let swept = sweep(&server, &wanted)?;
        server.process.ensure_running()?;
        eprintln!("filling the node, pass {}: {} of {all} files to go", pass + 1, swept.missed.len());
        wanted = swept.missed;
        if wanted.is_empty() {
            return server.stop();
        }
        thread::sleep(Duration::from_millis(200));
    }
    bail!("the node keeps no copy of {} of {all} files, {} for one", wanted.len(), wanted[0].path)
}

/// Starts one server with nothing in memory, asks for each file once, and ends the server.
fn one_round(driver: &Driver<'_>, which: Which, set: &[Object], round: usize) -> Result<Sample> {
    forget_pages()?;
    let mut server = match which {
        Which::Nginx => nginx(driver.tools, driver.scratch)?,
        Which::Node => node(driver.tools, driver.scratch, DATA, MEMORY_TIER)?,
        Which::Ceiling => bail!("the ceiling has no disk to be cold on"),
    };
    // One answer for a file of no set: the program's own pages are not what is measured.
    let first = driver.scratch.hot().swap_remove(0);
    Connection::open(server.clear, None)?.fetch(&request(&first.path), |_| ())?;

    let mut order = set.to_vec();
    fastrand::shuffle(&mut order);
    let before = server.process.cpu_ticks()?;
    let swept = sweep(&server, &order)?;
    let after = server.process.cpu_ticks()?;
    server.process.ensure_running()?;
    server.stop()?;

    let requests = order.len() as u64;
    let hits = (which == Which::Node).then(|| requests - swept.missed.len() as u64);
    Ok(Sample {
        server: which,
        round,
        connections: CONNECTIONS,
        requests,
        bytes: order.iter().map(|object| object.size).sum(),
        seconds: swept.seconds,
        cpu_seconds: driver.cpu_seconds(before, after),
        failed: 0,
        hits,
        p50_us: None,
        p99_us: None,
    })
}

struct Swept {
    /// The files that were not answered as hits of the node's cache.
    missed: Vec<Object>,
    seconds: f64,
}

/// Asks for each of the files once, in their order, over [`CONNECTIONS`] connections.
fn sweep(server: &Server, objects: &[Object]) -> Result<Swept> {
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        connections.push(Connection::open(server.clear, None)?);
    }
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let missed = thread::scope(|scope| -> Result<Vec<Object>> {
        let next = &next;
        let threads: Vec<_> = connections
            .into_iter()
            .map(|connection| scope.spawn(move || take(connection, objects, next)))
            .collect();
        let mut missed = Vec::new();
        for thread in threads {
            match thread.join() {
                Ok(part) => missed.extend(part?),
                Err(_) => bail!("a client thread panicked"),
            }
        }
        Ok(missed)
    })?;
    Ok(Swept { missed, seconds: start.elapsed().as_secs_f64() })
}

/// Takes the next file until none is left; returns those that were no hits.
fn take(mut connection: Connection, objects: &[Object], next: &AtomicUsize) -> Result<Vec<Object>> {
    let mut missed = Vec::new();
    loop {
        check()?;
        let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) else {
            return Ok(missed);
        };
        let answer = connection.fetch(&request(&object.path), |_| ())?;
        ensure!(answer.length == object.size, "{} came with {} bytes", object.path, answer.length);
        if !answer.hit {
            missed.push(object.clone());
        }
    }
}
