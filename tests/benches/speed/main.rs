//! The node against nginx, side by side: `cargo bench -p skerry-tests --bench speed`.
//!
//! One run starts Debian's nginx, the node and a bare hyper server (the ceiling), and drives them
//! in turn with the same client, so that whatever else the machine does falls on all alike.
//! Files of four sizes are asked for hot in memory, in clear and by TLS, and cold from disk.
//! Reported are medians of requests per second and of server CPU per request, their ratios, and
//! latencies at half load; the targets stand beside them.
//!
//! It is not gentle: it takes every core for a quarter of an hour (`--quick`: a few minutes) and
//! some GiB of scratch space, and its cold rounds empty the page cache of the whole machine.

#![allow(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

mod client;
mod cold;
mod hot;
mod load;
mod process;
mod report;
mod scratch;
mod servers;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::hot::Effort;
use crate::load::Driver;
use crate::report::{Kind, Machine};
use crate::scratch::Scratch;
use crate::servers::Tools;

const USAGE: &str = "usage: speed [--quick] [--only clear|tls|cold] [--json FILE]";

/// What the command line asks for.
struct Arguments {
    quick: bool,
    only: Option<Kind>,
    json: Option<PathBuf>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut arguments = Arguments { quick: false, only: None, json: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                // Cargo says so to every benchmark.
                "--bench" => (),
                "--quick" => arguments.quick = true,
                "--only" => {
                    let name = words.next().unwrap_or_default();
                    let kind = Kind::named(&name);
                    arguments.only = Some(kind.ok_or_else(|| format!("there is no kind {name:?}"))?);
                }
                "--json" => {
                    let file = words.next().ok_or("--json needs a file")?;
                    arguments.json = Some(PathBuf::from(file));
                }
                other => return Err(format!("unknown argument {other:?}")),
            }
        }
        Ok(arguments)
    }

    fn wants(&self, kind: Kind) -> bool {
        self.only.is_none_or(|only| only == kind)
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("speed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    process::watch_signals()?;
    let tools = Tools::find()?;
    let scratch = Scratch::new()?;
    let effort =
        if arguments.quick { Effort { rounds: 3, seconds: 2 } } else { Effort { rounds: 5, seconds: 4 } };
    let driver = Driver {
        tools: &tools,
        scratch: &scratch,
        ticks_per_second: process::ticks_per_second()?,
        trust: client::tls_config(&scratch.certificate())?,
    };

    let hot: Vec<Kind> = [Kind::Clear, Kind::Tls].into_iter().filter(|kind| arguments.wants(*kind)).collect();
    let mut cases = Vec::new();
    if !hot.is_empty() {
        cases.extend(hot::run(&driver, &hot, &effort)?);
    }
    if arguments.wants(Kind::Cold) {
        cases.extend(cold::run(&driver, arguments.quick, &effort)?);
    }

    let machine = Machine::describe(&tools, arguments.quick, effort.rounds);
    report::print(&machine, &cases);
    let json = match &arguments.json {
        Some(named) => named.clone(),
        None => default_json()?,
    };
    report::write(&json, &machine, &cases)?;
    println!("every round: {}", json.display());
    Ok(())
}

/// `bench/speed.json` in cargo's target folder, which is three above this program
/// (`target/release/deps/speed-…`).
fn default_json() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    let target = this
        .ancestors()
        .nth(3)
        .with_context(|| format!("{} is in no target folder: use --json", this.display()))?;
    Ok(target.join("bench/speed.json"))
}
