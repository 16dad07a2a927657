//! The nodes: what each holds, what it gets from the origin, and what it does about its preload list, which
//! the preloader's own [`Plan`] decides.
//!
//! A client that asks a node for what it does not hold makes it pull the whole of it, once for all who wait.
//! What was pulled stays until others need its room, the least lately used going first; what is on the
//! node's list stays for as long as its plan says.

use std::collections::BTreeMap;

use fastrand::Rng;
use skerry_preload::{Action, HoldFailure, Limits, List, Plan, Windows};
use skerry_registry::fleet::{Holding, Link, Node as Said, PeerPort};

use super::catalogue::{Catalogue, SITE};
use super::map::{self, Map, OPERATORS};
use super::settings::Settings;
use super::{PLAN_SECONDS, STEP_MS};

/// Links of a node: the first is for anybody, the second for its operator's clients.
pub(super) const LINKS: usize = 2;
/// Time between heartbeats, milliseconds.
pub(super) const BEAT_MS: u64 = 10_000;
/// Least time between two reports of what a node holds, milliseconds.
const REPORT_MS: u64 = 120_000;
/// Resources that a node preloads at once.
const AT_ONCE: usize = 2;
/// Of what comes from the origin, the part that preloading has at most while clients wait, one in so many.
const PRELOAD_PART: f64 = 5.0;
const HOUR_MS: u64 = 3_600_000;

/// What a node has of a resource.
#[derive(Debug, Default)]
pub(super) struct Replica {
    pub(super) node: usize,
    pub(super) resource: u32,
    /// Bytes: all, and what is there.
    pub(super) length: u64,
    pub(super) bytes: u64,
    /// How fast it comes in, kilobits per second.
    pub(super) rate_kbps: f64,
    /// It comes from the origin now, and a client has asked for it.
    pulled: bool,
    wanted: bool,
    /// It is on the node's list.
    pinned: bool,
    /// Connections of clients that read it, and when the last one came or went.
    readers: u32,
    used_ms: u64,
}

impl Replica {
    /// So much of a resource, that comes in so fast.
    #[cfg(test)]
    pub(super) fn of(length: u64, bytes: u64, rate_kbps: f64) -> Self {
        Self { length, bytes, rate_kbps, ..Self::default() }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.bytes >= self.length
    }
}

/// One node.
pub(super) struct Node {
    /// What it says of itself.
    pub(super) said: Said,
    pub(super) region: u8,
    pub(super) operator: u8,
    plan: Plan,
    /// Places of its replicas, by resource.
    replicas: BTreeMap<u32, u32>,
    /// Those that come from the origin now.
    pulls: Vec<u32>,
    /// It holds something else than it has reported, and when it reported last.
    changed: bool,
    reported_ms: u64,
    /// Bytes that each link has sent since the last heartbeat, and in each hour both together.
    sent: [u64; LINKS],
    pub(super) hours: Vec<u64>,
}

impl Node {
    /// Its link for a client.
    pub(super) fn link_for(&self, region: u8, operator: u8) -> usize {
        usize::from((self.region, self.operator) == (region, operator))
    }

    /// Counts what a link has sent.
    pub(super) fn send(&mut self, link: usize, bytes: u64, time_ms: u64) {
        self.sent[link] += bytes;
        let hour = ((time_ms / HOUR_MS) as usize).min(self.hours.len() - 1);
        self.hours[hour] += bytes;
    }

    /// What it says at its next heartbeat.
    pub(super) fn beat(&mut self, now_ms: u64) -> Said {
        self.said.seen_ms = now_ms;
        for (link, sent) in self.said.links.iter_mut().zip(&mut self.sent) {
            // Bytes in milliseconds, as kilobits in seconds.
            link.used_kbps = std::mem::take(sent) * 8 / BEAT_MS;
            link.measured_at_ms = now_ms;
        }
        self.said.clone()
    }

    /// Whether it has something to report; not soon again.
    pub(super) fn reports(&mut self, now_ms: u64) -> bool {
        let reports = self.changed && now_ms.saturating_sub(self.reported_ms) >= REPORT_MS;
        if reports {
            (self.changed, self.reported_ms) = (false, now_ms);
        }
        reports
    }
}

/// All nodes. Times are milliseconds since 1970, but for those of [`Node::send`].
pub(super) struct Nodes {
    pub(super) all: Vec<Node>,
    pub(super) replicas: Vec<Replica>,
    free: Vec<u32>,
    origin_kbps: f64,
    preload_kbps: f64,
    cached_bytes: u64,
    /// Bytes from the origin that a client had asked for, and that none had.
    pub(super) pulled: u64,
    pub(super) preloaded: u64,
}

impl Nodes {
    /// Empty ones.
    pub(super) fn new(settings: &Settings, map: &Map, random: &mut Rng, now_ms: u64) -> Self {
        let node = |place: usize| {
            let region = (place % map.regions()) as u8;
            let operator = (place / map.regions() % usize::from(OPERATORS)) as u8;
            let limits = Limits {
                capacity_bytes: settings.preloaded_bytes,
                at_once: AT_ONCE,
                windows: Windows::default(),
            };
            let mut plan = Plan::new(limits, random.u64(..));
            plan.observe(plan.observing(), &[], |_| false, now_ms);
            Node {
                said: said(settings, map, place, region, operator, now_ms),
                region,
                operator,
                plan,
                replicas: BTreeMap::new(),
                pulls: Vec::new(),
                changed: false,
                reported_ms: 0,
                sent: [0; LINKS],
                hours: vec![0; settings.hours as usize],
            }
        };
        Self {
            all: (0..settings.nodes as usize).map(node).collect(),
            replicas: Vec::new(),
            free: Vec::new(),
            origin_kbps: settings.origin_kbps as f64,
            preload_kbps: settings.preload_kbps.min(settings.origin_kbps) as f64,
            cached_bytes: settings.cached_bytes,
            pulled: 0,
            preloaded: 0,
        }
    }

    /// Whether a node holds all of a resource.
    pub(super) fn holds(&self, node: usize, resource: u32) -> bool {
        let replica = self.all[node].replicas.get(&resource);
        replica.is_some_and(|place| self.replicas[*place as usize].is_complete())
    }

    /// A client reads a resource from a node: the place of the replica.
    pub(super) fn open(&mut self, node: usize, resource: u32, catalogue: &Catalogue, now_ms: u64) -> u32 {
        let place = self.replica(node, resource, catalogue);
        let replica = &mut self.replicas[place as usize];
        replica.readers += 1;
        replica.used_ms = now_ms;
        replica.wanted = true;
        self.pull(place);
        place
    }

    /// It has ended.
    pub(super) fn close(&mut self, place: u32, now_ms: u64) {
        let replica = &mut self.replicas[place as usize];
        replica.readers = replica.readers.saturating_sub(1);
        replica.used_ms = now_ms;
    }

    /// What a node holds, for its report.
    pub(super) fn holdings(&self, node: usize, catalogue: &Catalogue) -> Vec<Holding> {
        let replicas = self.all[node].replicas.values().map(|place| &self.replicas[*place as usize]);
        let complete = replicas.filter(|replica| replica.is_complete());
        let holding = |replica: &Replica| {
            let resource = catalogue.get(replica.resource);
            Holding {
                resource: resource.hex.clone(),
                length: replica.length,
                held_bytes: replica.bytes,
                complete: true,
                info_hashes: vec![resource.info_hex.clone()],
            }
        };
        complete.map(holding).collect()
    }

    /// A node gets its list.
    pub(super) fn listed(&mut self, node: usize, list: &List, catalogue: &Catalogue, now_ms: u64) {
        let plan = &mut self.all[node].plan;
        if plan.revision() != Some(list.revision.as_str()) {
            plan.listed(list.clone(), now_ms);
            self.act(node, catalogue, now_ms);
        }
    }

    /// What comes from the origin in one step. Tells which node has all of which resource now.
    pub(super) fn fetch(&mut self, catalogue: &Catalogue, now_ms: u64) -> Vec<(usize, u32)> {
        let mut complete = Vec::new();
        let (origin_kbps, preload_kbps) = (self.origin_kbps, self.preload_kbps);
        let Self { all, replicas, pulled, preloaded, .. } = self;
        for node in all.iter_mut().filter(|node| !node.pulls.is_empty()) {
            let waited = node.pulls.iter().filter(|place| replicas[**place as usize].wanted).count();
            let ahead = node.pulls.len() - waited;
            let most = if waited > 0 { origin_kbps / PRELOAD_PART } else { origin_kbps };
            let preload = if ahead > 0 { preload_kbps.min(most) } else { 0.0 };
            let each = (origin_kbps - preload) / waited.max(1) as f64;
            let each_ahead = preload / ahead.max(1) as f64;
            node.pulls.retain(|place| {
                let replica = &mut replicas[*place as usize];
                let (rate, bytes) =
                    if replica.wanted { (each, &mut *pulled) } else { (each_ahead, &mut *preloaded) };
                let came = ((rate * STEP_MS as f64 / 8.0) as u64).min(replica.length - replica.bytes);
                *bytes += came;
                replica.bytes += came;
                replica.rate_kbps = rate;
                replica.pulled = !replica.is_complete();
                if !replica.pulled {
                    complete.push(*place);
                }
                replica.pulled
            });
        }
        let told = complete.into_iter().map(|place: u32| {
            let replica = &self.replicas[place as usize];
            (replica.node, replica.resource)
        });
        let told: Vec<(usize, u32)> = told.collect();
        for (node, resource) in &told {
            self.completed(*node, *resource, catalogue, now_ms);
        }
        told
    }

    fn completed(&mut self, node: usize, resource: u32, catalogue: &Catalogue, now_ms: u64) {
        self.all[node].changed = true;
        // It may have had to make room for another one of this step.
        let Some(place) = self.all[node].replicas.get(&resource).copied() else { return };
        let replica = &mut self.replicas[place as usize];
        replica.used_ms = now_ms;
        if replica.pinned && replica.is_complete() {
            let known = catalogue.get(resource);
            self.all[node].plan.done(&source(&known.path), Ok(known.id), now_ms);
            self.act(node, catalogue, now_ms);
        }
        self.evict(node);
    }

    /// Does what the node's plan says, until there is nothing more to do.
    fn act(&mut self, node: usize, catalogue: &Catalogue, now_ms: u64) {
        loop {
            let actions = self.all[node].plan.next(now_ms, u64::MAX);
            if actions.is_empty() {
                return self.evict(node);
            }
            for action in actions {
                self.perform(node, action, catalogue, now_ms);
            }
        }
    }

    fn perform(&mut self, node: usize, action: Action, catalogue: &Catalogue, now_ms: u64) {
        match action {
            Action::Hold(item) => {
                let Some(resource) = catalogue.at(&item.path) else {
                    let failure = HoldFailure::Refused("there is no such resource".into());
                    return self.all[node].plan.done(&item.source(), Err(failure), now_ms);
                };
                let place = self.replica(node, resource, catalogue);
                let replica = &mut self.replicas[place as usize];
                replica.pinned = true;
                if replica.is_complete() {
                    let id = catalogue.get(resource).id;
                    return self.all[node].plan.done(&item.source(), Ok(id), now_ms);
                }
                if !replica.pulled {
                    replica.wanted = false;
                }
                self.pull(place);
            }
            Action::Stop(from) => {
                self.unpin(node, &from.target, catalogue);
                self.all[node].plan.done(&from, Err(HoldFailure::Stopped), now_ms);
            }
            Action::Release { item, .. } => {
                self.unpin(node, &item.path, catalogue);
                self.all[node].plan.released(&item.source(), true, now_ms);
            }
        }
    }

    /// What is not on the list any more, stays like everything else; it comes only for who asked for it.
    fn unpin(&mut self, node: usize, path: &str, catalogue: &Catalogue) {
        let found = catalogue.at(path).and_then(|resource| self.all[node].replicas.get(&resource).copied());
        let Some(place) = found else { return };
        let replica = &mut self.replicas[place as usize];
        replica.pinned = false;
        if replica.pulled && !replica.wanted {
            (replica.pulled, replica.rate_kbps) = (false, 0.0);
            self.all[node].pulls.retain(|other| *other != place);
        }
    }

    fn replica(&mut self, node: usize, resource: u32, catalogue: &Catalogue) -> u32 {
        if let Some(place) = self.all[node].replicas.get(&resource) {
            return *place;
        }
        let length = catalogue.get(resource).length;
        let replica = Replica { node, resource, length, ..Replica::default() };
        let place = match self.free.pop() {
            Some(place) => {
                self.replicas[place as usize] = replica;
                place
            }
            None => {
                self.replicas.push(replica);
                self.replicas.len() as u32 - 1
            }
        };
        self.all[node].replicas.insert(resource, place);
        place
    }

    /// What is not whole comes from the origin.
    fn pull(&mut self, place: u32) {
        let replica = &mut self.replicas[place as usize];
        if !replica.pulled && !replica.is_complete() {
            replica.pulled = true;
            self.all[replica.node].pulls.push(place);
        }
    }

    /// Makes room for what was pulled last.
    fn evict(&mut self, node: usize) {
        let Self { all, replicas, free, cached_bytes, .. } = self;
        let (node, replicas) = (&mut all[node], &*replicas);
        let at = |place: &u32| &replicas[*place as usize];
        let cached = node.replicas.values().map(at).filter(|replica| !replica.pinned);
        let mut cached: u64 = cached.map(|replica| replica.bytes).sum();
        while cached > *cached_bytes {
            let idle = |replica: &&Replica| !replica.pinned && !replica.pulled && replica.readers == 0;
            let unused = node.replicas.values().map(at).filter(idle);
            let Some(oldest) = unused.min_by_key(|replica| (replica.used_ms, replica.resource)) else {
                return;
            };
            cached -= oldest.bytes;
            node.changed |= oldest.is_complete();
            free.extend(node.replicas.remove(&oldest.resource));
        }
    }
}

fn source(path: &str) -> skerry_store::catalogue::CameFrom {
    skerry_store::catalogue::CameFrom { site: SITE.into(), target: path.into() }
}

fn said(settings: &Settings, map: &Map, place: usize, region: u8, operator: u8, now_ms: u64) -> Said {
    let asn = map::asn(region, operator);
    let link = |name: &str| Link {
        name: name.into(),
        url: format!("https://{name}.node-{place:05}.example"),
        isp: format!("AS{asn}"),
        capacity_kbps: settings.link_kbps,
        healthy: true,
        ..Link::default()
    };
    let own = Link {
        asns: vec![asn],
        prefixes: map::prefix(region, operator).into_iter().collect(),
        ..link("own")
    };
    Said {
        id: format!("node-{place:05}"),
        region: map.name(region).into(),
        roles: vec!["cache".into(), "superpeer".into()],
        links: vec![Link { isp: String::new(), ..link("any") }, own],
        peers: Some(PeerPort { addresses: vec![map::node(place)], protocols: vec!["tcp".into()] }),
        version: crate::VERSION.into(),
        capacity_bytes: settings.preloaded_bytes,
        preload_window_bytes: settings.preload_kbps * 1000 / 8 * PLAN_SECONDS,
        seen_ms: now_ms,
        interval_seconds: (BEAT_MS / 1000) as u32,
        ..Said::default()
    }
}

#[cfg(test)]
mod tests;
