//! A node's side: drives its [`Plan`], which decides everything. It asks for the list, looks at what the
//! node holds, begins and stops fetches, and writes down what must outlive the process.
//!
//! One task does all of it, and owns the fetches; dropping the [`Filler`] ends them. Where
//! `preload.enabled` is false nothing is fetched, and the planner still hears of sources and requests.

mod driver;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use serde_json::{Value, json};
use skerry_core::bucket::Bucket;
use skerry_store::catalogue::{CameFrom, Progress};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::driver::Driver;
use crate::clock::Clock;
use crate::config::PreloadConfig;
use crate::error::PreloadError;
use crate::holder::{Holder, Journal};
use crate::lists::Lists;
use crate::metrics::Metrics;
use crate::pace::Pace;
use crate::plan::{Limits, Plan};
use crate::popularity::{Counts, Popularity};

/// Items that the status names.
const MOST_TOLD: usize = 100;

/// What a filler is made of.
pub struct Parts {
    /// `[preload]`.
    pub config: PreloadConfig,
    /// What may be pinned on this node in all, bytes.
    pub quota_bytes: u64,
    /// Holds things.
    pub holder: Arc<dyn Holder>,
    /// Where the list comes from.
    pub lists: Arc<dyn Lists>,
    /// Where the plan is kept.
    pub journal: Arc<dyn Journal>,
    /// What clients ask for.
    pub popularity: Arc<Popularity>,
    /// Who adds that up.
    pub counts: Arc<dyn Counts>,
    /// Its metrics.
    pub metrics: Metrics,
    /// The time.
    pub clock: Clock,
    /// A random number.
    pub seed: u64,
}

/// Makes the node hold what is listed for it.
pub struct Filler {
    inner: Arc<Inner>,
    task: JoinHandle<()>,
}

struct Inner {
    parts: Parts,
    plan: Mutex<Plan>,
    rate: Arc<Bucket>,
    running: Mutex<HashMap<CameFrom, Running>>,
    pace: Mutex<Pace>,
    /// Why there was no list the last time; `None` when there was.
    failure: Mutex<Option<String>>,
    news: Notify,
}

/// A fetch.
struct Running {
    progress: Arc<Progress>,
    /// What of it was counted.
    seen: u64,
}

impl Filler {
    /// Goes on where it was when the process ended. Blocks for the disk; what it does runs on `background`.
    ///
    /// # Errors
    /// When the store fails.
    pub fn start(parts: Parts, background: &Handle) -> Result<Self, PreloadError> {
        let capacity_bytes = match parts.config.capacity_bytes {
            0 => parts.quota_bytes,
            capacity => capacity.min(parts.quota_bytes),
        };
        let (at_once, windows) = (parts.config.at_once, parts.config.windows.clone());
        let limits = Limits { capacity_bytes, at_once, windows };
        let plan = Plan::restore(limits, parts.seed, &parts.journal.load()?, (parts.clock)());
        let inner = Arc::new(Inner {
            plan: Mutex::new(plan),
            rate: Arc::new(Bucket::new(parts.config.rate_bytes)),
            running: Mutex::default(),
            pace: Mutex::default(),
            failure: Mutex::default(),
            news: Notify::new(),
            parts,
        });
        let task = background.spawn(Driver::new(inner.clone()).run());
        Ok(Self { inner, task })
    }

    /// What preloaded resources may take on this node, bytes: for what it says of itself in the fleet.
    pub fn capacity_bytes(&self) -> u64 {
        if self.inner.parts.config.enabled { self.inner.plan.lock().limits().capacity_bytes } else { 0 }
    }

    /// What may be moved to this node until its next plan, bytes: for what it says of itself, too.
    pub fn window_bytes(&self) -> u64 {
        let Parts { config, clock, .. } = &self.inner.parts;
        if !config.enabled {
            return 0;
        }
        self.inner.plan.lock().window_bytes(clock(), config.plan_seconds, config.rate_bytes)
    }

    /// Begins nothing from here on, and stops what runs.
    pub fn drain(&self) {
        self.inner.plan.lock().drain();
        self.inner.news.notify_one();
    }

    /// Brings the gauges up to date.
    pub fn settle(&self) {
        self.inner.measure();
        let (metrics, report) = (&self.inner.parts.metrics, self.inner.plan.lock().report());
        for (state, items) in [
            ("held", report.held),
            ("fetching", report.fetching),
            ("waiting", report.waiting),
            ("failing", report.failing),
            ("no-room", report.no_room),
            ("left", report.left),
        ] {
            metrics.items.with_label_values(&[state]).set(gauge(items));
        }
        for (state, bytes) in [
            ("listed", report.listed_bytes),
            ("held", report.held_bytes),
            ("missing", report.missing_bytes),
            ("left", report.left_bytes),
            ("unasked", report.unasked_bytes),
        ] {
            metrics.bytes.with_label_values(&[state]).set(gauge(bytes));
        }
        metrics.eta.set(self.inner.eta_seconds().map_or(-1, gauge));
    }

    /// How far it is.
    pub fn status(&self) -> Value {
        self.inner.measure();
        let (eta, failure) = (self.inner.eta_seconds(), self.inner.failure.lock().clone());
        let Parts { config, clock, metrics, .. } = &self.inner.parts;
        let now_ms = clock();
        let plan = self.inner.plan.lock();
        let windows = &plan.limits().windows;
        let asked_not_held = metrics.asked.with_label_values(&["no"]).get();
        json!({
            "enabled": config.enabled,
            "revision": plan.revision(),
            "list_failure": failure,
            "progress": plan.report(),
            "bytes_per_second": self.inner.pace.lock().rate(),
            "eta_seconds": eta,
            "capacity_bytes": plan.limits().capacity_bytes,
            "window_open": windows.is_open(now_ms),
            "window_changes_ms": windows.next_change_ms(now_ms),
            "regret": { "unasked_bytes": plan.report().unasked_bytes, "asked_not_held": asked_not_held },
            "items": plan.standings(MOST_TOLD),
        })
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Inner {
    fn now_ms(&self) -> u64 {
        (self.parts.clock)()
    }

    /// Takes what fetches have moved since the last time.
    fn measure(&self) {
        let received = &self.parts.metrics.received;
        {
            let mut running = self.running.lock();
            let mut plan = self.plan.lock();
            for (source, fetch) in running.iter_mut() {
                let now = fetch.progress.received.load(Relaxed);
                plan.progress(source, now, fetch.progress.length.load(Relaxed));
                received.inc_by(now.saturating_sub(fetch.seen));
                fetch.seen = now;
            }
        }
        self.pace.lock().sample(self.now_ms(), received.get());
    }

    /// Seconds until all that is listed is held, windows considered; `None` when nobody can tell.
    fn eta_seconds(&self) -> Option<u64> {
        let plan = self.plan.lock();
        let missing = plan.report().missing_bytes;
        if missing == 0 {
            return Some(0);
        }
        let rate = match self.pace.lock().last() {
            0 => self.parts.config.rate_bytes,
            rate => rate,
        };
        let seconds = missing.div_ceil(rate.max(1));
        if rate == 0 { None } else { plan.limits().windows.elapsed_seconds(self.now_ms(), seconds) }
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod tests;
