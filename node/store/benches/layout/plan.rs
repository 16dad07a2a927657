//! What to compare: the command line, with its defaults.

use std::path::PathBuf;
use std::time::Duration;

use crate::instruments::run;
use crate::store::Layout;

const MIB: u64 = 1 << 20;

pub(crate) const USAGE: &str = "\
usage: layout [options]
  --quick             256 MiB of capacity, values of 256 KiB and 1 MiB, at most two minutes
  --capacity-mib N    bytes of chunks that a layout may hold, in MiB (default 1024, at least 64)
  --layout NAME       only this one: ring-blob, fifo-blob, ring-sst or leveled-gc; may be repeated
  --value-kib N       only this value size: 64, 256 or 1024; may be repeated
  --direct-writes     flush and compact past the page cache
  --no-checksums      leave out RocksDB's own checksums when reading
  --limit-seconds N   begin no further measurement after so long (default 420, quick 100)
  --dir DIR           make the databases below DIR (default: the build's temporary folder)
  --json FILE         where the figures go as JSON (default: bench/layout.json in the build's folder)";

/// One comparison.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Bytes of chunks a layout may hold.
    pub(crate) capacity: u64,
    /// Bytes of a value, each a divisor of the chunk length.
    pub(crate) values: Vec<usize>,
    pub(crate) layouts: Vec<Layout>,
    pub(crate) direct_writes: bool,
    pub(crate) checksums: bool,
    pub(crate) limit: Duration,
    pub(crate) dir: PathBuf,
    pub(crate) json: Option<PathBuf>,
}

/// What this process was started for.
#[derive(Debug)]
pub(crate) enum Command {
    Help,
    Compare(Plan),
    /// Hidden: write to the plan's one layout in the directory until killed.
    ChildFill(Plan),
}

/// Reads the command line; the error is for the person who typed it.
pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
    let (mut quick, mut capacity, mut limit, mut child) = (false, None, None, false);
    let mut plan = Plan {
        capacity: 0,
        values: Vec::new(),
        layouts: Vec::new(),
        direct_writes: false,
        checksums: true,
        limit: Duration::ZERO,
        dir: run::scratch(),
        json: None,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is not a number"));
        match argument.as_str() {
            // Cargo's own, to every benchmark.
            "--bench" => {}
            "--help" | "-h" => return Ok(Command::Help),
            "--quick" => quick = true,
            "--capacity-mib" => capacity = Some(number(value()?)?),
            "--layout" => {
                let name = value()?;
                plan.layouts.push(Layout::named(&name).ok_or_else(|| format!("no layout is called {name}"))?);
            }
            "--value-kib" => match number(value()?)? {
                kib @ (64 | 256 | 1024) => plan.values.push((kib as usize) << 10),
                kib => return Err(format!("a value of {kib} KiB is none of 64, 256 and 1024")),
            },
            "--direct-writes" => plan.direct_writes = true,
            "--no-checksums" => plan.checksums = false,
            "--limit-seconds" => limit = Some(number(value()?)?),
            "--dir" => plan.dir = value()?.into(),
            "--json" => plan.json = Some(value()?.into()),
            "--child-fill" => {
                child = true;
                plan.dir = value()?.into();
            }
            _ => return Err(format!("unknown argument {argument}")),
        }
    }
    plan.capacity = capacity.unwrap_or(if quick { 256 } else { 1024 }) * MIB;
    plan.limit = Duration::from_secs(limit.unwrap_or(if quick { 100 } else { 420 }));
    if plan.capacity < 64 * MIB {
        return Err("--capacity-mib must be at least 64".into());
    }
    if plan.layouts.is_empty() {
        plan.layouts = Layout::ALL.to_vec();
    }
    if plan.values.is_empty() {
        plan.values = if quick { vec![256 << 10, 1 << 20] } else { vec![64 << 10, 256 << 10, 1 << 20] };
    }
    Ok(if child { Command::ChildFill(plan) } else { Command::Compare(plan) })
}
