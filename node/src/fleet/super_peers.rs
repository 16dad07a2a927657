//! The fleet, as the tracker sees it: which nodes serve a torrent, and where clients are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use skerry_registry::clock::now_ms;
use skerry_registry::demand::Resource;
use skerry_registry::fleet::{Fleet, Holder, Node};
use skerry_registry::{Control, hex};
use skerry_selector::Selector;
use skerry_tracker::{Held, Region, SuperPeer, SuperPeers};

/// How long what was found for a torrent is used, milliseconds.
const FRESH_MS: u64 = 500;
/// Torrents kept in each of the parts, and parts.
const MOST: usize = 4096;
const PARTS: usize = 16;
const WELL: u32 = 1000;

/// Takes a wish for so many more copies of a resource, at a time in milliseconds since 1970.
type Wish = Box<dyn Fn(&Resource, u32, u64) + Send + Sync>;
/// Tells the time, milliseconds since 1970.
type Clock = Box<dyn Fn() -> u64 + Send + Sync>;

/// The nodes of a fleet and the selector's map.
pub struct FromFleet {
    fleet: Arc<Fleet>,
    selector: Arc<Selector>,
    wish: Wish,
    clock: Clock,
    found: [Mutex<Part>; PARTS],
}

/// By info-hash and whether IPv6 was asked for.
type Part = HashMap<([u8; 20], bool), Found>;

struct Found {
    at_ms: u64,
    held: Option<Arc<Held>>,
}

impl FromFleet {
    /// Over what the registry knows; wishes for copies go to `control`.
    pub fn new(fleet: Arc<Fleet>, selector: Arc<Selector>, control: Option<Arc<Control>>) -> Self {
        let wish = move |resource: &Resource, copies: u32, now_ms: u64| {
            if let Some(control) = &control {
                control.wishes().wish(resource, "", copies, now_ms);
            }
        };
        Self::with(fleet, selector, wish, now_ms)
    }

    /// The same with wishes that go elsewhere, and another clock.
    pub fn with(
        fleet: Arc<Fleet>,
        selector: Arc<Selector>,
        wish: impl Fn(&Resource, u32, u64) + Send + Sync + 'static,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        let found = std::array::from_fn(|_| Mutex::default());
        Self { fleet, selector, wish: Box::new(wish), clock: Box::new(clock), found }
    }

    fn find(&self, info_hash: &[u8; 20], v6: bool, now_ms: u64) -> Option<Held> {
        let snapshot = self.fleet.snapshot();
        let holders = snapshot.holders_of(info_hash)?;
        let mut held = Held { length: holders.first().map_or(0, |holder| holder.length), rows: Vec::new() };
        for holder in holders.iter() {
            let Some(node) = snapshot.numbered(holder.node).filter(|node| node.alive(now_ms)) else {
                continue;
            };
            held.rows.extend(self.rows(node, holder, v6));
        }
        (!held.rows.is_empty()).then_some(held)
    }

    /// One row for each of a node's addresses of that family.
    fn rows(&self, node: &Node, holder: &Holder, v6: bool) -> Vec<SuperPeer> {
        let addresses = node.peers.iter().flat_map(|peers| &peers.addresses);
        let (mut used, mut capacity, mut well) = (0, 0, node.links.is_empty());
        for link in &node.links {
            used = link.used_kbps.saturating_add(used);
            capacity = link.capacity_kbps.saturating_add(capacity);
            well |= link.healthy;
        }
        // A node without links says nothing of what it can carry; that is not that it takes nobody.
        let capacity = if node.links.is_empty() { u64::from(u32::MAX) } else { capacity };
        let isp = node.links.iter().flat_map(|link| &link.asns).next().copied().unwrap_or(0);
        let place = Region { region: self.selector.region(&node.region), isp };
        let row = |address: &std::net::SocketAddr| SuperPeer {
            address: *address,
            place,
            used_kbps: u32::try_from(used).unwrap_or(u32::MAX),
            capacity_kbps: u32::try_from(capacity).unwrap_or(u32::MAX),
            health: if well { WELL } else { 0 },
            held: holder.permille(),
        };
        addresses.filter(|address| address.is_ipv6() == v6).map(row).collect()
    }
}

impl SuperPeers for FromFleet {
    fn of(&self, info_hash: &[u8; 20], v6: bool) -> Option<Arc<Held>> {
        let now_ms = (self.clock)();
        let part = &self.found[usize::from(info_hash[0]) % PARTS];
        let key = (*info_hash, v6);
        if let Some(found) = part.lock().get(&key)
            && now_ms.abs_diff(found.at_ms) < FRESH_MS
        {
            return found.held.clone();
        }
        // What nobody holds is told by one look, and need not be kept.
        let held = self.find(info_hash, v6, now_ms).map(Arc::new);
        let mut part = part.lock();
        if held.is_none() {
            part.remove(&key);
        } else {
            if part.len() >= MOST {
                part.retain(|_, found| now_ms.abs_diff(found.at_ms) < FRESH_MS);
            }
            if part.len() < MOST {
                part.insert(key, Found { at_ms: now_ms, held: held.clone() });
            }
        }
        held
    }

    fn region(&self, client: IpAddr) -> Region {
        let (region, isp) = self.selector.whereabouts(client, (self.clock)());
        Region { region, isp }
    }

    fn distance_us(&self, from: u32, to: u32) -> u32 {
        self.selector.distance_us(from, to)
    }

    fn known(&self, info_hash: &[u8; 20]) -> bool {
        self.fleet.snapshot().holders_of(info_hash).is_some()
    }

    fn more_copies(&self, info_hash: &[u8; 20], copies: u32) {
        let resource = self.fleet.snapshot().resource_of(info_hash);
        if let Some(resource) = resource.and_then(|id| hex::decode(&id)) {
            (self.wish)(&resource, copies, (self.clock)());
        }
    }
}
