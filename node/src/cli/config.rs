//! `skerry config default | check`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

use super::print;
use crate::config;

#[derive(Debug, Subcommand)]
pub(super) enum Config {
    /// Print every key with its default and what it means
    Default,
    /// Check a configuration without starting anything
    Check {
        /// The configuration
        file: PathBuf,
    },
}

impl Config {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Default => print(&config::default_text())?,
            Self::Check { file } => {
                config::load(file)?;
                print(&format!("{}: ok\n", file.display()))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
