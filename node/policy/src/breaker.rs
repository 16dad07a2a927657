//! The breaker of one policy: who fails too often is rested, and tried again with single calls.
//!
//! ```text
//! closed ── `failures` within the window ──▶ open ── the rest is over ──▶ half-open
//!   ▲                                         ▲                            │    │
//!   │                                         └─ a probe fails: rest × 2 ──┘    │
//!   └────────────── `probes` good ones in a row: first rest again ──────────────┘
//! ```
//!
//! While it is half-open one probe is out at a time, and only that probe's end moves the state:
//! calls that were admitted earlier and end late change nothing. A probe that is dropped without an
//! end, since its caller went away, makes room for the next one and counts for nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use documented::DocumentedFields;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// The breaker remembers one time for each failure it waits for.
const MOST_FAILURES: u32 = 1000;

/// `[policy.breaker]`: when a policy that fails is rested.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerConfig {
    /// A policy is rested after so many failures within the window; 1 to 1000.
    pub failures: u32,
    /// Length of that window.
    pub window_seconds: u64,
    /// And only if they are so many of a thousand calls: of a hundred thousand calls a second some
    /// are late because the machine is, and not the policy.
    pub least_permille: u64,
    /// How long it rests at first; twice as long after each probe that fails.
    pub rest_seconds: u64,
    /// Longest such rest.
    pub longest_rest_seconds: u64,
    /// After a rest single calls are tried; so many good ones in a row end it.
    pub probes: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            failures: 5,
            window_seconds: 10,
            least_permille: 10,
            rest_seconds: 10,
            longest_rest_seconds: 300,
            probes: 3,
        }
    }
}

impl BreakerConfig {
    /// What cannot be said by types; the error is a key and a reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !(1..=MOST_FAILURES).contains(&self.failures) {
            return Err(("policy.breaker.failures", format!("must be from 1 to {MOST_FAILURES}")));
        }
        if self.window_seconds == 0 {
            return Err(("policy.breaker.window_seconds", "must be at least 1".into()));
        }
        if self.least_permille > 1000 {
            return Err(("policy.breaker.least_permille", "must be at most 1000".into()));
        }
        if self.rest_seconds == 0 {
            return Err(("policy.breaker.rest_seconds", "must be at least 1".into()));
        }
        if self.longest_rest_seconds < self.rest_seconds {
            let reason = "must not be less than `policy.breaker.rest_seconds`";
            return Err(("policy.breaker.longest_rest_seconds", reason.into()));
        }
        if self.probes == 0 {
            return Err(("policy.breaker.probes", "must be at least 1".into()));
        }
        Ok(())
    }
}

/// Decides whether a policy is called. While all is well that costs one atomic load a call.
#[derive(Debug)]
pub struct Breaker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: BreakerConfig,
    /// Whether the phase is `Closed`, for the path of calls; the truth is in `book`.
    closed: AtomicBool,
    /// Calls admitted while closed.
    calls: AtomicU64,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    phase: Phase,
    /// The last failures while closed, oldest first: when, and after how many calls.
    failures: VecDeque<(Instant, u64)>,
    /// Length of this rest, or of the next one.
    rest: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { since: Instant },
    HalfOpen { good: u32, out: bool },
}

/// What to do with a call. Handed back with its end.
#[derive(Debug)]
#[must_use = "the breaker waits for the end of what it admits"]
pub enum Admission {
    /// Call the policy.
    Call,
    /// Call it; the end of this call decides whether it is well again.
    Probe(Probe),
    /// Leave it alone, and use the built-in verdict.
    Rest,
}

/// The one probe that is out. Dropped without an end it makes room for the next.
#[derive(Debug)]
pub struct Probe(Option<Arc<Shared>>);

/// What a breaker says of its policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// It is called.
    Closed,
    /// It rests.
    Open {
        /// Milliseconds until it is tried again.
        left_ms: u64,
    },
    /// It is tried with single calls.
    HalfOpen {
        /// Good ones in a row so far.
        good: u32,
    },
}

impl Breaker {
    /// A closed breaker.
    pub fn new(config: &BreakerConfig) -> Self {
        let rest = Duration::from_secs(config.rest_seconds);
        Self(Arc::new(Shared {
            config: config.clone(),
            closed: AtomicBool::new(true),
            calls: AtomicU64::new(0),
            book: Mutex::new(Book { phase: Phase::Closed, failures: VecDeque::new(), rest }),
        }))
    }

    /// Whether to call the policy now.
    pub fn admit(&self, now: Instant) -> Admission {
        // A call that reads this a moment too late is one that began a moment earlier.
        if self.0.closed.load(Relaxed) {
            self.0.calls.fetch_add(1, Relaxed);
            return Admission::Call;
        }
        let mut book = self.0.book.lock();
        if let Phase::Open { since } = book.phase
            && now.saturating_duration_since(since) >= book.rest
        {
            book.phase = Phase::HalfOpen { good: 0, out: false };
        }
        match &mut book.phase {
            Phase::Closed => Admission::Call,
            Phase::HalfOpen { out, .. } if !*out => {
                *out = true;
                Admission::Probe(Probe(Some(self.0.clone())))
            }
            Phase::HalfOpen { .. } | Phase::Open { .. } => Admission::Rest,
        }
    }

    /// An admitted call went well. True when it was the probe that closed the breaker.
    pub fn succeeded(&self, _now: Instant, admission: Admission) -> bool {
        let Admission::Probe(probe) = admission else { return false };
        let Some(shared) = probe.settle() else { return false };
        let mut book = shared.book.lock();
        let Phase::HalfOpen { good, .. } = book.phase else { return false };
        if good + 1 < shared.config.probes {
            book.phase = Phase::HalfOpen { good: good + 1, out: false };
            return false;
        }
        book.phase = Phase::Closed;
        book.failures.clear();
        book.rest = Duration::from_secs(shared.config.rest_seconds);
        shared.closed.store(true, Relaxed);
        true
    }

    /// An admitted call failed, and it was the policy's fault. True when the policy rests from now
    /// on because of it.
    pub fn failed(&self, now: Instant, admission: Admission) -> bool {
        match admission {
            Admission::Rest => false,
            Admission::Call => {
                let mut book = self.0.book.lock();
                if !matches!(book.phase, Phase::Closed)
                    || !book.too_many(now, self.0.calls.load(Relaxed), &self.0.config)
                {
                    return false;
                }
                book.phase = Phase::Open { since: now };
                self.0.closed.store(false, Relaxed);
                true
            }
            Admission::Probe(probe) => {
                let Some(shared) = probe.settle() else { return false };
                let mut book = shared.book.lock();
                let longest = Duration::from_secs(shared.config.longest_rest_seconds);
                book.rest = book.rest.saturating_mul(2).min(longest);
                book.phase = Phase::Open { since: now };
                true
            }
        }
    }

    /// Where it stands.
    pub fn state(&self, now: Instant) -> State {
        let book = self.0.book.lock();
        match book.phase {
            Phase::Closed => State::Closed,
            Phase::HalfOpen { good, .. } => State::HalfOpen { good },
            Phase::Open { since } => {
                let left = book.rest.saturating_sub(now.saturating_duration_since(since));
                if left.is_zero() {
                    return State::HalfOpen { good: 0 };
                }
                // What is left of the last millisecond is rest, too.
                State::Open { left_ms: left.as_nanos().div_ceil(1_000_000) as u64 }
            }
        }
    }
}

impl Book {
    /// Notes a failure; whether there are now enough of them, within the window and among the calls.
    fn too_many(&mut self, now: Instant, calls: u64, config: &BreakerConfig) -> bool {
        let window = Duration::from_secs(config.window_seconds);
        self.failures.retain(|(at, _)| now.saturating_duration_since(*at) < window);
        self.failures.push_back((now, calls));
        if self.failures.len() > config.failures as usize {
            self.failures.pop_front();
        }
        let enough = u64::from(config.failures);
        self.failures.len() as u64 >= enough
            && self.failures.front().is_some_and(|(_, first)| {
                enough.saturating_mul(1000)
                    >= calls.saturating_sub(*first).saturating_mul(config.least_permille)
            })
    }
}

impl Probe {
    /// Its end is known, and the drop changes nothing. The breaker is the one that let it out, though
    /// the policy may have another by now.
    fn settle(mut self) -> Option<Arc<Shared>> {
        self.0.take()
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let Some(shared) = self.0.take() else { return };
        let mut book = shared.book.lock();
        if let Phase::HalfOpen { out, .. } = &mut book.phase {
            *out = false;
        }
    }
}

#[cfg(test)]
mod tests;
