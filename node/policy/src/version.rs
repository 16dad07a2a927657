//! One version of a policy in one world, with its breaker, its counters and its words.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::IntCounter;

use crate::breaker::{Admission, Breaker};
use crate::call::{Callable, Called, Level};
use crate::cause::Cause;
use crate::decisions::Lookup;
use crate::guest::Surroundings;
use crate::manifest::{Manifest, World, cut};
use crate::rows::{Answer, Inputs};

/// Log lines of one policy in a second.
const LINES: u32 = 10;
/// Characters of such a line; the guest's part of the host has cut it to as many bytes.
const LINE: usize = 256;
/// Characters of an error.
const ERROR: usize = 1000;

/// A version that is loaded.
pub(crate) struct Version {
    pub(crate) world: World,
    pub(crate) manifest: Manifest,
    /// SHA-256 of its package, hexadecimal.
    pub(crate) digest: String,
    /// Who signed it; `None` where that is not asked for.
    pub(crate) signer: Option<String>,
    pub(crate) callable: Callable,
    pub(crate) breaker: Breaker,
    pub(crate) counters: Vec<IntCounter>,
    pub(crate) lines: Mutex<(Option<Instant>, u32)>,
}

/// What asking it came to.
pub(crate) struct Asked {
    pub(crate) result: Result<Answer, Cause>,
    pub(crate) fuel: u64,
    pub(crate) took: Duration,
    pub(crate) lookups: Vec<Lookup>,
}

impl Asked {
    /// Whether it was called at all.
    pub(crate) fn called(&self) -> bool {
        !matches!(self.result, Err(Cause::Resting | Cause::Full | Cause::Rows))
    }
}

impl Version {
    /// Calls it, unless it rests.
    pub(crate) fn ask(&self, inputs: &Inputs, surroundings: &Surroundings) -> Asked {
        let now = Instant::now();
        let admission = self.breaker.admit(now);
        if matches!(admission, Admission::Rest) {
            let took = now.elapsed();
            return Asked { result: Err(Cause::Resting), fuel: 0, took, lookups: Vec::new() };
        }
        let called = self.callable.call(inputs, surroundings);
        self.judge(&called, admission);
        for (counter, by) in &called.counts {
            if let Some(counter) = self.counters.get(*counter as usize) {
                counter.inc_by(u64::from(*by));
            }
        }
        self.tell(&called.lines);
        let name = |table: u32| self.manifest.tables.get(table as usize).cloned();
        let lookups = called.lookups.iter().filter_map(|(table, key, value)| {
            Some(Lookup { table: name(*table)?, key: *key, value: *value })
        });
        Asked { fuel: called.fuel, took: called.took, lookups: lookups.collect(), result: called.result }
    }

    fn judge(&self, called: &Called, admission: Admission) {
        let now = Instant::now();
        match &called.result {
            Err(cause) if cause.is_failure() => {
                let error = cut(called.error.as_deref().unwrap_or_default(), ERROR);
                log::debug!(policy = self.manifest.name, cause = cause.name(); "a call failed: {error}");
                if self.breaker.failed(now, admission) {
                    log::warn!(
                        policy = self.manifest.name, version:% = self.manifest.version, cause = cause.name();
                        "the policy fails too often and rests; the built-in verdict is used: {error}"
                    );
                }
            }
            // Not its doing.
            Err(Cause::Full | Cause::Rows) => drop(admission),
            _ => {
                if let Some(said) = &called.error {
                    log::debug!(policy = self.manifest.name; "the policy did not answer: {said}");
                }
                if self.breaker.succeeded(now, admission) {
                    log::info!(policy = self.manifest.name; "the policy is well again");
                }
            }
        }
    }

    fn tell(&self, lines: &[(Level, String)]) {
        if lines.is_empty() {
            return;
        }
        let mut told = self.lines.lock();
        if told.0.is_none_or(|since| since.elapsed() > Duration::from_secs(1)) {
            *told = (Some(Instant::now()), 0);
        }
        let policy = self.manifest.name.as_str();
        for (level, line) in lines {
            told.1 += 1;
            if told.1 > LINES {
                return;
            }
            let line = cut(line, LINE);
            match level {
                Level::Debug => log::debug!(policy; "{line}"),
                Level::Info => log::info!(policy; "{line}"),
                Level::Warn => log::warn!(policy; "{line}"),
            }
        }
    }
}
