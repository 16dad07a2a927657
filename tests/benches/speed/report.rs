//! What came out: medians, ratios against the targets, as tables and as JSON.
//!
//! Ratios are of medians, and always so that more is better for the node: its requests per second
//! over the other's, and the other's CPU time per request over its own.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::load::{Paced, Sample};
use crate::scratch::name_size;
use crate::servers::{Tools, Which};

/// What the node must reach of the ceiling: to stay within 10 % of it.
const OF_CEILING: f64 = 0.9;

/// The kinds of drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Hot in memory, without TLS.
    Clear,
    /// Hot in memory, by TLS 1.3.
    Tls,
    /// Each file once, from disk, without TLS.
    Cold,
}

impl Kind {
    /// The kind by the name that `--only` takes.
    pub(crate) fn named(name: &str) -> Option<Kind> {
        match name {
            "clear" => Some(Kind::Clear),
            "tls" => Some(Kind::Tls),
            "cold" => Some(Kind::Cold),
            _ => None,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Kind::Clear => "Clear, hot in memory",
            Kind::Tls => "TLS 1.3, hot in memory",
            Kind::Cold => "Cold, from disk, each file once",
        }
    }

    /// What node / nginx must reach for files of `size` bytes.
    fn target(self, size: u64) -> f64 {
        match self {
            Kind::Clear if size <= 1024 => 1.4,
            Kind::Clear | Kind::Tls => 1.2,
            Kind::Cold => 1.0,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Clear => "clear",
            Kind::Tls => "tls",
            Kind::Cold => "cold",
        })
    }
}

/// All rounds of one kind and one size.
pub(crate) struct Case {
    pub(crate) kind: Kind,
    /// Bytes of the file.
    pub(crate) size: u64,
    pub(crate) samples: Vec<Sample>,
    pub(crate) paced: Vec<Paced>,
}

impl Case {
    /// A case without rounds yet.
    pub(crate) fn new(kind: Kind, size: u64) -> Case {
        Case { kind, size, samples: Vec::new(), paced: Vec::new() }
    }

    fn medians(&self, server: Which) -> Option<Medians> {
        let of = |value: fn(&Sample) -> f64| {
            let mut values: Vec<f64> =
                self.samples.iter().filter(|sample| sample.server == server).map(value).collect();
            values.sort_unstable_by(f64::total_cmp);
            values
        };
        let rates = of(Sample::per_second);
        Some(Medians {
            server,
            slowest: *rates.first()?,
            fastest: *rates.last()?,
            per_second: median(rates)?,
            megabytes_per_second: median(of(Sample::megabytes_per_second))?,
            cpu_us_per_request: median(of(Sample::cpu_per_request))?,
            cpu_seconds_per_gigabyte: median(of(Sample::cpu_per_gigabyte))?,
        })
    }

    fn half_load(&self, server: Which) -> Option<HalfLoad> {
        let of = |value: fn(&Paced) -> f64| {
            median(self.paced.iter().filter(|paced| paced.server == server).map(value))
        };
        Some(HalfLoad {
            server,
            rate: of(|paced| paced.rate)?,
            achieved: of(|paced| paced.achieved)?,
            p50_us: of(|paced| paced.p50_us)?,
            p99_us: of(|paced| paced.p99_us)?,
            cpu_us_per_request: of(|paced| paced.cpu_seconds * 1e6 / paced.requests as f64)?,
        })
    }

    fn verdict(&self) -> Option<Verdict> {
        let nginx = self.medians(Which::Nginx)?;
        let node = self.medians(Which::Node)?;
        let ceiling = self.medians(Which::Ceiling);
        let target = self.kind.target(self.size);
        let misses: u64 =
            self.samples.iter().filter_map(|sample| sample.hits.map(|hits| sample.requests - hits)).sum();
        let against_nginx = Ratio::new(&node, &nginx);
        let against_ceiling = ceiling.map(|ceiling| Ratio::new(&node, &ceiling));
        Some(Verdict {
            target,
            misses,
            reached: against_nginx.reaches(target) && misses == 0,
            ceiling_target: OF_CEILING,
            ceiling_reached: against_ceiling.as_ref().map(|ratio| ratio.reaches(OF_CEILING)),
            against_nginx,
            against_ceiling,
        })
    }
}

/// One server's rounds in one line.
#[derive(Serialize)]
struct Medians {
    server: Which,
    per_second: f64,
    megabytes_per_second: f64,
    cpu_us_per_request: f64,
    cpu_seconds_per_gigabyte: f64,
    /// Requests per second of the slowest round, and of the fastest.
    slowest: f64,
    fastest: f64,
}

/// One server's latencies at half of nginx's full rate.
#[derive(Serialize)]
struct HalfLoad {
    server: Which,
    rate: f64,
    achieved: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us_per_request: f64,
}

/// The node over another server.
#[derive(Serialize)]
struct Ratio {
    per_second: f64,
    /// Of requests per second of server CPU.
    per_cpu: f64,
}

impl Ratio {
    fn new(node: &Medians, other: &Medians) -> Ratio {
        Ratio {
            per_second: node.per_second / other.per_second,
            per_cpu: other.cpu_us_per_request / node.cpu_us_per_request,
        }
    }

    fn reaches(&self, target: f64) -> bool {
        self.per_second >= target && self.per_cpu >= target
    }
}

#[derive(Serialize)]
struct Verdict {
    against_nginx: Ratio,
    target: f64,
    /// Both ratios are at the target or above, and every cold answer was a hit.
    reached: bool,
    /// Answers of the node in cold rounds that did not come from its cache.
    misses: u64,
    against_ceiling: Option<Ratio>,
    ceiling_target: f64,
    ceiling_reached: Option<bool>,
}

/// The middle value, or the mean of the two in the middle; none of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    Some((values[values.len() / 2 - 1] + upper) / 2.0)
}

/// What was measured on, and with what.
#[derive(Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    nginx: String,
    wrk: String,
    skerry: String,
    quick: bool,
    rounds: usize,
}

impl Machine {
    /// Asks `/proc` and the programs.
    pub(crate) fn describe(tools: &Tools, quick: bool, rounds: usize) -> Machine {
        let facts = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = facts
            .lines()
            .find(|line| line.starts_with("model name"))
            .and_then(|line| line.split_once(':'))
            .map_or("unknown", |(_, name)| name.trim());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let [nginx, wrk, skerry] = tools.versions();
        Machine {
            cpu: cpu.to_string(),
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            kernel: kernel.trim().to_string(),
            nginx,
            wrk,
            skerry,
            quick,
            rounds,
        }
    }
}

/// Prints the tables of every kind that was driven.
pub(crate) fn print(machine: &Machine, cases: &[Case]) {
    println!("{}, {} cores, Linux {}", machine.cpu, machine.cores, machine.kernel);
    println!("{}; {}; {}", machine.nginx, machine.wrk, machine.skerry);
    for kind in [Kind::Clear, Kind::Tls, Kind::Cold] {
        let cases: Vec<&Case> = cases.iter().filter(|case| case.kind == kind).collect();
        if cases.is_empty() {
            continue;
        }
        println!("\n{}: medians of {} rounds\n", kind.title(), machine.rounds);
        print_medians(&cases);
        println!("\nnode / nginx, and node / ceiling\n");
        print_verdicts(&cases);
        if cases.iter().any(|case| !case.paced.is_empty()) {
            println!("\nLatency at half of nginx's rate, from the time each request was due\n");
            print_half_loads(&cases);
        }
    }
    let verdicts: Vec<Verdict> = cases.iter().filter_map(Case::verdict).collect();
    let reached = verdicts.iter().filter(|verdict| verdict.reached).count();
    println!("\n{reached} of {} targets against nginx reached", verdicts.len());
}

const SERVERS: [Which; 3] = [Which::Nginx, Which::Node, Which::Ceiling];

fn print_medians(cases: &[&Case]) {
    let mut table =
        Table::new(&["size", "server", "req/s", "MB/s", "CPU us/req", "CPU s/GB", "slowest", "fastest"]);
    for case in cases {
        for medians in SERVERS.iter().filter_map(|server| case.medians(*server)) {
            table.row(vec![
                name_size(case.size),
                medians.server.to_string(),
                number(medians.per_second),
                number(medians.megabytes_per_second),
                number(medians.cpu_us_per_request),
                format!("{:.3}", medians.cpu_seconds_per_gigabyte),
                number(medians.slowest),
                number(medians.fastest),
            ]);
        }
    }
    table.print();
}

fn print_verdicts(cases: &[&Case]) {
    let mut table = Table::new(&[
        "size",
        "",
        "req/s",
        "per CPU",
        "target",
        "reached",
        "ceiling req/s",
        "per CPU",
        "target",
        "reached",
    ]);
    for case in cases {
        let Some(verdict) = case.verdict() else {
            continue;
        };
        let note = match verdict.misses {
            0 => String::new(),
            misses => format!("({misses} misses)"),
        };
        let mut row = vec![
            name_size(case.size),
            note,
            format!("{:.2}", verdict.against_nginx.per_second),
            format!("{:.2}", verdict.against_nginx.per_cpu),
            format!("{:.2}", verdict.target),
            yes(verdict.reached),
        ];
        if let Some(ratio) = &verdict.against_ceiling {
            row.extend([
                format!("{:.2}", ratio.per_second),
                format!("{:.2}", ratio.per_cpu),
                format!("{:.2}", verdict.ceiling_target),
                yes(verdict.ceiling_reached == Some(true)),
            ]);
        }
        table.row(row);
    }
    table.print();
}

fn print_half_loads(cases: &[&Case]) {
    let mut table = Table::new(&["size", "server", "due/s", "done/s", "p50 us", "p99 us", "CPU us/req"]);
    for case in cases {
        for half in SERVERS.iter().filter_map(|server| case.half_load(*server)) {
            table.row(vec![
                name_size(case.size),
                half.server.to_string(),
                number(half.rate),
                number(half.achieved),
                number(half.p50_us),
                number(half.p99_us),
                number(half.cpu_us_per_request),
            ]);
        }
    }
    table.print();
}

/// Three digits or more: none after the point where there are enough before it.
fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

fn yes(reached: bool) -> String {
    String::from(if reached { "yes" } else { "NO" })
}

/// Text in columns: the first two flush left, numbers flush right. Short rows end early.
struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(header: &[&str]) -> Table {
        Table { rows: vec![header.iter().map(|cell| (*cell).to_string()).collect()] }
    }

    fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default()
            })
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                if column < 2 {
                    line.push_str(&format!("{cell:<width$}  "));
                } else {
                    line.push_str(&format!("{cell:>width$}  "));
                }
            }
            println!("{}", line.trim_end());
        }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    machine: &'a Machine,
    cases: Vec<WrittenCase<'a>>,
}

#[derive(Serialize)]
struct WrittenCase<'a> {
    kind: Kind,
    size: u64,
    medians: Vec<Medians>,
    half_load: Vec<HalfLoad>,
    verdict: Option<Verdict>,
    samples: &'a [Sample],
    paced: &'a [Paced],
}

/// Writes everything, every round included, as JSON to `path`.
pub(crate) fn write(path: &Path, machine: &Machine, cases: &[Case]) -> Result<()> {
    let written = Written {
        machine,
        cases: cases
            .iter()
            .map(|case| WrittenCase {
                kind: case.kind,
                size: case.size,
                medians: SERVERS.iter().filter_map(|server| case.medians(*server)).collect(),
                half_load: SERVERS.iter().filter_map(|server| case.half_load(*server)).collect(),
                verdict: case.verdict(),
                samples: &case.samples,
                paced: &case.paced,
            })
            .collect(),
    };
    let text = serde_json::to_string_pretty(&written)?;
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
