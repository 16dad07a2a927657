//! A node's side: what it says to the control node, and when. No sockets and no clock: [`Member::next`]
//! tells what to do, [`Member::answered`] takes what came of it.
//!
//! A beat every interval registers the node and keeps it in; counts and reports go with it in batches.
//! A batch is sent until it is answered, as it was, so that it counts once. Holdings go in messages of
//! their own, when they changed: what is new since the last answer, or all of it when the control node
//! lost the thread; what is gone first, so that a list that finds no room is true as far as it goes. When the
//! control node is away everything waits, bounded, and the node tries again
//! after a time that grows and is never quite the same, so that a fleet does not come back as one. A list
//! that does not go through is told in smaller parts.
//!
//! One request at a time:
//!
//! | state | next |
//! |---|---|
//! | a request is on its way | wait for `answered` |
//! | the last one failed | wait, then beat |
//! | a beat is due, or the control node does not know the node | beat |
//! | holdings changed, and the node is known | holdings |
//! | counts or reports are many | beat |
//! | the node left, and said so | done |

mod queue;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;

use self::queue::{Batch, Queue};
use crate::fleet::{Holding, Link, Node};
use crate::message::{
    Beat, BeatAnswer, HoldingsAnswer, HoldingsReport, MOST_ASKED, MOST_HELD, MOST_REPORTS, Report,
};

/// First wait after a failure, milliseconds; every further one is twice as long.
const FIRST_WAIT_MS: u64 = 500;
/// Bounds of the longest wait, milliseconds; between them it is two intervals.
const LONGEST_WAIT_MS: (u64, u64) = (5_000, 60_000);
/// Least time between two messages of holdings that follow each other, milliseconds.
const HOLDINGS_GAP_MS: u64 = 1_000;
/// Least time between two beats that catch up with what waits, milliseconds.
const CATCH_UP_GAP_MS: u64 = 1_000;
/// Bounds of how long a beat may go unanswered, milliseconds; between them it is half an interval, so that the
/// next try still comes in time.
const BEAT_PATIENCE_MS: (u64, u64) = (1_000, 10_000);
/// Bounds of the same for holdings; between them it is an interval.
const HOLDINGS_PATIENCE_MS: (u64, u64) = (2_000, 10_000);
/// Fewest holdings that one message is cut down to.
const FEWEST_HELD: usize = 100;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send this, and tell what came of it.
    Send(Request),
    /// Nothing before this time, milliseconds since 1970, unless something is new.
    Wait(u64),
    /// The node has left.
    Done,
}

/// A POST of JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its path.
    pub path: String,
    /// Its body.
    pub body: Bytes,
    /// How long its answer may take.
    pub patience: Duration,
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status of the answer.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

/// How the last request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it should.
    Answered,
    /// The control node said no.
    Refused,
    /// There was no answer, or the control node has trouble of its own.
    Failed,
}

/// What is on its way.
enum Flight {
    Beat { leaving: bool },
    Holdings { generation: u64, resources: BTreeSet<String> },
}

/// A node in its fleet.
pub struct Member {
    node: Node,
    /// Random number of this machine.
    instance: u64,
    /// Random number of this process.
    boot: u64,
    interval_ms: u64,
    random: fastrand::Rng,
    flight: Option<Flight>,
    /// When the next beat is due.
    beat_ms: u64,
    /// When the last one was sent.
    beaten_ms: u64,
    /// When the next message of holdings may go.
    holdings_ms: u64,
    failures: u32,
    retry_ms: u64,
    /// Holdings of one message, at most.
    most_held: usize,
    /// Whether the control node answered our last beat.
    known: bool,
    leaving: bool,
    left: bool,
    held: BTreeMap<String, Holding>,
    /// Ids that are held, as the control node has not heard.
    changed: BTreeSet<String>,
    /// The same of those that are held no more.
    gone: BTreeSet<String>,
    /// Generation of the list that the control node has; `None` is none, and it gets all of it.
    acknowledged: Option<u64>,
    generation: u64,
    queue: Queue,
}

impl Member {
    /// A node that describes itself so; `node.interval_seconds` is the time between its beats. `instance`
    /// is a random number of the machine, `seed` another one for every process.
    pub fn new(node: Node, instance: u64, seed: u64, now_ms: u64) -> Self {
        Self {
            interval_ms: u64::from(node.interval_seconds.max(1)) * 1000,
            node,
            instance,
            boot: seed,
            random: fastrand::Rng::with_seed(seed),
            flight: None,
            beat_ms: now_ms,
            beaten_ms: 0,
            holdings_ms: 0,
            failures: 0,
            retry_ms: 0,
            most_held: MOST_HELD,
            known: false,
            leaving: false,
            left: false,
            held: BTreeMap::new(),
            changed: BTreeSet::new(),
            gone: BTreeSet::new(),
            acknowledged: None,
            // Another one than those of the process before.
            generation: now_ms,
            queue: Queue::default(),
        }
    }

    /// Its links as they are now.
    pub fn set_links(&mut self, links: Vec<Link>) {
        self.node.links = links;
    }

    /// Other news of the node itself; they are told with the next beat.
    pub fn describe(&mut self, change: impl FnOnce(&mut Node)) {
        change(&mut self.node);
    }

    /// Something is held, more or less of it than before.
    pub fn hold(&mut self, holding: Holding) {
        if self.held.get(&holding.resource) != Some(&holding) {
            self.gone.remove(&holding.resource);
            self.changed.insert(holding.resource.clone());
            self.held.insert(holding.resource.clone(), holding);
        }
    }

    /// Something is held no more.
    pub fn drop_holding(&mut self, resource: &str) {
        if self.held.remove(resource).is_some() {
            self.changed.remove(resource);
            self.gone.insert(resource.to_owned());
        }
    }

    /// Clients asked for a resource.
    pub fn asked(&mut self, resource: &str, requests: u32) {
        self.queue.ask(resource, requests);
    }

    /// A client reported a failed verification.
    pub fn report(&mut self, report: Report) {
        self.queue.report(report);
    }

    /// The node ends: it says so, and is done.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Whether the control node answered the last request.
    pub fn reachable(&self) -> bool {
        self.known && self.failures == 0
    }

    /// What waits to be told: holdings, counts, reports.
    pub fn waiting(&self) -> (usize, usize, usize) {
        let (asked, reports) = self.queue.len();
        (self.untold(), asked, reports)
    }

    /// Ids that the control node has not heard of.
    fn untold(&self) -> usize {
        self.changed.len() + self.gone.len()
    }

    /// Counts and reports that were dropped, since too many waited; since the call before.
    pub fn take_dropped(&mut self) -> (u64, u64) {
        self.queue.take_dropped()
    }

    /// Whether [`Member::next`] will send a beat: the time to measure links.
    pub fn beats(&self, now_ms: u64) -> bool {
        if self.flight.is_some() || self.left || now_ms < self.retry_ms {
            return false;
        }
        let waits = self.queue.is_large() && now_ms >= self.beaten_ms.saturating_add(CATCH_UP_GAP_MS);
        self.leaving || !self.known || now_ms >= self.beat_ms || waits
    }

    /// What to do now. What is to be sent is on its way with this.
    pub fn next(&mut self, now_ms: u64) -> Action {
        if self.left {
            return Action::Done;
        }
        if self.flight.is_some() {
            return Action::Wait(u64::MAX);
        }
        if now_ms < self.retry_ms {
            // Whoever ends does not wait for a control node that is away.
            return if self.leaving && self.failures > 0 {
                Action::Done
            } else {
                Action::Wait(self.retry_ms)
            };
        }
        if self.beats(now_ms) {
            return Action::Send(self.beat(now_ms));
        }
        let untold = self.acknowledged.is_none() || self.untold() > 0;
        if untold && now_ms >= self.holdings_ms {
            return Action::Send(self.report_holdings());
        }
        let mut until = self.beat_ms;
        if untold {
            until = until.min(self.holdings_ms);
        }
        if self.queue.is_large() {
            until = until.min(self.beaten_ms.saturating_add(CATCH_UP_GAP_MS));
        }
        Action::Wait(until)
    }

    /// Takes what came of the request on its way; `None` when there was no answer.
    pub fn answered(&mut self, reply: Option<&Reply>, now_ms: u64) -> Outcome {
        let Some(flight) = self.flight.take() else { return Outcome::Failed };
        let status = reply.map(|reply| reply.status);
        let taken = reply.filter(|reply| reply.status.is_success()).and_then(|reply| match &flight {
            Flight::Beat { .. } => {
                serde_json::from_slice(&reply.body).ok().map(|BeatAnswer { generation }| generation)
            }
            Flight::Holdings { .. } => {
                serde_json::from_slice(&reply.body).ok().map(|HoldingsAnswer { generation }| Some(generation))
            }
        });
        match (flight, taken) {
            (Flight::Beat { leaving }, Some(generation)) => {
                self.known = true;
                self.left = leaving;
                self.queue.told();
                if generation != self.acknowledged || generation.is_none() {
                    self.begin_anew();
                }
            }
            (Flight::Holdings { generation, .. }, Some(_)) => {
                self.acknowledged = Some(generation);
                if self.untold() == 0 {
                    self.most_held = MOST_HELD;
                    self.holdings_ms = now_ms.saturating_add(HOLDINGS_GAP_MS);
                }
            }
            (Flight::Beat { .. }, None) => self.known = false,
            (Flight::Holdings { resources, .. }, None) => {
                for resource in resources {
                    let is_held = self.held.contains_key(&resource);
                    let untold = if is_held { &mut self.changed } else { &mut self.gone };
                    untold.insert(resource);
                }
                if let Some(status) = status {
                    return self.holdings_refused(status, now_ms);
                }
                // The way may be too slow for so many.
                self.most_held = (self.most_held / 2).max(FEWEST_HELD);
            }
        }
        if taken.is_some() {
            self.failures = 0;
            self.retry_ms = 0;
            return Outcome::Answered;
        }
        self.known = false;
        let wait_ms = match status {
            // Another machine has this id. That one may be gone at any time, or be the one before a new disk.
            Some(StatusCode::CONFLICT) => self.interval_ms / 2,
            _ => self.wait_ms(),
        };
        self.retry_ms = now_ms.saturating_add(wait_ms);
        self.failures = self.failures.saturating_add(1);
        if status.is_some_and(|status| status.is_client_error()) { Outcome::Refused } else { Outcome::Failed }
    }

    /// Beats go on as they were.
    fn holdings_refused(&mut self, status: StatusCode, now_ms: u64) -> Outcome {
        match status {
            // It has another list than we thought, or does not know us any more: that is no failure. When another
            // process has this id, the next beat will tell.
            StatusCode::CONFLICT | StatusCode::NOT_FOUND => {
                self.known &= status == StatusCode::CONFLICT;
                self.holdings_ms = now_ms.saturating_add(HOLDINGS_GAP_MS);
                self.begin_anew();
                Outcome::Answered
            }
            _ => {
                self.holdings_ms = now_ms.saturating_add(self.interval_ms.max(HOLDINGS_GAP_MS));
                let is_refused = status.is_client_error() || status == StatusCode::INSUFFICIENT_STORAGE;
                if is_refused { Outcome::Refused } else { Outcome::Failed }
            }
        }
    }

    fn beat(&mut self, now_ms: u64) -> Request {
        let Batch { number, asked, reports } = self.queue.batch(MOST_ASKED, MOST_REPORTS);
        let beat = Beat {
            node: self.node.clone(),
            instance: self.instance,
            boot: self.boot,
            batch: number,
            leaving: self.leaving,
            demand: asked,
            reports,
        };
        self.flight = Some(Flight::Beat { leaving: self.leaving });
        self.beaten_ms = now_ms;
        // From one beat to the next, whenever it is answered.
        self.beat_ms = now_ms.saturating_add(self.interval_ms);
        request("nodes".to_owned(), &beat, self.interval_ms / 2, BEAT_PATIENCE_MS)
    }

    fn report_holdings(&mut self) -> Request {
        let base = self.acknowledged;
        if base.is_none() {
            // A list that begins anew has nothing to drop.
            self.gone.clear();
        }
        let mut resources = BTreeSet::new();
        let (mut held, mut dropped) = (Vec::new(), Vec::new());
        while resources.len() < self.most_held
            && let Some(resource) = self.gone.pop_first()
        {
            dropped.push(resource.clone());
            resources.insert(resource);
        }
        // What may find no room goes by itself.
        while dropped.is_empty()
            && resources.len() < self.most_held
            && let Some(resource) = self.changed.pop_first()
        {
            held.extend(self.held.get(&resource).cloned());
            resources.insert(resource);
        }
        self.generation += 1;
        let generation = self.generation;
        let report = HoldingsReport { boot: self.boot, generation, base, held, dropped };
        self.flight = Some(Flight::Holdings { generation, resources });
        let path = format!("nodes/{}/holdings", self.node.id);
        request(path, &report, self.interval_ms, HOLDINGS_PATIENCE_MS)
    }

    /// The next message begins a new list with all that is held.
    fn begin_anew(&mut self) {
        self.acknowledged = None;
        self.gone.clear();
        self.changed.extend(self.held.keys().cloned());
    }

    /// How long to wait after a failure: between half and all of a time that doubles.
    fn wait_ms(&mut self) -> u64 {
        let longest = (2 * self.interval_ms).clamp(LONGEST_WAIT_MS.0, LONGEST_WAIT_MS.1);
        let whole = FIRST_WAIT_MS.saturating_mul(1 << self.failures.min(16)).min(longest);
        self.random.u64(whole / 2..=whole)
    }
}

fn request<T: Serialize>(path: String, message: &T, patience_ms: u64, bounds: (u64, u64)) -> Request {
    let body = serde_json::to_vec(message).expect("texts and numbers can always be written");
    let path = format!("{}{path}", skerry_core::api::ROOT);
    Request {
        path,
        body: body.into(),
        patience: Duration::from_millis(patience_ms.clamp(bounds.0, bounds.1)),
    }
}

#[cfg(test)]
mod tests;
