//! What came out: medians and ratios against the targets, as tables and as JSON.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use crate::drive::Sample;
use crate::idle::Idle;
use crate::instruments::machine::Machine;
use crate::instruments::report::{Figure, Target, figures, median, number, table, write};
use crate::seeds::Which;

const SEEDS: [Which; 3] = [Which::Node, Which::Libtorrent, Which::Ceiling];

/// What the node must save of libtorrent's processor time: it may use a quarter.
const OF_LIBTORRENT: f64 = 4.0;

/// The most that an idle peer may take, in units of 10^3 bytes.
const IDLE_KILOBYTES: f64 = 40.0;

/// The kinds of drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Out of memory.
    Hot,
    /// From disk.
    Cold,
    /// Out of memory, everything encrypted.
    Rc4,
    /// Out of memory, over uTP.
    Utp,
}

impl Kind {
    fn title(self) -> &'static str {
        match self {
            Self::Hot => "Hot in memory",
            Self::Cold => "Cold, from disk",
            Self::Rc4 => "Encrypted (RC4), hot in memory, fetched by libtorrent",
            Self::Utp => "Over uTP, hot in memory, fetched by libtorrent",
        }
    }

    /// The most processor time that the node may use for 10^9 bytes, seconds.
    fn target(self) -> Option<f64> {
        match self {
            Self::Hot => Some(0.5),
            Self::Cold => Some(1.5),
            Self::Rc4 | Self::Utp => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Hot => "hot",
            Self::Cold => "cold",
            Self::Rc4 => "RC4",
            Self::Utp => "uTP",
        })
    }
}

/// All rounds of one kind.
#[derive(Serialize)]
pub(crate) struct Case {
    kind: Kind,
    samples: Vec<Sample>,
}

impl Case {
    /// A case without rounds yet.
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, samples: Vec::new() }
    }

    /// One more sample, told on the way.
    pub(crate) fn add(&mut self, sample: Sample) {
        eprintln!(
            "{}, round {}: {:10} {:7.0} MB/s, {:.3} s of CPU for a GB",
            self.kind,
            sample.round + 1,
            sample.seed,
            sample.megabytes_per_second(),
            sample.cpu_per_gigabyte()
        );
        self.samples.push(sample);
    }

    fn values(&self, seed: Which, value: fn(&Sample) -> f64) -> impl Iterator<Item = f64> {
        self.samples.iter().filter(move |sample| sample.seed == seed).map(value)
    }

    fn cpu(&self, seed: Which) -> Option<f64> {
        median(self.values(seed, Sample::cpu_per_gigabyte))
    }

    fn row(&self, seed: Which) -> Option<Vec<String>> {
        let cpu = || self.values(seed, Sample::cpu_per_gigabyte);
        Some(vec![
            seed.to_string(),
            number(median(self.values(seed, Sample::megabytes_per_second))?),
            number(self.cpu(seed)?),
            number(cpu().fold(f64::INFINITY, f64::min)),
            number(cpu().fold(0.0, f64::max)),
            number(median(self.values(seed, Sample::disk_per_gigabyte))?),
        ])
    }

    fn judge(&self, into: &mut Vec<Figure>) {
        let Some(node) = self.cpu(Which::Node) else { return };
        let name = format!("CPU of the node for a GB, {}", self.kind);
        into.push(match self.kind.target() {
            Some(most) => Figure::to_be(Target::Most(most), name, node, "s"),
            None => Figure::plain(name, node, "s"),
        });
        for other in [Which::Libtorrent, Which::Ceiling] {
            let Some(cpu) = self.cpu(other) else { continue };
            let name = format!("CPU of {other} / CPU of the node, {}", self.kind);
            into.push(match (self.kind, other) {
                (Kind::Hot, Which::Libtorrent) => {
                    Figure::to_be(Target::Least(OF_LIBTORRENT), name, cpu / node, "")
                }
                _ => Figure::plain(name, cpu / node, ""),
            });
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    machine: &'a Machine,
    figures: Vec<Figure>,
    cases: &'a [Case],
    idle: &'a [Idle],
}

/// Prints the tables, and writes everything, every round included. Returns where that is.
pub(crate) fn publish(
    machine: &Machine,
    cases: &[Case],
    idle: &[Idle],
    json: Option<&Path>,
) -> Result<PathBuf> {
    println!("{}", machine.heading());
    let mut judged = Vec::new();
    for case in cases {
        println!("\n{}: medians", case.kind.title());
        let rows = SEEDS.iter().filter_map(|seed| case.row(*seed));
        print!("{}", table(&["seed", "MB/s", "CPU s/GB", "lowest", "highest", "MB of disk/GB"], rows));
        case.judge(&mut judged);
    }
    for one in idle {
        let name = format!("memory of an idle peer, {}", one.seed);
        let kilobytes = one.kilobytes_per_peer();
        judged.push(match one.seed {
            Which::Node => Figure::to_be(Target::Most(IDLE_KILOBYTES), name, kilobytes, "kB"),
            _ => Figure::plain(name, kilobytes, "kB"),
        });
    }
    println!("{}", figures(&judged));
    write("peers", json, &Written { machine, figures: judged, cases, idle })
}
