//! What all lists of a while are planned with: what is asked for and where, who has it, and who is to
//! have more of it.
//!
//! A copy that is on its way counts as one: nodes are planned one after the other, and each sees what
//! those before it were told to fetch. Otherwise all nodes of a region would fetch the same.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use skerry_policy::MOST_ROWS;
use skerry_policy::rows::PlanItem;
use skerry_registry::demand::Resource;
use skerry_registry::fleet::{Holder, Node, Snapshot};
use skerry_registry::wishes::Wish;
use skerry_store::ChunkId;

use crate::known::{Known, Table};
use crate::placement;
use crate::planned::Planned;

/// Of what other regions ask for one in so many requests counts here, when only the most demanded items
/// become rows: what the default policy expects.
const FAR: u64 = 8;
/// Regions that get a number.
const MOST_REGIONS: usize = 65_536;

/// Numbers of regions, as policies see them; 0 is unknown.
#[derive(Default)]
pub(crate) struct Regions(HashMap<String, u32>);

impl Regions {
    pub(crate) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.0.get(name) {
            return *number;
        }
        if name.is_empty() || self.0.len() >= MOST_REGIONS {
            return 0;
        }
        let number = self.0.len() as u32 + 1;
        self.0.insert(name.to_owned(), number);
        number
    }
}

/// A node that can be planned for.
pub(crate) struct Live {
    pub(crate) number: u32,
    pub(crate) region: u32,
    pub(crate) node: Arc<Node>,
}

/// A resource that a node could hold.
pub(crate) struct Candidate {
    pub(crate) known: Arc<Known>,
    /// Thousandths of a request per hour by region.
    rates: Vec<(u32, u64)>,
    pub(crate) total: u64,
    holders: Arc<[Holder]>,
    /// Copies that are complete or on their way, by region.
    copies: Vec<(u32, u32)>,
}

impl Candidate {
    fn near(&self, region: u32) -> u64 {
        self.rates.iter().find(|(other, _)| *other == region).map_or(0, |(_, rate)| *rate)
    }

    fn copies_near(&self, region: u32) -> u32 {
        self.copies.iter().find(|(other, _)| *other == region).map_or(0, |(_, copies)| *copies)
    }

    fn count(&mut self, region: u32, more: bool) {
        match self.copies.iter_mut().find(|(other, _)| *other == region) {
            Some((_, copies)) if more => *copies += 1,
            Some((_, copies)) => *copies = copies.saturating_sub(1),
            None if more => self.copies.push((region, 1)),
            None => {}
        }
    }

    /// How much of it a node holds, permille.
    pub(crate) fn held(&self, node: u32) -> u32 {
        let found = self.holders.binary_search_by_key(&node, |holder| holder.node);
        found.map_or(0, |place| self.holders[place].permille())
    }

    pub(crate) fn is_complete_at(&self, node: u32) -> bool {
        self.held(node) == 1000
    }

    fn score(&self, region: u32) -> u64 {
        let near = self.near(region);
        near.saturating_add(self.total.saturating_sub(near) / FAR)
    }
}

/// Calls what it is given with every rate of requests: resource, region, thousandths per hour.
pub(crate) type Rates<'a> = dyn Fn(&mut dyn FnMut(&Resource, &str, u64)) + 'a;

/// What a round is made of.
pub(crate) struct Facts<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) table: &'a Table,
    /// Lists of nodes, by their ids.
    pub(crate) lists: &'a HashMap<String, Planned>,
    /// Calls back with every count of requests: resource, region, thousandths per hour.
    pub(crate) demand: &'a Rates<'a>,
    pub(crate) wishes: &'a [Wish],
    /// Further resources that are listed somewhere.
    pub(crate) ordered: &'a [Resource],
}

/// All of it, at a time.
#[derive(Default)]
pub(crate) struct Round {
    /// When it was made, milliseconds since 1970; `None` when it never was.
    pub(crate) made_ms: Option<u64>,
    candidates: Vec<Candidate>,
    places: HashMap<Resource, usize>,
    /// The most demanded of each region, by its number.
    tops: HashMap<u32, Vec<usize>>,
    /// What is wished for at each node, by its number.
    wished: HashMap<u32, Vec<Resource>>,
}

impl Round {
    pub(crate) fn new(facts: &Facts<'_>, regions: &mut Regions, now_ms: u64) -> Self {
        let mut round = Self { made_ms: Some(now_ms), ..Self::default() };
        (facts.demand)(&mut |resource, region, rate| {
            if rate > 0
                && let Some(place) = round.add(resource, facts)
            {
                let region = regions.number(region);
                let candidate = &mut round.candidates[place];
                candidate.total = candidate.total.saturating_add(rate);
                // Regions without a number share one.
                match candidate.rates.iter_mut().find(|(other, _)| *other == region) {
                    Some((_, before)) => *before = before.saturating_add(rate),
                    None => candidate.rates.push((region, rate)),
                }
            }
        });
        let listed = facts.lists.values().flat_map(|planned| planned.since.keys());
        let wished = facts.wishes.iter().map(|wish| &wish.resource);
        for resource in listed.chain(wished).chain(facts.ordered) {
            round.add(resource, facts);
        }
        let live: Vec<Live> = (0..facts.snapshot.nodes.len())
            .map(|place| (facts.snapshot.number(place), &facts.snapshot.nodes[place]))
            .filter(|(_, node)| node.alive(now_ms))
            .map(|(number, node)| Live { number, region: regions.number(&node.region), node: node.clone() })
            .collect();
        round.count_copies(&live, facts.lists);
        // Whoever has not asked for a list does not fetch.
        let asks: Vec<&Live> = live.iter().filter(|live| facts.lists.contains_key(&live.node.id)).collect();
        round.wished =
            placement::place(facts.wishes, &asks, facts.lists, |resource| round.candidate(resource));
        round
    }

    /// The place of a candidate, added if its source is known.
    fn add(&mut self, resource: &Resource, facts: &Facts<'_>) -> Option<usize> {
        if let Some(place) = self.places.get(resource) {
            return Some(*place);
        }
        let known = facts.table.resource(resource)?.clone();
        let holders = facts.snapshot.holders(&ChunkId(*resource).to_string());
        let place = self.candidates.len();
        self.candidates.push(Candidate { known, rates: Vec::new(), total: 0, holders, copies: Vec::new() });
        self.places.insert(*resource, place);
        Some(place)
    }

    fn count_copies(&mut self, live: &[Live], lists: &HashMap<String, Planned>) {
        let regions: HashMap<u32, u32> = live.iter().map(|live| (live.number, live.region)).collect();
        for candidate in &mut self.candidates {
            let holders = candidate.holders.clone();
            let complete = holders.iter().filter(|holder| holder.complete);
            for region in complete.filter_map(|holder| regions.get(&holder.node)) {
                candidate.count(*region, true);
            }
        }
        for live in live {
            let Some(planned) = lists.get(&live.node.id) else { continue };
            for resource in planned.since.keys() {
                self.recount(resource, live.number, live.region, true);
            }
        }
    }

    /// A node's copy is on its way from now on, or is not any more.
    fn recount(&mut self, resource: &Resource, node: u32, region: u32, more: bool) {
        let Some(place) = self.places.get(resource) else { return };
        let candidate = &mut self.candidates[*place];
        if !candidate.is_complete_at(node) {
            candidate.count(region, more);
        }
    }

    /// A node has another list now.
    pub(crate) fn relist(
        &mut self,
        node: u32,
        region: u32,
        before: &HashMap<Resource, u64>,
        after: &HashMap<Resource, u64>,
    ) {
        for gone in before.keys().filter(|resource| !after.contains_key(*resource)) {
            self.recount(gone, node, region, false);
        }
        for new in after.keys().filter(|resource| !before.contains_key(*resource)) {
            self.recount(new, node, region, true);
        }
    }

    pub(crate) fn candidate(&self, resource: &Resource) -> Option<&Candidate> {
        self.places.get(resource).map(|place| &self.candidates[*place])
    }

    /// What is wished for at a node, the most demanded first.
    pub(crate) fn wished(&self, node: u32) -> &[Resource] {
        self.wished.get(&node).map_or(&[], Vec::as_slice)
    }

    /// How many copies are wished for at all nodes.
    pub(crate) fn wished_copies(&self) -> usize {
        self.wished.values().map(Vec::len).sum()
    }

    /// What a policy chooses from for a node: what is on its list, and the most demanded of its region;
    /// without what is listed anyway.
    pub(crate) fn rows(
        &mut self,
        region: u32,
        listed: &HashMap<Resource, u64>,
        without: &HashSet<Resource>,
    ) -> Vec<Resource> {
        let mut own: Vec<Resource> = listed.keys().copied().collect();
        // A list has an order of its own in memory; a replay must not.
        own.sort_unstable();
        own.retain(|resource| !without.contains(resource) && self.places.contains_key(resource));
        let candidates = &self.candidates;
        let top = self.tops.entry(region).or_insert_with(|| top(candidates, region));
        let top = top.iter().map(|place| candidates[*place].known.resource);
        let others = top.filter(|resource| !without.contains(resource) && !listed.contains_key(resource));
        own.extend(others);
        own.truncate(MOST_ROWS);
        own
    }

    /// A row for a node. `under_way` is what it has fetched of it, permille.
    pub(crate) fn row(
        &self,
        resource: &Resource,
        (number, region): (u32, u32),
        listed: &HashMap<Resource, u64>,
        under_way: u32,
        now_ms: u64,
    ) -> PlanItem {
        let Some(candidate) = self.candidate(resource) else { return PlanItem::default() };
        let since = listed.get(resource);
        let seconds =
            |since_ms: u64| u32::try_from(now_ms.saturating_sub(since_ms) / 1000).unwrap_or(u32::MAX);
        let held = candidate.held(number).max(under_way.min(999));
        let own = u32::from(since.is_some() || candidate.is_complete_at(number));
        let (near, copies_near) = (candidate.near(region), candidate.copies_near(region));
        let copies: u32 = candidate.copies.iter().map(|(_, copies)| *copies).sum();
        PlanItem {
            size_bytes: candidate.known.length.max(1),
            demand_near: near,
            demand_far: candidate.total.saturating_sub(near),
            copies_near: copies_near.saturating_sub(own),
            copies_far: copies.saturating_sub(copies_near),
            held,
            // It is on the list, however short a while.
            listed_seconds: since.map_or(0, |since| seconds(*since).max(1)),
            age_seconds: seconds(candidate.known.first_ms),
        }
    }
}

/// The most demanded of a region, the most demanded first.
fn top(candidates: &[Candidate], region: u32) -> Vec<usize> {
    let scored = candidates.iter().enumerate().map(|(place, candidate)| (candidate.score(region), place));
    let mut scored: Vec<(u64, usize)> = scored.filter(|(score, _)| *score > 0).collect();
    let key = |&(score, place): &(u64, usize)| (std::cmp::Reverse(score), candidates[place].known.resource);
    if scored.len() > MOST_ROWS {
        scored.select_nth_unstable_by_key(MOST_ROWS, key);
        scored.truncate(MOST_ROWS);
    }
    scored.sort_unstable_by_key(key);
    scored.into_iter().map(|(_, place)| place).collect()
}
