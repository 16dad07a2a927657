//! The control node's side: what nodes say of themselves, kept and told to the other control roles.
//!
//! What is known is a projection of the store of records: a change is written, comes back through the
//! watch, and is taken from there, so that several control nodes over one engine know the same. When
//! a record cannot be written it is taken all the same, and known in memory alone: a full disk of the
//! control node must not put the fleet out. Who is thrown out is out at once, but the operator is told when
//! that is not on record.
//!
//! A node that was not heard for two of its intervals leaves the [`Fleet`] at the next tick, with its
//! holdings, and comes back with its next heartbeat; it stays on record. Who holds what is kept as
//! generations of lists, see [`crate::message`] and `control/lists.rs`. Of two machines with one id one is
//! refused: `control/rivals.rs` says which.
//!
//! Nodes are not believed about the time: what they tell of it is bounded by when it came in. `now_ms` is
//! [`crate::clock::now_ms`] throughout, but in tests and simulations.

mod lists;
mod record;
mod rivals;
mod state;
mod versions;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;

pub use self::lists::Bounds;
pub(crate) use self::record::Enrolled;
use self::record::Record;
pub use self::record::{Revoked, Standing, Told};
pub use self::rivals::Rival;
use self::rivals::Rivals;
use self::state::State;
pub use self::versions::{Group, PolicyGroup, Versions};
use crate::demand::{Demand, MOST_COUNTS};
use crate::error::{KvError, Refused};
use crate::fleet::Fleet;
use crate::kv::{Event, Kv, Life, Swept};
use crate::message::{Asked, Beat, BeatAnswer, Report};
use crate::metrics::Metrics;
use crate::pace::Limits;
use crate::reports::{Kept, Reports};
use crate::wishes::Wishes;
use crate::{hex, identity};

/// Nodes on record, at most.
pub const MOST_NODES: usize = 20_000;
/// How often counts of requests are written. They halve in a day, so this is all that a crash costs.
const DEMAND_PERIOD_MS: u64 = 600_000;
/// Oldest time of a node's report that is believed: nothing waits there for longer.
const OLDEST_REPORT_MS: u64 = 7 * 86_400_000;

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
    rivals: Rivals,
    limits: Limits,
    bounds: Bounds,
    /// What nodes run, and when it is looked at again.
    versions: Mutex<(Arc<Versions>, u64)>,
    /// Whether the last record could not be written: that is logged once.
    failing: AtomicBool,
    /// The same of taking expired ones away.
    unswept: AtomicBool,
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
        bounds: Bounds,
        metrics: Metrics,
        now_ms: u64,
    ) -> Result<Self, KvError> {
        // What this node itself holds it has verified.
        fleet.believe(owner);
        let demand = Demand::new(MOST_COUNTS);
        kv.list(&format!("demand/{owner}/"), now_ms, &mut |key, entry| {
            if demand.load(&entry.value, now_ms).is_none() {
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
            rivals: Rivals::default(),
            limits: Limits::default(),
            bounds,
            versions: Mutex::default(),
            failing: AtomicBool::new(false),
            unswept: AtomicBool::new(false),
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

    /// Whether a node may send a message of so many bytes now.
    ///
    /// # Errors
    /// [`Refused::Busy`] when it sends more than is taken.
    pub(crate) fn admit(&self, id: &str, bytes: usize, now_ms: u64) -> Result<(), Refused> {
        self.limits.message(id, bytes, now_ms)
    }

    /// Takes a heartbeat that came from an address; the first one registers the node.
    ///
    /// # Errors
    /// When the node was revoked or another machine has its id, and when the beat cannot be.
    pub fn beat(&self, beat: Beat, from: IpAddr, now_ms: u64) -> Result<BeatAnswer, Refused> {
        let taken = self.take_beat(beat, from, now_ms);
        let result = match &taken {
            Ok(_) => "taken",
            Err(Refused::Rival(_)) => "rival",
            Err(_) => "refused",
        };
        self.metrics.heartbeats.with_label_values(&[result]).inc();
        taken
    }

    fn take_beat(&self, beat: Beat, from: IpAddr, now_ms: u64) -> Result<BeatAnswer, Refused> {
        beat.check()?;
        let Beat { mut node, instance, boot, batch, leaving, demand, reports } = beat;
        let id = node.id.clone();
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.admits(&id)?;
        let is_live = state.nodes.get(&id).is_some_and(|known| known.live);
        let before = state.nodes.get(&id).map(|known| &known.record);
        if before.is_none() && state.nodes.len() >= MOST_NODES {
            return Err(Refused::Full { what: "nodes", most: MOST_NODES });
        }
        if before.is_some_and(|before| !before.lets_in(instance, boot, now_ms)) {
            // Who ends is no rival any more; it may be a last word that was long on its way.
            if !leaving {
                self.rivals.refused(&id, boot, from, now_ms);
            }
            return Err(Refused::Rival(id));
        }
        if is_live == leaving
            && let Some(list) = state.lists.of(&id)
        {
            // Who comes or goes does so with all that it holds.
            self.limits.holdings(&id, list.size().holdings, now_ms)?;
        }
        let counted = before.is_some_and(|before| before.boot == boot && before.batch >= batch);
        let gone = before.map(|before| before.gone(instance, boot)).unwrap_or_default();
        if let Some(enrolled) = state.enrolled.get(&id).filter(|enrolled| !enrolled.region.is_empty()) {
            node.region.clone_from(&enrolled.region);
        }
        node.seen_ms = now_ms;
        for link in &mut node.links {
            link.measured_at_ms = link.measured_at_ms.min(now_ms);
        }
        let region = node.region.clone();
        let generation = state.lists.of(&id).and_then(|list| list.generation);
        let record = Record { node: node.into(), instance, boot, batch, left: leaving, gone };
        self.keep(&mut state, &format!("nodes/{id}"), &json(&record), now_ms);
        drop(state);
        self.rivals.heard(&id, boot);
        if !counted {
            self.take_demand(&id, &region, demand, now_ms);
            self.take_reports(&id, reports, now_ms);
        }
        Ok(BeatAnswer { generation })
    }

    /// Takes what a node's clients asked for; more than it can have served does not count.
    fn take_demand(&self, id: &str, region: &str, mut demand: Vec<Asked>, now_ms: u64) {
        let refused = self.limits.requests(id, &mut demand, now_ms);
        self.metrics.demand_refused.inc_by(refused);
        if !demand.is_empty() && self.demand.lacks(region, now_ms) {
            let regions = self.regions();
            self.demand.keep_regions(|region| regions.contains(region), now_ms);
        }
        for asked in demand {
            if let Some(resource) = hex::decode(&asked.resource) {
                self.demand.count(&resource, region, asked.requests, now_ms);
            }
        }
    }

    /// Regions that a node on record stands in, or was enrolled for.
    fn regions(&self) -> BTreeSet<String> {
        let state = self.state.lock();
        let told = state.nodes.values().map(|known| &known.record.node.region);
        told.chain(state.enrolled.values().map(|enrolled| &enrolled.region)).cloned().collect()
    }

    /// Takes the reports of a node's clients; more than it may tell are dropped.
    fn take_reports(&self, id: &str, reports: Vec<Report>, now_ms: u64) {
        let taken = self.limits.reports(id, reports.len(), now_ms);
        self.metrics.reports.with_label_values(&["taken"]).inc_by(taken as u64);
        self.metrics.reports.with_label_values(&["refused"]).inc_by((reports.len() - taken) as u64);
        let oldest_ms = now_ms.saturating_sub(OLDEST_REPORT_MS);
        for report in reports.into_iter().take(taken) {
            let at_ms = report.at_ms.clamp(oldest_ms, now_ms);
            self.reports.take(Report { at_ms, ..report }, now_ms);
        }
    }

    /// Takes a report of a client, who may be anybody.
    ///
    /// # Errors
    /// When the report cannot be.
    pub fn report(&self, report: Report, now_ms: u64) -> Result<(), Refused> {
        let taken = report.check().map(|()| self.reports.take(report, now_ms));
        let result = if taken.is_ok() { "taken" } else { "refused" };
        self.metrics.reports.with_label_values(&[result]).inc();
        taken
    }

    /// The last reports, the newest first.
    pub fn last_reports(&self, most: usize) -> Vec<Kept> {
        self.reports.last(most)
    }

    /// Throws a node out, for good: its id is never let in again, by whatever certificate. With its links and
    /// holdings it is out of the fleet at once. Tells whether it was known.
    ///
    /// # Errors
    /// [`Refused::Unwritten`] when that cannot be written down: then it is out until this process ends.
    pub fn revoke(&self, id: &str, now_ms: u64) -> Result<bool, Refused> {
        if !identity::is_id(id) {
            return Err(Refused::field("id", identity::RULE));
        }
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        let known =
            state.nodes.contains_key(id) || state.enrolled.contains_key(id) || state.unwritten.contains(id);
        // First of all, whatever the disk says.
        let since_ms = state.deny(&self.fleet, id, now_ms);
        self.rivals.forget(id);
        let denied = self.kv.create(&format!("denied/{id}"), &json(&since_ms), Life::forever(now_ms));
        match denied {
            Ok(_) | Err(KvError::Exists(_)) => {}
            // What else is on record of it stays until this is.
            Err(source) => {
                log::error!(node = id; "revoked until this process ends, and no longer: {source}");
                self.metrics.write_failures.inc();
                state.unwritten.insert(id.to_owned());
                return Err(Refused::Unwritten { id: id.to_owned(), source });
            }
        }
        let mut keys = ["holdings", "enrolled", "nodes"].map(|table| format!("{table}/{id}")).to_vec();
        let pages = format!("holdings/{id}/");
        if let Err(error) = self.kv.list(&pages, now_ms, &mut |key, _| keys.push(key.to_owned())) {
            log::error!(node = id; "what a revoked node held stays on record: {error}");
        }
        for key in keys {
            self.discard(&mut state, &key, now_ms);
        }
        drop(state);
        log::info!(node = id; "revoked");
        Ok(known)
    }

    /// Whether an id was thrown out.
    pub fn is_denied(&self, id: &str, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.admits(id).is_err()
    }

    /// Looks at what is on record of a node's enrolment, when anything is.
    pub(crate) fn enrolled<T>(&self, id: &str, look: impl FnOnce(&Enrolled) -> T, now_ms: u64) -> Option<T> {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.enrolled.get(id).map(look)
    }

    /// Changes what is on record of a node's enrolment, when anything is; in memory alone when it cannot be
    /// written. `change` tells whether it did.
    pub(crate) fn amend(&self, id: &str, change: impl FnOnce(&mut Enrolled) -> bool, now_ms: u64) {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        let Some(mut enrolled) = state.enrolled.get(id).cloned() else { return };
        if change(&mut enrolled) {
            self.keep(&mut state, &format!("enrolled/{id}"), &json(&enrolled), now_ms);
        }
    }

    /// Machines that are refused, since another one has their id; by those ids.
    pub fn rivals(&self) -> BTreeMap<String, Rival> {
        self.rivals.all()
    }

    /// Every id that was thrown out.
    pub fn revoked(&self, now_ms: u64) -> Vec<Revoked> {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        let revoked = state.denied.iter();
        revoked.map(|(id, since_ms)| Revoked { id: id.clone(), since_ms: *since_ms }).collect()
    }

    /// Every node on record, by id.
    pub fn nodes(&self, now_ms: u64) -> Vec<Told> {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.nodes.keys().filter_map(|id| state.told(id, self.rivals.of(id), now_ms)).collect()
    }

    /// One node on record.
    pub fn node(&self, id: &str, now_ms: u64) -> Option<Told> {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.told(id, self.rivals.of(id), now_ms)
    }

    /// What time does: silent nodes leave, records expire, counts are written. A few times a second.
    pub fn tick(&self, now_ms: u64) {
        let mut state = self.state.lock();
        self.catch_up(&mut state, now_ms);
        state.expire(&self.fleet, now_ms);
        let running = self.running(&state, now_ms);
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
        let size = state.lists.size();
        drop(state);
        if let Some(running) = running {
            self.count_versions(&running);
        }
        for (name, count) in standings {
            self.metrics.nodes.with_label_values(&[name]).set(count);
        }
        self.metrics.holdings.set(size.holdings as i64);
        self.metrics.info_hashes.set(size.info_hashes as i64);
        self.metrics.demand.set(self.demand.len() as i64);
        self.metrics.rivals.set(self.rivals.sweep(now_ms) as i64);
        self.limits.sweep(now_ms);
        self.wishes.sweep(now_ms);
        match self.kv.sweep(now_ms) {
            Ok(Swept { damaged, .. }) => {
                self.unswept.store(false, Relaxed);
                self.metrics.damaged_records.inc_by(damaged as u64);
            }
            Err(error) => {
                if !self.unswept.swap(true, Relaxed) {
                    log::error!("expired records stay: {error}");
                }
            }
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
            let written = match self.demand.page(first, now_ms) {
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
                if value.is_none() {
                    // What was known in memory alone is not told of when it goes.
                    state.apply(&self.fleet, key, None, now_ms);
                }
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
