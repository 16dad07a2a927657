//! Metrics of the cache role. The hot path touches counters that were looked up beforehand.

use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};
use skerry_core::metrics::register;

const METHODS: [&str; 4] = ["GET", "HEAD", "POST", "other"];
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// How a request was answered.
const RESULTS: [&str; 5] = ["hit", "stale", "revalidated", "miss", "pass"];

/// How a request was answered, for the `result` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheResult {
    /// From the store, fresh.
    Hit = 0,
    /// From the store, stale.
    Stale = 1,
    /// From the store, after the origin said that it is still right.
    Revalidated = 2,
    /// From the origin, through the store.
    Miss = 3,
    /// From the origin, not stored; or by the node itself.
    Pass = 4,
}

/// All families.
#[derive(Clone)]
pub struct Metrics {
    requests: IntCounterVec,
    client_bytes: IntCounterVec,
    origin_bytes: IntCounterVec,
    origin_requests: IntCounterVec,
    /// From the request's header to the answer's header, seconds.
    pub ttfb: Histogram,
    duration: HistogramVec,
    /// Names of sites, in the order in which they were first seen.
    names: Arc<Mutex<Vec<String>>>,
}

/// One site's counters.
#[derive(Clone)]
pub struct SiteMetrics {
    requests: Vec<IntCounter>,
    /// Body bytes to clients.
    pub client_bytes: IntCounter,
    /// Body bytes from the origin.
    pub origin_bytes: IntCounter,
    /// Exchanges with the origin that went well.
    pub origin_ok: IntCounter,
    /// Exchanges with the origin that failed.
    pub origin_failed: IntCounter,
    /// Header to end of body, seconds.
    pub duration: Histogram,
}

impl Metrics {
    /// Registers the families.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counters =
            |name: &str, help: &str, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let buckets = prometheus::exponential_buckets(0.000_1, 4.0, 10)?;
        let histogram = |name: &str, help: &str| HistogramOpts::new(name, help).buckets(buckets.clone());
        Ok(Self {
            requests: register(
                registry,
                counters(
                    "skerry_cache_requests_total",
                    "Requests answered.",
                    &["site", "method", "status", "result"],
                )?,
            )?,
            client_bytes: register(
                registry,
                counters("skerry_cache_client_bytes_total", "Body bytes to clients.", &["site"])?,
            )?,
            origin_bytes: register(
                registry,
                counters("skerry_cache_origin_bytes_total", "Body bytes from origins.", &["site"])?,
            )?,
            origin_requests: register(
                registry,
                counters("skerry_cache_origin_requests_total", "Requests to origins.", &["site", "outcome"])?,
            )?,
            ttfb: register(
                registry,
                Histogram::with_opts(histogram(
                    "skerry_cache_ttfb_seconds",
                    "Request header to answer header.",
                ))?,
            )?,
            duration: register(
                registry,
                HistogramVec::new(
                    histogram("skerry_cache_duration_seconds", "Request header to end of body."),
                    &["site"],
                )?,
            )?,
            names: Arc::default(),
        })
    }

    /// A small number for a site, the same as long as the process lives.
    pub fn number(&self, site: &str) -> usize {
        let mut names = self.names.lock();
        names.iter().position(|name| name == site).unwrap_or_else(|| {
            names.push(site.to_owned());
            names.len() - 1
        })
    }

    /// The counters of one site.
    pub fn site(&self, site: &str) -> SiteMetrics {
        let mut requests = Vec::new();
        for method in METHODS {
            for class in CLASSES {
                for result in RESULTS {
                    requests.push(self.requests.with_label_values(&[site, method, class, result]));
                }
            }
        }
        SiteMetrics {
            requests,
            client_bytes: self.client_bytes.with_label_values(&[site]),
            origin_bytes: self.origin_bytes.with_label_values(&[site]),
            origin_ok: self.origin_requests.with_label_values(&[site, "ok"]),
            origin_failed: self.origin_requests.with_label_values(&[site, "failed"]),
            duration: self.duration.with_label_values(&[site]),
        }
    }
}

impl SiteMetrics {
    /// Counts one request.
    pub fn count(&self, method: &http::Method, status: http::StatusCode, result: CacheResult) {
        self.count_many(method, status, result, 1);
    }

    /// Counts requests that went alike.
    pub fn count_many(
        &self,
        method: &http::Method,
        status: http::StatusCode,
        result: CacheResult,
        requests: u64,
    ) {
        let method = METHODS.iter().position(|name| *name == method.as_str()).unwrap_or(METHODS.len() - 1);
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len()) - 1;
        self.requests[(method * CLASSES.len() + class) * RESULTS.len() + result as usize].inc_by(requests);
    }

    /// Requests so far, and those answered from the store.
    pub fn totals(&self) -> (u64, u64) {
        let all = self.requests.iter().map(IntCounter::get).sum();
        let hits =
            self.requests.chunks(RESULTS.len()).flat_map(|results| &results[..3]).map(IntCounter::get).sum();
        (all, hits)
    }
}
