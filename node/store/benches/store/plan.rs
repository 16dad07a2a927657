//! What to measure: the command line, with its defaults, and the parts that children play.

use std::path::PathBuf;
use std::process;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skerry_store::StoreConfig;

use crate::instruments::run;
use crate::material::CHUNK;

const MIB: u64 = 1 << 20;

pub(crate) const USAGE: &str = "\
usage: store [options]
  --quick             256 MiB of capacity, 200,000 chunks, fewer rounds, at most a minute and a half
  --only NAME         only this: churn, fill, memory or crash; may be repeated
  --writers N         threads that fill the store (default 2)
  --limit-seconds N   begin no further measurement after so long (default 240, quick 90)
  --dir DIR           make the databases below DIR (default: the build's temporary folder)
  --json FILE         where the figures go as JSON (default: bench/store.json in the build's folder)";

/// One run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) quick: bool,
    pub(crate) measurements: Vec<Measurement>,
    /// `store.capacity_bytes` of churn and fill.
    pub(crate) capacity: u64,
    /// Threads that fill.
    pub(crate) writers: usize,
    /// Times that the store is filled, beside `dd`.
    pub(crate) rounds: usize,
    /// Small chunks, each with a record, of memory and crash.
    pub(crate) chunks: u64,
    /// Those that are written in tables as small as chunks of a MiB make them.
    pub(crate) sparse: u64,
    /// Times that the store is killed.
    pub(crate) kills: usize,
    pub(crate) limit: Duration,
    pub(crate) dir: PathBuf,
    pub(crate) json: Option<PathBuf>,
}

impl Plan {
    /// The store of churn and fill. Its memory tier is a sixteenth of the capacity, while the defaults
    /// make it a fortieth: there is more to write again when a generation goes.
    pub(crate) fn config(&self) -> StoreConfig {
        StoreConfig {
            capacity_bytes: self.capacity,
            pinned_bytes: 0,
            memory_tier_bytes: self.capacity / 16,
            chunk_bytes: CHUNK as u32,
            ..StoreConfig::default()
        }
    }
}

/// One of the four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measurement {
    Churn,
    Fill,
    Memory,
    Crash,
}

impl Measurement {
    const ALL: [Self; 4] = [Self::Churn, Self::Fill, Self::Memory, Self::Crash];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Churn => "churn",
            Self::Fill => "fill",
            Self::Memory => "memory",
            Self::Crash => "crash",
        }
    }
}

/// What this process was started for.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    Measure(Plan),
    /// Hidden: a child of a measurement.
    Play(Part),
}

/// The parts of children.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    /// Put objects from number `first` on, into a store for `chunks` of them, until killed.
    Fill { dir: PathBuf, chunks: u64, first: u64 },
    /// Open that store and read object `wanted`, or one from before it.
    Answer { dir: PathBuf, chunks: u64, wanted: u64 },
    /// Put `chunks` objects and tell the memory they take; flush after every `table` of them.
    Grow { dir: PathBuf, chunks: u64, table: Option<u64> },
}

impl Part {
    /// This very program, to play the part.
    pub(crate) fn command(&self) -> crate::Result<process::Command> {
        let mut command = process::Command::new(std::env::current_exe()?);
        command.arg("--child").arg(serde_json::to_string(self)?);
        Ok(command)
    }
}

/// Reads the command line; the error is for the person who typed it.
pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut quick, mut limit, mut writers) = (false, None, 2);
    let (mut measurements, mut dir, mut json) = (Vec::new(), run::scratch(), None);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is not a number"));
        match argument.as_str() {
            // Cargo's own, to every benchmark.
            "--bench" => {}
            "--help" | "-h" => return Ok(Command::Help),
            "--quick" => quick = true,
            "--only" => {
                let name = value()?;
                let named = Measurement::ALL.into_iter().find(|measurement| measurement.name() == name);
                measurements.push(named.ok_or_else(|| format!("no measurement is called {name}"))?);
            }
            "--writers" => match number(value()?)? {
                count @ 1..=64 => writers = count as usize,
                _ => return Err("--writers must be from 1 to 64".into()),
            },
            "--limit-seconds" => limit = Some(number(value()?)?),
            "--dir" => dir = value()?.into(),
            "--json" => json = Some(value()?.into()),
            "--child" => {
                let part = serde_json::from_str(&value()?);
                return part.map(Command::Play).map_err(|error| format!("no part of a child: {error}"));
            }
            _ => return Err(format!("unknown argument {argument}")),
        }
    }
    if measurements.is_empty() {
        measurements = Measurement::ALL.to_vec();
    }
    Ok(Command::Measure(Plan {
        quick,
        measurements,
        capacity: if quick { 256 * MIB } else { 1024 * MIB },
        writers,
        rounds: if quick { 3 } else { 5 },
        chunks: if quick { 200_000 } else { 500_000 },
        sparse: if quick { 25_600 } else { 102_400 },
        kills: if quick { 3 } else { 5 },
        limit: Duration::from_secs(limit.unwrap_or(if quick { 90 } else { 240 })),
        dir,
        json,
    }))
}
