//! A site: a host name, its origin, its rules, its health and its counters.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::config::CacheConfig;
use crate::metrics::{Metrics, SiteMetrics};
use crate::origin::Origin;
use crate::rfc::freshness::Policy;
use crate::rfc::reuse::Windows;

/// Requests that wait for a slot at one origin.
const MAX_QUEUE: usize = 4096;

/// One site as configured, and what is known of its origin.
pub struct Site {
    /// `default`, or a host name in lower case.
    pub name: Arc<str>,
    /// Counts are kept under it, over reloads too.
    pub number: usize,
    /// Where misses go.
    pub origin: Origin,
    /// What RFC 9111 leaves to the operator.
    pub policy: Policy,
    /// Stale windows where the origin names none.
    pub windows: Windows,
    /// The site's settings.
    pub config: CacheConfig,
    /// Bounds requests to the origin.
    pub slots: Arc<Semaphore>,
    /// Bounds those that wait for a slot.
    pub queue: Arc<Semaphore>,
    /// Whether the last exchange with the origin went well.
    pub healthy: AtomicBool,
    /// Requests at the origin now.
    pub in_flight: AtomicUsize,
    /// Counters with the site's label.
    pub metrics: SiteMetrics,
}

impl Site {
    /// A site over its origin.
    pub fn new(name: &str, origin: Origin, config: CacheConfig, metrics: &Metrics) -> Self {
        Self {
            name: name.to_ascii_lowercase().into(),
            policy: Policy {
                heuristic_fraction: config.heuristic_fraction,
                heuristic_max: config.heuristic_max_seconds,
                negative: config.negative_seconds,
            },
            windows: Windows {
                stale_while_revalidate: config.stale_while_revalidate_seconds,
                stale_if_error: config.stale_if_error_seconds,
            },
            slots: Arc::new(Semaphore::new(config.max_origin_connections)),
            queue: Arc::new(Semaphore::new(MAX_QUEUE)),
            healthy: AtomicBool::new(true),
            in_flight: AtomicUsize::new(0),
            number: metrics.number(name),
            metrics: metrics.site(name),
            origin,
            config,
        }
    }

    /// Longest wait for an answer's header.
    pub fn response_timeout(&self) -> Duration {
        Duration::from_secs(self.config.response_timeout_seconds)
    }

    /// Longest wait between pieces of a body.
    pub fn read_timeout(&self) -> Duration {
        Duration::from_secs(self.config.read_timeout_seconds)
    }

    /// Notes how an exchange with the origin went; a change is logged once.
    pub fn note(&self, well: bool, detail: &dyn std::fmt::Display) {
        if self.healthy.swap(well, Relaxed) != well {
            if well {
                log::info!(site:% = self.name; "the origin answers again");
            } else {
                log::warn!(site:% = self.name, origin:% = self.origin; "the origin fails: {detail}");
            }
        }
    }
}

/// All sites, by host name.
#[derive(Default)]
pub struct Sites {
    by_host: HashMap<Arc<str>, Arc<Site>>,
    default: Option<Arc<Site>>,
}

impl Sites {
    /// Takes the sites; the one named `default` takes every host that no other takes.
    pub fn new(sites: impl IntoIterator<Item = Site>) -> Self {
        let by_host: HashMap<_, _> =
            sites.into_iter().map(|site| (site.name.clone(), Arc::new(site))).collect();
        let default = by_host.get("default").cloned();
        Self { by_host, default }
    }

    /// The site of a `Host`, its port left out.
    pub fn find(&self, host: &str) -> Option<&Arc<Site>> {
        if self.by_host.len() > usize::from(self.default.is_some()) {
            let name = match host.rsplit_once(':') {
                Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
                _ => host,
            };
            let found = self.by_host.get(name);
            let found = found.or_else(|| self.by_host.get(name.to_ascii_lowercase().as_str()));
            if found.is_some() {
                return found;
            }
        }
        self.default.as_ref()
    }

    /// Every site.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.by_host.values()
    }
}
