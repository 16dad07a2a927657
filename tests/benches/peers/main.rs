//! The node against libtorrent as seeds, side by side: `cargo bench -p skerry-tests --bench peers`.
//!
//! One run starts the node, libtorrent and a bare server that does nothing but write blocks (the ceiling),
//! and lets the same peers ask them in turn for the same torrent: hot in memory, and cold from disk. Then
//! libtorrent fetches it with everything encrypted, and over uTP from the node and from libtorrent without
//! TCP; at last 2,000 peers connect that want nothing.
//! Reported are medians of the seeds' processor time for 10^9 bytes of content, their ratios, and memory;
//! the targets stand beside them.
//!
//! It is not gentle: it takes every core for some minutes and up to 3 GiB of scratch space, and its cold
//! rounds empty the page cache of the whole machine.

#![allow(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

mod drive;
mod idle;
#[path = "../instruments/mod.rs"]
mod instruments;
mod report;
mod rounds;
mod seeds;

use std::process::ExitCode;

use anyhow::Result;
use skerry_tests::process::{allow_open_files, binary};

use crate::instruments::machine::{Machine, package, version};
use crate::instruments::run::{self, Arguments, Effort};

fn main() -> ExitCode {
    run::main("peers", &["hot", "cold", "rc4", "utp", "idle"], measure)
}

fn measure(arguments: &Arguments) -> Result<()> {
    allow_open_files(idle::PEERS + 1000);
    let quick = arguments.quick;
    let effort = Effort { quick, rounds: if quick { 3 } else { 5 } };
    let scratch = run::scratch()?;
    let (mut cases, mut idle) = (Vec::new(), Vec::new());
    if ["hot", "rc4", "utp", "idle"].iter().any(|part| arguments.wants(part)) {
        rounds::in_memory(scratch.path(), arguments, &effort, &mut cases, &mut idle)?;
    }
    if arguments.wants("cold") {
        cases.extend(rounds::cold(scratch.path(), &effort)?);
    }
    let machine = Machine::describe(&effort, vec![version(&binary()), package("python3-libtorrent")]);
    let json = report::publish(&machine, &cases, &idle, arguments.json.as_deref())?;
    println!("every round: {}", json.display());
    Ok(())
}
