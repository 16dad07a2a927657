//! A client's nodes: where it is, which links come into question, what the policy says of them.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use prometheus::Registry;
use skerry_policy::decisions::BUILT_IN;
use skerry_policy::rows::{Answer, Choice, Inputs, RouteRequest};
use skerry_policy::{Cause, Decided, Policies};
use skerry_registry::fleet::{Fleet, Holder, Link, Node};
use skerry_registry::prefix::Prefix;

use crate::SelectorError;
use crate::chosen::Chosen;
use crate::config::SelectorConfig;
use crate::distance::Distances;
use crate::field::{Facts, Field, Key};
use crate::files::Files;
use crate::locate::{Isp, Locator, Place};
use crate::metrics::Metrics;
use crate::names::Names;
use crate::sender::Trusted;

/// Nodes that a client is told of, at most.
const MOST_NODES: usize = 32;

/// What a selector is made of.
pub struct Parts<'a> {
    /// `[selector]`.
    pub config: SelectorConfig,
    /// Id of the node that it runs on.
    pub node: String,
    /// The nodes that there are.
    pub fleet: Arc<Fleet>,
    /// Decide.
    pub policies: Policies,
    /// Where the metrics are registered.
    pub registry: &'a Registry,
}

/// Tells clients which nodes to go to. Time and chance come as arguments.
pub struct Selector {
    pub(crate) config: SelectorConfig,
    pub(crate) node: String,
    pub(crate) locator: Locator,
    pub(crate) trusted: Trusted,
    pub(crate) files: Files,
    pub(crate) metrics: Metrics,
    isps: Names,
    distances: Distances,
    fleet: Arc<Fleet>,
    policies: Policies,
    field: ArcSwapOption<Field>,
    /// Held while a field is made.
    making: Mutex<()>,
    chosen: Chosen,
    /// Of this run: what policies see of clients tells nobody who they are.
    keyed: RandomState,
}

/// A node that a client is sent to.
#[derive(Debug, Clone)]
pub struct Routed {
    /// The node.
    pub node: Arc<Node>,
    /// Place of the link for this client in [`Node::links`].
    pub link: usize,
    /// Its share beside the others, 1 to 1000000.
    pub weight: u32,
    /// How much of the resource it holds, permille; 0 when none was asked for.
    pub held: u32,
}

impl Routed {
    /// The link for this client.
    pub fn link(&self) -> &Link {
        &self.node.links[self.link]
    }
}

/// Who decided, and why it was them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecidedBy {
    /// Name of the policy, or `built-in`.
    pub name: String,
    /// Version of the policy; `None` for the built-in verdict.
    pub version: Option<String>,
    /// `ranked` when the policy decided; else why it was not the policy, as the metrics name it:
    /// `no-policy`, `deadline`, `abstain`; `no-candidates` when there was nothing to choose from.
    pub reason: &'static str,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Route {
    /// Where the client is.
    pub place: Place,
    /// Its operator: what the place says, else that of the links whose prefix it is in.
    pub isp: Option<Isp>,
    /// Its nodes, best first, each once; none when there is none that takes clients.
    pub nodes: Vec<Routed>,
    /// Who decided.
    pub policy: DecidedBy,
}

/// What a policy is asked for a client.
pub(crate) struct Question {
    pub(crate) place: Place,
    pub(crate) isp: Option<Isp>,
    pub(crate) field: Arc<Field>,
    pub(crate) key: Key,
    pub(crate) inputs: Inputs,
    /// The link of each candidate.
    pub(crate) links: Vec<u32>,
    client: u64,
    holders: Arc<[Holder]>,
}

impl Selector {
    /// A selector; reads the files. One that cannot be read is told of in the log and left out.
    ///
    /// # Errors
    /// When metrics were registered twice.
    pub fn new(parts: Parts<'_>) -> Result<Arc<Self>, SelectorError> {
        let Parts { config, node, fleet, policies, registry } = parts;
        let locator = Locator::new(&config.regions, &config.default_region);
        let selector = Self {
            distances: Distances::new(&config.distances_us, &locator.regions),
            trusted: Trusted::new(config.trusted.clone()),
            files: Files::new(&config),
            metrics: Metrics::new(registry)?,
            isps: Names::default(),
            field: ArcSwapOption::empty(),
            making: Mutex::default(),
            chosen: Chosen::default(),
            keyed: RandomState::new(),
            config,
            node,
            locator,
            fleet,
            policies,
        };
        selector.look();
        Ok(Arc::new(selector))
    }

    /// Reads the files that changed. Takes seconds for large ones.
    pub fn look(&self) {
        self.files.look(&self.locator, &self.metrics);
    }

    /// A region's number, as policies see it; 0 is unknown. The same while the process lives.
    pub fn region(&self, name: &str) -> u32 {
        self.locator.regions.number(name)
    }

    /// Numbers of a client's region and operator, as policies see them; 0 is unknown.
    pub fn whereabouts(&self, client: IpAddr, now_ms: u64) -> (u32, u32) {
        match self.locator.numbers(client) {
            (region, 0) => {
                let field = self.field(now_ms);
                let isp = field.set(client).and_then(|set| field.isp(set));
                (region, isp.map_or(0, |isp| isp.number))
            }
            known => known,
        }
    }

    /// Round trip between two regions by their numbers, microseconds; `u32::MAX` when it is neither
    /// measured nor told by where the two are.
    pub fn distance_us(&self, one: u32, other: u32) -> u32 {
        self.distances.between(one, other, &self.locator.coordinates())
    }

    /// The nodes for a client, and for a resource where one is named by its 64 hex digits. `seed` is a
    /// random number, another one for each call.
    pub fn route(&self, client: IpAddr, resource: Option<&str>, now_ms: u64, seed: u64) -> Route {
        self.decide(self.ask(client, resource, now_ms, seed), now_ms)
    }

    /// What the policy is asked.
    pub(crate) fn ask(&self, client: IpAddr, resource: Option<&str>, now_ms: u64, seed: u64) -> Question {
        let field = self.field(now_ms);
        let (place, isp, set) = self.locate(client, &field);
        let key = Key {
            region: place.region.number,
            isp: isp.as_ref().map_or(0, |isp| isp.number),
            set,
            deep: place.deep.as_ref().map_or(0, |deep| deep.number),
        };
        let coordinates = self.locator.coordinates();
        let facts = Facts {
            distances: &self.distances,
            coordinates: &coordinates,
            chosen: &self.chosen,
            most: self.config.candidates,
        };
        let holders = resource.map(|id| field.snapshot().holders(id)).unwrap_or_default();
        let rows = field.rows(key, place.deep.as_ref(), &facts, now_ms);
        let (candidates, links) = field.holding(&rows, &holders, &facts, now_ms, seed);
        let client = self.prefix_hash(client);
        // Ids are hashes.
        let digits = resource.and_then(|id| id.get(..16));
        let request = RouteRequest {
            client,
            region: key.region,
            isp: key.isp,
            resource_hash: digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(0),
            size_bytes: holders.iter().map(|holder| holder.length).max().unwrap_or(0),
            seed,
        };
        let inputs = Inputs::RegionRouter { request, candidates };
        Question { place, isp, field, key, inputs, links, client, holders }
    }

    /// What the policy says, as nodes.
    pub(crate) fn decide(&self, question: Question, now_ms: u64) -> Route {
        let decided =
            (question.inputs.rows() > 0).then(|| self.policies.decide(&question.inputs, question.client));
        let choices: &[Choice] = match &decided {
            Some(Decided { answer: Answer::Ranked(choices), .. }) => choices,
            _ => &[],
        };
        let mut nodes: Vec<Routed> = Vec::new();
        for choice in choices {
            let index = question.links.get(choice.row as usize);
            let Some((node, link, id)) = index.and_then(|index| question.field.link(*index)) else {
                continue;
            };
            if nodes.is_empty() {
                self.chosen.note(question.key.region, id, now_ms);
            }
            // The best link of a node is the first that is named.
            if nodes.len() == MOST_NODES || nodes.iter().any(|routed| Arc::ptr_eq(&routed.node, node)) {
                continue;
            }
            let number = (id >> 32) as u32;
            let holder = question.holders.binary_search_by_key(&number, |holder| holder.node);
            let held = holder.map_or(0, |at| question.holders[at].permille());
            nodes.push(Routed { node: node.clone(), link, weight: choice.weight, held });
        }
        self.metrics.routed(question.place.source);
        if nodes.is_empty() {
            self.metrics.unrouted.inc();
        }
        Route { place: question.place, isp: question.isp, nodes, policy: decided_by(decided) }
    }

    fn locate(&self, client: IpAddr, field: &Field) -> (Place, Option<Isp>, Option<u32>) {
        let place = self.locator.place(client);
        let set = field.set(client);
        let isp = place.isp.clone().or_else(|| field.isp(set?));
        (place, isp, set)
    }

    /// The links now.
    fn field(&self, now_ms: u64) -> Arc<Field> {
        let snapshot = self.fleet.snapshot();
        let current = self.field.load_full();
        if let Some(field) = current.as_ref().filter(|field| field.fresh(snapshot.version, now_ms)) {
            return field.clone();
        }
        // While another thread makes it, one that is merely older will do.
        let usable = current.filter(|field| field.usable(now_ms));
        let _making = match (self.making.try_lock(), usable) {
            (Some(making), _) => making,
            (None, Some(field)) => return field,
            (None, None) => self.making.lock(),
        };
        let made = self.field.load_full().filter(|field| field.fresh(snapshot.version, now_ms));
        made.unwrap_or_else(|| {
            let (regions, isps) = (&self.locator.regions, &self.isps);
            let field = Arc::new(Field::new(snapshot, &self.config.roles, regions, isps, now_ms));
            self.metrics.links.set(i64::try_from(field.links()).unwrap_or(i64::MAX));
            self.field.store(Some(field.clone()));
            field
        })
    }

    /// A hash of a client's prefix (/24 or /56), keyed for this run.
    fn prefix_hash(&self, client: IpAddr) -> u64 {
        let client = client.to_canonical();
        let length = if client.is_ipv4() { 24 } else { 56 };
        self.keyed.hash_one(Prefix::of(client, length))
    }
}

fn decided_by(decided: Option<Decided>) -> DecidedBy {
    let built_in = |reason| DecidedBy { name: BUILT_IN.to_owned(), version: None, reason };
    match decided {
        None => built_in("no-candidates"),
        Some(Decided { policy: Some((name, version)), .. }) => {
            DecidedBy { name, version: Some(version), reason: "ranked" }
        }
        Some(Decided { cause: None | Some(Cause::None), .. }) => built_in("no-policy"),
        Some(Decided { cause: Some(cause), .. }) => built_in(cause.name()),
    }
}

#[cfg(test)]
pub(crate) mod tests;
