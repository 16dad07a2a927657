//! The control node's side: what each node should hold.
//!
//! A list has three parts. What operators ordered comes first; then what the scheduler wished for, at
//! the nodes that suit it best; the rest is chosen by the preload-planner policy, from what the node
//! has on its list and from what is asked for most in its region, within the capacity that is left.
//! Where the policy has no opinion its part stays as it was.
//!
//! Lists are made when nodes ask for them, one after the other, and stand for `preload.plan_seconds`,
//! unless an order or a wish comes in between. What must outlive the process (orders, sources of
//! resources, since when something is listed) is in the registry; the rest is made again. Only one
//! control node plans: the records are read at the start.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use skerry_policy::Policies;
use skerry_policy::rows::{Answer, Inputs, PlanRequest};
use skerry_registry::api::PreloadLists;
use skerry_registry::control::Control;
use skerry_registry::demand::{Demand, Resource};
use skerry_registry::fleet::{Node, Snapshot};
use skerry_registry::kv::Kv;
use skerry_registry::wishes::Wishes;
use skerry_store::ChunkId;
use skerry_store::catalogue::CameFrom;

use crate::clock::now_ms;
use crate::error::{PlanError, PreloadError, Refused};
use crate::hash::fingerprint;
use crate::item::{Item, List, MOST_ITEMS};
use crate::known::{Known, Table};
use crate::metrics::Metrics;
use crate::orders::{MOST_ORDERS, Order, Orders};
use crate::planned::Planned;
use crate::round::{Facts, Regions, Round};
use crate::told::Told;

/// Longest use of one round, milliseconds; shorter when plans are short.
const LONGEST_ROUND_MS: u64 = 60_000;
/// Rounds in the life of a plan.
const ROUNDS: u64 = 5;
/// A node that is out of the fleet and asks for nothing is forgotten in memory after so long.
const FORGOTTEN_MS: u64 = 86_400_000;

/// What the planner sees of the fleet.
pub trait View: Send + Sync + 'static {
    /// The nodes, and who holds what.
    fn fleet(&self) -> Arc<Snapshot>;

    /// What is asked for, and where.
    fn demand(&self) -> &Demand;

    /// What the scheduler wants more copies of.
    fn wishes(&self) -> &Wishes;
}

impl View for Control {
    fn fleet(&self) -> Arc<Snapshot> {
        self.fleet().snapshot()
    }

    fn demand(&self) -> &Demand {
        self.demand()
    }

    fn wishes(&self) -> &Wishes {
        self.wishes()
    }
}

/// What a planner is made of.
pub struct Parts {
    /// The fleet.
    pub view: Arc<dyn View>,
    /// Who decides.
    pub policies: Policies,
    /// Where orders, sources and lists are kept.
    pub kv: Arc<dyn Kv>,
    /// `preload.plan_seconds`.
    pub plan_seconds: u64,
    /// A random number.
    pub seed: u64,
    /// Its metrics.
    pub metrics: Metrics,
}

/// Plans what nodes hold. Calls may take as long as a policy, and write to a disk: not for threads that
/// serve clients.
pub struct Planner {
    parts: Parts,
    table: RwLock<Table>,
    orders: Orders,
    state: Mutex<State>,
}

struct State {
    round: Round,
    lists: HashMap<String, Planned>,
    regions: Regions,
    /// Lengths of what was ordered and is held nowhere yet, by nodes that have begun to fetch it.
    lengths: HashMap<CameFrom, u64>,
    random: fastrand::Rng,
}

/// A list on its way.
struct Draft {
    items: Vec<Item>,
    sources: HashSet<CameFrom>,
    resources: HashSet<Resource>,
    /// What may still be listed, and moved until the next plan, bytes.
    room: u64,
    window: u64,
}

impl Draft {
    fn add(&mut self, source: &CameFrom, known: Option<&Known>, length: u64, missing: u64) {
        if self.items.len() >= MOST_ITEMS || !self.sources.insert(source.clone()) {
            return;
        }
        self.resources.extend(known.map(|known| known.resource));
        self.room = self.room.saturating_sub(length);
        self.window = self.window.saturating_sub(missing);
        self.items.push(Item {
            resource: known.map(|known| ChunkId(known.resource)),
            site: source.site.clone(),
            path: source.target.clone(),
            length,
            priority: 0,
        });
    }
}

impl Planner {
    /// Reads what is on record.
    ///
    /// # Errors
    /// When the store of records fails.
    pub fn open(parts: Parts, now_ms: u64) -> Result<Self, PreloadError> {
        let planner = Self {
            table: RwLock::new(Table::load(&*parts.kv, now_ms)?),
            orders: Orders::load(parts.kv.clone(), now_ms)?,
            state: Mutex::new(State {
                round: Round::default(),
                lists: HashMap::new(),
                regions: Regions::default(),
                lengths: HashMap::new(),
                random: fastrand::Rng::with_seed(parts.seed),
            }),
            parts,
        };
        planner.settle();
        Ok(planner)
    }

    /// What a node should hold. A node that has left the fleet gets the list that it had.
    ///
    /// # Errors
    /// [`PlanError::Unknown`] when it never had one.
    pub fn list(&self, id: &str, now_ms: u64) -> Result<Arc<List>, PlanError> {
        let snapshot = self.parts.view.fleet();
        let Some(place) = snapshot.nodes.iter().position(|node| node.id == id) else {
            return self.told_last(id).ok_or_else(|| PlanError::Unknown(id.to_owned()));
        };
        let (number, node) = (snapshot.number(place), &snapshot.nodes[place]);
        let mut state = self.state.lock();
        let state = &mut *state;
        let region = state.regions.number(&node.region);
        if !state.lists.contains_key(id) {
            let planned = Planned::load(&*self.parts.kv, id, now_ms).unwrap_or_else(|error| {
                log::error!(node = id; "its list is planned from nothing: {error}");
                Planned::default()
            });
            state.round.relist(number, region, &HashMap::new(), &planned.since);
            state.lists.insert(id.to_owned(), planned);
        }
        if let Some(planned) = state.lists.get_mut(id) {
            planned.asked_ms = now_ms;
        }
        self.refresh(state, &snapshot, now_ms);
        let orders = self.orders.list();
        let before = state.lists.remove(id).unwrap_or_default();
        let wished = state.round.wished(number);
        let due = now_ms >= before.due_ms
            || now_ms < before.made_ms
            || !Arc::ptr_eq(&orders, &before.orders)
            || wished.iter().any(|resource| !before.wished.contains(resource));
        let planned =
            if due { self.plan(state, (number, region), node, orders, before, now_ms) } else { before };
        let list = planned.list.clone();
        state.lists.insert(id.to_owned(), planned);
        Ok(list)
    }

    /// The list that a node was told last; `None` when it was told none since this process began.
    pub fn told_last(&self, id: &str) -> Option<Arc<List>> {
        let state = self.state.lock();
        state.lists.get(id).filter(|planned| planned.due_ms > 0).map(|planned| planned.list.clone())
    }

    /// Makes a new round when the last one is old.
    fn refresh(&self, state: &mut State, snapshot: &Snapshot, now_ms: u64) {
        let life_ms = (self.parts.plan_seconds * 1000 / ROUNDS).min(LONGEST_ROUND_MS);
        let fresh = |made_ms: u64| (made_ms..made_ms.saturating_add(life_ms)).contains(&now_ms);
        if state.round.made_ms.is_some_and(fresh) {
            return;
        }
        let lives = |id: &str| snapshot.node(id).is_some_and(|node| node.alive(now_ms));
        state.lists.retain(|id, planned| now_ms.saturating_sub(planned.asked_ms) < FORGOTTEN_MS || lives(id));
        let table = self.table.read();
        let orders = self.orders.list();
        let ordered = orders.iter().filter_map(|order| table.source(&order.source()));
        let ordered: Vec<Resource> = ordered.map(|known| known.resource).collect();
        let facts = Facts {
            snapshot,
            table: &table,
            lists: &state.lists,
            demand: &|each| self.parts.view.demand().rates(now_ms, each),
            wishes: &self.parts.view.wishes().standing(now_ms),
            ordered: &ordered,
        };
        state.round = Round::new(&facts, &mut state.regions, now_ms);
        self.parts.metrics.wished.set(state.round.wished_copies() as i64);
    }

    fn plan(
        &self,
        state: &mut State,
        (number, region): (u32, u32),
        node: &Node,
        orders: Arc<Vec<Order>>,
        before: Planned,
        now_ms: u64,
    ) -> Planned {
        let table = self.table.read();
        let mut draft = Draft {
            items: Vec::new(),
            sources: HashSet::new(),
            resources: HashSet::new(),
            room: node.capacity_bytes,
            window: node.preload_window_bytes,
        };
        let round = &mut state.round;
        let missing = |round: &Round, known: &Known| {
            let held = round.candidate(&known.resource).map_or(0, |candidate| candidate.held(number));
            let fetched = before.under_way.get(&known.from).map_or(0, |item| item.received_bytes);
            let missing = u128::from(known.length) * u128::from(1000 - held) / 1000;
            u64::try_from(missing).unwrap_or(known.length).min(known.length.saturating_sub(fetched))
        };
        for order in orders.iter().filter(|order| order.is_for(&node.region)) {
            let source = order.source();
            let known = table.source(&source).map(|known| &**known);
            let length = state.lengths.get(&source).copied().unwrap_or(0);
            let (length, missing) =
                known.map_or((length, length), |known| (known.length, missing(round, known)));
            draft.add(&source, known, length, missing);
        }
        let wished = round.wished(number).to_vec();
        for known in wished.iter().filter_map(|resource| table.resource(resource)) {
            if known.length <= draft.room {
                draft.add(&known.from, Some(known), known.length, missing(round, known));
            }
        }
        let rows = round.rows(region, &before.since, &draft.resources);
        let (chosen, policy): (Vec<Resource>, _) = if rows.is_empty() {
            self.parts.metrics.plans.with_label_values(&["empty"]).inc();
            (Vec::new(), before.policy.clone())
        } else {
            let items = rows.iter().map(|resource| {
                let fetched = round.candidate(resource).and_then(|candidate| {
                    let item = before.under_way.get(&candidate.known.from)?;
                    Some(permille(item.received_bytes, candidate.known.length))
                });
                round.row(resource, (number, region), &before.since, fetched.unwrap_or(0), now_ms)
            });
            let items = items.collect();
            let request = PlanRequest {
                region,
                capacity_bytes: draft.room,
                window_bytes: draft.window,
                window_seconds: u32::try_from(self.parts.plan_seconds).unwrap_or(u32::MAX),
                seed: state.random.u64(..),
            };
            let client = fingerprint([node.id.as_bytes()]);
            let decided = self.parts.policies.decide(&Inputs::PreloadPlanner { request, items }, client);
            let (verdict, chosen) = match decided.answer {
                Answer::Ranked(choices) => {
                    let row = |row: u32| rows.get(row as usize).copied();
                    ("ranked", choices.iter().filter_map(|choice| row(choice.row)).collect())
                }
                // The list stays as it is.
                _ => ("kept", before.chosen.clone()),
            };
            self.parts.metrics.plans.with_label_values(&[verdict]).inc();
            (chosen, decided.policy)
        };
        // Whatever a policy says, and whatever was chosen when there were fewer orders, a list fits.
        let mut fitting = Vec::with_capacity(chosen.len());
        for known in chosen.iter().filter_map(|resource| table.resource(resource)) {
            if known.length <= draft.room {
                draft.add(&known.from, Some(known), known.length, 0);
                fitting.push(known.resource);
            }
        }
        let since: HashMap<Resource, u64> = draft
            .resources
            .iter()
            .map(|resource| (*resource, before.since.get(resource).copied().unwrap_or(now_ms)))
            .collect();
        round.relist(number, region, &before.since, &since);
        let kept = before.kept();
        let planned = Planned {
            list: Arc::new(List::new(draft.items)),
            chosen: fitting,
            since,
            wished: wished.into_iter().collect(),
            orders,
            made_ms: now_ms,
            due_ms: now_ms.saturating_add(self.life_ms(&mut state.random)).max(1),
            policy,
            ..before
        };
        let now_kept = planned.kept();
        if now_kept != kept
            && let Err(error) = now_kept.keep(&*self.parts.kv, &node.id, now_ms)
        {
            log::error!(node = node.id; "its list is known in memory alone: {error}");
        }
        planned
    }

    /// How long a plan stands, milliseconds: never quite the same, so that plans spread.
    fn life_ms(&self, random: &mut fastrand::Rng) -> u64 {
        let whole = self.parts.plan_seconds * 1000;
        whole - random.u64(0..=whole / 8)
    }

    /// Takes what a node tells of its sources and of its progress.
    ///
    /// # Errors
    /// When the message makes no sense. What cannot be written down is known in memory.
    pub fn told(&self, id: &str, told: Told, now_ms: u64) -> Result<(), Refused> {
        told.check()?;
        let known = told.sources.into_iter().filter_map(|source| {
            Some(Known {
                resource: source.resource?.0,
                from: CameFrom { site: source.site, target: source.path },
                length: source.length,
                first_ms: source.added_ms.min(now_ms),
                added_ms: source.added_ms.min(now_ms),
            })
        });
        let mut table = self.table.write();
        let changed: BTreeSet<u8> = known.flat_map(|known| table.learn(known)).collect();
        let written = table.keep(&changed, &*self.parts.kv, now_ms);
        self.parts.metrics.known.set(table.len() as i64);
        drop(table);
        if let Err(error) = written {
            log::error!("sources of resources are known in memory alone: {error}");
        }
        let orders = self.orders.list();
        let mut state = self.state.lock();
        if told.under_way.iter().any(|item| item.length > 0) {
            let ordered: HashSet<CameFrom> = orders.iter().map(Order::source).collect();
            let items = told.under_way.iter().filter(|item| item.length > 0);
            let lengths = items.map(|item| (item.source(), item.length));
            state.lengths.extend(lengths.filter(|(source, _)| ordered.contains(source)));
            if state.lengths.len() > MOST_ORDERS {
                state.lengths.retain(|source, _| ordered.contains(source));
            }
        }
        if let Some(planned) = state.lists.get_mut(id) {
            planned.under_way = told.under_way.into_iter().map(|item| (item.source(), item)).collect();
        }
        Ok(())
    }

    /// An operator wants something to be held.
    ///
    /// # Errors
    /// When it makes no sense, there are too many, or it cannot be written down.
    pub fn order(&self, order: Order, now_ms: u64) -> Result<Order, Refused> {
        let order = self.orders.add(order, now_ms)?;
        log::info!(site = order.site, path = order.path, region = order.region; "to be held");
        self.settle();
        Ok(order)
    }

    /// An operator takes it back.
    ///
    /// # Errors
    /// When there is no such order, or it cannot be written down.
    pub fn withdraw(&self, site: &str, path: &str, region: &str) -> Result<Order, Refused> {
        let order = self.orders.remove(site, path, region)?;
        log::info!(site, path, region; "need not be held any more");
        self.settle();
        Ok(order)
    }

    /// Brings the gauges up to date.
    pub fn settle(&self) {
        self.parts.metrics.orders.set(self.orders.list().len() as i64);
        self.parts.metrics.known.set(self.table.read().len() as i64);
    }

    /// Orders, and the nodes that lists were planned for.
    pub fn summary(&self) -> Value {
        let snapshot = self.parts.view.fleet();
        // Locked in the order in which plans lock them.
        let state = self.state.lock();
        let table = self.table.read();
        let orders = self.orders.list();
        let orders = orders.iter().map(|order| {
            let known = table.source(&order.source());
            let id = known.map(|known| ChunkId(known.resource).to_string());
            let holders = id.as_ref().map(|id| snapshot.holders(id)).unwrap_or_default();
            let complete = holders.iter().filter(|holder| holder.complete);
            json!({
                "site": order.site, "path": order.path, "region": order.region,
                "priority": order.priority, "since_ms": order.since_ms,
                "resource": id, "length": known.map(|known| known.length),
                "copies": complete.count(),
            })
        });
        let orders: Vec<Value> = orders.collect();
        let mut nodes: Vec<(&String, &Planned)> = state.lists.iter().collect();
        nodes.sort_unstable_by_key(|(id, _)| *id);
        let nodes = nodes.into_iter().map(|(id, planned)| {
            let items = &planned.list.items;
            let failing = planned.under_way.values().filter(|item| item.failure.is_some());
            json!({
                "node": id, "revision": planned.list.revision, "items": items.len(),
                "bytes": items.iter().map(|item| item.length).sum::<u64>(),
                "planned_ms": planned.made_ms, "due_ms": planned.due_ms, "asked_ms": planned.asked_ms,
                "policy": planned.policy.as_ref().map(|(name, version)| format!("{name} {version}")),
                "fetching": planned.under_way.len(), "failing": failing.count(),
            })
        });
        json!({ "orders": orders, "nodes": nodes.collect::<Vec<_>>(), "known_resources": table.len() })
    }
}

/// A part of a whole, in thousandths.
fn permille(part: u64, whole: u64) -> u32 {
    let share = u128::from(part) * 1000 / u128::from(whole.max(1));
    u32::try_from(share).unwrap_or(u32::MAX).min(1000)
}

impl PreloadLists for Planner {
    fn list(&self, node: &str) -> Option<Value> {
        Self::list(self, node, now_ms()).ok().map(|list| json!(*list))
    }

    fn told(&self, node: &str, body: &[u8]) -> Result<(), String> {
        let told: Told = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        Self::told(self, node, told, now_ms()).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
pub(crate) mod tests;
