//! How a box comes by its configuration: `skerry-box provision` and `skerry-box enrol`.
//!
//! `provision` runs at every boot, before the network, and looks at three sources in this order: systemd's
//! credentials, a volume labelled `SKERRY` (a stick), the EFI system partition that the box booted from. The
//! first one whose `skerry.toml` is right and new becomes the configuration. New is what differs from what
//! the same source gave when it was last taken: so an operator corrects a box with a stick, a credential that
//! is there at every boot does not undo that, and the stick can be put in again with an older file.
//!
//! `enrol` runs once the network is up. A one-time token beside the address of the fleet makes the box a
//! node of it: the key is made on the box, and what enrolment gave fills in what the configuration does not
//! say. Without a configuration that is all there is of one.
//!
//! Whatever is wrong is told by file, line and key and changes nothing: a box without a configuration stays
//! so and looks again. So does one whose configuration asks for more than the box has by now, as when its data
//! is not the encrypted one that it was. Sources are only ever read. A token on a stick stays there, spent.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::{DiskEncryption, Settings};
use crate::layout::{Layout, MOST_CONFIG};
use crate::status::{self, Wrong};
use crate::{facts, files, process, toml};

mod enrol;
mod fill;
mod source;

pub use enrol::{Enrolled, enrol, fleet_port, waiting};
pub use fill::fill;
pub use source::{FILES, Kind, Offer, offers};

/// Spent tokens that are remembered; a box is enrolled once in a while.
const MOST_TOKENS: usize = 32;
/// How long `skerry config check` may take.
const CHECK: Duration = Duration::from_secs(60);

/// What became of a look at the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A new configuration was taken from this source.
    Taken(String),
    /// The configuration is the one that was there.
    Unchanged,
    /// There is no configuration.
    Unprovisioned,
    /// A stick asks for a factory reset of this very box.
    Reset,
}

/// What was taken from where: `/var/lib/skerry-box/provisioned`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Record {
    /// Where the configuration came from.
    source: String,
    /// When, seconds since 1970.
    at: u64,
    /// SHA-256 of the file.
    digest: String,
    /// The digest of what each source gave last.
    taken: BTreeMap<String, String>,
    /// SHA-256 of the tokens that the box was enrolled with, the last ones.
    tokens: Vec<String>,
}

impl Record {
    fn path(layout: &Layout) -> PathBuf {
        layout.state().join("provisioned")
    }

    fn read(layout: &Layout) -> Self {
        let text = files::text(&Self::path(layout), 64 << 10);
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    fn write(&self, layout: &Layout) -> io::Result<()> {
        files::replace(&Self::path(layout), &serde_json::to_vec(self)?, 0o600, None)
    }
}

/// Looks at the sources once, and tells what is wrong.
///
/// # Errors
/// When what was found cannot be kept.
pub fn provision(layout: &Layout, credentials: Option<&Path>) -> io::Result<Outcome> {
    make_folders(layout)?;
    let mut wrong = Vec::new();
    let offers = offers(layout, credentials);
    enrol::note_waiting(layout, &offers)?;
    let mut outcome = look(layout, &offers, &mut wrong)?;
    if let Some(why) = refuse(layout)? {
        wrong.push(why);
        if outcome != Outcome::Reset {
            outcome = Outcome::Unprovisioned;
        }
    }
    if outcome == Outcome::Unprovisioned && wrong.is_empty() {
        let enrolled = if fleet_path(layout).exists() { "enrolled, but without" } else { "no" };
        wrong.push(Wrong::new(format!(
            "{enrolled} configuration: put skerry.toml on a FAT stick labelled SKERRY and plug it in"
        )));
    }
    status::report(layout, "provision", wrong)?;
    Ok(outcome)
}

fn look(layout: &Layout, offers: &[Offer], wrong: &mut Vec<Wrong>) -> io::Result<Outcome> {
    let id = facts::machine_id(layout);
    let mut record = Record::read(layout);
    let provisioned = layout.config().is_file();
    // A reset makes another machine id, so that a stick that stays in asks for it once.
    let asks = |offer: &Offer| offer.kind == Kind::Stick && offer.reset.is_some() && offer.reset == id;
    if offers.iter().any(asks) {
        return Ok(Outcome::Reset);
    }
    for offer in offers {
        wrong.extend(offer.wrong.iter().cloned());
        let Some(config) = &offer.config else { continue };
        let digest = digest(config);
        let taken = record.taken.get(offer.kind.word());
        if provisioned && taken == Some(&digest) {
            continue;
        }
        match take(layout, config, &offer.file("skerry.toml")) {
            Err(why) => wrong.push(why),
            Ok(()) => {
                record.taken.insert(offer.kind.word().to_owned(), digest.clone());
                let (source, at) = (offer.place.clone(), now());
                record = Record { source: source.clone(), at, digest, ..record };
                record.write(layout)?;
                return Ok(Outcome::Taken(source));
            }
        }
    }
    Ok(if provisioned { Outcome::Unchanged } else { Outcome::Unprovisioned })
}

/// Looks whether the box has what the configuration that is there asks for, since `/var` may be another one than
/// when it was taken; marks the box when it has not, and says why.
fn refuse(layout: &Layout) -> io::Result<Option<Wrong>> {
    let text = files::text(&layout.config(), MOST_CONFIG);
    match text.and_then(|text| encrypted(layout, &text, "skerry.toml").err()) {
        Some(wrong) => {
            files::replace(&layout.refused(), b"", 0o644, None)?;
            Ok(Some(wrong))
        }
        None => files::remove(&layout.refused()).map(|()| None),
    }
}

/// Makes a text the configuration when the node says that it is right; otherwise nothing changes.
fn take(layout: &Layout, config: &[u8], file: &str) -> Result<(), Wrong> {
    let text = std::str::from_utf8(config).map_err(|error| {
        let line = config[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
        Wrong { line: Some(line), ..Wrong::file(file, "is no UTF-8 text") }
    })?;
    let fleet = files::text(&fleet_path(layout), MOST_CONFIG).unwrap_or_default();
    install(layout, text, &fleet, file)?;
    let kept = files::replace(&offered_path(layout), config, 0o600, None);
    kept.map_err(|error| Wrong::file(file, format!("cannot be kept: {error}")))
}

/// Checks `text`, filled in by what enrolment gave, and writes it to where the node reads it.
fn install(layout: &Layout, text: &str, fleet: &str, file: &str) -> Result<(), Wrong> {
    let filled = fill::fill(text, fleet);
    if filled.len() as u64 > MOST_CONFIG {
        return Err(Wrong::file(file, format!("is longer than {MOST_CONFIG} bytes")));
    }
    let cannot = |what: &str, error: io::Error| Wrong::file(file, format!("{what}: {error}"));
    let candidate = layout.runtime().join("offered.toml");
    files::replace(&candidate, filled.as_bytes(), 0o600, None)
        .map_err(|error| cannot("cannot be checked", error))?;
    let checked = check(layout, &candidate, file).and_then(|()| encrypted(layout, &filled, file));
    let _ = std::fs::remove_file(&candidate);
    checked
        .map_err(|wrong| Wrong { line: wrong.line.map(|line| fill::line(text, &filled, line)), ..wrong })?;
    files::replace(&layout.config(), filled.as_bytes(), 0o640, layout.node_group())
        .map_err(|error| cannot("cannot be written", error))
}

/// Asks the node whether a configuration is right.
fn check(layout: &Layout, candidate: &Path, file: &str) -> Result<(), Wrong> {
    let path = candidate.to_string_lossy();
    match process::run(&layout.at("usr/bin/skerry"), &["config", "check", &path], CHECK) {
        Ok(ended) if ended.status.success() => Ok(()),
        Ok(ended) => Err(Wrong::checked(&ended.stderr, &path, file)),
        Err(error) => Err(Wrong::file(file, format!("cannot be checked: {error}"))),
    }
}

/// Whether the data of this box is kept as `box.disk_encryption` wants it. The disks of a server that was not
/// flashed are its administrator's.
fn encrypted(layout: &Layout, text: &str, file: &str) -> Result<(), Wrong> {
    if facts::image(layout).version.is_empty() {
        return Ok(());
    }
    const KEY: &str = "box.disk_encryption";
    let wrong = |wrong: toml::Wrong| Wrong {
        // What is not written has no line.
        line: (wrong.key != KEY || text.contains("disk_encryption")).then_some(wrong.line as u64),
        key: wrong.key,
        ..Wrong::file(file, wrong.words)
    };
    let settings = Settings::parse(text, Path::new(file)).map_err(wrong)?;
    let (wanted, found) = (settings.appliance.disk_encryption, facts::encryption(layout));
    if found >= wanted {
        return Ok(());
    }
    let found = match found {
        DiskEncryption::None if facts::has_tpm(layout) => {
            "nothing encrypts the data of this box, though it has a TPM: its disk was set up without one, or is \
             another one; a factory reset erases and encrypts it"
        }
        DiskEncryption::None => {
            "nothing encrypts the data of this box: it has no TPM, and was given no skerry.disk-key"
        }
        _ => "the data of this box is encrypted without a TPM",
    };
    let less =
        if wanted == DiskEncryption::Credential { "`none` wants" } else { "`none` and `credential` want" };
    let reason = format!("wants more than there is: {found}; {less} less");
    Err(wrong(toml::wrong(text, Path::new(file), KEY, &reason)))
}

/// The configuration as an operator wrote it, before it was filled in.
fn offered_path(layout: &Layout) -> PathBuf {
    layout.state().join("offered.toml")
}

/// What enrolment gave: tables of a configuration.
fn fleet_path(layout: &Layout) -> PathBuf {
    layout.state().join("fleet.toml")
}

fn make_folders(layout: &Layout) -> io::Result<()> {
    // The node's user may pass through to its configuration, and see nothing else.
    files::make_dir(&layout.state(), 0o711, None)?;
    files::make_dir(&layout.runtime(), 0o755, None)?;
    layout.make_config_dir()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
