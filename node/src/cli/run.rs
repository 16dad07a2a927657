//! `skerry run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::print;
use crate::run;

#[derive(Debug, Args)]
pub(super) struct Run {
    /// Configuration; `skerry config default` prints one to begin with
    #[arg(long, value_name = "FILE", default_value = "/etc/skerry/skerry.toml")]
    config: PathBuf,
    /// Check everything and say what would run, but start and write nothing
    #[arg(long)]
    dry_run: bool,
}

impl Run {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        if self.dry_run {
            print(&run::dry_run(&self.config)?)?;
        } else {
            run::run(&self.config)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
