//! `skerry image`: a configuration goes into an image or onto a stick, and an image onto a disk.
//!
//! The configuration goes as `skerry.toml` into the root of a FAT volume labelled `SKERRY`, or else of the
//! EFI system partition. That partition's `loader/credentials` is no place for it: systemd takes from there
//! only what was encrypted, to the TPM of the very machine; what was encrypted to nothing it refuses under
//! Secure Boot. Nor is there a need: the configuration holds no secret, a token is good once, and whoever can
//! write to the disk can put a stick into the box as well.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, Subcommand};
use skerry_appliance::disk::{self, Disk, Target};
use skerry_appliance::layout::Layout;

use super::Cli;
use super::units::bytes;

mod flash;
mod provision;

#[derive(Debug, Subcommand)]
pub(super) enum Image {
    /// Put a configuration into an image, or onto a disk or stick
    Provision(provision::Provision),
    /// Write an image onto a disk, and read it back
    Flash(flash::Flash),
}

impl Image {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Provision(provision) => provision.execute(),
            Self::Flash(flash) => flash.execute(),
        }
    }
}

/// What is written to, opened; a disk that is in use is refused.
struct Opened {
    file: std::fs::File,
    /// Bytes that it has; of a file, its length.
    length: u64,
    disk: Option<Disk>,
}

/// Opens what `--disk` names. `may_be_partition` says whether a partition will do.
fn open(path: &Path, may_be_partition: bool) -> anyhow::Result<Opened> {
    let shown = path.display();
    let target = disk::target(&Layout::default(), path).with_context(|| format!("cannot use {shown}"))?;
    let (length, disk) = match target {
        Target::File { length } => (length, None),
        Target::Disk(disk) => (disk.length, Some(disk)),
        Target::Partition { length, disk, .. } if may_be_partition => (length, Some(disk)),
        Target::Partition { name, disk, .. } => {
            bail!("{name} is a partition of {}: name the whole disk, /dev/{}", disk.name, disk.name)
        }
        Target::Other(name) => bail!("{name} is no disk of its own"),
    };
    if let Some(reason) = disk.as_ref().map(|disk| &disk.in_use).filter(|reason| !reason.is_empty()) {
        bail!("{shown} is not written to: {reason}");
    }
    let file = disk::open(path).with_context(|| format!("cannot open {shown} to write to it alone"))?;
    Ok(Opened { file, length, disk })
}

/// Disks that may be erased, and those that may not with the reason.
fn candidates() -> String {
    let mut text = format!("{:<16} {:>10}  {:<24} {:<24}\n", "DISK", "SIZE", "MODEL", "SERIAL");
    for disk in disk::disks(&Layout::default()) {
        let Disk { name, length, model, serial, removable, in_use } = disk;
        let note = match (in_use.is_empty(), removable) {
            (false, _) => in_use,
            (true, true) => "can be taken out".into(),
            (true, false) => String::new(),
        };
        let path = PathBuf::from("/dev").join(name);
        let line = format!("{:<16} {:>10}  {model:<24} {serial:<24} {note}", path.display(), bytes(length));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Ends the program as a wrong command line does.
fn usage(words: &str) -> ! {
    Cli::command().error(ErrorKind::ValueValidation, words).exit()
}
