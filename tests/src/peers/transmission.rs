//! `transmission-cli`: torrents of version 1 and hybrids, magnet links, HTTP and UDP trackers. It goes on as a
//! seed when it has everything, so a script that it then runs leaves a mark, and it is interrupted.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{DOWNLOADS, Encryption, Order, PORTS};

const MARK: &str = "finished";

/// The command that fetches and does not end.
pub(super) fn command(order: &Order, source: &str, folder: &Path) -> Command {
    let settings = json!({
        "dht-enabled": false,
        "lpd-enabled": false,
        "pex-enabled": false,
        "utp-enabled": false,
        "port-forwarding-enabled": false,
        "peer-port-random-on-start": true,
        "peer-port-random-low": PORTS.0,
        "peer-port-random-high": PORTS.1,
        "rename-partial-files": false,
    });
    let script = folder.join("finish");
    fs::write(folder.join("settings.json"), settings.to_string()).expect("the settings are written");
    fs::write(&script, format!("#!/bin/sh\n: >'{}'\n", folder.join(MARK).display()))
        .expect("the script is written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("the script is ours");

    let mut command = super::newer("transmission-cli", folder);
    command.arg("--config-dir").arg(folder).arg("--download-dir").arg(folder.join(DOWNLOADS));
    command.arg("--finish").arg(script).arg("--no-portmap");
    command.arg(match order.encryption {
        Encryption::Any => "--encryption-preferred",
        Encryption::Off => "--encryption-tolerated",
        Encryption::Handshake | Encryption::Rc4 => "--encryption-required",
    });
    if !order.uploads {
        command.args(["--uplimit", "0"]);
    }
    command.arg(source);
    command
}

/// Whether it has everything.
pub(super) fn finished(folder: &Path) -> bool {
    folder.join(MARK).exists()
}

/// Tells it to end.
pub(super) fn interrupt(pid: u32) {
    // It fails only for a process that has just ended by itself.
    let _ = Command::new("kill").arg("-INT").arg(pid.to_string()).output();
}

/// The content bytes that it has sent, as it writes down when it ends.
pub(super) fn uploaded(folder: &Path) -> Option<u64> {
    let totals: Value = serde_json::from_slice(&fs::read(folder.join("stats.json")).ok()?).ok()?;
    totals["uploaded-bytes"].as_u64()
}
