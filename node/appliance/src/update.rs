//! New versions of the image: `skerry-box update`, which a timer runs.
//!
//! systemd-sysupdate does the work: it fetches what belongs to a version, checks it against `SHA256SUMS` and
//! that against its signature, writes the root into the idle slot and at last the kernel image beside the one
//! that runs, with three tries. The image says what belongs to a version (`/usr/lib/sysupdate.d`). What is
//! decided here is where from, whether and when: from `[update]` `source` when it is automatic, or from the
//! folder `update` of a stick, which is asking enough and goes first; inside the window alone, both to install
//! and to reboot; and never again a version that the box came back from.
//!
//! A stick's files are copied to `/var` first, since it may be pulled at any moment; sysupdate checks the
//! copy as it checks what comes over the network.

use std::time::Duration;
use std::{fs, io};

use serde::Deserialize;

use crate::config::Settings;
use crate::facts::{self, Image};
use crate::generated::{self, Generated};
use crate::health::Before;
use crate::layout::Layout;
use crate::status::{self, Wrong};
use crate::{process, rollback, trial};

mod stick;

/// How long a list of versions may take to come.
const LOOK: Duration = Duration::from_secs(10 * 60);
/// How long a version may take to come and to be written.
const INSTALL: Duration = Duration::from_secs(6 * 3600);
/// What the image says of its versions, and where more is said of it.
const TRANSFERS: &str = "usr/lib/sysupdate.d";
const DROP_INS: &str = "run/sysupdate.d";

/// What became of a look for updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The box takes none: no source is automatic, no stick is there, or what runs is no image.
    Off,
    /// The version that runs is on trial, and the one before it is the way back.
    Trial,
    /// The window is closed, or the clock is not set yet.
    Closed,
    /// There is none.
    Current,
    /// This version is installed; whoever called reboots into it.
    Reboot(String),
    /// This version is installed, and waits for the window.
    Waits(String),
}

/// Looks for an update, and installs one.
///
/// # Errors
/// What went wrong, in words; the screen and the node are told too.
pub fn update(layout: &Layout, clock: impl Fn() -> u64, now: bool) -> Result<Outcome, String> {
    let done = Settings::load(&layout.config())
        .map_err(|error| error.to_string())
        .and_then(|settings| Update { layout, settings, now, clock: &clock }.run());
    let wrong = done.as_ref().err().map(Wrong::new).into_iter().collect();
    if let Err(error) = status::report(layout, "update", wrong) {
        log::warn!("cannot tell how the update went: {error}");
    }
    done
}

struct Update<'a> {
    layout: &'a Layout,
    settings: Settings,
    /// Whatever the window says.
    now: bool,
    /// Seconds since 1970.
    clock: &'a dyn Fn() -> u64,
}

/// What `systemd-sysupdate --json=short check-new` prints.
#[derive(Debug, Deserialize)]
struct New {
    available: Option<String>,
}

impl Update<'_> {
    fn run(&self) -> Result<Outcome, String> {
        let layout = self.layout;
        let copy = layout.state().join("update/stick");
        // Of a copy that was cut off.
        let _ = fs::remove_dir_all(&copy);
        let image = facts::image(layout);
        if image.version.is_empty() {
            return Ok(Outcome::Off);
        }
        if trial::on_trial(layout) {
            return Ok(Outcome::Trial);
        }
        // Installed by an earlier run, or a moment before the power was cut.
        if let Some(version) = rollback::waiting(layout, &image) {
            return Ok(self.reboot(version));
        }
        let source = &self.settings.update.source;
        let stick = stick::find(layout);
        let asked = !source.is_empty() && (self.settings.update.automatic || self.now);
        if stick.is_none() && !asked {
            return Ok(Outcome::Off);
        }
        if !self.open() {
            return Ok(Outcome::Closed);
        }
        let installed = match stick {
            None => Ok(Outcome::Current),
            Some((volume, place)) => {
                let taken = stick::take(layout, &volume, &image, &copy);
                match taken.map_err(|words| format!("stick {place}: {words}")) {
                    Ok(None) => Ok(Outcome::Current),
                    Ok(Some(_)) => self.install(&image, &format!("file://{}/", copy.display())),
                    Err(words) => Err(words),
                }
            }
        };
        // Its room on /var is the node's.
        let _ = fs::remove_dir_all(&copy);
        match installed {
            // A stick may stay in.
            Ok(Outcome::Current) if asked => self.install(&image, source),
            installed => installed,
        }
    }

    fn install(&self, image: &Image, source: &str) -> Result<Outcome, String> {
        self.point_to(source).map_err(|error| format!("cannot write to {DROP_INS}: {error}"))?;
        let found = self.sysupdate(&["--json=short", "check-new"], LOOK)?;
        let found: New = serde_json::from_str(found.trim())
            .map_err(|_| "what systemd-sysupdate prints is not understood".to_owned())?;
        let Some(version) = found.available else { return Ok(Outcome::Current) };
        if rollback::failed(self.layout, &image.version).is_some_and(|failed| failed.version == version) {
            return Ok(Outcome::Current);
        }
        log::info!("installing version {version}");
        self.sysupdate(&["update", &version], INSTALL)?;
        Ok(self.reboot(version))
    }

    /// Says where every part of a version comes from.
    fn point_to(&self, source: &str) -> io::Result<()> {
        let mut made = Vec::new();
        for entry in fs::read_dir(self.layout.at(TRANSFERS))? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| name.ends_with(".transfer")) else { continue };
            made.push(Generated::new(
                format!("{name}.d/50-skerry.conf"),
                &format!("[Source]\nPath={source}\n"),
            ));
        }
        generated::write(&self.layout.at(DROP_INS), &made, &[]).map(drop)
    }

    fn sysupdate(&self, arguments: &[&str], patience: Duration) -> Result<String, String> {
        let program = self.layout.at("usr/lib/systemd/systemd-sysupdate");
        let ended = process::run(&program, arguments, patience).map_err(|error| error.to_string())?;
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        log::error!("{}", ended.stderr.trim());
        // The last of what it says is the reason.
        let words =
            ended.stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        let verb: Vec<&str> = arguments.iter().copied().filter(|word| !word.starts_with('-')).collect();
        Err(format!("systemd-sysupdate {}: {}", verb.join(" "), status::clean(words, 300)))
    }

    /// Reboots are of the window, too.
    fn reboot(&self, version: String) -> Outcome {
        if !self.open() {
            return Outcome::Waits(version);
        }
        if let Err(error) = Before::write(self.layout) {
            log::warn!("the next version is not told how this one was: {error}");
        }
        Outcome::Reboot(version)
    }

    fn open(&self) -> bool {
        let windows = &self.settings.update.window;
        // Hours mean nothing before the clock is set.
        let set = || self.layout.at("run/systemd/timesync/synchronized").exists();
        self.now || windows.0.is_empty() || set() && windows.is_open((self.clock)().saturating_mul(1000))
    }
}

#[cfg(test)]
mod tests;
