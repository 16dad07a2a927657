//! The figures against their targets, as a table with its fine print and, by serde, as JSON.

use serde::Serialize;

use crate::churn::{Churn, PACE_MIB_S, Reads};
use crate::crash::Crash;
use crate::fill::{Fill, Round};
use crate::instruments::machine::median;
use crate::instruments::table::{shown, table};
use crate::material::RECORD;
use crate::memory::Memory;
use crate::plan::Plan;

/// Everything measured in one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    quick: bool,
    cores: usize,
    pub(crate) churn: Option<Churn>,
    pub(crate) fill: Option<Fill>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) crash: Option<Crash>,
    /// What could not be measured, and why.
    pub(crate) failures: Vec<String>,
    pub(crate) seconds: f64,
}

/// What a figure must reach.
enum Target {
    AtMost(f64),
    AtLeast(f64),
    /// Shown for comparison.
    None,
}

impl Target {
    fn shown(&self) -> String {
        match self {
            Self::AtMost(most) => format!("<= {most}"),
            Self::AtLeast(least) => format!(">= {least}"),
            Self::None => "-".into(),
        }
    }

    fn reached(&self, figure: f64) -> Option<bool> {
        match self {
            Self::AtMost(most) => Some(figure <= *most),
            Self::AtLeast(least) => Some(figure >= *least),
            Self::None => None,
        }
    }
}

/// One row.
struct Figure {
    name: String,
    value: f64,
    digits: usize,
    target: Target,
}

impl Figure {
    fn new(name: impl Into<String>, value: f64, digits: usize, target: Target) -> Self {
        Self { name: name.into(), value, digits, target }
    }
}

impl Report {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            quick: plan.quick,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            churn: None,
            fill: None,
            memory: Vec::new(),
            crash: None,
            failures: Vec::new(),
            seconds: 0.0,
        }
    }

    pub(crate) fn text(&self) -> String {
        let figures = self.figures();
        let rows = figures.iter().map(|figure| {
            let reached = figure.target.reached(figure.value);
            vec![
                figure.name.clone(),
                shown(Some(figure.value), figure.digits),
                figure.target.shown(),
                reached.map_or("", |reached| if reached { "yes" } else { "NO" }).into(),
            ]
        });
        let mut text = table("figure|measured|target|reached", rows) + "\n";
        let quick = if self.quick { ", quick: too small to quote" } else { "" };
        text += &format!("{} cores, {:.0} s{quick}\n", self.cores, self.seconds);
        self.churn.iter().for_each(|churn| text += &of_churn(churn));
        self.fill.iter().for_each(|fill| text += &of_fill(fill));
        self.memory.iter().for_each(|memory| text += &of_memory(memory));
        self.crash.iter().for_each(|crash| text += &of_crash(crash));
        self.failures.iter().for_each(|failure| text += &format!("FAILED {failure}\n"));
        let verdicts: Vec<bool> =
            figures.iter().filter_map(|figure| figure.target.reached(figure.value)).collect();
        let reached = verdicts.iter().filter(|reached| **reached).count();
        text + &format!("\n{reached} of {} targets reached\n", verdicts.len())
    }

    fn figures(&self) -> Vec<Figure> {
        let mut figures = Vec::new();
        if let Some(churn) = &self.churn {
            let value = churn.write_amplification;
            figures.push(Figure::new("write amplification in churn", value, 3, Target::AtMost(1.2)));
        }
        if let Some(Fill { known_of_dd: Some(known), hashed_of_dd: Some(hashed), .. }) = &self.fill {
            figures.push(Figure::new("fill / dd", *known, 2, Target::AtLeast(0.6)));
            figures.push(Figure::new("fill / dd, hashed as it comes", *hashed, 2, Target::None));
        }
        for memory in &self.memory {
            let tables = memory.table.map_or("large tables".into(), |chunks| format!("{chunks} to a table"));
            let name = format!("memory per chunk, {tables}, bytes");
            figures.push(Figure::new(name, memory.per_chunk, 0, Target::AtMost(100.0)));
        }
        if let Some(crash) = &self.crash {
            let took: Vec<f64> = crash.kills.iter().map(|kill| kill.process_ms).collect();
            let most = took.iter().copied().fold(0.0, f64::max);
            let median = median(&took).unwrap_or(f64::NAN);
            figures.push(Figure::new("kill -9 to first answer, median, ms", median, 0, Target::AtMost(2e3)));
            figures.push(Figure::new("kill -9 to first answer, slowest, ms", most, 0, Target::AtMost(2e3)));
        }
        figures
    }
}

fn of_churn(churn: &Churn) -> String {
    let reads = |name: &str, reads: &Reads| {
        let (p50, p99) = (shown(reads.p50_ms, 3), shown(reads.p99_ms, 3));
        format!("  {} reads from {name}: p50 {p50} ms, p99 {p99} ms\n", reads.count)
    };
    let head = format!(
        "churn: {} MiB of capacity, a memory tier of {}, {} kept hot\n  \
         {:.0} MiB of chunks put at up to {PACE_MIB_S} MiB/s, a record of {RECORD} bytes for each; \
         {:.0} MiB of hot chunks written again\n  \
         {:.0} MiB sent to the disk in all (write_bytes of /proc/self/io); \
         {:.2} of the capacity on disk at the end\n",
        churn.capacity_mib,
        churn.memory_tier_mib,
        churn.hot_mib,
        churn.put_mib,
        churn.rewritten_mib,
        churn.sent_mib,
        churn.disk_of_capacity,
    );
    let lost = format!("  {} reads of evicted chunks, {} of hot ones\n", churn.absent, churn.refetched);
    [head, reads("memory", &churn.memory_reads), reads("disk", &churn.disk_reads), lost].concat()
}

fn of_fill(fill: &Fill) -> String {
    let spread = |values: &[f64]| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        format!("{} MiB/s, the median of {least:.0} to {most:.0}", shown(median(values), 0))
    };
    let rounds = |rounds: &[Round]| {
        let rates: Vec<f64> = rounds.iter().map(|round| round.mib_s).collect();
        let cpu: Vec<f64> = rounds.iter().map(|round| round.cpu_s_gb).collect();
        format!("{}; {} CPU s/GB", spread(&rates), shown(median(&cpu), 2))
    };
    format!(
        "fill: a full cache, {} writer threads, chunks of a MiB, until all is flushed\n  \
         dd oflag=direct bs=1M: {}\n  ids known: {}\n  hashed: {}\n",
        fill.writers,
        spread(&fill.dd_mib_s),
        rounds(&fill.known),
        rounds(&fill.hashed),
    )
}

fn of_memory(memory: &Memory) -> String {
    let [few, many] = &memory.points;
    format!(
        "memory: growth from {} to {} chunks, each with a record, of anonymous memory\n  \
         less block caches and memtables, which have fixed bounds; with them {:.0} bytes a chunk; \
         RocksDB's table readers {:.0}\n",
        few.chunks, many.chunks, memory.with_caches_per_chunk, memory.table_readers_per_chunk,
    )
}

fn of_crash(crash: &Crash) -> String {
    let mut text = "kill -9: from the start of a process to an object's record and its chunk\n".to_owned();
    for kill in &crash.kills {
        let cache = if kill.cold { "page cache emptied" } else { "page cache NOT emptied" };
        let answer = &kill.answer;
        text += &format!(
            "  {:.0} ms, of it open {:.0}, open to answer {:.0}; about {} chunks, {} records; {cache}; \
             {} objects asked for\n",
            kill.process_ms, answer.open_ms, answer.answer_ms, answer.chunks, answer.objects, answer.tried,
        );
    }
    text
}
