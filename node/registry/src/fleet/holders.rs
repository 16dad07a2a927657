//! Who holds what, as it is now, over many locks: a change of one resource is in nobody else's way.
//!
//! What a node holds comes in pages, as [`crate::holdings`] has them and shared with those, so that a
//! change costs the rows of one page.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};

use super::Holder;
use crate::demand::Resource;
use crate::holdings::{Page, Row};

/// Locks that resources are spread over, and as many for torrents.
const SHARDS: usize = 64;
/// Resources that one node may name for one torrent: naming a second one is mostly a mistake, or worse.
const MOST_CLAIMS: usize = 4;

type InfoHash = [u8; 20];

/// A resource that nodes name as the content of a torrent.
struct Claim {
    resource: Resource,
    /// Numbers of the nodes that name it, in their order.
    nodes: Vec<u32>,
    /// How many of them name no other resource for the torrent.
    voices: usize,
}

/// What nodes name as the content of one torrent; the claim that counts is in front.
///
/// Nodes may be wrong, or in wrong hands, and an info-hash does not tell its content. So what most nodes say
/// counts, and of as many what counted before: who comes later displaces nothing alone. A node has one voice,
/// and none while it names several resources, of which no more than [`MOST_CLAIMS`] are taken down: whatever a
/// node names, the claims of others stay. What the believed node names counts more than all voices.
#[derive(Default)]
struct Claims(Vec<Claim>);

impl Claims {
    fn add(&mut self, resource: &Resource, node: u32, believed: u32) {
        let before = self.of(node);
        let is_known = before.iter().any(|place| self.0[*place].resource == *resource);
        if is_known || before.len() >= MOST_CLAIMS {
            return;
        }
        if let [only] = before[..] {
            self.0[only].voices -= 1;
        }
        let voices = usize::from(before.is_empty());
        if let Some(claim) = self.0.iter_mut().find(|claim| claim.resource == *resource) {
            let place = claim.nodes.partition_point(|other| *other < node);
            claim.nodes.insert(place, node);
            claim.voices += voices;
        } else {
            if self.0.is_empty() {
                // Mostly there is one.
                self.0.reserve_exact(1);
            }
            self.0.push(Claim { resource: *resource, nodes: vec![node], voices });
        }
        self.settle(believed);
    }

    fn remove(&mut self, resource: &Resource, node: u32, believed: u32) {
        let Some(place) = self.0.iter().position(|claim| claim.resource == *resource) else { return };
        let Ok(within) = self.0[place].nodes.binary_search(&node) else { return };
        self.0[place].nodes.remove(within);
        match self.of(node)[..] {
            [] => self.0[place].voices -= 1,
            [only] => self.0[only].voices += 1,
            _ => {}
        }
        if self.0[place].nodes.is_empty() {
            self.0.remove(place);
        }
        self.settle(believed);
    }

    /// Places of the claims of a node.
    fn of(&self, node: u32) -> Vec<usize> {
        let claims = self.0.iter().enumerate();
        claims.filter(|(_, claim)| claim.nodes.binary_search(&node).is_ok()).map(|(place, _)| place).collect()
    }

    /// Puts the claim that counts in front.
    fn settle(&mut self, believed: u32) {
        let weight = |claim: &Claim| (claim.nodes.binary_search(&believed).is_ok(), claim.voices);
        let heavier = |best: usize, place: usize| {
            if weight(&self.0[place]) > weight(&self.0[best]) { place } else { best }
        };
        if let Some(best) = (0..self.0.len()).reduce(heavier) {
            self.0.swap(0, best);
        }
    }
}

pub(super) struct Holders {
    torrents: Vec<RwLock<HashMap<InfoHash, Claims>>>,
    shards: Vec<RwLock<HashMap<Resource, Arc<[Holder]>>>>,
    /// What each node holds, by its number. Held while it changes, so that two changes do not mix.
    lists: Mutex<HashMap<u32, BTreeMap<u8, Page>>>,
    /// Number of the node whose claims are believed; 0 is none.
    believed: AtomicU32,
}

impl Holders {
    pub(super) fn new() -> Self {
        Self {
            torrents: (0..SHARDS).map(|_| RwLock::default()).collect(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            lists: Mutex::default(),
            believed: AtomicU32::new(0),
        }
    }

    /// Believes the claims of a node from now on.
    pub(super) fn believe(&self, node: u32) {
        self.believed.store(node, Relaxed);
    }

    pub(super) fn of(&self, resource: &Resource) -> Arc<[Holder]> {
        self.shard(resource).read().get(resource).cloned().unwrap_or_default()
    }

    /// The resource that is the content of a torrent.
    pub(super) fn content(&self, info_hash: &InfoHash) -> Option<Resource> {
        let torrents = self.torrent(info_hash).read();
        torrents.get(info_hash)?.0.first().map(|claim| claim.resource)
    }

    /// All that a node holds, in place of what it held before.
    pub(super) fn replace(&self, node: u32, pages: BTreeMap<u8, Page>) {
        let mut lists = self.lists.lock();
        let before = lists.remove(&node).unwrap_or_default();
        for (_, gone) in before.iter().filter(|(number, _)| !pages.contains_key(*number)) {
            self.differ(node, gone, &[]);
        }
        for (number, page) in &pages {
            self.differ(node, before.get(number).map_or(&[][..], |before| &before[..]), page);
        }
        if !pages.is_empty() {
            lists.insert(node, pages);
        }
    }

    /// One page of what a node holds, in place of what was there.
    pub(super) fn replace_page(&self, node: u32, number: u8, page: Page) {
        let mut lists = self.lists.lock();
        let list = lists.entry(node).or_default();
        let before = list.remove(&number).unwrap_or_default();
        self.differ(node, &before, &page);
        if !page.is_empty() {
            list.insert(number, page);
        } else if list.is_empty() {
            lists.remove(&node);
        }
    }

    /// Both in the order of their ids.
    fn differ(&self, node: u32, before: &[Row], after: &[Row]) {
        let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (Some(old), Some(new)) => old.resource.cmp(&new.resource),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return,
            };
            let old = if order == Ordering::Greater { None } else { before.next() };
            let new = if order == Ordering::Less { None } else { after.next() };
            if old != new {
                self.change(node, old, new);
            }
        }
    }

    /// What a node has of one resource.
    fn change(&self, node: u32, before: Option<&Row>, after: Option<&Row>) {
        let Some(resource) = before.or(after).map(|row| &row.resource) else { return };
        self.set(resource, node, after.map(|row| row.holder(node)));
        let hashes = |row: Option<&Row>| row.map(|row| row.info_hashes.clone()).unwrap_or_default();
        let (before, after) = (hashes(before), hashes(after));
        after.iter().filter(|hash| !before.contains(*hash)).for_each(|hash| self.claim(hash, resource, node));
        before
            .iter()
            .filter(|hash| !after.contains(*hash))
            .for_each(|hash| self.unclaim(hash, resource, node));
    }

    fn set(&self, resource: &Resource, node: u32, holder: Option<Holder>) {
        let mut shard = self.shard(resource).write();
        let before = shard.get(resource).map_or(&[][..], |before| &before[..]);
        let (from, to) = match before.binary_search_by_key(&node, |holder| holder.node) {
            Ok(place) if holder == Some(before[place]) => return,
            Ok(place) => (place, place + 1),
            Err(place) => (place, place),
        };
        let after = before[..from].iter().copied().chain(holder).chain(before[to..].iter().copied());
        let after: Arc<[Holder]> = after.collect();
        if after.is_empty() {
            shard.remove(resource);
        } else {
            shard.insert(*resource, after);
        }
    }

    fn claim(&self, info_hash: &InfoHash, resource: &Resource, node: u32) {
        let mut torrents = self.torrent(info_hash).write();
        torrents.entry(*info_hash).or_default().add(resource, node, self.believed.load(Relaxed));
    }

    fn unclaim(&self, info_hash: &InfoHash, resource: &Resource, node: u32) {
        let mut torrents = self.torrent(info_hash).write();
        let Some(claims) = torrents.get_mut(info_hash) else { return };
        claims.remove(resource, node, self.believed.load(Relaxed));
        if claims.0.is_empty() {
            torrents.remove(info_hash);
        }
    }

    fn shard(&self, resource: &Resource) -> &RwLock<HashMap<Resource, Arc<[Holder]>>> {
        // Ids are hashes.
        &self.shards[usize::from(resource[0]) % SHARDS]
    }

    fn torrent(&self, info_hash: &InfoHash) -> &RwLock<HashMap<InfoHash, Claims>> {
        &self.torrents[usize::from(info_hash[0]) % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::fleet::Holding;
    use crate::{hex, holdings};

    const HASH: InfoHash = [0xaa; 20];

    fn resource(number: u8) -> Resource {
        [number; 32]
    }

    /// A node holds these resources, and names each as the content of the torrent.
    fn name(holders: &Holders, node: u32, resources: &[u8]) {
        let rows = resources.iter().filter_map(|number| {
            let info_hashes = vec![hex::encode(&HASH)];
            Row::of(&Holding { resource: hex::encode(&resource(*number)), info_hashes, ..Holding::default() })
        });
        holders.replace(node, holdings::pages(rows));
    }

    fn content(holders: &Holders) -> Option<u8> {
        holders.content(&HASH).map(|resource| resource[0])
    }

    fn claims(holders: &Holders) -> usize {
        holders.torrent(&HASH).read().get(&HASH).map_or(0, |claims| claims.0.len())
    }

    #[test]
    fn one_node_cannot_fill_the_table_of_a_torrent() {
        let holders = Holders::new();
        name(&holders, 1, &(10..200).collect::<Vec<_>>());
        assert_eq!((content(&holders), claims(&holders)), (Some(10), MOST_CLAIMS));
        // A node that says one thing is believed before one that says many.
        name(&holders, 2, &[5]);
        assert_eq!(content(&holders), Some(5));
        name(&holders, 2, &[]);
        name(&holders, 1, &[]);
        assert_eq!((content(&holders), claims(&holders)), (None, 0));
        assert!(holders.torrent(&HASH).read().is_empty());
    }

    #[test]
    fn as_many_false_claims_as_there_are_nodes_do_not_keep_out_what_two_say() {
        let holders = Holders::new();
        for node in 1..100 {
            name(&holders, node, &[100 + node as u8]);
        }
        assert_eq!(content(&holders), Some(101));
        name(&holders, 100, &[5]);
        name(&holders, 101, &[5]);
        assert_eq!(content(&holders), Some(5));
    }

    #[test]
    fn what_most_nodes_say_counts_and_of_as_many_what_counted_before() {
        let holders = Holders::new();
        let said = |node, number, wanted| {
            name(&holders, node, &[number]);
            assert_eq!(content(&holders), Some(wanted), "{node} says {number}");
        };
        said(1, 1, 1);
        said(2, 2, 1);
        // Again and again is once.
        said(2, 2, 1);
        said(3, 2, 2);
        said(4, 1, 2);
        said(5, 1, 1);
        said(5, 3, 1);
        // Who was wrong and says so is heard.
        said(2, 1, 1);
        said(1, 2, 1);
        said(4, 2, 2);
    }

    #[test]
    fn what_the_believed_node_names_counts() {
        let holders = Holders::new();
        holders.believe(9);
        (1..6).for_each(|node| name(&holders, node, &[2]));
        name(&holders, 9, &[1]);
        assert_eq!(content(&holders), Some(1));
        (6..8).for_each(|node| name(&holders, node, &[2]));
        assert_eq!(content(&holders), Some(1));
        name(&holders, 9, &[]);
        assert_eq!(content(&holders), Some(2));
    }

    #[test]
    fn a_node_has_one_voice_whatever_it_says_and_unsays() {
        let mut random = fastrand::Rng::with_seed(5);
        let (mut claims, mut said) = (Claims::default(), BTreeMap::<u32, BTreeSet<u8>>::new());
        for _ in 0..20_000 {
            let (node, number) = (random.u32(1..20), random.u8(0..6));
            let numbers = said.entry(node).or_default();
            if random.bool() {
                claims.add(&resource(number), node, 0);
                if numbers.len() < MOST_CLAIMS {
                    numbers.insert(number);
                }
            } else {
                claims.remove(&resource(number), node, 0);
                numbers.remove(&number);
            }
            let voices =
                |number: u8| said.values().filter(|of| of.len() == 1 && of.contains(&number)).count();
            for claim in &claims.0 {
                assert_eq!(claim.voices, voices(claim.resource[0]));
                assert!(claim.nodes.is_sorted() && !claim.nodes.is_empty());
                assert!(claim.nodes.iter().all(|node| said[node].contains(&claim.resource[0])));
            }
            let kept: usize = claims.0.iter().map(|claim| claim.nodes.len()).sum();
            assert_eq!(kept, said.values().map(BTreeSet::len).sum::<usize>());
            assert!(claims.0.iter().all(|claim| claim.voices <= claims.0[0].voices));
        }
    }
}
