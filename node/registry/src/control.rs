//! The control node's side: what nodes say of themselves, kept and told to the other control roles.
//!
//! What is known is a projection of the store of records: a change is written, comes back through the
//! watch, and is taken from there, so that several control nodes over one engine know the same. When
//! a record cannot be written it is taken all the same, and known in memory alone: a full disk of the
//! control node must not put the fleet out.
//!
//! A node that was not heard for two of its intervals leaves the [`Fleet`] at the next tick, with its
//! holdings, and comes back with its next heartbeat; it stays on record. Who holds what is kept as
//! generations of lists, see [`crate::message`].

mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::state::State;
use crate::demand::{Demand, MOST_COUNTS, Resource};
use crate::error::{KvError, Refused};
use crate::fleet::{Fleet, Node};
use crate::holdings::{self, MOST_OF_A_NODE, MOST_OF_A_PAGE, Row};
use crate::kv::{Event, Kv, Life};
use crate::message::{Beat, BeatAnswer, HoldingsAnswer, HoldingsReport, Report};
use crate::metrics::Metrics;
use crate::reports::{Kept, Reports};
use crate::wishes::Wishes;
use crate::{hex, identity};

/// Nodes on record, at most.
pub const MOST_NODES: usize = 20_000;
/// How often counts of requests are written. They halve in a day, so this is all that a crash costs.
const DEMAND_PERIOD_MS: u64 = 600_000;

/// What is on record of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    node: Node,
    /// The process and the batch that it sent last: a batch counts once.
    boot: u64,
    batch: u64,
    /// It said that it ends.
    left: bool,
}

/// What the operator gave a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Enrolled {
    pub(crate) region: String,
    #[serde(default)]
    pub(crate) names: Vec<String>,
    pub(crate) at_ms: u64,
}

/// Where a node stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// It is heard.
    Live,
    /// It missed its heartbeats.
    Silent,
    /// It said that it ends.
    Left,
}

/// A node as operators see it.
#[derive(Debug, Clone, Serialize)]
pub struct Told {
    /// What it said last.
    pub node: Node,
    /// Where it stands.
    pub standing: Standing,
    /// Resources that it holds something of.
    pub holdings: usize,
}

/// The registry of a control node. Calls write to a disk: not for threads that serve clients, but for
/// [`Control::demand`], [`Control::wishes`] and the [`Fleet`], which are memory.
pub struct Control {
    kv: Arc<dyn Kv>,
    fleet: Arc<Fleet>,
    /// This control node's id: whose counts it writes.
    owner: String,
    state: Mutex<State>,
    demand: Demand,
    demand_kept_ms: Mutex<u64>,
    reports: Reports,
    wishes: Wishes,
    /// Whether the last record could not be written: that is logged once.
    failing: AtomicBool,
    metrics: Metrics,
}

impl Control {
    /// Reads what is on record. `owner` is this node's id.
    ///
    /// # Errors
    /// When the store fails.
    pub fn open(
        kv: Arc<dyn Kv>,
        fleet: Arc<Fleet>,
        owner: &str,
        metrics: Metrics,
        now_ms: u64,
    ) -> Result<Self, KvError> {
        let demand = Demand::new(MOST_COUNTS);
        kv.list(&format!("demand/{owner}/"), now_ms, &mut |key, entry| {
            if demand.load(&entry.value).is_none() {
                log::warn!(key; "counts of requests are left out, since they cannot be read");
            }
        })?;
        demand.take_changed();
        let control = Self {
            state: Mutex::new(State::new(kv.watch(""))),
            reports: Reports::load(kv.clone(), now_ms)?,
            kv,
            fleet,
            owner: owner.to_owned(),
            demand,
            demand_kept_ms: Mutex::new(now_ms),
            wishes: Wishes::default(),
            failing: AtomicBool::new(false),
            metrics,
        };
        control.state.lock().read_all(&*control.kv, &control.fleet, now_ms)?;
        Ok(control)
    }

    /// The nodes, as the other control roles read them.
    pub fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    /// What is asked for, and where.
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// What the scheduler wants more copies of.
    pub fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    /// The store of records, for what other control roles keep under words of their own.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.kv
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Takes a heartbeat; the first one registers the node.
    ///
    /// # Errors
    /// When the node was revoked, or the beat cannot be.
    pub fn beat(&self, beat: Beat, now_ms: u64) -> Result<BeatAnswer, Refused> {
        let taken = self.take_beat(beat, now_ms);
        let result = if taken.is_ok() { "taken" } else { "refused" };
        self.metrics.heartbeats.with_label_values(&[result]).inc();
        taken
    }

    fn take_beat(&self, beat: Beat, now_ms: u64) -> Result<BeatAnswer, Refused> {
        beat.check()?;
        let Beat { mut node, boot, batch, leaving, demand, reports } = beat;
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.admits(&node.id)?;
        let before = state.nodes.get(&node.id);
        if before.is_none() && state.nodes.len() >= MOST_NODES {
            return Err(Refused::Full { what: "nodes", most: MOST_NODES });
        }
        let counted = before.is_some_and(|known| known.record.boot == boot && known.record.batch >= batch);
        if let Some(enrolled) = state.enrolled.get(&node.id).filter(|enrolled| !enrolled.region.is_empty()) {
            node.region.clone_from(&enrolled.region);
        }
        node.seen_ms = now_ms;
        let (key, region) = (format!("nodes/{}", node.id), node.region.clone());
        let generation = state.holdings.get(&node.id).and_then(|holdings| holdings.generation);
        self.keep(&mut state, &key, &json(&Record { node, boot, batch, left: leaving }), now_ms);
        drop(state);
        if !counted {
            for asked in demand {
                if let Some(resource) = hex::decode(&asked.resource) {
                    self.demand.count(&resource, &region, asked.requests, now_ms);
                }
            }
            for report in reports {
                self.metrics.reports.with_label_values(&["taken"]).inc();
                self.reports.take(report, now_ms);
            }
        }
        Ok(BeatAnswer { generation })
    }

    /// Takes what a node holds, or what has changed in it.
    ///
    /// # Errors
    /// [`Refused::Unknown`] when it has not registered, [`Refused::Generation`] when the report goes on
    /// from a list that is not here, and when it was revoked or the report cannot be.
    pub fn holdings(
        &self,
        id: &str,
        report: &HoldingsReport,
        now_ms: u64,
    ) -> Result<HoldingsAnswer, Refused> {
        report.check()?;
        let held: Vec<Row> = report.held.iter().filter_map(Row::of).collect();
        let dropped: Vec<Resource> = report.dropped.iter().filter_map(|id| hex::decode(id)).collect();
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.admits(id)?;
        if !state.nodes.contains_key(id) {
            return Err(Refused::Unknown(id.to_owned()));
        }
        let known = state.holdings.entry(id.to_owned()).or_default();
        if report.base.is_some() && report.base != known.generation {
            return Err(Refused::Generation);
        }
        let anew = report.base.is_none();
        if !anew && known.len() + held.len() > MOST_OF_A_NODE {
            return Err(Refused::Full { what: "holdings of a node", most: MOST_OF_A_NODE });
        }
        let pages = known.changed(anew, &held, &dropped);
        if pages.values().any(|page| page.len() > MOST_OF_A_PAGE) {
            return Err(Refused::Full { what: "holdings whose ids begin alike", most: MOST_OF_A_PAGE });
        }
        let mut is_whole = true;
        for (number, page) in pages {
            let key = format!("holdings/{id}/{number:02x}");
            is_whole &= match page.is_empty() {
                true => self.discard(&mut state, &key, now_ms),
                false => self.keep(&mut state, &key, &holdings::pack(&page), now_ms),
            };
        }
        // The generation comes last: a list that was cut short, by a crash or a full disk, is sent again
        // after the next start.
        let key = format!("holdings/{id}");
        let generation = json(&report.generation);
        if is_whole {
            self.keep(&mut state, &key, &generation, now_ms);
        } else {
            self.discard(&mut state, &key, now_ms);
            state.apply(&self.fleet, &key, Some(&generation), now_ms);
        }
        Ok(HoldingsAnswer { generation: report.generation })
    }

    /// Takes a report of a client, who may be anybody.
    ///
    /// # Errors
    /// [`Refused::Busy`] when too many come, and when the report cannot be.
    pub fn report(&self, report: Report, now_ms: u64) -> Result<(), Refused> {
        let taken = report.check().and_then(|()| self.reports.take_limited(report, now_ms));
        let result = if taken.is_ok() { "taken" } else { "refused" };
        self.metrics.reports.with_label_values(&[result]).inc();
        taken
    }

    /// The last reports, the newest first.
    pub fn last_reports(&self, most: usize) -> Vec<Kept> {
        self.reports.last(most)
    }

    /// Throws a node out, for good: its id is never let in again. Tells whether it was known.
    ///
    /// # Errors
    /// When it cannot be written down: then it may come back after a restart.
    pub fn revoke(&self, id: &str, now_ms: u64) -> Result<bool, Refused> {
        if !identity::is_id(id) {
            return Err(Refused::field("id", identity::RULE));
        }
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        let known = state.nodes.contains_key(id) || state.enrolled.contains_key(id);
        let denied = self.kv.create(&format!("denied/{id}"), &json(&now_ms), Life::forever(now_ms));
        match denied {
            Ok(_) | Err(KvError::Exists(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.catch_up(&mut state, now_ms);
        let pages = state.holdings.get(id).map(holdings::Holdings::numbers).unwrap_or_default();
        for number in pages {
            self.discard(&mut state, &format!("holdings/{id}/{number:02x}"), now_ms);
        }
        for table in ["holdings", "enrolled", "nodes"] {
            self.discard(&mut state, &format!("{table}/{id}"), now_ms);
        }
        log::info!(node = id; "revoked");
        Ok(known)
    }

    /// Whether an id was thrown out.
    pub fn is_denied(&self, id: &str, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.admits(id).is_err()
    }

    /// Every node on record, by id.
    pub fn nodes(&self, now_ms: u64) -> Vec<Told> {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.nodes.keys().filter_map(|id| state.told(id, now_ms)).collect()
    }

    /// One node on record.
    pub fn node(&self, id: &str, now_ms: u64) -> Option<Told> {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.told(id, now_ms)
    }

    /// What time does: silent nodes leave, records expire, counts are written. A few times a second.
    pub fn tick(&self, now_ms: u64) {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.expire(&self.fleet, now_ms);
        let mut standings: BTreeMap<&str, i64> =
            [("live", 0), ("silent", 0), ("left", 0), ("denied", state.denied.len() as i64)].into();
        for known in state.nodes.values() {
            let name = match known.standing(now_ms) {
                Standing::Live => "live",
                Standing::Silent => "silent",
                Standing::Left => "left",
            };
            *standings.entry(name).or_default() += 1;
        }
        let holdings: usize = state.holdings.values().map(holdings::Holdings::len).sum();
        drop(state);
        for (name, count) in standings {
            self.metrics.nodes.with_label_values(&[name]).set(count);
        }
        self.metrics.holdings.set(holdings as i64);
        self.metrics.demand.set(self.demand.len() as i64);
        self.wishes.sweep(now_ms);
        if let Err(error) = self.kv.sweep(now_ms) {
            log::error!("expired records stay: {error}");
        }
        let due = {
            let mut kept_ms = self.demand_kept_ms.lock();
            let due = now_ms.saturating_sub(*kept_ms) >= DEMAND_PERIOD_MS;
            if due {
                *kept_ms = now_ms;
            }
            due
        };
        if due {
            self.keep_demand(now_ms);
        }
    }

    /// Writes the counts of requests that changed; at the end of a node, too.
    pub fn keep_demand(&self, now_ms: u64) {
        for first in self.demand.take_changed() {
            let key = format!("demand/{}/{first:02x}", self.owner);
            let written = match self.demand.page(first) {
                Some(page) => self.kv.put(&key, &page, Life::forever(now_ms)).map(drop),
                None => self.kv.delete(&key).map(drop),
            };
            if let Err(error) = written {
                log::error!("counts of requests are not on record: {error}");
                return;
            }
        }
    }

    /// Takes what was written, here or by another control node.
    fn catch_up(&self, state: &mut State, now_ms: u64) {
        while let Some(event) = state.watch.try_next() {
            match event {
                Event::Change(change) => {
                    state.apply(&self.fleet, &change.key, change.value.as_deref(), now_ms);
                }
                Event::Lagged => {
                    if let Err(error) = state.read_all(&*self.kv, &self.fleet, now_ms) {
                        log::error!("what others wrote is not known: {error}");
                    }
                }
            }
        }
    }

    /// Writes a record; false when it is known in memory alone.
    fn keep(&self, state: &mut State, key: &str, value: &[u8], now_ms: u64) -> bool {
        let written = self.kv.put(key, value, Life::forever(now_ms)).map(drop);
        self.written(state, key, Some(value), written, now_ms)
    }

    /// Removes a record; false when it is gone in memory alone.
    fn discard(&self, state: &mut State, key: &str, now_ms: u64) -> bool {
        let written = self.kv.delete(key).map(drop);
        self.written(state, key, None, written, now_ms)
    }

    fn written(
        &self,
        state: &mut State,
        key: &str,
        value: Option<&[u8]>,
        written: Result<(), KvError>,
        now_ms: u64,
    ) -> bool {
        match written {
            Ok(()) => {
                self.failing.store(false, Relaxed);
                self.catch_up(state, now_ms);
                true
            }
            Err(error) => {
                self.metrics.write_failures.inc();
                if !self.failing.swap(true, Relaxed) {
                    log::error!(key; "what nodes say is known in memory alone: {error}");
                }
                state.apply(&self.fleet, key, value, now_ms);
                false
            }
        }
    }
}

/// A record as it is kept.
pub(crate) fn json<T: Serialize>(record: &T) -> Bytes {
    serde_json::to_vec(record).expect("texts and numbers can always be written").into()
}

#[cfg(test)]
mod tests;
