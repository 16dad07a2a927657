//! The node's tracker against others, side by side: `cargo bench -p skerry-tests --bench trackers`.
//!
//! One run starts aquatic_udp, opentracker and three nodes, and lets aquatic_udp_load_test announce the
//! same peers to each in turn, over UDP. One node knows of no super-peers, as the others do not. The second
//! has a fleet that holds every torrent, and its built-in verdict chooses whom an announce is answered
//! with; in the third the policy does, as a component. Each tracker has one core, and the load has another.
//! At the end a node is sent packets with hostile bytes.
//!
//! Reported are medians of announces per second, and per second of the tracker's processor time; the
//! targets stand beside them. It takes two cores for some minutes.

#![allow(clippy::print_stdout, reason = "a benchmark's result is what it prints")]

mod contenders;
mod fleet;
mod hostile;
#[path = "../instruments/mod.rs"]
mod instruments;
mod load;
mod report;
mod udp;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::contenders::{Contender, Tools, Which};
use crate::instruments::machine::memory_bytes;
use crate::instruments::process::check;
use crate::instruments::run::{self, Arguments, Effort};
use crate::report::{Memory, Report};

fn main() -> ExitCode {
    run::main("trackers", &["announces", "hostile"], measure)
}

fn measure(arguments: &Arguments) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    ensure!(cores >= 2, "a tracker and the load need a core each");
    let tools = Tools::find()?;
    let scratch = run::scratch()?;
    let effort = Effort { quick: arguments.quick, rounds: if arguments.quick { 2 } else { 3 } };
    let mut report = Report::default();
    if arguments.wants("announces") {
        eprintln!("learning what the load announces");
        let torrents = load::torrents(&tools, scratch.path())?;
        let mut contenders = contenders::all(&tools, scratch.path(), &torrents)?;
        for round in 0..effort.rounds {
            // Another one goes first in each round, so that nobody always follows the same tracker.
            contenders.rotate_left(1);
            for contender in &contenders {
                check()?;
                drive(&tools, contender, &effort, round, scratch.path(), &mut report)?;
            }
        }
        let policy = contenders.iter().find(|contender| contender.which == Which::Policy);
        report.share_of_policy = policy.and_then(Contender::node).map(fleet::share_of_policy);
    }
    if arguments.wants("hostile") {
        eprintln!("sending {} hostile packets", hostile::PACKETS);
        report.hostile = Some(hostile::send(&contenders::alone()?)?);
    }
    let json = report.publish(&tools, &effort, arguments.json.as_deref())?;
    println!("every round: {}", json.display());
    Ok(())
}

/// One drive; the first of the node alone tells what its peers take, too.
fn drive(
    tools: &Tools,
    contender: &Contender,
    effort: &Effort,
    round: usize,
    scratch: &Path,
    report: &mut Report,
) -> Result<()> {
    let Some(node) = contender.node() else {
        report.add(load::drive(tools, contender, effort, round, scratch)?);
        return Ok(());
    };
    if contender.which != Which::Node {
        fleet::beat(node)?;
    }
    let before = memory_bytes(node.pid())?;
    report.add(load::drive(tools, contender, effort, round, scratch)?);
    if (contender.which, round) == (Which::Node, 0) {
        let grown = memory_bytes(node.pid())?.saturating_sub(before);
        let totals: Value = serde_json::from_slice(&node.admin_get("/tracker").body)?;
        let peers = totals["peers"]["ipv4"].as_u64().context("the node tells no totals")?;
        report.memory = Some(Memory { grown, peers });
    }
    Ok(())
}
