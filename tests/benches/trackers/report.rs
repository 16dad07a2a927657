//! What came out: medians and ratios against the targets, as a table and as JSON.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use skerry_tests::process::binary;

use crate::contenders::{Tools, Which};
use crate::hostile::{Hostile, PACKETS};
use crate::instruments::machine::{Machine, package, version};
use crate::instruments::report::{Figure, Target, figures, median, number, table, write};
use crate::instruments::run::Effort;
use crate::load::Sample;

const TRACKERS: [Which; 5] = [Which::Aquatic, Which::Opentracker, Which::Node, Which::Verdict, Which::Policy];

/// What the node must reach of aquatic_udp without a policy.
const OF_AQUATIC: f64 = 0.8;

/// Announces for a second of processor time, with the policy.
const WITH_POLICY: f64 = 50_000.0;

/// The most that a peer may take, bytes.
const PEER: f64 = 100.0;

/// What peers took of a node's memory.
#[derive(Serialize)]
pub(crate) struct Memory {
    /// Bytes.
    pub(crate) grown: u64,
    pub(crate) peers: u64,
}

/// Everything that was measured.
#[derive(Default, Serialize)]
pub(crate) struct Report {
    samples: Vec<Sample>,
    pub(crate) memory: Option<Memory>,
    /// Of the announces with the policy, those that it decided, percent.
    pub(crate) share_of_policy: Option<f64>,
    pub(crate) hostile: Option<Hostile>,
}

#[derive(Serialize)]
struct Written<'a> {
    machine: Machine,
    figures: Vec<Figure>,
    #[serde(flatten)]
    report: &'a Report,
}

impl Report {
    /// One more sample, told on the way.
    pub(crate) fn add(&mut self, sample: Sample) {
        eprintln!(
            "round {}: {:23} {:8.0} announces/s, {:8.0} for a second of CPU",
            sample.round + 1,
            sample.tracker,
            sample.per_second,
            sample.per_cpu_second()
        );
        self.samples.push(sample);
    }

    /// Prints the tables, and writes everything, every round included. Returns where that is.
    pub(crate) fn publish(&self, tools: &Tools, effort: &Effort, json: Option<&Path>) -> Result<PathBuf> {
        let aquatic = format!("aquatic_udp {}", version(&tools.aquatic));
        let machine = Machine::describe(effort, vec![version(&binary()), aquatic, package("opentracker")]);
        println!("{}", machine.heading());
        if !self.samples.is_empty() {
            println!("\nAnnounces over UDP, one core: medians of {} rounds", effort.rounds);
            let heads = ["tracker", "per second", "per CPU second", "lowest", "highest", "core %", "peers"];
            print!("{}", table(&heads, TRACKERS.iter().filter_map(|tracker| self.row(*tracker))));
        }
        let judged = self.judge();
        println!("{}", figures(&judged));
        write("trackers", json, &Written { machine, figures: judged, report: self })
    }

    fn median(&self, tracker: Which, value: fn(&Sample) -> f64) -> Option<f64> {
        median(self.values(tracker, value))
    }

    fn values(&self, tracker: Which, value: fn(&Sample) -> f64) -> impl Iterator<Item = f64> {
        self.samples.iter().filter(move |sample| sample.tracker == tracker).map(value)
    }

    fn row(&self, tracker: Which) -> Option<Vec<String>> {
        let per_cpu = || self.values(tracker, Sample::per_cpu_second);
        Some(vec![
            tracker.to_string(),
            number(self.median(tracker, |sample| sample.per_second)?),
            number(self.median(tracker, Sample::per_cpu_second)?),
            number(per_cpu().fold(f64::INFINITY, f64::min)),
            number(per_cpu().fold(0.0, f64::max)),
            number(self.median(tracker, Sample::used)?),
            number(self.median(tracker, |sample| sample.peers)?),
        ])
    }

    /// How one tracker does against another: announces per second, and for a second of processor time.
    fn ratios(&self, one: Which, other: Which) -> Option<[f64; 2]> {
        let per_second =
            |tracker| self.median(tracker, |sample| sample.per_second).filter(|value| *value > 0.0);
        let per_cpu = |tracker| self.median(tracker, Sample::per_cpu_second).filter(|value| *value > 0.0);
        Some([per_second(one)? / per_second(other)?, per_cpu(one)? / per_cpu(other)?])
    }

    fn judge(&self) -> Vec<Figure> {
        let mut judged = Vec::new();
        for node in [Which::Node, Which::Verdict] {
            for other in [Which::Aquatic, Which::Opentracker] {
                let Some([per_second, per_cpu]) = self.ratios(node, other) else { continue };
                for (what, value) in [("per second", per_second), ("per CPU second", per_cpu)] {
                    let name = format!("{node} / {other}, {what}");
                    judged.push(match other {
                        Which::Aquatic => Figure::to_be(Target::Least(OF_AQUATIC), name, value, ""),
                        _ => Figure::plain(name, value, ""),
                    });
                }
            }
        }
        if let Some(value) = self.median(Which::Policy, Sample::per_cpu_second) {
            let name = "announces per CPU second, policy";
            judged.push(Figure::to_be(Target::Least(WITH_POLICY), name, value, ""));
        }
        if let Some(share) = self.share_of_policy {
            judged.push(Figure::plain("announces that the policy decided", share, "%"));
        }
        if let Some(Memory { grown, peers }) = self.memory {
            let each = grown as f64 / peers.max(1) as f64;
            judged.push(Figure::plain("peers remembered", peers as f64, ""));
            judged.push(Figure::to_be(Target::Most(PEER), "memory of a peer", each, "bytes"));
        }
        if let Some(Hostile { taken, refused }) = self.hostile {
            let least = Target::Least(PACKETS as f64);
            judged.push(Figure::to_be(least, "hostile packets survived", taken as f64, ""));
            judged.push(Figure::plain("of those, refused or not answered", refused, ""));
        }
        judged
    }
}
