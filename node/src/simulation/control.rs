//! The control roles themselves, over a fleet that is only told of: selector, tracker, preloader, and the
//! policies that they ask. All of them get the simulated time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::Context;
use prometheus::Registry;
use skerry_policy::decisions::DecisionsConfig;
use skerry_policy::{Policies, PolicyConfig, World};
use skerry_preload::planner::{self, Planner, View};
use skerry_preload::told::{Sourced, Told};
use skerry_preload::{List, Metrics};
use skerry_registry::demand::{Demand, MOST_COUNTS};
use skerry_registry::fleet::{Fleet, Holding, Node};
use skerry_registry::wishes::{WISH_LIFE_MS, Wishes};
use skerry_registry::{MemoryKv, Snapshot};
use skerry_selector::{Route, Selector, SelectorConfig};
use skerry_tracker::tracker::{Asked, Worker};
use skerry_tracker::{Tracker, TrackerConfig};
use skerry_wire::tracker::compact;
use tempfile::TempDir;

use super::catalogue::{Catalogue, Resource, SITE};
use super::map::Map;
use super::settings::Settings;
use super::{Given, PLAN_SECONDS, START_MS};
use crate::fleet::FromFleet;

/// Longest call of a policy, milliseconds: none is late because the machine is busy, which would give
/// other figures each time.
const CALL_MS: u64 = 1000;

/// What there is to plan with.
struct Seen {
    fleet: Arc<Fleet>,
    demand: Demand,
    wishes: Wishes,
}

impl View for Seen {
    fn fleet(&self) -> Arc<Snapshot> {
        self.fleet.snapshot()
    }

    fn demand(&self) -> &Demand {
        &self.demand
    }

    fn wishes(&self) -> &Wishes {
        &self.wishes
    }
}

/// Calls of one kind.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Calls {
    pub(super) count: u64,
    /// What they took of the real time.
    pub(super) took: Duration,
}

impl Calls {
    fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let answer = call();
        self.count += 1;
        self.took += began.elapsed();
        answer
    }
}

/// The control node.
pub(super) struct Control {
    seen: Arc<Seen>,
    selector: Arc<Selector>,
    tracker: Tracker,
    worker: Worker,
    planner: Planner,
    registry: Registry,
    /// Worlds that the given policies decide.
    worlds: Vec<World>,
    clock: Arc<AtomicU64>,
    /// What more copies were wished of when that was last looked at.
    wished: BTreeSet<[u8; 32]>,
    pub(super) routes: Calls,
    pub(super) announces: Calls,
    pub(super) lists: Calls,
    // Of the coverage zone file and of compiled policies.
    _folder: TempDir,
}

impl Control {
    /// Knows the map, and no node yet.
    pub(super) fn new(
        settings: &Settings,
        map: &Map,
        catalogue: &Catalogue,
        given: &[Given],
        worker: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("skerry-simulation-").tempdir();
        let folder = folder.context("cannot make a folder for the simulation")?;
        let zones = folder.path().join("zones.json");
        std::fs::write(&zones, map.zones().to_string())
            .with_context(|| format!("cannot write {}", zones.display()))?;
        let registry = Registry::new();
        let policies = policies(&folder, given, worker, &registry)?;
        let counts = (catalogue.len() * map.regions() * 2).max(MOST_COUNTS);
        let fleet = Arc::new(Fleet::new());
        let seen =
            Arc::new(Seen { fleet: fleet.clone(), demand: Demand::new(counts), wishes: Wishes::default() });
        let clock = Arc::new(AtomicU64::new(START_MS));
        let config = SelectorConfig {
            coverage_zone_file: zones,
            distances_us: map.distances_us(),
            ..SelectorConfig::default()
        };
        let selector = Selector::new(skerry_selector::Parts {
            config,
            node: "control".to_owned(),
            fleet: fleet.clone(),
            policies: policies.clone(),
            registry: &registry,
        })?;
        let (wisher, time) = (seen.clone(), clock.clone());
        let super_peers = FromFleet::with(
            fleet,
            selector.clone(),
            move |resource, copies, now_ms| wisher.wishes.wish(resource, "", copies, now_ms),
            move || time.load(Relaxed),
        );
        let tracker = Tracker::new(skerry_tracker::Parts {
            config: TrackerConfig::default(),
            super_peers: Arc::new(super_peers),
            policies: Some(policies.clone()),
            registry: &registry,
        })?;
        let parts = planner::Parts {
            view: seen.clone(),
            policies,
            kv: Arc::new(MemoryKv::new()),
            plan_seconds: PLAN_SECONDS,
            seed: settings.seed,
            metrics: Metrics::new(&registry)?,
        };
        Ok(Self {
            worker: tracker.worker(Some(settings.seed)),
            planner: Planner::open(parts, START_MS)?,
            seen,
            selector,
            tracker,
            registry,
            worlds: given.iter().flat_map(|given| given.package.manifest.worlds.clone()).collect(),
            clock,
            wished: BTreeSet::new(),
            routes: Calls::default(),
            announces: Calls::default(),
            lists: Calls::default(),
            _folder: folder,
        })
    }

    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64 {
        self.clock.load(Relaxed)
    }

    /// It is so late, in milliseconds since the start.
    pub(super) fn set_time(&self, time_ms: u64) {
        self.clock.store(START_MS + time_ms, Relaxed);
    }

    /// Where a client is sent to.
    pub(super) fn route(&mut self, client: Ipv4Addr, resource: &Resource, seed: u64) -> Route {
        let (now_ms, selector) = (self.now_ms(), &self.selector);
        self.routes.time(|| selector.route(client.into(), Some(&resource.hex), now_ms, seed))
    }

    /// Whom a client is told of.
    pub(super) fn announce(&mut self, asked: &Asked) -> Vec<SocketAddr> {
        let now = Duration::from_millis(self.now_ms() - START_MS);
        let (tracker, worker) = (&self.tracker, &mut self.worker);
        let told = self.announces.time(|| tracker.announce(asked, now, worker));
        if told.is_err() {
            return Vec::new();
        }
        compact::v4(&self.worker.peers).collect()
    }

    /// Peers that fell silent are forgotten, in one of [`skerry_tracker::swarm::Swarms::SWEEPS`] parts.
    pub(super) fn sweep(&self) {
        self.tracker.sweep(Duration::from_millis(self.now_ms() - START_MS));
    }

    /// What nodes say of themselves.
    pub(super) fn hear(&self, nodes: Vec<Node>) {
        self.seen.fleet.hear(nodes);
    }

    /// What a node holds.
    pub(super) fn holds(&self, node: &str, holdings: &[Holding]) {
        self.seen.fleet.holds(node, holdings);
    }

    /// A client has asked for a resource.
    pub(super) fn count(&self, resource: &Resource, region: &str) {
        self.seen.demand.count(&resource.id.0, region, 1, self.now_ms());
    }

    /// A node tells where it got a resource.
    pub(super) fn learn(&self, node: &str, resource: &Resource) -> anyhow::Result<()> {
        let source = Sourced {
            resource: Some(resource.id),
            site: SITE.to_owned(),
            path: resource.path.clone(),
            length: resource.length,
            added_ms: self.now_ms(),
        };
        Ok(self.planner.told(node, Told { sources: vec![source], ..Told::default() }, self.now_ms())?)
    }

    /// What a node is to hold.
    pub(super) fn list(&mut self, node: &str) -> anyhow::Result<Arc<List>> {
        let (now_ms, planner) = (self.now_ms(), &self.planner);
        Ok(self.lists.time(|| planner.list(node, now_ms))?)
    }

    /// Whether copies of something are wished for that were not when this was asked last. Wishes that
    /// have lapsed go, as they do at a control node's ticks.
    pub(super) fn wishes_anew(&mut self) -> bool {
        let (now_ms, wishes) = (self.now_ms(), &self.seen.wishes);
        // At the beginning of time all of them stand.
        let (standing, lapsed): (Vec<_>, Vec<_>) =
            wishes.standing(0).into_iter().partition(|wish| now_ms.saturating_sub(wish.at_ms) < WISH_LIFE_MS);
        for wish in lapsed {
            wishes.wish(&wish.resource, &wish.region, 0, now_ms);
        }
        let wished: BTreeSet<[u8; 32]> = standing.into_iter().map(|wish| wish.resource).collect();
        let anew = !wished.is_subset(&self.wished);
        self.wished = wished;
        anew
    }

    /// Decisions by what decided, in each world that a given policy decides.
    pub(super) fn decisions(&self) -> BTreeMap<String, BTreeMap<String, u64>> {
        let mut decisions: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
        for ([world, by], count) in self.counters("skerry_policy_decisions_total", ["world", "by"]) {
            if count > 0 && self.worlds.iter().any(|other| other.name() == world) {
                decisions.entry(world).or_default().insert(by, count);
            }
        }
        decisions
    }

    /// Lists that were planned anew.
    pub(super) fn plans(&self) -> u64 {
        self.counters("skerry_preload_plans_total", ["verdict"]).iter().map(|(_, count)| count).sum()
    }

    /// Counters of a family: the values of some of their labels, and what was counted.
    fn counters<const N: usize>(&self, family: &str, labels: [&str; N]) -> Vec<([String; N], u64)> {
        let families = self.registry.gather();
        let metrics = families.iter().filter(|found| found.name() == family);
        let metrics = metrics.flat_map(|found| found.get_metric());
        let told = metrics.map(|metric| {
            let value = |name: &str| {
                let found = metric.get_label().iter().find(|label| label.name() == name);
                found.map(|label| label.value().to_owned()).unwrap_or_default()
            };
            (labels.map(value), metric.get_counter().get_value() as u64)
        });
        told.collect()
    }
}

/// Policies that decide for everybody from the start.
fn policies(
    folder: &TempDir,
    given: &[Given],
    worker: Option<PathBuf>,
    registry: &Registry,
) -> anyhow::Result<Policies> {
    let config = PolicyConfig {
        allow_unsigned: true,
        route_time_ms: CALL_MS,
        plan_time_ms: CALL_MS,
        schedule_time_ms: CALL_MS,
        decisions: DecisionsConfig { calls_one_in: 0, plans_one_in: 0, ..DecisionsConfig::default() },
        ..PolicyConfig::default()
    };
    let policies = Policies::new(config, &folder.path().join("policies"), worker, registry)?;
    for Given { file, package } in given {
        let taken = policies.take(package.file.to_vec()).with_context(|| file.display().to_string())?;
        for world in taken.worlds {
            // From shadow to the end, stage by stage.
            while policies.promote(world) {}
        }
    }
    Ok(policies)
}
