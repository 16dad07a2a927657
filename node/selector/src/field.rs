//! The links that clients can be sent to at a moment, and the rows that a policy chooses from.
//!
//! A [`Field`] is made of a snapshot of the fleet and lives a second at most: as long as no node of it
//! falls silent, and but a moment once there is a newer snapshot. The links that come into question for
//! a region and an operator are sought once for each field and kept ([`Rows`]); what differs from
//! request to request is only who holds the resource.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::RwLock;
use skerry_policy::rows::RouteCandidate;
use skerry_registry::fleet::{Holder, Link, Node, Snapshot};
use skerry_registry::prefix::Prefix;

use crate::chosen::Chosen;
use crate::distance::Distances;
use crate::locate::{Deep, Isp};
use crate::names::Names;
use crate::trie::{Builder, Trie};
use crate::zone::Coordinates;

/// Longest life of a field, milliseconds.
const LONGEST_MS: u64 = 1000;
/// How long a field is used when there is a newer snapshot, milliseconds.
const STALE_MS: u64 = 100;
/// Rows that are kept in a field; for further regions and operators they are sought anew.
const MOST_KEPT: usize = 4096;
/// Holders of a resource that are looked at, at most.
const MOST_HOLDERS: usize = 128;
/// A link is full from this load on, permille: where the default policy sends nobody any more.
const FULL: u64 = 950;
const WHOLE: u32 = 1000;

/// A link that can take clients.
struct Entry {
    /// Place of its node in the snapshot.
    place: u32,
    /// Its place in the node.
    link: u32,
    /// Number of its node.
    node: u32,
    /// Place of its node's region in [`Field::regions`].
    region: u32,
    /// Number of the operator that it is best for; 0 is any.
    isp: u32,
    used_kbps: u32,
    capacity_kbps: u32,
}

impl Entry {
    fn full(&self) -> bool {
        u64::from(self.used_kbps) * 1000 >= u64::from(self.capacity_kbps) * FULL
    }

    /// What it is called in [`Chosen`].
    fn id(&self) -> u64 {
        (u64::from(self.node) << 32) | u64::from(self.link)
    }
}

/// A region with nodes.
struct Region {
    number: u32,
    links: Vec<u32>,
}

/// Whose rows: clients that are alike to every link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// Number of the region.
    pub(crate) region: u32,
    /// Number of the operator; 0 is unknown.
    pub(crate) isp: u32,
    /// The links' prefix that the client is in: its place in [`Field::sets`].
    pub(crate) set: Option<u32>,
    /// Number of the deep zone; 0 is none.
    pub(crate) deep: u32,
}

/// What rows are made with.
pub(crate) struct Facts<'a> {
    pub(crate) distances: &'a Distances,
    pub(crate) coordinates: &'a HashMap<u32, Coordinates>,
    pub(crate) chosen: &'a Chosen,
    /// Rows that a policy is given, at most.
    pub(crate) most: usize,
}

/// A link's place in the order in which links come into question: less is better.
type Rank = (bool, u8, u32, u32);

/// The links that come into question for a key.
pub(crate) struct Rows {
    key: Key,
    candidates: Vec<RouteCandidate>,
    /// The link of each candidate.
    links: Vec<u32>,
    /// Distances to the field's regions, microseconds.
    distances: Vec<u32>,
    /// Of a deep zone: no others come in.
    closed: bool,
}

/// The links at a moment.
pub(crate) struct Field {
    snapshot: Arc<Snapshot>,
    made_ms: u64,
    until_ms: u64,
    entries: Vec<Entry>,
    regions: Vec<Region>,
    prefixes: Trie,
    /// Links that share a prefix.
    sets: Vec<Vec<u32>>,
    kept: RwLock<HashMap<Key, Arc<Rows>>>,
}

impl Field {
    pub(crate) fn new(
        snapshot: Arc<Snapshot>,
        roles: &[String],
        regions: &Names,
        isps: &Names,
        now_ms: u64,
    ) -> Self {
        let mut field = Self {
            made_ms: now_ms,
            until_ms: now_ms.saturating_add(LONGEST_MS),
            entries: Vec::new(),
            regions: Vec::new(),
            prefixes: Builder::default().build(),
            sets: Vec::new(),
            kept: RwLock::default(),
            snapshot,
        };
        let mut places = HashMap::new();
        let mut sets: HashMap<Prefix, Vec<u32>> = HashMap::new();
        let snapshot = field.snapshot.clone();
        for (place, node) in snapshot.nodes.iter().enumerate() {
            if !node.alive(now_ms) || !roles.iter().any(|role| node.has_role(role)) {
                continue;
            }
            field.until_ms = field.until_ms.min(node.alive_until_ms());
            let number = regions.number(&node.region);
            for (at, link) in node.links.iter().enumerate().filter(|(_, link)| takes_clients(link)) {
                let region = *places.entry(number).or_insert_with(|| {
                    field.regions.push(Region { number, links: Vec::new() });
                    field.regions.len() - 1
                });
                let index = field.entries.len() as u32;
                field.regions[region].links.push(index);
                link.prefixes.iter().for_each(|prefix| sets.entry(*prefix).or_default().push(index));
                field.entries.push(Entry {
                    place: place as u32,
                    link: at as u32,
                    node: snapshot.number(place),
                    region: region as u32,
                    isp: best_for(node, link, isps),
                    used_kbps: u32::try_from(link.used_kbps).unwrap_or(u32::MAX),
                    capacity_kbps: u32::try_from(link.capacity_kbps).unwrap_or(u32::MAX),
                });
            }
        }
        let mut prefixes = Builder::default();
        for (prefix, links) in sets {
            prefixes.add(prefix, field.sets.len() as u32);
            field.sets.push(links);
        }
        field.prefixes = prefixes.build();
        field
    }

    /// Whether no node of it has fallen silent since.
    pub(crate) fn usable(&self, now_ms: u64) -> bool {
        (self.made_ms..=self.until_ms).contains(&now_ms)
    }

    /// Whether it is as good as a new one, when the fleet's newest snapshot has this version.
    pub(crate) fn fresh(&self, version: u64, now_ms: u64) -> bool {
        let newer = version != self.snapshot.version;
        self.usable(now_ms) && !(newer && now_ms - self.made_ms >= STALE_MS)
    }

    /// How many links there are.
    pub(crate) fn links(&self) -> usize {
        self.entries.len()
    }

    /// The fleet that it was made of.
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// A link's node, its place in that node, and what it is called in [`Chosen`].
    pub(crate) fn link(&self, index: u32) -> Option<(&Arc<Node>, usize, u64)> {
        let entry = self.entries.get(index as usize)?;
        Some((self.snapshot.nodes.get(entry.place as usize)?, entry.link as usize, entry.id()))
    }

    /// The longest of the links' prefixes that a client is in.
    pub(crate) fn set(&self, client: IpAddr) -> Option<u32> {
        self.prefixes.find(client)
    }

    /// The operator that links with a prefix are best for.
    pub(crate) fn isp(&self, set: u32) -> Option<Isp> {
        let entry = self.entries.get(*self.sets.get(set as usize)?.first()? as usize)?;
        let link = self.told(entry)?;
        Some(Isp { number: entry.isp, asn: link.asns.first().copied(), name: link.isp.as_str().into() })
    }

    fn told(&self, entry: &Entry) -> Option<&Link> {
        self.snapshot.nodes.get(entry.place as usize)?.links.get(entry.link as usize)
    }

    /// The links that come into question, nearest with room first.
    pub(crate) fn rows(&self, key: Key, deep: Option<&Deep>, facts: &Facts<'_>, now_ms: u64) -> Arc<Rows> {
        if let Some(rows) = self.kept.read().get(&key) {
            return rows.clone();
        }
        let rows = Arc::new(self.seek(key, deep, facts, now_ms));
        let mut kept = self.kept.write();
        if kept.len() < MOST_KEPT {
            kept.insert(key, rows.clone());
        }
        rows
    }

    fn seek(&self, key: Key, deep: Option<&Deep>, facts: &Facts<'_>, now_ms: u64) -> Rows {
        let distance =
            |region: &Region| facts.distances.between(key.region, region.number, facts.coordinates);
        let distances = self.regions.iter().map(distance).collect();
        let mut rows = Rows { key, candidates: Vec::new(), links: Vec::new(), distances, closed: false };
        // Others than the last time among those that are alike, and the same in a replay.
        let mut random = fastrand::Rng::with_seed(self.snapshot.version ^ self.made_ms);
        let of_deep = deep.map(|deep| self.links_of(deep)).unwrap_or_default();
        let mut pool: Vec<(Rank, u32)> = Vec::new();
        let rank = |rows: &Rows, index: u32, random: &mut fastrand::Rng| {
            self.entries
                .get(index as usize)
                .map(|entry| (self.rank(rows, entry, index, random.u32(..)), index))
        };
        if of_deep.iter().any(|index| self.entries.get(*index as usize).is_some_and(|entry| !entry.full())) {
            rows.closed = true;
            pool.extend(of_deep.iter().filter_map(|index| rank(&rows, *index, &mut random)));
        } else {
            let mut order: Vec<usize> = (0..self.regions.len()).collect();
            let own = |at: usize| self.regions[at].number == key.region && key.region != 0;
            order.sort_by_cached_key(|at| (!own(*at), rows.distances[*at], random.u32(..)));
            let mut roomy = 0;
            for at in order {
                if roomy >= facts.most {
                    break;
                }
                let ranked =
                    self.regions[at].links.iter().filter_map(|index| rank(&rows, *index, &mut random));
                let before = pool.len();
                pool.extend(ranked);
                roomy += pool[before..].iter().filter(|((full, ..), _)| !full).count();
            }
        }
        pool.sort_unstable();
        pool.truncate(facts.most);
        for (_, index) in pool {
            self.push(&mut rows, index, facts, now_ms);
        }
        rows
    }

    /// Links of the nodes that serve a deep zone.
    fn links_of(&self, deep: &Deep) -> Vec<u32> {
        let serves = |entry: &Entry| {
            let node = self.snapshot.nodes.get(entry.place as usize);
            node.is_some_and(|node| deep.nodes.iter().any(|id| **id == *node.id))
        };
        let all = self.entries.iter().zip(0..);
        all.filter(|&(entry, _)| serves(entry)).map(|(_, index)| index).collect()
    }

    /// The operator that a link is best for as a client sees it: its own when the link is best for it.
    fn isp_for(&self, key: Key, entry: &Entry, index: u32) -> u32 {
        let named = || key.isp != 0 && self.told(entry).is_some_and(|link| link.asns.contains(&key.isp));
        let covered = || {
            let set = key.set.and_then(|set| self.sets.get(set as usize));
            set.is_some_and(|links| links.contains(&index))
        };
        if entry.isp != 0 && (named() || covered()) { key.isp } else { entry.isp }
    }

    /// The order is that of the default policy: links with room, of the region and for the operator, of
    /// the region and for any, by distance; what is alike by chance.
    fn rank(&self, rows: &Rows, entry: &Entry, index: u32, chance: u32) -> Rank {
        let key = rows.key;
        let in_region = key.region != 0 && self.regions[entry.region as usize].number == key.region;
        let class = match self.isp_for(key, entry, index) {
            0 if in_region => 1,
            isp if in_region && isp == key.isp => 0,
            _ if in_region => 2,
            _ => 3,
        };
        (entry.full(), class, rows.distances[entry.region as usize], chance)
    }

    fn candidate(&self, rows: &Rows, index: u32, facts: &Facts<'_>, now_ms: u64) -> Option<RouteCandidate> {
        let entry = self.entries.get(index as usize)?;
        Some(RouteCandidate {
            node: entry.node,
            region: self.regions[entry.region as usize].number,
            isp: self.isp_for(rows.key, entry, index),
            distance_us: rows.distances[entry.region as usize],
            used_kbps: entry.used_kbps,
            capacity_kbps: entry.capacity_kbps,
            health: WHOLE,
            held: 0,
            chosen_ms_ago: facts.chosen.ago(rows.key.region, entry.id(), now_ms),
        })
    }

    fn push(&self, rows: &mut Rows, index: u32, facts: &Facts<'_>, now_ms: u64) {
        if let Some(candidate) = self.candidate(rows, index, facts, now_ms) {
            rows.candidates.push(candidate);
            rows.links.push(index);
        }
    }

    /// The candidates for a resource, and the link of each: those of `rows`, with what each holds; of
    /// those that hold nothing the furthest give way to holders that are not among them, which may be
    /// half of all. `seed` picks the holders that are looked at when there are very many.
    pub(crate) fn holding(
        &self,
        rows: &Rows,
        holders: &[Holder],
        facts: &Facts<'_>,
        now_ms: u64,
        seed: u64,
    ) -> (Vec<RouteCandidate>, Vec<u32>) {
        let (mut candidates, mut links) = (rows.candidates.clone(), rows.links.clone());
        if holders.is_empty() {
            return (candidates, links);
        }
        let held = |node: u32| {
            let found = holders.binary_search_by_key(&node, |holder| holder.node);
            found.map_or(0, |at| holders[at].permille())
        };
        candidates.iter_mut().for_each(|candidate| candidate.held = held(candidate.node));
        if rows.closed {
            return (candidates, links);
        }
        let mut others = self.other_holders(rows, holders, seed);
        others.sort_unstable();
        others.truncate((facts.most / 2).max(1));
        let mut surplus = (candidates.len() + others.len()).saturating_sub(facts.most);
        for at in (0..candidates.len()).rev() {
            if surplus > 0 && candidates[at].held == 0 {
                candidates.remove(at);
                links.remove(at);
                surplus -= 1;
            }
        }
        others.truncate(others.len().saturating_sub(surplus));
        for (_, index) in others {
            if let Some(candidate) = self.candidate(rows, index, facts, now_ms) {
                candidates.push(RouteCandidate { held: held(candidate.node), ..candidate });
                links.push(index);
            }
        }
        (candidates, links)
    }

    /// Links of holders that are not among the rows, each with its rank.
    fn other_holders(&self, rows: &Rows, holders: &[Holder], seed: u64) -> Vec<(Rank, u32)> {
        let mut known = rows.links.clone();
        known.sort_unstable();
        let from = seed.checked_rem(holders.len() as u64).unwrap_or(0) as usize;
        let (before, after) = holders.split_at(from);
        let mut found = Vec::new();
        for holder in after.iter().chain(before).take(MOST_HOLDERS) {
            // Entries stand in the order of their nodes' numbers.
            let first = self.entries.partition_point(|entry| entry.node < holder.node);
            let own = self.entries[first..].iter().take_while(|entry| entry.node == holder.node);
            let indices = u32::try_from(first).unwrap_or(u32::MAX)..;
            for (entry, index) in own.zip(indices) {
                if known.binary_search(&index).is_err() {
                    // By what is held least missing, where all else is alike.
                    let missing = WHOLE - holder.permille();
                    found.push((self.rank(rows, entry, index, missing), index));
                }
            }
        }
        found
    }
}

/// Whether clients can be sent to a link.
fn takes_clients(link: &Link) -> bool {
    link.healthy && link.capacity_kbps > 0 && !link.url.is_empty()
}

/// Number of the operator that a link is best for: its first autonomous system, else a number of the
/// operator's name; 0 is any.
fn best_for(node: &Node, link: &Link, isps: &Names) -> u32 {
    if link.asns.is_empty() && link.prefixes.is_empty() {
        return 0;
    }
    if let Some(asn) = link.asns.iter().copied().find(|asn| *asn != 0) {
        return asn;
    }
    let number = match isps.number(&link.isp) {
        // Nameless: its own.
        0 => isps.number(&format!("{}/{}", node.id, link.name)),
        number => number,
    };
    // At the end of the numbers for private use (RFC 6996), where hardly anybody has his.
    u32::MAX - number
}

#[cfg(test)]
mod tests;
