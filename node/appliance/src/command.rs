//! The commands, each of which is the one of a unit.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use clap::{Args, Subcommand};
use rustix::system::RebootCommand;
use skerry_appliance::config::Settings;
use skerry_appliance::layout::Layout;
use skerry_appliance::provision::{self, Enrolled};
use skerry_appliance::status::{self, Wrong};
use skerry_appliance::{
    cmdline, credentials, debug, efi, firewall, generated, machine_id, network, process, screen, sockets,
};

mod versions;

/// Between two looks for a stick that the kernel may still be finding.
const LOOK: Duration = Duration::from_secs(1);
/// Between two attempts to become a node of a fleet, at first and at most.
const FIRST_ATTEMPT: Duration = Duration::from_secs(5);
const LAST_ATTEMPT: Duration = Duration::from_secs(5 * 60);
/// How long systemd and nft may take.
const SYSTEM: Duration = Duration::from_secs(90);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Decrypt the credentials of the boot partition
    Credentials,
    /// Take a configuration from credentials, a stick or the boot partition
    Provision(Provision),
    /// Become a node of a fleet, as soon as a token and the network are there
    Enrol(Enrol),
    /// Write what systemd-networkd, -resolved and -timesyncd read
    Network,
    /// Print the packet filter, or put it in force
    Firewall(Firewall),
    /// Write the sockets and limits that systemd has for the node
    Sockets,
    /// Give the system below /sysroot the machine id of this box, and the units of its configuration; in the initrd
    MachineId(MachineId),
    /// Check that nothing was added to the signed command line of the kernel; in the initrd
    Cmdline,
    /// Note whether the version that boots is on trial; in the initrd
    Trial,
    /// Wait until the node is well; fails when it does not become so
    Health(versions::Health),
    /// Keep the version that runs; one that is on trial only when its boot is complete
    Keep,
    /// Go back to the version before, if this one is on trial
    Rollback(versions::Rollback),
    /// Show how the box is on standard output, for ever
    Screen(Screen),
    /// Install a new version, and reboot into it
    Update(versions::Update),
    /// Merge the debug extension of a stick, until the time that the configuration says
    Debug,
    /// Erase all data and the configuration, and reboot
    FactoryReset(FactoryReset),
}

impl Command {
    /// Does it; the error is told in words.
    pub(crate) fn execute(&self, layout: &Layout) -> Result<(), String> {
        match self {
            Self::Credentials => {
                for name in credentials::open(layout)? {
                    log::info!("the credential {name} was decrypted");
                }
                told_of(layout, "credentials");
                Ok(())
            }
            Self::Provision(provision) => provision.execute(layout),
            Self::Enrol(enrol) => enrol.execute(layout),
            Self::Network => network(layout),
            Self::Firewall(firewall) => firewall.execute(layout),
            Self::Sockets => sockets(layout),
            Self::MachineId(id) => id.execute(),
            Self::Cmdline => cmdline::check(layout),
            Self::Trial => versions::begin(layout),
            Self::Health(health) => health.execute(layout),
            Self::Keep => versions::keep(layout),
            Self::Rollback(rollback) => rollback.execute(layout),
            Self::Screen(screen) => {
                screen::run(layout, screen.serial, io::stdout().lock()).map_err(|error| error.to_string())
            }
            Self::Update(update) => update.execute(layout),
            Self::Debug => debug::run(layout, clock),
            Self::FactoryReset(asked) if asked.yes => reset(layout),
            Self::FactoryReset(_) => Err("all data and the configuration would be lost: add --yes".into()),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Provision {
    /// How long to look for a source while the box has no configuration, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    wait: u64,
}

impl Provision {
    fn execute(&self, layout: &Layout) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(self.wait);
        loop {
            let outcome = look(layout)?;
            let waits = outcome == provision::Outcome::Unprovisioned && Instant::now() < until;
            if !waits {
                return told(layout, &outcome);
            }
            thread::sleep(LOOK);
        }
    }
}

fn look(layout: &Layout) -> Result<provision::Outcome, String> {
    provision::provision(layout, layout.credentials()).map_err(|error| format!("cannot provision: {error}"))
}

/// Writes to the journal what a program found wrong.
fn told_of(layout: &Layout, unit: &str) {
    for wrong in status::read(layout).iter().filter(|wrong| wrong.unit == unit) {
        log::error!("{}", wrong.line());
    }
}

fn told(layout: &Layout, outcome: &provision::Outcome) -> Result<(), String> {
    told_of(layout, "provision");
    match outcome {
        provision::Outcome::Taken(source) => log::info!("the configuration was taken from: {source}"),
        provision::Outcome::Unchanged => log::info!("the configuration is the one that was there"),
        provision::Outcome::Unprovisioned => log::warn!("the box is not provisioned"),
        provision::Outcome::Reset => return reset(layout),
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(crate) struct Enrol {
    /// A unit that is restarted once there is a configuration; may be given several times
    #[arg(long = "restart", value_name = "UNIT")]
    restart: Vec<String>,
}

impl Enrol {
    /// Ends when the box has a configuration and no token that was not used yet.
    fn execute(&self, layout: &Layout) -> Result<(), String> {
        // The control node is not asked more often than it can bear; sticks are looked for all the time.
        let (mut pause, mut next) = (FIRST_ATTEMPT, Instant::now());
        // What the packet filter was loaded with.
        let mut port = provision::fleet_port(layout);
        let mut waiting = provision::waiting(layout);
        loop {
            // A stick that was plugged in meanwhile.
            let outcome = look(layout)?;
            let another = provision::waiting(layout);
            if another != waiting {
                (waiting, next) = (another, Instant::now());
            }
            let found = provision::fleet_port(layout);
            if found != port {
                match systemctl(layout, ["try-reload-or-restart", "skerry-firewall.service"]) {
                    Ok(()) => port = found,
                    Err(words) => log::error!("the control node may be out of reach: {words}"),
                }
            }
            let taken = matches!(outcome, provision::Outcome::Taken(_));
            if taken || outcome == provision::Outcome::Reset {
                told(layout, &outcome)?;
            }
            if !taken && Instant::now() < next {
                thread::sleep(FIRST_ATTEMPT);
                continue;
            }
            let enrolled = provision::enrol(layout, layout.credentials());
            let enrolled = enrolled.map_err(|error| format!("cannot enrol: {error}"))?;
            if taken || enrolled == Enrolled::Done {
                self.restart(layout)?;
            }
            if enrolled == Enrolled::Done {
                // A configuration is not missing any more, and the token is spent.
                told(layout, &look(layout)?)?;
            }
            match enrolled {
                Enrolled::Done => {
                    log::info!("the box is a node of its fleet");
                    return Ok(());
                }
                Enrolled::NoToken if layout.is_provisioned() => return Ok(()),
                Enrolled::NoToken => {}
                Enrolled::Failed => told_of(layout, "enrol"),
            }
            pause = if enrolled == Enrolled::Failed { (2 * pause).min(LAST_ATTEMPT) } else { FIRST_ATTEMPT };
            next = Instant::now() + pause;
            thread::sleep(FIRST_ATTEMPT);
        }
    }

    fn restart(&self, layout: &Layout) -> Result<(), String> {
        if self.restart.is_empty() {
            return Ok(());
        }
        let units = self.restart.iter().map(String::as_str);
        systemctl(layout, ["--no-block", "restart"].into_iter().chain(units))
    }
}

/// Runs systemctl, and gives its words when it fails.
fn systemctl<'a>(layout: &Layout, arguments: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
    let arguments: Vec<&str> = arguments.into_iter().collect();
    run(layout, "usr/bin/systemctl", &arguments)
}

fn run(layout: &Layout, program: &str, arguments: &[&str]) -> Result<(), String> {
    let ended = process::run(&layout.at(program), arguments, SYSTEM).map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), ended.stderr.trim()))
}

/// What the configuration says, `None` where the box goes by none; what is wrong with it is told of this unit.
fn settings(layout: &Layout, unit: &str) -> Result<Option<Settings>, String> {
    let loaded = if layout.is_provisioned() { Settings::load(&layout.config()).map(Some) } else { Ok(None) };
    let wrong = loaded.as_ref().err().map(|error| Wrong::new(error.to_string())).into_iter().collect();
    if let Err(error) = status::report(layout, unit, wrong) {
        log::warn!("cannot tell what is wrong: {error}");
    }
    loaded.map_err(|error| error.to_string())
}

/// Without a configuration, or with a wrong one, every card asks DHCP.
fn network(layout: &Layout) -> Result<(), String> {
    let loaded = settings(layout, "network");
    let settings = loaded.as_ref().ok().cloned().flatten().unwrap_or_default();
    let folder = layout.at(network::FOLDER.trim_start_matches('/'));
    let changed = generated::write(&folder, &network::files(&settings), &network::OURS)
        .map_err(|error| format!("cannot write to {}: {error}", folder.display()))?;
    // Empty, it would stand for nobody's authorities: it goes with its file.
    let _ = fs::remove_dir(layout.runtime().join("authorities"));
    if let Some(name) = network::hostname(&settings) {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|error| format!("cannot set the name: {error}"))?;
    }
    if changed {
        // At boot they do not run yet, and this does nothing.
        let units = ["systemd-networkd.service", "systemd-resolved.service", "systemd-timesyncd.service"];
        systemctl(layout, ["--no-block", "try-reload-or-restart"].into_iter().chain(units))?;
    }
    loaded.map(drop)
}

#[derive(Debug, Args)]
pub(crate) struct Firewall {
    /// Put it in force, in place of what is
    #[arg(long)]
    load: bool,
}

impl Firewall {
    /// Without a configuration, or with a wrong one, nobody comes in.
    fn execute(&self, layout: &Layout) -> Result<(), String> {
        let loaded = settings(layout, "firewall");
        let users = firewall::Users { node: layout.node_user() };
        let rules = match &loaded {
            Ok(Some(settings)) => firewall::ruleset(settings, users, provision::fleet_port(layout)),
            _ => firewall::closed(),
        };
        if !self.load {
            print(&rules)?;
            return loaded.map(drop);
        }
        let in_force = firewall::load(layout, rules);
        let ended = loaded.map(drop).and(in_force);
        let wrong = ended.as_ref().err().map(Wrong::new).into_iter().collect();
        if let Err(error) = status::report(layout, "firewall", wrong) {
            log::warn!("cannot tell what is wrong: {error}");
        }
        ended
    }
}

fn print(text: &str) -> Result<(), String> {
    use std::io::Write;
    io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
}

fn sockets(layout: &Layout) -> Result<(), String> {
    let Some(settings) = settings(layout, "sockets")? else { return Ok(()) };
    let units = sockets::units(&settings);
    let folder = layout.at(sockets::FOLDER.trim_start_matches('/'));
    let changed = generated::write(&folder, &units, &sockets::OURS)
        .map_err(|error| format!("cannot write to {}: {error}", folder.display()))?;
    if changed {
        systemctl(layout, ["daemon-reload"])?;
    }
    let names = sockets::names(&units);
    if names.is_empty() {
        return Ok(());
    }
    // They wait for this unit to end, and so it cannot wait for them.
    systemctl(layout, ["--no-block", "start"].into_iter().chain(names))
}

#[derive(Debug, Args)]
pub(crate) struct MachineId {
    /// Where the system is that will be switched to
    #[arg(long, value_name = "DIR", default_value = "/sysroot")]
    sysroot: PathBuf,
}

impl MachineId {
    fn execute(&self) -> Result<(), String> {
        let run = PathBuf::from("/run");
        let id =
            machine_id::settle(&self.sysroot, &run).map_err(|error| format!("no machine id: {error}"))?;
        machine_id::hand_over(&self.sysroot, &run)
            .map_err(|error| format!("cannot give the machine id to {}: {error}", self.sysroot.display()))?;
        log::info!("machine id {id}");
        if let Err(error) = sockets::ahead(&self.sysroot, Path::new(sockets::FOLDER)) {
            log::info!("the units of the configuration have to wait: {error}");
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(crate) struct Screen {
    /// Write plain lines, for a serial line
    #[arg(long)]
    serial: bool,
}

/// Seconds since 1970.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[derive(Debug, Args)]
pub(crate) struct FactoryReset {
    /// All data and the configuration are to be lost
    #[arg(long)]
    yes: bool,
}

/// At the next boot systemd-repart makes the partitions anew that are marked for it, and unsets the variable.
fn reset(layout: &Layout) -> Result<(), String> {
    efi::set_text(layout, "FactoryReset", efi::SYSTEMD, "yes")
        .map_err(|error| format!("the firmware does not take the request for a factory reset: {error}"))?;
    log::warn!("the box is reset, and reboots");
    reboot(layout)
}

/// Reboots in order, and without order where systemd does not.
fn reboot(layout: &Layout) -> Result<(), String> {
    let asked = systemctl(layout, ["--no-block", "reboot"]);
    let Err(words) = asked else { return Ok(()) };
    log::error!("{words}");
    rustix::fs::sync();
    rustix::system::reboot(RebootCommand::Restart).map_err(|error| format!("cannot reboot: {error}"))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use crate::Line;

    #[test]
    fn the_command_line_is_sound() {
        Line::command().debug_assert();
        for (words, right) in [
            (&["credentials"][..], true),
            (&["provision"], true),
            (&["provision", "--wait", "0"], true),
            (&["enrol", "--restart", "a.service", "--restart", "b.service"], true),
            (&["firewall", "--load"], true),
            (&["machine-id", "--sysroot", "/mnt"], true),
            (&["cmdline"], true),
            (&["trial"], true),
            (&["health", "--within", "5"], true),
            (&["keep"], true),
            (&["rollback", "--reason", "odd"], true),
            (&["screen", "--serial"], true),
            (&["update", "--now"], true),
            (&["debug"], true),
            (&["factory-reset", "--yes"], true),
            (&["factory-reset", "now"], false),
            (&[], false),
            (&["login"], false),
        ] {
            let parsed = Line::try_parse_from([&["skerry-box"][..], words].concat());
            assert_eq!(parsed.is_ok(), right, "{words:?}");
        }
    }
}
