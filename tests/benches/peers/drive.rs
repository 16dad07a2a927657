//! Load on one seed, and what it cost.
//!
//! All of it is from this machine to loopback, so peers and seed share the cores; the seed's processor
//! time is its own process's and tells the two apart.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use skerry_tests::peers::torrent::Torrent;
use skerry_tests::peers::{Client, Encryption, Order};

use crate::instruments::process::Process;
use crate::seeds::{Seed, Spent, Which};

/// Connections of the load.
const CONNECTIONS: &str = "8";

/// The longest drive, and the longest fetch, seconds.
const LONGEST: u64 = 300;

/// What one drive of one seed gave.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) seed: Which,
    /// From 0.
    pub(crate) round: usize,
    /// Content bytes that peers received.
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Processor time of the seed, user and system.
    pub(crate) cpu_seconds: f64,
    /// Bytes that the seed had from a disk.
    pub(crate) disk_bytes: u64,
}

impl Sample {
    fn new(seed: &Seed, round: usize, before: Spent, bytes: u64, seconds: f64) -> Result<Self> {
        let after = seed.spent()?;
        ensure!(bytes > 0, "{} sent nothing", seed.which);
        Ok(Self {
            seed: seed.which,
            round,
            bytes,
            seconds,
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            disk_bytes: after.disk_bytes.saturating_sub(before.disk_bytes),
        })
    }

    /// In units of 10^6 bytes.
    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }

    /// Seconds of the seed's processor time for 10^9 bytes.
    pub(crate) fn cpu_per_gigabyte(&self) -> f64 {
        self.cpu_seconds * 1e9 / self.bytes as f64
    }

    /// Megabytes from a disk for 10^9 bytes.
    pub(crate) fn disk_per_gigabyte(&self) -> f64 {
        self.disk_bytes as f64 * 1e3 / self.bytes as f64
    }
}

/// The line that `bt_load` prints.
#[derive(Deserialize)]
struct Told {
    bytes: u64,
    seconds: f64,
    closed: u64,
    pieces: u64,
    wrong: u64,
}

/// Peers as `bt_load` has them, for one torrent.
pub(crate) struct Load<'a> {
    scratch: &'a Path,
    torrent: PathBuf,
}

impl<'a> Load<'a> {
    /// Writes the torrent for them.
    pub(crate) fn of(torrent: &Torrent, scratch: &'a Path) -> Result<Self> {
        let path = scratch.join(format!("{:08x}.torrent", fastrand::u32(..)));
        std::fs::write(&path, torrent.bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { scratch, torrent: path })
    }

    /// Where the torrent is.
    pub(crate) fn torrent(&self) -> &Path {
        &self.torrent
    }

    /// Lets every piece be asked for and compared: the seed is right, and has everything at hand.
    pub(crate) fn warm(&self, seed: &Seed) -> Result<()> {
        let told = self.run(seed, &["--verify", "--seconds", "3"])?;
        ensure!(told.wrong == 0 && told.pieces > 0, "{} sends wrong pieces", seed.which);
        Ok(())
    }

    /// Asks for so many seconds, as fast as the seed answers.
    pub(crate) fn drive(&self, seed: &Seed, seconds: u64, round: usize) -> Result<Sample> {
        self.sample(seed, &["--seconds", &seconds.to_string()], round)
    }

    /// Asks until so many bytes have come.
    pub(crate) fn take(&self, seed: &Seed, bytes: u64, round: usize) -> Result<Sample> {
        let (bytes, longest) = (bytes.to_string(), LONGEST.to_string());
        self.sample(seed, &["--bytes", &bytes, "--seconds", &longest], round)
    }

    fn sample(&self, seed: &Seed, more: &[&str], round: usize) -> Result<Sample> {
        let before = seed.spent()?;
        let told = self.run(seed, more)?;
        ensure!(told.closed == 0, "{} closed {} connections", seed.which, told.closed);
        Sample::new(seed, round, before, told.bytes, told.seconds)
    }

    fn run(&self, seed: &Seed, more: &[&str]) -> Result<Told> {
        let mut load = Process::start(
            "bt_load",
            Command::new(env!("CARGO_BIN_EXE_bt_load"))
                .arg(seed.address.to_string())
                .arg(&self.torrent)
                .args(["--connections", CONNECTIONS])
                .args(more),
            self.scratch.join("load.log"),
        )?;
        load.finish(Duration::from_secs(LONGEST + 60))?;
        let said = load.output()?;
        let line = said.lines().find(|line| line.starts_with('{'));
        line.and_then(|line| serde_json::from_str(line).ok())
            .with_context(|| format!("bt_load on {} said {said:?}", seed.which))
    }
}

/// Lets libtorrent fetch all of a torrent, everything encrypted.
pub(crate) fn fetch_encrypted(seed: &Seed, torrent: &Torrent, round: usize) -> Result<Sample> {
    let order = Order::torrent(torrent).with_peers(&[seed.address]).encryption(Encryption::Rc4);
    let before = seed.spent()?;
    let outcome = Client::Libtorrent.fetch(&order.within(Duration::from_secs(LONGEST)));
    ensure!(outcome.complete, "nothing complete came from {}: {}", seed.which, outcome.output);
    let report = outcome.report();
    ensure!(report.peers.iter().all(|peer| peer.rc4), "{} did not encrypt", seed.which);
    Sample::new(seed, round, before, report.bytes_down, report.seconds)
}

/// Lets libtorrent fetch a torrent over uTP: all of it, or as much as comes in `bound`.
pub(crate) fn fetch_over_utp(
    seed: &Seed,
    torrent: &Torrent,
    bound: Duration,
    round: usize,
) -> Result<Sample> {
    let order = Order::torrent(torrent).with_peers(&[seed.address]).encryption(Encryption::Off).over_utp();
    let before = seed.spent()?;
    let outcome = Client::Libtorrent.fetch(&order.within(bound));
    let report = outcome.libtorrent.as_ref();
    let report = report.with_context(|| format!("libtorrent has no report: {}", outcome.output))?;
    ensure!(report.peers.iter().all(|peer| peer.utp), "{} was connected by TCP", seed.which);
    Sample::new(seed, round, before, report.bytes_down, report.seconds)
}
