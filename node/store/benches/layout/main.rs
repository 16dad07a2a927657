//! Compares RocksDB layouts for chunk bytes, and prints the figures behind
//! `node/docs/decisions/0001-chunk-layout.md`.
//!
//! Every layout holds the same capacity, gets the same chunks, and goes through the same course for
//! every value size: filled once; churned at full speed; churned at a set pace while one thread reads,
//! through the page cache and then past it; read from a dropped page cache and again warm; at last
//! written by a child that dies by SIGKILL. One directory at a time is on the disk, at most about three
//! times the capacity. Linux only; the cold figures need the right to drop the page cache.

#![allow(clippy::print_stdout, reason = "a benchmark prints its table")]

mod course;
mod crash;
#[path = "../instruments/mod.rs"]
mod instruments;
mod load;
mod material;
mod plan;
mod report;
mod store;

use std::process::ExitCode;
use std::time::Instant;

use instruments::{Result, machine, run};
use plan::{Command, Plan};
use report::{Report, Skipped};

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
            Ok(())
        }
        Command::ChildFill(child) => crash::fill_until_killed(&child),
        Command::Compare(plan) => compare(&plan),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("layout: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compare(plan: &Plan) -> Result<()> {
    let root = tempfile::Builder::new().prefix("skerry-layout-").tempdir_in(&plan.dir)?;
    run::watch("layout", root.path(), plan.limit * 2);
    let material = material::Material::new(plan.capacity);
    let disk = machine::Disk::new(root.path(), material.pool())?;
    let mut report = Report::new(plan);
    let begun = Instant::now();
    for &value in &plan.values {
        for &layout in &plan.layouts {
            if begun.elapsed() > plan.limit {
                report.skipped.push(Skipped { layout: layout.name(), value_kib: value >> 10 });
                continue;
            }
            eprintln!("{:>4} s  {} {} KiB", begun.elapsed().as_secs(), layout.name(), value >> 10);
            report.dd_mib_s.extend(disk.dd());
            let row = course::run(plan, &material, root.path(), store::Shape::new(plan, layout, value))
                .map_err(|error| format!("{} with values of {} KiB: {error}", layout.name(), value >> 10))?;
            report.rows.push(row);
        }
    }
    report.seconds = begun.elapsed().as_secs_f64();
    println!("{}", report.text());
    let json = run::write_json("layout", plan.json.as_deref(), &report)?;
    println!("all of it: {}", json.display());
    Ok(())
}
