//! Around a run: what was asked for, how much of everything, where it works.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::process;

/// What the command line asks for.
pub(crate) struct Arguments {
    pub(crate) quick: bool,
    /// One of the benchmark's parts.
    only: Option<String>,
    pub(crate) json: Option<PathBuf>,
}

/// How much of everything.
pub(crate) struct Effort {
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>, parts: &[&str]) -> Result<Self, String> {
        let mut arguments = Self { quick: false, only: None, json: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                // Cargo says so to every benchmark.
                "--bench" => (),
                "--quick" => arguments.quick = true,
                "--only" => {
                    let part = words.next().unwrap_or_default();
                    if !parts.contains(&part.as_str()) {
                        return Err(format!("there is no part {part:?}"));
                    }
                    arguments.only = Some(part);
                }
                "--json" => arguments.json = Some(words.next().ok_or("--json needs a file")?.into()),
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        Ok(arguments)
    }

    /// Whether a part is to be measured.
    pub(crate) fn wants(&self, part: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == part)
    }
}

/// A benchmark's `main`: exit code 2 for a wrong command line, 1 when something failed.
pub(crate) fn main(name: &str, parts: &[&str], run: fn(&Arguments) -> Result<()>) -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1), parts) {
        Ok(arguments) => arguments,
        Err(reason) => {
            let parts = parts.join("|");
            eprintln!("{reason}\nusage: {name} [--quick] [--only {parts}] [--json FILE]");
            return ExitCode::from(2);
        }
    };
    match process::watch_signals().and_then(|()| run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A folder that is removed at the end, in `SKERRY_BENCH_DIR` or the system's folder for temporary files.
pub(crate) fn scratch() -> Result<TempDir> {
    let base = std::env::var_os("SKERRY_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    std::fs::create_dir_all(&base).with_context(|| format!("cannot create {}", base.display()))?;
    tempfile::Builder::new()
        .prefix("skerry-bench-")
        .tempdir_in(base.canonicalize()?)
        .with_context(|| format!("cannot create a folder in {}", base.display()))
}
