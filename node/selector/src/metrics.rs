//! `skerry_selector_*`.

use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};
use skerry_core::metrics::register;

use crate::locate::Source;

/// Metrics of the selector.
pub(crate) struct Metrics {
    routes: Vec<IntCounter>,
    /// From a client's address to its nodes.
    pub(crate) duration: Histogram,
    /// Clients that no node was found for.
    pub(crate) unrouted: IntCounter,
    /// Requests refused, with 4xx.
    pub(crate) refused: IntCounter,
    /// Clients sent on.
    pub(crate) redirects: IntCounter,
    /// Links that clients can be sent to.
    pub(crate) links: IntGauge,
    /// By the key that names the file.
    pub(crate) file_failures: IntCounterVec,
    /// By the key that names the file: whether what it has now is in use.
    pub(crate) file_current: IntGaugeVec,
    /// By the key that names the file.
    pub(crate) prefixes: IntGaugeVec,
}

impl Metrics {
    pub(crate) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name, help| register(registry, IntCounter::new(name, help)?);
        let by_file = |name, help| register(registry, IntGaugeVec::new(Opts::new(name, help), &["file"])?);
        let routes = register(
            registry,
            IntCounterVec::new(
                Opts::new("skerry_selector_routes_total", "Clients routed, by what told their region."),
                &["source"],
            )?,
        )?;
        // 10 us to 20 ms, each bound twice the one before.
        let buckets = prometheus::exponential_buckets(0.00001, 2.0, 12)?;
        let duration = HistogramOpts::new(
            "skerry_selector_route_seconds",
            "From a client's address to its nodes, the policy's call included.",
        );
        Ok(Self {
            routes: Source::ALL.map(|source| routes.with_label_values(&[source.name()])).into(),
            duration: register(registry, Histogram::with_opts(duration.buckets(buckets))?)?,
            unrouted: counter("skerry_selector_unrouted_total", "Clients that no node was found for.")?,
            refused: counter("skerry_selector_refused_total", "Requests for a route refused.")?,
            redirects: counter("skerry_selector_redirects_total", "Clients sent on with 307.")?,
            links: register(
                registry,
                IntGauge::new("skerry_selector_links", "Links that clients can be sent to.")?,
            )?,
            file_failures: register(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "skerry_selector_file_failures_total",
                        "Changed files that were not taken, so that what was read before stays.",
                    ),
                    &["file"],
                )?,
            )?,
            file_current: by_file(
                "skerry_selector_file_current",
                "1 while what a file has now is in use, 0 when it could not be taken.",
            )?,
            prefixes: by_file("skerry_selector_prefixes", "Prefixes of a coverage zone file.")?,
        })
    }

    pub(crate) fn routed(&self, source: Source) {
        self.routes[source as usize].inc();
    }
}
