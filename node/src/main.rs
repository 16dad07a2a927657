//! The `skerry` command.

use std::process::ExitCode;

use clap::Parser;
use skerry::cli::{self, Cli};

// RocksDB asks for a MiB-sized buffer on every read; jemalloc keeps them instead of mapping anew.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Cli::parse().execute() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("skerry: {}", cli::explain(&error));
            cli::exit_code(&error)
        }
    }
}
