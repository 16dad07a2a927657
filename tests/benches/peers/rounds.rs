//! What is measured, and in which order.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skerry_tests::peers::torrent::Torrent;

use crate::drive::{Load, Sample, fetch_encrypted, fetch_over_utp};
use crate::idle::{self, Idle};
use crate::instruments::process::{capture, check};
use crate::instruments::run::{Arguments, Effort};
use crate::report::{Case, Kind};
use crate::seeds::{self, Content, Seed, Which};

/// Content that the memory tier has room for, and the tier, bytes.
const HOT: u64 = 128 << 20;
const LARGE_TIER: u64 = 512 << 20;

/// Content that it has none for, and the tier.
const COLD: u64 = 1 << 30;
const COLD_QUICK: u64 = 256 << 20;
const SMALL_TIER: u64 = 16 << 20;

/// The longest fetch over uTP: with libtorrent's LEDBAT little comes in a second.
const UTP: Duration = Duration::from_secs(20);
const UTP_QUICK: Duration = Duration::from_secs(8);

/// Everything out of memory: hot rounds, encrypted ones, those over uTP, idle peers.
pub(crate) fn in_memory(
    scratch: &Path,
    arguments: &Arguments,
    effort: &Effort,
    cases: &mut Vec<Case>,
    idle: &mut Vec<Idle>,
) -> Result<()> {
    let content = Content::write(scratch.join("hot"), HOT)?;
    eprintln!("filling the node");
    let (node, torrent) = seeds::node(&content, &scratch.join("node-hot"), LARGE_TIER)?;
    let load = Load::of(&torrent, scratch)?;
    let mut all = [node, seeds::libtorrent(&content, &torrent), seeds::ceiling(&content, &torrent, scratch)?];
    if arguments.wants("hot") {
        let seconds = if effort.quick { 2 } else { 4 };
        for seed in &all {
            load.warm(seed)?;
        }
        let mut case = Case::new(Kind::Hot);
        for round in 0..effort.rounds {
            // Another one goes first in each round, so that nobody always follows the same seed.
            all.rotate_left(1);
            for seed in &all {
                check()?;
                case.add(load.drive(seed, seconds, round)?);
            }
        }
        cases.push(case);
    }
    if arguments.wants("rc4") {
        let mut case = Case::new(Kind::Rc4);
        for round in 0..effort.rounds {
            all.rotate_left(1);
            for seed in all.iter().filter(|seed| seed.which != Which::Ceiling) {
                check()?;
                case.add(fetch_encrypted(seed, &torrent, round)?);
            }
        }
        cases.push(case);
    }
    if arguments.wants("utp") {
        let node = all.iter().find(|seed| seed.which == Which::Node).context("the node is one of them")?;
        load.warm(node)?;
        let other = seeds::libtorrent_over_utp(&content, &torrent);
        cases.push(over_utp([node, &other], &torrent, effort)?);
    }
    if arguments.wants("idle") {
        for mut seed in all {
            match seed.which {
                Which::Node => seed.restart(),
                Which::Libtorrent => seed = seeds::libtorrent(&content, &torrent),
                Which::Ceiling => continue,
            }
            eprintln!("{} peers that want nothing of {}", idle::PEERS, seed.which);
            idle.push(idle::measure(&seed, &load)?);
        }
    }
    Ok(())
}

/// One client after the other, from each of the seeds in turn.
fn over_utp(mut seeds: [&Seed; 2], torrent: &Torrent, effort: &Effort) -> Result<Case> {
    let bound = if effort.quick { UTP_QUICK } else { UTP };
    let mut case = Case::new(Kind::Utp);
    for round in 0..effort.rounds {
        seeds.rotate_left(1);
        for seed in seeds {
            check()?;
            case.add(fetch_over_utp(seed, torrent, bound, round)?);
        }
    }
    Ok(case)
}

/// From disk: each byte once, by a seed that has just started. None, with a word why, where nothing can be
/// made cold.
pub(crate) fn cold(scratch: &Path, effort: &Effort) -> Result<Option<Case>> {
    let system = capture("stat", &["-f", "-c", "%T", &scratch.to_string_lossy()])?;
    if matches!(system.trim(), "tmpfs" | "ramfs") {
        eprintln!("no cold rounds: the scratch folder is in memory; set SKERRY_BENCH_DIR");
        return Ok(None);
    }
    if let Err(error) = forget_pages() {
        eprintln!("no cold rounds: {error:#}");
        return Ok(None);
    }
    eprintln!("writing the cold content, and filling the node");
    let content = Content::write(scratch.join("cold"), if effort.quick { COLD_QUICK } else { COLD })?;
    let (mut node, torrent) = seeds::node(&content, &scratch.join("node-cold"), SMALL_TIER)?;
    let load = Load::of(&torrent, scratch)?;
    // The peers begin in different places: when one gets further than another began, it is asked for twice.
    let bytes = content.length / 10 * 9;
    let mut case = Case::new(Kind::Cold);
    for round in 0..effort.rounds {
        let mut order = [Which::Libtorrent, Which::Node];
        if round % 2 == 1 {
            order.reverse();
        }
        for which in order {
            check()?;
            let sample = if which == Which::Node {
                node.restart();
                forget_pages()?;
                load.take(&node, bytes, round)?
            } else {
                let seed = seeds::libtorrent(&content, &torrent);
                // Not before: it has just read everything.
                forget_pages()?;
                load.take(&seed, bytes, round)?
            };
            warn_of_memory(&sample);
            case.add(sample);
        }
    }
    Ok(Some(case))
}

fn warn_of_memory(sample: &Sample) {
    if sample.disk_per_gigabyte() < 800.0 {
        eprintln!("{} had a part of it in memory", sample.seed);
    }
}

/// Writes back what is dirty and drops the page cache of the whole machine.
fn forget_pages() -> Result<()> {
    let status = Command::new("sync").status().context("cannot run sync")?;
    ensure!(status.success(), "sync ended with {status}");
    std::fs::write("/proc/sys/vm/drop_caches", "3")
        .context("cannot empty the page cache (that takes root, and a writable /proc/sys)")
}
