//! `skerry policy simulate`: a day of a fleet and its clients, decided by policies of one's choice.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::builder::RangedI64ValueParser;
use clap::{Args, value_parser};

use super::load::package;
use crate::cli::print;
use crate::cli::units::{bytes, seconds};
use crate::simulation::{
    self, CrowdReport, Given, MOST_HOURS, MOST_NODES, MOST_PEERS, MOST_REGIONS, MOST_RESOURCES, RegionReport,
    Report, Settings, Spread,
};

/// Least time between two states of the progress line.
const PERIOD: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(in crate::cli) struct Simulate {
    /// A packaged policy, or the folder of one, which is built first: it decides in place of the built-in
    /// verdict of its worlds. May be given for each world
    #[arg(long = "policy", value_name = "FILE|DIR")]
    policies: Vec<PathBuf>,
    /// A small fleet, which takes seconds instead of minutes
    #[arg(long)]
    quick: bool,
    /// Peers that come, each for one resource; 1000000 unless said, and 20000 with --quick
    #[arg(long, value_name = "NUMBER", value_parser = up_to(MOST_PEERS))]
    peers: Option<u32>,
    /// Nodes; 500, and 50 with --quick
    #[arg(long, value_name = "NUMBER", value_parser = up_to(MOST_NODES))]
    nodes: Option<u32>,
    /// Regions, around the earth; 10, and 5 with --quick
    #[arg(long, value_name = "NUMBER", value_parser = up_to(MOST_REGIONS))]
    regions: Option<u32>,
    /// Resources; 5000, and 500 with --quick
    #[arg(long, value_name = "NUMBER", value_parser = up_to(MOST_RESOURCES))]
    resources: Option<u32>,
    /// Exponent of Zipf's law, by which resources are asked for, from 0 to 4; 0.9 unless said
    #[arg(long, value_name = "EXPONENT", value_parser = exponent)]
    zipf: Option<f64>,
    /// Hours, from midnight UTC on; 24 unless said
    #[arg(long, value_name = "NUMBER", value_parser = up_to(MOST_HOURS))]
    hours: Option<u32>,
    /// Another seed gives another day of the same kind; 1 unless said
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn up_to(most: u32) -> RangedI64ValueParser<u32> {
    value_parser!(u32).range(1..=i64::from(most))
}

fn exponent(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.0..=4.0).contains(number));
    number.ok_or_else(|| "it must be a number from 0 to 4".into())
}

impl Simulate {
    pub(super) fn execute(&self) -> anyhow::Result<ExitCode> {
        let given = self.policies.iter().map(|path| -> anyhow::Result<Given> {
            let (file, package) = package(path)?;
            Ok(Given { file, package })
        });
        let given = given.collect::<anyhow::Result<Vec<Given>>>()?;
        let worker = std::env::current_exe().context("cannot find this program, which compiles")?;
        let mut line = Line::new();
        let report =
            simulation::run(&self.settings(), &given, Some(worker), &mut |done, all| line.show(done, all))?;
        drop(line);
        if self.json {
            print(&format!("{:#}\n", serde_json::to_value(&report)?))?;
        } else {
            print(&told(&report))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn settings(&self) -> Settings {
        let usual = if self.quick { Settings::quick() } else { Settings::default() };
        Settings {
            peers: self.peers.unwrap_or(usual.peers),
            nodes: self.nodes.unwrap_or(usual.nodes),
            regions: self.regions.unwrap_or(usual.regions),
            resources: self.resources.unwrap_or(usual.resources),
            zipf: self.zipf.unwrap_or(usual.zipf),
            hours: self.hours.unwrap_or(usual.hours),
            seed: self.seed.unwrap_or(usual.seed),
            ..usual
        }
    }
}

fn told(report: &Report) -> String {
    let Report { settings, peers, bytes: all, calls, wall, .. } = report;
    let mut text = format!(
        "{} peers, {} nodes in {} regions, {} resources of {} by Zipf's law with {}, {} h, seed {}\n",
        settings.peers,
        settings.nodes,
        settings.regions,
        settings.resources,
        bytes(report.catalogue_bytes),
        settings.zipf,
        settings.hours,
        settings.seed
    );
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<12} {value}\n"));
    let policies = if report.policies.is_empty() {
        "the built-in verdicts".to_owned()
    } else {
        format!("{}, and the built-in verdicts of other worlds", report.policies.join(", "))
    };
    line("decided by", policies);
    line(
        "done",
        format!(
            "{} of {}; a download takes {:.2} times what its line allows at the median, {:.2} at p99",
            peers.done, peers.came, peers.slowdown_p50, peers.slowdown_p99
        ),
    );
    line(
        "offload",
        format!(
            "{:.4}: {} from the origin ({} pulled for clients, {} preloaded) for {}",
            report.offload,
            bytes(all.origin),
            bytes(all.origin_pulled),
            bytes(all.origin_preloaded),
            bytes(all.delivered)
        ),
    );
    for (name, part) in [("near nodes", all.near_nodes), ("far nodes", all.far_nodes), ("peers", all.peers)] {
        let percent = part as f64 * 100.0 / all.delivered.max(1) as f64;
        line(name, format!("{} ({percent:.1} %)", bytes(part)));
    }
    if let Some(last) = &report.last_peer {
        let (mean, worst) = (last.mean, last.worst);
        line("last peer", format!("{mean:.2} times the fluid bound, {worst:.2} in the worst crowd"));
    }
    let imbalance = &report.imbalance;
    line("imbalance", imbalanced(&imbalance.bytes, &imbalance.bytes_worst, "bytes sent"));
    line("", imbalanced(&imbalance.busiest_hour, &imbalance.busiest_hour_worst, "the busiest hour"));
    for (world, by) in &report.decisions {
        let by: Vec<String> = by.iter().map(|(by, count)| format!("{count} by {by}")).collect();
        line("decisions", format!("{world}: {}", by.join(", ")));
    }
    line(
        "calls",
        format!(
            "{} routes in {:.1} s, {} announces in {:.1} s, {} plans in {:.1} s",
            calls.routes,
            wall.routes_seconds,
            calls.announces,
            wall.announces_seconds,
            calls.plans,
            wall.lists_seconds
        ),
    );
    line("took", seconds(wall.seconds.round() as u64));
    if !report.crowds.is_empty() {
        text.push_str(&format!(
            "\n{:<12}{:>8}{:>12}{:>12}{:>10}{:>8}\n",
            "crowd", "peers", "length", "last, s", "bound, s", "ratio"
        ));
        report.crowds.iter().for_each(|crowd| text.push_str(&crowd_told(crowd)));
    }
    text.push_str(&format!(
        "\n{:<12}{:>8}{:>12}{:>10}{:>8}{:>10}{:>10}{:>10}\n",
        "region", "nodes", "sent", "max/mean", "p99", "busy hour", "used", "most used"
    ));
    report.regions.iter().for_each(|region| text.push_str(&region_told(region)));
    text
}

fn imbalanced(mean: &Spread, worst: &Spread, what: &str) -> String {
    format!(
        "max/mean {:.2}, p99/mean {:.2} of {what}; in the worst region {:.2} and {:.2}",
        mean.max_over_mean, mean.p99_over_mean, worst.max_over_mean, worst.p99_over_mean
    )
}

fn crowd_told(crowd: &CrowdReport) -> String {
    let or_dash = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
    };
    format!(
        "{:<12}{:>8}{:>12}{:>12}{:>10.0}{:>8}\n",
        crowd.region.as_deref().unwrap_or("everywhere"),
        crowd.peers,
        bytes(crowd.length),
        or_dash(crowd.seconds, 0),
        crowd.bound_seconds,
        or_dash(crowd.over_bound, 2)
    )
}

fn region_told(region: &RegionReport) -> String {
    format!(
        "{:<12}{:>8}{:>12}{:>10.2}{:>8.2}{:>10}{:>9.1}%{:>9.1}%\n",
        region.region,
        region.nodes,
        bytes(region.bytes),
        region.spread.max_over_mean,
        region.spread.p99_over_mean,
        region.busiest_hour,
        region.utilisation * 100.0,
        region.utilisation_max * 100.0
    )
}

/// One line of progress on a terminal; nothing in a pipe. It is gone when this is dropped.
struct Line {
    terminal: bool,
    started: Instant,
    shown: Option<Instant>,
}

impl Line {
    fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), started: Instant::now(), shown: None }
    }

    fn show(&mut self, done_ms: u64, all_ms: u64) {
        if self.terminal && self.shown.is_none_or(|shown| shown.elapsed() >= PERIOD) {
            self.shown = Some(Instant::now());
            self.write(&progress(done_ms, all_ms, self.started.elapsed()));
        }
    }

    /// Replaces the line; a terminal that went away is no reason to stop.
    fn write(&self, text: &str) {
        let _ = write!(std::io::stderr().lock(), "\r\x1b[K{text}");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.shown.is_some() {
            self.write("");
        }
    }
}

fn progress(done_ms: u64, all_ms: u64, elapsed: Duration) -> String {
    let (hours, minutes) = (done_ms / 3_600_000, done_ms / 60_000 % 60);
    let left = elapsed.as_secs_f64() * all_ms.saturating_sub(done_ms) as f64 / done_ms.max(1) as f64;
    format!("{hours:02}:{minutes:02} of {} h, {} left", all_ms / 3_600_000, seconds(left as u64))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        simulate: Simulate,
    }

    fn settings(words: &str) -> Settings {
        let words = ["simulate"].into_iter().chain(words.split_whitespace());
        Words::try_parse_from(words).unwrap().simulate.settings()
    }

    #[test]
    fn what_is_said_is_simulated_and_all_else_is_as_usual() {
        assert_eq!(settings(""), Settings::default());
        assert_eq!(settings("--quick"), Settings::quick());
        let own =
            settings("--quick --peers 7 --nodes 2 --regions 1 --resources 9 --zipf 1.5 --hours 3 --seed 5");
        let quick = Settings::quick();
        let expected =
            Settings { peers: 7, nodes: 2, regions: 1, resources: 9, zipf: 1.5, hours: 3, seed: 5, ..quick };
        assert_eq!(own, expected);
        assert_eq!(own.check(), Ok(()));
        for odd in ["--peers 0", "--nodes 10001", "--zipf -1", "--zipf nan", "--hours 169", "--peers x"] {
            let words = ["simulate"].into_iter().chain(odd.split(' '));
            assert!(Words::try_parse_from(words).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_report_is_told_in_words() {
        let settings = Settings { peers: 200, nodes: 4, regions: 2, resources: 20, ..Settings::quick() };
        let report = simulation::run(&settings, &[], None, &mut |_, _| {}).unwrap();
        let text = told(&report);
        for part in [
            "200 peers, 4 nodes in 2 regions, 20 resources of ",
            "\ndecided by   the built-in verdicts\n",
            "\noffload      ",
            "\nnear nodes   ",
            "\nlast peer    ",
            "\nimbalance    max/mean ",
            "\ncalls        ",
            "\ncrowd          peers      length     last, s  bound, s   ratio\n",
            "\neverywhere        50     1.9 GiB",
            "\nregion-01          2 ",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn progress_is_told_in_simulated_time() {
        let text = progress(5_430_000, 86_400_000, Duration::from_secs(10));
        assert_eq!(text, "01:30 of 24 h, 2 min 29 s left");
        assert!(progress(0, 3_600_000, Duration::ZERO).starts_with("00:00 of 1 h"));
    }
}
