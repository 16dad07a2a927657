//! The figures as tables, as rankings and, by serde, as JSON.

use serde::Serialize;

use crate::instruments::machine::median;
use crate::instruments::table::{shown, table};
use crate::plan::Plan;

/// Everything measured in one run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    capacity_mib: u64,
    direct_writes: bool,
    checksums: bool,
    /// What `dd oflag=direct bs=1M` reached before each layout.
    pub(crate) dd_mib_s: Vec<f64>,
    pub(crate) rows: Vec<Row>,
    /// Not measured because the time was up.
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) seconds: f64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Skipped {
    pub(crate) layout: &'static str,
    pub(crate) value_kib: usize,
}

/// One layout with one value size.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Row {
    layout: &'static str,
    value_kib: usize,
    /// Bytes sent to the disk per byte put, at a full cache, flushes and compactions included.
    pub(crate) write_amplification: f64,
    /// At a full cache, nobody reading, until all of it is on the disk.
    pub(crate) fill_mib_s: f64,
    /// For how long a change of generations holds up the writer, the median; rings only.
    pub(crate) turn_ms: Option<f64>,
    /// Bytes on disk per byte of chunks held, at the end.
    pub(crate) space_amplification: f64,
    /// Most bytes on disk at any time, as a share of the capacity.
    pub(crate) peak_of_capacity: f64,
    /// Bytes of chunks held at the end, as a share of the capacity.
    pub(crate) live_at_end: f64,
    /// The least of that at any look.
    pub(crate) live_least: f64,
    pub(crate) crash: Crash,
    pub(crate) reads: Vec<Reads>,
    pub(crate) notes: Vec<String>,
}

/// Reads of whole chunks, through the page cache or past it.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Reads {
    pub(crate) direct: bool,
    pub(crate) churn_p50_ms: Option<f64>,
    pub(crate) churn_p99_ms: Option<f64>,
    pub(crate) churn_reads: u64,
    /// Chunks that were put less than a capacity ago and were gone.
    pub(crate) churn_misses: u64,
    /// Processor seconds per GB (1e9 bytes) from an empty page cache, in random order.
    pub(crate) cold_cpu_s_gb: Option<f64>,
    pub(crate) cold_mib_s: Option<f64>,
    /// The same right after; past the page cache that is another read of the disk.
    pub(crate) warm_cpu_s_gb: Option<f64>,
    pub(crate) warm_mib_s: Option<f64>,
}

/// After SIGKILL at full speed.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Crash {
    /// Whether the page cache was emptied first.
    pub(crate) cold: bool,
    pub(crate) open_ms: f64,
    /// From the beginning of the opening.
    pub(crate) first_read_ms: f64,
    /// Put but not there any more.
    pub(crate) lost_mib: u64,
    /// Refused by RocksDB's checksums.
    pub(crate) damaged_chunks: u64,
    /// Other bytes than were put; any is a defect.
    pub(crate) wrong_chunks: u64,
}

impl Row {
    pub(crate) fn new(layout: &'static str, value_kib: usize) -> Self {
        Self { layout, value_kib, ..Self::default() }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.layout, self.value_kib)
    }

    fn name_of(&self, reads: &Reads) -> String {
        format!("{}{}", self.name(), if reads.direct { "/direct" } else { "" })
    }
}

impl Report {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            capacity_mib: plan.capacity >> 20,
            direct_writes: plan.direct_writes,
            checksums: plan.checksums,
            dd_mib_s: Vec::new(),
            rows: Vec::new(),
            skipped: Vec::new(),
            seconds: 0.0,
        }
    }

    /// The median of all runs of `dd`.
    fn dd(&self) -> Option<f64> {
        median(&self.dd_mib_s)
    }

    pub(crate) fn text(&self) -> String {
        [self.head(), self.writes(), self.reads(), self.ranking()].concat()
    }

    fn head(&self) -> String {
        let writes = if self.direct_writes { "direct" } else { "buffered" };
        let checksums = if self.checksums { "on" } else { "off" };
        let mut text = format!(
            "capacity {} MiB, writes {writes}, checksums {checksums}, {:.0} s\n",
            self.capacity_mib, self.seconds
        );
        text += &self.dd().map_or("dd oflag=direct: not possible here\n".into(), |dd| {
            let least = self.dd_mib_s.iter().copied().fold(dd, f64::min);
            let most = self.dd_mib_s.iter().copied().fold(dd, f64::max);
            format!("dd oflag=direct bs=1M: {dd:.0} MiB/s, the median of {least:.0} to {most:.0}\n")
        });
        for Skipped { layout, value_kib } in &self.skipped {
            text += &format!("not measured, the time was up: {layout}/{value_kib}\n");
        }
        for row in &self.rows {
            row.notes.iter().for_each(|note| text += &format!("{}: {note}\n", row.name()));
        }
        text
    }

    fn writes(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            vec![
                row.name(),
                shown(Some(row.write_amplification), 3),
                shown(Some(row.fill_mib_s), 0),
                shown(self.dd().map(|dd| row.fill_mib_s / dd), 2),
                shown(row.turn_ms, 1),
                shown(Some(row.space_amplification), 3),
                shown(Some(row.peak_of_capacity), 2),
                shown(Some(row.live_at_end), 2),
                shown(Some(row.live_least), 2),
                shown(Some(row.crash.open_ms), 0),
                shown(Some(row.crash.first_read_ms), 0),
                row.crash.lost_mib.to_string(),
                row.crash.damaged_chunks.to_string(),
                row.crash.wrong_chunks.to_string(),
            ]
        });
        let heads =
            "writes|wr.amp|MiB/s|of dd|turn ms|sp.amp|peak|live|least|open ms|first ms|lost|bad|wrong";
        table(heads, rows)
    }

    fn reads(&self) -> String {
        let rows = self.rows.iter().flat_map(|row| {
            row.reads.iter().map(|reads| {
                vec![
                    row.name_of(reads),
                    shown(reads.churn_p50_ms, 2),
                    shown(reads.churn_p99_ms, 2),
                    reads.churn_reads.to_string(),
                    reads.churn_misses.to_string(),
                    shown(reads.cold_cpu_s_gb, 2),
                    shown(reads.cold_mib_s, 0),
                    shown(reads.warm_cpu_s_gb, 2),
                    shown(reads.warm_mib_s, 0),
                ]
            })
        });
        table("reads|p50 ms|p99 ms|reads|misses|cold s/GB|cold MiB/s|warm s/GB|warm MiB/s", rows)
    }

    fn turns(&self) -> Vec<(String, f64)> {
        self.rows.iter().filter_map(|row| Some((row.name(), row.turn_ms?))).collect()
    }

    /// For each figure, who did best, from best to worst.
    fn ranking(&self) -> String {
        let of_rows = |figure: fn(&Row) -> f64| -> Vec<(String, f64)> {
            self.rows.iter().map(|row| (row.name(), figure(row))).collect()
        };
        let of_reads = |figure: fn(&Reads) -> Option<f64>| -> Vec<(String, f64)> {
            let all = self.rows.iter().flat_map(|row| row.reads.iter().map(move |reads| (row, reads)));
            all.filter_map(|(row, reads)| Some((row.name_of(reads), figure(reads)?))).collect()
        };
        let figures = [
            ("write amplification", false, of_rows(|row| row.write_amplification)),
            ("sustained fill, MiB/s", true, of_rows(|row| row.fill_mib_s)),
            ("change of generations, ms", false, self.turns()),
            ("space amplification", false, of_rows(|row| row.space_amplification)),
            ("peak on disk / capacity", false, of_rows(|row| row.peak_of_capacity)),
            ("least held / capacity", true, of_rows(|row| row.live_least)),
            ("kill -9 to first read, ms", false, of_rows(|row| row.crash.first_read_ms)),
            ("lost by kill -9, MiB", false, of_rows(|row| row.crash.lost_mib as f64)),
            ("p50 of reads in churn, ms", false, of_reads(|reads| reads.churn_p50_ms)),
            ("p99 of reads in churn, ms", false, of_reads(|reads| reads.churn_p99_ms)),
            ("cold CPU s/GB", false, of_reads(|reads| reads.cold_cpu_s_gb)),
            ("warm CPU s/GB", false, of_reads(|reads| reads.warm_cpu_s_gb)),
        ];
        let mut text = "\nranking, best first\n".to_owned();
        for (figure, most_is_best, mut all) in figures {
            all.sort_by(|(_, left), (_, right)| {
                let order = left.total_cmp(right);
                if most_is_best { order.reverse() } else { order }
            });
            let all: Vec<String> =
                all.iter().map(|(name, value)| format!("{name} {}", brief(*value))).collect();
            text += &format!("{figure}: {}\n", all.join(", "));
        }
        text
    }
}

fn brief(value: f64) -> String {
    if value < 10.0 { format!("{value:.3}") } else { format!("{value:.0}") }
}
