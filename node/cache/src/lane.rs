//! Hot hits in HTTP/1.1: answered from the index and the memory tier, before a request is built.
//!
//! The header of such an answer is the same for every client but for `Age` and `Cache-Status`, so
//! the rest is kept as it goes on the wire. What is counted is counted by worker and added up when
//! somebody looks, so that workers do not share cache lines on this path.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use parking_lot::Mutex;
use prometheus::local::LocalHistogram;
use skerry_core::lane::{AtOnce, Lane, Plain};

use crate::engine::Cache;
use crate::hit::Hot;
use crate::metrics::CacheResult;
use crate::request::is_plain;
use crate::rfc::cache_status::{CacheStatus, write_integer};
use crate::site::Site;

/// What one worker answers at once.
pub struct HotLane {
    cache: Arc<Cache>,
    tally: Arc<Mutex<Tally>>,
}

/// What a worker has counted and not reported yet.
struct Tally {
    ttfb: LocalHistogram,
    /// By [`Site::number`].
    sites: Vec<Option<SiteTally>>,
}

struct SiteTally {
    site: Arc<Site>,
    hits: u64,
    bytes: u64,
    duration: LocalHistogram,
}

/// The tallies of every worker.
#[derive(Default)]
pub(crate) struct Tallies(Mutex<Vec<Arc<Mutex<Tally>>>>);

impl Tallies {
    /// Adds up what the workers have counted.
    pub(crate) fn settle(&self) {
        for tally in self.0.lock().iter() {
            let mut tally = tally.lock();
            tally.ttfb.flush();
            for site in tally.sites.iter_mut().flatten() {
                let hits = std::mem::take(&mut site.hits);
                site.site.metrics.count_many(
                    &http::Method::GET,
                    http::StatusCode::OK,
                    CacheResult::Hit,
                    hits,
                );
                site.site.metrics.client_bytes.inc_by(std::mem::take(&mut site.bytes));
                site.duration.flush();
            }
        }
    }
}

impl HotLane {
    pub(crate) fn new(cache: Arc<Cache>) -> Self {
        let tally = Tally { ttfb: cache.metrics.ttfb.local(), sites: Vec::new() };
        let tally = Arc::new(Mutex::new(tally));
        cache.tallies.0.lock().push(tally.clone());
        Self { cache, tally }
    }
}

impl Lane for HotLane {
    fn answer(&mut self, request: &Plain<'_>, head: &mut Vec<u8>) -> Option<AtOnce> {
        let cache = &self.cache;
        if cache.access_log
            || cache.elsewhere.get().is_some()
            || !is_plain(request.host)
            || request.target.starts_with("/.skerry/")
        {
            return None;
        }
        if request.fields.iter().any(|field| takes_the_long_way(field.name)) {
            return None;
        }
        let sites = cache.sites.load();
        let site = sites.find(request.host)?;
        let entry = cache.index.hot(&site.name, request.target)?;
        let headers = if entry.varies() { request.headers()? } else { HeaderMap::new() };
        let Hot { object, age, ttl, body } = cache.hot(site, request.target, &entry, &headers)?;
        if let Some(demand) = cache.demand.get() {
            demand.asked_for(&site.name, request.target, body.len() as u64);
        }
        head.extend_from_slice(object.wire());
        head.extend_from_slice(b"age: ");
        // Writing to a vector cannot fail.
        let _ = write_integer(head, age as i64);
        head.extend_from_slice(b"\r\ncache-status: ");
        let _ = CacheStatus { hit: true, ttl: Some(ttl), ..CacheStatus::default() }.write(head);
        head.extend_from_slice(b"\r\n\r\n");
        self.tally.lock().hit(site, body.len() as u64);
        Some(AtOnce { body, ticket: site.number })
    }

    fn sent(&mut self, answer: AtOnce, first: Duration, took: Duration) {
        let tally = self.tally.lock();
        tally.ttfb.observe(first.as_secs_f64());
        if let Some(Some(site)) = tally.sites.get(answer.ticket) {
            site.duration.observe(took.as_secs_f64());
        }
    }
}

impl Tally {
    fn hit(&mut self, site: &Arc<Site>, bytes: u64) {
        if self.sites.len() <= site.number {
            self.sites.resize_with(site.number + 1, || None);
        }
        let tally = self.sites[site.number].get_or_insert_with(|| SiteTally {
            site: site.clone(),
            hits: 0,
            bytes: 0,
            duration: site.metrics.duration.local(),
        });
        tally.hits += 1;
        tally.bytes += bytes;
    }
}

/// Fields whose meaning only the long way knows.
pub(crate) fn takes_the_long_way(name: &str) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    match name.len() {
        5 => is("range"),
        6 => is("pragma"),
        8 => is("if-match"),
        13 => is("if-none-match") || is("cache-control"),
        14 => is("content-length"),
        16 => is("want-repr-digest"),
        17 => is("if-modified-since") || is("transfer-encoding"),
        19 => is("if-unmodified-since"),
        _ => false,
    }
}
