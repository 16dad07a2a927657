//! The chunk store as the node runs it, against its targets: write amplification in churn, sustained
//! fill against `dd`, memory per stored chunk, and the first answer after SIGKILL.
//!
//! Four measurements, one after another, each in a folder of its own, at most about 2 GiB. Linux only;
//! the start after a kill is cold only with the right to drop the page cache.

#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

mod churn;
mod crash;
mod fill;
#[path = "../instruments/mod.rs"]
mod instruments;
mod material;
mod memory;
mod plan;
mod report;
mod subject;

use std::process::ExitCode;
use std::time::Instant;

use instruments::{Result, machine, run};
use plan::{Command, Measurement, Part, Plan};
use report::Report;

// The node's own allocator: RocksDB asks for a buffer of a MiB on every read.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = match plan::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(reason) => {
            eprintln!("{reason}\n\n{}", plan::USAGE);
            return ExitCode::from(2);
        }
    };
    let done = match command {
        Command::Help => {
            println!("{}", plan::USAGE);
            Ok(true)
        }
        Command::Play(part) => play(&part).map(|()| true),
        Command::Measure(plan) => measure(&plan),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("store: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What a child does.
fn play(part: &Part) -> Result<()> {
    match part {
        Part::Fill { dir, chunks, first } => crash::fill_until_killed(dir, *chunks, *first),
        Part::Answer { dir, chunks, wanted } => crash::answer(dir, *chunks, *wanted),
        Part::Grow { dir, chunks, table } => memory::grow(dir, *chunks, *table),
    }
}

/// Returns false when something could not be measured; a missed target is a result like others.
fn measure(plan: &Plan) -> Result<bool> {
    let root = tempfile::Builder::new().prefix("skerry-store-").tempdir_in(&plan.dir)?;
    run::watch("store", root.path(), plan.limit * 2);
    let mut report = Report::new(plan);
    let begun = Instant::now();
    for &measurement in &plan.measurements {
        let name = measurement.name();
        if begun.elapsed() > plan.limit {
            report.failures.push(format!("{name}: not measured, the time was up"));
            continue;
        }
        eprintln!("{:>4} s  {name}", begun.elapsed().as_secs());
        let dir = tempfile::tempdir_in(&root)?;
        let done = match measurement {
            Measurement::Churn => churn::measure(plan, dir.path()).map(|churn| report.churn = Some(churn)),
            Measurement::Fill => fill::measure(plan, dir.path()).map(|fill| report.fill = Some(fill)),
            Measurement::Memory => memory::measure(plan, dir.path()).map(|memory| report.memory = memory),
            Measurement::Crash => crash::measure(plan, dir.path()).map(|crash| report.crash = Some(crash)),
        };
        if let Err(error) = done {
            report.failures.push(format!("{name}: {error}"));
        }
        drop(dir);
        machine::sync(root.path())?;
    }
    report.seconds = begun.elapsed().as_secs_f64();
    print!("{}", report.text());
    let json = run::write_json("store", plan.json.as_deref(), &report)?;
    println!("all of it: {}", json.display());
    Ok(report.failures.is_empty())
}
