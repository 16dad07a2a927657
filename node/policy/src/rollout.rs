//! The change of one world's policy, from the version that decides (the incumbent, which may be the
//! built-in one) to a new one (the candidate), step by step, and back by itself when that goes wrong.
//!
//! ```text
//! shadow ─▶ canary-1 ─▶ canary-10 ─▶ all ─▶ done
//!    └──────────┴───────────┴─────────┴──────▶ demoted
//! ```
//!
//! In shadow the candidate is asked and not obeyed; in the canaries it decides for 1 and 10 % of the
//! clients; in `all` for everybody, still watched. Steps follow when a stage had its time and its
//! calls; `demoted` follows as soon as the stage's figures pass a bound. Figures begin anew in each
//! stage. This room calls nothing and keeps no policy: who calls reports each call of the candidate.

mod config;
mod histogram;
mod stage;

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub use self::config::RolloutConfig;
pub use self::histogram::Histogram;
use self::stage::STAGES;
pub use self::stage::{Stage, Who};
use crate::cause::Cause;
use crate::rows::Answer;

/// So many permille of a stage's calls may take longer than the bound of the p99.
const SLOW_PERMILLE: u64 = 10;
/// Keeps the choice of compared calls apart from that of clients.
const COMPARED: u64 = 0x636f_6d70_6172_6564;

/// What one call of the candidate came to. A call that was not made, since its breaker rests it or
/// its pool was full, is reported as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// How long it took.
    pub took: Duration,
    /// Why there was no verdict to use, when there was none.
    pub fallback: Option<Cause>,
    /// Whether its first choice is another than the incumbent's, when that was asked too; see
    /// [`differ`].
    pub differs: Option<bool>,
}

/// A step of the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The next stage has begun.
    Advanced(Stage),
    /// The incumbent decides again, and why.
    Demoted(String),
}

/// A change under way. The path of calls asks it at the cost of an atomic load and a hash.
#[derive(Debug)]
pub struct Rollout {
    config: RolloutConfig,
    salt: u64,
    /// Calls that take longer count against the p99.
    slow_us: u64,
    /// Number of the stage, for the path of calls; the truth is in `book`.
    stage: AtomicU8,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    stage: Stage,
    since: Instant,
    held: bool,
    reason: Option<String>,
    tally: Tally,
}

/// The figures of a stage.
#[derive(Debug, Default)]
struct Tally {
    calls: u64,
    fallbacks: u64,
    last_cause: Option<Cause>,
    slow: u64,
    compared: u64,
    differing: u64,
    latency: Histogram,
}

/// Where a change stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// The stage.
    pub stage: Stage,
    /// Whether the next stage waits for the operator.
    pub held: bool,
    /// Why the candidate was demoted, if it was.
    pub reason: Option<String>,
    /// Seconds in this stage.
    pub stage_seconds: u64,
    /// Seconds that the stage takes at least; 0 at the end.
    pub stage_least_seconds: u64,
    /// Calls of the candidate in this stage, or in the one it was demoted from; so are all figures
    /// that follow.
    pub calls: u64,
    /// Calls that the stage takes at least; 0 at the end.
    pub stage_least_calls: u64,
    /// Calls that fell back to the built-in verdict.
    pub fallbacks: u64,
    /// Half of the calls took no longer, in microseconds.
    pub p50_us: u64,
    /// 99 % of the calls took no longer, in microseconds.
    pub p99_us: u64,
    /// What the p99 must not pass, in microseconds.
    pub max_p99_us: u64,
    /// Calls that were made with both versions.
    pub compared: u64,
    /// Compared calls whose first choice differs.
    pub differing: u64,
}

impl Rollout {
    /// A change that begins with `stage`: shadow, or where it stood before a restart of the node.
    ///
    /// `salt` picks the clients of the canaries: that of one candidate is the same on every node, so
    /// that they are the same clients everywhere, and other candidates are tried on others.
    /// `limit` is the time that a call of the candidate may take.
    pub fn new(config: RolloutConfig, salt: u64, limit: Duration, stage: Stage, now: Instant) -> Self {
        let limit_us = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        let slow_us = limit_us.saturating_mul(config.max_p99_permille) / 1000;
        let held = !config.automatic;
        let book = Book { stage, since: now, held, reason: None, tally: Tally::default() };
        Self { config, salt, slow_us, stage: AtomicU8::new(stage as u8), book: Mutex::new(book) }
    }

    /// The stage.
    pub fn stage(&self) -> Stage {
        STAGES[usize::from(self.stage.load(Relaxed))]
    }

    /// Whose verdict counts for a client, by the hash of its prefix. It stays the same within a
    /// stage, and who has the candidate's in one stage has it in the next.
    pub fn decides(&self, client_hash: u64) -> Who {
        let candidate = match self.stage().percent() {
            0 => false,
            100 => true,
            percent => xxh3_64_with_seed(&client_hash.to_le_bytes(), self.salt) % 100 < percent,
        };
        if candidate { Who::Candidate } else { Who::Incumbent }
    }

    /// Whether a call is made with both versions, by its seed: in shadow any call, later those that
    /// the candidate decides.
    pub fn compares(&self, decides: Who, seed: u64) -> bool {
        let asked = match self.stage() {
            Stage::Shadow => true,
            Stage::Canary1 | Stage::Canary10 | Stage::All => decides == Who::Candidate,
            Stage::Done | Stage::Demoted => false,
        };
        let salt = self.salt ^ COMPARED;
        asked && xxh3_64_with_seed(&seed.to_le_bytes(), salt).is_multiple_of(self.config.compare_one_in)
    }

    /// Takes note of a call of the candidate, in shadow as well as when it decided, and demotes it
    /// when that was one too many.
    pub fn observe(&self, outcome: &Outcome, now: Instant) -> Option<Change> {
        let mut book = self.book.lock();
        self.config.wait(book.stage)?;
        book.tally.add(outcome, self.slow_us);
        let reason = self.judge(&book)?;
        self.end(&mut book, reason.clone(), now);
        Some(Change::Demoted(reason))
    }

    /// Goes on to the next stage, when this one had its time and its calls and is not held. To be
    /// called every second or so.
    pub fn advance(&self, now: Instant) -> Option<Change> {
        let mut book = self.book.lock();
        let (time, calls) = self.config.wait(book.stage)?;
        let over = now.saturating_duration_since(book.since) >= time && book.tally.calls >= calls;
        if book.held || !over {
            return None;
        }
        self.step(&mut book, now)
    }

    /// The operator's word: on to the next stage at once, held or not. Nothing after the end.
    pub fn promote(&self, now: Instant) -> Option<Change> {
        self.step(&mut self.book.lock(), now)
    }

    /// The operator's word: no stage follows by itself from now on, or they do again. A held
    /// candidate can still be demoted by its figures.
    pub fn hold(&self, held: bool) {
        self.book.lock().held = held;
    }

    /// The operator's word: the incumbent decides again, even after the end. False when it does
    /// already.
    pub fn demote(&self, reason: &str, now: Instant) -> bool {
        let mut book = self.book.lock();
        let first = book.stage != Stage::Demoted;
        if first {
            self.end(&mut book, reason.to_owned(), now);
        }
        first
    }

    /// Where it stands.
    pub fn status(&self, now: Instant) -> RolloutStatus {
        let book = self.book.lock();
        let (time, calls) = self.config.wait(book.stage).unwrap_or_default();
        let tally = &book.tally;
        RolloutStatus {
            stage: book.stage,
            held: book.held,
            reason: book.reason.clone(),
            stage_seconds: now.saturating_duration_since(book.since).as_secs(),
            stage_least_seconds: time.as_secs(),
            calls: tally.calls,
            stage_least_calls: calls,
            fallbacks: tally.fallbacks,
            p50_us: tally.latency.quantile(500),
            p99_us: tally.latency.quantile(990),
            max_p99_us: self.slow_us,
            compared: tally.compared,
            differing: tally.differing,
        }
    }

    fn step(&self, book: &mut Book, now: Instant) -> Option<Change> {
        let next = book.stage.next()?;
        book.tally = Tally::default();
        self.enter(book, next, now);
        Some(Change::Advanced(next))
    }

    /// Demotes; the figures that led to it stay.
    fn end(&self, book: &mut Book, reason: String, now: Instant) {
        book.reason = Some(reason);
        self.enter(book, Stage::Demoted, now);
    }

    fn enter(&self, book: &mut Book, stage: Stage, now: Instant) {
        book.stage = stage;
        book.since = now;
        self.stage.store(stage as u8, Relaxed);
    }

    /// Why the stage's figures do not do, when there are enough of them.
    fn judge(&self, book: &Book) -> Option<String> {
        let (config, tally, stage) = (&self.config, &book.tally, book.stage);
        if tally.calls >= config.judged_calls {
            if over(tally.fallbacks, tally.calls, config.max_fallback_permille) {
                return Some(format!(
                    "in {stage}, {} of {} calls fell back to the built-in verdict, the last one because of \
                     `{}`; at most {} permille may",
                    tally.fallbacks,
                    tally.calls,
                    tally.last_cause.map_or("", Cause::name),
                    config.max_fallback_permille,
                ));
            }
            if over(tally.slow, tally.calls, SLOW_PERMILLE) {
                return Some(format!(
                    "in {stage}, {} of {} calls took longer than {} µs; at most {SLOW_PERMILLE} permille may",
                    tally.slow, tally.calls, self.slow_us,
                ));
            }
        }
        if tally.compared >= config.judged_calls
            && over(tally.differing, tally.compared, config.max_disagreement_permille)
        {
            return Some(format!(
                "in {stage}, {} of {} compared calls have another first choice than the version before; at \
                 most {} permille may",
                tally.differing, tally.compared, config.max_disagreement_permille,
            ));
        }
        None
    }
}

impl Tally {
    fn add(&mut self, outcome: &Outcome, slow_us: u64) {
        let us = u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX);
        self.calls += 1;
        // Counted exactly: what the histogram says of the p99 may be an eighth too much.
        self.slow += u64::from(us > slow_us);
        self.latency.add(us);
        if let Some(cause) = outcome.fallback.filter(|cause| speaks_against(*cause)) {
            self.fallbacks += 1;
            self.last_cause = Some(cause);
        }
        if let Some(differs) = outcome.differs {
            self.compared += 1;
            self.differing += u64::from(differs);
        }
    }
}

/// Whether two answers differ in what is acted upon first.
pub fn differ(one: &Answer, other: &Answer) -> bool {
    first_row(one) != first_row(other)
}

fn first_row(answer: &Answer) -> Option<u32> {
    match answer {
        Answer::Ranked(choices) | Answer::Scheduled { peers: choices, .. } => {
            choices.first().map(|choice| choice.row)
        }
        Answer::Abstain | Answer::Invalid(_) => None,
    }
}

/// An abstention is a verdict, too, and too many rows are the node's doing. A full pool counts, since
/// calls that take too long show themselves so, and a rest counts as the failures it is for.
fn speaks_against(cause: Cause) -> bool {
    !matches!(cause, Cause::None | Cause::Abstain | Cause::Rows)
}

fn over(part: u64, whole: u64, permille: u64) -> bool {
    part * 1000 > whole * permille
}

#[cfg(test)]
mod tests;
