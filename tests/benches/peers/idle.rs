//! Peers that are connected and want nothing: what each costs in memory.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::drive::Load;
use crate::instruments::machine::memory_bytes;
use crate::instruments::process::check;
use crate::seeds::{Seed, Which};

/// How many.
pub(crate) const PEERS: u32 = 2000;

/// After that long a seed's allocator has given back what it had for a moment.
const SETTLE: Duration = Duration::from_secs(15);

/// Memory of a seed without peers, and with them, bytes.
#[derive(Serialize)]
pub(crate) struct Idle {
    pub(crate) seed: Which,
    peers: u64,
    before: u64,
    after: u64,
}

impl Idle {
    /// In units of 10^3 bytes.
    pub(crate) fn kilobytes_per_peer(&self) -> f64 {
        self.after.saturating_sub(self.before) as f64 / 1e3 / self.peers as f64
    }
}

#[derive(Deserialize)]
struct Told {
    connections: u64,
    #[serde(default)]
    closed: u64,
}

/// Connects them to a seed that has just started.
pub(crate) fn measure(seed: &Seed, load: &Load<'_>) -> Result<Idle> {
    let pid = seed.pid().context("a seed without a process")?;
    settle()?;
    let before = memory_bytes(pid)?;
    // It ends when its standard input closes, which it does when this returns in any way.
    let mut peers = Command::new(env!("CARGO_BIN_EXE_bt_load"))
        .arg(seed.address.to_string())
        .arg(load.torrent())
        .args(["--idle", &PEERS.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start bt_load")?;
    let stdin = peers.stdin.take();
    let mut lines = BufReader::new(peers.stdout.take().context("bt_load has no output")?).lines();
    let mut told = || -> Result<Told> {
        let line = lines.next().context("bt_load has ended early")??;
        serde_json::from_str(&line).with_context(|| format!("bt_load said {line:?}"))
    };
    ensure!(told()?.connections == u64::from(PEERS), "not every peer was taken");
    settle()?;
    let after = memory_bytes(pid)?;
    drop(stdin);
    let Told { connections, closed } = told()?;
    ensure!(closed == 0, "{} let {closed} of {connections} idle peers go", seed.which);
    peers.wait()?;
    Ok(Idle { seed: seed.which, peers: connections, before, after })
}

fn settle() -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < SETTLE {
        check()?;
        thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
