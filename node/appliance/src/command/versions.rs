//! What becomes of versions: whether one is tried, found good and kept, left again, replaced.

use std::time::Duration;

use clap::Args;
use skerry_appliance::layout::Layout;
use skerry_appliance::status::{self, Wrong};
use skerry_appliance::{health, rollback, trial, update};

use super::{clock, reboot, systemctl};

pub(super) fn begin(layout: &Layout) -> Result<(), String> {
    let new =
        trial::begin(layout).map_err(|error| format!("cannot note that this boot is counted: {error}"))?;
    log::info!("this boot is {}", if new { "on trial" } else { "not on trial" });
    Ok(())
}

/// What comes to its end is not left for its health, unless it is new: that may be the network's.
pub(super) fn keep(layout: &Layout) -> Result<(), String> {
    let complete = || systemctl(layout, ["--quiet", "is-active", "boot-complete.target"]).is_ok();
    if trial::on_trial(layout) && !complete() {
        log::warn!("this version is on trial, and was not found good");
        return Ok(());
    }
    let kept = trial::keep(layout).map_err(|error| format!("the version that runs cannot be kept: {error}"));
    let wrong = kept.as_ref().err().map(Wrong::new).into_iter().collect();
    status::report(layout, "keep", wrong)
        .and_then(|()| status::publish(layout))
        .map_err(|error| format!("cannot tell how the box is: {error}"))?;
    match kept? {
        Some(tries) => log::info!("the version that runs is kept: it has {tries} tries"),
        None => log::info!("the version that runs is kept, and its tries are not counted"),
    }
    // One that hung or panicked could not say so itself.
    if let Some(failed) = status::told(layout).and_then(|state| state.previous_failed) {
        log::error!("the box went back from version {}: {}", failed.version, failed.reason);
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct Health {
    /// How long it may take, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    within: u64,
}

impl Health {
    pub(super) fn execute(&self, layout: &Layout) -> Result<(), String> {
        let words =
            health::wait(layout, Duration::from_secs(self.within)).map_err(|wrong| wrong.join("; "))?;
        log::info!("{words}");
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Why; by default what is wrong with the health of the box
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true)]
    reason: String,
}

impl Rollback {
    pub(super) fn execute(&self, layout: &Layout) -> Result<(), String> {
        if !trial::on_trial(layout) {
            log::info!("the version that runs is not on trial: nothing to go back from");
            return Ok(());
        }
        if !trial::has_other(layout) {
            log::error!("the version that runs failed, and there is no other one to go back to");
            return Ok(());
        }
        let mut reason = self.reason.clone();
        if reason.is_empty() {
            let wrong = status::read(layout).into_iter().filter(|wrong| wrong.unit == "health");
            reason = wrong.map(|wrong| wrong.line()).collect::<Vec<_>>().join("; ");
        }
        if reason.is_empty() {
            reason = "it did not boot to its end".into();
        }
        match rollback::note(layout, &reason) {
            Ok(failed) => {
                log::error!("version {} failed, and the box reboots: {}", failed.version, failed.reason)
            }
            Err(error) => log::error!("the box reboots: {reason}; the next boot is not told: {error}"),
        }
        if let Err(error) = trial::give_up(layout) {
            log::error!("this version may be booted again, as long as it has tries: {error}");
        }
        reboot(layout)
    }
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// Whatever the window says, and also where updates are not automatic
    #[arg(long)]
    now: bool,
}

impl Update {
    pub(super) fn execute(&self, layout: &Layout) -> Result<(), String> {
        match update::update(layout, clock, self.now)? {
            update::Outcome::Off => log::info!("no update is asked for"),
            update::Outcome::Trial => log::info!("the version that runs is on trial, and not replaced"),
            update::Outcome::Closed => log::info!("updates wait for their window"),
            update::Outcome::Current => log::info!("there is no newer version"),
            update::Outcome::Waits(version) => {
                log::info!("version {version} waits for the window to be booted")
            }
            update::Outcome::Reboot(version) => {
                log::warn!("version {version} is installed, and the box reboots into it");
                return reboot(layout);
            }
        }
        Ok(())
    }
}
