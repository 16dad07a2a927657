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
mod load;
mod machine;
mod material;
mod plan;
mod report;
mod store;

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::{self, ExitCode};
use std::thread;
use std::time::Instant;

use plan::{Command, Plan};
use report::{Report, Skipped};

// The node's own allocator: RocksDB asks for a buffer of a MiB on every read.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

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
    watch(root.path(), plan);
    let material = material::Material::new(plan.capacity);
    let disk = machine::Disk::new(root.path(), &material)?;
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
    if let Some(path) = &plan.json {
        fs::write(path, serde_json::to_vec_pretty(&report)?)
            .map_err(|error| format!("writing {}: {error}", path.display()))?;
    }
    Ok(())
}

/// Ends the run when it outlives its limit by far: a call into RocksDB that never returns cannot be
/// bounded in any other way.
fn watch(root: &Path, plan: &Plan) {
    let (root, limit) = (root.to_owned(), plan.limit * 2);
    thread::spawn(move || {
        thread::sleep(limit);
        eprintln!("layout: still running after {} s, given up", limit.as_secs());
        if let Err(error) = fs::remove_dir_all(&root) {
            eprintln!("layout: {} is left behind: {error}", root.display());
        }
        process::exit(1);
    });
}
