//! `aria2c`: torrents of version 1 and hybrids, magnet links, HTTP and UDP trackers.

use std::path::Path;
use std::process::Command;

use super::{DOWNLOADS, Encryption, Order, PORTS};

/// The command that fetches and ends by itself, successfully when it has everything.
pub(super) fn command(order: &Order, source: &str, trackers: &[String], folder: &Path) -> Command {
    let ports = format!("{}-{}", PORTS.0, PORTS.1);
    // Its UDP trackers go through the socket of its DHT, which has nowhere to begin here.
    let dht = trackers.iter().any(|url| url.starts_with("udp:"));
    let (required, level) = match order.encryption {
        Encryption::Any | Encryption::Off => (false, "plain"),
        Encryption::Handshake => (true, "plain"),
        Encryption::Rc4 => (true, "arc4"),
    };
    let mut command = quiet(folder);
    command
        .arg(format!("--listen-port={ports}"))
        .arg(format!("--enable-dht={dht}"))
        .arg(format!("--dht-listen-port={ports}"))
        .arg(format!("--dht-file-path={}", folder.join("dht.dat").display()))
        .args(["--bt-enable-lpd=false", "--enable-peer-exchange=false", "--seed-time=0"])
        .args(["--bt-tracker-connect-timeout=5", "--bt-tracker-timeout=5"])
        .arg(format!("--bt-require-crypto={required}"))
        .arg(format!("--bt-min-crypto-level={level}"))
        .arg(format!("--stop={}", order.bound.as_secs().max(1)));
    if !order.uploads {
        command.arg("--max-upload-limit=1");
    }
    command.arg(source);
    command
}

/// Whether every piece of the torrent is on the disk, as aria2 reads it; `None` after a magnet link.
pub(super) fn verified(folder: &Path) -> Option<bool> {
    let torrent = folder.join("order.torrent");
    if !torrent.is_file() {
        return None;
    }
    let mut command = quiet(folder);
    command.args(["--check-integrity=true", "--hash-check-only=true", "--enable-dht=false"]).arg(torrent);
    Some(command.status().expect("aria2c of aria2 runs").success())
}

fn quiet(folder: &Path) -> Command {
    let mut command = super::newer("aria2c", folder);
    command
        .args(["--no-conf", "--enable-dht6=false", "--file-allocation=none"])
        .args(["--summary-interval=0", "--show-console-readout=false", "--enable-color=false"])
        .arg("--console-log-level=info")
        .arg(format!("--dir={}", folder.join(DOWNLOADS).display()))
        .arg(format!("--stop-with-process={}", std::process::id()));
    command
}
