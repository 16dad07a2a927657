//! `skerry torrent create | show | verify`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Subcommand;
use skerry_wire::metainfo::{MAX_METAINFO, Metainfo};

mod content;
mod create;
mod show;
mod verify;

#[derive(Debug, Subcommand)]
pub(super) enum Torrent {
    /// Make a torrent of a file or a folder
    Create(create::Create),
    /// Show what a torrent or a magnet link says
    Show(show::Show),
    /// Check files against a torrent; exit with 3 when something is missing or damaged
    Verify(verify::Verify),
}

impl Torrent {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Create(create) => create.execute(),
            Self::Show(show) => show.execute(),
            Self::Verify(verify) => verify.execute(),
        }
    }
}

/// The torrent in a file.
fn load(path: &Path) -> anyhow::Result<Metainfo> {
    let cannot = || format!("cannot read {}", path.display());
    let most = MAX_METAINFO as u64;
    let mut bytes = Vec::new();
    File::open(path).with_context(cannot)?.take(most + 1).read_to_end(&mut bytes).with_context(cannot)?;
    ensure!(bytes.len() as u64 <= most, "{} has more than {most} bytes; it is not read", path.display());
    Metainfo::parse(&bytes).with_context(|| format!("{} is no torrent that can be read", path.display()))
}
