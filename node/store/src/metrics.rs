//! Metrics of the store.

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use skerry_core::metrics::register;

/// What the store counts. Gauges are set when they are scraped or by the maintenance round.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Bytes held by tier (`memory`, `disk`) and class (`cache`, `pinned`).
    pub bytes: IntGaugeVec,
    /// `store.capacity_bytes`.
    pub capacity: IntGauge,
    /// Reads by where they ended: `memory`, `disk`, `absent`.
    pub reads: IntCounterVec,
    /// Chunk bytes written to the disk tier.
    pub written: IntCounter,
    /// Chunks evicted with their generation.
    pub evictions: IntCounter,
    /// Chunks that failed their hash or could not be read, and were dropped.
    pub verify_failures: IntCounter,
    /// Chunk writes that the store or the disk refused.
    pub write_failures: IntCounter,
    /// RocksDB's own counts, by database and property.
    pub rocksdb: IntGaugeVec,
}

impl Metrics {
    /// Registers the family.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauges =
            |name: &str, help: &str, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let counter = |name: &str, help: &str| IntCounter::new(name, help);
        Ok(Self {
            bytes: register(registry, gauges("skerry_store_bytes", "Bytes held.", &["tier", "class"])?)?,
            capacity: register(
                registry,
                IntGauge::new("skerry_store_capacity_bytes", "Disk bytes for chunks.")?,
            )?,
            reads: register(
                registry,
                IntCounterVec::new(
                    Opts::new("skerry_store_reads_total", "Chunk reads, by where they ended."),
                    &["tier"],
                )?,
            )?,
            written: register(
                registry,
                counter("skerry_store_written_bytes_total", "Chunk bytes written to disk.")?,
            )?,
            evictions: register(
                registry,
                counter("skerry_store_evictions_total", "Chunks evicted from disk.")?,
            )?,
            verify_failures: register(
                registry,
                counter(
                    "skerry_store_verify_failures_total",
                    "Chunks that failed their hash and were dropped.",
                )?,
            )?,
            write_failures: register(
                registry,
                counter(
                    "skerry_store_write_failures_total",
                    "Chunk writes refused by the store or the disk.",
                )?,
            )?,
            rocksdb: register(
                registry,
                gauges("skerry_store_rocksdb", "RocksDB's own figures.", &["database", "property"])?,
            )?,
        })
    }
}
