//! What the tracker asks of the rest of the node: who holds what, and where clients are.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where somebody is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Region {
    /// Number of the region; 0 is unknown.
    pub region: u32,
    /// Number of the operator's autonomous system; 0 is unknown.
    pub isp: u32,
}

/// A node that serves a resource to peers: one address of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuperPeer {
    /// Where it takes connections of peers.
    pub address: SocketAddr,
    /// Its region, and the operator that this address is best for.
    pub place: Region,
    /// What it sends now, kilobits per second.
    pub used_kbps: u32,
    /// What it can send, kilobits per second; 0 when it takes nobody.
    pub capacity_kbps: u32,
    /// Health, permille; 0 is down.
    pub health: u32,
    /// How much of the resource it holds, permille.
    pub held: u32,
}

/// A resource and who holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// Its length, bytes; 0 is unknown.
    pub length: u64,
    /// Its super-peers.
    pub rows: Vec<SuperPeer>,
}

/// The fleet, as the tracker sees it. All of it is asked on the way of an announce: what is answered must
/// be at hand, and nothing may wait.
pub trait SuperPeers: Send + Sync {
    /// Who holds the resource of an info-hash and is reached at an address of that family; `None` when
    /// nobody is.
    fn of(&self, info_hash: &[u8; 20], v6: bool) -> Option<Arc<Held>>;

    /// Where a client is.
    fn region(&self, client: IpAddr) -> Region;

    /// Measured round trip between two regions, microseconds; `u32::MAX` when nobody has measured it.
    fn distance_us(&self, _from: u32, _to: u32) -> u32 {
        u32::MAX
    }

    /// Whether the fleet has the resource of an info-hash: those and no others are tracked unless
    /// `tracker.open` is set.
    fn known(&self, info_hash: &[u8; 20]) -> bool {
        self.of(info_hash, false).is_some() || self.of(info_hash, true).is_some()
    }

    /// The policy wants so many more nodes to hold the resource of an info-hash. Told at every announce
    /// that it says so of.
    fn more_copies(&self, info_hash: &[u8; 20], copies: u32);
}

/// No fleet: peers among themselves.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSuperPeers;

impl SuperPeers for NoSuperPeers {
    fn of(&self, _: &[u8; 20], _: bool) -> Option<Arc<Held>> {
        None
    }

    fn region(&self, _: IpAddr) -> Region {
        Region::default()
    }

    fn more_copies(&self, _: &[u8; 20], _: u32) {}
}
