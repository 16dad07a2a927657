//! Who holds what, as it is now, over many locks: a change of one resource is in nobody else's way.
//!
//! What a node holds comes in pages, as [`crate::holdings`] has them and shared with those, so that a
//! change costs the rows of one page.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use super::Holder;
use crate::demand::Resource;
use crate::holdings::{Page, Row};

/// Locks that resources are spread over, and as many for torrents.
const SHARDS: usize = 64;
/// Resources that are taken down for one torrent: more than one is somebody's mistake, or worse.
const MOST_CLAIMS: usize = 8;

type InfoHash = [u8; 20];

/// Resources that nodes name as the content of one torrent, and how many nodes do. The first one counts: a
/// node may say what it wants of others' torrents.
type Claims = Vec<(Resource, usize)>;

pub(super) struct Holders {
    torrents: Vec<RwLock<HashMap<InfoHash, Claims>>>,
    shards: Vec<RwLock<HashMap<Resource, Arc<[Holder]>>>>,
    /// What each node holds, by its number. Held while it changes, so that two changes do not mix.
    lists: Mutex<HashMap<u32, BTreeMap<u8, Page>>>,
}

impl Holders {
    pub(super) fn new() -> Self {
        Self {
            torrents: (0..SHARDS).map(|_| RwLock::default()).collect(),
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            lists: Mutex::default(),
        }
    }

    pub(super) fn of(&self, resource: &Resource) -> Arc<[Holder]> {
        self.shard(resource).read().get(resource).cloned().unwrap_or_default()
    }

    /// The resource that is the content of a torrent.
    pub(super) fn content(&self, info_hash: &InfoHash) -> Option<Resource> {
        let torrents = self.torrent(info_hash).read();
        torrents.get(info_hash)?.first().map(|(resource, _)| *resource)
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
        after.iter().filter(|hash| !before.contains(*hash)).for_each(|hash| self.claim(hash, resource));
        before.iter().filter(|hash| !after.contains(*hash)).for_each(|hash| self.unclaim(hash, resource));
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

    fn claim(&self, info_hash: &InfoHash, resource: &Resource) {
        let mut torrents = self.torrent(info_hash).write();
        let claims = torrents.entry(*info_hash).or_default();
        match claims.iter().position(|(other, _)| other == resource) {
            Some(place) => claims[place].1 += 1,
            None if claims.len() < MOST_CLAIMS => claims.push((*resource, 1)),
            None => {}
        }
    }

    fn unclaim(&self, info_hash: &InfoHash, resource: &Resource) {
        let mut torrents = self.torrent(info_hash).write();
        let Some(claims) = torrents.get_mut(info_hash) else { return };
        let Some(place) = claims.iter().position(|(other, _)| other == resource) else { return };
        claims[place].1 -= 1;
        if claims[place].1 == 0 {
            claims.remove(place);
        }
        if claims.is_empty() {
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
