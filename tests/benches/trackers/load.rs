//! aquatic_udp_load_test on one tracker, and what it cost.
//!
//! It announces peers in the same order every time, keeps only as many requests on their way as are
//! answered, and tells its counts every five seconds; the first five are for warming up. Its torrents are
//! learnt by listening to it, since opentracker has to be told of them, and so has the fleet.

use std::collections::HashSet;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::contenders::{Contender, LOAD_CORE, Tools, Which, pinned};
use crate::instruments::process::{Process, check, wait_for};
use crate::instruments::run::Effort;
use crate::udp::{ANNOUNCED, CONNECT, number};

/// What the load is made of. Few torrents have most of the peers.
const TORRENTS: usize = 20_000;
const PEERS: usize = 400_000;
pub(crate) const PEERS_WANTED: u32 = 30;

/// From one of the load's reports to the next, seconds.
const INTERVAL: usize = 5;

/// How long a report may take, and the learning.
const REPORT: Duration = Duration::from_secs(60);
const LEARNING: Duration = Duration::from_secs(120);

/// What one drive of one tracker gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) tracker: Which,
    /// From 0.
    pub(crate) round: usize,
    pub(crate) seconds: f64,
    /// Announces answered, per second.
    pub(crate) per_second: f64,
    /// Processor time of the tracker, user and system.
    pub(crate) cpu_seconds: f64,
    /// Peers in an answer.
    pub(crate) peers: f64,
}

impl Sample {
    /// Announces answered for a second of the tracker's processor time.
    pub(crate) fn per_cpu_second(&self) -> f64 {
        self.per_second * self.seconds / self.cpu_seconds
    }

    /// How much of its core the tracker used, percent.
    pub(crate) fn used(&self) -> f64 {
        self.cpu_seconds / self.seconds * 100.0
    }
}

/// Starts the load on a tracker; without an end when `seconds` is 0.
fn start(tools: &Tools, tracker: SocketAddr, seconds: usize, scratch: &Path) -> Result<Process> {
    let configuration = scratch.join("load.toml");
    // Hardly more requests for connection ids than clients need.
    let text = format!(
        "server_address = \"{tracker}\"\nworkers = 1\nduration = {seconds}\nextra_statistics = false\n\
         [requests]\nnumber_of_torrents = {TORRENTS}\nnumber_of_peers = {PEERS}\n\
         announce_peers_wanted = {PEERS_WANTED}\nweight_connect = 1\nweight_announce = 100\n\
         weight_scrape = 0\n"
    );
    fs::write(&configuration, text)?;
    let mut command = pinned(LOAD_CORE, &tools.load);
    command.arg("-c").arg(&configuration);
    Process::start("aquatic_udp_load_test", &mut command, scratch.join("load.log"))
}

/// Listens to the load until each of its peers has announced itself; the torrents that they did it for.
pub(crate) fn torrents(tools: &Tools, scratch: &Path) -> Result<Vec<[u8; 20]>> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut load = start(tools, socket.local_addr()?, 0, scratch)?;
    let begun = Instant::now();
    let mut seen = vec![false; PEERS];
    let mut left = PEERS;
    let mut torrents = HashSet::<[u8; 20]>::new();
    let mut packet = [0; 2048];
    while left > 0 {
        check()?;
        ensure!(begun.elapsed() < LEARNING, "{left} of {PEERS} peers have not announced themselves");
        let Ok((length, from)) = socket.recv_from(&mut packet) else {
            load.ensure_running()?;
            continue;
        };
        let packet = &packet[..length];
        let (Some(action), Some(transaction)) = (number(packet, 8), number(packet, 12)) else { continue };
        let mut answer = [0; 20];
        answer[..4].copy_from_slice(&action.to_be_bytes());
        answer[4..8].copy_from_slice(&transaction.to_be_bytes());
        let length = match action {
            CONNECT => 16,
            ANNOUNCED => {
                // A peer's number is its transaction's.
                if let Some(seen) = seen.get_mut(transaction as usize).filter(|seen| !**seen) {
                    (*seen, left) = (true, left - 1);
                }
                torrents.extend(packet.get(16..).and_then(|rest| rest.first_chunk::<20>()));
                20
            }
            _ => continue,
        };
        // What is lost is asked again.
        let _ = socket.send_to(&answer[..length], from);
    }
    Ok(torrents.into_iter().collect())
}

/// What the load has told so far, one value for every interval that has passed.
struct Told {
    announces: Vec<f64>,
    errors: Vec<f64>,
    peers: Vec<f64>,
}

impl Told {
    fn of(output: &str) -> Self {
        let values = |name: &str| {
            let values =
                output.lines().filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix(name));
            values.filter_map(|value| value.trim().parse().ok()).collect::<Vec<f64>>()
        };
        Self {
            announces: values("Announce responses:"),
            errors: values("Error responses:"),
            peers: values("Peers per announce response:"),
        }
    }
}

/// Lets the load announce all of its peers over and over.
pub(crate) fn drive(
    tools: &Tools,
    contender: &Contender,
    effort: &Effort,
    round: usize,
    scratch: &Path,
) -> Result<Sample> {
    let intervals = if effort.quick { 2 } else { 3 };
    let mut load = start(tools, contender.address, intervals * INTERVAL, scratch)?;
    let mut until = |reports: usize| {
        wait_for("a report of the load", REPORT, || {
            let ended = load.exited()?;
            let told = Told::of(&load.output()?);
            if told.peers.len() >= reports {
                return Ok(Some((told, Instant::now(), contender.cpu_seconds()?)));
            }
            ensure!(ended.is_none(), "the load has ended early: {}", load.output()?);
            Ok(None)
        })
    };
    let (_, begun, before) = until(1)?;
    let (told, ended, after) = until(intervals)?;
    load.finish(REPORT)?;
    let mean = |values: &[f64]| {
        let counted = values.get(1..intervals).unwrap_or_default();
        counted.iter().sum::<f64>() / counted.len() as f64
    };
    let sample = Sample {
        tracker: contender.which,
        round,
        seconds: (ended - begun).as_secs_f64(),
        per_second: mean(&told.announces),
        cpu_seconds: after - before,
        peers: mean(&told.peers),
    };
    ensure!(sample.per_second > 0.0, "{} answered nothing", contender.which);
    let errors = mean(&told.errors) / sample.per_second;
    ensure!(errors < 0.01, "{} answered {:.0} % with errors", contender.which, errors * 100.0);
    Ok(sample)
}
